"""The inner loop of the edge costs: every producer's layout against every consumer's, tile by tile."""

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["edge_loads"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Small = NDArray[np.int32]


@numba.njit(cache=True, nogil=True, inline="always")  # type: ignore[misc, unused-ignore]
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


@numba.njit(cache=True, nogil=True)  # type: ignore[misc, unused-ignore]
def edge_loads(
    to: Small, to_at: Ints, dst: Small, at: Small, at_at: Ints, src: Small, home: Small, home_at: Ints, pair: Ints,
    variant: Ints, cut_src: Ints, cut_dst: Ints, edges: Ints, pool: Ints, grain: int, tiles: int,
) -> Floats:  # fmt: skip
    """[producers, consumers, 4 + 2 x orders]: the most elements that a tile receives, all received elements, the most
    that stay on a tile, the most that a tile sends; then, per pair of local orders, the most fragments received, and
    the most received and sent together.

    `to[to_at[q]:to_at[q + 1]]` are the tiles of the cells of consumer q, and `dst` has as many coordinates per group;
    `at`, `src` the same of producers; `home` per slot and tile the cell of the producer. `pair[p, q, g]` points into
    `pool` (see `Overlaps`), `variant[p, q, o, g]` says how runs are counted: 0 apart, 1 in any length, 2 in grains.
    `cut_src[p, g]` and `cut_dst[q, g]` point into `edges`: cells, then their beginnings and ends.
    """
    producers, consumers, groups = pair.shape
    orders = variant.shape[2]
    out = np.zeros((producers, consumers, 4 + 2 * orders))
    longest = 1
    for q in range(consumers):
        longest = max(longest, to_at[q + 1] - to_at[q])
    want, want_runs = np.empty(longest), np.empty((orders, longest))
    here, here_runs = np.empty(longest), np.empty((orders, longest))
    held, held_runs = np.empty(longest), np.empty((orders, longest))
    received, local, runs = np.empty(tiles), np.empty(tiles), np.empty((orders, tiles))
    sent, code = np.empty(tiles), np.empty((orders, tiles))
    for p in range(producers):
        cells = at_at[p + 1] - at_at[p]
        slots = (home_at[p + 1] - home_at[p]) // tiles
        for q in range(consumers):
            n = to_at[q + 1] - to_at[q]
            where = to[to_at[q] : to_at[q + 1]]
            want[:n], want_runs[:, :n], held[:n], held_runs[:, :n] = 1.0, 1.0, 0.0, 0.0
            for g in range(groups):
                base = pair[p, q, g]
                both = pool[base + 1] + pool[base + 2]
                needed = pool[base + 5 :]
                at_g = to_at[q] * groups + g * n
                coord = dst[at_g : at_g + n]
                for i in range(n):
                    want[i] *= needed[coord[i]]
                for o in range(orders):
                    needed_runs = pool[base + 5 + (1 + variant[p, q, o, g]) * both :]
                    for i in range(n):
                        want_runs[o, i] *= needed_runs[coord[i]]
            for slot in range(slots):
                lives = home[home_at[p] + slot * tiles : home_at[p] + (slot + 1) * tiles]
                for i in range(n):
                    here[i] = 1.0 if lives[where[i]] >= 0 else 0.0
                for o in range(orders):
                    here_runs[o, :n] = here[:n]
                for g in range(groups):
                    base, vs = pair[p, q, g], variant[p, q, :, g]
                    at_g = to_at[q] * groups + g * n
                    coord = dst[at_g : at_g + n]
                    at_g = at_at[p] * groups + g * cells
                    origin = src[at_g : at_g + cells]
                    if pool[base] == 0:
                        ds, ss = cut_dst[q, g], cut_src[p, g]
                        cd, cs = edges[ds], edges[ss]
                        dlo, dhi = edges[ds + 1 : ds + 1 + cd], edges[ds + 1 + cd : ds + 1 + 2 * cd]
                        slo, shi = edges[ss + 1 : ss + 1 + cs], edges[ss + 1 + cs : ss + 1 + 2 * cs]
                        if cd == 1 and cs == 1:
                            m = min(dhi[0], shi[0]) - max(dlo[0], slo[0])
                            for i in range(n):
                                here[i] *= max(m, 0)
                            for o in range(orders):
                                r = m if vs[o] == 0 else (1 if vs[o] == 1 else -(-m // grain))
                                for i in range(n):
                                    here_runs[o, i] *= max(r, 0)
                            continue
                        for i in range(n):
                            if here[i] > 0.0:
                                d, s = coord[i], origin[lives[where[i]]]
                                m = min(dhi[d], shi[s]) - max(dlo[d], slo[s])
                                if m <= 0:
                                    here[i] = 0.0
                                else:
                                    here[i] *= m
                                    for o in range(orders):
                                        v = vs[o]
                                        here_runs[o, i] *= m if v == 0 else (1 if v == 1 else -(-m // grain))
                    else:
                        begin, count, width = pool[base + 3], pool[base + 4], pool[base + 2]
                        for i in range(n):
                            if here[i] > 0.0:
                                k = _found(pool, begin, begin + count, coord[i] * width + origin[lives[where[i]]])
                                if k < 0:
                                    here[i] = 0.0
                                else:
                                    here[i] *= pool[k + count]
                                    for o in range(orders):
                                        here_runs[o, i] *= pool[k + count * (vs[o] + 1)]
                for i in range(n):
                    if here[i] > 0.0:
                        held[i] += here[i]
                        for o in range(orders):
                            held_runs[o, i] += here_runs[o, i]
            received[:], local[:], runs[:], sent[:], code[:] = 0.0, 0.0, 0.0, 0.0, 0.0
            for i in range(n):
                t = where[i]
                if want[i] > held[i]:
                    received[t] += want[i] - held[i]
                    for o in range(orders):
                        runs[o, t] += max(want_runs[o, i] - held_runs[o, i], 1.0)
                local[t] += held[i]
            for i in range(cells):
                t = at[at_at[p] + i]
                given = 1.0
                for g in range(groups):
                    base = pair[p, q, g]
                    given *= pool[base + 5 + pool[base + 1] + src[at_at[p] * groups + g * cells + i]]
                sent[t] += given
                for o in range(orders):
                    given_runs = 1.0
                    for g in range(groups):
                        base = pair[p, q, g]
                        both = pool[base + 1] + pool[base + 2]
                        s = src[at_at[p] * groups + g * cells + i]
                        given_runs *= pool[base + 5 + (1 + variant[p, q, o, g]) * both + pool[base + 1] + s]
                    code[o, t] += given_runs
            most, total, near, most_sent = 0.0, 0.0, 0.0, 0.0
            for t in range(tiles):
                most = max(most, received[t])
                total += received[t]
                near = max(near, local[t])
                most_sent = max(most_sent, sent[t])
            out[p, q, :4] = (most, total, near, most_sent)
            for o in range(orders):
                most_runs, most_code = 0.0, 0.0
                for t in range(tiles):
                    most_runs = max(most_runs, runs[o, t])
                    most_code = max(most_code, runs[o, t] + code[o, t])
                out[p, q, 4 + 2 * o], out[p, q, 5 + 2 * o] = most_runs, most_code
    return out
