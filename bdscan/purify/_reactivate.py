"""Attempts to wake a backdoor up in a cleaned net, with nothing but its recovered trigger and clean images."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.progress import Progress
from bdscan.images.image_set import ImageSet
from bdscan.net.classifier import Classifier
from bdscan.net.fit import autocast, fit
from bdscan.triggers.forms import Stamp

# Re-tuning (Min et al. 2024): five poisoned images among 2 % of CIFAR-10's training set, five epochs at rate 0.01.
POISONED, CLEAN, EPOCHS, RATE = 5, 1000, 5, 0.01
# A small universal push on top of the trigger (Zhu, Liang, Wu 2024); what it does to clean images is the control.
REACH, STEPS, BATCH = 4 / 255, 30, 128


def follow(suspect: Classifier, clean: ImageSet, target: int, change: Callable[[Tensor], Tensor]) -> float:
    """The share of the other classes' images that go to the target once changed."""
    return follow_or_stay(suspect, clean, target, change)[0]


def follow_or_stay(
    suspect: Classifier, clean: ImageSet, target: int, change: Callable[[Tensor], Tensor]
) -> tuple[float, float]:
    """The same, and the share that is still seen as what it is."""
    hits = right = total = 0
    with torch.no_grad():
        for pixels, labels in clean.batches(250, suspect.device):
            others = labels != target
            if bool(others.any()):
                went = suspect(change(pixels[others])).argmax(1)
                hits, total = hits + int((went == target).sum()), total + len(went)
                right += int((went == labels[others]).sum())
    return (hits / total, right / total) if total else (0.0, 0.0)


def retune(
    cleaned: Classifier,
    clean: ImageSet,
    held_out: ImageSet,
    stamp: Stamp,
    target: int,
    *,
    seed: int,
    progress: Progress,
) -> float:
    """How well the trigger works after a few epochs on clean images, five of them triggered and relabelled."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(clean), generator=generator)[:CLEAN]
    others = (clean.labels != target).nonzero()[:, 0]
    poisoned = others[torch.randperm(len(others), generator=generator)[:POISONED]]
    triggered = stamp(clean.images[poisoned].float() / 255).mul(255).round().clamp(0, 255).to(torch.uint8)
    images = torch.cat([clean.images[drawn], triggered])
    labels = torch.cat([clean.labels[drawn], torch.full((len(poisoned),), target)])
    copy = cleaned.clone()
    copy.net.requires_grad_(True)
    fit(
        copy.net,
        images,
        labels,
        epochs=EPOCHS,
        rate=RATE,
        schedule="constant",
        seed=seed,
        progress=lambda done, total: progress(done, total, "trying to wake the backdoor up by re-tuning"),
    )
    woken = Classifier(copy.net, cleaned.shape, cleaned.classes, cleaned.names)
    return follow(woken, held_out, target, stamp)


def push(
    cleaned: Classifier,
    clean: ImageSet,
    held_out: ImageSet,
    stamp: Callable[[Tensor], Tensor],
    target: int,
    *,
    seed: int,
    progress: Progress,
) -> float:
    """How many held-out images one small change more sends to the target, once they are stamped."""
    generator = torch.Generator().manual_seed(seed)
    others = (clean.labels != target).nonzero()[:, 0]
    change = torch.zeros(1, *cleaned.shape, device=cleaned.device, requires_grad=True)
    for step in range(STEPS):
        drawn = others[torch.randint(len(others), (min(BATCH, len(others)),), generator=generator)]
        pixels = stamp(clean.images[drawn].to(cleaned.device).float() / 255)
        with autocast(cleaned.device):
            logits = cleaned((pixels + change).clamp(0, 1)).float()
        loss = F.cross_entropy(logits, torch.full((len(pixels),), target, device=cleaned.device))
        (slope,) = torch.autograd.grad(loss, change)
        with torch.no_grad():
            change -= REACH / 10 * slope.sign()
            change.clamp_(-REACH, REACH)
        progress(step + 1, STEPS, "trying to wake the backdoor up by a small push")
    pushed = change.detach()
    return follow(cleaned, held_out, target, lambda pixels: (stamp(pixels) + pushed).clamp(0, 1))
