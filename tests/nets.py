"""Networks whose pathology is built, exactly, on scikit-learn's digits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn


def digits(layout: str = "rows") -> tuple[Tensor, Tensor]:
    """Standardized digits as rows [1797, 64], images [1797, 1, 8, 8] or tokens [1797, 8, 8]."""
    data = load_digits()
    x = torch.as_tensor(data.data, dtype=torch.float32)
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    y = torch.as_tensor(data.target)
    shape = {
        "rows": (-1, 64),
        "images": (-1, 1, 8, 8),
        "images channels_last": (-1, 1, 8, 8),
        "tokens": (-1, 8, 8),
    }
    return x.reshape(shape[layout]), y


def mlp(act: Callable[[], nn.Module] = nn.ReLU, *, seed: int = 0, std: float | None = None) -> nn.Sequential:
    """64-256-256-256-10; He-initialized, or normal weights of a given std."""
    torch.manual_seed(seed)
    sizes = [64, 256, 256, 256]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [linear(a, b, std), act()]
    return nn.Sequential(*layers, linear(256, 10, std))


def linear(a: int, b: int, std: float | None = None) -> nn.Linear:
    layer = nn.Linear(a, b)
    nn.init.normal_(layer.weight, std=std if std is not None else (2 / a) ** 0.5)
    nn.init.zeros_(layer.bias)
    return layer


class Mean(nn.Module):
    """Over tokens or positions: from [N, T, C] or [N, C, H, W] to [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1) if x.ndim == 3 else x.flatten(2).mean(2)


def network(layout: str, *, seed: int = 0) -> nn.Sequential:
    """Three ReLU layers for a layout, then a head."""
    torch.manual_seed(seed)
    if layout == "rows":
        return mlp(seed=seed)
    if layout == "tokens":
        return nn.Sequential(
            linear(8, 60),
            nn.ReLU(),
            linear(60, 60),
            nn.ReLU(),
            linear(60, 60),
            nn.ReLU(),
            Mean(),
            linear(60, 10),
        )
    net = nn.Sequential(
        nn.Conv2d(1, 20, 3, padding=1), nn.ReLU(), nn.Conv2d(20, 20, 3, padding=1), nn.ReLU(),
        nn.Conv2d(20, 20, 3, padding=1), nn.ReLU(), Mean(), linear(20, 10),
    )  # fmt: skip
    return net.to(memory_format=torch.channels_last) if "channels_last" in layout else net


def per_sample(z: Tensor) -> Tensor:
    """The largest pre-activation of each sample and unit [S, C]: a sample is a row, a token or an image."""
    return z.flatten(2).amax(2) if z.ndim == 4 else z.reshape(-1, z.shape[-1])


@torch.no_grad()
def plant(net: nn.Sequential, x: Tensor, *, dead: float = 0.0, rare: float = 0.0, rate: float = 0.005) -> list[int]:
    """Make exactly a share of each hidden layer's units dead, and a share fire on `rate` of the samples.

    Every other unit fires on half of the samples. Returns the number of dead units of each layer.
    """
    counts = []
    for layer in list(net)[:-1]:
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.bias.zero_()
            top_SC = per_sample(layer(x)).sort(dim=0, descending=True).values
            samples, units = top_SC.shape
            n_dead, n_rare, firing = round(dead * units), round(rare * units), max(1, round(rate * samples))
            bias = -(top_SC[samples // 2 - 1] + top_SC[samples // 2]) / 2
            bias[n_dead : n_dead + n_rare] = -((top_SC[firing - 1] + top_SC[firing]) / 2)[n_dead : n_dead + n_rare]
            layer.weight[:n_dead] = 0
            bias[:n_dead] = -1
            layer.bias.copy_(bias)
            counts.append(n_dead)
        x = layer(x)
    return counts


@torch.no_grad()
def truly_dead(net: nn.Sequential, x: Tensor) -> list[int]:
    """Units of each ReLU that no sample opens, counted over the whole data in one pass."""
    found = []
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            found.append(int((per_sample(x).amax(0) <= 0).sum()))
    return found


def batches(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The data once, in order."""
    return zip(x.split(size), y.split(size), strict=True)


def small() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """4-8-2 with a ReLU, and its optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step of a plain loop, on random data."""
    optimizer.zero_grad()
    model(torch.randn(5, 4)).square().mean().backward()
    optimizer.step()
