"""Holds the outputs of a program against a reference: onnxruntime where it is installed, else onnx's own evaluator.

Both are asked where both can be, since each has known bugs, and where they disagree that is reported. onnxruntime
decides. It runs with its graph optimisations off: the reference is what the file says, node by node, and a fault in one
of its fusions must not look like one of ours. The evaluator of onnx is written for clarity and slow; it is left out
where the model does more than `SLOW_FLOPS`, unless onnxruntime gave no answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from ipucc.diagnostics import Diagnostic, JsonValue, error
from ipucc.frontend.files import open_model
from ipucc.graph.tensors import is_missing
from ipucc.values import Array

__all__ = ["SLOW_FLOPS", "TOLERANCE", "Check", "Difference", "bound_values", "check", "compare"]

TOLERANCE = {"model": 1e-4, "fp16": 2e-2}
"""Largest accepted error by precision, relative to the largest magnitude of an output."""

SLOW_FLOPS = 10**9


@dataclass(frozen=True)
class Difference:
    """How far outputs are from a reference: max|a - b|, and that over max|reference|, both of the worst output.

    `name` is that output. Both errors are infinite where a NaN or an infinity stands on one side alone.
    """

    max_abs_error: float
    max_rel_error: float
    name: str | None


@dataclass(frozen=True)
class Check:
    """The outcome of a check. `ok` says whether the relative error is within `tolerance`; `oracle` who decided."""

    max_abs_error: float
    max_rel_error: float
    ok: bool
    oracle: str
    tolerance: float
    worst: str | None = None
    remarks: tuple[Diagnostic, ...] = field(default=())

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values; an infinite error, which JSON does not have, is null."""
        finite = {k: v if np.isfinite(v) else None for k, v in
                  (("max_abs_error", self.max_abs_error), ("max_rel_error", self.max_rel_error))}  # fmt: skip
        return {
            **finite, "ok": self.ok, "oracle": self.oracle, "tolerance": self.tolerance, "worst": self.worst,
            "remarks": [d.to_json() for d in self.remarks],
        }  # fmt: skip

    def failure(self) -> Diagnostic:
        """What to tell the user of a check that is not ok."""
        return Diagnostic(
            "IPU0607",
            "error",
            f"output {self.worst!r} differs from {self.oracle} by {self.max_rel_error:.3g} of its scale, "
            f"{self.tolerance:g} is allowed",
            notes=(f"largest absolute difference: {self.max_abs_error:.3g}",),
            help=("ipucc run --checked finds reads of stale memory", "--precision model rules out rounding"),
        )


def check(
    outputs: Mapping[str, Array],
    inputs: Mapping[str, Array],
    model: str | Path,
    *,
    precision: str = "model",
    dims: Mapping[str, int] | None = None,
    flops: int = 0,
) -> Check:
    """Run the reference on the same inputs and compare all outputs.

    `dims` are the sizes that were given to symbolic dimensions, `flops` how much the model computes. Raises
    CompileError: what is wrong with the model file (IPU01xx), IPU0609 where no reference can be computed.
    """
    loaded, where = open_model(model)
    absent = [v.name for v in loaded.graph.initializers.values() if is_missing(v.const_value)]
    known = [str(v.name) for v in loaded.graph.inputs]
    produced = [str(v.name) for v in loaded.graph.outputs]
    strange = [n for n in inputs if n not in known] + [n for n in outputs if n not in produced]
    if absent:
        raise error(
            "IPU0609",
            f"the model has no values for {len(absent)} of its weights, so nothing can be computed from it",
            where=where,
            notes=[f"the first is {absent[0]!r}"],
        )
    if strange:
        raise error(
            "IPU0609",
            f"the model has no input or output {strange[0]!r}: the program comes from another model",
            where=where,
        )
    names = list(outputs)
    answers: dict[str, dict[str, Array]] = {}
    refused: list[str] = []
    for oracle, run in (("onnxruntime", _onnxruntime), ("onnx.reference", _reference)):
        if oracle == "onnx.reference" and answers and flops > SLOW_FLOPS:
            break
        try:
            answers[oracle] = dict(zip(names, run(Path(model), names, inputs, dims or {}), strict=True))
        except Exception as failure:  # both libraries raise errors of many kinds for what they cannot run
            refused.append(f"{oracle}: {_first_line(failure)}")
    if not answers:
        raise error("IPU0609", "the reference could not be computed", where=where, notes=refused)
    return _judge(outputs, answers, refused, TOLERANCE["fp16" if precision == "fp16" else "model"])


def bound_values(manifest: Mapping[str, object]) -> dict[str, Array]:
    """The values that inputs were bound to when a program was compiled, as far as its manifest has them."""
    found: dict[str, Array] = {}
    listed = manifest.get("bound")
    for name, kept in listed.items() if isinstance(listed, dict) else ():
        try:
            found[str(name)] = np.array(kept["values"], np.dtype(kept["dtype"])).reshape(kept["shape"])
        except (KeyError, OverflowError, TypeError, ValueError):
            continue  # None, or a file that somebody else wrote
    return found


def compare(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> Difference:
    """The worst difference over all outputs."""
    worst = Difference(0.0, 0.0, None)
    for name, expected in reference.items():
        found = _difference(name, outputs[name], expected)
        if worst.name is None or found.max_rel_error > worst.max_rel_error:
            worst = found
    return worst


def _judge(
    outputs: Mapping[str, Array], answers: Mapping[str, Mapping[str, Array]], refused: Sequence[str], tolerance: float
) -> Check:
    oracle, reference = next(iter(answers.items()))
    remarks = [Diagnostic("IPU0609", "remark", "a reference could not be asked", notes=(text,)) for text in refused]
    for other, answer in list(answers.items())[1:]:
        between = compare(answer, reference)
        if between.max_rel_error > tolerance:
            ours = compare(outputs, answer)
            text = f"{other} differs from {oracle} by {between.max_rel_error:.3g} of the scale of {between.name!r}"
            note = f"the program differs from {other} by {ours.max_rel_error:.3g}; {oracle} decides"
            remarks.append(Diagnostic("IPU0608", "warning", text, notes=(note,)))
    found = compare(outputs, reference)
    return Check(
        found.max_abs_error, found.max_rel_error, found.max_rel_error <= tolerance, oracle, tolerance, found.name,
        tuple(remarks),
    )  # fmt: skip


def _difference(name: str, ours: Array, reference: Array) -> Difference:
    infinite = Difference(float("inf"), float("inf"), name)
    if ours.shape != reference.shape:
        return infinite
    a, b = ours.astype(np.float64), reference.astype(np.float64)
    # NaN must meet NaN, and an infinity the same infinity.
    special = ~(np.isfinite(a) & np.isfinite(b))
    same = (np.isnan(a) & np.isnan(b)) | (a == b)
    if (special & ~same).any():
        return infinite
    a, b = a[~special], b[~special]
    if not a.size:
        return Difference(0.0, 0.0, name)
    largest, scale = float(np.abs(a - b).max()), float(np.abs(b).max())
    # Against a reference of zeros any difference counts in full.
    return Difference(largest, largest / scale if scale else largest and float("inf"), name)


def _onnxruntime(
    model: Path, names: list[str], inputs: Mapping[str, Array], dims: Mapping[str, int]
) -> Sequence[Array]:
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    for name, size in dims.items():
        options.add_free_dimension_override_by_name(name, size)
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(names, dict(inputs))]


def _reference(model: Path, names: list[str], inputs: Mapping[str, Array], dims: Mapping[str, int]) -> Sequence[Array]:
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        return [np.asarray(a) for a in ReferenceEvaluator(onnx.load(model)).run(names, dict(inputs))]


def _first_line(failure: Exception) -> str:
    text = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {text[0][:300]}" if text else type(failure).__name__
