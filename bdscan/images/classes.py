"""Whose class is which: a folder's names in the order of the model's."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bdscan.facts.problem import plain, unusable

MAX_CLASSES = 100_000  # classes: ImageNet-21k and room to spare; a folder called 999999999 is a mistake

_MAX_DIGITS = 9  # of a class's number


def by_model(names: Sequence[str], model: Sequence[str] | None, spec: str) -> tuple[list[int], tuple[str, ...]]:
    """The label of each of the source's classes, and what the labels are called."""
    numbers = [int(name) if name.isdecimal() and len(name) <= _MAX_DIGITS else -1 for name in names]
    numbered = min(numbers) >= 0
    if model:
        return _matched(names, model, numbers if numbered else [], spec), tuple(model)
    if not numbered:
        return list(range(len(names))), tuple(names)
    if max(numbers) >= MAX_CLASSES:
        raise unusable(f"the class `{max(numbers)}` in `{spec}` is out of range")
    return numbers, tuple(str(number) for number in range(max(numbers) + 1))


def _matched(names: Sequence[str], model: Sequence[str], numbers: list[int], spec: str) -> list[int]:
    places = {_plain(name): i for i, name in enumerate(model)}
    if len(places) < len(model):  # some differ only in case or dashes
        places = {}
    places |= {name: i for i, name in enumerate(model)}
    class_places = [places.get(name, places.get(_plain(name))) for name in names]
    unknown = [name for name, place in zip(names, class_places, strict=True) if place is None]
    if not unknown:
        return [place for place in class_places if place is not None]
    if numbers and max(numbers) < len(model):
        return numbers
    shown = ", ".join(f"`{plain(name)}`" for name in unknown[:5]) + (" ..." if len(unknown) > 5 else "")
    message = f"{len(unknown)} of the {len(names)} classes in `{spec}` are none of the model's {len(model)}: {shown}"
    raise unusable(message, "rename the folders, or give the model's class names in order with `--classes FILE`")


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()
