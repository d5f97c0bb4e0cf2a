"""A monitor whose optimizer was replaced, and one that cannot be made: what runs goes on, what does not says so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from actdiag import ConfigError, Monitor
from tests.conftest import assert_untouched
from tests.regimes import regime

EVERY: dict[str, Any] = {"log_every_n_steps": 1, "max_overhead": None}


def data() -> Tensor:
    return torch.randn(6, 4)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def train(model: nn.Module, optimizer: Optimizer, steps: int, *, parts: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(parts):
            model(data()).square().mean().backward()
        optimizer.step()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "no longer steps" in record.message]


@regime(
    "interruptions",
    "an optimizer that is replaced: the old one is gone, or stands still",
    not_observed="steps of the new one; after 64 of its updates one warning names the cure, and a recorded step's "
    "hooks are taken off",
    proves=("R14",),
)
@pytest.mark.parametrize("gone", [True, False])
def test_R14_a_replaced_optimizer_is_told_once_and_the_hooks_go(gone: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "actdiag")
    model = net()
    old: Optimizer | None = SGD(model.parameters(), lr=0.01)
    assert old is not None
    monitor = Monitor(model, old, **EVERY)
    train(model, old, 5)
    old = None if gone else old
    new = Adam(model.parameters(), lr=0.01)
    train(model, new, 50)
    assert said(caplog) == [] and model[0]._forward_hooks, "50 changes may be somebody's averaging"
    train(model, new, 20)
    assert_untouched(model)
    monitor.close()
    assert len(said(caplog)) == 1 and "make a new Monitor" in said(caplog)[0] and "step 4" in said(caplog)[0]
    if old is not None:
        train(model, old, 1)


def test_R14_a_replaced_optimizer_is_told_at_close_where_no_step_was_observed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "actdiag")
    model = net()
    optimizer: Optimizer = SGD(model.parameters(), lr=0.01)
    with Monitor(model, optimizer, log_every_n_steps=1000, watch_every_n_steps=1000):
        train(model, optimizer, 3)
        optimizer = Adam(model.parameters(), lr=0.01)
        train(model, optimizer, 70)
    assert len(said(caplog)) == 1


def test_R14_an_optimizer_that_steps_again_is_recorded_again(caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    first, second = SGD(model.parameters(), lr=0.01), Adam(model.parameters(), lr=0.01)
    with Monitor(model, first, **EVERY) as monitor:
        train(model, first, 2)
        train(model, second, 80)
        train(model, first, 3)
    assert [s.step for s in monitor.snapshots] == [0, 1, 3, 4], "the step that held 80 updates of another is left out"
    assert {site.samples for s in monitor.snapshots for site in s.sites.values()} == {6}


def test_R14_a_hundred_micro_batches_are_no_replaced_optimizer(caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    optimizer = SGD(model.parameters(), lr=0.01)
    with Monitor(model, optimizer, **EVERY) as monitor:
        train(model, optimizer, 2, parts=100)
    assert [s.step for s in monitor.snapshots] == [0, 1] and said(caplog) == []
    assert {site.samples for s in monitor.snapshots for site in s.sites.values()} == {600}


@pytest.mark.parametrize(
    "wrong", [{"writers": [object()]}, {"log_dir": "taken"}, {"prefix": 3}, {"ignore": ["no-such-rule"]}]
)
def test_a_monitor_that_cannot_be_made_leaves_the_one_that_runs(
    wrong: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if "log_dir" in wrong:
        (tmp_path / "taken").write_text("a file")
        wrong = {"log_dir": tmp_path / "taken"}
    model = net()
    optimizer = SGD(model.parameters(), lr=0.01)
    with Monitor(model, optimizer, **EVERY) as monitor:
        train(model, optimizer, 2)
        with pytest.raises(ConfigError):
            Monitor(model, optimizer, **wrong)
        train(model, optimizer, 2)
    assert [s.step for s in monitor.snapshots] == [0, 1, 2, 3]
    assert "a new monitor" not in caplog.text
