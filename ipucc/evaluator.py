"""Running a graph on inputs, as often as there are inputs: by onnxruntime where it is installed, else by the evaluator
of onnx."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from ipucc.values import Array

__all__ = ["evaluator"]


def evaluator(
    proto: onnx.ModelProto, names: Sequence[str], *, threads: int = 0
) -> Callable[[Mapping[str, Array]], Sequence[Array]]:
    """A function from inputs of a model to these outputs of it; `threads` is how many onnxruntime may use, 0 for all
    that there are. Both libraries raise errors of many kinds for what they cannot run."""
    wanted = list(names)
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        reference = ReferenceEvaluator(proto)

        def run(batch: Mapping[str, Array]) -> Sequence[Array]:
            with np.errstate(all="ignore"):
                return [np.asarray(a) for a in reference.run(wanted, dict(batch))]

        return run
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # Weights beside the model: a message of protobuf ends at 2 GB.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(proto, path, save_as_external_data=True, location="weights")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda batch: [np.asarray(a) for a in session.run(wanted, dict(batch))]
