"""docs/cli.md and docs/api.md name what there is, and nothing else."""

import dataclasses
import inspect
import re
from pathlib import Path

import click
import pytest

import ipucc
from ipucc.cli.main import cli

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("verb", list(cli.commands))
def test_the_page_names_every_option(verb):
    page = (DOCS / "cli.md").read_text()
    assert f"ipucc {verb}" in page
    for option in cli.commands[verb].params:
        if isinstance(option, click.Option):
            assert any(f"{spelling}" in page for spelling in option.opts), option.opts


def test_the_page_names_no_other_option():
    known = {s for verb in cli.commands.values() for p in verb.params for s in p.opts} | {"--help"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", (DOCS / "cli.md").read_text()))
    assert named <= known


def test_the_page_names_every_schema():
    page = (DOCS / "cli.md").read_text()
    used = set()
    for source in (Path(__file__).parents[2] / "ipucc" / "cli").glob("*.py"):
        used |= set(re.findall(r'"(ipucc\.[a-z-]+/\d+)"', source.read_text()))
    assert used == set(re.findall(r"ipucc\.[a-z-]+/\d+", page))


def test_the_python_page_names_every_keyword_and_member():
    page = (DOCS / "api.md").read_text()
    names = [p for p in inspect.signature(ipucc.compile).parameters if p != "source"]
    names += [f.name for cls in (ipucc.Result, ipucc.Cycles) for f in dataclasses.fields(cls)]
    names += [n for n in vars(ipucc.Executable) if not n.startswith("_")]
    assert [n for n in names if f"`{n}" not in page and f"{n}`" not in page and n not in ("program", "target")] == []
