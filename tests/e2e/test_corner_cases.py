"""Small models that once went wrong: numbers against onnxruntime, one case per fault found."""

import numpy as np
import onnxruntime
import pytest
from onnx import parser

import ipucc

HEADER = '<ir_version: 10, opset_import: ["": 20]>\n'


def agree(text: str, precision: str = "model", scale: float = 1.0) -> None:
    """The program's outputs are onnxruntime's, within 1e-4 (2e-2 in fp16) of their scale."""
    model = parser.parse_model(HEADER + text)
    exe = ipucc.compile(model, precision=precision, solver="greedy")
    rng = np.random.default_rng(0)
    inputs = {}
    for name, dtype, shape in exe.inputs:
        value = rng.integers(0, 2, shape) if "int" in dtype else rng.standard_normal(shape) * scale
        inputs[name] = np.asarray(value, dtype)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)
    got = exe.run(inputs).outputs
    for (name, value), want in zip(got.items(), wanted, strict=True):
        assert value.shape == want.shape, name
        if want.size:
            limit = (2e-2 if precision == "fp16" else 1e-4) * max(float(np.abs(want).max()), 1e-30)
            assert float(np.abs(value.astype(np.float64) - want).max()) <= limit, name


@pytest.mark.parametrize("axes", ["0,3", "0,2", "2,3"])
def test_halves_whose_grain_dimension_has_one_element(axes):
    agree(
        f"g (float[9,13,8,1] x) => (float[{'13,8' if axes == '0,3' else '13,1' if axes == '0,2' else '9,13'}] y) "
        f"<int64[2] a={{{axes}}}> {{ z=Relu(x) y=ReduceMean<keepdims=0>(z,a) }}",
        "fp16",
    )


@pytest.mark.parametrize("op", ["ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceSum"])
def test_a_reduction_over_no_axes_still_does_its_work(op):
    agree(f"g (float[3] x) => (float[3] y) {{ y={op}<noop_with_empty_axes=1>(x) }}")


def test_squares_of_large_halves_do_not_overflow():
    agree("g (float[1,4,8,8] x) => (float[1,4,8,8] y) { y=LRN<size=3,alpha=0.1,beta=0.75,bias=1.0>(x) }", "fp16", 300.0)


def test_an_expand_in_front_of_a_prelu_stays():
    agree(
        "g (float[3,1] x) => (float[3,4] y) <int64[2] e={3,4}, float[4] s={1.0,2.0,3.0,4.0}> "
        "{ z=Expand(x,e) y=PRelu(z,s) }"
    )


def test_gather_nd_with_a_scalar_result():
    agree("g (float[2] x, int64[1] i) => (float y) { y=GatherND(x,i) }")


@pytest.mark.parametrize(
    "text",
    [
        "g (float[0,4] x) => (float[2,4] y) <int64[4] p={1,0,1,0}> { y=Pad(x,p) }",
        "g (float[4,4] x) => (float[0,4] y) <int64[1] a={2}> { y=Slice(x,a,a) }",
        "g (float[3,2] x) => (float[0,2] y, float[3,2] z) <int64[2] s={0,3}> { y,z=Split(x,s) }",
        "g (float[0,2,5,5] x) => (float[0,3,3,3] y) <float[3,2,3,3] w={"
        + ",".join(["0.5"] * 54) + "}> { y=Conv(x,w) }",
        "g (float[1,1,4,1] x) => (float[1,1,4,0] y) <float[4] s={1.0,1.0,1.0,0.75}> "
        '{ y=Resize<mode="linear">(x,,s) }',
    ],
    ids=["pad", "slice", "split", "conv", "resize"],
)  # fmt: skip
def test_tensors_without_elements(text):
    agree(text)
