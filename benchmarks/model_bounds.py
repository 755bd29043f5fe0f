"""A lower bound on the cycles of a whole model: work that every program of its ops has to do, spread over all tiles.

Per op of the tile graph (behind fusion, so that an epilogue is not counted apart), the larger of

- its multiply-accumulates times kappa, the least cycles one can take on a tile. Matmuls: gemm_bounds.py, which counts
  the loading of weights; other products: the peak of the matrix unit; integers: the vector unit;
- the bytes of its result over `vector_bytes` a cycle: a tile issues one store of a worker per cycle.

The sum over the ops, divided by the number of tiles. It holds however ops are cut, ordered or overlapped, since it is
work and not time, and since one instruction belongs to one op; within an op a store and a multiplication may share an
issue, hence the larger of the two. It says nothing about exchange, synchronisation, kernels' overheads, and tiles that
wait: a program at this bound would have none of them, so that the share of it reached is no efficiency of placement
alone. The bound of placement itself (over the plans offered, in estimated cycles) is another figure, `placement_bound`.
"""

from math import ceil, prod

from gemm_bounds import VECTOR_MACS, least_cycles_per_mac

from ipucc.dtypes import itemsize
from ipucc.ops.graph import TileGraph
from ipucc.ops.spec import Everything, Operand, TileOp
from ipucc.target import AmpType, Target

__all__ = ["model_bound"]

AMP_TYPES: dict[str, AmpType] = {"float16": "fp16", "float32": "fp32"}


def model_bound(graph: TileGraph, target: Target) -> int:
    """Cycles that no program of these ops goes below."""
    return ceil(sum(op_work(op, target) for op in graph.ops) / target.tiles)


def op_work(op: TileOp, target: Target) -> float:
    """Tile cycles that an op takes at least, all tiles together."""
    sizes = {axis.name: axis.size for axis in op.axes}
    stored = prod(sizes[name] for name in op.result.axes) * itemsize(op.result.dtype) / target.vector_bytes
    macs = op.macs if op.sparse_macs is None else op.sparse_macs
    return max(stored, macs * _kappa(op, sizes, target) if macs else 0.0)


def _kappa(op: TileOp, sizes: dict[str, int], target: Target) -> float:
    dtype = AMP_TYPES.get(op.operands[0].dtype)
    if dtype is None:
        return 1 / VECTOR_MACS
    if op.kind == "MatMul":
        a, b = (_axes(operand) for operand in op.operands[:2])
        # Rows that pass one block of a stationary operand: of all axes that this operand does not have.
        rows, columns = (prod(size for name, size in sizes.items() if name not in held) for held in (b, a))
        return least_cycles_per_mac(rows, sizes["k"], columns, dtype, target)
    return 1 / target.amp_macs_per_cycle(dtype, "fp16" if dtype == "fp16" else "fp32")


def _axes(operand: Operand) -> set[str]:
    return {kind.axis for kind in operand.dims if not isinstance(kind, Everything)}
