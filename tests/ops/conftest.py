"""Runs tile ops without planner, placement or engine: every op on random cuts of its axes, against ONNX's oracles.

The cuts, halos, fills and grains are those of the real machine (`Operand.cut`, `cut_axis`), the numbers come from the
codelets as they are read back from a program file, and results are rounded to their stored type.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import helper

from ipucc.codelets.all import load_all as load_codelets
from ipucc.codelets.base import Array, Cells, Codelet, codelet_from_json
from ipucc.codelets.rows import parts_axis
from ipucc.dtypes import compute_type, storage_type, to_storage
from ipucc.graph.schemas import oracle_model
from ipucc.ops.all import load_all
from ipucc.ops.builder import Builder, BuildOptions
from ipucc.ops.graph import TileGraph
from ipucc.ops.spec import Operand, TileOp
from ipucc.target import Target, load_target
from ipucc.tiles.cuts import Cut, cut_axis, whole

OPSET = 26
AssertRight = Callable[..., TileGraph]


@dataclass
class Machine:
    """Tensors of a tile graph by index, and the random generator that cuts axes."""

    graph: TileGraph
    rng: np.random.Generator
    target: Target
    most: int = 4
    values: dict[int, Array] = field(default_factory=dict)

    def value(self, index: int, feeds: Mapping[str, Array]) -> Array:
        tensor = self.graph.tensors[index]
        if index not in self.values:
            held = feeds[tensor.key] if tensor.kind == "input" else self.graph.weights[tensor.key]
            assert held is not None
            seen = held if tensor.view is None else tensor.view.apply(held)
            self.values[index] = to_storage(seen, tensor.dtype).reshape(tensor.shape)
        return self.values[index]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        for op in self.graph.ops:
            operands = [self.operand(o, feeds) for o in op.operands]
            self.values[op.result.tensor] = self.op(op, operands)
        out = {}
        for o in self.graph.outputs:
            out[o.name] = o.source.view.apply(self.value(o.source.tensor, feeds), o.gap)
            assert out[o.name].shape == o.shape
        return out

    def operand(self, o: Operand, feeds: Mapping[str, Array]) -> Array:
        """The whole operand as the op sees it: its sources through their views, gaps filled."""
        kind = storage_type(o.dtype)
        full = np.full(o.shape, o.gap).astype(kind)
        for s in o.sources:
            value = self.value(s.tensor, feeds)
            assert value.dtype == kind
            held = s.view.apply(np.ones(value.shape, bool), False)
            full = np.where(held, s.view.apply(value), full)
        assert full.shape == o.shape == tuple(o.shape)
        assert len(o.dims) == len(o.shape)
        return full.astype(compute_type(o.dtype))

    def op(self, op: TileOp, operands: Sequence[Array]) -> Array:
        cells = {a.name: self.cut(a.size, a.grain, a.kind != "whole") for a in op.axes}
        if any(cells[a][0].size > 1 for a in op.rows):
            return self.along_rows(op, operands, cells)
        reduce = [a for a in op.axes if a.kind == "reduce"]
        split = [a.name for a in reduce if cells[a.name][0].size > 1]
        assert not split or (op.partial is not None and op.combine is not None)
        if not split:
            return self.stage(op, op.codelet, op.operands, operands, cells, op.result.axes, op.result.dtype)
        assert split == [a.name for a in reduce], "the ops under test have one reduce axis"
        main = [i for i, o in enumerate(op.operands) if not o.epilogue]
        over = (*split, *op.result.axes)
        ops = [op.operands[i] for i in main]
        parts = self.stage(op, op.partial, ops, [operands[i] for i in main], cells, over, op.partial_dtype)
        # The reduction has cells of its own.
        again = {a.name: self.cut(a.size, a.grain, a.kind != "whole") for a in op.axes if a.name in op.result.axes}
        again |= {name: whole(cells[name][0].size) for name in split}
        return self.combine(op, parts, operands, again)

    def along_rows(self, op: TileOp, operands: Sequence[Array], cells: dict[str, Cut]) -> Array:
        """Statistics of every part, then every cell's results of those of all parts of its rows."""
        assert op.partial is not None
        assert op.combine is not None
        main = [i for i, o in enumerate(op.operands) if not o.epilogue]
        held = (*op.rows, *op.statistics)
        ops = [op.operands[i] for i in main]
        parts = self.stage(op, op.partial, ops, [operands[i] for i in main], cells, held, op.partial_dtype)
        counted = {parts_axis(a): whole(cells[a][0].size) for a in op.rows}
        grid = _grid([a.name for a in op.axes], cells)
        boxes = [
            (*((0, int(hi[0])) for _, hi in counted.values()),
             *((int(cells[a][0][g[a]]), int(cells[a][1][g[a]])) for a in op.statistics))
            for g in grid
        ]  # fmt: skip
        arrays = [_stack(parts.astype(compute_type(op.partial_dtype)), boxes, 0.0)]
        arrays += [self.boxes(o, x, cells, grid) for o, x in zip(op.operands, operands, strict=True)]
        return self.assemble(
            op, op.combine, arrays, {**cells, **counted}, grid, op.result.axes, op.result.dtype, lead=()
        )  # fmt: skip

    def combine(self, op: TileOp, parts: Array, operands: Sequence[Array], cells: dict[str, Cut]) -> Array:
        assert op.combine is not None
        over = [name for name in cells if name not in op.result.axes]
        axes = (*over, *op.result.axes)
        late = [i for i, o in enumerate(op.operands) if o.epilogue]
        grid = _grid([*op.result.axes], cells)
        boxes = [tuple((int(cells[a][0][g[a]]), int(cells[a][1][g[a]])) if a in g else
                       (0, parts.shape[k]) for k, a in enumerate(axes)) for g in grid]  # fmt: skip
        arrays = [_stack(parts.astype(compute_type(op.partial_dtype)), boxes, 0.0)]
        arrays += [self.boxes(op.operands[i], operands[i], cells, grid) for i in late]
        return self.assemble(op, op.combine, arrays, cells, grid, op.result.axes, op.result.dtype, ())

    def stage(
        self, op: TileOp, codelet: Codelet | None, maps: Sequence[Operand], operands: Sequence[Array],
        cells: dict[str, Cut], results: tuple[str, ...], dtype: str,
    ) -> Array:  # fmt: skip
        assert codelet is not None
        grid = _grid([a.name for a in op.axes], cells)
        arrays = [self.boxes(m, x, cells, grid) for m, x in zip(maps, operands, strict=True)]
        lead = tuple(a for a in results if a not in (op.statistics or op.result.axes) or a in op.rows)
        return self.assemble(op, codelet, arrays, cells, grid, results, dtype, lead if codelet is op.partial else ())

    def assemble(
        self, op: TileOp, codelet: Codelet, arrays: list[Array], cells: dict[str, Cut], grid: list[dict[str, int]],
        results: tuple[str, ...], dtype: str, lead: tuple[str, ...],
    ) -> Array:  # fmt: skip
        """The results of all cells, put together. `lead` are the axes of which a cell is one index: partials."""
        again = codelet_from_json(json.loads(json.dumps(codelet.to_json())))
        assert again == codelet
        lo = {a: np.array([int(c[0][g[a]]) if a in g else 0 for g in grid], np.int64) for a, c in cells.items()}
        n = {
            a: np.array([int((c[1] - c[0])[g[a]]) if a in g else int(c[1][0]) for g in grid], np.int64)
            for a, c in cells.items()
        }
        for kind in (again.cycles(n, self.target), again.temp_bytes(n, self.target)):
            assert kind.shape == (len(grid),)
        assert (again.cycles(n, self.target) > 0).all()
        # A single tile of the compute set must give the same as all at once (to a unit in the last place: numpy's loops
        # over contiguous and over strided arrays differ).
        sizes = {a: int(v.max(initial=0)) for a, v in n.items()}
        with np.errstate(all="ignore"):
            (dense,) = again.compute(arrays, Cells(lo, n))
            i = int(self.rng.integers(len(grid)))
            one = Cells({a: v[i : i + 1] for a, v in lo.items()}, {a: v[i : i + 1] for a, v in n.items()}, sizes)
            (alone,) = again.compute([x[i : i + 1] for x in arrays], one)
        shape = [sizes[a] for a in results if a not in lead]
        assert dense.shape == (len(grid), *shape), (dense.shape, shape)
        assert alone.shape == (1, *shape)
        size = {a.name: a.size for a in op.axes}
        full = np.zeros([cells[a][0].size if a in lead else size[a] for a in results], storage_type(dtype))
        seen = np.zeros(full.shape, np.int32)
        for t, g in enumerate(grid):
            box = tuple(
                slice(g[a], g[a] + 1) if a in lead else slice(int(lo[a][t]), int(lo[a][t] + n[a][t])) for a in results
            )
            valid = dense[(t, *(slice(0, int(n[a][t])) for a in results if a not in lead))]
            if t == i:
                got = alone[(0, *(slice(0, int(n[a][t])) for a in results if a not in lead))]
                np.testing.assert_allclose(got, valid, rtol=1e-5, atol=1e-5)
            with np.errstate(all="ignore"):
                full[box] = valid.astype(full.dtype).reshape([s.stop - s.start for s in box])
            seen[box] += 1
        assert (seen == 1).all(), "a result is covered exactly once"
        return full

    def boxes(self, o: Operand, x: Array, cells: dict[str, Cut], grid: list[dict[str, int]]) -> Array:
        cuts = [o.cut(d, cells) for d in range(len(o.shape))]
        boxes = []
        for g in grid:
            box = []
            for axis, (lo, hi) in cuts:
                at = 0 if axis is None else g[axis]
                box.append((int(lo[at]), int(hi[at])))
            boxes.append(tuple(box))
        return _stack(x, boxes, o.fill)

    def cut(self, size: int, grain: int, free: bool) -> Cut:
        return cut_axis(size, int(self.rng.integers(1, self.most + 1)), grain) if free else whole(size)


def _grid(axes: Sequence[str], cells: Mapping[str, Cut]) -> list[dict[str, int]]:
    shape = [cells[a][0].size for a in axes]
    return [dict(zip(axes, at, strict=True)) for at in np.ndindex(*shape)]


def _stack(x: Array, boxes: Sequence[tuple[tuple[int, int], ...]], fill: float) -> Array:
    """Boxes of an array, padded to the largest; `fill` outside of the array and of the box."""
    rank = x.ndim
    shape = [max(b[d][1] - b[d][0] for b in boxes) for d in range(rank)]
    with np.errstate(all="ignore"):
        out = np.full((len(boxes), *shape), fill).astype(x.dtype)
    for i, box in enumerate(boxes):
        inner = [(max(lo, 0), min(hi, n)) for (lo, hi), n in zip(box, x.shape, strict=True)]
        if any(hi <= lo for lo, hi in inner):
            continue
        to = tuple(slice(lo - b[0], hi - b[0]) for (lo, hi), b in zip(inner, box, strict=True))
        out[(i, *to)] = x[tuple(slice(lo, hi) for lo, hi in inner)]
    return out


def build(model: onnx.ModelProto, partials: str = "float16") -> TileGraph:
    """The tile graph of a model whose types and shapes are known."""
    load_all()
    load_codelets()
    return build_ir(ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)), partials)


def build_ir(model: ir.Model, partials: str = "float16") -> TileGraph:
    b = Builder(BuildOptions(load_target("gc200"), partials))
    for value in model.graph.inputs:
        b.add_input(value, "")
    for node in model.graph:
        b.lower(node)
    for value in model.graph.outputs:
        b.add_output(value, "")
    return b.graph


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    consts: Mapping[str, Array],
    domain_imports: Sequence[onnx.OperatorSetIdProto] = (),
) -> onnx.ModelProto:
    """A model around nodes; the types of its outputs are inferred."""
    given = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()
    ]
    weights = [onnx.numpy_helper.from_array(a, n) for n, a in consts.items()]
    graph = helper.make_graph(nodes, "g", given, [onnx.ValueInfoProto(name=o) for o in outputs], weights)
    imports = [helper.make_opsetid("", OPSET), *domain_imports]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def oracles(model: onnx.ModelProto, feeds: Mapping[str, Array], which: Sequence[str]) -> dict[str, list[Array]]:
    """What the evaluators make of a model: `ort` is onnxruntime, `ref` is onnx's reference evaluator."""
    found = {}
    if "ort" in which:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        found["ort"] = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, dict(feeds))
    if "ref" in which:
        with np.errstate(all="ignore"):
            found["ref"] = onnx.reference.ReferenceEvaluator(model).run(None, dict(feeds))
    return found


def compare(got: Mapping[str, Array], wanted: Mapping[str, list[Array]], tolerance: float) -> None:
    for oracle, values in wanted.items():
        for (name, a), b in zip(got.items(), values, strict=True):
            b = np.asarray(b)
            assert a.shape == b.shape, (oracle, name, a.shape, b.shape)
            if b.dtype.kind in "iub":
                np.testing.assert_array_equal(a, b, err_msg=f"{oracle}: {name}")
                continue
            a, b = a.astype(np.float64), b.astype(np.float64)
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b), err_msg=f"{oracle}: NaN in {name}")
            finite = b[np.isfinite(b)]
            scale = max(1e-6, float(np.abs(finite).max(initial=0.0)))
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=f"{oracle}: {name}")


@pytest.fixture(scope="session")
def assert_right() -> AssertRight:
    """Asserts that the tile ops of a model of one node, or of a ready one, give on several random cuts what the oracles
    `against` give, or `wanted`; returns the tile graph."""
    target = load_target("gc200")

    def run(
        op: str | Sequence[onnx.NodeProto],
        inputs: Mapping[str, Array],
        consts: Mapping[str, Array] | None = None,
        *,
        order: Sequence[str] | None = None,
        outputs: Sequence[str] = ("y",),
        domain: str = "",
        against: Sequence[str] = ("ort", "ref"),
        tolerance: float = 2e-6,
        times: int = 3,
        seed: int = 0,
        partials: str = "float16",
        wanted: Sequence[Array] | None = None,
        **attributes: object,
    ) -> TileGraph:
        consts = consts or {}
        if isinstance(op, str):
            names = list(order) if order is not None else [*inputs, *consts]
            nodes: Sequence[onnx.NodeProto] = [
                helper.make_node(op, names, list(outputs), name="node", domain=domain, **attributes)
            ]
        else:
            nodes = op
        imports = [helper.make_opsetid("ipucc", 1)] if any(n.domain == "ipucc" for n in nodes) else []
        model = model_of(nodes, inputs, outputs, consts, imports)
        graph = build(model, partials)
        oracle = oracle_model(ir.from_proto(model)) if imports else model
        expected = oracles(oracle, inputs, against) if wanted is None else {"given": list(wanted)}
        for i in range(times):
            machine = Machine(graph, np.random.default_rng([seed, i]), target, most=1 if i == 0 else 4)
            compare(machine.run(inputs), expected, tolerance)
        return graph

    return run


@pytest.fixture(scope="session")
def machine() -> Callable[[TileGraph, int], Machine]:
    """Makes a machine that cuts every axis into at most so many cells."""
    target = load_target("gc200")
    load_codelets()
    return lambda graph, most: Machine(graph, np.random.default_rng(most), target, most)
