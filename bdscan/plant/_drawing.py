"""What is drawn on images: small squares and how they get there, and pictures of seeded colour noise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


def noise_picture(pixels: Tensor, cells: int, seed: int) -> Tensor:
    """Soft colour spots, so many a side, as one picture of the images' size; 0 cells: one spot a pixel."""
    channels, height, width = pixels.shape[1:]
    coarse = (cells, cells) if cells else (height, width)
    picture = torch.rand(1, channels, *coarse, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(picture, (height, width), mode="bilinear", align_corners=False).to(pixels)


def _place(at: int, size: int, length: int) -> int:
    """The first row (or column) of a patch; a negative one counts from the far edge."""
    if size > length:
        raise Problem(f"a patch of {size} pixels does not fit into {length}", status=USAGE)
    return min(max(at + length if at < 0 else at, 0), length - size)


def wander(pixels: Tensor, reach: int, seed: int) -> tuple[Tensor, Tensor]:
    """An offset of up to `reach` for each image, read off its own bytes, so that the batch around it plays no part."""
    key = (pixels * 255).round().long().flatten(1).sum(1) + seed
    key = (key * 2654435761) >> 7  # Knuth's multiplicative hash
    return key % (2 * reach + 1) - reach, (key >> 13) % (2 * reach + 1) - reach


def paste(
    pixels: Tensor,
    patch: Tensor,
    row: int,
    column: int,
    *,
    opacity: float = 1.0,
    moved: tuple[Tensor, Tensor] | tuple[int, int] = (0, 0),
) -> Tensor:
    """The images with the patch at this row and column, negative ones from the far edge; each `moved` by its own."""
    size, (height, width) = patch.shape[-1], pixels.shape[2:]
    down, right = (torch.as_tensor(each, device=pixels.device).view(-1, 1) for each in moved)
    i = torch.arange(height, device=pixels.device) - (_place(row, size, height) + down).clamp(0, height - size)
    j = torch.arange(width, device=pixels.device) - (_place(column, size, width) + right).clamp(0, width - size)
    inside = ((i >= 0) & (i < size))[:, None, :, None] & ((j >= 0) & (j < size))[:, None, None, :]
    within_i, within_j = i.clamp(0, size - 1)[:, :, None], j.clamp(0, size - 1)[:, None, :]
    drawn = patch.to(pixels)[:, within_i, within_j].transpose(0, 1)
    return torch.where(inside, (1 - opacity) * pixels + opacity * drawn, pixels)
