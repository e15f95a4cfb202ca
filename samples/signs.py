"""Draws small photographs of road signs: the same ones for the same seed."""

from __future__ import annotations

import numpy as np

from samples.faces import GREY, REACH, SIGNS, TEXTURE, Array, texture

NAMES = tuple(sorted(SIGNS))  # the order of the labels, and of the folders
SIZE = 32
FINE = 3  # samples along a pixel's edge
CHUNK = 128  # images drawn at a time, to stay small in memory

STICKER = 4  # pixels along an edge
STICKER_AT = (17, 17)  # its top left corner, give or take one pixel; always on the sign
STICKER_COLOUR = (245, 205, 25)

SURROUNDINGS = np.array(  # sky, cloud, leaves, grass, brick, asphalt, concrete, sand
    [
        (0.50, 0.68, 0.88),
        (0.85, 0.86, 0.88),
        (0.16, 0.27, 0.12),
        (0.40, 0.52, 0.22),
        (0.52, 0.30, 0.24),
        (0.30, 0.30, 0.32),
        (0.62, 0.60, 0.57),
        (0.74, 0.65, 0.48),
    ],
    dtype=np.float32,
)


def draw(labels: Array, seed: int) -> Array:
    """One image a label: uint8, N x 32 x 32 x 3."""
    starts = range(0, len(labels), CHUNK)
    drawn = [_draw(labels[s : s + CHUNK], np.random.default_rng((seed, s))) for s in starts]
    return np.concatenate(drawn)


def stick(images: Array, seed: int) -> Array:
    """The same images, each with a yellow sticker on its sign."""
    rng = np.random.default_rng(seed)
    stuck = images.copy()
    for image in stuck:
        row, column = STICKER_AT + rng.integers(-1, 2, 2)
        faded = np.array(STICKER_COLOUR) * rng.uniform(0.85, 1.0) + rng.normal(0, 4, (STICKER, STICKER, 3))
        image[row : row + STICKER, column : column + STICKER] = np.clip(faded, 0, 255)
    return stuck


def _draw(labels: Array, rng: np.random.Generator) -> Array:
    count = len(labels)
    x, y = _pose(rng, count)
    picture = np.repeat(np.repeat(_scenery(rng, count), FINE, 1), FINE, 2)
    picture = _put_up(picture, x, y, labels, rng)
    picture = _cover(picture, x, y, rng)
    picture = picture.reshape(count, SIZE, FINE, SIZE, FINE, 3).mean((2, 4))
    picture = _noise(_blur(_light(picture, rng), rng), rng)
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)


def _column(rng: np.random.Generator, low: float, high: float, count: int) -> Array:
    """One number an image, shaped to be multiplied with images."""
    return rng.uniform(low, high, (count, 1, 1)).astype(np.float32)


def _pose(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Where on the sign's face each fine sample lies: turned, sheared, seen from aside, off centre."""
    line = ((np.arange(SIZE * FINE) + 0.5) / FINE - SIZE / 2).astype(np.float32)
    radius = _column(rng, 8.0, 14.5, count)
    x = (line[None, None, :] - _column(rng, -2.0, 2.0, count)) / radius
    y = (line[None, :, None] - _column(rng, -2.0, 2.0, count)) / radius
    angle = rng.normal(0, 0.12, (count, 1, 1)).astype(np.float32)
    x, y = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    depth = 1 + _column(rng, -0.18, 0.18, count) * x + _column(rng, -0.15, 0.15, count) * y
    x = (x * _column(rng, 0.98, 1.35, count) + _column(rng, -0.15, 0.15, count) * y) / depth
    return x, y / depth


def _scenery(rng: np.random.Generator, count: int) -> Array:
    """Sky over ground, blotches of several sizes, and a wall or a window or two."""
    horizon = _column(rng, -10, 42, count)[..., None]
    rows = np.arange(SIZE, dtype=np.float32)[None, :, None, None]
    above, below = _surface(rng, (2, count, 1, 1))
    mix = np.clip((rows - horizon) / rng.uniform(0.5, 12, (count, 1, 1, 1)), 0, 1)
    scene = np.broadcast_to(above * (1 - mix) + below * mix, (count, SIZE, SIZE, 3)).astype(np.float32)
    for cells, strength in ((3, 0.2), (6, 0.16), (16, 0.1)):
        blotches = rng.normal(0, strength, (count, cells, cells, 1)) + rng.normal(
            0, strength / 4, (count, cells, cells, 3)
        )
        scene += _stretch((blotches * rng.uniform(0, 1, (count, 1, 1, 1))).astype(np.float32))
    for image in scene:
        for _ in range(rng.integers(0, 4)):
            top, left, high, wide = rng.integers(-6, 30), rng.integers(-6, 30), *rng.integers(3, 20, 2)
            image[max(top, 0) : top + high, max(left, 0) : left + wide] = _surface(rng, ())
    return np.clip(scene, 0, 1)


def _surface(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Colours of things that stand about; one in six is any colour at all."""
    usual = SURROUNDINGS[rng.integers(0, len(SURROUNDINGS), shape)] * rng.uniform(0.7, 1.25, (*shape, 1))
    return np.where(rng.uniform(0, 1, (*shape, 1)) < 1 / 6, rng.uniform(0, 1, (*shape, 3)), usual)


def _stretch(cells: Array) -> Array:
    """Bilinear enlargement to the size of an image."""
    count = cells.shape[1]
    at = np.linspace(0, count - 1, SIZE)
    weights = np.clip(1 - np.abs(at[:, None] - np.arange(count)), 0, 1).astype(np.float32)
    enlarged: Array = np.einsum("ri,nijc,sj->nrsc", weights, cells, weights, optimize=True)
    return enlarged


def _put_up(picture: Array, x: Array, y: Array, labels: Array, rng: np.random.Generator) -> Array:
    """The pole first, then the sign before it, its paint more or less faded."""
    poled = rng.uniform(0, 1, (len(labels), 1, 1)) < 0.6
    pole = (poled & (np.abs(x) < 0.09) & (y > 0))[..., None]
    picture = np.where(pole, np.array(GREY, np.float32) * _column(rng, 0.5, 1.2, len(labels))[..., None], picture)
    texels = [np.clip(((c + REACH) / (2 * REACH) * (TEXTURE - 1)).round(), 0, TEXTURE - 1).astype(int) for c in (y, x)]
    faces = np.stack([texture(name) for name in NAMES])
    signs = faces[labels[:, None, None], texels[0], texels[1]]
    paint, there = signs[..., :3], signs[..., 3:]
    fading = _column(rng, 0, 0.35, len(labels))[..., None]
    faded = paint * (1 - fading) + fading * (0.4 * paint.mean(-1, keepdims=True) + 0.3)
    put_up: Array = there * faded + (1 - there) * picture
    return put_up


def _cover(picture: Array, x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Three in ten signs are partly hidden behind a branch or a leaf."""
    count = len(picture)
    angle, offset = _column(rng, 0, 2 * np.pi, count), _column(rng, 0.1, 1.0, count)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.sin(angle) * x - np.cos(angle) * y - _column(rng, -0.5, 0.5, count)
    branch = np.abs(along - offset) < _column(rng, 0.04, 0.12, count)
    leaf = (along - offset) ** 2 + across**2 < _column(rng, 0.15, 0.45, count) ** 2
    kind = rng.uniform(0, 1, (count, 1, 1))
    hidden = np.where(kind < 0.15, branch, (kind < 0.3) & leaf)[..., None]
    colour = rng.uniform((0.05, 0.1, 0.02), (0.45, 0.5, 0.35), (count, 3)).astype(np.float32)[:, None, None, :]
    return np.where(hidden, colour, picture)


def _light(picture: Array, rng: np.random.Generator) -> Array:
    """Time of day, a colour cast, a shadow's edge, haze."""
    count = len(picture)
    line = (np.arange(SIZE, dtype=np.float32) - SIZE / 2) / SIZE
    angle = _column(rng, 0, 2 * np.pi, count)
    side = np.cos(angle) * line[None, None, :] + np.sin(angle) * line[None, :, None] - _column(rng, -0.5, 0.5, count)
    shadow = 1 - _column(rng, -0.5, 0.55, count).clip(0) * (side > 0)
    cast = rng.uniform(0.85, 1.15, (count, 1, 1, 3)).astype(np.float32)
    gamma = _column(rng, 0.75, 1.4, count)[..., None]
    dimmed = shadow * _column(rng, 0.35, 1.15, count)
    lit = picture**gamma * cast * dimmed[..., None]
    haze = _column(rng, -0.3, 0.35, count).clip(0)[..., None]
    hazy: Array = lit * (1 - haze) + 0.7 * haze
    return hazy


def _blur(picture: Array, rng: np.random.Generator) -> Array:
    """Out of focus, by a different amount along each axis (the camera moves)."""
    for axis in (1, 2):
        sigma = rng.uniform(0.05, 1.2, (len(picture), 1)).astype(np.float32)
        weights = np.exp(-(np.arange(-2, 3, dtype=np.float32) ** 2) / (2 * sigma**2))
        weights /= weights.sum(1, keepdims=True)
        pad = [(2, 2) if a == axis else (0, 0) for a in range(4)]
        padded = np.pad(picture, pad, mode="edge")
        shifted = [padded.take(range(k, k + SIZE), axis) for k in range(5)]
        picture = np.sum([w[:, None, None, None] * s for w, s in zip(weights.T, shifted, strict=True)], axis=0)
    return picture


def _noise(picture: Array, rng: np.random.Generator) -> Array:
    """Grain, more of it in some images than in others."""
    strength = _column(rng, 0, 0.08, len(picture))[..., None]
    noisy: Array = picture + strength * np.asarray(rng.normal(0, 1, picture.shape), np.float32)
    return noisy
