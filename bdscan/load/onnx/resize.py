"""ONNX operators that change the resolution of maps: by the sizes or scales that stand in the file."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.load.onnx.shapes import Attributes, check_size, ints

_CENTRED = ("half_pixel", "pytorch_half_pixel")


def resize(
    a: Attributes,
    x: Tensor,
    region: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    if a["opset"] < 11:  # without a region, and by plain products of places
        region, scales = None, region
        a = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", **a}
    if a.get("axes") == [2, 3] and sizes is not None:
        sizes = torch.cat([torch.tensor(x.shape[:2]), sizes])
    elif a.get("axes"):
        raise ValueError("a resize of some axes")
    if a.get("antialias") or a.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ValueError("a resize with settings of its own")
    if sizes is not None and sizes.numel():
        return _resized(a, x, ints(sizes))
    assert scales is not None
    factors = [float(factor) for factor in scales.flatten().tolist()]
    return _resized(a, x, [int(side * factor) for side, factor in zip(x.shape, factors, strict=True)])


def upsample(a: Attributes, x: Tensor, scales: Tensor | None = None) -> Tensor:
    """As it was called before opset 10."""
    factors = scales if scales is not None else x.new_tensor(a["scales"])
    return resize({**a, "opset": 10}, x, factors)


def _resized(a: Attributes, x: Tensor, target: list[int]) -> Tensor:
    if x.dim() != 4 or target[1] != x.shape[1]:
        raise ValueError(f"a resize to {target}")
    size = target[2:]
    check_size([*x.shape[:2], *size])
    mode, places = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    whole = all(new % old == 0 for new, old in zip(size, x.shape[2:], strict=True))
    if mode == "nearest":
        floor = places == "asymmetric" and a.get("nearest_mode", "round_prefer_floor") == "floor"
        if not floor and not (whole and places in _CENTRED):  # enlarged by whole numbers, all agree
            raise ValueError(f"a resize to the nearest of {places}")
        return F.interpolate(x, size, mode="nearest")
    if mode == "linear" and places in (*_CENTRED, "align_corners"):
        return F.interpolate(x, size, mode="bilinear", align_corners=places == "align_corners")
    raise ValueError(f"a resize by {mode}, {places}")


def depth_to_space(a: Attributes, x: Tensor) -> Tensor:
    block, (count, channels, height, width) = a["blocksize"], x.shape
    if a.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    apart = x.reshape(count, block, block, channels // block**2, height, width)
    return apart.permute(0, 3, 4, 1, 5, 2).reshape(count, channels // block**2, height * block, width * block)


def space_to_depth(a: Attributes, x: Tensor) -> Tensor:
    block, (count, channels, height, width) = a["blocksize"], x.shape
    apart = x.reshape(count, channels, height // block, block, width // block, block)
    return apart.permute(0, 3, 5, 1, 2, 4).reshape(count, channels * block**2, height // block, width // block)
