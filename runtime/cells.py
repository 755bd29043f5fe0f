"""Between tile memory and codelets: load cells as dense arrays, store dense arrays as cells."""

import numpy as np
from numpy.typing import NDArray

from ipucc.codelets.base import Array
from ipucc.dtypes import compute_type, storage_type
from ipucc.halves import narrow, widen
from ipucc.program.model import Binding, Buffer
from ipucc.runtime.memory import TileMemory
from ipucc.tiles.layout import Layout

__all__ = ["extents", "image", "load", "store", "write"]


def extents(
    layout: Layout, cells: NDArray[np.integer], own: bool = False
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Per dimension, the first valid local index and the end of the valid ones, for every cell (flat index); with `own`
    of those that the cell owns, where cells overlap."""
    grid = layout.grid
    where = np.unravel_index(cells, grid) if grid else ()
    out = []
    for d, at in enumerate(where):
        begin = layout.cuts[d][0][at].astype(np.int64)
        lo, hi = (x[at].astype(np.int64) for x in (layout.owned if own else layout.cuts)[d])
        first = np.minimum(np.maximum(lo, 0), hi)
        out.append((first - begin, np.maximum(np.minimum(hi, layout.shape[d]), first) - begin))
    return out


def _rows(memory: TileMemory, buffer: Buffer, tiles: NDArray[np.integer], binding: Binding, part: slice, offset: int
          ) -> NDArray[np.int64]:  # fmt: skip
    at = memory.base(buffer, tiles, offset)
    slots = buffer.layout.slots
    if slots is not None:
        at = at + slots.reshape(-1)[binding.cells[part]].astype(np.int64) * buffer.layout.slot_bytes
    return at


def load(memory: TileMemory, buffer: Buffer, tiles: NDArray[np.integer], binding: Binding, part: slice, offset: int
         ) -> Array:  # fmt: skip
    """[tiles, cell...]: every tile's cell of the buffer, padded to the largest, `binding.fill` outside its extent."""
    layout = buffer.layout
    kind = storage_type(buffer.dtype)
    at = _rows(memory, buffer, tiles, binding, part, offset)
    raw = np.lib.stride_tricks.as_strided(
        memory.bytes, (memory.tiles * memory.pitch - layout.slot_bytes + 1, layout.slot_bytes), (1, 1), writeable=False
    )[at]
    cells = raw.view(kind).reshape(tiles.size, *layout.storage)
    if kind == np.float16:
        # As one contiguous run, before anything is re-ordered.
        cells = widen(cells)
    if not layout.shape:
        return cells.reshape(tiles.size, -1)[:, 0].astype(compute_type(buffer.dtype))
    # [T, G, others.., g] or [T, others.., G g] -> [T, others.. with G g at the grain dimension], cut to the largest
    d = layout.grain_dim
    if layout.by_rows:
        dense = np.moveaxis(cells, -1, d + 1)
    else:
        moved = np.moveaxis(np.moveaxis(cells, 1, d + 1), -1, d + 2)
        shape = moved.shape[: d + 1] + (moved.shape[d + 1] * moved.shape[d + 2],) + moved.shape[d + 3 :]
        dense = moved.reshape(shape)
    dense = dense[(slice(None),) * (d + 1) + (slice(0, layout.cell[d]),)].astype(compute_type(buffer.dtype), copy=False)
    return _mask(dense, layout, binding.cells[part], binding.fill)


def _mask(dense: Array, layout: Layout, cells: NDArray[np.integer], fill: float) -> Array:
    """Everything outside a cell's true extent becomes `fill`."""
    for d, (first, stop) in enumerate(extents(layout, cells)):
        size = layout.cell[d]
        if int(first.max(initial=0)) == 0 and int(stop.min(initial=size)) == size:
            continue
        at = np.arange(size)[None, :]
        outside = (at < first[:, None]) | (at >= stop[:, None])
        shape = [1] * dense.ndim
        shape[0], shape[d + 1] = outside.shape
        np.copyto(dense, np.asarray(fill).astype(dense.dtype), where=outside.reshape(shape))
    return dense


def store(
    memory: TileMemory,
    buffer: Buffer,
    tiles: NDArray[np.integer],
    binding: Binding,
    part: slice,
    offset: int,
    dense: Array,
) -> None:
    """Write the valid extent of every cell, rounded once to the buffer's type; the rest of a grain becomes zero."""
    write(memory, buffer, tiles, binding, part, offset, image(buffer, binding.cells[part], dense))


def image(buffer: Buffer, cells: NDArray[np.integer], dense: Array) -> NDArray[np.uint8]:
    """[cells, bytes]: cells as they lie in memory."""
    layout = buffer.layout
    kind = storage_type(buffer.dtype)
    dense = _fitted(dense, layout.cell)
    if kind == np.float16 and dense.dtype == np.float32:
        rounded: Array = narrow(dense)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            rounded = dense.astype(kind, copy=not dense.flags.writeable)
    if not layout.shape:
        out = np.zeros((cells.size, *layout.storage), kind)
        out.reshape(cells.size, -1)[:, 0] = rounded.reshape(cells.size)
    else:
        out = _to_storage(_mask(rounded, layout, cells, 0), layout, cells.size)
    return out.reshape(cells.size, -1).view(np.uint8)


def write(
    memory: TileMemory,
    buffer: Buffer,
    tiles: NDArray[np.integer],
    binding: Binding,
    part: slice,
    offset: int,
    raw: NDArray[np.uint8],
) -> None:
    """Put cells as `image` made them onto their tiles."""
    size = buffer.layout.slot_bytes
    at = _rows(memory, buffer, tiles, binding, part, offset)
    window = np.lib.stride_tricks.as_strided(memory.bytes, (memory.tiles * memory.pitch - size + 1, size), (1, 1))
    window[at] = raw


def _fitted(dense: Array, cell: tuple[int, ...]) -> Array:
    """[tiles, cell...]: partials get their leading dimensions of one, a round of smaller cells is padded."""
    dense = dense.reshape(dense.shape[0], *([1] * (len(cell) + 1 - dense.ndim)), *dense.shape[1:])
    if dense.shape[1:] != cell:
        dense = np.pad(dense, [(0, 0), *((0, n - m) for n, m in zip(cell, dense.shape[1:], strict=True))])
    return dense


def _to_storage(dense: Array, layout: Layout, count: int) -> Array:
    """[tiles, cell...] in the local order of memory."""
    d, g = layout.grain_dim, layout.grain
    size = -(-layout.cell[d] // g) * g
    if size != dense.shape[d + 1]:
        pad = [(0, 0)] * dense.ndim
        pad[d + 1] = (0, size - dense.shape[d + 1])
        dense = np.pad(dense, pad)
    if layout.by_rows:
        return np.ascontiguousarray(np.moveaxis(dense, d + 1, -1))
    split = dense.reshape(*dense.shape[: d + 1], size // g, g, *dense.shape[d + 2 :])
    split = np.moveaxis(split, d + 1, 1)
    split = np.moveaxis(split, d + 2, -1)
    return np.ascontiguousarray(split)
