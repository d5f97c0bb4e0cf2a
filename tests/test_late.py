"""Numbers of a device that works by itself are read when the next step has been enqueued, and are the same numbers.

The host plays the device: its tensors are "sent", and come when they are waited for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from actdiag import Monitor
from actdiag.collect import recorder, sending
from actdiag.collect.arena import Arenas
from actdiag.collect.sending import Sent
from actdiag.outlet import FindingError
from actdiag.snapshot import Snapshot
from actdiag.write.memory import MemoryWriter
from tests.arriving import Coming, happened

OPTIONS: dict[str, Any] = {"log_every_n_steps": 3, "watch_every_n_steps": 1, "max_overhead": None}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    happened.clear()
    monkeypatch.setattr(sending, "LATE_DEVICES", frozenset({"cpu"}))
    monkeypatch.setattr(sending, "Coming", Coming)


class Loop:
    """A small training, with a monitor that writes into memory."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.optimizer = SGD(self.model.parameters(), lr=0.1)
        self.writer = MemoryWriter()
        self.monitor = Monitor(self.model, self.optimizer, writers=[self.writer], **OPTIONS | options)

    def step(self) -> None:
        happened.append("forward")
        self.optimizer.zero_grad()
        self.model(torch.randn(16, 4)).square().mean().backward()
        self.optimizer.step()

    def run(self, steps: int) -> list[int]:
        """After how many steps each recorded one was written."""
        told = []
        for done in range(1, steps + 1):
            self.step()
            told += [done] * (len(self.writer.snapshots) - len(told))
        return told


def without_times(snapshot: Snapshot) -> str:
    return replace(snapshot, overhead_ms=None, overhead_percent=None).to_json()


def test_a_recorded_step_is_told_when_the_next_one_is_over(device: None) -> None:
    loop = Loop()
    assert loop.run(8) == [2, 5, 8], "steps 0, 3 and 6, each one later"
    assert happened[:5] == ["forward", "sent", "forward", "read", "forward"]
    loop.monitor.close()


def test_what_comes_later_is_what_came_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for every in (1, 3):
        at_once = Loop(log_every_n_steps=every)
        at_once.run(10)
        at_once.monitor.close()
        with monkeypatch.context() as patch:
            patch.setattr(sending, "LATE_DEVICES", frozenset({"cpu"}))
            patch.setattr(sending, "Coming", Coming)
            late = Loop(log_every_n_steps=every)
            late.run(10)
            late.monitor.close()
        a, b = ([without_times(s) for s in loop.writer.snapshots] for loop in (at_once, late))
        assert a == b and len(a) == (10 if every == 1 else 4)


def test_who_asks_is_told_at_once(device: None) -> None:
    loop = Loop()
    loop.step()
    assert not loop.writer.snapshots
    assert loop.monitor.latest is not None and loop.monitor.latest.step == 0
    assert [s.step for s in loop.writer.snapshots] == [0]
    loop.run(3)
    assert [s.step for s in loop.monitor.snapshots] == [0, 3], "and each is told once"
    loop.monitor.close()


def test_the_last_step_is_told_when_the_monitor_is_closed(device: None) -> None:
    loop = Loop()
    loop.run(4)
    loop.monitor.close()
    assert [s.step for s in loop.writer.snapshots] == [0, 3]


def test_a_state_that_is_saved_holds_the_step_that_was_on_its_way(
    device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Loop()
    late.run(4)
    state = late.monitor.state_dict()
    monkeypatch.setattr(sending, "LATE_DEVICES", frozenset())
    at_once = Loop()
    at_once.run(4)
    assert str(at_once.monitor.state_dict()["collector"]) == str(state["collector"])
    late.monitor.close()
    at_once.monitor.close()


def test_a_finding_that_is_asked_to_raise_does_so_one_step_later(device: None) -> None:
    loop = Loop(raise_on="warning")
    with torch.no_grad():
        loop.model[0].weight.fill_(float("nan"))
    loop.step()
    with pytest.raises(FindingError):
        loop.step()


def test_close_raises_nothing(device: None) -> None:
    loop = Loop(raise_on="warning")
    with torch.no_grad():
        loop.model[0].weight.fill_(float("nan"))
    loop.step()
    loop.monitor.close()
    assert loop.monitor.findings and len(loop.writer.snapshots) == 1


def test_numbers_that_fail_to_come_switch_the_monitor_off_and_nothing_else(
    device: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop()
    monkeypatch.setattr(Coming, "read", lambda self: 1 / 0)
    loop.run(5)
    assert "switched off by an internal error" in caplog.text
    assert not loop.writer.snapshots and loop.monitor.latest is None
    loop.monitor.close()


def test_the_epoch_is_that_of_the_step(device: None) -> None:
    loop = Loop()
    session = loop.monitor._session
    session.epoch = 4
    loop.step()
    session.epoch = 5
    assert loop.monitor.latest is not None and loop.monitor.latest.epoch == 4
    loop.monitor.close()


@pytest.mark.parametrize("case", ["", "again", "scaler", "ranks"])
def test_what_decides_about_the_next_step_or_is_collective_is_not_kept_waiting(
    case: str, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop()
    session = loop.monitor._session
    asked: list[bool] = []
    monkeypatch.setattr(recorder, "gather", lambda *_, may_wait, **__: asked.append(may_wait) or 1 / 0)
    now = session._now()._replace(again=case == "again")
    monkeypatch.setattr(session.scaler, "_scaler", object() if case == "scaler" else None)
    monkeypatch.setattr(session.ranks, "merging", case == "ranks")
    with pytest.raises(ZeroDivisionError):
        session._recorder.record(0, now, seen=True)
    assert asked == [not case]
    monkeypatch.undo()
    loop.monitor.close()


def test_what_is_sent_for_later_does_not_change_with_the_tensors() -> None:
    x, names = torch.arange(4.0), ("site", "counts", "sums")
    for late, expected in ((True, [0.0, 1.0, 2.0, 3.0]), (False, [9.0] * 4)):
        own = x.clone()
        sent = Sent({own.device: [(names, own)]}, Arenas(), late=late)
        own.fill_(9.0)
        assert sent.read()["site"]["counts"]["sums"].tolist() == expected


def test_what_comes_from_a_device_has_the_shapes_of_the_tensors(device: None) -> None:
    tensors = [torch.arange(6).reshape(2, 3), torch.tensor(7.0), torch.zeros(0), torch.ones(5, dtype=torch.float64)]
    items = [(("site", "group", str(i)), x) for i, x in enumerate(tensors)]
    found = Sent({torch.device("cpu"): items}, Arenas(), late=True).read()["site"]["group"]
    for i, x in enumerate(tensors):
        assert found[str(i)].dtype == "float64" and found[str(i)].tolist() == x.tolist()
