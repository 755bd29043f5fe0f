"""Opening a model: from a path, a ModelProto or an onnx_ir model to an onnx_ir model, weights unread."""

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ipucc.diagnostics import CompileError, Diagnostic, error
from ipucc.frontend.structure import check_structure
from ipucc.graph.tensors import MissingTensor
from ipucc.graph.verify import verify_structure

# The largest message that protobuf encodes.
_PROTOBUF_LIMIT = 2**31

ModelSource = str | os.PathLike[str] | onnx.ModelProto | ir.Model


def open_model(source: ModelSource) -> tuple[ir.Model, str | None]:
    """The model as onnx_ir, and the name of its file for messages; the source itself is left as it is.

    External weights are mapped, not read; those whose file is absent become MissingTensors. Raises CompileError
    IPU0101 (cannot be opened), IPU0102 (no ONNX model), IPU0104, IPU0105, IPU0117, IPU0118 (malformed graph),
    IPU0106, IPU0107 (external weights).
    """
    if isinstance(source, ir.Model):
        verify_structure(source)
        model = source.clone()
        _attach_weights(model, None, None)
        return model, None
    if isinstance(source, onnx.ModelProto):
        proto, folder, where = source, Path(), None
    else:
        path = Path(source)
        proto, folder, where = _read_proto(path), path.parent, path.name
    check_structure(proto, where)
    try:
        model = ir.from_proto(proto)
    except Exception as cause:  # onnx_ir raises errors of many kinds for a malformed proto
        raise error("IPU0118", f"the model is malformed: {_innermost(cause)}", where=where) from cause
    # A file may import the default domain more than once; onnx_ir would keep whichever comes last.
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if versions:
        model.graph.opset_imports.pop("ai.onnx", None)
        model.graph.opset_imports[""] = max(versions)
    _attach_weights(model, folder, where)
    return model, where


def _read_proto(path: Path) -> onnx.ModelProto:
    where = str(path)
    try:
        status = path.stat()
        if path.is_dir():
            raise error("IPU0101", "a folder was given where a model file is expected", where=where)
        if not path.is_file():
            raise error("IPU0101", "the model must be a regular file", where=where)
        if status.st_size >= _PROTOBUF_LIMIT:
            raise error(
                "IPU0102",
                f"the file has {status.st_size} bytes; a model in one file must stay below 2 GiB",
                where=where,
                help=["store the weights as external data"],
            )
        data = path.read_bytes()
    except (OSError, ValueError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        raise error("IPU0101", f"the model file cannot be opened: {reason}", where=where) from cause
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as cause:
        raise error("IPU0102", _describe(data), where=where) from cause
    if not proto.HasField("graph") or not proto.opset_import:
        raise error("IPU0102", _describe(data), where=where)
    return proto


def _describe(data: bytes) -> str:
    if not data:
        return "the file is empty"
    if data.startswith((b"version https://git-lfs", b"oid sha256")):
        return "the file is a Git LFS pointer, not the model itself"
    if data.startswith(b"PK\x03\x04"):
        return "the file is a zip archive (a compiled program?), no ONNX model"
    sample = data[:4096]
    if all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in sample):
        return "the file is text, no ONNX model in binary form"
    return "the file is no ONNX model, or it is truncated"


def _innermost(cause: BaseException) -> str:
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause).splitlines()[0] if str(cause) else type(cause).__name__


def _attach_weights(model: ir.Model, folder: Path | None, where: str | None) -> None:
    """Check every external tensor and replace those without a file; `folder` None keeps each tensor's own."""
    problems: list[Diagnostic] = []
    resolved: dict[int, ir.TensorProtocol] = {}

    def resolve(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        if id(tensor) not in resolved:
            try:
                base = Path(tensor.base_dir) if folder is None else folder
                resolved[id(tensor)] = _locate(tensor, base, where)
            except CompileError as problem:
                problems.extend(problem.diagnostics)
                resolved[id(tensor)] = tensor
        return resolved[id(tensor)]

    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = resolve(value.const_value)
    for node in _all_nodes(model):
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                tensor = attribute.as_tensor()
                if (found := resolve(tensor)) is not tensor:
                    node.attributes[name] = ir.AttrTensor(name, found)
    if problems:
        raise CompileError(problems)


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _locate(tensor: ir.ExternalTensor, folder: Path, where: str | None) -> ir.TensorProtocol:
    """The tensor on its real file, or a MissingTensor.

    A file may lie in the folder of the model, also through links. Nothing outside is opened: a model from
    elsewhere must not be able to name any file of this machine as its weights.
    """
    location = os.fspath(tensor.location)
    named = Path(os.path.normpath(folder / location))
    base = Path(os.path.normpath(folder))
    real, real_base = Path(os.path.realpath(named)), Path(os.path.realpath(folder))
    if os.path.isabs(location) or not named.is_relative_to(base) or not real.is_relative_to(real_base):
        raise error(
            "IPU0107",
            f'the data of weight "{tensor.name}" is said to lie at "{location}", outside the folder of the model',
            where=where,
            help=["move the data file beside the model, and store its relative path"],
        )
    try:
        stat = real.stat()
    except OSError:
        reason = f'its data file "{location}" is absent'
        return MissingTensor(tensor.name, tensor.dtype, tensor.shape, reason)
    offset = tensor.offset or 0
    length = tensor.nbytes if tensor.length is None else tensor.length
    if not real.is_file():
        problem = "is no regular file"
    elif stat.st_nlink > 1:
        problem = "has several hard links, so it may be a file from elsewhere; copy it"
    elif length != tensor.nbytes:
        problem = f"is said to hold {length} bytes of it, its shape and type need {tensor.nbytes}"
    elif offset < 0 or offset + length > stat.st_size:
        problem = f"is too short: bytes {offset} to {offset + length} are needed, it has {stat.st_size}"
    else:
        return ir.ExternalTensor(
            location, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape, name=tensor.name or "",
            base_dir=folder.absolute(),
        )  # fmt: skip
    raise error("IPU0106", f'the data file "{location}" of weight "{tensor.name}" {problem}', where=where)
