"""Random graphs compiled and run, held against two oracles."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnx
import onnxruntime
from fuzz_net import Net
from numpy.typing import NDArray

import ipucc
from ipucc.diagnostics import CompileError
from ipucc.program.verify import verify_program

__all__ = ["Found", "held_against_the_oracles"]

Array = NDArray[Any]

REFUSALS: Final = ("IPU02", "IPU04", "IPU0119")
"""What may be said of a graph that is not compiled: an op in this form is not supported, the machine is too small."""
MARGIN: Final = 4.0


@dataclass(frozen=True)
class Found:
    """How a graph fared: the id of a refusal if there was one, and whether the oracles disagree."""

    refused: str = ""
    torn: bool = False


def held_against_the_oracles(net: Net, target: str, solver: Literal["cpsat", "greedy"]) -> Found:
    """Compile, verify and run a graph, watched; AssertionError for numbers that neither oracle has."""
    model, feeds = net.model(), net.feeds()
    try:
        exe = ipucc.compile(
            model, target=target, solver=solver, precision="fp16" if net.halves else "model", effort="fast"
        )
        verify_program(exe.program)
        result = exe.run(feeds, checked=True)
    except CompileError as failure:
        if all(d.id.startswith(REFUSALS) for d in failure.diagnostics):
            return Found(failure.diagnostics[0].id)
        raise
    assert result.cycles.total == exe.manifest["cycles"]["total"]  # type: ignore[index]
    expected = {name: net.values[name].array for name in result.outputs}
    second = _onnxruntime(model, feeds)
    torn = False
    for name, got in result.outputs.items():
        allowed = MARGIN * net.values[name].error
        wrong = _difference(got, expected[name], allowed)
        other = _difference(got, second[name], allowed) if second is not None else wrong
        torn |= bool(wrong) != bool(other)
        assert not (wrong and other), f"{name}: {wrong}"
    return Found(torn=torn)


def _difference(got: Array, wanted: Array, allowed: float) -> str:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"{got.dtype}{got.shape} instead of {wanted.dtype}{wanted.shape}"
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    apart = np.abs(a - b)
    if not (apart <= allowed).all():
        at = np.unravel_index(int(np.nanargmax(np.where(np.isnan(apart), np.inf, apart))), apart.shape)
        return f"{got[at]} instead of {wanted[at]} at {list(map(int, at))}, {allowed:.3g} is allowed"
    return ""


def _onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array] | None:
    """The outputs by onnxruntime, None where it does not run the model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        found = session.run(None, dict(feeds))
    except Exception:  # it has errors of many kinds for what it does not implement
        return None
    return {port.name: np.asarray(a) for port, a in zip(model.graph.output, found, strict=True)}
