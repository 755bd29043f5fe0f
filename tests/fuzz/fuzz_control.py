"""Loops, scans and branches of random graphs: trips that a number or data decides, rows by the number of a trip."""

from collections.abc import Sequence

import numpy as np
from fuzz_net import Net, Rejected
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["branches", "scanned", "trips"]

SHRINKING = ("Tanh", "Sigmoid", "Sin", "Softsign", "Neg", "Abs", "Identity", "HardSigmoid")
"""Ops that a trip may repeat without blowing errors up."""


class _Body:
    """The graph of a body under construction; values are of float32 and of one shape."""

    def __init__(self, net: Net, shape: Sequence[int]) -> None:
        self.net, self.shape = net, tuple(shape)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def add(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"b{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"in_{name}", **attributes))
        return name

    def constant(self, array: object) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(array), f"k{len(self.constants)}"))
        return self.constants[-1].name

    def numbers(self, *shape: int) -> str:
        seed = self.net.number(0, 3)
        return self.constant((np.random.default_rng(seed).integers(-16, 17, shape) / 16).astype(np.float32))

    def step(self, value: str) -> str:
        """A value out of another, no farther from zero than it, or than a few."""
        kind = self.net.number(0, 3)
        if kind == 0:
            return self.add("Mul", value, self.numbers(*self.shape[-1:]))
        if kind == 1 and self.shape:
            factors = self.numbers(self.shape[-1], self.shape[-1])
            return self.add("Tanh", self.add("MatMul", value, factors))
        if kind == 2:
            return self.add("Add", self.add("Mul", value, self.constant(np.float32(0.5))), self.numbers(*self.shape))
        return self.add(self.net.some(SHRINKING), value)

    def graph(self, inputs: Sequence[tuple[str, int, Sequence[int]]], outputs: Sequence[tuple[str, int]]) -> GraphProto:
        """The graph; an output that is an input passes an Identity. Shapes of outputs are inferred."""
        results = [self.add("Identity", name) for name, _ in outputs]
        return helper.make_graph(
            self.nodes, "body", [helper.make_tensor_value_info(n, kind, shape) for n, kind, shape in inputs],
            [helper.make_tensor_value_info(n, kind, None) for n, (_, kind) in zip(results, outputs, strict=True)],
            self.constants,
        )  # fmt: skip


def trips(net: Net) -> None:
    """A Loop over a constant number of trips, fewer if data says so, with a row of a table by the number of a trip."""
    a = net.pick("float32", ranks=(1, 2, 3))
    shape = net.values[a].shape
    count, body = net.number(1, 4), _Body(net, shape)
    value = body.step("state")
    if net.coin():
        row = body.add("Gather", body.numbers(count, *shape), "trip", axis=0)
        value = body.add("Mul", value, row)
    condition = "going"
    if net.coin():
        total = body.add("ReduceSum", value, keepdims=0)
        condition = body.add("Less", total, body.constant(np.float32(net.some([-1, 0, 1, 1000]) + 0.013)))
    stacks = [(body.step(value), 1)] if net.coin() else []
    graph = body.graph(
        [("trip", TensorProto.INT64, []), ("going", TensorProto.BOOL, []), ("state", TensorProto.FLOAT, shape)],
        [(condition, TensorProto.BOOL), (value, TensorProto.FLOAT), *stacks],
    )
    going = net.tensor(np.bool_(True))
    net.add("Loop", [net.tensor(np.int64(count)), going, a], 1 + len(stacks), body=graph)


def scanned(net: Net) -> None:
    """A Scan along the first or last dimension of a value, forwards or backwards, with a state and a stack."""
    a = net.pick("float32", ranks=(2, 3))
    shape = net.values[a].shape
    short = [d for d in (0, len(shape) - 1) if shape[d] <= 10]
    if not short:
        raise Rejected("long")
    axis = net.some(short)
    inner = shape[:axis] + shape[axis + 1 :]
    body = _Body(net, inner)
    state = body.add("Add", body.add("Mul", "state", body.constant(np.float32(0.5))), "row")
    graph = body.graph(
        [("state", TensorProto.FLOAT, inner), ("row", TensorProto.FLOAT, inner)],
        [(state, TensorProto.FLOAT), (body.step(state), TensorProto.FLOAT)],
    )
    first = net.constant(inner, "float32")
    net.add(
        "Scan", [first, a], 2, body=graph, num_scan_inputs=1, scan_input_axes=[axis],
        scan_input_directions=[net.number(0, 1)], scan_output_directions=[net.number(0, 1)],
        scan_output_axes=[net.number(0, len(inner))],
    )  # fmt: skip


def branches(net: Net) -> None:
    """An If whose condition is data, both of whose branches make values of one shape."""
    flags = [n for n, v in net.values.items() if v.dtype == "bool" and v.shape == ()]
    flag = net.some(flags) if flags and net.coin() else net.input("bool", 0)
    shape = (net.number(1, 5), net.number(1, 9))
    graphs = []
    for _ in range(2):
        body = _Body(net, shape)
        graphs.append(body.graph([], [(body.step(body.numbers(*shape)), TensorProto.FLOAT)]))
    net.add("If", [flag], then_branch=graphs[0], else_branch=graphs[1])
