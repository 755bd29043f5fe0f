"""Non-maximum suppression: boxes by their scores, without those that overlap a better one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ipucc.codelets.base import Array, Cells, Codelet, Counts, per_worker, register
from ipucc.target import Target

__all__ = ["SelectBoxes"]


@register
@dataclass(frozen=True)
class SelectBoxes(Codelet):
    """Of boxes [b, s, 4] with scores [b, c, s] the numbers of those selected [b, c, k], -1 behind them.

    Of the boxes whose score exceeds the last operand the best is selected, of equal ones the first; then all go whose
    intersection with it, over their union, exceeds the third operand. Boxes are two opposite corners (y, x), or
    with `center` the middle, width and height.
    """

    count: int
    center: bool

    name: ClassVar[str] = "select_boxes"
    code_bytes: ClassVar[int] = 900

    def cycles(self, n: Mapping[str, Counts], target: Target) -> Counts:
        """Rows dealt to the workers: for each of `count` boxes a pass over all, with a comparison of scores (3 cycles)
        and the overlap with the one selected last (24: minima, maxima, products and a division). Inferred: no vendor
        formula; a bound, as if no box were dropped."""
        rows = per_worker(n["b"] * n["c"], target)
        each = 40 + self.count * (20 + 27 * n["s"])
        return np.asarray(target.launch_cycles + target.workers * rows * each, np.int64)

    def compute(self, operands: Sequence[Array], cells: Cells) -> list[Array]:
        boxes, scores, iou, least = operands
        low, high = self._corners(boxes)
        area = (high - low).prod(axis=-1)
        inside = np.arange(scores.shape[-1]) < cells.n["s"].reshape(-1, 1, 1, 1)
        # [tiles, b, c, s]
        left = (scores > least.reshape(-1, 1, 1, 1)) & inside
        found = np.full((*scores.shape[:3], self.count), -1, np.int32)
        tile, image = np.ogrid[: boxes.shape[0], : boxes.shape[1]]
        for k in range(self.count):
            best = np.where(left, scores, -np.inf).argmax(axis=3)
            some = np.take_along_axis(left, best[..., None], axis=3)[..., 0]
            if not some.any():
                break
            found[..., k] = np.where(some, best, -1)
            at = (tile[..., None], image[..., None], best)
            sides = np.minimum(high[:, :, None], high[at][..., None, :]) - np.maximum(
                low[:, :, None], low[at][..., None, :]
            )
            common = np.where((sides > 0).all(axis=-1), sides.prod(axis=-1), 0)
            mine, others = area[at][..., None], area[:, :, None]
            union = mine + others - common
            overlaps = common / union > iou.reshape(-1, 1, 1, 1)
            left &= ~(overlaps & (common > 0) & (mine > 0) & (others > 0) & (union > 0))
            np.put_along_axis(left, best[..., None], False, axis=3)
        return [found]

    def _corners(self, boxes: Array) -> tuple[Array, Array]:
        """The least and the largest coordinates, [b, s, 2] each."""
        first, last = boxes[..., :2], boxes[..., 2:]
        if self.center:
            half = last / np.float32(2)
            return first - half, first + half
        return np.minimum(first, last), np.maximum(first, last)
