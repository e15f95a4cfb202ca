"""The part of a feature vector that the clean images of a class have never shown."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bdscan.facts.progress import Progress
from bdscan.images.image_set import ImageSet
from bdscan.net.classifier import Classifier
from bdscan.net.fit import autocast, crop_and_flip
from bdscan.verdict.rules import MIN_SCORES

IMAGES_A_CLASS = 5  # with fewer, a class's subspace says little
VIEWS = 3  # of each image: as it is, and twice moved


@dataclass(frozen=True, eq=False)
class OwnSpaces:
    """For each class the subspace that its own clean features span, and how far clean images lead."""

    weight: Tensor  # of the head: classes x features
    bias: Tensor
    basis: Tensor  # classes x features x rank, orthonormal, filled up with zeros; rank 0: nothing is taken out
    covered: Tensor  # classes that had enough images
    usual: float  # the median lead of the first logit over the second on clean images

    def foreign(self, features: Tensor, targets: Tensor) -> Tensor:
        """The features without the part in the own subspace of the target beside them."""
        basis = self.basis[targets]
        return features - torch.einsum("nr,ndr->nd", torch.einsum("nd,ndr->nr", features, basis), basis)

    def margin(self, features: Tensor, targets: Tensor) -> Tensor:
        """By how much each target's logit leads all others, by foreign features alone."""
        logits = self.foreign(features, targets) @ self.weight.T + self.bias
        wanted = logits.gather(1, targets[:, None])[:, 0]
        return wanted - logits.scatter(1, targets[:, None], -torch.inf).amax(1)

    def score(self, margins: Tensor) -> Tensor:
        """Margins in units of the usual one, on a log scale that stays smooth where they are small or negative."""
        scores = F.softplus(margins.double() / max(self.usual, 1e-6)).clamp(min=1e-12).log()
        return scores.masked_fill(~self.covered.to(scores.device), torch.nan)

    def pulling(self, features: Tensor, target: int, top: int) -> tuple[int, ...]:
        """The foreign features that do most for the class."""
        foreign = self.foreign(features[None], torch.tensor([target], device=features.device))[0]
        pull = foreign * (self.weight[target] - self.weight.mean(0))
        return tuple(pull.topk(min(top, len(pull))).indices.tolist())


def without(suspect: Classifier) -> OwnSpaces:
    """Nothing is known of any class, so nothing is taken out."""
    weight, bias = suspect.head_weight.float(), suspect.head_bias.float()
    basis = torch.zeros(*weight.shape, 0, device=weight.device)
    return OwnSpaces(weight, bias, basis, torch.ones(len(weight), dtype=torch.bool, device=weight.device), 1.0)


def own_spaces(
    suspect: Classifier, clean: ImageSet, *, share: float, batch: int, seed: int, progress: Progress
) -> OwnSpaces | None:
    """The directions that hold this share of the energy of each class's features; None where images are too few."""
    counts = clean.labels.bincount(minlength=suspect.classes)
    covered = counts >= IMAGES_A_CLASS
    if int(covered.sum()) < max(MIN_SCORES, suspect.classes / 2):
        return None
    weight, bias = suspect.head_weight.float(), suspect.head_bias.float()
    features = _features(suspect, clean, batch, seed, progress)
    top = (features[0] @ weight.T + bias).topk(2, dim=1).values
    basis = torch.zeros(*weight.shape, min(int(counts.max()) * len(features), weight.shape[1]), device=weight.device)
    for label in covered.nonzero()[:, 0].tolist():
        members = (clean.labels == label).nonzero()[:, 0].to(features.device)
        main = _main_directions(features[:, members].flatten(0, 1), share)
        basis[label, :, : main.shape[1]] = main
    rank = int((basis != 0).any(dim=1).sum(1).max())
    covered = covered.to(weight.device)
    return OwnSpaces(weight, bias, basis[:, :, :rank], covered, float((top[:, 0] - top[:, 1]).median()))


def _main_directions(features: Tensor, share: float) -> Tensor:
    """As few orthonormal directions as hold this share of the energy, as columns."""
    _, sizes, directions = torch.linalg.svd(features.double(), full_matrices=False)
    energy = sizes.square().cumsum(0) / sizes.square().sum().clamp(min=1e-12)
    found: Tensor = directions[: int((energy < share).sum()) + 1].T.float()
    return found


def _features(suspect: Classifier, clean: ImageSet, batch: int, seed: int, progress: Progress) -> Tensor:
    """Of the images as they are, and of each slightly moved and perhaps mirrored: views x images x features."""
    generator = torch.Generator().manual_seed(seed)
    taken: list[list[Tensor]] = [[] for _ in range(VIEWS)]
    with torch.no_grad(), autocast(suspect.device):
        for pixels, _ in clean.batches(batch, suspect.device):
            progress(sum(map(len, taken[0])), len(clean), "features of each class")
            for view in range(VIEWS):
                shown = crop_and_flip(pixels, generator, pad=max(1, pixels.shape[2] // 10)) if view else pixels
                taken[view].append(suspect.features(shown.contiguous(memory_format=torch.channels_last)).float())
    return torch.stack([torch.cat(view) for view in taken])
