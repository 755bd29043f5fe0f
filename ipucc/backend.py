"""ONNX's standard backend interface (`onnx.backend.base`), by programs compiled for a simulated machine.

    import ipucc.backend as backend

    rep = backend.prepare(model, target="c600")
    (y,) = rep.run([x])

ONNX's own tests run against it, with what is refused skipped:

    class Tested(ipucc.backend.IpuBackend):
        options = {"target": "gc200", "solver": "greedy", "effort": "fast"}
        refusal = ipucc.backend.SkippedRefusal

    globals().update(onnx.backend.test.BackendTest(Tested, __name__).test_cases)
"""

import unittest
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, ClassVar, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from ipucc.api import Executable, compile
from ipucc.diagnostics import CompileError, Diagnostic, error
from ipucc.frontend.sizing import sizing_inputs

__all__ = [
    "IpuBackend",
    "IpuBackendRep",
    "Refusal",
    "SkippedRefusal",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]

DEVICES: Final = ("IPU", "CPU")
"""Both name the simulated machine: `CPU` is what onnx asks for unless told otherwise."""

_ERRORS: Final = ("IPU06", "IPU09")
_WIDE_INPUT: Final = "IPU0610"

Feeds = Mapping[str, Any] | Sequence[Any] | NDArray[Any]


class Refusal(CompileError):
    """ipucc does not take this model, or an input of it; `diagnostics` says why, with every node at fault."""


class SkippedRefusal(Refusal, unittest.SkipTest):
    """A refusal that unittest and pytest count as a skipped test."""


class IpuBackendRep(BackendRep):
    """A model that is ready to run. `inputs` and `outputs` are the names of what a run takes and gives, in order.

    A model is compiled when it is prepared. One that takes shapes, axes or counts as inputs, or has inputs of unknown
    shape, is compiled by the first run, with these inputs bound to their values, and again for every other value.
    """

    def __init__(self, model: onnx.ModelProto, options: Mapping[str, Any], refusal: type[Refusal] = Refusal) -> None:
        graph = model.graph
        held = {tensor.name for tensor in graph.initializer}
        self.inputs = tuple(value.name for value in graph.input if value.name not in held)
        self.outputs = tuple(value.name for value in graph.output)
        self._all_inputs = tuple(value.name for value in graph.input)
        self._model = model
        self._held = held
        self._options = dict(options)
        self._refusal = refusal
        self._bound = sizing_inputs(graph)
        self._open = {value.name for value in graph.input if not _static(value)}
        self._compiled: dict[object, Executable] = {}
        if not (self._bound | self._open) & set(self.inputs):
            self._executable({}, {}, frozenset())

    @property
    def bound(self) -> tuple[str, ...]:
        """The inputs from which sizes follow: their values, if they are numbers or vectors, are bound in compiling."""
        return tuple(name for name in self._all_inputs if name in self._bound)

    def run(self, inputs: Feeds, **kwargs: Any) -> tuple[Any, ...]:
        """Run the model once on inputs in the order of the model, or by name; values of initializers that are inputs as
        well may be left out. The result is a tuple that takes names of outputs as indices, too.

        Raises a Refusal for a model that cannot be compiled with these inputs, CompileError for wrong inputs.
        """
        feeds = self._feeds(inputs)
        given = {name: array for name, array in feeds.items() if name in self._bound and array.ndim < 2}
        shapes = {name: feeds[name].shape for name in feeds if name in self._open and name not in given}
        executable = self._executable(given, shapes, self._held & set(feeds))
        try:
            result = executable.run({name: array for name, array in feeds.items() if name not in given})
        except CompileError as failure:
            raise self._judged(failure) from failure
        values = [result.outputs[name] for name in self.outputs]
        named: tuple[Any, ...] = namedtupledict("Outputs", self.outputs)(*values)
        return named

    def _feeds(self, inputs: Feeds) -> dict[str, NDArray[Any]]:
        if isinstance(inputs, Mapping):
            named = dict(inputs)
        else:
            values = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            names = self._all_inputs if len(values) == len(self._all_inputs) else self.inputs
            if len(values) != len(names):
                listed = ", ".join(names)
                raise error("IPU0601", f"{len(values)} inputs are given, the model takes {len(names)}: {listed}")
            named = dict(zip(names, values, strict=True))
        other = [name for name, value in named.items() if value is None or isinstance(value, list | tuple | dict)]
        if other:
            raise self._refusal(
                [Diagnostic("IPU0119", "error", f'input "{name}" is a sequence or an optional') for name in other]
            )
        return {name: np.asarray(value) for name, value in named.items()}

    def _executable(
        self, bind: Mapping[str, NDArray[Any]], shapes: Mapping[str, tuple[int, ...]], replaced: Set[str]
    ) -> Executable:
        """The program for these values and shapes of inputs; initializers that are `replaced` are inputs in it."""
        values = tuple((name, array.dtype.str, array.shape, array.tobytes()) for name, array in sorted(bind.items()))
        key = (values, tuple(sorted(shapes.items())), tuple(sorted(replaced)))
        if key not in self._compiled:
            model = _without(self._model, replaced) if replaced else self._model
            options = dict(self._options)
            options["bind"] = {**options.get("bind", {}), **bind}
            options["input_shapes"] = {**options.get("input_shapes", {}), **shapes}
            try:
                self._compiled[key] = compile(model, **options)
            except CompileError as failure:
                raise self._judged(failure) from failure
        return self._compiled[key]

    def _judged(self, failure: CompileError) -> CompileError:
        """The failure as a refusal, unless the caller or ipucc itself is at fault."""
        wrong = any(d.id.startswith(_ERRORS) and d.id != _WIDE_INPUT for d in failure.diagnostics)
        return failure if wrong else self._refusal(failure.diagnostics)


class IpuBackend(Backend):
    """The backend. A subclass may set `options`, keywords of `ipucc.compile` for every model, and `refusal`, the
    exception that says that ipucc does not take a model; keywords of a call go before `options`."""

    options: ClassVar[Mapping[str, Any]] = {}
    refusal: ClassVar[type[Refusal]] = Refusal

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "IPU", **kwargs: Any) -> IpuBackendRep:
        """Compile a model; keywords are those of `ipucc.compile`. The tolerances that onnx's tests pass on (`rtol`,
        `atol`) mean nothing here.

        Raises a Refusal for a model that ipucc does not take, CompileError IPU0614 for a device that it is not.
        """
        if not cls.supports_device(device):
            raise error("IPU0614", f"the backend has no device {device!r}", help=[f"it has {' and '.join(DEVICES)}"])
        options = {**cls.options, **{name: v for name, v in kwargs.items() if name not in ("rtol", "atol")}}
        return IpuBackendRep(model, options, cls.refusal)

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Feeds, device: str = "IPU", **kwargs: Any) -> tuple[Any, ...]:
        """Compile a model and run it once; the errors are those of `prepare` and of `IpuBackendRep.run`."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Feeds,
        device: str = "IPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Compile a single node for these inputs and run it: a value for every operand that the node names, in order
        or by name. Types and shapes of the results are inferred; `outputs_info` is not needed.

        Of the keywords, `opset_version` is that of the node's domain, the newest that onnx knows unless given; the
        others are those of `prepare`. Raises what `run_model` does.
        """
        names = list(dict.fromkeys(name for name in node.input if name))
        values = [inputs] if isinstance(inputs, np.ndarray) else inputs
        feeds = dict(values) if isinstance(values, Mapping) else dict(zip(names, values, strict=False))
        ports = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(v).dtype), np.shape(v))
            for name, v in feeds.items()
        ]
        results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        newest = onnx.defs.onnx_opset_version()
        version = kwargs.pop("opset_version", None) or (1 if node.domain else newest)
        imports = [helper.make_opsetid(node.domain, version)]
        if node.domain:
            imports.append(helper.make_opsetid("", newest))
        model = helper.make_model(helper.make_graph([node], "node", ports, results), opset_imports=imports)
        return cls.run_model(model, feeds, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether a device is the simulated machine: `IPU` or `CPU`, with no number or 0."""
        name, _, number = device.partition(":")
        return name in DEVICES and number in ("", "0")


def _without(model: onnx.ModelProto, names: Set[str]) -> onnx.ModelProto:
    """The model without the initializers of these names."""
    less = onnx.ModelProto()
    less.CopyFrom(model)
    del less.graph.initializer[:]
    less.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name not in names)
    return less


def _static(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim)


is_compatible: Callable[..., bool] = IpuBackend.is_compatible
prepare = IpuBackend.prepare
run_model = IpuBackend.run_model
run_node = IpuBackend.run_node
supports_device = IpuBackend.supports_device
