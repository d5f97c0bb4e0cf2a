"""A training step, bare and observed: what is told counts only if the training stayed bit for bit the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from actdiag import Monitor, Snapshot
from actdiag.snapshot import SiteStats
from tests.conftest import assert_untouched
from tests.oracle import statistics

Step = Callable[[Any, Any], Any]
"""One step of a loop: takes the model and the optimizer, calls optimizer.step()."""


def sgd(model: nn.Module) -> Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


def on(*inputs: Any, loss: Callable[[Any], Tensor] = lambda out: out.square().mean()) -> Step:
    """The plain step: one forward and backward for each input, then the update."""

    def step(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        for x in inputs:
            loss(model(*x) if isinstance(x, tuple) else model(x)).backward()
        optimizer.step()

    return step


def run(
    build: Callable[[], Any], step: Step, *, steps: int = 1, optimizer: Callable[[Any], Any] = sgd, **options: Any
) -> Monitor:
    """Train from one seed, bare and then observed at every step; the closed monitor of the second run.

    Fails where weights, buffers, gradients or the state of the random generator differ, and where a hook stays.
    """
    bare, _ = _train(build, step, steps, optimizer, None)
    same, monitor = _train(build, step, steps, optimizer, {"log_every_n_steps": 1, "max_overhead": None, **options})
    for name, before in bare.items():
        assert torch.equal(before, same[name]), f"the training is not the same: {name}"
    assert monitor is not None
    return monitor


def _train(
    build: Callable[[], Any], step: Step, steps: int, optimizer: Callable[[Any], Any], options: dict[str, Any] | None
) -> tuple[dict[str, Tensor], Monitor | None]:
    torch.manual_seed(0)
    model = build()
    chosen = optimizer(model)
    torch.manual_seed(1)
    monitor = None if options is None else Monitor(model, chosen, **options)
    try:
        for _ in range(steps):
            step(model, chosen)
    finally:
        if monitor is not None:
            monitor.close()
    for module in model.values() if isinstance(model, dict) else [model]:
        assert_untouched(module)
    return _fingerprint(model), monitor


def _fingerprint(model: Any) -> dict[str, Tensor]:
    found = {"random numbers": torch.get_rng_state()}
    for prefix, module in model.items() if isinstance(model, dict) else [("", model)]:
        found |= {f"{prefix} {name}": bits(value) for name, value in module.state_dict().items()}
        found |= {f"{prefix} gradient of {n}": bits(p.grad) for n, p in module.named_parameters() if p.grad is not None}
    return found


def bits(x: Tensor) -> Tensor:
    """The bytes of a tensor, so that NaN equals NaN and -0 is not 0."""
    dense = x.detach().to_dense() if x.layout != torch.strided else x.detach()
    return dense.clone().contiguous().reshape(-1).view(torch.uint8) if dense.numel() else torch.zeros(0)


def last(monitor: Monitor) -> Snapshot:
    assert monitor.latest is not None
    return monitor.latest


def assert_told(site: SiteStats, out: Tensor, *, unit_dim: int = -1, grad: Tensor | None = None) -> None:
    """A site's numbers equal those of a slow float64 count over the tensor, and over its gradient if there is one."""
    for field, truth in statistics(out, unit_dim).items():
        slack = 1e-6 * (site.rms or 0.0) if field == "mean" else 1e-9
        assert getattr(site, field) == pytest.approx(truth, rel=1e-5, abs=slack), field
    if grad is None:
        assert site.grad_rms is None and site.grad_zero_fraction is None
    else:
        wide = grad.detach().double()
        assert site.grad_rms == pytest.approx(float(wide.square().mean().sqrt()), rel=1e-5)
        assert site.grad_zero_fraction == pytest.approx(float((wide == 0).double().mean()), abs=1e-7)
