"""A net that is only looked at, its batch norms taken into the convolutions before them: the same answers, sooner."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from bdscan.net.classifier import Classifier

_TOLERANCE = 1e-4  # of the largest logit: rounding adds up to 1e-5 in the deepest nets, and another net is far away
_IMAGES = 4  # of noise, by which the copy is compared with the net


class MergedNorm(nn.BatchNorm2d):
    """A norm whose work the convolution before it does: what it puts out is where it was, what it is can be read."""

    def forward(self, input: Tensor) -> Tensor:
        return input


def with_norms_merged(suspect: Classifier) -> Classifier:
    """A copy for looking at, not for training; the net itself where it has no such norms or would answer otherwise.

    What the convolutions put out is changed, so probes that look at maps look at norms or behind them.
    """
    pairs = _pairs(suspect)
    if not pairs:
        return suspect
    copy = suspect.clone()
    for conv, norm in pairs:
        _merge(copy, conv, norm)
    copy.net.to(memory_format=torch.channels_last).requires_grad_(False)
    return copy if _same_answers(suspect, copy) else suspect


def _pairs(suspect: Classifier) -> list[tuple[str, str]]:
    """Convolutions, and the norm that takes what each puts out, where nothing else does; both run once."""
    made: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept, so that its id stays its own
    pairs: dict[str, tuple[str, Tensor]] = {}
    runs: Counter[str] = Counter()

    def record(name: str, module: nn.Module, taken: tuple[object, ...], given: object) -> None:
        runs[name] += 1
        if type(module) is nn.Conv2d and isinstance(given, Tensor):
            made[id(given)] = name, given
        elif type(module) is nn.BatchNorm2d and module.running_var is not None and id(taken[0]) in made:
            conv, maps = made[id(taken[0])]
            pairs[conv] = name, maps

    net = suspect.net.net
    names = [name for name, module in net.named_modules() if type(module) in (nn.Conv2d, nn.BatchNorm2d) and name]
    with suspect.hooked(names, record), torch.enable_grad():
        answers = suspect(torch.full((1, *suspect.shape), 0.5, device=suspect.device, requires_grad=True))
    readers, uses = _readers(answers), _uses(net)
    return [
        (conv, norm)
        for conv, (norm, maps) in pairs.items()
        if runs[conv] == runs[norm] == readers[maps.grad_fn] == 1
        and all(uses[parameter] == 1 for parameter in suspect.module(conv).parameters())
    ]


def _readers(answers: Tensor) -> Counter[object]:
    """How many operations take what each operation of a run gives."""
    counts: Counter[object] = Counter()
    waiting, seen = [answers.grad_fn], {answers.grad_fn}
    while waiting:
        node = waiting.pop()
        for source, _ in node.next_functions if node is not None else ():
            counts[source] += 1
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return counts


def _uses(net: nn.Module) -> Counter[nn.Parameter]:
    """In how many modules each parameter stands."""
    modules = dict.fromkeys(net.modules())
    return Counter(
        parameter for module in modules for parameter in module._parameters.values() if parameter is not None
    )


def _merge(copy: Classifier, conv: str, norm: str) -> None:
    convolution, old = copy.module(conv), copy.module(norm)
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(old, nn.BatchNorm2d)
    assert old.running_mean is not None
    assert old.running_var is not None
    weight, bias = nn.utils.fusion.fuse_conv_bn_weights(
        convolution.weight, convolution.bias, old.running_mean, old.running_var, old.eps, old.weight, old.bias
    )
    convolution.weight, convolution.bias = weight, bias
    merged = MergedNorm(old.num_features, old.eps, old.momentum, old.affine)
    merged.load_state_dict(old.state_dict())
    parent, _, leaf = norm.rpartition(".")
    setattr(copy.net.net.get_submodule(parent), leaf, merged.to(copy.device).eval())


@torch.no_grad()
def _same_answers(one: Classifier, other: Classifier) -> bool:
    """Whatever else the net does with its layers."""
    pixels = torch.rand((_IMAGES, *one.shape), generator=torch.Generator().manual_seed(0)).to(one.device)
    expected, actual = one(pixels), other(pixels)
    return bool((expected - actual).abs().max() <= _TOLERANCE * expected.abs().max())
