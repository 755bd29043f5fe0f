"""Where passes come from: built in, entry points, files; and what goes wrong there."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from ipucc.diagnostics import CompileError
from ipucc.pass_manager import Pass, Registry, default_registry, describe_options, registry, summary
from ipucc.pass_manager.registry import BUILT_IN

HEAD = """from dataclasses import dataclass
from ipucc.pass_manager import Pass, option
"""
GOOD = (
    HEAD
    + '''
@dataclass(frozen=True)
class Mine(Pass):
    """Does nothing, on purpose."""
    name = "mine"
    level: int = option(1, "how much")
    def run(self, model, ctx):
        return False
'''
)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_passes_are_complete(name: str) -> None:
    cls = default_registry().get(name)
    assert cls.name == name
    assert summary(cls).endswith(".")
    for info in describe_options(cls):
        assert info.help, f"option {info.name} of {name} has no help"


def test_names_are_sorted_and_include_the_built_in_ones() -> None:
    names = default_registry().names()
    assert list(names) == sorted(names)
    assert set(BUILT_IN) <= set(names)


def test_a_file_of_passes(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    found = default_registry()
    assert found.load_file(path) == ("mine",)
    cls = found.get("mine")
    assert issubclass(cls, Pass)
    assert describe_options(cls)[0].help == "how much"
    assert found.providers["mine"].owner == str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "defines no pass"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "SyntaxError"),
        (GOOD.replace('"mine"', '"My Pass"'), "is no name for a pass"),
        (GOOD.replace('"mine"', '"fuse"'), "the pass 'fuse' is offered by ipucc and by"),
    ],
)
def test_files_that_do_not_load(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(CompileError) as caught:
        default_registry().load_file(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="IPU0306"):
        default_registry().load_file(tmp_path / "absent.py")


def test_an_option_without_default_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GOOD.replace('level: int = option(1, "how much")', "level: int"))
    found = default_registry()
    found.load_file(path)
    with pytest.raises(CompileError, match="option 'level' of pass 'mine' has no default"):
        found.get("mine")


class Point(importlib.metadata.EntryPoint):
    def load(self) -> object:
        if self.value == "raises":
            raise RuntimeError("no device")
        return {"right": default_registry().get("clean-up"), "wrong": Registry}[self.value]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("clean-up-2", "raises", "RuntimeError: no device"),
        ("clean-up-2", "wrong", "is not a class derived from Pass"),
        ("clean-up-2", "right", "calls itself 'clean-up'"),
    ],
)
def test_entry_points_that_do_not_load(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_installed", lambda: (Point(name, value, registry.ENTRY_POINT_GROUP),))
    found = default_registry()
    assert name in found.names()
    with pytest.raises(CompileError, match=message):
        found.get(name)


def test_two_providers_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_installed", lambda: (Point("fuse", "right", registry.ENTRY_POINT_GROUP),))
    with pytest.raises(CompileError, match="the pass 'fuse' is offered by ipucc and by the package right"):
        default_registry()


def test_the_pass_manager_is_light() -> None:
    code = "import sys, ipucc.pass_manager; print([m for m in ('onnx', 'onnx_ir', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
