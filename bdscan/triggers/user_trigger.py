"""A trigger that somebody has: read from a file, and put to a net to be measured and nothing else."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.evidence import AddedChange, Array, Displacement, MaskedPattern, TriggerPixels
from bdscan.facts.problem import COULD_NOT_TELL, USAGE, Problem
from bdscan.images.decode import UNREADABLE, open_picture
from bdscan.images.image_set import ImageSet
from bdscan.net.classifier import Classifier
from bdscan.triggers.forms import Shape, Stamp, stamper

MAX_ARRAY_BYTES = 64 << 20  # bytes of one array: a trigger is the size of an image
HOLDS = "an .npz holds `mask` (H x W) and `pattern` (H x W x C), or `change` (H x W x C), or `flow` (H x W x 2)"
PLACED = "a picture smaller than the net's input is put in the lower right corner, or at FILE@X,Y (left, top)"
OPAQUE = "save it with alpha (opaque where the trigger is), or blend it: FILE@0.2 for a share of 20 %"


@dataclass(frozen=True, eq=False)
class UserTrigger:
    """What it does to pixels (floats in [0, 1], NCHW), and what was done to make it fit."""

    file: str
    stamp: Stamp
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TriggerEffect:
    """How a net fares with a trigger: its accuracy without, and with it the attack's success and what resists."""

    target: int | None  # None: each class has its own
    accuracy: float
    asr: float  # of the images that are not of the target class, the share that goes there
    ra: float  # of the same images, the share that keeps its own label


def read(source: str | Path, shape: Shape) -> UserTrigger:
    """A picture with alpha (`FILE`), put elsewhere (`FILE@X,Y`) or blended (`FILE@0.2`), or arrays in an `.npz`."""
    path, given = _parted(str(source))
    if not path.is_file():
        raise Problem(f"there is no trigger file `{path}`", status=USAGE)
    if path.suffix.lower() == ".npz":
        if given:
            raise Problem(f"`@{given}` is for pictures: arrays say themselves where they lie", status=USAGE)
        arrays = _checked(path, _npz(path), shape)
    else:
        arrays = _pasted(path, given, shape)
    arrays, notes = _fitted(path, arrays, shape)
    return UserTrigger(str(source), stamper(_pixels(arrays)), notes)


def measure(suspect: Classifier, trigger: UserTrigger, clean: ImageSet, target: int | None) -> TriggerEffect:
    """Without a target: the class to which the trigger sends most images of other classes."""
    if target is not None and not 0 <= target < suspect.classes:
        raise Problem(f"the net has classes 0 to {suspect.classes - 1}, and none {target}", status=USAGE)
    labels = clean.labels.cpu()
    plain, went = suspect.answers(clean).argmax(1), suspect.answers(clean, trigger.stamp).argmax(1)
    if target is None:
        target = int(went[went != labels].bincount(minlength=suspect.classes).argmax())
    others = labels != target
    if not others.any():
        raise Problem(f"all clean images are of {suspect.name(target)}, where the trigger leads", status=COULD_NOT_TELL)
    return TriggerEffect(
        target=target,
        accuracy=_share(plain == labels),
        asr=_share(went[others] == target),
        ra=_share(went[others] == labels[others]),
    )


def _pixels(arrays: Mapping[str, Array]) -> TriggerPixels:
    if "mask" in arrays:
        return MaskedPattern(arrays["mask"], arrays["pattern"])
    return AddedChange(arrays["change"]) if "change" in arrays else Displacement(arrays["flow"])


def der(before: TriggerEffect, after: TriggerEffect) -> float:
    """Defence effectiveness: 1 where all of the success goes and no accuracy, 0.5 where nothing changes."""
    won, lost = before.asr - after.asr, before.accuracy - after.accuracy
    return (max(0.0, won) - max(0.0, lost) + 1) / 2


def _share(which: Tensor) -> float:
    return float(which.float().mean())


def _parted(source: str) -> tuple[Path, str]:
    """The file, and what follows its last `@`, unless that is part of its name."""
    file, at, given = source.rpartition("@")
    return (Path(source), "") if not at or Path(source).exists() else (Path(file), given)


# -- arrays -------------------------------------------------------------------


def _npz(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            if any(item.file_size > MAX_ARRAY_BYTES for item in archive.infolist()):
                raise ValueError("an array is too large for a trigger")
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in ("mask", "pattern", "change", "flow") if name in held}
    except (*UNREADABLE, zipfile.BadZipFile, EOFError) as error:
        raise Problem(f"`{path}` cannot be read: {error}", hint=HOLDS, status=USAGE) from error


def _checked(path: Path, held: Mapping[str, Array], shape: Shape) -> dict[str, Array]:
    """One form of trigger, each array with the axes and the range it should have."""
    forms = [names for names in (("mask", "pattern"), ("change",), ("flow",)) if set(names) <= set(held)]
    if len(forms) != 1:
        raise Problem(f"`{path}` holds {'more than one' if forms else 'no'} trigger", hint=HOLDS, status=USAGE)
    arrays = {}
    for name in forms[0]:
        depth = {"mask": 1, "flow": 2}.get(name, shape[0])
        low = 0.0 if name in ("mask", "pattern") else -1.0
        arrays[name] = _floats(path, name, held[name], depth, low)
    if len({array.shape[:2] for array in arrays.values()}) > 1:
        raise Problem(f"`mask` and `pattern` in `{path}` differ in size", hint=HOLDS, status=USAGE)
    return arrays


def _floats(path: Path, name: str, array: Array, depth: int, low: float) -> Array:
    """Height x width x depth; whole numbers count in 255ths."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] != depth or not array.size or array.dtype.kind not in "biuf":
        size = " x ".join(map(str, array.shape))
        message = f"`{name}` in `{path}` is {size} {array.dtype}, and should be H x W x {depth} numbers"
        raise Problem(message, hint=HOLDS, status=USAGE)
    values: Array = array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
    if not (np.isfinite(values).all() and values.min() >= low and values.max() <= 1):
        raise Problem(f"`{name}` in `{path}` leaves the range {low:g} to 1", hint=HOLDS, status=USAGE)
    return values


# -- pictures -----------------------------------------------------------------


def _pasted(path: Path, given: str, shape: Shape) -> dict[str, Array]:
    """Mask and pattern; smaller pictures are put in the lower right corner unless a place is given."""
    at, share = _wish(given)
    mask, pattern, has_alpha = _picture(path, shape[0])
    small = mask.shape[0] <= shape[1] and mask.shape[1] <= shape[2] and mask.shape[:2] != shape[1:]
    if share is None and not has_alpha and not small:
        raise Problem(f"`{path}` has no alpha and would hide the whole image", hint=OPAQUE, status=USAGE)
    mask = mask * (1.0 if share is None else share)
    if not mask.any():
        raise Problem(f"`{path}` is transparent everywhere", hint=OPAQUE, status=USAGE)
    if not small:
        if at is not None:
            raise Problem(f"`{path}` is no smaller than the net's input, it has no place", hint=PLACED, status=USAGE)
        return {"mask": mask, "pattern": pattern}
    return _placed(path, {"mask": mask, "pattern": pattern}, at, shape)


def _wish(given: str) -> tuple[tuple[int, int] | None, float | None]:
    """A place or a share."""
    if not given:
        return None, None
    if re.fullmatch(r"-?\d+,-?\d+", given):
        left, top = given.split(",")
        return (int(left), int(top)), None
    if re.fullmatch(r"\d*\.?\d+", given) and 0 < float(given) <= 1:
        return None, float(given)
    raise Problem(f"`@{given}` is neither a place nor a share", hint="FILE@X,Y or FILE@0.2", status=USAGE)


def _picture(path: Path, depth: int) -> tuple[Array, Array, bool]:
    """Alpha and colours in [0, 1], and whether there was an alpha."""
    try:
        with path.open("rb") as stream:
            picture = open_picture(stream)
            has_alpha = "A" in picture.getbands() or "transparency" in picture.info
            whole = picture.convert("RGBA")
    except UNREADABLE as error:
        raise Problem(f"`{path}` is no picture that can be read", hint="PNG or WebP, or .npz", status=USAGE) from error
    colours = np.asarray(whole.convert("L" if depth == 1 else "RGB"), dtype=np.float32) / 255
    alpha = np.asarray(whole, dtype=np.float32)[..., 3:] / 255
    return alpha, colours.reshape(*alpha.shape[:2], depth), has_alpha


def _placed(path: Path, arrays: dict[str, Array], at: tuple[int, int] | None, shape: Shape) -> dict[str, Array]:
    height, width = arrays["mask"].shape[:2]
    spare = shape[1] - height, shape[2] - width
    top, left = spare if at is None else (at[1], at[0])
    if not (0 <= top <= spare[0] and 0 <= left <= spare[1]):
        message = f"`{path}` ({width}x{height}) at {left},{top} leaves the net's input ({shape[2]}x{shape[1]})"
        raise Problem(message, hint=PLACED, status=USAGE)
    around = ((top, spare[0] - top), (left, spare[1] - left), (0, 0))
    return {name: np.pad(array, around) for name, array in arrays.items()}


# -- size ---------------------------------------------------------------------


def _fitted(path: Path, arrays: dict[str, Array], shape: Shape) -> tuple[dict[str, Array], tuple[str, ...]]:
    """At the size the net takes: patches keep their pixels (nearest), what is smooth stays so (bilinear)."""
    height, width = next(iter(arrays.values())).shape[:2]
    notes: tuple[str, ...] = ()
    if (height, width) != shape[1:]:
        if height * shape[2] != width * shape[1]:
            message = f"`{path}` is {width}x{height}, which cannot be scaled to the net's {shape[2]}x{shape[1]}"
            raise Problem(message, hint="bring it to the net's input size", status=USAGE)
        mode = "nearest" if "mask" in arrays else "bilinear"
        arrays = {name: _resized(array, shape, mode) for name, array in arrays.items()}
        notes = (f"`{path}` was scaled from {width}x{height} to the net's {shape[2]}x{shape[1]} ({mode})",)
    if "mask" in arrays:
        arrays["mask"] = arrays["mask"][..., 0]
    return arrays, notes


def _resized(array: Array, shape: Shape, mode: str) -> Array:
    whole = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None]
    resized: Array = F.interpolate(whole, shape[1:], mode=mode)[0].permute(1, 2, 0).numpy()
    return resized
