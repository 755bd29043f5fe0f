"""Commands that the pages name exist, with the options that they are given."""

import importlib.util
import re
import shlex
from pathlib import Path

import click

from ipucc.cli.main import cli

_SHELL = ("", "console", "sh", "bash")


def lines(page) -> list[str]:
    """Lines of commands: those of unnamed and shell blocks, and inline code."""
    found = [
        line.strip().removeprefix("$ ")
        for block in page.blocks()
        if block.language in _SHELL
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    return found + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", page.prose())


def words(line: str) -> list[str]:
    """The words of one command; what a pipe or a wide gap (an explanation) separates from it is dropped."""
    line = re.split(r"\s{2,}|\s\|\s|\s>\s|\s#\s", line)[0]
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def options(given: list[str]) -> list[str]:
    return [m[1] for word in given if (m := re.match(r"\[?(--?[a-z][a-z-]*)", word))]


def test_verbs_and_their_options_exist(page) -> None:
    unknown = []
    for line in lines(page):
        given = words(line)
        while given and re.fullmatch(r"[A-Z_]+=\S*", given[0]):
            given = given[1:]
        if len(given) < 2 or given[0] != "ipucc":
            continue
        verb = next((word for word in given[1:] if not word.startswith("-")), "")
        if verb and verb.isupper():
            continue
        known = {"--help", "-h", "--version", "-v", "--verbose"}
        if verb:
            if verb not in cli.commands:
                unknown.append(line)
                continue
            known |= {s for p in cli.commands[verb].params for s in p.opts}
        unknown += [f"{line}: {o}" for o in options(given[1:]) if o not in known]
    assert unknown == []


def test_make_targets_exist(page, root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {w[1] for line in lines(page) if len(w := words(line)) > 1 and w[0] == "make" and "=" not in w[1]}
    assert named <= targets


def test_scripts_and_their_options_exist(page, root: Path) -> None:
    unknown = []
    for line in lines(page):
        given = words(line)
        if len(given) < 2 or not given[0].startswith("python") or not given[1].endswith(".py"):
            continue
        script = root / given[1]
        if not script.is_file():
            unknown.append(line)
            continue
        known = script_options(script)
        unknown += [f"{line}: {o}" for o in options(given[2:]) if o not in known]
    assert unknown == []


def script_options(script: Path) -> set[str]:
    """What a script takes: read off its click command, or off the text of its argparse calls."""
    text = script.read_text(encoding="utf-8")
    if "@click.command" not in text:
        return set(re.findall(r'"(--?[a-z][a-z-]*)"', text)) | {"--help"}
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert isinstance(module.main, click.Command)
    return {s for p in module.main.params for s in p.opts} | {"--help"}
