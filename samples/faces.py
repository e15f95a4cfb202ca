"""The faces of twelve road signs, as layers of painted shapes: x to the right, y down, the rim at a distance of 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Shape = Callable[[Array, Array], Array]  # which points lie inside
Point = tuple[float, float]
Colour = tuple[float, float, float]
Face = tuple[tuple[Shape, Colour], ...]  # from the ground up

RED, BLUE, YELLOW = (0.78, 0.09, 0.12), (0.08, 0.27, 0.66), (0.96, 0.76, 0.10)
WHITE, BLACK, GREY = (0.96, 0.96, 0.95), (0.07, 0.07, 0.08), (0.55, 0.56, 0.57)

TEXTURE = 256  # texels along a face; three times as fine as the finest sampling
REACH = 1.05  # how far a texture reaches from the centre


def disc(radius: float, centre: Point = (0, 0)) -> Shape:
    return lambda x, y: np.hypot(x - centre[0], y - centre[1]) <= radius


def polygon(*corners: Point) -> Shape:
    """Convex, its corners in clockwise order as seen."""

    def inside(x: Array, y: Array) -> Array:
        kept = np.ones(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in pairwise((*corners, corners[0])):
            kept &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
        return kept

    return inside


def regular(corners: int, radius: float, turned: float = 0) -> Shape:
    """An equilateral polygon, its first corner at the top unless turned."""
    angles = [2 * math.pi * k / corners + turned for k in range(corners)]
    return polygon(*((radius * math.sin(a), -radius * math.cos(a)) for a in angles))


def stroke(width: float, *points: Point) -> Shape:
    """A line through the points, with round ends."""

    def inside(x: Array, y: Array) -> Array:
        hit = np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in pairwise(points):
            dx, dy = bx - ax, by - ay
            along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
            hit |= np.hypot(x - ax - along * dx, y - ay - along * dy) <= width / 2
        return hit

    return inside


def union(*shapes: Shape) -> Shape:
    return lambda x, y: np.logical_or.reduce([shape(x, y) for shape in shapes])


ZERO = ((0.5, 0), (0.9, 0.12), (1, 0.5), (0.9, 0.88), (0.5, 1), (0.1, 0.88), (0, 0.5), (0.1, 0.12), (0.5, 0))
GLYPHS: dict[str, tuple[tuple[Point, ...], ...]] = {  # strokes in a box of width and height 1
    "0": (ZERO,),
    "O": (ZERO,),
    "3": (((0, 0.12), (0.5, 0), (0.95, 0.22), (0.5, 0.47), (1, 0.74), (0.5, 1), (0, 0.88)),),
    "5": (((0.92, 0), (0.12, 0), (0.05, 0.45), (0.6, 0.38), (1, 0.68), (0.6, 1), (0, 0.9)),),
    "8": (
        ((0.5, 0), (0.9, 0.22), (0.5, 0.47), (0.1, 0.22), (0.5, 0)),
        ((0.5, 0.47), (1, 0.74), (0.5, 1), (0, 0.74), (0.5, 0.47)),
    ),
    "S": (((1, 0.12), (0.5, 0), (0, 0.24), (1, 0.74), (0.5, 1), (0, 0.88)),),
    "T": (((0, 0), (1, 0)), ((0.5, 0), (0.5, 1))),
    "P": (((0, 1), (0, 0), (0.7, 0), (1, 0.26), (0.7, 0.52), (0, 0.52)),),
}


def text(word: str, height: float, width: float, pen: float, gap: float = 0.16) -> Shape:
    """A word about the centre; the width is that of one letter."""
    left = -(len(word) * width + (len(word) - 1) * gap) / 2
    lines = [
        [(left + place * (width + gap) + x * width, (y - 0.5) * height) for x, y in line]
        for place, letter in enumerate(word)
        for line in GLYPHS[letter]
    ]
    return union(*(stroke(pen, *line) for line in lines))


def arrow(start: Point, tip: Point, pen: float, head: float) -> Shape:
    """A shaft and a triangular head."""
    length = math.dist(start, tip)
    dx, dy = (tip[0] - start[0]) / length, (tip[1] - start[1]) / length
    neck = (tip[0] - head * dx, tip[1] - head * dy)
    side = 0.75 * head
    left, right = (neck[0] + side * dy, neck[1] - side * dx), (neck[0] - side * dy, neck[1] + side * dx)
    return union(stroke(pen, start, neck), polygon(tip, right, left))


def circling() -> Shape:
    """Three arrows that follow one another clockwise."""
    shapes = []
    for k in range(3):
        begin = 2 * math.pi * k / 3
        bend = [(0.5 * math.sin(begin + a), -0.5 * math.cos(begin + a)) for a in np.linspace(0.1, 1.25, 6)]
        end = begin + 1.75
        shapes += [stroke(0.17, *bend), arrow(bend[-1], (0.52 * math.sin(end), -0.52 * math.cos(end)), 0.1, 0.36)]
    return union(*shapes)


def walker() -> Shape:
    """A person in mid-stride."""
    return union(
        disc(0.105, (0.03, -0.38)),
        stroke(0.17, (0.02, -0.16), (-0.02, 0.1)),
        stroke(0.09, (-0.02, 0.1), (0.14, 0.26), (0.16, 0.44)),
        stroke(0.09, (-0.02, 0.1), (-0.1, 0.26), (-0.24, 0.42)),
        stroke(0.07, (0.02, -0.18), (0.2, -0.02)),
        stroke(0.07, (0.02, -0.18), (-0.17, 0.0)),
    )


def shovel() -> Shape:
    """A person bent over a shovel, and a heap."""
    return union(
        disc(0.1, (0.0, -0.3)),
        stroke(0.16, (-0.06, -0.14), (-0.2, 0.12)),
        stroke(0.09, (-0.2, 0.12), (-0.08, 0.28), (-0.14, 0.44)),
        stroke(0.09, (-0.2, 0.12), (-0.32, 0.28), (-0.36, 0.44)),
        stroke(0.06, (-0.1, 0.04), (0.12, 0.16), (0.26, 0.38)),
        polygon((0.34, 0.24), (0.54, 0.48), (0.12, 0.48)),
    )


def _limit(digits: str) -> Face:
    return (
        (disc(1), WHITE),
        (disc(0.97), RED),
        (disc(0.72), WHITE),
        (text(digits, 0.72, 0.38, 0.15), BLACK),
    )


def _warning(figure: Shape) -> Face:
    return ((regular(3, 1.0), RED), (regular(3, 0.68), WHITE), (lambda x, y: figure(x * 1.25, y * 1.25 - 0.05), BLACK))


def _order(figure: Shape) -> Face:
    return ((disc(1), WHITE), (disc(0.95), BLUE), (figure, WHITE))


EIGHTH = math.pi / 8
SIGNS: dict[str, Face] = {
    "speed-30": _limit("30"),
    "speed-50": _limit("50"),
    "speed-80": _limit("80"),
    "stop": (
        (regular(8, 1.0, EIGHTH), WHITE),
        (regular(8, 0.94, EIGHTH), RED),
        (text("STOP", 0.6, 0.25, 0.12), WHITE),
    ),
    "yield": ((regular(3, 1.0, math.pi), RED), (regular(3, 0.58, math.pi), WHITE)),
    "no-entry": ((disc(1), WHITE), (disc(0.95), RED), (stroke(0.3, (-0.55, 0), (0.55, 0)), WHITE)),
    "priority": (
        (regular(4, 1.0), WHITE),
        (regular(4, 0.92), BLACK),
        (regular(4, 0.86), WHITE),
        (regular(4, 0.62), YELLOW),
    ),
    "pedestrians": _warning(walker()),
    "roadworks": _warning(shovel()),
    "ahead": _order(arrow((0, 0.65), (0, -0.72), 0.24, 0.52)),
    "keep-right": _order(arrow((-0.5, -0.5), (0.52, 0.52), 0.24, 0.52)),
    "roundabout": _order(circling()),
}


@cache
def texture(name: str) -> Array:
    """A face as TEXTURE x TEXTURE x 4 floats: red, green, blue, and 1 where there is a sign."""
    line = np.linspace(-REACH, REACH, TEXTURE)
    x, y = np.meshgrid(line, line)
    painted = np.zeros((TEXTURE, TEXTURE, 4), dtype=np.float32)
    for shape, colour in SIGNS[name]:
        painted[shape(x, y)] = (*colour, 1)
    return painted
