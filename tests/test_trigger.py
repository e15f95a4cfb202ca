"""Forms of triggers: what they do to pixels, how large they are, and that a report can put them on again."""

from __future__ import annotations

import pytest
import torch

from bdscan.triggers.forms import FORMS, stamper

SHAPE = (3, 20, 24)


@pytest.mark.parametrize("name", FORMS)
class TestForm:
    def form(self, name: str):  # type: ignore[no-untyped-def]
        return FORMS[name](3, SHAPE, torch.Generator().manual_seed(0), torch.device("cpu"))

    def test_stamped_pixels_stay_pixels(self, name: str) -> None:
        form = self.form(name)
        for parameter in form.parameters:
            parameter.data.mul_(20)
        stamped = form.stamp(torch.rand(6, *SHAPE), torch.tensor([0, 0, 1, 1, 2, 2]))
        assert stamped.shape == (6, *SHAPE)
        assert 0 <= stamped.min() <= stamped.max() <= 1

    def test_each_image_gets_the_trigger_of_its_arm(self, name: str) -> None:
        form = self.form(name)
        pixels = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)).expand(3, -1, -1, -1)
        if name == "moving":
            form._places = lambda count, length: _fixed(count, length, form.side)
        together = form.stamp(pixels, torch.arange(3))
        assert torch.allclose(together[1:2], form.stamp(pixels[:1], torch.tensor([1])), atol=1e-6)
        assert not torch.allclose(together[0], together[1])

    def test_a_limit_is_kept_and_small_triggers_are_left_alone(self, name: str) -> None:
        form = self.form(name)
        form.parameters[0].data[0] += 3
        sizes = form.size().detach()
        budget = float(sizes.min()) * 1.001
        form.limit(budget)
        assert bool((form.size().detach() <= budget * 1.02).all())
        small = int(sizes.argmin())
        assert float(form.size().detach()[small]) == pytest.approx(float(sizes[small]), rel=1e-3)

    def test_gradients_reach_every_parameter(self, name: str) -> None:
        form = self.form(name)
        (form.stamp(torch.rand(3, *SHAPE), torch.arange(3)).square().sum() + form.size().sum()).backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in form.parameters)

    def test_a_finding_carries_the_trigger_whole(self, name: str) -> None:
        form, pixels = self.form(name), torch.rand(2, *SHAPE)
        stamp = stamper(form.recovered(1))
        if name == "moving":  # shown in the middle, wherever it was tried
            assert float((stamp(pixels) - pixels)[:, :, :5].abs().max()) == 0
            return
        assert torch.allclose(stamp(pixels), form.stamp(pixels, torch.ones(2, dtype=torch.long)), atol=1e-5)


def _fixed(count: int, length: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.arange(length).expand(count, -1)
    return index.clamp(0, side - 1), index < side
