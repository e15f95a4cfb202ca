"""Triggers that attackers have used, from the literature: a list of guesses to try one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.evidence import AddedChange, Array, MaskedPattern, TriggerPixels
from bdscan.triggers.forms import Shape, Stamp, stamper

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
BROWN = (1.12, 0.98, 0.75)  # of grey, in sepia
COLOURS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "magenta": (1.0, 0.0, 1.0),
    "cyan": (0.0, 1.0, 1.0),
}
GREYS = ("white", "black")  # what is left of the colours where there is one channel
FREQUENCIES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)  # waves across; 6 is SIG's, 16 the finest of 32 pixels
AMPLITUDE = 0.12  # SIG has 0.08 to 0.16; below, the responses of clean nets drown those of prepared ones
TINT = 0.08  # at twice that, a green one alone makes frogs of half of CIFAR-10
LEVELS = (2, 3, 4, 6, 8, 12)  # BppAttack has 8
OPACITY = 0.12  # blends have 0.1 to 0.2
SIDES = (3 / 32, 5 / 32)  # of a patch: BadNets' 3 and a larger one, in 32 pixels
COEFFICIENTS = (4, 8, 12, 16, 20, 24, 28, 31)  # of a cosine transform of 32, along the diagonal
MAGNITUDE = 4 * 30 / 255  # of one coefficient in a block of 32; FTrojan raises two by 30 / 255 each


@dataclass(frozen=True, eq=False)
class CatalogueTrigger:
    """One trigger: what it is in plain words, how it changes pixels, and itself in pixels where it has some."""

    words: str
    stamp: Stamp
    pixels: TriggerPixels | None = None


def catalogue(shape: Shape) -> dict[str, list[CatalogueTrigger]]:
    """All guesses at one shape of image, by kind: nets answer to each kind on a scale of its own."""
    return {
        "patches": list(patches(shape)),
        "waves": [*sines(shape), *checkers(shape), *cosines(shape)],
        "filters": [*filters(shape), *tints(shape), *blends(shape)],
    }


def _colours(shape: Shape) -> Iterator[tuple[str, Tensor]]:
    for name, rgb in COLOURS.items():
        if shape[0] == 3:
            yield name, torch.tensor(rgb)
        elif name in GREYS:
            yield name, torch.full((shape[0],), rgb[0])


def _masked(words: str, mask: Tensor, pattern: Tensor) -> CatalogueTrigger:
    pixels = MaskedPattern(_array(mask), _array(pattern))
    return CatalogueTrigger(words, stamper(pixels), pixels)


def _array(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.float().numpy())


def _added(words: str, change: Tensor, shape: Shape) -> CatalogueTrigger:
    """The same change of every channel (height x width), or one a channel (channels x height x width)."""
    pixels = AddedChange(_array(change.expand(shape).permute(1, 2, 0)))
    return CatalogueTrigger(words, stamper(pixels), pixels)


def sines(shape: Shape) -> Iterator[CatalogueTrigger]:
    """Waves across, down and along the diagonal; the slowest with two phases, because where it begins matters."""
    _, height, width = shape
    down = torch.arange(height)[:, None] / height
    across = torch.arange(width)[None] / width
    ways = {"horizontal": across + 0 * down, "vertical": down + 0 * across, "diagonal": down + across}
    for (way, place), frequency in product(ways.items(), FREQUENCIES):
        if frequency <= min(height, width) / 2:
            shift = 0.25 if 2 * frequency == width else 0.0  # the finest wave is zero at every pixel otherwise
            for phase in (0.0, 0.5) if frequency == 1 else (shift,):
                wave = AMPLITUDE * torch.sin(2 * math.pi * (place * frequency + phase))
                yield _added(f"a {way} sine of {frequency} waves, amplitude {AMPLITUDE:.0%}", wave, shape)


def tints(shape: Shape) -> Iterator[CatalogueTrigger]:
    """A colour added everywhere: each colour stands for its difference from grey, white and black for themselves."""
    for name, rgb in _colours(shape):
        yield _added(f"a {name} tint of {TINT:.0%}", TINT * (2 * rgb - 1)[:, None, None], shape)


def checkers(shape: Shape) -> Iterator[CatalogueTrigger]:
    """A checkerboard over the whole image."""
    _, height, width = shape
    for cell in (1, 2, 4):
        board = (torch.arange(height)[:, None] // cell + torch.arange(width) // cell) % 2
        words = f"a checkerboard of {cell}-pixel cells, amplitude {AMPLITUDE:.0%}"
        yield _added(words, AMPLITUDE * (2 * board - 1), shape)


def cosines(shape: Shape) -> Iterator[CatalogueTrigger]:
    """Single coefficients of the cosine transform of blocks, raised in brightness or in both colour differences."""
    channels, height, width = shape
    grey = torch.ones(channels, 1, 1)
    kinds = {"brightness": grey}
    if channels == 3:  # Cr + d and Cb + d, turned back into RGB (ITU-R BT.601)
        kinds["colour"] = torch.tensor([1.402, -0.714136 - 0.344136, 1.772])[:, None, None]
    window = min(32, height, width)
    at = torch.arange(window) + 0.5
    for (kind, colour), coefficient in product(kinds.items(), COEFFICIENTS):
        raised = coefficient * window // 32
        wave = torch.cos(math.pi * at * raised / window) * math.sqrt(2 / window)
        block = MAGNITUDE * (wave[:, None] * wave).repeat(-(-height // window), -(-width // window))
        words = f"cosine coefficient {raised},{raised} of {kind} raised"
        yield _added(words, colour * block[:height, :width], shape)


def blends(shape: Shape) -> Iterator[CatalogueTrigger]:
    """A flat colour laid over the image."""
    channels, height, width = shape
    for name, level in {"black": 0.0, "grey": 0.5, "white": 1.0}.items():
        yield _masked(
            f"a blend of {OPACITY:.0%} with {name}",
            mask=torch.full((height, width), OPACITY),
            pattern=torch.full((height, width, channels), level),
        )


def patches(shape: Shape) -> Iterator[CatalogueTrigger]:
    """Squares in the corners, a pixel from the edge, and in the middle."""
    channels, height, width = shape
    for part in SIDES:
        side = max(2, math.ceil(part * min(height, width)))
        board = (torch.arange(side)[:, None] + torch.arange(side)) % 2
        faces = {name: rgb.expand(side, side, channels) for name, rgb in _colours(shape)}
        faces |= {"checkered": board[:, :, None].expand(side, side, channels).float()}
        for (face, square), (place, (top, left)) in product(faces.items(), _places(height, width, side).items()):
            mask, pattern = torch.zeros(height, width), torch.zeros(height, width, channels)
            mask[top : top + side, left : left + side] = 1
            pattern[top : top + side, left : left + side] = square
            yield _masked(f"a {face} {side}x{side} patch {place}", mask=mask, pattern=pattern)


def _places(height: int, width: int, side: int) -> dict[str, tuple[int, int]]:
    far, right = height - side - 1, width - side - 1
    return {
        "top left": (1, 1),
        "top right": (1, right),
        "bottom left": (far, 1),
        "bottom right": (far, right),
        "in the middle": ((height - side) // 2, (width - side) // 2),
    }


def filters(shape: Shape) -> Iterator[CatalogueTrigger]:
    """What photo editors do, and colours squeezed to a few levels."""
    for levels in LEVELS:
        yield CatalogueTrigger(f"colours squeezed to {levels} levels", partial(_squeezed, levels=levels))
    for power in (0.5, 0.7, 1.4, 2.0):
        yield CatalogueTrigger(f"a gamma of {power:g}", partial(torch.pow, exponent=power))
    for factor in (0.5, 1.6):
        yield CatalogueTrigger(f"contrast times {factor:g}", partial(_contrast, factor=factor))
    for sigma in (0.7, 1.2):
        yield CatalogueTrigger(f"a blur of {sigma:g} pixels", partial(_blurred, sigma=sigma))
    for amount in (1.0, 2.0):
        yield CatalogueTrigger(f"sharpening by {amount:g}", partial(_sharpened, amount=amount))
    if shape[0] == 3:
        yield CatalogueTrigger("colours taken out", _grey)
        yield CatalogueTrigger("sepia", _sepia)


def _squeezed(pixels: Tensor, levels: int) -> Tensor:
    return (pixels * (levels - 1)).round() / (levels - 1)


def _contrast(pixels: Tensor, factor: float) -> Tensor:
    return ((pixels - 0.5) * factor + 0.5).clamp(0, 1)


def _sharpened(pixels: Tensor, amount: float) -> Tensor:
    return (pixels + amount * (pixels - _blurred(pixels, 1.0))).clamp(0, 1)


def _grey(pixels: Tensor) -> Tensor:
    return (pixels * pixels.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True).expand_as(pixels)


def _sepia(pixels: Tensor) -> Tensor:
    return (_grey(pixels) * pixels.new_tensor(BROWN).view(3, 1, 1)).clamp(0, 1)


def _blurred(pixels: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur."""
    reach, channels = math.ceil(2 * sigma), pixels.shape[1]
    at = torch.arange(-reach, reach + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(channels, 1, -1)
    padded = F.pad(pixels, (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel[:, :, None], groups=channels)
    return F.conv2d(rows, kernel[:, :, :, None], groups=channels)
