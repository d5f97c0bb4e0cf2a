"""When to observe, and a budget that is kept. Time is a list of numbers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from actdiag.collect.budget import Budget
from actdiag.collect.schedule import Schedule
from actdiag.config import Options


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drive(options: Options, steps: int, *, base: float = 1.0, record: float = 0.0, watch: float = 0.0) -> list[str]:
    """Run a schedule where an observed step costs so much more; the modes of the steps."""
    clock = Clock()
    schedule = Schedule(options, clock)
    modes = []
    for step in range(steps):
        mode = schedule.decide(step)
        clock.now += base + {"record": record, "watch": watch, "off": 0.0}[mode]
        schedule.budget.lap(mode)
        modes.append(mode)
    return modes


def test_without_a_budget_the_schedule_is_a_function_of_the_step() -> None:
    modes = drive(Options(log_every_n_steps=6, watch_every_n_steps=2, max_overhead=None), 14, record=1e6)
    assert modes == ["record", "off", "watch", "off", "watch", "off"] * 2 + ["record", "off"]


def test_a_window_of_steps_bounds_the_schedule() -> None:
    options = Options(log_every_n_steps=2, watch_every_n_steps=1, max_overhead=None, start_step=2, end_step=5)
    assert drive(options, 7) == ["off", "off", "record", "watch", "record", "off", "off"]


@pytest.mark.parametrize("budget", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("record,watch", [(8.0, 0.5), (0.5, 0.05), (100.0, 2.0)])
def test_the_budget_is_kept_in_the_long_run(budget: float, record: float, watch: float) -> None:
    options = Options(log_every_n_steps=10, watch_every_n_steps=1, max_overhead=budget)
    modes = drive(options, 40_000, record=record, watch=watch)[20_000:]
    spent = modes.count("record") * record + modes.count("watch") * watch
    assert spent / len(modes) <= 1.1 * budget
    assert "record" in modes and "watch" in modes, "it thins out and does not stop"


def alone(
    options: Options,
    steps: int,
    *,
    record: float,
    watch: float,
    after: float,
    slow: Callable[[], bool] = lambda: False,
) -> tuple[list[str], float]:
    """Run a schedule that leaves steps alone, where the two steps after an observed one cost more too.

    Returns the modes of the last half, and the share of their time that observing took.
    """
    clock, modes, cost = Clock(), list[str](), list[float]()
    schedule = Schedule(options, clock)
    while len(modes) < steps:
        modes.append(schedule.decide(len(modes)))
        off = "off" if modes[-2:-1] == ["off"] and modes[-3:-2] == ["off"] else "after"
        cost.append({"record": record, "watch": watch, "off": after if off == "after" else 0.0}[modes[-1]])
        clock.now += 1.0 + cost[-1] + 0.5 * slow()
        schedule.budget.lap(modes[-1])  # type: ignore[arg-type]
        quiet = schedule.left_alone(len(modes)) if modes[-2:] == ["off", "off"] else 0
        if quiet > 1:
            clock.now += quiet - 1.0
            schedule.budget.pass_over(last=False)
        if quiet:
            clock.now += 1.0 + 0.5 * slow()
            schedule.budget.pass_over(last=True)
        modes += ["off"] * quiet
        cost += [0.0] * quiet
    half = len(modes) // 2
    return modes[half:], sum(cost[half:]) / (len(modes[half:]) + sum(cost[half:]))


@pytest.mark.parametrize("budget", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("after", [0.0, 0.02, 0.1])
def test_the_steps_after_an_observed_one_are_of_its_cost(budget: float, after: float) -> None:
    options = Options(log_every_n_steps=10, watch_every_n_steps=1, max_overhead=budget, attentive=False)
    modes, share = alone(options, 20_000, record=2.0, watch=0.2, after=after)
    assert 0.5 * budget < share <= 1.1 * budget
    assert "record" in modes and "watch" in modes


def test_an_interval_pays_for_the_steps_after_as_well() -> None:
    """Nothing is owed yet: the first second is free."""
    clock, ms = Clock(), 2.0**-10
    budget = Budget(0.02, clock)
    budget.lap("off")
    for _ in range(12):
        for took, mode in [(11, "record"), (6, "off"), (6, "off"), *[(1, "off")] * 6]:
            clock.now += took * ms
            budget.lap(mode)  # type: ignore[arg-type]
    assert budget.state()["interval"]["record"] == pytest.approx((10 + 5 + 5) / 0.01, abs=1)


def still() -> tuple[Budget, Clock]:
    """A budget that has timed steps of 2 between observed ones, and ten of 1 that were left alone."""
    clock = Clock()
    budget = Budget(0.02, clock)
    budget.lap("off")
    for step in range(15):
        clock.now += 2.0
        budget.lap("off" if step % 3 else "watch")
    for _ in range(5):
        clock.now += 1.0
        budget.pass_over(last=False)
        clock.now += 1.0
        budget.pass_over(last=True)
    return budget, clock


def test_what_the_steps_after_an_observed_one_take_more_is_counted() -> None:
    budget, clock = still()
    for took, mode, spent, elapsed in ((4.0, "record", 3.0, 44.0), (1.5, "off", 3.5, 45.5), (1.25, "off", 3.75, 46.75)):
        clock.now += took
        budget.lap(mode)  # type: ignore[arg-type]
        assert budget.percent == pytest.approx(100 * spent / elapsed)
        again = Budget(0.02, clock)
        again.load(budget.state())
        assert again.state() == budget.state()
    assert budget.last_ms == 3000.0, "the step itself"
    clock.now += 1.25
    budget.lap("off")
    assert budget.percent == pytest.approx(100 * 3.75 / 48), "the third is on its own"
    again.restart()
    clock.now += 8.0
    again.lap("off")
    assert again.percent == pytest.approx(100 * 3.75 / 46.75), "a pause is of no step"


@pytest.mark.parametrize("seed", range(4))
def test_a_busy_machine_is_not_taken_for_the_cost_of_observing(seed: int) -> None:
    """A fifth of the steps take half as long again, whatever is done in them."""
    random, options = Random(seed), Options(log_every_n_steps=50, watch_every_n_steps=4, attentive=False)
    modes, _ = alone(options, 8_000, record=0.02, watch=0.001, after=0.0, slow=lambda: random.random() < 0.2)
    assert modes.count("watch") + modes.count("record") >= 0.2 * len(modes), "nearly one in four"


@pytest.mark.parametrize("at", [[2, 0], [-1, 0], [0.5, 0], [0, 3], [0, -1], [0], [0, 0, 0], "0 0"])
def test_a_state_that_is_of_no_step_is_refused(at: object) -> None:
    budget, clock = still()
    with pytest.raises(ValueError):
        Budget(0.02, clock).load(budget.state() | {"at": at})


def test_a_state_of_before_steps_were_left_alone_is_read() -> None:
    budget, clock = still()
    state = {name: value for name, value in budget.state().items() if name not in ("still", "after", "at")}
    again = Budget(0.02, clock)
    again.load(state)
    assert again.state() == budget.state() | {"still": [], "at": [0, 2]}


def test_until_a_bare_step_is_known_one_of_four_is_left_alone() -> None:
    modes = drive(Options(log_every_n_steps=50), 40)
    assert [step for step, mode in enumerate(modes[:32]) if mode == "off"] == list(range(3, 32, 4))
    assert modes[32:] == ["watch"] * 8, "now as closely as the start is watched"


def test_what_is_due_at_a_step_that_is_left_alone_is_so_at_the_next() -> None:
    assert drive(Options(log_every_n_steps=3, attentive=False), 10)[:10:1].count("record") == 4
    assert drive(Options(log_every_n_steps=3, attentive=False), 10)[3:5] == ["off", "record"]


def test_ranks_that_merge_leave_out_what_they_have_agreed_on() -> None:
    schedule = Schedule(Options(log_every_n_steps=1, watch_every_n_steps=1))
    schedule.agree({"record": 5, "watch": 1})
    modes = [schedule.decide(step) for step in range(9)]
    assert modes == ["record", *["watch"] * 4, "record", *["watch"] * 3]


def test_R19_what_observing_took_so_far_is_told_in_percent() -> None:
    clock, options = Clock(), Options(log_every_n_steps=10, watch_every_n_steps=10, max_overhead=None)
    schedule = Schedule(options, clock)
    told, observed = [], 0
    for step in range(101):
        mode = schedule.decide(step)
        observed += step > 8 and mode == "record"
        clock.now += 1.0 if mode == "off" else 3.0
        schedule.budget.lap(mode)
        told.append(schedule.budget.told()["overhead_percent"])
    assert told[:8] == [None] * 8, "no bare step is known before"
    assert told[-1] == pytest.approx(100 * observed * 2 / (clock.now - 3.0)), "the first step is not timed"


def test_a_cheap_observation_keeps_its_configured_intervals() -> None:
    modes = drive(Options(log_every_n_steps=50, watch_every_n_steps=4, attentive=False), 400, record=1e-3, watch=1e-4)
    assert modes.count("record") == 8
    assert modes.count("watch") == 96


def test_a_lengthened_interval_stays_on_the_configured_grid() -> None:
    modes = drive(Options(log_every_n_steps=10, watch_every_n_steps=10_000), 2_000, record=5.0)
    assert all(step % 10 == 0 for step, mode in enumerate(modes) if mode == "record")


def test_a_pause_is_not_taken_for_a_slow_step() -> None:
    clock = Clock()
    schedule = Schedule(Options(log_every_n_steps=5, watch_every_n_steps=5), clock)
    for step in range(40):
        mode = schedule.decide(step)
        clock.now += 1.0
        schedule.budget.lap(mode)
        if mode == "record":
            schedule.budget.restart()
            clock.now += 1000.0
    assert schedule.budget.last_ms == 0.0 or schedule.budget.last_ms is None


def test_a_run_that_resumes_in_the_middle_records_its_first_step_and_returns_to_the_grid() -> None:
    schedule = Schedule(Options(log_every_n_steps=10, watch_every_n_steps=100, max_overhead=None))
    modes = {step: schedule.decide(step) for step in range(1003, 1025)}
    assert [step for step, mode in modes.items() if mode == "record"] == [1003, 1010, 1020]


def told(options: Options, schedule: Schedule, steps: range) -> list[str]:
    return [schedule.decide(step) for step in steps]


@pytest.mark.parametrize("cut", range(1, 20))
def test_R59_a_restored_schedule_decides_as_if_it_had_never_been_saved(cut: int) -> None:
    options = Options(log_every_n_steps=7, watch_every_n_steps=3, start_step=2, max_overhead=None)
    whole = told(options, Schedule(options), range(40))
    first = Schedule(options)
    assert told(options, first, range(cut)) == whole[:cut]
    assert told(options, Schedule.restored(first.state(cut), options), range(cut, 40)) == whole[cut:]
    first.decide(cut)
    again = Schedule.restored(first.state(cut), options)
    assert told(options, again, range(cut, 40)) == whole[cut:], "a step that has begun and not ended begins again"


HEEDED = {104: {"closer": True, "record": False}, 130: {"closer": False, "record": True}}
HEEDED |= {step: {"closer": False, "record": True} for step in (132, 151, 153)}


def heeding(options: Options, schedule: Schedule, steps: range) -> list[str]:
    """The modes of steps, where looks after some of them ask for something."""
    modes = []
    for step in steps:
        modes.append(schedule.decide(step))
        if step in HEEDED:
            schedule.heed(step, **HEEDED[step])
    return modes


@pytest.mark.parametrize("cut", [1, 20, 63, 64, 104, 105, 106, 131, 132, 133, 139, 140, 151, 152, 153, 154, 168, 169])
def test_R59_a_restored_schedule_watches_as_closely_and_records_no_earlier(cut: int) -> None:
    options = Options(log_every_n_steps=50, watch_every_n_steps=4, max_overhead=None, attentive=True)
    whole = heeding(options, Schedule(options), range(240))
    first = Schedule(options)
    assert heeding(options, first, range(cut)) == whole[:cut]
    assert heeding(options, Schedule.restored(first.state(cut), options), range(cut, 240)) == whole[cut:]
    first.decide(cut)
    again = Schedule.restored(first.state(cut), options)
    assert heeding(options, again, range(cut, 240)) == whole[cut:], "a step that has begun and not ended begins again"


def test_R59_a_state_of_before_attention_is_that_of_a_run_without_it() -> None:
    options = Options(log_every_n_steps=50, watch_every_n_steps=4, max_overhead=None, attentive=True)
    schedule = Schedule(options)
    heeding(options, schedule, range(110))
    state = schedule.state(110)
    old = {name: value for name, value in state.items() if name not in ("attentive_until", "recorded")}
    assert set(state) - set(old) == {"attentive_until", "recorded"}
    modes = heeding(options, Schedule.restored(old, options), range(110, 120))
    assert [step for step, mode in enumerate(modes, 110) if mode == "watch"] == [110, 112, 116]
    with pytest.raises(ValueError):
        Schedule.restored({**state, "attentive_until": "soon"}, options)


def test_R59_attention_that_is_no_longer_asked_for_ends() -> None:
    options = Options(log_every_n_steps=50, watch_every_n_steps=4, max_overhead=None, attentive=True)
    schedule = Schedule(options)
    heeding(options, schedule, range(110))
    without = Options(log_every_n_steps=50, watch_every_n_steps=4, max_overhead=None, attentive=False)
    again = Schedule.restored(schedule.state(110), without)
    assert [s for s in range(110, 130) if again.decide(s) == "watch"] == [110, 112, 116, 120, 124, 128]


def test_R59_an_interval_that_is_given_anew_holds_at_once() -> None:
    slow = Options(log_every_n_steps=1000, watch_every_n_steps=100, max_overhead=None)
    fast = Options(log_every_n_steps=1, watch_every_n_steps=100, max_overhead=None)
    schedule = Schedule(slow)
    told(slow, schedule, range(10))
    assert told(fast, Schedule.restored(schedule.state(10), fast), range(10, 13)) == ["record"] * 3


def test_R59_a_restored_budget_has_learned_what_the_saved_one_had() -> None:
    options = Options(log_every_n_steps=10, watch_every_n_steps=1, max_overhead=0.02)
    clock = Clock()
    schedule = Schedule(options, clock)
    for step in range(2000):
        mode = schedule.decide(step)
        clock.now += 1.0 + {"record": 8.0, "watch": 0.5, "off": 0.0}[mode]
        schedule.budget.lap(mode)
    again = Schedule.restored(schedule.state(2000), options)
    assert again.budget.state() == schedule.budget.state()
    assert told(options, again, range(2000, 2400)) == told(options, schedule, range(2000, 2400))
