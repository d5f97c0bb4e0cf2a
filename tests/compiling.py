"""Train one network eagerly, compiled, and compiled with a monitor, and compare what comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor, Snapshot

COMPILER_WARNS = [  # torch.compile warns of itself, with and without a monitor
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]
"""`pytestmark` of the files that compile."""

EVERY = 3
"""Recorded steps lie between unrecorded ones: both kinds of graph are used, several times."""

Wrap = Callable[[nn.Module], Any]
"""Compiles a model: gives what the loop calls."""


@dataclass(frozen=True)
class Outcome:
    """What one training has left."""

    weights: dict[str, Tensor]
    graphs: int
    breaks: int
    monitor: Monitor | None

    @property
    def snapshot(self) -> Snapshot:
        assert self.monitor is not None and self.monitor.latest is not None
        return self.monitor.latest


def compiled(backend: str = "aot_eager", **options: Any) -> Wrap:
    """The wrapper of torch.compile around the model."""
    return lambda model: torch.compile(model, backend=backend, **options)


def in_place(model: nn.Module) -> nn.Module:
    """`model.compile()`."""
    model.compile(backend="aot_eager", fullgraph=True)
    return model


def eager(model: nn.Module) -> nn.Module:
    """No compilation."""
    return model


def train(
    build: Callable[[], nn.Module],
    wrap: Wrap,
    *,
    observe: Callable[[nn.Module, Any], nn.Module] | None = None,
    batches: Callable[[int], list[Tensor]] | None = None,
    steps: int = 7,
    **options: Any,
) -> Outcome:
    """`observe` says which module the monitor is given: of the model and its wrapper; None for no monitor."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = build()
    call = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"log_every_n_steps": EVERY, "watch_every_n_steps": EVERY, "max_overhead": None, **options}
    monitor = Monitor(observe(model, call), optimizer, **options) if observe is not None else None
    torch.manual_seed(1)
    for step in range(steps):
        for x in batches(step) if batches is not None else [torch.randn(5, 8)]:
            call(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    if monitor is not None:
        monitor.close()
    counters = torch._dynamo.utils.counters
    return Outcome(
        weights={name: p.detach().clone() for name, p in model.named_parameters()},
        graphs=int(counters["stats"]["unique_graphs"]),
        breaks=sum(counters["graph_break"].values()),
        monitor=monitor,
    )


def inner(model: nn.Module, call: Any) -> nn.Module:
    """The monitor is given the model itself."""
    return model


def outer(model: nn.Module, call: Any) -> nn.Module:
    """The monitor is given what the loop calls."""
    assert isinstance(call, nn.Module)
    return call


def assert_same_training(one: Outcome, other: Outcome) -> None:
    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name]), name


def assert_same_numbers(got: Snapshot, truth: Snapshot) -> None:
    """Every number of every site, to 1e-5 of its size; names, roles, orders and counts exactly."""
    assert list(got.sites) == list(truth.sites)
    for name, site in truth.sites.items():
        for field in dataclasses.fields(site):
            wanted, value = getattr(site, field.name), getattr(got.sites[name], field.name)
            if isinstance(wanted, float):
                assert value == pytest.approx(wanted, rel=1e-5, abs=1e-7), (name, field.name)
            else:
                assert value == wanted, (name, field.name)
