"""Whole models: compiled, run on the simulated machine, held against onnxruntime, in the cycles that were predicted."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest

import ipucc
from ipucc.diagnostics import CompileError
from ipucc.oracle import check

Precision = Literal["model", "fp16"]
Inputs = Callable[..., dict[str, np.ndarray]]

slow = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A model file, the sizes of its symbolic dimensions, and how it is compiled.

    With `watched` every word of tile memory is followed in a run of its own.
    """

    file: str
    precision: Precision
    target: str = "gc200"
    dims: tuple[tuple[str, int], ...] = field(default=())
    watched: bool = False

    def __str__(self) -> str:
        return f"{self.file}-{self.precision}-{self.target}"

    @property
    def options(self) -> dict[str, object]:
        return {"precision": self.precision, "target": self.target, "dims": dict(self.dims)}


LLAMA = (("s10", 1), ("s12", 16), ("s86", 1))
BATCH = (("batch_size", 1),)

QUICK = [
    Case("real/mnist_8", "model", watched=True),
    Case("real/cct1_16_32", "fp16", watched=True),
    Case("bert_base.legacy", "fp16"),
    Case("opset23/bert_base.dynamo", "model"),
    Case("gpt2.dynamo", "model"),
    Case("t5_encoder.dynamo", "fp16"),
    Case("dyn/llama_small.dyn.dynamo", "model", dims=LLAMA),
]
OTHERS = [
    *(
        Case(name, precision)
        for name in (
            "bert_base.dynamo",
            "llama_small.dynamo",
            "mobilenet_v2.dynamo",
            "resnet50.dynamo",
            "resnet50.legacy",
            "unet.dynamo",
            "vit_base.legacy",
            "opset23/llama_small.dynamo",
            "real/cct2_32_128_op20",
            "real/ultraface_slim320_simplified",
        )
        for precision in ("model", "fp16")
    ),
    Case("real/super_resolution_10", "model", dims=BATCH),
    Case("real/super_resolution_10", "fp16", dims=BATCH),
    *(Case(c.file, "fp16" if c.precision == "model" else "model", dims=c.dims) for c in QUICK),
]
# Every model once more on another machine, the three in turn.
ELSEWHERE = [
    Case(c.file, "fp16" if i % 2 else "model", ("gc2", "bow", "c600")[i % 3], c.dims)
    for i, c in enumerate({c.file: c for c in [*QUICK, *OTHERS]}.values())
]
# How far the solver's estimate may be from the cycles of the lowered program.
ESTIMATE = 0.15
TOLERANCE = {"model": 1e-4, "fp16": 2e-2}


@pytest.mark.parametrize("case", [*QUICK, *(pytest.param(c, marks=slow) for c in [*OTHERS, *ELSEWHERE])], ids=str)
def test_right_numbers_in_the_predicted_cycles(case: Case, shared_models: Path, inputs: Inputs) -> None:
    path = shared_models / f"{case.file}.onnx"
    exe = ipucc.compile(path, **case.options)  # type: ignore[arg-type]
    predicted: dict[str, int] = exe.manifest["cycles"]  # type: ignore[assignment]
    assert abs(predicted["estimated"] - predicted["total"]) <= ESTIMATE * predicted["total"]
    runs = [inputs(exe, 0, path), inputs(exe, 1)]
    for feeds in runs:
        result = exe.run(feeds)
        assert {k: getattr(result.cycles, k) for k in ("total", "compute", "exchange", "sync")} == {
            k: predicted[k]
            for k in ("total", "compute", "exchange", "sync")  # type: ignore[index]
        }
        assert list(result.outputs) == [name for name, _, _ in exe.outputs]
        found = check(result.outputs, feeds, path, precision=case.precision, dims=dict(case.dims), flops=result.flops)
        assert found.oracle == "onnxruntime"
        assert found.max_rel_error <= TOLERANCE[case.precision], found
    if case.watched:
        watched = exe.run(runs[0], checked=True)
        plain = exe.run(runs[0])
        for name, value in plain.outputs.items():
            np.testing.assert_array_equal(watched.outputs[name], value)


@pytest.mark.parametrize("precision", ["model", pytest.param("fp16", marks=slow)])
@pytest.mark.parametrize("name", ["cct1_16_32", pytest.param("cct2_32_128_op20", marks=slow)])
def test_the_results_that_were_published_with_a_model(
    name: str, precision: Precision, shared_models: Path, inputs: Inputs
) -> None:
    path = shared_models / "real" / f"{name}.onnx"
    exe = ipucc.compile(path, precision=precision)
    got = exe.run(inputs(exe, 0, path)).outputs
    wanted = np.load(path.with_suffix(".outputs.npz"))
    for a, b in zip(got.values(), wanted.values(), strict=True):
        assert np.abs(a.reshape(b.shape) - b).max() <= TOLERANCE[precision] * np.abs(b).max()


@slow
@pytest.mark.parametrize("precision", ["model", "fp16"])
@pytest.mark.parametrize("name", ["light_squeezenet", "light_resnet50", "resnet18_shapeonly"])
def test_models_without_useful_weights_are_timed(name: str, precision: Precision, shared_models: Path) -> None:
    exe = ipucc.compile(shared_models / "real" / f"{name}.onnx", precision=precision)
    result = exe.run(timing_only=True)
    assert result.outputs == {}
    assert result.cycles.total == exe.manifest["cycles"]["total"] > 0  # type: ignore[index]
    assert result.flops > 10**8
    assert 0 < result.utilisation < 1


@pytest.mark.parametrize("precision", ["model", "fp16"])
def test_what_is_not_supported_is_refused_by_name(precision: Precision) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["": 22]> g (float[3, 4] x) => (float[3, 4] y)
        { a = RandomNormalLike(x) b = Abs(x) c = RandomNormalLike(b) y = Add(a, c) }"""
    )
    with pytest.raises(CompileError) as caught:
        ipucc.compile(model, precision=precision)
    found = caught.value.diagnostics
    assert {d.id for d in found} == {"IPU0201"}
    assert Counter(d.op for d in found) == {"RandomNormalLike": 2}
    nodes = [d.node for d in found]
    assert all(nodes)
    assert len(set(nodes)) == len(nodes)
