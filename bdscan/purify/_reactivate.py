"""Attempts to wake a backdoor up in a cleaned net, with nothing but its recovered trigger and clean images."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bdscan.images.image_set import ImageSet
from bdscan.method.case import ImageCase
from bdscan.net.classifier import Classifier
from bdscan.net.fit import autocast, retrained
from bdscan.triggers.forms import Stamp, stamped

# Re-tuning (Min et al. 2024): five poisoned images among 2 % of CIFAR-10's training set, five epochs at rate 0.01.
POISONED, CLEAN, EPOCHS, RATE = 5, 1000, 5, 0.01
# A small universal push on top of the trigger (Zhu, Liang, Wu 2024); what it does to clean images is the control.
REACH, STEPS, BATCH = 4 / 255, 30, 128


def follow(suspect: Classifier, clean: ImageSet, target: int, change: Stamp) -> float:
    """The share of the other classes' images that go to the target once changed."""
    return follow_or_stay(suspect, clean, target, change)[0]


def follow_or_stay(suspect: Classifier, clean: ImageSet, target: int, change: Stamp) -> tuple[float, float]:
    """The same, and the share that is still seen as what it is."""
    others = clean.without(target)
    if not len(others):
        return 0.0, 0.0
    went = suspect.answers(others, change).argmax(1)
    return int((went == target).sum()) / len(others), int((went == others.labels).sum()) / len(others)


def retune(case: ImageCase, stamp: Stamp, target: int) -> float:
    """How well the trigger works after a few epochs on clean images, five of them triggered and relabelled."""
    cleaned, clean = case.suspect, case.clean
    generator = torch.Generator().manual_seed(case.seed)
    drawn = torch.randperm(len(clean), generator=generator)[:CLEAN]
    others = (clean.labels != target).nonzero()[:, 0]
    poisoned = others[torch.randperm(len(others), generator=generator)[:POISONED]]
    images = torch.cat([clean.images[drawn], stamped(clean.images[poisoned], stamp)])
    labels = torch.cat([clean.labels[drawn], torch.full((len(poisoned),), target)])
    woken = retrained(
        cleaned,
        images,
        labels,
        epochs=EPOCHS,
        rate=RATE,
        schedule="constant",
        seed=case.seed,
        progress=lambda done, total: case.progress(done, total, "trying to wake the backdoor up by re-tuning"),
    )
    return follow(woken, case.held_out, target, stamp)


def push(case: ImageCase, stamp: Stamp, target: int) -> float:
    """How many held-out images one small change more sends to the target, once they are stamped."""
    cleaned, clean = case.suspect, case.clean
    generator = torch.Generator().manual_seed(case.seed)
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
        case.progress(step + 1, STEPS, "trying to wake the backdoor up by a small push")
    pushed = change.detach()
    return follow(cleaned, case.held_out, target, lambda pixels: (stamp(pixels) + pushed).clamp(0, 1))
