"""What a pass is, and what it may say while it runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, TypeVar

from ipucc.diagnostics import Diagnostic, JsonValue

if TYPE_CHECKING:
    import onnx_ir as ir

    from ipucc.target import Target

OptionValue: TypeAlias = "bool | int | float | str | tuple[OptionValue, ...]"


class Predict(Protocol):
    """What the planner predicts. Of a node as if it were alone on the chip: the node need not be in the graph, and its
    constants need no values. CompileError is raised for a node that cannot be lowered."""

    def __call__(self, node: "ir.Node") -> int:
        """Estimated cycles."""

    def floor(self, node: "ir.Node") -> int:
        """Cycles that no plan can be below, quickly: of block-sparse products those of the blocks, else 0."""

    def whole(self, model: "ir.Model") -> int:
        """Estimated cycles of a model, by a quick placement of all of its nodes."""


T = TypeVar("T", bound=OptionValue)


def option(default: T, help: str, *, choices: Sequence[T] = ()) -> T:
    """A field of a pass that is an option, with its help text and the values it may take (all, if none
    given)."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices)})


@dataclass(frozen=True)
class Pass:
    """One transformation of a graph. Its dataclass fields are its options, in pipeline text and in Python
    alike.

    A subclass is a frozen dataclass with a `name` (`[a-z][a-z0-9-]*`), a docstring that says what it
    guarantees, and `run`, which changes the model in place and returns whether it changed anything. Options
    are bool, int, float, str, tuples of these or unions, and all have defaults. A pass leaves a valid
    graph: names defined once and before their use, a type and a static shape on every value; the pass
    manager verifies it.
    """

    name: ClassVar[str]

    def run(self, model: "ir.Model", ctx: "PassContext") -> bool:
        """Changes the model; True if anything changed."""
        raise NotImplementedError(f"the pass {self.name} does not define run()")

    def files(self) -> tuple[str, ...]:
        """Files whose content the result depends on."""
        return ()

    def changed_options(self) -> dict[str, OptionValue]:
        """The options that differ from their defaults, in the order of the fields."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {f.name: values[f.name] for f in dataclasses.fields(self) if not _same(values[f.name], f.default)}


@dataclass
class PassContext:
    """What passes share during one run of a pipeline: remarks, and answers from the outside.

    `predict` is the planner's estimate of a node (None: nobody can say), `target` the machine that the model is
    compiled for (None: not known).
    """

    predict: "Predict | None" = None
    target: "Target | None" = None
    remarks: list[Diagnostic] = field(default_factory=list)
    pass_name: str = ""
    _seen: set[Diagnostic] = field(default_factory=set, repr=False)

    def passed(self, node: "ir.Node", message: str, *, id: str = "IPU0320", **data: JsonValue) -> None:
        """Records that the graph was changed at the node."""
        self._remark(id, node, message, (), data)

    def missed(
        self,
        node: "ir.Node",
        message: str,
        *,
        id: str = "IPU0321",
        help: Sequence[str] = (),
        **data: JsonValue,
    ) -> None:
        """Records why the graph could not be changed at the node, and what the user may do about it."""
        self._remark(id, node, message, help, data)

    def analysis(self, node: "ir.Node", message: str, *, id: str = "IPU0322", **data: JsonValue) -> None:
        """Records a finding."""
        self._remark(id, node, message, (), data)

    def _remark(
        self, id: str, node: "ir.Node", message: str, help: Sequence[str], data: Mapping[str, JsonValue]
    ) -> None:
        from ipucc.graph.edit import describe

        where = f"pass {self.pass_name}" if self.pass_name else None
        remark = Diagnostic(
            id, "remark", message, describe(node), node.op_type, where, help=tuple(help), data=dict(data)
        )
        if remark not in self._seen:
            self._seen.add(remark)
            self.remarks.append(remark)


def _same(a: OptionValue, b: object) -> bool:
    return type(a) is type(b) and a == b
