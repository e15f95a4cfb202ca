"""Grad-CAM: which positions of an image speak for a class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.facts.problem import USAGE, Problem
from bdscan.net.classifier import Classifier

FINE_SIDE = 7  # positions a side that a map should have: what a 224-pixel ResNet's last stage offers
COARSE_SIDE = 4  # below this a map shows little more than the quadrant


def grad_cam_layer(suspect: Classifier) -> str:
    """The last module to put out maps of at least 7 x 7 positions; failing that 4 x 4, failing that the largest maps.

    Blocks count as modules, so that what a residual branch is added to is not left out.
    """
    maps = _modules_with_maps(suspect)
    if not maps:
        raise Problem("the net has no maps: Grad-CAM needs a layer of channels x height x width")
    for least in (FINE_SIDE, COARSE_SIDE):
        fine = [name for name, side in maps.items() if side >= least]
        if fine:
            return fine[-1]
    return [name for name, side in maps.items() if side == max(maps.values())][-1]


def _modules_with_maps(suspect: Classifier) -> dict[str, int]:
    """Each module that puts out maps, in the order in which they finish, and the shorter side of its last output."""
    finished: dict[str, int] = {}

    def record(name: str, _: nn.Module, __: object, given: object) -> None:
        finished.pop(name, None)  # a module that runs again moves to the end
        if isinstance(given, Tensor) and given.dim() == 4 and min(given.shape[2:]) > 1:
            finished[name] = min(given.shape[2:])

    names = [name for name, _ in suspect.net.net.named_modules() if name not in ("", suspect.head)]
    with suspect.hooked(names, record):
        suspect.run_once()
    return finished


def grad_cam(suspect: Classifier, pixels: Tensor, targets: Tensor, layer: str) -> Tensor:
    """One map an image in [0, 1], at the size of the image (Selvaraju et al. 2017).

    Weights are the gradients of the target's logit averaged over positions; the weighted sum of maps is rectified,
    then scaled by its own smallest and largest value. A map that is zero everywhere stays zero.
    """
    if layer not in dict(suspect.net.net.named_modules()):
        raise Problem(f"the net has no layer `{layer}`", hint="layers are named as in the file's tensors", status=USAGE)
    with torch.enable_grad(), suspect.tap(layer) as recorded:
        logits = suspect(pixels.detach().requires_grad_())
        maps = recorded.get(layer)
        if maps is None or maps.dim() != 4:
            hint = "`layer` must name a convolution or what follows one"
            raise Problem(f"`{layer}` puts out no maps", hint=hint, status=USAGE)
        (gradient,) = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), maps)
    raw = (gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True).relu()
    low, high = raw.amin((2, 3), keepdim=True), raw.amax((2, 3), keepdim=True)
    scaled = (raw - low) / (high - low).clamp(min=1e-12)
    resized = F.interpolate(scaled, pixels.shape[2:], mode="bilinear", align_corners=False)
    return resized[:, 0].clamp(0, 1)
