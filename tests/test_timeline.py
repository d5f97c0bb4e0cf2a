"""Times of steps by the clock of a GPU: known later, and of what the GPU does. A stand-in plays the GPU."""

from __future__ import annotations

import pytest
import torch

from actdiag.collect import timeline as timeline_file
from actdiag.collect.budget import FREE_SECONDS, Budget
from actdiag.collect.schedule import Schedule
from actdiag.collect.timeline import Timeline
from actdiag.config import Options
from tests.regimes import regime


class Gpu:
    """Works off what it is given, one after the other, while the host goes on."""

    def __init__(self) -> None:
        self.host = self.busy_until = 0.0
        self.capturing = False
        self.asked = 0

    def work(self, host_s: float, gpu_s: float) -> None:
        """The host launches something, for which the GPU takes so long."""
        self.host += host_s
        self.busy_until = max(self.busy_until, self.host) + gpu_s

    def event(self) -> Event:
        return Event(self, max(self.busy_until, self.host))


class Event:
    """The GPU comes to it when it has done what came before."""

    def __init__(self, gpu: Gpu, at: float, device: int = 0) -> None:
        self._gpu, self.at, self.device = gpu, at, device

    def query(self) -> bool:
        self._gpu.asked += 1
        return self._gpu.host >= self.at

    def elapsed_time(self, later: Event) -> float:
        if later.device != self.device:
            raise RuntimeError("events of two devices")
        return (later.at - self.at) * 1e3


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    played = Gpu()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: played.capturing)
    monkeypatch.setattr(timeline_file, "_event", played.event)
    return played


def test_on_the_host_a_time_is_known_at_once_and_a_pause_is_none() -> None:
    now = [5.0]
    line = Timeline(lambda: now[0])
    assert line.mark("a") == [("a", None)], "nothing is known of when it began"
    now[0] += 2
    assert line.mark("b") == [("b", 2.0)]
    line.restart()
    now[0] += 100
    assert line.mark("c") == [("c", None)]
    now[0] += 3
    assert line.mark("d") == [("d", 3.0)]


def test_on_a_gpu_times_are_of_what_it_does_and_come_when_it_has_done_it(gpu: Gpu) -> None:
    line = Timeline(lambda: pytest.fail("the host's clock tells nothing"))
    told = line.mark("start")
    for step in range(6):
        gpu.work(0.001, 1.0 if step != 2 else 4.0)
        told += line.mark(str(step))
    assert told == [("start", None)], "the host is ahead by six steps, and waits for none"
    gpu.host += 3.5
    told = line.mark("next")
    assert [what for what, _ in told] == ["0", "1"]
    gpu.host += 100.0
    took = dict(told + line.mark("last"))
    assert took["2"] == pytest.approx(4.0) and took["1"] == took["5"] == pytest.approx(1.0)
    gpu.host += 7.0
    assert line.mark("idle") == [("idle", pytest.approx(7.0))], "where the host is the slower one, it is its time"


def test_while_a_graph_is_captured_nothing_is_recorded_or_asked(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Timeline(lambda: 0.0)
    line.mark("start")
    gpu.work(0.1, 0.1)
    gpu.capturing, gpu.asked = True, 0
    with monkeypatch.context() as patch:
        patch.setattr(timeline_file, "_event", lambda: pytest.fail("in a capture"))
        assert line.mark("captured") == [] and gpu.asked == 0
    gpu.capturing = False
    gpu.host += 1.0
    assert line.mark("after") == [("captured", None), ("after", None)]
    gpu.work(0.5, 0.0)
    assert line.mark("then") == [("then", pytest.approx(0.5))]


def test_times_of_two_clocks_are_not_known(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Timeline(lambda: 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: False)
        line.mark("host")
    assert line.mark("gpu") == [("gpu", None)], "CUDA was first used in this step"
    monkeypatch.setattr(timeline_file, "_event", lambda: Event(gpu, gpu.host, device=1))
    assert line.mark("other gpu") == [("other gpu", None)]
    gpu.host += 0.5
    assert line.mark("same gpu") == [("same gpu", pytest.approx(0.5))], "it goes on being asked"


def test_what_a_gpu_comes_to_too_late_takes_no_memory_and_is_no_time(gpu: Gpu) -> None:
    line = Timeline(lambda: 0.0)
    for _ in range(10_000):
        gpu.work(0.0, 1.0)
        assert line.mark("step") == []
    assert len(line._waiting) < 1000
    gpu.host += 1e6
    told = line.mark("last")
    assert told[0] == ("step", None) and {took for _, took in told[1:-1]} == {1.0}, "the gap is of no step"


def test_a_gpu_that_cannot_be_asked_is_not_asked_again(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while another thread captures a graph. Nothing is raised: this is called in the user's optimizer step."""
    now = [1.0]
    line = Timeline(lambda: now[0])
    line.mark("start")

    def refuse() -> Event:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(timeline_file, "_event", refuse)
    assert line.mark("refused") == [("refused", None)]
    now[0] += 2.5
    assert line.mark("next") == [("next", 2.5)]


def test_of_two_streams_the_later_mark_may_be_reached_first_and_no_time_is_below_zero(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Timeline(lambda: 0.0)
    gpu.host = 10.0
    for at, took in ((5.0, None), (3.0, None), (4.0, 1.0)):
        monkeypatch.setattr(timeline_file, "_event", lambda at=at: Event(gpu, at))
        assert line.mark("step") == [("step", took)]


@regime(
    "never in the way",
    "a GPU that is behind: the host launches steps and waits for nothing",
    exact="the budget is that of the GPU's time, by events, read without waiting. Tested with a stand-in for the "
    "device: not run on a GPU",
)
@pytest.mark.parametrize("share", [0.01, 0.05])
def test_a_budget_is_kept_on_a_gpu_of_which_the_host_sees_nothing(gpu: Gpu, share: float) -> None:
    """A recorded step costs the GPU three steps more, and the host nothing."""
    schedule = Schedule(Options(log_every_n_steps=10, watch_every_n_steps=10**6, max_overhead=share), lambda: gpu.host)
    spent = steps = 0
    for step in range(20_000):
        mode = schedule.decide(step)
        if step > 10_000:
            steps += 1
            spent += 3 * (mode == "record")
        gpu.work(0.001, 1.0 + 3.0 * (mode == "record"))
        gpu.host = max(gpu.host, gpu.busy_until - 8.0)  # no more than eight steps are launched ahead
        schedule.budget.lap(mode)
    assert 0 < spent / steps <= 1.1 * share
    assert schedule.budget.percent is not None and 20_000 * share > FREE_SECONDS


def test_what_is_on_its_way_is_not_saved(gpu: Gpu) -> None:
    budget = Budget(0.02, lambda: 0.0)
    gpu.work(0.0, 50.0)
    for _ in range(20):
        budget.lap("off")
    again = Budget(0.02, lambda: 0.0)
    again.load(budget.state())
    assert again.state() == budget.state() and not again.known
