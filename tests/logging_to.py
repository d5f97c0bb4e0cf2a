"""A small training, and stores of metrics that remember what they were given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from actdiag import Monitor

STEPS = (0, 2, 4)
"""What is recorded of `train`."""


class Net(nn.Module):
    """A function that is called twice, whose sites have a `#`; its input's site has a `:`."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Rows [N, 4] to [N, 8]."""
        return torch.relu(self.second(torch.relu(self.first(x))))


def train(*writers: Any, model: nn.Module | None = None, infinite_at: int | None = None, **options: Any) -> Monitor:
    """Six steps, of which those in STEPS are recorded."""
    model = Net() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    settings = {"log_every_n_steps": 2, "max_overhead": None, **options}
    with Monitor(model, optimizer, writers=writers, **settings) as monitor:
        for step in range(6):
            x = torch.randn(16, 4, generator=generator)
            if step == infinite_at:
                x[0, 0] = float("inf")
            optimizer.zero_grad()
            model(x).pow(2).mean().backward()
            optimizer.step()
    return monitor


class Store:
    """Takes (metrics, step) and keeps it."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, dict[str, float]]] = []

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append((step, dict(metrics)))

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(step for step, _ in self.calls)

    @property
    def names(self) -> set[str]:
        return {name for _, metrics in self.calls for name in metrics}


class Comet(Store):
    """The step is the third parameter, as in Comet's experiment."""

    def log_metrics(self, dic: Mapping[str, float], prefix: str | None = None, step: int | None = None) -> None:
        assert prefix is None and step is not None
        self(dic, step)


class Broken:
    """A store that is full after one call."""

    def __init__(self) -> None:
        self.calls = 0

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls += 1
        raise OSError("quota exceeded")


def wide(layers: int) -> nn.Module:
    """A network of so many ReLU layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pairs: Sequence[nn.Module] = [module for _ in range(layers) for module in (nn.Linear(4, 4), nn.ReLU())]
    return nn.Sequential(*pairs)


def hands_on(rank: int, world: int) -> tuple[int, ...]:
    """What a store has been given on a rank of a data-parallel training, as `train` records."""
    net, store = wide(2), Store()
    ddp = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Monitor(ddp, optimizer, writers=[store], log_every_n_steps=2, max_overhead=None):
        for _ in range(6):
            optimizer.zero_grad()
            ddp(torch.ones(4, 4)).sum().backward()
            optimizer.step()
    return store.steps
