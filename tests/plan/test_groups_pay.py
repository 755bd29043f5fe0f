"""Partials are joined in groups first where that is faster, and only there."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from ipucc.codelets.reduce import Reduce
from ipucc.codelets.softmax import SoftmaxParts
from ipucc.compiler import Compiled, CompileOptions, compile_model

ModelOf = Callable[..., onnx.ModelProto]

SUM = "sum (float[1048576] x) => (float[1] y) { y = ReduceSum(x) }"
FEW = "few (float[65536,64] x) => (float[1,64] y) { a = Constant <value_ints = [0]> () y = ReduceSum(x, a) }"
ROW = "row (float[1,262144] x) => (float[1,262144] y) { y = Softmax <axis = -1> (x) }"
PRODUCT = "product (float[8,100000] x) => (float[8,8] y) { y = MatMul(x, w) }"


def compiled(model: onnx.ModelProto) -> tuple[Compiled, int]:
    """The model in fp16, and the groups of its only op."""
    found = compile_model(model, CompileOptions(precision="fp16"))
    (chosen,) = found.placement.chosen
    return found, chosen.plan.groups


@pytest.mark.parametrize(
    ("text", "gain"), [(SUM, 1.25), (FEW, 1.2), (ROW, 1.5), (PRODUCT, 1.2)], ids=["sum", "few", "row", "product"]
)
def test_few_results_of_many_tiles(text: str, gain: float, model_of: ModelOf, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(text, {"w": np.zeros((100_000, 8), np.float32)} if text == PRODUCT else {})
    found, groups = compiled(model)
    assert groups > 1
    assert found.cycles["estimated"] == pytest.approx(found.cycles["total"], rel=0.05)
    for codelet in (Reduce, SoftmaxParts):
        monkeypatch.setattr(codelet, "joining", lambda *_: None)
    plain, groups = compiled(model)
    assert groups == 1
    # Thousands of fragments arrive on a tile: their control is in the estimate.
    assert plain.cycles["estimated"] == pytest.approx(plain.cycles["total"], rel=0.05)
    assert gain * found.cycles["total"] < plain.cycles["total"]


@pytest.mark.parametrize(
    "text",
    [
        "many (float[4096,1024] x) => (float[1,1024] y) { a = Constant <value_ints = [0]> () y = ReduceSum(x, a) }",
        "short (float[128,512] x) => (float[128,512] y) { y = Softmax <axis = -1> (x) }",
    ],
    ids=["many results", "short rows"],
)
def test_one_stage_where_there_is_a_grain_for_every_tile(text: str, model_of: ModelOf) -> None:
    assert compiled(model_of(text))[1] == 1
