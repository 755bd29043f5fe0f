"""RNN, GRU and LSTM in products and elementwise ops, as ONNX defines them.

The products with the inputs of all steps are one MatMul. What depends on the state is the body of a Scan.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from ipucc.frontend.emit import BodyEmitter, Emitter, constant_of, operand, shape_or_none

__all__ = ["recurrent"]

_GATES: Final = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS: Final = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_PLAIN: Final = frozenset(("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus", "HardSigmoid", "Elu", "LeakyRelu"))
"""Activations with the same defaults as the op of the same name."""


def recurrent(node: ir.Node) -> bool:
    """Write out a recurrent op; False for clipping, coupled gates and activations with parameters of their own."""
    attributes = node.attributes
    refused = ("clip", "activation_alpha", "activation_beta")
    functions = attributes.get_strings("activations", [])
    shape = shape_or_none(node.inputs[0])
    coupled = attributes.get_int("input_forget", 0) == 1
    if any(name in attributes for name in refused) or coupled or shape is None:
        return False
    if any(f not in _PLAIN for f in functions):
        return False
    return _Recurrence(node, shape, list(functions)).write()


Step = Callable[[ir.Value, ir.Value, ir.Value, ir.Value | None], tuple[ir.Value, ir.Value, ir.Value]]


class _Recurrence:
    def __init__(self, node: ir.Node, shape: tuple[int, ...], functions: list[str]) -> None:
        self.node, self.e = node, Emitter(node)
        self.batch_first = bool(node.attributes.get_int("layout", 0))
        first, second, self.features = shape
        self.steps, self.batch = (second, first) if self.batch_first else (first, second)
        self.kind = node.op_type
        self.directions = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[
            node.attributes.get_string("direction", "forward")
        ]
        self.functions = functions or _DEFAULTS[self.kind] * len(self.directions)
        weights = shape_or_none(operand(node, 2))
        assert weights is not None
        self.hidden = weights[2]
        x = node.inputs[0]
        assert x is not None
        self.dtype = x.dtype

    def write(self) -> bool:
        e, node = self.e, self.node
        if self.steps < 1:
            return False
        x = node.inputs[0]
        if self.batch_first:
            x = e.op("Transpose", x, perm=[1, 0, 2])
        found = [self.direction(x, d, backwards) for d, backwards in enumerate(self.directions)]
        # [steps, directions, batch, hidden], and the last states [directions, batch, hidden].
        states = [e.op("Unsqueeze", ys, e.ints(1)) for ys, _, _ in found]
        y = self.joined(states, 1)
        ends = ([h for _, h, _ in found], [c for _, _, c in found])
        last = [self.joined([e.op("Unsqueeze", value, e.ints(0)) for value in values], 0) for values in ends]
        if self.batch_first:
            y = e.op("Transpose", y, perm=[2, 0, 1, 3])
            last = [e.op("Transpose", v, perm=[1, 0, 2]) for v in last]
        e.finish(y, *(last if self.kind == "LSTM" else last[:1]))
        return True

    def joined(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        return self.e.op("Concat", *values, axis=axis) if len(values) > 1 else values[0]

    def part(self, index: int, direction: int) -> ir.Value | None:
        """The part of an operand that belongs to a direction."""
        value = operand(self.node, index)
        return None if value is None else self.e.op("Gather", value, self.e.constant(np.int64(direction)), axis=0)

    def initial(self, index: int, direction: int) -> ir.Value:
        e, value = self.e, operand(self.node, index)
        if value is None:
            return e.constant(np.zeros((self.batch, self.hidden)), self.dtype)
        return e.op("Gather", value, e.constant(np.int64(direction)), axis=1 if self.batch_first else 0)

    def direction(self, x: ir.Value | None, d: int, backwards: bool) -> tuple[ir.Value, ir.Value, ir.Value]:
        """States of all steps [steps, batch, hidden], the last state and, of an LSTM, the last cell."""
        e = self.e
        gates = _GATES[self.kind]
        w, r = self.part(1, d), self.part(2, d)
        inputs = e.op("MatMul", x, e.op("Transpose", w, perm=[1, 0]))
        bias, state_bias = self.biases(d, gates)
        if bias is not None:
            inputs = e.op("Add", inputs, bias)
        back = e.op("Transpose", r, perm=[1, 0])
        h = self.initial(5, d)
        c = self.initial(6, d) if self.kind == "LSTM" else h
        peep = self.split(self.part(7, d), 3, 0) if self.kind == "LSTM" and operand(self.node, 7) is not None else None
        count = len(_DEFAULTS[self.kind])
        f = self.functions[d * count : (d + 1) * count]
        alive = self.alive()
        # Weights are prepared once, outside of the loop.
        split_back = self.split(back, 3, 1) if self.kind == "GRU" else ()

        def step(now: ir.Value, h: ir.Value, c: ir.Value, live: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value]:
            """(shown, new state, new cell)."""
            if self.kind == "RNN":
                new_h, new_c = self.rnn(now, h, back, f), c
            elif self.kind == "GRU":
                new_h, new_c = self.gru(now, h, back, split_back, state_bias, f), c
            else:
                new_h, new_c = self.lstm(now, h, c, back, peep, f)
            if live is None:
                return new_h, new_h, new_c
            shown = self.e.op("Where", live, new_h, self.e.constant(0.0, self.dtype))
            return shown, self.e.op("Where", live, new_h, h), self.e.op("Where", live, new_c, c)

        return self.loop(step, inputs, h, c, alive, d, backwards)

    def loop(
        self, step: Step, inputs: ir.Value, h: ir.Value, c: ir.Value, alive: ir.Value | None, d: int, backwards: bool
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The steps as a Scan over the inputs."""
        e, states = self.e, [h, c] if self.kind == "LSTM" else [h]
        scanned = [inputs] if alive is None else [inputs, alive]
        names = [f"{e.prefix}/step{d}/{n}" for n in ("h", "c")[: len(states)] + ("x", "alive")[: len(scanned)]]
        formal = [ir.Value(name=n) for n in names]
        body = ir.Graph(formal, [], nodes=[], name=f"step{d}", opset_imports=dict(e.graph.opset_imports))
        held, given = formal[: len(states)], formal[len(states) :]
        self.e = BodyEmitter(e, body)
        shown, new_h, new_c = step(given[0], held[0], held[-1], given[1] if alive is not None else None)
        body.outputs.extend([new_h, *([new_c] if self.kind == "LSTM" else []), self.e.op("Identity", shown)])
        self.e = e
        scan = ir.node(
            "Scan", [*states, *scanned],
            {"body": body, "num_scan_inputs": len(scanned), "scan_input_directions": [int(backwards)] * len(scanned),
             "scan_output_directions": [int(backwards)]},
            num_outputs=len(states) + 1, name=f"{e.prefix}/steps{d}", metadata_props=dict(self.node.metadata_props),
        )  # fmt: skip
        for i, value in enumerate(scan.outputs):
            value.name = f"{scan.name}.{i}"
        e.graph.insert_before(self.node, scan)
        return scan.outputs[-1], scan.outputs[0], scan.outputs[-2]

    def biases(self, d: int, gates: int) -> tuple[ir.Value | None, ir.Value | None]:
        """What is added to the products with the inputs, and to those with the state (of a GRU that resets behind the
        product)."""
        both = self.part(3, d)
        if both is None:
            return None, None
        of_input, of_state = self.split(both, 2, 0)
        if self.kind != "GRU" or not self.node.attributes.get_int("linear_before_reset", 0):
            return self.e.op("Add", of_input, of_state), None
        return of_input, of_state

    def alive(self) -> ir.Value | None:
        """Which step each sequence has [steps, batch, 1], None where all have all."""
        value = operand(self.node, 4)
        known = constant_of(value)
        if value is None or (known is not None and (known >= self.steps).all()):
            return None
        places = self.e.constant(np.arange(self.steps, dtype=np.int32).reshape(-1, 1, 1))
        return self.e.op("Greater", self.e.op("Reshape", value, self.e.ints(1, self.batch, 1)), places)

    def split(self, value: ir.Value | None, parts: int, axis: int) -> Sequence[ir.Value]:
        return self.e.ops("Split", value, outputs=parts, axis=axis, num_outputs=parts)

    def rnn(self, x: ir.Value, h: ir.Value, back: ir.Value, f: Sequence[str]) -> ir.Value:
        return self.e.op(f[0], self.e.op("Add", x, self.e.op("MatMul", h, back)))

    def gru(
        self,
        x: ir.Value,
        h: ir.Value,
        back: ir.Value,
        parts: Sequence[ir.Value],
        bias: ir.Value | None,
        f: Sequence[str],
    ) -> ir.Value:
        e = self.e
        xz, xr, xh = self.split(x, 3, 1)
        if self.node.attributes.get_int("linear_before_reset", 0):
            product = e.op("MatMul", h, back)
            if bias is not None:
                product = e.op("Add", product, bias)
            hz, hr, hh = self.split(product, 3, 1)
            z, r = e.op(f[0], e.op("Add", xz, hz)), e.op(f[0], e.op("Add", xr, hr))
            new = e.op(f[1], e.op("Add", xh, e.op("Mul", r, hh)))
        else:
            bz, br, bh = parts
            z = e.op(f[0], e.op("Add", xz, e.op("MatMul", h, bz)))
            r = e.op(f[0], e.op("Add", xr, e.op("MatMul", h, br)))
            new = e.op(f[1], e.op("Add", xh, e.op("MatMul", e.op("Mul", r, h), bh)))
        # (1 - z) * new + z * h
        return e.op("Add", new, e.op("Mul", z, e.op("Sub", h, new)))

    def lstm(
        self, x: ir.Value, h: ir.Value, c: ir.Value, back: ir.Value, peep: Sequence[ir.Value] | None, f: Sequence[str]
    ) -> tuple[ir.Value, ir.Value]:
        e = self.e
        i, o, forget, g = self.split(e.op("Add", x, e.op("MatMul", h, back)), 4, 1)
        if peep is not None:
            i, forget = e.op("Add", i, e.op("Mul", peep[0], c)), e.op("Add", forget, e.op("Mul", peep[2], c))
        new = e.op("Add", e.op("Mul", e.op(f[0], forget), c), e.op("Mul", e.op(f[0], i), e.op(f[1], g)))
        if peep is not None:
            o = e.op("Add", o, e.op("Mul", peep[1], new))
        return e.op("Mul", e.op(f[0], o), e.op(f[2], new)), new
