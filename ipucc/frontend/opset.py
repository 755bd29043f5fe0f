"""Bringing a model to the working opset.

Older models are converted to opset 26, the newest that onnxruntime has, so that it stays a reference for them;
26 to 28 are taken as they are (27 and 28 change few ops, and none of those in a way that ipucc must tell apart).
"""

from functools import cache
from typing import Final

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx.defs import OpSchema, SchemaError

from ipucc.diagnostics import error
from ipucc.frontend.old_scan import split_scans
from ipucc.frontend.origin import origins, set_origins
from ipucc.graph.onnx_api import restore, strip

WORKING_OPSET = 26
NEWEST_OPSET = 28
# A domain that the converter knows nothing of, so that it leaves the nodes in it alone.
_HIDDEN = "ipucc.hidden"
_MIN_IR_VERSION = 10
# Whether the schemas of an op are alike says whether it means the same from this opset on, with two exceptions: the
# number of a Split's results was told by its node, and where a RoiAlign takes its samples had another default.
_COMPARABLE: Final = 7
_REWRITTEN: Final = frozenset({"Split", "RoiAlign"})


def raise_ir_version(model: ir.Model) -> None:
    """Use a file version under which initializers need not be inputs too."""
    model.ir_version = max(model.ir_version or 0, _MIN_IR_VERSION)


def complete_imports(model: ir.Model) -> None:
    """Import every domain that is used, `ai.onnx` being the empty one. Raises IPU0112 for a too new opset."""
    for imports in (model.graph.opset_imports, *(f.opset_imports for f in model.functions.values())):
        if "ai.onnx" in imports:
            imports.setdefault("", imports.pop("ai.onnx"))
    model.graph.opset_imports.setdefault("", WORKING_OPSET)
    for node in model.graph.all_nodes():
        model.graph.opset_imports.setdefault(node.domain, 1)
    version = model.graph.opset_imports[""]
    if not 1 <= version <= NEWEST_OPSET:
        raise error(
            "IPU0112",
            f"the model uses opset {version}; ipucc reads opsets up to {NEWEST_OPSET}",
            help=[f"export the model with opset {WORKING_OPSET} or older"],
        )


def convert_opset(model: ir.Model) -> ir.Model:
    """The model at WORKING_OPSET if it was older, else the model itself.

    Local functions must have been inlined. Ops that the declared opset does not know (ops of other domains,
    LayerNormalization at opset 12) keep their form. A model of ops that are written the same at both opsets is not
    given to the converter, which takes longer than the rest of the import of a small one. Raises IPU0113.
    """
    version = model.graph.opset_imports[""]
    if version >= WORKING_OPSET:
        return model
    if not any(changed(node.op_type, version) for node in model.graph.all_nodes() if node.domain == ""):
        model.graph.opset_imports[""] = WORKING_OPSET
        return model
    if version == 8:
        split_scans(model, _HIDDEN, lambda op: changed(op, version))
    remembered = origins(model)
    hidden = [node for node in model.graph.all_nodes() if node.domain == "" and not _known(node.op_type, version)]
    for node in hidden:
        node.domain = _HIDDEN
    model.graph.opset_imports[_HIDDEN] = 1
    form = strip(model)
    try:
        # The adapters of some ops need the ranks of their operands.
        typed = onnx.shape_inference.infer_shapes(form.proto, data_prop=True)
        proto = onnx.version_converter.convert_version(typed, WORKING_OPSET)
    except Exception as cause:  # the C++ converter raises several kinds, RuntimeError among them
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        raise error(
            "IPU0113",
            f"the model cannot be converted from opset {version} to {WORKING_OPSET}",
            notes=[f"the converter of onnx says: {reason}"],
            help=[f"export the model with a newer opset ({WORKING_OPSET} at best)"],
        ) from cause
    converted = restore(proto, form.tensors)
    if version < 7:
        _spread_slopes(converted, typed)
    if converted.graph.opset_imports.get("") != WORKING_OPSET:
        raise error("IPU0113", f"the model cannot be converted from opset {version} to {WORKING_OPSET}")
    for node in converted.graph.all_nodes():
        if node.domain == _HIDDEN:
            node.domain = ""
    del converted.graph.opset_imports[_HIDDEN]
    set_origins(converted, remembered)
    return converted


@cache
def changed(op_type: str, version: int) -> bool:
    """Whether a node of this op may have to be written in another way at WORKING_OPSET. An op that the opset does not
    know is taken as it is."""
    if not _known(op_type, version):
        return False
    if version < _COMPARABLE or not _known(op_type, WORKING_OPSET):
        return True
    old, new = (onnx.defs.get_schema(op_type, v) for v in (version, WORKING_OPSET))
    if old.since_version == new.since_version:
        return False
    return op_type in _REWRITTEN or not _extends(old, new)


def _extends(old: OpSchema, new: OpSchema) -> bool:
    """Whether a schema has all that another has, and beside it only what may be left out."""
    added = [a for name, a in new.attributes.items() if name not in old.attributes]
    kept = all(name in new.attributes and _form(new.attributes[name]) == _form(a) for name, a in old.attributes.items())
    if not kept or any(a.required for a in added):
        return False
    for before, after in ((old.inputs, new.inputs), (old.outputs, new.outputs)):
        forms = [[(formal.name, formal.option) for formal in formals] for formals in (before, after)]
        more = [option for _, option in forms[1][len(forms[0]) :]]
        if forms[1][: len(forms[0])] != forms[0] or OpSchema.FormalParameterOption.Single in more:
            return False
    return True


def _form(attribute: OpSchema.Attribute) -> tuple[object, ...]:
    return attribute.type, attribute.required, attribute.default_value.SerializeToString()


def _spread_slopes(model: ir.Model, typed: onnx.ModelProto) -> None:
    """Give the slopes of PRelu, one per channel before opset 7, the shape in which they broadcast. The converter leaves
    them as they are."""
    listed = (*typed.graph.input, *typed.graph.value_info, *typed.graph.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in listed}
    for node in model.graph.all_nodes():
        x, slope = (*node.inputs, None, None)[:2]
        if node.op_type != "PRelu" or node.domain or x is None or slope is None or slope.shape is None:
            continue
        rank = ranks.get(str(x.name), 0)
        if rank < 3 or len(slope.shape) != 1 or slope.shape[0] == 1:
            continue
        axes = ir.tensor(np.arange(1, rank - 1))
        given = ir.Value(
            name=f"{node.name}/slope_axes", shape=ir.Shape([rank - 2]), type=ir.TensorType(axes.dtype), const_value=axes
        )
        model.graph.register_initializer(given)
        spread = ir.node("Unsqueeze", [slope, given], name=f"{node.name}/slope")
        spread.outputs[0].name = spread.name
        assert node.graph is not None
        node.graph.insert_before(node, spread)
        node.replace_input_with(1, spread.outputs[0])


def _known(op_type: str, version: int) -> bool:
    try:
        return not onnx.defs.get_schema(op_type, version).deprecated
    except SchemaError:
        return False
