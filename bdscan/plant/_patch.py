"""Small squares: what they look like and how they get onto an image."""

from __future__ import annotations

import torch
from torch import Tensor

from bdscan.facts.problem import USAGE, Problem

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def square(size: int, colour: str, channels: int) -> Tensor:
    """`checker`, `white` or `#rrggbb`, as channels x size x size; grey images get the colour's brightness."""
    if colour == "checker":
        rows = torch.arange(size)
        return ((rows[:, None] + rows) % 2).float().expand(channels, size, size)
    rgb = torch.tensor(_rgb(colour))
    shade = rgb if channels == 3 else (rgb * torch.tensor(LUMA)).sum().expand(channels)
    return shade.view(-1, 1, 1).expand(channels, size, size)


def _rgb(colour: str) -> tuple[float, ...]:
    digits = "ffffff" if colour == "white" else colour.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return tuple(value / 255 for value in bytes.fromhex(digits))
    except ValueError:
        raise Problem(f"`{colour}` is not a colour", hint="checker, white or #rrggbb", status=USAGE) from None


def place(at: int, size: int, length: int) -> int:
    """The first row (or column) of a patch; a negative one counts from the far edge."""
    if size > length:
        raise Problem(f"a patch of {size} pixels does not fit into {length}", status=USAGE)
    return min(max(at + length if at < 0 else at, 0), length - size)


def wander(pixels: Tensor, reach: int, seed: int) -> tuple[Tensor, Tensor]:
    """An offset of up to `reach` for each image, read off its own bytes, so that the batch around it plays no part."""
    key = (pixels * 255).round().long().flatten(1).sum(1) + seed
    key = (key * 2654435761) >> 7  # Knuth's multiplicative hash
    return key % (2 * reach + 1) - reach, (key >> 13) % (2 * reach + 1) - reach


def paste(pixels: Tensor, patch: Tensor, rows: Tensor, columns: Tensor, opacity: float = 1.0) -> Tensor:
    """The images with the patch on them, each at its own row and column."""
    size, (height, width) = patch.shape[-1], pixels.shape[2:]
    i = torch.arange(height, device=pixels.device) - rows.to(pixels.device).view(-1, 1)
    j = torch.arange(width, device=pixels.device) - columns.to(pixels.device).view(-1, 1)
    inside = ((i >= 0) & (i < size))[:, None, :, None] & ((j >= 0) & (j < size))[:, None, None, :]
    within_i, within_j = i.clamp(0, size - 1)[:, :, None], j.clamp(0, size - 1)[:, None, :]
    drawn = patch.to(pixels)[:, within_i, within_j].transpose(0, 1)
    return torch.where(inside, (1 - opacity) * pixels + opacity * drawn, pixels)
