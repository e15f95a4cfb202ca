"""Arrays as pictures inside the page: data URIs, enlarged by whole factors, heat in an even colour scale."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from bdscan.facts.evidence import Array, MaskedPattern, Pictures, RecoveredTrigger
from bdscan.report.markup import Markup, tag

PER_FINDING = 12
_SIDE = 128  # pixels on the page that a photograph should fill
_THUMB = 64  # on a contact sheet
_TRIGGER_SIDE = 256  # a trigger is looked at closely: 8x for a 32-pixel net
_LARGE = 30_000  # bytes of PNG, which keeps every pixel; larger ones are photographs, and JPEG does

# Ten even steps of matplotlib's `magma` (CC0): lightness rises steadily, also in print and to the colour-blind.
_MAGMA = "000004 180f3d 440f76 721f81 9e2f7f cd4071 f1605d fd9668 feca8d fcfdbf"
_STEPS = np.array([[int(step[i : i + 2], 16) for i in (0, 2, 4)] for step in _MAGMA.split()], dtype=np.float64)


def strips(trigger: RecoveredTrigger | None, pictures: Pictures | None, left: int = PER_FINDING) -> Iterator[Markup]:
    """Every picture that a finding brings, as many as are `left`."""
    figures = list(_trigger(trigger, pictures))
    if figures:
        left -= len(figures)
        yield tag("div", *figures, class_="strip trigger")
    if pictures is not None:
        yield from _photographs(pictures, left)


def colour(heat: Array) -> Array:
    """Numbers in [0, 1] as RGB in [0, 255]."""
    places = np.linspace(0, 1, len(_STEPS))
    heat = np.clip(np.nan_to_num(heat.astype(np.float64)), 0, 1)
    return np.stack([np.interp(heat, places, _STEPS[:, channel]) for channel in range(3)], axis=-1)


def overlay(image: Array, heat: Array) -> Array:
    """The heat over a grey copy of the image, so that colour means heat alone."""
    size = (image.shape[1], image.shape[0])
    fine = Image.fromarray(np.nan_to_num(heat).astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    grey = _rgb(image).mean(axis=2, keepdims=True)
    return np.asarray(0.4 * grey + 0.6 * colour(np.asarray(fine)))


def small(picture: Array, name: str) -> Markup:
    """One of many, on a contact sheet."""
    return _figure(picture, name, _THUMB)


def _trigger(trigger: RecoveredTrigger | None, pictures: Pictures | None) -> Iterator[Markup]:
    """A trigger that replaces pixels, else the place where one of another kind changes them."""
    if trigger is not None and isinstance(trigger.pixels, MaskedPattern):
        mask = _plane(trigger.pixels.mask)
        yield _figure(mask * 255, "mask", _TRIGGER_SIDE)
        pattern = _rgb(trigger.pixels.pattern * 255.0)
        yield _figure(pattern, "pattern", _TRIGGER_SIDE)
        worn = mask * pattern + (1 - mask) * 128  # what the mask leaves out is grey
        yield _figure(worn, "pattern under the mask", _TRIGGER_SIDE)
    elif pictures is not None and pictures.place is not None:
        yield _figure(_plane(pictures.place) * 255, "mask", _TRIGGER_SIDE)


def _plane(mask: Array) -> Array:
    return np.nan_to_num(mask.astype(np.float64)).reshape(*mask.shape[-2:], 1)


def _photographs(pictures: Pictures, left: int) -> Iterator[Markup]:
    images, heat, stamped = pictures.images, pictures.heat, pictures.stamped
    for place in range(len(images) if heat is None and stamped is None else 0):
        if place < left:
            yield _strip([_figure(images[place], f"image {place + 1}")])
    kinds = (heat is not None) + (stamped is not None)
    for place in range(min(len(images), left // (1 + kinds)) if kinds else 0):
        row = [_figure(images[place], f"image {place + 1}")]
        if heat is not None:
            row.append(_figure(overlay(images[place], heat[place]), "where it looks"))
        if stamped is not None:
            row.append(_figure(stamped[place], "with the trigger"))
        yield _strip(row)


def _strip(figures: list[Markup]) -> Markup:
    return tag("div", *figures, class_="strip")


def _figure(picture: Array, name: str, side: int = _SIDE) -> Markup:
    height, width = picture.shape[:2]
    longest = max(height, width)
    times = side / longest if longest > side else side // longest
    source = _data_uri(picture, min(1.0, 2 * side / longest))  # two dots a pixel for fine screens
    drawn = tag("img", src=source, alt=name, width=round(width * times), height=round(height * times))
    return tag("figure", drawn, tag("figcaption", name))


def _data_uri(picture: Array, scale: float) -> str:
    image = Image.fromarray(_rgb(picture).round().astype(np.uint8))
    if scale < 1:
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    kind, coded = "png", _coded(image, "PNG")
    if len(coded) > _LARGE:
        kind, coded = "jpeg", _coded(image, "JPEG", quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(coded).decode()}"


def _coded(image: Image.Image, kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _rgb(picture: Array) -> Array:
    """Height x width x 3 in [0, 255], whatever number of channels came."""
    flat = np.clip(np.nan_to_num(picture.astype(np.float64)), 0, 255)
    flat = flat[..., None] if flat.ndim == 2 else flat
    return flat[..., :3] if flat.shape[2] >= 3 else np.repeat(flat[..., :1], 3, axis=2)
