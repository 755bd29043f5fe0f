"""Tile graphs of small models, and the counting of what cells hold."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import pytest

from ipucc.codelets.elementwise import Elementwise
from ipucc.compiler import CompileOptions
from ipucc.ops.graph import Output, TileGraph, TileTensor
from ipucc.ops.spec import Axis, Everything, Operand, Result, Source, TileOp
from ipucc.optimise import optimise_model, schedule_model
from ipucc.target import Target, load_target
from ipucc.tiles.layout import Layout
from ipucc.tiles.view import View

Build = Callable[..., TileGraph]

MODELS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "mlp": (
        """mlp (float[24,64] x) => (float[24,40] y) {
            a = MatMul(x, w0)
            b = Add(a, b0)
            c = Relu(b)
            y = MatMul(c, w1)
        }""",
        {"w0": (64, 96), "b0": (96,), "w1": (96, 40)},
    ),
    "attention": (
        """attention (float[12,16] x) => (float[12,16] y) {
            heads = Constant <value_ints = [12, 2, 8]> ()
            joined = Constant <value_ints = [12, 16]> ()
            q0 = MatMul(x, wq)
            q1 = Reshape(q0, heads)
            q = Transpose <perm = [1, 0, 2]> (q1)
            k0 = MatMul(x, wk)
            k1 = Reshape(k0, heads)
            k = Transpose <perm = [1, 2, 0]> (k1)
            s = MatMul(q, k)
            p = Softmax <axis = -1> (s)
            o0 = MatMul(p, q)
            o1 = Transpose <perm = [1, 0, 2]> (o0)
            o2 = Reshape(o1, joined)
            n = LayerNormalization <axis = -1> (o2, scale, shift)
            y = Add(n, x)
        }""",
        {"wq": (16, 16), "wk": (16, 16), "scale": (16,), "shift": (16,)},
    ),
    "convolutions": (
        """convolutions (float[1,4,12,12] x) => (float[1,6] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
            b = Relu(a)
            c = Conv <strides = [2, 2], group = 4> (b, w1)
            d = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
            e = GlobalAveragePool(d)
            f = Flatten(e)
            y = Gemm <transB = 1> (f, w2, b2)
        }""",
        {"w0": (8, 4, 3, 3), "b0": (8,), "w1": (8, 2, 3, 3), "w2": (6, 8), "b2": (6,)},
    ),
    "moves": (
        """moves (float[6,20] x, int64[5] at) => (float[6,34] y, float m) {
            axis = Constant <value_ints = [1]> ()
            pads = Constant <value_ints = [0, 3, 0, 1]> ()
            a = Gather <axis = 1> (x, at)
            b = Concat <axis = 1> (x, a, a)
            c = Pad(b, pads)
            y = Tanh(c)
            m = ReduceSum <keepdims = 0> (x)
        }""",
        {},
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def models(model_of: Callable[..., onnx.ModelProto]) -> Mapping[str, onnx.ModelProto]:
    """Small models of all families of ops, by name."""
    return {name: model_of(text, weights) for name, (text, weights) in MODELS.items()}


@pytest.fixture(scope="session")
def tile_graph() -> Build:
    """Builds the tile graph of a model for a target, behind the default graph passes."""

    def build(model: onnx.ModelProto, target: Target | None = None, **options: object) -> TileGraph:
        chosen = CompileOptions(**options)  # type: ignore[arg-type]
        done = optimise_model(model, chosen)
        return schedule_model(done.model, target or load_target("gc200"), chosen)

    return build


@pytest.fixture(scope="session")
def held() -> Callable[[Layout], np.ndarray]:
    """Counts, for every element of a layout's tensor, the cells that hold it."""

    def count(layout: Layout) -> np.ndarray:
        found = np.zeros(layout.shape, np.int64)
        for cell in np.ndindex(*layout.grid):
            box = [slice(max(int(lo[i]), 0), max(int(hi[i]), 0)) for (lo, hi), i in zip(layout.cuts, cell, strict=True)]
            found[tuple(box)] += 1
        return found

    return count


@pytest.fixture(scope="session")
def graph_of() -> Build:
    """Makes a graph of one-dimensional int8 results of these sizes; op i reads the results `reads[i]`, or the input."""

    def build(sizes: Sequence[int], reads: Sequence[Sequence[int]], outputs: Sequence[int]) -> TileGraph:
        graph = TileGraph(inputs=[("x", "int8", (1,))])
        graph.tensors.append(TileTensor(0, "x", (1,), "int8", "input", 0, "x"))
        for i, size in enumerate(sizes):
            graph.tensors.append(TileTensor(i + 1, f"t{i}", (size,), "int8", "result", 0))
            operands = []
            for t in [r + 1 for r in reads[i]] or [0]:
                shape = graph.tensors[t].shape
                operands.append(Operand((Source(t, View.identity(shape)),), shape, (Everything(*shape),), "int8", 0))
            result = Result(i + 1, ("d0",), "int8", 0)
            graph.ops.append(
                TileOp(
                    f"op{i}",
                    "Any",
                    (Axis("d0", size),),
                    tuple(operands),
                    result,
                    Elementwise("a0", ("int8",), "int8", ("d0",)),
                )
            )
        for i in outputs:
            graph.outputs.append(Output(f"y{i}", "int8", (sizes[i],), Source(i + 1, View.identity((sizes[i],)))))
        return graph

    return build
