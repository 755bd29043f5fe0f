"""The text of five tiny models at every level: the graph after each pass, the order of ops, the placement, the
program.

`pytest tests/golden --snapshot-update` writes the texts anew; read the difference before you commit it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from syrupy.assertion import SnapshotAssertion

from ipucc.compiler import CompileOptions, compile_model
from ipucc.optimise import graph_pipeline
from ipucc.pass_manager import default_registry, parse_pipeline

MACHINE = Path(__file__).parent / "tiny.toml"


@dataclass(frozen=True)
class Case:
    """A model as ONNX text, the shapes of its weights, and what it is compiled with."""

    text: str
    weights: Mapping[str, tuple[int, ...]]
    options: CompileOptions

    def model(self) -> onnx.ModelProto:
        """The model. Weights are multiples of 1/64: exact in every element type, the same everywhere."""
        model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]>\n{self.text}')
        rng = np.random.default_rng(0)
        for name, shape in self.weights.items():
            values = (rng.integers(-64, 65, shape) / 64).astype(np.float32)
            # Variances may not be negative.
            values = np.abs(values) + 1 if name.startswith("var") else values
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        return model


def options(**kw: object) -> CompileOptions:
    return CompileOptions(target=str(MACHINE), solver="greedy", **kw)  # type: ignore[arg-type]


CASES = {
    "mlp": Case(
        """mlp (float[8,32] x) => (float[8,10] y) {
            h0 = MatMul(x, w0)
            h1 = Add(h0, b0)
            h2 = Relu(h1)
            h3 = MatMul(h2, w1)
            y = Add(h3, b1)
        }""",
        {"w0": (32, 48), "b0": (48,), "w1": (48, 10), "b1": (10,)},
        options(precision="fp16"),
    ),
    "conv": Case(
        """conv (float[1,3,8,8] x) => (float[1,10] y) {
            h0 = Conv <pads = [1, 1, 1, 1]> (x, w0)
            h1 = BatchNormalization(h0, scale, shift, mean, var)
            h2 = Relu(h1)
            h3 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h2)
            h4 = Flatten(h3)
            y = Gemm <transB = 1> (h4, w1, b1)
        }""",
        {
            "w0": (8, 3, 3, 3), "scale": (8,), "shift": (8,), "mean": (8,), "var": (8,), "w1": (10, 128), "b1": (10,),
        },
        options(),
    ),
    "attention": Case(
        """attention (float[8,16] x, float[1,8,8] mask) => (float[8,16] y) {
            heads = Constant <value_ints = [8, 2, 8]> ()
            joined = Constant <value_ints = [8, 16]> ()
            scale = Constant <value_float = 0.25> ()
            q0 = MatMul(x, wq)
            q1 = Reshape(q0, heads)
            q = Transpose <perm = [1, 0, 2]> (q1)
            k0 = MatMul(x, wk)
            k1 = Reshape(k0, heads)
            k = Transpose <perm = [1, 2, 0]> (k1)
            v0 = MatMul(x, wv)
            v1 = Reshape(v0, heads)
            v = Transpose <perm = [1, 0, 2]> (v1)
            s0 = MatMul(q, k)
            s1 = Mul(s0, scale)
            s2 = Add(s1, mask)
            p = Softmax <axis = -1> (s2)
            o0 = MatMul(p, v)
            o1 = Transpose <perm = [1, 0, 2]> (o0)
            o2 = Reshape(o1, joined)
            o3 = MatMul(o2, wo)
            y = Add(x, o3)
        }""",
        {"wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "wo": (16, 16)},
        options(),
    ),
    "sparse": Case(
        """sparse (float[16,32] x) => (float[16,32] y) {
            h0 = MatMul(x, w0)
            h1 = Add(h0, b0)
            y = Relu(h1)
        }""",
        {"w0": (32, 32), "b0": (32,)},
        options(precision="fp16", block=8, density=0.5),
    ),
    "views": Case(
        """views (float[4,12] a, float[4,12] b) => (float[6,24] y, float[16,3] z) {
            pads = Constant <value_ints = [1, 0, 1, 0]> ()
            starts = Constant <value_ints = [2]> ()
            ends = Constant <value_ints = [12]> ()
            axes = Constant <value_ints = [1]> ()
            steps = Constant <value_ints = [3]> ()
            shape = Constant <value_ints = [16, 3]> ()
            half = Constant <value_float = 0.5> ()
            sum = Add(a, b)
            difference = Sub(a, b)
            scaled = Mul(difference, half)
            both = Concat <axis = 1> (sum, scaled)
            y = Pad <mode = "constant"> (both, pads)
            part = Slice(sum, starts, ends, axes, steps)
            twice = Tanh(part)
            thrice = Concat <axis = 0> (twice, twice, part)
            z0 = Transpose(thrice)
            z1 = Reshape(z0, shape)
            z = Neg(z1)
        }""",
        {},
        options(),
    ),
}  # fmt: skip


def stages(case: Case) -> list[str]:
    """Names of the texts of a case in the order in which they arise, numbered."""
    passes = [p.name for p in parse_pipeline(graph_pipeline(case.options), default_registry()).passes()]
    return [f"{i}-{name}" for i, name in enumerate([*passes, "schedule", "place", "lower"], 1)]


TEXTS = [(name, stage) for name, case in CASES.items() for stage in stages(case)]


@cache
def texts(name: str) -> Mapping[str, str]:
    """The texts of a case by stage, as a user sees them with --print-after all."""
    case = CASES[name]
    found: list[str] = []
    compile_model(case.model(), case.options, print_after=["all"], stream=found.append)
    return dict(zip(stages(case), found, strict=True))


# Texts are named after cases and stages, not after this test.
@pytest.mark.filterwarnings("ignore:\\nCan not relate snapshot")
@pytest.mark.parametrize(("name", "stage"), TEXTS)
def test_text(name: str, stage: str, golden: SnapshotAssertion) -> None:
    text = texts(name)[stage]
    assert text.startswith(f"# after {stage.split('-', 1)[1]}\n")
    assert text == golden(name=f"{name}.{stage}")


def test_no_text_is_stale(golden_folder: Path, pytestconfig: pytest.Config) -> None:
    if pytestconfig.getoption("update_snapshots"):
        pytest.skip("stale texts are removed at the end of this run")
    assert {p.name for p in golden_folder.iterdir()} == {f"{name}.{stage}.ir" for name, stage in TEXTS}
