"""RNN, GRU and LSTM in products and elementwise ops, as ONNX defines them.

The products with the inputs of all steps are one MatMul. What depends on the state is the body of a Scan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Way:
    """What the steps of a direction are made of, or those of both at once: products with the inputs [steps, ..., batch,
    gates x hidden], the weights of the state, what is added to their product, peepholes, the first state and cell,
    which step each sequence has, activations."""

    inputs: ir.Value
    back: ir.Value
    bias: ir.Value | None
    peep: ir.Value | None
    h: ir.Value
    c: ir.Value
    alive: ir.Value | None
    functions: tuple[str, ...]


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
        ways = [self.way(x, d) for d in range(len(self.directions))]
        if len(ways) == 2 and ways[0].functions == ways[1].functions:
            found = self.both(*ways)
        else:
            found = [self.loop(way, d, self.directions[d]) for d, way in enumerate(ways)]
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

    def way(self, x: ir.Value | None, d: int) -> "_Way":
        """What the steps of one direction are made of. Weights are prepared once, outside of the loop."""
        e = self.e
        gates = _GATES[self.kind]
        w, r = self.part(1, d), self.part(2, d)
        inputs = e.op("MatMul", x, e.op("Transpose", w, perm=[1, 0]))
        bias, state_bias = self.biases(d, gates)
        if bias is not None:
            inputs = e.op("Add", inputs, bias)
        h = self.initial(5, d)
        c = self.initial(6, d) if self.kind == "LSTM" else h
        count = len(_DEFAULTS[self.kind])
        return _Way(
            inputs, e.op("Transpose", r, perm=[1, 0]), state_bias, self.part(7, d) if self.kind == "LSTM" else None,
            h, c, self.alive(), tuple(self.functions[d * count : (d + 1) * count]),
        )  # fmt: skip

    def both(self, one: "_Way", two: "_Way") -> list[tuple[ir.Value, ir.Value, ir.Value]]:
        """Both directions in the same steps: states [2, batch, hidden], and the second one of them turned in time."""
        e = self.e

        def turned(value: ir.Value) -> ir.Value:
            return e.op("Gather", value, e.constant(np.arange(self.steps)[::-1].copy()), axis=0)

        def pair(a: ir.Value, b: ir.Value, *axes: int) -> ir.Value:
            return self.joined([e.op("Unsqueeze", v, e.ints(*axes)) for v in (a, b)], axes[0])

        def given(a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
            return None if a is None or b is None else pair(a, b, 0, 1)

        alive = None if one.alive is None else pair(one.alive, turned(one.alive), 1)
        way = _Way(
            pair(one.inputs, turned(two.inputs), 1), pair(one.back, two.back, 0), given(one.bias, two.bias),
            given(one.peep, two.peep), pair(one.h, two.h, 0), pair(one.c, two.c, 0), alive, one.functions,
        )  # fmt: skip
        ys, h, c = self.loop(way, 0, False)
        found = []
        for d in range(2):
            at = e.constant(np.int64(d))
            shown = e.op("Gather", ys, at, axis=1)
            last_h, last_c = (e.op("Gather", v, at, axis=0) for v in (h, c))
            found.append((turned(shown) if d else shown, last_h, last_c))
        return found

    def loop(self, way: "_Way", d: int, backwards: bool) -> tuple[ir.Value, ir.Value, ir.Value]:
        """States of all steps, the last state and, of an LSTM, the last cell."""
        f = way.functions
        split_back = self.split(way.back, 3, -1) if self.kind == "GRU" else ()
        peep = None if way.peep is None else self.split(way.peep, 3, -1)

        def step(now: ir.Value, h: ir.Value, c: ir.Value, live: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value]:
            """(shown, new state, new cell)."""
            if self.kind == "RNN":
                new_h, new_c = self.rnn(now, h, way.back, f), c
            elif self.kind == "GRU":
                new_h, new_c = self.gru(now, h, way.back, split_back, way.bias, f), c
            else:
                new_h, new_c = self.lstm(now, h, c, way.back, peep, f)
            if live is None:
                return new_h, new_h, new_c
            shown = self.e.op("Where", live, new_h, self.e.constant(0.0, self.dtype))
            return shown, self.e.op("Where", live, new_h, h), self.e.op("Where", live, new_c, c)

        return self.scan(step, way, d, backwards)

    def scan(self, step: Step, way: "_Way", d: int, backwards: bool) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The steps as a Scan over the inputs."""
        e, states = self.e, [way.h, way.c] if self.kind == "LSTM" else [way.h]
        scanned = [way.inputs] if way.alive is None else [way.inputs, way.alive]
        names = [f"{e.prefix}/step{d}/{n}" for n in ("h", "c")[: len(states)] + ("x", "alive")[: len(scanned)]]
        formal = [ir.Value(name=n) for n in names]
        body = ir.Graph(formal, [], nodes=[], name=f"step{d}", opset_imports=dict(e.graph.opset_imports))
        held, given = formal[: len(states)], formal[len(states) :]
        self.e = BodyEmitter(e, body)
        shown, new_h, new_c = step(given[0], held[0], held[-1], given[1] if way.alive is not None else None)
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
        xz, xr, xh = self.split(x, 3, -1)
        if self.node.attributes.get_int("linear_before_reset", 0):
            product = e.op("MatMul", h, back)
            if bias is not None:
                product = e.op("Add", product, bias)
            hz, hr, hh = self.split(product, 3, -1)
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
        i, o, forget, g = self.split(e.op("Add", x, e.op("MatMul", h, back)), 4, -1)
        if peep is not None:
            i, forget = e.op("Add", i, e.op("Mul", peep[0], c)), e.op("Add", forget, e.op("Mul", peep[2], c))
        new = e.op("Add", e.op("Mul", e.op(f[0], forget), c), e.op("Mul", e.op(f[0], i), e.op(f[1], g)))
        if peep is not None:
            o = e.op("Add", o, e.op("Mul", peep[1], new))
        return e.op("Mul", e.op(f[0], o), e.op(f[2], new)), new
