"""Rounds that add up are chosen where they are faster, or where nothing else fits: what they must be worth."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from ipucc.compiler import Compiled, CompileOptions, compile_model
from ipucc.diagnostics import DoesNotFit
from ipucc.passes.plan import steps
from ipucc.passes.plan.problem import Candidate

ModelOf = Callable[..., onnx.ModelProto]
MachineFile = Callable[..., Path]


def product(model_of: ModelOf, m: int, k: int, n: int) -> onnx.ModelProto:
    weight = np.zeros((k, n), np.float32)
    return model_of(f"product (float[{m},{k}] x) => (float[{m},{n}] y) {{ y = MatMul(x, w) }}", {"w": weight})


def compiled(model: onnx.ModelProto, target: str) -> tuple[Compiled, Candidate]:
    found = compile_model(model, CompileOptions(target=target, precision="fp16"))
    return found, next(c for c, op in zip(found.placement.chosen, found.graph.ops, strict=True) if op.kind == "MatMul")


def without_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_rings", lambda *_: iter(()))
    few = steps._as_few_as_fit
    monkeypatch.setattr(
        steps, "_as_few_as_fit", lambda op, i, *rest: few(op, i, *rest) if op.axes[i].kind == "parallel" else iter(())
    )  # fmt: skip


def test_sums_rotate_where_a_reduction_would_take_long(
    model_of: ModelOf, machine_file: MachineFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = str(machine_file(tiles=64))
    model = product(model_of, 640, 1024, 1024)
    found, chosen = compiled(model, target)
    assert chosen.plan.rotates
    assert found.cycles["estimated"] == pytest.approx(found.cycles["total"], rel=0.05)
    without_sums(monkeypatch)
    other, plain = compiled(model, target)
    assert plain.stages[0].sums is None
    assert found.cycles["total"] < 0.98 * other.cycles["total"]


def small(machine_file: MachineFile, tile_bytes: int) -> str:
    figures = {"executable_bytes": 8_192, "interleaved_bytes": 1_024, "reserved_bytes": 1_024}
    return str(machine_file(tiles=8, tile_bytes=tile_bytes, **figures))


def test_steps_of_the_reduced_axis_where_operands_crowd_a_tile(
    model_of: ModelOf, machine_file: MachineFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, target = product(model_of, 96, 512, 96), small(machine_file, 65_536)
    found, chosen = compiled(model, target)
    assert chosen.plan.serial is not None
    assert chosen.plan.serial[0] == "k"
    without_sums(monkeypatch)
    assert found.cycles["total"] < 0.95 * compiled(model, target)[0].cycles["total"]


def test_what_fits_with_rounds_that_add_up_alone(
    model_of: ModelOf, machine_file: MachineFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, target = product(model_of, 96, 512, 96), small(machine_file, 36_864)
    assert compiled(model, target)[1].stages[0].sums is not None
    without_sums(monkeypatch)
    with pytest.raises(DoesNotFit):
        compiled(model, target)


def test_small_products_are_made_in_one_go(model_of: ModelOf) -> None:
    _, chosen = compiled(product(model_of, 128, 768, 768), "gc200")
    assert chosen.plan.serial is None
