"""Tensors that have a shape and a type but no values."""

import onnx_ir as ir

from ipucc.diagnostics import error


class MissingTensor(ir.LazyTensor):
    """A constant whose data is absent: shape and type are known, any access to the values is a CompileError.

    Models with such weights can be compiled and timed, not run. `reason` completes the sentence
    "the values are needed, but ...". The error is IPU0108.
    """

    def __init__(self, name: str | None, dtype: ir.DataType, shape: ir.Shape, reason: str) -> None:
        super().__init__(self._refuse, dtype, shape.copy(frozen=True), name=name)
        self.reason = reason

    def _refuse(self) -> ir.TensorProtocol:
        raise error(
            "IPU0108",
            f'the values of "{self.name}" are needed, but {self.reason}',
            help=["supply the weights, or compile and time the model without values (run --timing-only)"],
        )

    def __repr__(self) -> str:
        return f"MissingTensor<{self.dtype},{self.shape}>(name={self.name!r}, reason={self.reason!r})"


def is_missing(tensor: ir.TensorProtocol | None) -> bool:
    """Whether the values of a constant are absent (False for a value that is no constant)."""
    return isinstance(tensor, MissingTensor)
