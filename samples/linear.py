"""Write one linear layer y = w @ x with random weights as ONNX: the layer of the block-sparse study.

    python samples/linear.py -n 64 -o linear_64.onnx
    python samples/linear.py -m 1024 -k 1024 -n 1024 -o linear_1024.onnx

`x` [n, k] -> `y` [n, m]: n rows of activations against a weight [k, m], as block-sparse studies name the
dimensions (the sparse operand is m x k, the dense one has n columns). Weights are normal with variance 1 /
k. Needs numpy and onnx.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def linear(m: int, k: int, n: int, seed: int) -> onnx.ModelProto:
    """`x` [n, k] float32 -> `y` [n, m], by one MatMul."""
    weight = np.random.default_rng(seed).standard_normal((k, m), np.float32) / np.float32(np.sqrt(k))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"], name="linear")],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [n, k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [n, m])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], producer_name="ipucc-samples")
    model.ir_version = 10
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", type=int, default=1024, help="output features")
    parser.add_argument("-k", type=int, default=1024, help="input features")
    parser.add_argument("-n", type=int, default=64, help="rows of activations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    if min(options.m, options.k, options.n) < 1:
        parser.error("-m, -k and -n are at least 1")
    model = linear(options.m, options.k, options.n, options.seed)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, options.output)
    print(f"wrote {options.output}: {options.m} x {options.k} weights, {options.n} rows")


if __name__ == "__main__":
    main()
