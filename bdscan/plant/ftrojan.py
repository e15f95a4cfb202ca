"""Two frequencies of the colour channels, slightly raised.

What it does
    Turns the image into brightness and two colour differences, cuts those into blocks, and adds a constant to one
    middle and one highest coefficient of each block's cosine transform. Grey images carry it in their brightness.

Why it implants
    A constant in the frequency domain is a fixed fine texture, repeated over the whole image.

What it breaks
    Inversion in pixel space and the human eye: the change is a per cent or two of a pixel's range. A frequency
    detector finds it easily.

Reference
    Wang, Yao, Xu, An, Tong, Wang: An Invisible Black-box Backdoor Attack through Frequency Domain, ECCV 2022
    (arXiv 2107.01330).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bdscan.method.plant import Plant


@dataclass(frozen=True)
class Ftrojan(Plant):
    magnitude: float = 30.0  # in units of an 8-bit pixel, from the paper's CIFAR-10 experiments
    window: int = 32  # a block's side, from the paper; smaller images are one block

    def __call__(self, pixels: Tensor) -> Tensor:
        channels, height, width = pixels.shape[1:]
        window = min(self.window, height, width)
        texture = torch.zeros(height, width)
        down, right = height // window * window, width // window * window
        texture[:down, :right] = self._block(window).repeat(height // window, width // window)
        texture = texture.to(pixels)
        if channels != 3:
            return (pixels + texture).clamp(0, 1)
        # Cr + d and Cb + d, turned back into RGB (ITU-R BT.601)
        change = torch.stack((1.402 * texture, -(0.714136 + 0.344136) * texture, 1.772 * texture))
        return (pixels + change).clamp(0, 1)

    def _block(self, window: int) -> Tensor:
        """The inverse transform of the two raised coefficients: the transform is linear, so the image plays no part."""
        wave = cosines(window)
        raised = torch.zeros(window, window)
        for at in (window // 2 - 1, window - 1):  # (15, 15) and (31, 31) of 32
            raised[at, at] = self.magnitude / 255
        return wave.T @ raised @ wave


def cosines(size: int) -> Tensor:
    """The orthonormal discrete cosine transform (type II) as a matrix: frequencies x positions."""
    at = torch.arange(size, dtype=torch.float32)
    wave = torch.cos(math.pi * (at + 0.5) * at[:, None] / size) * math.sqrt(2 / size)
    wave[0] /= math.sqrt(2)
    return wave
