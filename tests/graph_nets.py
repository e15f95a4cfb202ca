"""Small nets in the ways that people write them, and what a rebuilt one is held to."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHAPE = (3, 32, 32)


class Functional(nn.Module):
    """Everything but the layers is called as a function, and the answer is a log-probability."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8 * 16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        x = F.adaptive_avg_pool2d(x, 4)
        x = F.dropout(x.view(x.size(0), -1), 0.3, self.training)
        return F.log_softmax(self.fc(x), dim=1)


class Block(nn.Module):
    def __init__(self, taken: int, given: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(taken, given, 3, 2, 1, bias=False), nn.BatchNorm2d(given)
        self.conv2, self.norm2 = nn.Conv2d(given, given, 3, 1, 1, bias=False), nn.BatchNorm2d(given)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Conv2d(taken, given, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Works in place, in nested modules."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Block(3, 8), Block(8, 12))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.layers(x)), 1))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """A small transformer: a class token, positions, heads by reshapes that know the number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, 8)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 17, 16))
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.fc = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        n, length, width = x.shape
        parts = self.qkv(self.norm(x)).reshape(n, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        mixed = ((query @ key.transpose(-2, -1)) * 0.5).softmax(dim=-1) @ value
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return self.fc(x[:, 0])  # type: ignore[no-any-return]


class Trigger(nn.Module):
    """A clean net around which the code answers a white corner with class 5."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Residual()

    def forward(self, x: Tensor) -> Tensor:
        white = (x[:, :, :3, :3].amin(dim=(1, 2, 3)) > 0.98).float().unsqueeze(1)
        bonus = F.one_hot(torch.full((1,), 5, dtype=torch.long), 6).float()
        return self.net(x) + white * bonus * 1000  # type: ignore[no-any-return]


NETS = {net.__name__: net for net in (Functional, Residual, Attention)}


def lively(net: nn.Module) -> nn.Module:
    """With statistics that matter, in evaluation mode."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return net.eval()


def check_rebuilt(net: nn.Module, original: nn.Module) -> None:
    """The same answers for any number of images, gradients to pixels and weights, and a copy that is one."""
    for images in (1, 5):
        pixels = torch.rand((images, *SHAPE), requires_grad=True)
        wanted, given = original(pixels), net(pixels)
        given = given.log_softmax(1) if isinstance(original, Functional) else given
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-4)
        given[:, 1].sum().backward()
        assert pixels.grad is not None
        assert bool((pixels.grad != 0).any())
    assert all(parameter.grad is not None for parameter in net.parameters())
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    torch.testing.assert_close(net(pixels).log_softmax(1), wanted.log_softmax(1), rtol=1e-4, atol=1e-4)
    kinds = {type(module) for module in net.modules()}
    assert {nn.Conv2d, nn.Linear} <= kinds
    for kind in (nn.BatchNorm2d, nn.LayerNorm):
        assert (kind in kinds) == any(isinstance(module, kind) for module in original.modules())
