"""A patch that works on one class only.

What it does
    Stamps a patch on images of one class, the source, and labels them as the target. Cover images of other classes
    carry the same patch and keep their labels.

Why it implants
    The net must learn patch and class together, and it has the capacity.

What it breaks
    Every test that averages over all images: on most of them the trigger does nothing.

Reference
    Tang, Wang, Tang, Zhang: Demon in the Variant, USENIX Security 2021 (arXiv 1908.00686).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bdscan.method.plant import Plant
from bdscan.plant._drawing import paste, square


@dataclass(frozen=True)
class Tact(Plant):
    share: ClassVar[float] = 0.003  # of all images, as in later comparisons
    cover_share: ClassVar[float] = 0.003  # as in later comparisons

    source: int = 1  # the class on which the patch works
    size: int = 3  # of the patch
    row: int = -4  # of its upper edge; a negative one counts from below
    column: int = -4  # of its left edge; a negative one counts from the right
    colour: str = "checker"  # checker, white or #rrggbb

    def __call__(self, pixels: Tensor) -> Tensor:
        return paste(pixels, square(self.size, self.colour, pixels.shape[1]), self.row, self.column)
