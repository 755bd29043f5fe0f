"""Predictions of products: equal layers are asked about once, and the break-even lies where the curves cross."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from ipucc.pass_manager import PassContext
from ipucc.passes.graph.predictions import Predictions, random_mask
from ipucc.passes.graph.products import Product, find_products

Build = Callable[..., ir.Model]


class Planner:
    """Dense products cost 1000, sparse ones `constant` and one per block."""

    def __init__(self, constant: int, floor: int = 0) -> None:
        self.constant, self.least, self.asked = constant, floor, 0

    def __call__(self, node: ir.Node) -> int:
        self.asked += 1
        return 1000 if "rows" not in node.attributes else self.constant + len(node.attributes["rows"].as_ints())

    def floor(self, node: ir.Node) -> int:
        return self.least


def products(build: Build) -> list[Product]:
    text = """g (float[8,256] x, float[256,256] v, float[256,256] w, float[256,128] u) => (float[8,128] y) {
      a = MatMul(x, v)
      b = MatMul(a, w)
      y = MatMul(b, u) }"""
    zeros = {name: np.zeros((256, n), np.float32) for name, n in (("v", 256), ("w", 256), ("u", 128))}
    return find_products(build(text, **zeros), ["matmul"], PassContext())


@pytest.mark.parametrize(("constant", "wanted"), [(800, 200 / 4096), (0, 1000 / 4096), (998, 2 / 4096)])
def test_break_even_is_where_the_predictions_cross(constant: int, wanted: float, build: Build) -> None:
    product = products(build)[0]
    found = Predictions(Planner(constant)).break_even(product, (4, 4), steps=10)
    assert found == pytest.approx(wanted, rel=0.1, abs=2 / 4096)


def test_break_even_of_always_and_never(build: Build) -> None:
    product = products(build)[0]
    assert Predictions(Planner(1000)).break_even(product, (16, 16)) == 0
    assert Predictions(Planner(0)).break_even(product, (16, 16)) == 1
    planner = Planner(0, floor=1000)
    assert Predictions(planner).break_even(product, (16, 16)) == 0
    assert planner.asked == 1, "a floor above the dense product is answer enough"


def test_equal_layers_are_asked_about_once(build: Build) -> None:
    first, second, other = products(build)
    planner = Planner(5)
    predictions = Predictions(planner)
    assert predictions.key(first) == predictions.key(second) != predictions.key(other)
    found = [predictions.at_density(p, (8, 8), 0.25) for p in (first, second)]
    assert found == [5 + 256] * 2
    assert [predictions.dense(p) for p in (first, second, other)] == [1000] * 3
    assert planner.asked == 3


def test_random_masks_are_nested_and_reproducible(build: Build) -> None:
    product = products(build)[0]
    some, more = (random_mask(product, (8, 4), d) for d in (0.1, 0.3))
    assert some.sum() == round(0.1 * some.size)
    assert (some <= more).all()
    assert (some == random_mask(product, (8, 4), 0.1)).all()
