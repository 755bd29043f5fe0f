"""The program builder: the machine itself, for people who have no neural network at hand.

b = Builder("gc200")
x = b.variable("x", "float32", (1 << 20,), linear())
b.write(x); b.elementwise("double", "Mul(a0, 2.0)", [x], x); b.read(x)
b.compile().run({"x": values}).outputs["x"]
"""

from ipucc.builder.builder import Builder
from ipucc.builder.mapping import Mapping, grid, linear, on_tile, replicated
from ipucc.builder.variable import Slice, Variable
from ipucc.builder.vertices import ComputeSet
from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.program.order import Order
from ipucc.target import Target

__all__ = [
    "Array",
    "Builder",
    "Cells",
    "Codelet",
    "ComputeSet",
    "Counts",
    "Mapping",
    "Order",
    "Slice",
    "Target",
    "Variable",
    "grid",
    "linear",
    "on_tile",
    "per_worker",
    "register",
    "replicated",
]
