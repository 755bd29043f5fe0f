"""What ipucc says to its users: diagnostics with stable ids, and the errors that carry them.

Importing this module is cheap (no onnx, no numpy), so the command line can use it before anything else
is loaded.
Ids are a promise: a released id keeps its meaning, a new problem gets a new id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "remark"]
JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"

IDS: dict[str, str] = {
    # 01xx: the model file and the front end
    "IPU0101": "the model file cannot be opened (missing, a folder, no permission)",
    "IPU0102": "the file is no ONNX model (another format, truncated)",
    "IPU0103": "the graph is empty: its outputs are computed by no node",
    "IPU0104": "the graph has a cycle, or a node stands before the producer of its operand",
    "IPU0105": "a value name is defined more than once",
    "IPU0106": "a file of external weights is missing or too short",
    "IPU0107": "a path of external weights leaves the folder of the model",
    "IPU0108": "the values of a weight are needed, but its data is absent",
    "IPU0109": "a symbolic dimension has no size",
    "IPU0110": "a dimension or input named in an option does not exist",
    "IPU0111": "a size given for a dimension or input is wrong or contradicts another",
    "IPU0112": "the opset of the model is not supported",
    "IPU0113": "the model cannot be converted to the working opset",
    "IPU0114": "shapes or types of the model contradict each other",
    "IPU0115": "a value has no static shape or no type",
    "IPU0116": "a function of the model cannot be inlined",
    "IPU0117": "an operand is defined nowhere",
    "IPU0118": "the graph is malformed",
    "IPU0119": "a value has a type that ipucc does not handle (sequence, optional, string, sparse)",
    "IPU0120": "a node has wrong attributes or a wrong number of operands",
    "IPU0121": "the text of a graph cannot be read",
    # 02xx: ops that are not supported
    "IPU0201": "the op is not supported",
    "IPU0202": "the op is supported, but not with this attribute or combination of operands",
    "IPU0203": "the op is supported, but not for this element type",
    "IPU0204": "the op needs a constant operand here",
    "IPU0205": "the op is supported, but not for this rank or shape",
    "IPU0206": "the size of a result depends on data",
    "IPU0207": "this form of Attention is not supported",
    # 03xx: passes and pipeline text
    "IPU0301": "the pipeline text is malformed",
    "IPU0302": "unknown pass",
    "IPU0303": "unknown option of a pass",
    "IPU0304": "wrong value for an option of a pass",
    "IPU0305": "two providers of the same pass name",
    "IPU0306": "a file or package of passes cannot be loaded",
    "IPU0307": "a pass stands where the passes before it do not allow it",
    "IPU0308": "options exclude each other",
    "IPU0309": "a pass left an invalid graph behind",
    "IPU0310": "a pass failed with an exception",
    "IPU0311": "a rewrite changed the type of a result",
    "IPU0312": "a file of masks cannot be read",
    "IPU0313": "a mask is for no weight that can be block-sparse",
    "IPU0314": "a mask has the wrong shape, element type or values",
    "IPU0315": "calibration failed: the model cannot be run on the inputs given for it",
    "IPU0316": "no choice of blocks keeps to a budget of cycles",
    "IPU0320": "remark: a pass changed the graph",
    "IPU0321": "remark: a pass could not change the graph, with the reason",
    "IPU0322": "remark: a finding of an analysis",
    "IPU0324": "an op does not take an operand whose extent depends on data",
    "IPU0325": "remark: the machine does not have an element type, and tiles hold it in another one",
    "IPU0330": "a loop that never ends, or makes no trip and has results",
    "IPU0331": "the size of a loop's result is the number of its trips, which data decides",
    "IPU0332": "the branches of an If give results of different types or shapes",
    "IPU0333": "a loop changes the type or shape of what it carries",
    "IPU0334": "control flow that data decides, where one straight graph is asked for",
    # 04xx: planning, placement, lowering
    "IPU0401": "the weights alone exceed the memory of the target",
    "IPU0402": "tile memory exceeded",
    "IPU0403": "no plan of an op fits on the target",
    "IPU0404": "there is no placement within the memory of the tiles",
    "IPU0405": "no placement was found within the limits of the search",
    "IPU0406": "no addresses were found for the buffers of the tiles",
    "IPU0407": "the code of a tile exceeds the executable memory",
    "IPU0408": "the tile graph breaks a rule of its verifier",
    "IPU0409": "an integer constant does not fit in 32 bits",
    "IPU0410": "an operand cannot be made block-sparse",
    "IPU0411": "a layer is kept dense because sparsity does not pay",
    "IPU0412": "a constant was clamped to the range of its new element type",
    "IPU0413": "remark: a tensor is computed again before a late reader, so that the model fits",
    "IPU0414": "remark: sparse products exchange the same whatever their patterns, since code of their own did not fit",
    "IPU0415": "remark: compute sets run slower, since their operands found no place in the memory that they want",
    # 05xx: the program file
    "IPU0501": "the program file cannot be opened",
    "IPU0502": "the file is no ipucc program",
    "IPU0503": "the program file is damaged",
    "IPU0504": "the program file has a version that this ipucc does not read",
    "IPU0505": "the program file exceeds a limit of the reader (sizes, counts, compression ratio)",
    "IPU0506": "a field of the program file is missing or has the wrong type or value",
    "IPU0507": "the program refers to an address, tile or buffer outside the machine",
    "IPU0508": "a result file cannot be written",
    "IPU0509": "the program breaks a rule of its verifier",
    "IPU0510": "the program has no weights and can only be timed",
    "IPU0511": "the program uses a codelet that is not registered in this process",
    # 06xx: inputs and options of a run
    "IPU0601": "an input is missing",
    "IPU0602": "unknown input",
    "IPU0603": "an input has the wrong shape",
    "IPU0604": "an input has the wrong element type",
    "IPU0605": "a file of inputs cannot be read",
    "IPU0606": "the text of an input option is malformed",
    "IPU0607": "the numbers differ from the reference",
    "IPU0608": "two references disagree",
    "IPU0609": "the reference could not be computed",
    "IPU0610": "an input does not fit in 32 bits",
    "IPU0611": "checked mode found a read of stale or foreign memory",
    "IPU0612": "an index read from data lies outside its axis",
    "IPU0613": "options of a run exclude each other",
    "IPU0614": "a value given for an option is wrong",
    "IPU0615": "no op comes from the node that an option names",
    "IPU0616": "warning: the folder of the cache cannot be used",
    "IPU0621": "the program has no such pattern",
    "IPU0622": "a mask or the values of a pattern have the wrong shape or element type",
    "IPU0623": "a pattern is beyond the capacity that the program was compiled for",
    # 07xx: machine files
    "IPU0701": "unknown target",
    "IPU0702": "a machine file cannot be read",
    "IPU0703": "a field of a machine file is missing",
    "IPU0704": "a field of a machine file has the wrong type or value",
    "IPU0705": "a machine file has an unknown field",
    "IPU0706": "the target has several chips, and a model is placed on one",
    # 071x: what data decides in a run
    "IPU0710": "a conditional loop does not end",
    "IPU0711": "no loop and no If of the program has this name",
    "IPU0712": "a decision that the program cannot take",
    # 08xx: sweeps
    "IPU0801": "labelled data does not fit the model",
    "IPU0802": "an optional library is not installed",
    "IPU0803": "a scheduler of dask cannot be used",
    "IPU0804": "a process that computed points of a sweep has ended",
    "IPU0805": "a process of a sweep sees other files or another ipucc",
    # 09xx: internal
    "IPU0901": "internal error of ipucc",
    "IPU0902": "an internal check failed",
    "IPU0903": "this machine has too little memory for the compilation or the simulation",
    # 10xx: the program builder
    "IPU1001": "a variable or its tile mapping fits neither its shape nor the target",
    "IPU1002": "a part of a variable does not exist, or a copy is between other shapes or types",
    "IPU1003": "a copy moves parts of words",
    "IPU1004": "a vertex is bound to a cell that its tile does not hold",
    "IPU1005": "the axes of a codelet fit no vertex",
    "IPU1006": "parts of a program do not fit together (another builder, two of one name, an open loop)",
    "IPU1007": "a variable has no halos to exchange",
}


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One problem or remark. `node` and `op` are those of the ONNX model, `where` is a file, pass or option.

    Raises ValueError for an id that IDS does not list.
    """

    id: str
    severity: Severity
    message: str
    node: str | None = None
    op: str | None = None
    where: str | None = None
    notes: tuple[str, ...] = ()
    help: tuple[str, ...] = ()
    data: Mapping[str, JsonValue] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.id not in IDS:
            raise ValueError(f"diagnostic id {self.id!r} is not in the table IDS")

    def render(self) -> str:
        """Text for a terminal, without colour and without a final newline.

            error[IPU0402]: tile memory exceeded
              --> resnet50.onnx: node "layer3.0/conv2" (Conv)
               |  tile 113 needs 731 KiB, has 624 KiB
               = note: 37 of 1472 tiles overflow
               = help: try --precision fp16

        Further lines of a message stand behind a bar, further lines of a note are indented below it.
        """
        first, *rest = self.message.splitlines() or [""]
        head = f"{self.severity}[{self.id}]"
        lines = [f"{head}: {first}"]
        if place := self._place():
            lines.append(f"  --> {place}")
        lines += [f"   |  {line}" for line in rest]
        for label, texts in (("note", self.notes), ("help", self.help)):
            for text in texts:
                lines.append(f"   = {label}: " + text.replace("\n", "\n" + " " * 11))
        return "\n".join(lines)

    def to_json(self) -> dict[str, JsonValue]:
        """The same as plain JSON values; every field is present."""
        return {
            "id": self.id,
            "severity": self.severity,
            "message": self.message,
            "node": self.node,
            "op": self.op,
            "where": self.where,
            "notes": list(self.notes),
            "help": list(self.help),
            "data": dict(self.data),
        }

    def _place(self) -> str:
        node = f'node "{self.node}"' if self.node is not None else ""
        if self.op is not None:
            node = f"{node} ({self.op})" if node else f"op {self.op}"
        return ": ".join(part for part in (self.where, node) if part)


class CompileError(Exception):
    """The user's model, file or option is at fault; `diagnostics` says how. `exit_code` is the process's."""

    exit_code: int = 1

    def __init__(self, diagnostics: Diagnostic | Sequence[Diagnostic]) -> None:
        listed = (diagnostics,) if isinstance(diagnostics, Diagnostic) else tuple(diagnostics)
        if not listed:
            raise ValueError("a CompileError needs at least one diagnostic")
        super().__init__(listed)
        self.diagnostics: tuple[Diagnostic, ...] = listed

    def __str__(self) -> str:
        return "\n".join(d.render() for d in self.diagnostics)


class DoesNotFit(CompileError):
    """The model is valid, but the target has too little memory for it."""

    exit_code = 3


class WrongUsage(CompileError):
    """The text of an option is malformed, or options exclude each other."""

    exit_code = 2


class NumbersDiffer(CompileError):
    """The program ran, and its numbers differ from the reference's."""

    exit_code = 4


_CLASSES: dict[str, type[CompileError]] = {
    **dict.fromkeys(("IPU0401", "IPU0402", "IPU0403", "IPU0404", "IPU0405", "IPU0406", "IPU0407"), DoesNotFit),
    **dict.fromkeys(("IPU0301", "IPU0308", "IPU0606", "IPU0613"), WrongUsage),
    "IPU0607": NumbersDiffer,
}


def error(
    id: str,
    message: str,
    *,
    node: str | None = None,
    op: str | None = None,
    where: str | None = None,
    notes: Sequence[str] = (),
    help: Sequence[str] = (),
    data: Mapping[str, JsonValue] | None = None,
) -> CompileError:
    """An error of one diagnostic, to be raised by the caller; its class (and exit code) follows from the id.

    Raises ValueError for an id that IDS does not list.
    """
    diagnostic = Diagnostic(id, "error", message, node, op, where, tuple(notes), tuple(help), data or {})
    return _CLASSES.get(id, CompileError)(diagnostic)
