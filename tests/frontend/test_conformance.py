"""The node tests of ONNX, imported: equal numbers, or a refusal by name. Slow; the counts may only improve."""

import json
import warnings
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner
from onnx.reference import ReferenceEvaluator

from ipucc.diagnostics import CompileError
from ipucc.frontend import load_model
from ipucc.graph.edit import EXTENTS
from ipucc.graph.schemas import oracle_model
from ipucc.values import trimmed

# Wrong in the reference evaluator already: random numbers, a Scan of opset 8, subgraphs that capture constants, and
# transposed convolutions of three dimensions. The expected zeros of an inverse DFT are 3e-17 or 2e-7 by who sums them.
ORACLE_FAILS = ("test_bernoulli", "test_scan_sum", "test_flexattention", "test_col2im_5d", "test_dft_inverse")
MIN_IMPORTED = 1740


def as_array(item: object) -> np.ndarray | None:
    """An input or output of a test; None for sequences and optionals."""
    if isinstance(item, onnx.TensorProto):
        return numpy_helper.to_array(item)
    return np.asarray(item) if isinstance(item, np.ndarray | np.generic) else None


def bind(proto: onnx.ModelProto, inputs: list[np.ndarray]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model with its small vectors and numbers (shapes, axes, counts) as constants, and the other inputs."""
    bound = onnx.ModelProto()
    bound.CopyFrom(proto)
    del bound.graph.input[:]
    feeds = {}
    for value, array in zip(proto.graph.input, inputs, strict=True):
        if array.ndim < 2:
            bound.graph.initializer.append(numpy_helper.from_array(array, value.name))
        else:
            bound.graph.input.append(value)
            feeds[value.name] = array
    return bound, feeds


def run(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    model = load_model(proto)
    known = {value.name for value in model.graph.inputs}
    names = [str(value.name) for value in model.graph.outputs]
    evaluator = ReferenceEvaluator(oracle_model(model))
    results = evaluator.run(names, {name: array for name, array in feeds.items() if name in known})
    arrays = {name: np.asarray(array) for name, array in zip(names, results, strict=True)}
    return list(trimmed(arrays, json.loads(model.graph.metadata_props.get(EXTENTS, "{}"))).values())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_node_tests_of_onnx() -> None:
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in cases:
        tensors = [[as_array(item) for item in items] for items in case.data_sets[0]]
        arrays, wanted = ([array for array in found if array is not None] for found in tensors)
        if case.name.startswith(ORACLE_FAILS) or [len(arrays), len(wanted)] != [len(found) for found in tensors]:
            counts["left out"] += 1
            continue
        feeds = {value.name: array for value, array in zip(case.model.graph.input, arrays, strict=True)}
        try:
            try:
                got = run(case.model, feeds)
            except CompileError:
                got = run(*bind(case.model, arrays))
            Runner.assert_similar_outputs(wanted, got, case.rtol, case.atol)
            counts["imported"] += 1
        except CompileError as problem:
            counts[problem.diagnostics[0].id] += 1
        except Exception as problem:
            wrong.append(f"{case.name}: {type(problem).__name__}: {str(problem)[:200]}")
    assert not wrong, "\n".join(wrong)
    assert counts["imported"] >= MIN_IMPORTED, counts
    assert set(counts) <= {"imported", "left out", "IPU0114", "IPU0119", "IPU0206"}
