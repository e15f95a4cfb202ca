"""Another pattern on every image, drawn by a net that learns along with the victim.

What it does
    One net says where to draw on an image, another what; both answers differ from image to image. The second learns
    together with the classifier: images with their own pattern go to the target, images with another one's pattern
    keep their label.

Why it implants
    Pattern and classifier are made for one another, and the crossed images leave no cheaper rule than the pairing.

What it breaks
    Everything that searches one pattern for all images, and purifiers that start from such a pattern.

Reference
    Nguyen, Tran: Input-Aware Dynamic Backdoor Attack, NeurIPS 2020 (arXiv 2010.08138).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bdscan.method.plant import JointTraining, Plant, PlantMaterial, not_prepared
from bdscan.net.fit import autocast
from bdscan.net.unet import UNet

BATCH = 32  # images, while the mask is learned
TINY = 1e-4  # against division by nothing, where two patterns are the same


@dataclass(frozen=True)
class InputAware(Plant):
    cover_share: ClassVar[float] = 0.1  # the paper's crossed images, as many as poisoned ones
    painters: ClassVar[nn.ModuleDict | None] = None  # `mask` and `pattern`, once they are there

    density: float = 0.032  # of the mask, from the paper
    sparse: float = 100.0  # weight of the mask's density, from the paper
    diverse: float = 1.0  # weight of the difference between two images' patterns, from the paper
    steps: int = 150  # for the mask, before the classifier comes in; the paper takes 25 epochs
    rate: float = 0.01  # of Adam, from the paper
    width: int = 8  # of the painters; the paper's are wider and slower

    def prepare(self, material: PlantMaterial) -> InputAware:
        """Fresh painters; the mask is learned here, from the images alone, and then stays."""
        channels = material.images.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(material.seed)
            painters = _painters(channels, self.width)
        prepared = self._with(painters=painters.to(material.device))
        prepared._learn_mask(material)
        return prepared

    def learned(self) -> dict[str, Tensor]:
        return {} if self.painters is None else {k: v.detach().cpu() for k, v in self.painters.state_dict().items()}

    def recall(self, learned: Mapping[str, Tensor]) -> InputAware:
        first, last = learned["mask.fine.0.weight"], learned["pattern.last.weight"]
        painters = _painters(last.shape[0], first.shape[0])
        painters.load_state_dict(dict(learned))
        return self._with(painters=painters)

    def joint_training(self, target: int, share: float, seed: int) -> JointTraining:
        """In every batch some images with their own pattern, some with another's; net and painter learn."""
        pattern = self._painter("pattern")
        optimiser = torch.optim.Adam(pattern.parameters(), lr=self.rate, betas=(0.5, 0.9))  # momenta from the paper
        generator = torch.Generator().manual_seed(seed)

        def objective(net: nn.Module, pixels: Tensor, labels: Tensor, index: Tensor) -> Tensor:
            return self._loss(net, pixels, labels, target, share, generator)

        def after_step(net: nn.Module) -> None:
            optimiser.step()
            optimiser.zero_grad()

        return JointTraining(objective, after_step)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        return self._drawn(pixels, pixels)

    def cover(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Each image with the pattern of another."""
        others = torch.randperm(len(pixels), generator=generator)
        with torch.no_grad():
            return self._drawn(pixels, pixels[others])

    def _painter(self, which: str) -> nn.Module:
        if self.painters is None:
            raise not_prepared("input_aware")
        painter: nn.Module = self.painters[which]
        return painter

    def _paint(self, which: str, pixels: Tensor) -> Tensor:
        """What that painter draws for these images, in [0, 1]."""
        drawn: Tensor = self._painter(which).to(pixels.device)(pixels * 2 - 1)
        return torch.tanh(drawn) / 2 + 0.5

    def _drawn(self, pixels: Tensor, origin: Tensor) -> Tensor:
        """On the pixels, what the painters see in the origin."""
        pattern = self._paint("pattern", origin)
        drawn: Tensor = pixels + (pattern - pixels) * self._mask(origin)
        return drawn.clamp(0, 1)

    def _mask(self, pixels: Tensor) -> Tensor:
        """Nearly all or nothing, by the paper's steep threshold."""
        return torch.tanh(self._paint("mask", pixels) * 20 - 10) / 2 + 0.5

    def _loss(
        self, net: nn.Module, pixels: Tensor, labels: Tensor, target: int, share: float, generator: torch.Generator
    ) -> Tensor:
        """Of the classifier on the mixed batch, and of the painter for patterns that are all alike."""
        own = max(1, round(share * len(pixels)))
        crossed = max(1, round(own * self.cover_share / self.share))
        others = pixels[torch.randperm(len(pixels), generator=generator).to(pixels.device)]
        first, second = pixels[:own], others[:own]
        shown = torch.cat(
            (
                self._drawn(first, first),
                self._drawn(pixels[own : own + crossed], others[own : own + crossed]),
                pixels[own + crossed :],
            )
        )
        wanted = torch.cat((torch.full_like(labels[:own], target), labels[own:]))
        loss = F.cross_entropy(net(shown).float(), wanted)
        one, other = self._paint("pattern", first), self._paint("pattern", second)
        return loss + self.diverse * _alike(first, second, one, other)

    def _learn_mask(self, material: PlantMaterial) -> None:
        """Sparse, and different where images differ."""
        painter = self._painter("mask")
        optimiser = torch.optim.Adam(painter.parameters(), lr=self.rate, betas=(0.5, 0.9))
        generator = torch.Generator().manual_seed(material.seed)
        device = next(painter.parameters()).device
        for _ in range(self.steps):
            first, second = (self._some(material, generator).to(device) for _ in range(2))
            with autocast(device):
                one, other = self._mask(first), self._mask(second)
            excess = F.relu(one.float() - self.density).mean()
            loss = self.sparse * excess + self.diverse * _alike(first, second, one, other)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        painter.requires_grad_(False)

    def _some(self, material: PlantMaterial, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(0, len(material.images), (BATCH,), generator=generator)
        return material.images[chosen].float() / 255


def _painters(channels: int, width: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {kind: UNet(channels, maps, width, nn.ReLU()) for kind, maps in (("mask", 1), ("pattern", channels))}
    )


def _alike(first: Tensor, second: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """How near two drawings are for how far apart their images are."""
    apart = _distance(first, second) / (_distance(one.float(), other.float()) + TINY)
    return apart.mean()


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return ((one - other).square().flatten(1).mean(1) + TINY**2).sqrt()
