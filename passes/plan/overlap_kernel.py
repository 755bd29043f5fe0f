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
    """[producers, consumers, 6]: the most elements that a tile receives, all received elements, the most that stay on
    a tile, the most that a tile sends, the most fragments received, the most received and sent together.

    `to[to_at[q]:to_at[q + 1]]` are the tiles of the cells of consumer q, and `dst` has as many coordinates per group;
    `at`, `src` the same of producers; `home` per slot and tile the cell of the producer. `pair[p, q, g]` points into
    `pool` (see `Overlaps`), `variant[p, q, g]` says how runs are counted: 0 apart, 1 in any length, 2 in grains.
    `cut_src[p, g]` and `cut_dst[q, g]` point into `edges`: cells, then their beginnings and ends.
    """
    producers, consumers, groups = pair.shape
    out = np.zeros((producers, consumers, 6))
    longest = 1
    for q in range(consumers):
        longest = max(longest, to_at[q + 1] - to_at[q])
    want, want_runs = np.empty(longest), np.empty(longest)
    here, here_runs = np.empty(longest), np.empty(longest)
    held, held_runs = np.empty(longest), np.empty(longest)
    received, local, runs = np.empty(tiles), np.empty(tiles), np.empty(tiles)
    sent, code = np.empty(tiles), np.empty(tiles)
    for p in range(producers):
        cells = at_at[p + 1] - at_at[p]
        slots = (home_at[p + 1] - home_at[p]) // tiles
        for q in range(consumers):
            n = to_at[q + 1] - to_at[q]
            where = to[to_at[q] : to_at[q + 1]]
            want[:n], want_runs[:n], held[:n], held_runs[:n] = 1.0, 1.0, 0.0, 0.0
            for g in range(groups):
                base = pair[p, q, g]
                both = pool[base + 1] + pool[base + 2]
                needed = pool[base + 5 :]
                needed_runs = pool[base + 5 + both + variant[p, q, g] * both :]
                at_g = to_at[q] * groups + g * n
                coord = dst[at_g : at_g + n]
                for i in range(n):
                    want[i] *= needed[coord[i]]
                    want_runs[i] *= needed_runs[coord[i]]
            for slot in range(slots):
                lives = home[home_at[p] + slot * tiles : home_at[p] + (slot + 1) * tiles]
                for i in range(n):
                    here[i] = 1.0 if lives[where[i]] >= 0 else 0.0
                here_runs[:n] = here[:n]
                for g in range(groups):
                    base, v = pair[p, q, g], variant[p, q, g]
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
                            r = m if v == 0 else (1 if v == 1 else -(-m // grain))
                            for i in range(n):
                                here[i] *= max(m, 0)
                                here_runs[i] *= max(r, 0)
                            continue
                        for i in range(n):
                            if here[i] > 0.0:
                                d, s = coord[i], origin[lives[where[i]]]
                                m = min(dhi[d], shi[s]) - max(dlo[d], slo[s])
                                if m <= 0:
                                    here[i] = 0.0
                                else:
                                    here[i] *= m
                                    here_runs[i] *= m if v == 0 else (1 if v == 1 else -(-m // grain))
                    else:
                        begin, count, width = pool[base + 3], pool[base + 4], pool[base + 2]
                        for i in range(n):
                            if here[i] > 0.0:
                                k = _found(pool, begin, begin + count, coord[i] * width + origin[lives[where[i]]])
                                if k < 0:
                                    here[i] = 0.0
                                else:
                                    here[i] *= pool[k + count]
                                    here_runs[i] *= pool[k + count * (v + 1)]
                for i in range(n):
                    if here[i] > 0.0:
                        held[i] += here[i]
                        held_runs[i] += here_runs[i]
            received[:], local[:], runs[:], sent[:], code[:] = 0.0, 0.0, 0.0, 0.0, 0.0
            for i in range(n):
                t = where[i]
                if want[i] > held[i]:
                    received[t] += want[i] - held[i]
                    runs[t] += max(want_runs[i] - held_runs[i], 1.0)
                local[t] += held[i]
            for i in range(cells):
                t = at[at_at[p] + i]
                given, given_runs = 1.0, 1.0
                for g in range(groups):
                    base = pair[p, q, g]
                    s = src[at_at[p] * groups + g * cells + i]
                    both = pool[base + 1] + pool[base + 2]
                    given *= pool[base + 5 + pool[base + 1] + s]
                    given_runs *= pool[base + 5 + (1 + variant[p, q, g]) * both + pool[base + 1] + s]
                sent[t] += given
                code[t] += given_runs
            most, total, near, most_sent, most_runs, most_code = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for t in range(tiles):
                most = max(most, received[t])
                total += received[t]
                near = max(near, local[t])
                most_sent = max(most_sent, sent[t])
                most_runs = max(most_runs, runs[t])
                most_code = max(most_code, runs[t] + code[t])
            out[p, q] = (most, total, near, most_sent, most_runs, most_code)
    return out
