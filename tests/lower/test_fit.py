"""Models whose weights and code leave little of a tile to the rest."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import ipucc
from ipucc.api import Executable
from ipucc.diagnostics import DoesNotFit

ModelOf = Callable[..., onnx.ModelProto]
TEXT = """
g (float[1,16,24,24] x) => (float[1,512] y) {
  c1 = Conv <pads = [1,1,1,1]> (x, w1)
  r1 = Relu(c1)
  c2 = Conv <pads = [1,1,1,1]> (r1, w2)
  r2 = Relu(c2)
  p = GlobalAveragePool(r2)
  f = Flatten(p)
  h = MatMul(f, w3)
  y = MatMul(h, w4)
}"""
"""Two convolutions beside a weight that takes most of a tile."""


@pytest.fixture(scope="module")
def crowded(model_of: ModelOf) -> onnx.ModelProto:
    return model_of(TEXT, {"w1": (32, 16, 3, 3), "w2": (32, 32, 3, 3), "w3": (32, 512), "w4": (512, 512)})


@pytest.fixture
def compiled(crowded: onnx.ModelProto, machine_file: Callable[..., Path]) -> Callable[..., Executable]:
    def run(tile_bytes: int, fragment_code_bytes: int = 12) -> Executable:
        half = tile_bytes // 2
        sizes = {"tile_bytes": tile_bytes, "executable_bytes": half, "interleaved_bytes": half}
        machine = machine_file(tiles=8, fragment_code_bytes=fragment_code_bytes, **sizes)
        return ipucc.compile(crowded, target=str(machine), solver="greedy", effort="fast", recompute="off")

    return run


def test_what_weights_leave_of_a_tile_is_what_an_op_may_take(
    crowded: onnx.ModelProto, compiled: Callable[..., Executable], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compiled(196_608)
    x = np.random.default_rng(1).random((1, 16, 24, 24), np.float32)
    (wanted,) = ReferenceEvaluator(crowded).run(None, {"x": x})
    np.testing.assert_allclose(found.run({"x": x}).outputs["y"], wanted, rtol=1e-4, atol=1e-3 * np.abs(wanted).max())
    # With plans for a tile of its own, each op would leave too little to the others.
    monkeypatch.setattr("ipucc.passes.program.fit._CROWDING", 0)
    with pytest.raises(DoesNotFit):
        compiled(196_608)


def test_code_is_given_up_for_data(compiled: Callable[..., Executable]) -> None:
    """Exchange code is dear on this machine: what the first choice of plans takes of it leaves too little to data."""
    free, short = compiled(262_144, 200), compiled(256_000, 200)
    assert short.program.code_bytes < free.program.code_bytes
    assert short.cycles.total > free.cycles.total


def test_what_does_not_fit_is_told_apart(compiled: Callable[..., Executable]) -> None:
    with pytest.raises(DoesNotFit, match="IPU0406") as failure:
        compiled(249_856, 200)
    (found,) = failure.value.diagnostics
    weights = 4 * 512 * 512 // 8
    assert found.data["weights"] >= weights
    kinds = ("weights", "copies_of_weights", "inputs", "operands_brought_together", "results_and_sums")
    held = sum(int(found.data[kind]) for kind in kinds)
    assert found.data["code"] + held <= found.data["needed"]
    assert held > 0.95 * (found.data["needed"] - found.data["code"])
    assert any(f"weights {found.data['weights']:,} B" in note for note in found.notes)
    assert any("--precision fp16 frees about" in text for text in found.help)
