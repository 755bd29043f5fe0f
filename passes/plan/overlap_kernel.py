"""The inner loop of the edge costs: every producer's layout against every consumer's, tile by tile."""

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["edge_loads"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Small = NDArray[np.int32]
Flags = NDArray[np.bool_]


# One signature: numba would compile it again for every number that a caller writes out.
@numba.njit("int64(int64[::1], int64, int64, int64)", cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _found(keys: Ints, begin: int, end: int, key: int) -> int:
    """The position of a key among the ascending keys[begin:end], -1 where it is missing."""
    lo, hi = begin, end
    while lo < hi:
        mid = (lo + hi) >> 1
        if keys[mid] < key:
            lo = mid + 1
        else:
            hi = mid
    return lo if lo < end and keys[lo] == key else -1


@numba.njit("int64(int64, int64, int64, int64)", cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def _runs(elements: int, way: int, grain: int, shift: int) -> int:
    """Runs of so many neighbours: apart, in any length, in grains."""
    return elements if way == 0 else (1 if way == 1 else (elements + grain - 1) >> shift)


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def edge_loads(
    to: Small, to_at: Ints, dst: Small, at: Small, at_at: Ints, src: Small, home: Small, home_at: Ints, pair: Ints,
    variant: Ints, same: Ints, alone: Flags, cut_src: Ints, cut_dst: Ints, edges: Ints, pool: Ints, grain: int,
    tiles: int,
) -> Floats:  # fmt: skip
    """[producers, consumers, 4 + 2 x orders]: the most elements that a tile receives, all received elements, the most
    that stay on a tile, the most that a tile sends; then, per pair of local orders, the most fragments received, and
    the most received and sent together.

    `to[to_at[q]:to_at[q + 1]]` are the tiles of the cells of consumer q, and `dst` has as many coordinates per group;
    `at`, `src` the same of producers; `home` per slot and tile the cell of the producer. `pair[p, q, g]` points into
    `pool` (see `Overlaps`), `variant[p, q, o, g]` says how runs are counted: 0 apart, 1 in any length, 2 in grains, and
    `same[p, q, o]` which is the first order that counts them alike. `alone[p, q]` says that no cell of either has
    replicas: what stays on a tile then leaves it for no other one. `cut_src[p, g]` and `cut_dst[q, g]` point into
    `edges`: cells, then their beginnings and ends.

    Arrays are filled and searched in plain loops: numba compiles a sum or a slice longer than a loop.
    """
    producers, consumers, groups = pair.shape
    orders = variant.shape[2]
    out = np.zeros((producers, consumers, 4 + 2 * orders))
    received, local, sent = np.empty(tiles), np.empty(tiles), np.empty(tiles)
    runs, code = np.empty((orders, tiles)), np.empty((orders, tiles))
    want_all, want_runs, give_runs, held_runs = 1.0, np.empty(orders), np.empty(orders), np.empty(orders)
    apart = np.empty(orders)
    # Of the groups along which neither layout is cut factors are left; of the others this is where their numbers are.
    kind, first = np.empty(groups, np.int64), np.empty(orders, np.int64)
    needs, gives = np.empty(groups, np.int64), np.empty(groups, np.int64)
    dsts, srcs, held_at = np.empty(groups, np.int64), np.empty(groups, np.int64), np.empty(groups, np.int64)
    dst_lo, dst_hi = np.empty(groups, np.int64), np.empty(groups, np.int64)
    src_lo, src_hi = np.empty(groups, np.int64), np.empty(groups, np.int64)
    ways, steps = np.empty((orders, groups), np.int64), np.empty((orders, groups), np.int64)
    shift = 0
    while 1 << shift < grain:
        shift += 1
    for p in range(producers):
        cells = at_at[p + 1] - at_at[p]
        slots = (home_at[p + 1] - home_at[p]) // tiles
        for q in range(consumers):
            n = to_at[q + 1] - to_at[q]
            # Orders that count runs alike are counted once.
            kinds = 0
            for o in range(orders):
                if same[p, q, o] == o:
                    first[kinds] = o
                    want_runs[kinds] = held_runs[kinds] = give_runs[kinds] = 1.0
                    kinds += 1
            want_all, held_all, give_all = 1.0, 1.0, 1.0
            active = 0
            for g in range(groups):
                base = pair[p, q, g]
                rows, columns, begin, count = pool[base + 1], pool[base + 2], pool[base + 3], pool[base + 4]
                both = rows + columns
                ds, ss = cut_dst[q, g], cut_src[p, g]
                if rows > 1 or columns > 1:
                    kind[active] = columns if pool[base] else 0
                    needs[active], gives[active] = base + 5, base + 5 + rows
                    dsts[active], srcs[active] = to_at[q] * groups + g * n, at_at[p] * groups + g * cells
                    if pool[base]:
                        dst_lo[active], dst_hi[active] = begin, begin + count
                    else:
                        dst_lo[active], dst_hi[active] = ds + 1, ds + 1 + edges[ds]
                        src_lo[active], src_hi[active] = ss + 1, ss + 1 + edges[ss]
                    for k in range(kinds):
                        ways[k, active] = variant[p, q, first[k], g]
                        steps[k, active] = (1 + variant[p, q, first[k], g]) * both
                    active += 1
                    continue
                m = 0
                if pool[base] and count:
                    m = pool[begin + count]
                elif not pool[base]:
                    m = min(edges[ds + 2], edges[ss + 2]) - max(edges[ds + 1], edges[ss + 1])
                want_all *= pool[base + 5]
                held_all *= max(m, 0)
                give_all *= pool[base + 6]
                for k in range(kinds):
                    v = variant[p, q, first[k], g]
                    want_runs[k] *= pool[base + 5 + (1 + v) * both]
                    give_runs[k] *= pool[base + 6 + (1 + v) * both]
                    if m > 0:
                        held_runs[k] *= pool[begin + count * (v + 1)] if pool[base] else _runs(m, v, grain, shift)
            for t in range(tiles):
                sent[t] = received[t] = local[t] = 0.0
            for k in range(kinds):
                for t in range(tiles):
                    code[k, t] = runs[k, t] = 0.0
            for i in range(cells):
                given = give_all
                for j in range(active):
                    given *= pool[gives[j] + src[srcs[j] + i]]
                sent[at[at_at[p] + i]] += given
            for k in range(kinds):
                for i in range(cells):
                    given = give_runs[k]
                    for j in range(active):
                        given *= pool[gives[j] + steps[k, j] + src[srcs[j] + i]]
                    code[k, at[at_at[p] + i]] += given
            for i in range(n):
                t = to[to_at[q] + i]
                want, held = want_all, 0.0
                for j in range(active):
                    want *= pool[needs[j] + dst[dsts[j] + i]]
                for k in range(kinds):
                    apart[k] = 0.0
                for slot in range(slots if held_all > 0.0 else 0):
                    lives = home[home_at[p] + slot * tiles + t]
                    here = held_all if lives >= 0 else 0.0
                    for j in range(active):
                        if here == 0.0:
                            break
                        d, s = dst[dsts[j] + i], src[srcs[j] + lives]
                        if kind[j] == 0:
                            m = min(edges[dst_hi[j] + d], edges[src_hi[j] + s]) - max(
                                edges[dst_lo[j] + d], edges[src_lo[j] + s]
                            )
                            found = max(m, 0)
                        else:
                            found = _found(pool, dst_lo[j], dst_hi[j], d * kind[j] + s)
                            m = 0 if found < 0 else pool[found + dst_hi[j] - dst_lo[j]]
                        here *= max(m, 0)
                        held_at[j] = found
                    if here == 0.0:
                        continue
                    held += here
                    for k in range(kinds):
                        pieces = held_runs[k]
                        for j in range(active):
                            if kind[j] == 0:
                                pieces *= _runs(held_at[j], ways[k, j], grain, shift)
                            else:
                                pieces *= pool[held_at[j] + (dst_hi[j] - dst_lo[j]) * (ways[k, j] + 1)]
                        apart[k] += pieces
                local[t] += held
                if alone[p, q]:
                    sent[t] = max(sent[t] - held, 0.0)
                    for k in range(kinds):
                        code[k, t] = max(code[k, t] - apart[k], 0.0)
                if want > held:
                    received[t] += want - held
                    for k in range(kinds):
                        pieces = want_runs[k]
                        for j in range(active):
                            pieces *= pool[needs[j] + steps[k, j] + dst[dsts[j] + i]]
                        runs[k, t] += max(pieces - apart[k], 1.0)
            most, total, near, away = 0.0, 0.0, 0.0, 0.0
            for t in range(tiles):
                most, near, away = max(most, received[t]), max(near, local[t]), max(away, sent[t])
                total += received[t]
            out[p, q, 0], out[p, q, 1], out[p, q, 2], out[p, q, 3] = most, total, near, away
            for k in range(kinds):
                into, through = 0.0, 0.0
                for t in range(tiles):
                    into, through = max(into, runs[k, t]), max(through, runs[k, t] + code[k, t])
                out[p, q, 4 + 2 * first[k]], out[p, q, 5 + 2 * first[k]] = into, through
            for o in range(orders):
                out[p, q, 4 + 2 * o] = out[p, q, 4 + 2 * same[p, q, o]]
                out[p, q, 5 + 2 * o] = out[p, q, 5 + 2 * same[p, q, o]]
    return out
