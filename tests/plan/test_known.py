"""What is kept of plans and edges: the same problem with and without it, whatever became of the folder meanwhile."""

import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from ipucc import cache
from ipucc.cache import PlanStore, plan_store
from ipucc.code_digest import foreign_code
from ipucc.ops.graph import TileGraph
from ipucc.passes.plan import known as known_module
from ipucc.passes.plan.build_problem import build_problem
from ipucc.passes.plan.known import Known
from ipucc.passes.plan.problem import Problem
from ipucc.target import Target, load_target

NAMES = ("mlp", "attention", "convolutions", "moves")
TARGET = replace(load_target("gc200"), tiles=16, phase_cycles=16)
Read = Callable[..., Problem]


@pytest.fixture(scope="module")
def problem(models: Mapping[str, onnx.ModelProto], tile_graph: Callable[..., TileGraph]) -> Read:
    """The placement problem of a model by name, in a folder of plans or without."""

    def make(name: str, folder: Path | None, keep: int = 6, target: Target = TARGET) -> Problem:
        graph = tile_graph(models[name], target)
        return build_problem(graph, target, target.usable_bytes, keep, known=Known(target, plan_store(target, folder)))

    return make


@pytest.fixture
def nothing_new(monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Makes it an error to price an op or an edge from here on."""

    def refuse(*_: object) -> None:
        raise AssertionError("priced again")

    def forbid() -> None:
        monkeypatch.setattr(known_module.Overlaps, "costs", refuse)
        monkeypatch.setattr("ipucc.passes.plan.build_problem.enumerate_plans", refuse)

    return forbid


def alike(one: object, other: object) -> bool:
    """Whether two values are equal through and through: dataclasses field by field, arrays element by element."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)  # type: ignore[attr-defined]
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))  # type: ignore[arg-type]
    if isinstance(one, dict):
        return alike(list(one.items()), list(other.items()))  # type: ignore[attr-defined]
    if is_dataclass(one):
        return all(alike(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return one == other


def same(one: Problem, other: Problem) -> bool:
    return all(alike(getattr(one, part), getattr(other, part)) for part in ("candidates", "edges", "combinations"))


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_from_kept_plans_is_the_same(
    name: str, problem: Read, tmp_path: Path, nothing_new: Callable[[], object]
) -> None:
    plain, cold = problem(name, None), problem(name, tmp_path)
    assert name != "attention" or any(c.plan.grid is not None for row in plain.candidates for c in row)
    nothing_new()
    assert same(plain, cold)
    assert same(plain, problem(name, tmp_path))


def test_serial_and_gathered_plans_are_kept(problem: Read, tmp_path: Path, nothing_new: Callable[[], object]) -> None:
    small = replace(TARGET, tile_bytes=TARGET.reserved_bytes + 16384)
    cold = problem("mlp", tmp_path, 16, small)
    plans = [c.plan for row in cold.candidates for c in row]
    assert any(p.serial for p in plans)
    assert any(p.gathered for p in plans)
    nothing_new()
    assert same(cold, problem("mlp", tmp_path, 16, small))


def test_more_plans_and_other_machines_are_not_mixed_up(problem: Read, tmp_path: Path) -> None:
    for keep, target in ((6, TARGET), (12, TARGET), (6, replace(TARGET, tiles=12)), (6, replace(TARGET, workers=3))):
        assert same(problem("mlp", tmp_path, keep, target), problem("mlp", None, keep, target))


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "plans").iterdir())


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def other_digit(content: bytes) -> bytes:
    at = max(i for i, byte in enumerate(content) if chr(byte).isdigit())
    return content[:at] + (b"7" if content[at : at + 1] != b"7" else b"3") + content[at + 1 :]


@pytest.mark.parametrize("damage", [cut, other_digit, lambda _: b"", lambda _: os.urandom(100)])
def test_damaged_entries_are_made_again(
    damage: Callable[[bytes], bytes], problem: Read, tmp_path: Path, nothing_new: Callable[[], object]
) -> None:
    cold = problem("attention", tmp_path)
    kept = {path: path.read_bytes() for path in entries(tmp_path)}
    for path, content in kept.items():
        path.write_bytes(damage(content))
    assert same(cold, problem("attention", tmp_path))
    assert {path: path.read_bytes() for path in entries(tmp_path)} == kept
    nothing_new()
    assert same(cold, problem("attention", tmp_path))


@pytest.mark.parametrize(
    "document",
    [
        [], {}, {"candidates": [], "combinations": 1}, {"cycles": [[1]], "code": [[1, 2]]}, "text", None,
        {"candidates": [{"form": 9, "like": -1}], "combinations": 1},
        {"candidates": [{"form": 0, "like": 99}], "combinations": 1},
        {"candidates": [{"form": 0, "like": -1, "parts": [["nobody", 2]], "serial": None, "gathered": False}],
         "combinations": 1},
    ],
)  # fmt: skip
def test_documents_of_another_form_are_made_again(document: object, problem: Read, tmp_path: Path) -> None:
    class Strange(PlanStore):
        def read(self, key: object) -> object:
            return json.loads(json.dumps(document))

    plain = problem("mlp", None)
    known = Known(TARGET, Strange(tmp_path, b""))
    assert same(plain, build_problem(plain.graph, TARGET, TARGET.usable_bytes, 6, known=known))


def test_a_folder_that_cannot_be_made_keeps_nothing(problem: Read, tmp_path: Path) -> None:
    (tmp_path / "plans").write_text("a file")
    assert same(problem("mlp", None), problem("mlp", tmp_path))
    assert (tmp_path / "plans").read_text() == "a file"


def test_what_was_not_used_for_longest_goes(
    problem: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_new: Callable[[], object]
) -> None:
    problem("mlp", tmp_path)
    problem("moves", tmp_path)
    for path in entries(tmp_path):
        os.utime(path, (1, 1))
    stray = tmp_path / "plans" / "notes.txt"
    stray.write_text("x" * 100_000)
    draft = tmp_path / "plans" / ("." + "0" * 64 + ".plan.01234567.tmp")
    draft.write_text("half")
    os.utime(draft, (1, 1))
    problem("mlp", tmp_path)
    used = sum(p.stat().st_size for p in entries(tmp_path) if p.stat().st_mtime > 2 and p != stray)
    monkeypatch.setattr(cache, "_PLAN_BYTES", used + 10)
    store = plan_store(TARGET, tmp_path)
    assert store is not None
    store.write(["one", "more"], [])
    store.trim()
    assert stray.exists()
    assert not draft.exists()
    # The new document took the place of one that was used, not of all.
    nothing_new()
    monkeypatch.setattr(cache, "_PLAN_BYTES", 1 << 20)
    with pytest.raises(AssertionError, match="priced again"):
        problem("moves", tmp_path)
    assert sum(p.stat().st_size for p in entries(tmp_path) if p != stray) <= used + 10


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CODELET = """
from ipucc.codelets.elementwise import Elementwise

class Mine(Elementwise):
    def cycles(self, n, target):
        return super().cycles(n, target) * FACTOR
"""


@pytest.fixture
def with_codelet(
    models: Mapping[str, onnx.ModelProto], tile_graph: Callable[..., TileGraph], tmp_path: Path
) -> Callable[[int], Problem]:
    """The problem of a model whose elementwise ops have a codelet of a user's file."""

    def make(factor: int) -> Problem:
        file = tmp_path / "mine.py"
        file.write_text(CODELET.replace("FACTOR", str(factor)))
        foreign_code.cache_clear()
        mine = loaded(file).Mine
        graph = tile_graph(models["moves"], TARGET)
        for i, op in enumerate(graph.ops):
            if op.codelet.name == "elementwise":
                values = {f.name: getattr(op.codelet, f.name) for f in fields(op.codelet)}  # type: ignore[arg-type]
                graph.ops[i] = replace(op, codelet=mine(**values))
        return build_problem(
            graph, TARGET, TARGET.usable_bytes, 6, known=Known(TARGET, plan_store(TARGET, tmp_path / "kept"))
        )

    return make


def test_a_formula_from_outside_that_changed_is_not_what_was_kept(with_codelet: Callable[[int], Problem]) -> None:
    def fastest(p: Problem) -> list[int]:
        return [min(c.cycles for c in row) for row in p.candidates]

    slow, fast = fastest(with_codelet(1000)), fastest(with_codelet(1))
    assert slow != fast
    assert fastest(with_codelet(1000)) == slow


def test_code_of_no_file_is_like_nothing_of_another_process() -> None:
    space: dict[str, Callable[[], None]] = {}
    exec("def typed() -> None: ...", space)
    assert foreign_code(space["typed"])
    assert foreign_code(test_code_of_no_file_is_like_nothing_of_another_process)
    assert not foreign_code(build_problem)
    assert not foreign_code(Known.table)


def test_the_operand_that_stays_is_not_the_one_that_fetches(
    model_of: Callable[..., onnx.ModelProto], tile_graph: Callable[..., TileGraph]
) -> None:
    # Two sums that differ only in which of their operands lies where they compute.
    text = """g (float[64,64] x, float[96,64] z) => (float[64,64] a, float[64,64] b) {
        r = Relu(x)
        s = Sigmoid(z)
        starts = Constant <value_ints = [32]> ()
        ends = Constant <value_ints = [96]> ()
        axes = Constant <value_ints = [0]> ()
        t = Slice(s, starts, ends, axes)
        a = Add(r, t)
        b = Add(t, r)
    }"""
    graph = tile_graph(model_of(text, {}), TARGET, passes="")
    found = build_problem(graph, TARGET, TARGET.usable_bytes, 6)
    sums = [i for i, op in enumerate(graph.ops) if len(op.operands) == 2]
    assert len(sums) == 2
    for i in sums:
        op, row = graph.ops[i], found.candidates[found.variable[i]]
        stays = next(k for k, o in enumerate(op.operands) if o.sources[0].view.is_identity)
        following = [c for c in row if c.plan.grid is not None]
        assert following
        assert [c.fetching for c in following] == [1 - stays] * len(following)
