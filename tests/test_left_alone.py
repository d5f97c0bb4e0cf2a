"""Steps that are not observed: of a run of them all but the first are only counted, and nothing is lost by that."""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

import actdiag
from actdiag import Monitor
from actdiag.collect.budget import Budget
from actdiag.collect.parameters import ParameterWatch
from actdiag.collect.schedule import Schedule
from actdiag.collect.timeline import Timeline
from actdiag.config import Options

PACKAGE = f"{Path(actdiag.__file__).parent}{os.sep}"
WARM = 12
"""Bare steps that are timed before any is left alone."""
OPTIONS: dict[str, Any] = {"log_every_n_steps": 20, "watch_every_n_steps": 1000, "max_overhead": None}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def update(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(16, 4)).square().mean().backward()
    optimizer.step()


def trained(steps: int, kind: Callable[..., Optimizer] = SGD, **options: Any) -> Monitor:
    model = small()
    optimizer = kind(model.parameters(), lr=0.01)
    monitor = Monitor(model, optimizer, **OPTIONS | options)
    for _ in range(steps):
        update(model, optimizer)
    return monitor


def recorded(monitor: Monitor) -> list[int]:
    return [snapshot.step for snapshot in monitor.snapshots]


class Calls:
    """Counts calls of functions in our package."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, frame: Any, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.names.append(frame.f_code.co_name)


def test_a_step_that_is_left_alone_makes_a_handful_of_calls() -> None:
    model = small()
    optimizer = SGD(model.parameters(), lr=0.01)
    monitor = Monitor(model, optimizer, **OPTIONS | {"log_every_n_steps": 1000})
    for _ in range(WARM):
        update(model, optimizer)
    calls = Calls()
    sys.setprofile(calls)
    try:
        for _ in range(10):
            update(model, optimizer)
    finally:
        sys.setprofile(None)
    assert 10 <= len(calls.names) <= 10 * 3, calls.names[:10]
    assert "begin_step" not in calls.names and "end_step" not in calls.names
    monitor.close()


class TwiceSGD(SGD):
    """Its step() calls that of its parent, so that hooks fire twice a step."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("kind", [SGD, TwiceSGD, torch.optim.Adam])
def test_the_steps_that_are_recorded_are_those_of_the_interval(kind: Callable[..., Optimizer]) -> None:
    monitor = trained(101, kind)
    assert recorded(monitor) == [0, 20, 40, 60, 80, 100]
    monitor.close()


def test_a_watched_step_in_the_middle_is_watched() -> None:
    monitor = trained(161, watch_every_n_steps=8, window_samples=512)
    assert monitor.latest is not None and monitor.latest.step == 160
    seen = [step for step in range(161) if step % 8 == 0 or step % 20 == 0]
    assert monitor.latest.sites["1"].evidence_samples == 16 * len(seen)
    monitor.close()


def test_nothing_is_observed_before_the_first_and_after_the_last_step_asked_for() -> None:
    monitor = trained(200, start_step=41, end_step=90)
    assert recorded(monitor) == [41, 61, 81]
    monitor.close()


def test_a_step_that_raises_is_not_counted_and_those_after_it_are() -> None:
    model = small()
    optimizer = SGD(model.parameters(), lr=0.01)
    monitor = Monitor(model, optimizer, **OPTIONS)
    for step in range(61):
        if step % 10 == 5:

            def closure() -> float:
                raise KeyError("the user's own")

            with pytest.raises(KeyError):
                optimizer.step(closure)
        update(model, optimizer)
    assert recorded(monitor) == [0, 20, 40, 60]
    monitor.close()


def test_a_state_saved_in_the_middle_goes_on_at_the_right_step() -> None:
    state = trained(33).state_dict()
    model = small()
    optimizer = SGD(model.parameters(), lr=0.01)
    monitor = Monitor(model, optimizer, **OPTIONS)
    monitor.load_state_dict(state)
    for _ in range(33, 61):
        update(model, optimizer)
    assert recorded(monitor)[-2:] == [40, 60]
    monitor.close()


def test_a_state_loaded_in_the_middle_goes_on_at_its_own_step() -> None:
    """The steps that were left alone until then belong to another run."""
    state = trained(33).state_dict()
    model = small()
    optimizer = SGD(model.parameters(), lr=0.01)
    monitor = Monitor(model, optimizer, **OPTIONS | {"log_every_n_steps": 1000})
    for _ in range(57):
        update(model, optimizer)
    monitor.load_state_dict(state)
    assert monitor.state_dict()["next_step"] == 33
    monitor.close()


def test_nothing_stays_with_a_parameter_that_was_watched() -> None:
    """Not even an empty post-accumulate hook, for which torch calls into Python at every backward."""
    model = small()
    optimizer = SGD(model.parameters(), lr=0.01)
    with Monitor(model, optimizer, **OPTIONS | {"log_every_n_steps": 1}) as monitor:
        for _ in range(3):
            update(model, optimizer)
        assert all(told.grad_norm is not None for told in monitor.latest.parameters.values())
    calls: list[str] = []
    sys.setprofile(lambda frame, event, arg: calls.append(frame.f_code.co_name))
    try:
        model(torch.zeros(2, 4)).sum().backward()
    finally:
        sys.setprofile(None)
    assert calls and not any("hook" in name for name in calls)
    assert all(getattr(p, "_post_accumulate_grad_hooks", None) is None for p in model.parameters())


@pytest.mark.parametrize("several", [False, True])
def test_a_model_that_is_gone_takes_its_hooks_along_and_no_other_models(several: bool) -> None:
    """`several`: as where processes train together, with hooks on the parameters themselves."""
    kept, gone = small(), small()
    watch = ParameterWatch([("kept", kept), ("gone", gone)], lambda name, error: pytest.fail(name), several=several)
    watch.watch()
    held = weakref.ref(gone[0].weight)
    del gone
    assert held() is None
    kept(torch.randn(3, 4)).sum().backward()
    assert all(record.fresh for record in watch.records() if record.name.startswith("kept"))
    watch.release()
    assert not any(getattr(p, "_post_accumulate_grad_hooks", None) for p in kept.parameters())


def test_a_clock_that_fails_raises_nothing_into_the_optimizers_step(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = Timeline.mark

    def failing(self: Timeline, what: str) -> list[tuple[str, float | None]]:
        if what in ("last", "passed"):
            raise ValueError("no clock")
        return mark(self, what)

    monkeypatch.setattr(Timeline, "mark", failing)
    monitor = trained(60)
    assert recorded(monitor)[0] == 0
    monitor.close()


def test_a_model_that_is_converted_and_brought_back_between_two_steps_is_followed() -> None:
    """Its parameters have other nodes then. What is read at the end of the backward is not yet clipped."""
    model = small()
    optimizer = SGD(model.parameters(), lr=0.01)
    with Monitor(model, optimizer, **OPTIONS | {"log_every_n_steps": 1}) as monitor:
        update(model, optimizer)
        with torch.no_grad():
            model(torch.randn(2, 4))  # a validation does not know what comes after it
        model.double().float()
        optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        norms = {name: p.grad.double().norm().item() for name, p in model.named_parameters() if p.grad is not None}
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        optimizer.step()
        assert len(norms) == 4 and monitor.latest is not None
        for name, told in monitor.latest.parameters.items():
            assert told.grad_norm == pytest.approx(norms[name], rel=1e-5)


def test_a_second_optimizer_or_a_scaler_leaves_no_step_alone() -> None:
    model = small()
    pair = [SGD(part.parameters(), lr=0.01) for part in (model[0], model[2])]
    several = Monitor(model, pair, **OPTIONS)
    for _ in range(41):
        for optimizer in pair:
            optimizer.zero_grad()
        model(torch.randn(16, 4)).square().mean().backward()
        for optimizer in pair:
            optimizer.step()
    assert recorded(several) == [0, 20, 40]
    assert all(p.update_ratio is not None for p in several.snapshots[-1].parameters.values())
    several.close()


def test_an_optimizer_that_was_replaced_in_the_middle_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    model = small()
    first = SGD(model.parameters(), lr=0.01)
    monitor = Monitor(model, first, **OPTIONS | {"log_every_n_steps": 1000})
    for _ in range(100):
        update(model, first)
    with caplog.at_level(logging.WARNING, "actdiag"):
        monitor.close()
    assert not caplog.records, "our own updates are no one else's"

    monitor = Monitor(model, first, **OPTIONS | {"log_every_n_steps": 1000})
    for _ in range(30):
        update(model, first)
    second = SGD(model.parameters(), lr=0.01)
    for _ in range(80):
        update(model, second)
    with caplog.at_level(logging.WARNING, "actdiag"):
        monitor.close()
    (told,) = caplog.records
    assert "no longer steps" in told.message and "since step 29" in told.message


def test_every_run_of_steps_left_alone_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[bool] = []
    monkeypatch.setattr(Budget, "pass_over", lambda self, *, last: timed.append(last))
    monitor = trained(101)
    assert timed == [False, True] * 5, "all but the last, and the last, in each interval of 20 steps"
    monitor.close()


def test_the_time_of_steps_left_alone_counts_and_is_nobodys_cost() -> None:
    now = [0.0]
    budget = Budget(None, lambda: now[0])
    for _ in range(20):
        now[0] += 1.0
        budget.lap("off")
    for _ in range(3):
        now[0] += 100.0
        budget.pass_over(last=False)
    now[0] += 1.0
    budget.lap("off")
    now[0] += 2.0
    budget.lap("watch")
    now[0] += 2.0
    budget.lap("watch")
    assert budget.percent == pytest.approx(100 * 2.0 / (19 + 300 + 1 + 4))


def test_a_pause_is_no_time_of_steps_left_alone() -> None:
    now = [0.0]
    budget = Budget(None, lambda: now[0])
    for _ in range(20):
        now[0] += 1.0
        budget.lap("off")
    budget.restart()
    now[0] += 1000.0
    budget.pass_over(last=True)
    budget.lap("off")
    now[0] += 3.0
    budget.lap("record")
    assert budget.percent == pytest.approx(100 * 2.0 / (19 + 3))


def test_no_step_is_left_alone_before_bare_ones_were_timed_and_none_before_one_that_is_due() -> None:
    now = [0.0]
    schedule = Schedule(Options(log_every_n_steps=50, watch_every_n_steps=1000, max_overhead=None), lambda: now[0])
    left = {}
    for step in range(60):
        mode = schedule.decide(step)
        left[step] = schedule.left_alone(step)
        now[0] += 1.0
        schedule.budget.lap(mode)
    assert [left[s] for s in (1, 5)] == [0, 0]
    assert [left[s] for s in (20, 47, 48, 49)] == [29, 2, 1, 0], "the end of 49 is the beginning of 50"
