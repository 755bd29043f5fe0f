"""Networks of every kind, small: they compile, run faithfully, and compute what both references do."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from networks.tiny import TINY, inputs_of

import ipucc
from ipucc.oracle import check

QUICK = {"experts", "generate-until"}
"""The others take longer than tests should."""


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TINY])
def test_a_network_runs_and_is_right(name: str, machine_file: Callable[..., Path], tmp_path: Path) -> None:
    model = TINY[name]()
    onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    target = "gc200" if name == "bert" else str(machine_file(tiles=64))
    exe = ipucc.compile(path, target=target, effort="fast")
    inputs = inputs_of(name, model)
    result = exe.run(inputs, checked=name in QUICK)
    assert exe.predict(result.decisions) == result.cycles
    found = check(result.outputs, inputs, path)
    assert found.ok, found
    assert found.oracle == "onnxruntime"
    # The evaluator gathers by numpy's choose, which takes 64 arrays at most: it has no answer for so many boxes.
    unasked = ["IPU0609"] if name == "detector" else []
    assert [d.id for d in found.remarks] == unasked, "the references disagree, or one was not asked"


def test_a_loop_that_writes_tokens_ends_at_the_last_one(machine_file: Callable[..., Path]) -> None:
    model = TINY["generate-until"]()
    exe = ipucc.compile(model, target=str(machine_file(tiles=64)), effort="fast")
    result = exe.run(inputs_of("generate-until", model))
    (trips,) = result.decisions["tokens"]
    assert result.outputs["written"].shape == (trips, 1)
    assert result.outputs["written"][-1, 0] == 48
    assert trips < 32
    assert result.cycles.total < exe.cycles.total
