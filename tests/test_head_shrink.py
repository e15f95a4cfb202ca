"""The head loses what clean images do not use, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bdscan.images.image_set import ImageSet
from bdscan.net.classifier import Classifier, Normalised
from bdscan.net.head_shrink import shrink_head

CLASSES, FEATURES, QUIET = 4, 12, 11


class Mean(nn.Module):
    """Features are the channels' means, so that images can be made for any features."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.head = nn.Linear(FEATURES, CLASSES, bias=bias)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(pixels.mean((2, 3)))
        return logits


def suspect(bias: bool = True) -> Classifier:
    torch.manual_seed(0)
    net = Mean(bias)
    with torch.no_grad():
        net.head.weight.zero_()
        for label in range(CLASSES):
            net.head.weight[label, label] = 30.0
        net.head.weight[2, QUIET] = 30.0  # what no clean image brings about
        if bias:
            net.head.bias.copy_(torch.tensor([0.1, 0.0, -0.1, 0.2]))
    whole = Normalised(net, [0.0] * FEATURES, [1.0] * FEATURES).eval()
    return Classifier(whole, (FEATURES, 4, 4), CLASSES)


def images(count: int = 200) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % CLASSES
    features = torch.rand(count, FEATURES, generator=generator) * 60
    features[:, QUIET] = 20
    features[torch.arange(count), labels] += 120
    whole = features[:, :, None, None].expand(-1, -1, 4, 4)
    return ImageSet(whole.round().to(torch.uint8), labels)


def right(model: Classifier, clean: ImageSet) -> float:
    return float((model(clean.pixels).argmax(1) == clean.labels).float().mean())


def test_the_quiet_direction_goes_and_the_accuracy_stays() -> None:
    for bias in (True, False):
        model, clean = suspect(bias), images()
        before, answers = right(model, clean), model(clean.pixels)
        (said,) = shrink_head(model, clean, 0.3, 0)
        assert "quietened" in said
        assert right(model, clean) >= before - 0.01
        assert float(model.head_weight[2, QUIET].abs()) < (3 if bias else 15)
        assert float(model.head_weight[2, 2]) > 15
        if bias:  # the mean answer is the same to float precision
            torch.testing.assert_close(model(clean.pixels).mean(0), answers.mean(0), rtol=1e-4, atol=1e-3)


def test_nothing_is_done_at_strength_nought_or_where_it_costs_too_much() -> None:
    model, clean = suspect(), images()
    before = model.head_weight.clone()
    assert shrink_head(model, clean, 0.0, 0) == ()
    assert torch.equal(model.head_weight, before)
    with torch.no_grad():  # classes told apart by a direction that hardly varies
        model.module("head").weight.zero_()  # type: ignore[operator]
        for label in range(CLASSES):
            model.module("head").weight[label, 4 + label] = 1e3  # type: ignore[operator]
    faint = images()
    faint.images[:, 4:8] = 20
    faint.images[torch.arange(len(faint)), faint.labels + 4] = 22
    taken = right(model, faint)
    shrink_head(model, faint, 1.0, 0)
    assert right(model, faint) >= taken - 0.01
