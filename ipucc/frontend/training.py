"""Ops of training steps: statistics of a BatchNormalization, and optimizers' updates of weights."""

from collections.abc import Callable, Sequence

import onnx_ir as ir

from ipucc.frontend.emit import Emitter, shape_or_none

__all__ = ["adagrad", "adam", "batch_statistics", "momentum"]

_FLOAT = ir.DataType.FLOAT
Update = Callable[["_Optimizer", Sequence[ir.Value]], Sequence[ir.Value]]


def batch_statistics(node: ir.Node) -> bool:
    """A BatchNormalization of training: normalised by its own batch, whose statistics move the running ones."""
    if not node.attributes.get_int("training_mode", 0):
        return False
    e = Emitter(node)
    x, scale, bias, mean, variance = node.inputs
    shape = shape_or_none(x)
    if x is None or shape is None or mean is None or variance is None:
        return False
    axes = e.ints(*(d for d in range(len(shape)) if d != 1))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    wide = e.cast(x, _FLOAT)
    centre = e.op("ReduceMean", wide, axes, keepdims=1)
    less = e.op("Sub", wide, centre)
    spread = e.op("ReduceMean", e.op("Mul", less, less), axes, keepdims=1)
    found = [e.op("Reshape", value, e.ints(-1)) for value in (centre, spread)]
    y = e.op("BatchNormalization", x, scale, bias, *(e.op("CastLike", value, mean) for value in found), epsilon=epsilon)
    kept = node.attributes.get_float("momentum", 0.9)
    moved = []
    for old, new in zip((mean, variance), found, strict=True):
        own = e.op("Mul", e.cast(old, _FLOAT), e.constant(kept, _FLOAT))
        moved.append(e.op("CastLike", e.op("Add", own, e.op("Mul", new, e.constant(1 - kept, _FLOAT))), old))
    e.finish(y, *moved)
    return True


class _Optimizer:
    """Writes the update of every tensor that a node of an optimizer has: R, T, then the tensors by kind."""

    def __init__(self, node: ir.Node) -> None:
        self.e, self.node = Emitter(node), node
        assert node.inputs[0] is not None
        self.kind = node.inputs[0].dtype or _FLOAT
        self.rate, count = node.inputs[0], node.inputs[1]
        assert count is not None
        self.count = self.e.cast(count, self.kind)

    def write(self, kinds: int, update: Update) -> bool:
        """`kinds` tensors go into every update; those that come out are results, kind by kind."""
        tensors = [value for value in self.node.inputs[2:] if value is not None]
        each = len(tensors) // kinds
        if each * kinds != len(tensors) or self.kind != _FLOAT:
            return False
        made = [update(self, [tensors[k * each + i] for k in range(kinds)]) for i in range(each)]
        self.e.finish(*(results[k] for k in range(len(made[0])) for results in made))
        return True

    def number(self, name: str, default: float = 0.0) -> float:
        return self.node.attributes.get_float(name, default)

    def scaled(self, factor: float, x: ir.Value) -> ir.Value:
        return self.e.op("Mul", x, self.e.constant(factor, self.kind))

    def regularised(self, x: ir.Value, gradient: ir.Value) -> ir.Value:
        factor = self.number("norm_coefficient")
        return self.e.op("Add", self.scaled(factor, x), gradient) if factor else gradient

    def begun(self, then: ir.Value, otherwise: ir.Value) -> ir.Value:
        """`then` behind the first step."""
        return self.e.op("Where", self.e.op("Greater", self.count, self.e.constant(0, self.kind)), then, otherwise)


def momentum(node: ir.Node) -> bool:
    """Stochastic gradient descent with momentum, plain or Nesterov's."""
    return _Optimizer(node).write(3, _momentum)


def adagrad(node: ir.Node) -> bool:
    """Rates by the squares of all gradients so far."""
    return _Optimizer(node).write(3, _adagrad)


def adam(node: ir.Node) -> bool:
    """Rates by moments of the gradient."""
    return _Optimizer(node).write(4, _adam)


def _momentum(o: _Optimizer, tensors: Sequence[ir.Value]) -> Sequence[ir.Value]:
    x, gradient, v = tensors
    e, alpha = o.e, o.number("alpha")
    g = o.regularised(x, gradient)
    moved = e.op("Add", o.scaled(alpha, v), o.begun(o.scaled(o.number("beta"), g), g))
    nesterov = o.node.attributes.get_string("mode", "standard") == "nesterov"
    step = e.op("Add", g, o.scaled(alpha, moved)) if nesterov else moved
    return e.op("Sub", x, e.op("Mul", o.rate, step)), moved


def _adagrad(o: _Optimizer, tensors: Sequence[ir.Value]) -> Sequence[ir.Value]:
    x, gradient, h = tensors
    e = o.e
    one = e.constant(1, o.kind)
    rate = e.op("Div", o.rate, e.op("Add", one, o.scaled(o.number("decay_factor"), o.count)))
    g = o.regularised(x, gradient)
    squares = e.op("Add", h, e.op("Mul", g, g))
    root = e.op("Add", e.op("Sqrt", squares), e.constant(o.number("epsilon", 1e-6), o.kind))
    return e.op("Sub", x, e.op("Div", e.op("Mul", rate, g), root)), squares


def _adam(o: _Optimizer, tensors: Sequence[ir.Value]) -> Sequence[ir.Value]:
    x, gradient, v, h = tensors
    e, alpha, beta = o.e, o.number("alpha", 0.9), o.number("beta", 0.999)
    one = e.constant(1, o.kind)
    g = o.regularised(x, gradient)
    first = e.op("Add", o.scaled(alpha, v), o.scaled(1 - alpha, g))
    second = e.op("Add", o.scaled(beta, h), o.scaled(1 - beta, e.op("Mul", g, g)))
    root = e.op("Add", e.op("Sqrt", second), e.constant(o.number("epsilon", 1e-6), o.kind))
    powers = [e.op("Sub", one, e.op("Pow", e.constant(b, o.kind), o.count)) for b in (alpha, beta)]
    rate = o.begun(e.op("Div", e.op("Mul", o.rate, e.op("Sqrt", powers[1])), powers[0]), o.rate)
    new = e.op("Sub", x, e.op("Mul", rate, e.op("Div", first, root)))
    after = o.number("norm_coefficient_post")
    return o.scaled(1 - after, new) if after else new, first, second
