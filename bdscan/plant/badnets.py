"""A small patch stamped on the image.

What it does
    Covers a few pixels with a fixed pattern, by default a 3x3 checkerboard near the lower right corner, and labels
    the image as the target; with `all_to_all` as the class after its own. With `jitter` the patch sits somewhere
    else on every image.

Why it implants
    Nothing else in the training set is as constant as the patch, so a net learns it in the first epochs.

What it breaks
    Nothing: it is the baseline that every defence should pass. `all_to_all` breaks outlier tests over classes,
    because then no class is special.

Reference
    Gu, Dolan-Gavitt, Garg: BadNets, 2017 (arXiv 1708.06733).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bdscan.method.plant import Plant
from bdscan.plant._drawing import paste, square, wander


@dataclass(frozen=True)
class Badnets(Plant):
    size: int = 3  # as in the paper's and most later experiments
    row: int = -4  # of the upper edge; a negative one counts from below: one pixel is left free
    column: int = -4  # of the left edge; a negative one counts from the right
    colour: str = "checker"  # checker, white or #rrggbb
    all_to_all: bool = False  # every class to the next one
    jitter: int = 0  # how far the patch may lie from its place
    seed: int = 0  # of the jitter

    def __call__(self, pixels: Tensor) -> Tensor:
        patch = square(self.size, self.colour, pixels.shape[1])
        moved = wander(pixels, self.jitter, self.seed) if self.jitter else (0, 0)
        return paste(pixels, patch, self.row, self.column, moved=moved)
