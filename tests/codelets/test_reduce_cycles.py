"""The reduction's cycle formula against published measurements, and what an epilogue adds to it."""

import numpy as np
import pytest

from ipucc.codelets.elementwise import Elementwise, expression_cycles
from ipucc.codelets.reduce import Reduce
from ipucc.target import load_target

# osmarks/ipu-stack, tests of cost.rs: fp16 partials on one tile of a C600, six workers; (elements, partials): cycles.
MEASURED = {
    (56, 2): 438, (1472, 2): 2700, (2208, 4): 4974, (1472, 4): 3444, (576, 15): 3090, (2208, 28): 18222,
}  # fmt: skip
# What its kernels take to be called and to read their arguments.
CALL = 129


def cycles(elements: int, partials: int, expr: str = "", extras: tuple[str, ...] = ()) -> int:
    codelet = Reduce("sum", ("k",), ("n",), "float16", 1.0, expr, extras)
    n = {"k": np.full(1, partials), "n": np.full(1, elements)}
    return int(codelet.cycles(n, load_target("c600"))[0])


@pytest.mark.parametrize(("elements", "partials"), MEASURED)
def test_measured_reductions(elements: int, partials: int) -> None:
    assert cycles(elements, partials) + CALL == MEASURED[elements, partials]


@pytest.mark.parametrize("expr", ["Add(x, a0)", "Gelu(Add(x, a0))", "Relu(Add(x, a0))"])
def test_an_epilogue_costs_its_arithmetic_and_its_loads(expr: str) -> None:
    # 960 outputs are 40 vectors of 4 per worker.
    plain, fused = cycles(960, 7), cycles(960, 7, expr, ("float16",))
    assert fused - plain == 6 * 40 * (1 + expression_cycles(expr, "float16"))
    # In a loop of its own it would load and store the results besides.
    alone = Elementwise(expr.replace("x", "a1"), ("float16", "float16"), "float16", ("n",))
    assert fused < plain + int(alone.cycles({"n": np.full(1, 960)}, load_target("c600"))[0])


def test_gelu_with_the_error_function_is_the_dearer_form() -> None:
    # popnn's vertices: 15 cycles a vector of four against 5; of two fp32 30 against 10.
    for dtype, ratio in (("float16", 3), ("float32", 3)):
        tanh = expression_cycles('Gelu(x, approximate="tanh")', dtype)
        assert expression_cycles("Gelu(x)", dtype) == ratio * tanh
