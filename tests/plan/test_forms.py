"""Ops in every form that they have: the same numbers on random cuts, and as whole programs with the form forced."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import onnx
import pytest

from ipucc.compiler import CompileOptions
from ipucc.ops.graph import TileGraph
from ipucc.optimise import optimise_model, schedule_model
from ipucc.passes.program.fit import Fitted, fit
from ipucc.program.timing import program_times
from ipucc.program.verify import verify_program
from ipucc.runtime.checked import checked_engine
from ipucc.target import load_target

ModelOf = Callable[..., onnx.ModelProto]

# The form of each text's op (the last one of the graph), and the forms that it must have.
CASES: dict[str, tuple[str, dict[str, tuple[int, ...]], set[str]]] = {
    "few rows": (
        "g (float[3, 80] x) => (float[3, 56] y) { a = MatMul(x, w) y = Relu(a) }",
        {"w": (80, 56)}, {"", "swapped", "dot"},
    ),
    "one row": (
        "g (float[1, 150] x) => (float[1, 70] y) { y = Gemm(x, w, b) }",
        {"w": (150, 70), "b": (70,)}, {"", "swapped", "dot"},
    ),
    "rows": (
        "g (float[40, 48] x) => (float[40, 36] y) { y = MatMul(x, w) }",
        {"w": (48, 36)}, {"", "swapped"},
    ),
    "heads": (
        "g (float[4, 2, 24] x, float[4, 24, 40] z) => (float[4, 2, 40] y) { a = Relu(z) y = MatMul(x, a) }",
        {}, {"", "swapped", "dot", "axpy"},
    ),
    "pointwise": (
        "g (float[1, 24, 3, 2] x) => (float[1, 40, 3, 2] y) { y = Conv(x, w, b) }",
        {"w": (40, 24, 1, 1), "b": (40,)}, {"", "swapped", "dot"},
    ),
    "stem": (
        "g (float[1, 3, 14, 15] x) => (float[1, 20, 7, 8] y) {"
        " y = Conv <pads = [3, 3, 3, 3], strides = [2, 2]> (x, w, b) }",
        {"w": (20, 3, 7, 7), "b": (20,)}, {"", "amp 2x1", "amp 4x1", "slic"},
    ),
    "groups": (
        "g (float[1, 24, 8, 9] x) => (float[1, 24, 8, 9] y) {"
        " y = Conv <pads = [1, 1, 1, 1], group = 3> (x, w) }",
        {"w": (24, 8, 3, 3)}, {"", "amp 2x1", "slic"},
    ),
    "depthwise": (
        "g (float[1, 20, 8, 9] x) => (float[1, 20, 8, 9] y) {"
        " a = Conv <pads = [1, 1, 1, 1], group = 20> (x, w) y = Relu(a) }",
        {"w": (20, 1, 3, 3)}, {"", "vmac", "slic depthwise"},
    ),
}  # fmt: skip


def names() -> Iterator[tuple[str, str]]:
    for case, (*_, forms) in CASES.items():
        for form in sorted(forms):
            yield case, form


def graph_of(case: str, model_of: ModelOf) -> tuple[onnx.ModelProto, TileGraph]:
    text, weights, _ = CASES[case]
    model = model_of(text, weights)
    options = CompileOptions(target="gc200", precision="fp16")
    target = replace(load_target("gc200"), tiles=24)
    return model, schedule_model(optimise_model(model, options, target=target).model, target, options)


def forced(graph: TileGraph, form: str) -> TileGraph:
    """The graph with its last product or convolution in this form alone."""
    at = max(i for i, op in enumerate(graph.ops) if op.forms)
    op = graph.ops[at]
    chosen = next(f for f in (op, *op.forms) if f.form == form)
    graph.ops[at] = replace(chosen, forms=())
    return graph


@pytest.mark.parametrize("case", CASES)
def test_an_op_has_the_forms_of_its_shape(case: str, model_of: ModelOf) -> None:
    _, graph = graph_of(case, model_of)
    op = next(op for op in reversed(graph.ops) if op.forms)
    assert {op.form, *(f.form for f in op.forms)} == CASES[case][2]
    for form in op.forms:
        assert form.result == op.result
        assert [o.sources for o in form.operands] == [o.sources for o in op.operands]
        assert form.codelet != op.codelet
        assert form.name == op.name
        assert not form.forms


@pytest.mark.parametrize(("case", "form"), list(names()))
def test_a_program_in_one_form_is_right(case: str, form: str, model_of: ModelOf) -> None:
    import onnxruntime

    model, graph = graph_of(case, model_of)
    target = replace(load_target("gc200"), tiles=24)
    # More plans than the best, so that a cut of the reduced axis is among them as well as none.
    fitted: Fitted = fit([forced(graph, form)], target, 12, "greedy", "fast", lambda name: None)
    verify_program(fitted.program)
    rng = np.random.default_rng(0)
    feeds = {
        i.name: (rng.integers(-32, 33, [d.dim_value for d in i.type.tensor_type.shape.dim]) / 32).astype(np.float32)
        for i in model.graph.input
    }
    engine = checked_engine(fitted.program)
    got = engine.run(feeds)["y"]
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=4e-3 * np.abs(wanted).max())
    assert [t.total for t in engine.times] == [t.total for t in program_times(fitted.program)]


def test_scratch_is_memory_of_its_own(model_of: ModelOf) -> None:
    """The sums that are transposed lie beside operands and result: no less than the codelet asks for."""
    from ipucc.program.model import Compute

    _, graph = graph_of("rows", model_of)
    target = replace(load_target("gc200"), tiles=24)
    program = fit([forced(graph, "swapped")], target, 12, "greedy", "fast", lambda name: None).program
    (step,) = [s for s in program.steps if isinstance(s, Compute) and s.codelet.has_scratch]
    scratch = program.buffers[step.results[-1].buffer]
    assert scratch.nbytes >= int(step.codelet.temp_bytes(step.cells.n, target).max()) > 0
    for b in (*step.operands, *step.results[:-1]):
        other = program.buffers[b.buffer]
        assert other.offset + other.nbytes <= scratch.offset or scratch.offset + scratch.nbytes <= other.offset
