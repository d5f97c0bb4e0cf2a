"""A look between recorded steps: it sees units fall silent, watches closer, and has a step recorded for the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from actdiag import ConfigError, Monitor
from actdiag.collect.glance import Glance, Sight, Verges, no_verges, silence
from actdiag.collect.memory import Known, Memory
from actdiag.collect.recent import Openings, Recent
from actdiag.collect.schedule import ATTENTIVE_STEPS, RECORD_GAP_STEPS, Schedule
from actdiag.collect.site import Site
from actdiag.collect.units import MIN_OBSERVATIONS, SUSPECT_SAMPLES, UnitEvidence
from actdiag.config import Options
from actdiag.snapshot import Snapshot

UNITS, BATCH = 20, 32
KEY = ("relu", 0)


class Bench:
    """A glance at one site whose units open as we say."""

    def __init__(self, window: int = 2048, warning: float = 0.45, verges: Verges = no_verges) -> None:
        self.memory, self.glance, self.step = Memory(window), Glance(window, warning, verges), -1
        self.site = cast(Site, SimpleNamespace(recent=Recent(UNITS, torch.device("cpu"))))

    def observe(self, silent: int, samples: int = BATCH, *, flicker: int = 0) -> None:
        self.step += 1
        open_C = torch.full((UNITS,), float(samples))
        open_C[:silent] = 0
        open_C[:flicker] = 1
        cast(Recent, self.site.recent).observe(open_C, samples, self.step)

    def look(self, silent: int, samples: int = BATCH) -> Sight:
        self.observe(silent, samples)
        return self.glance.look({KEY: self.site}, self.memory)

    def record(self, silent: int) -> None:
        self.observe(silent)
        recent = cast(Recent, self.site.recent)
        seen = recent.openings()
        assert seen is not None
        self.memory.known[KEY] = self.memory.with_seen(self.memory.of(*KEY), seen)
        recent.clear()
        self.glance.settle(self.memory)


def looks(bench: Bench, silents: Sequence[int]) -> list[Sight]:
    return [bench.look(silent) for silent in silents]


def test_a_fifth_of_the_units_falling_silent_has_every_step_watched() -> None:
    bench = Bench()
    bench.record(2)
    assert [s.closer for s in looks(bench, [2, 5, 7, 7, 7])] == [False, False, True, False, False]


def test_units_silent_for_sixteen_batches_for_half_the_window_and_for_all_of_it_have_a_step_recorded_each() -> None:
    bench = Bench()
    bench.record(0)
    said = looks(bench, [9] * 100)
    assert [i + 1 for i, s in enumerate(said) if s.record] == [16, 32, 64], "batches of 32: 512, 1,024, 2,048 samples"


@pytest.mark.parametrize("samples,batches", [(8, 38), (1, 300), (64, 16)])
def test_small_batches_take_more_of_them_until_there_are_three_hundred_samples(samples: int, batches: int) -> None:
    bench = Bench(window=10_000)
    bench.record(0)
    said = [bench.look(10, samples).record for _ in range(batches)]
    assert said == [False] * (batches - 1) + [True]


def test_a_verdict_is_due_again_when_the_window_is_full() -> None:
    bench = Bench(window=1024)
    bench.record(0)
    assert [i + 1 for i, s in enumerate(looks(bench, [9] * 60)) if s.record] == [16, 32], "half of it is 16 batches"


def test_of_few_units_every_step_is_watched_while_two_windows_are_needed_for_a_verdict() -> None:
    """9 of 20 are 45 %: enough where they are silent for two windows of 32 batches, and for no verdict before."""
    for silent, told in ((8, 16), (9, 64), (10, 32), (11, 16)):
        bench = Bench(window=1024, warning=0.4, verges=lambda units, seldom: (0.65, 0.55, 0.5, 0.45))
        bench.record(0)
        closer = [i + 1 for i, s in enumerate(looks(bench, [silent] * 100)) if s.closer]
        assert closer[1:] == list(range(16, told)), "the first is the rise"


def test_what_was_told_at_a_recorded_step_asks_for_no_other() -> None:
    bench = Bench()
    for _ in range(80):
        bench.observe(12)
    bench.record(12)
    assert not any(s.record or s.closer for s in looks(bench, [12] * 80))
    assert any(s.record for s in looks(bench, [20] * 80)), "but more of it does"


def test_fewer_silent_units_than_a_warning_needs_ask_for_nothing() -> None:
    bench = Bench()
    bench.record(0)
    assert not any(s.record for s in looks(bench, [8] * 100)), "8 of 20 are 40 %"


def test_a_verdict_is_due_from_the_share_on_that_a_warning_needs() -> None:
    for warning, due in ((0.2, [16, 32, 64]), (0.41, [])):
        bench = Bench(warning=warning)
        bench.record(0)
        assert [i + 1 for i, s in enumerate(looks(bench, [8] * 100)) if s.record] == due, "8 of 20 are 40 %"


@pytest.mark.parametrize("told", [9, 10])
def test_a_verdict_is_due_where_silence_is_just_enough_for_it_though_little_has_followed(told: int) -> None:
    """One unit more after 9 of 20, and after 10: at 10 of 20 a verdict changes, of each kind of evidence."""
    for verges in ((0.5, 1, 1, math.inf), (1, 0.5, 1, math.inf), (1, 1, 0.5, math.inf), (1, 1, 1, 0.5)):
        bench = Bench(window=1024, verges=lambda units, seldom, verges=verges: verges)
        for _ in range(100):
            bench.observe(told)
        bench.record(told)
        due = [i + 1 for i, s in enumerate(looks(bench, [told + 1] * 80)) if s.record]
        assert due == ([(16, 16, 32, 64)[verges.index(0.5)]] if told == 9 else [])


def test_a_verdict_is_due_when_fewer_units_open_seldom_than_it_was_given_for() -> None:
    """10 of 20 are dead; for two that opened once in 1,024 samples two of the dead are spared until these open more."""
    for flicker, due in ((2, [3]), (0, [])):
        bench = Bench(window=1024, verges=lambda units, seldom: (1, 1, 0.45 + seldom / units, 1))
        bench.record(12)
        for batch in range(41):
            bench.observe(12, flicker=2 if batch == 40 else 0)
        bench.record(12)
        said = []
        for _ in range(10):
            bench.observe(12, flicker=flicker)
            said.append(bench.glance.look({KEY: bench.site}, bench.memory).record)
        assert [i for i, record in enumerate(said) if record] == due, "5 of 1,024 are more than 0.4 %"


def test_a_limit_that_is_lower_has_a_step_recorded_earlier() -> None:
    """9 of 32 units, 28 %, that die at step 107: with the limit of a warning at 20 % its step is recorded at once."""
    for limits, earliest, latest in (({}, 200, 200), ({"dead_warning": 0.2}, 171, 175)):
        _, monitor = killed_at(107, units=9, max_overhead=None, attentive=True, limits=limits)
        (told,) = (f.step for f in monitor.findings if f.rule == "dead-units")
        assert earliest <= told <= latest, "64 batches of 32 are the window"


def test_a_look_sees_units_flicker_between_two_recorded_steps() -> None:
    for looked in (True, False):
        bench = Bench()
        bench.record(0)
        for batch in range(14):
            bench.observe(12, flicker=7 if batch == 9 else 0)
            if looked:
                bench.glance.look({KEY: bench.site}, bench.memory)
        bench.record(12)
        known = bench.memory.known[KEY]
        assert known.evidence is not None and known.ledger is not None
        assert known.ledger.judge(known.evidence, bench.step).flickering == 7 * looked


def test_a_site_without_watch_or_memory_is_passed_over() -> None:
    bench = Bench()
    assert bench.look(20) == Sight(False, False), "nothing is remembered of it yet"
    none = cast(Site, SimpleNamespace(recent=None))
    assert bench.glance.look({KEY: none}, bench.memory) == Sight(False, False)


@pytest.mark.parametrize("batch,window", [(1, 200), (1, 400), (8, 512), (32, 2048), (64, 320), (500, 2048)])
def test_a_look_at_the_latest_observations_sees_what_a_look_at_all_of_them_does(batch: int, window: int) -> None:
    random = np.random.default_rng(batch + window)
    recent, rate_C = Recent(UNITS, torch.device("cpu")), np.geomspace(1e-5, 0.05, UNITS)
    known = UnitEvidence.empty(UNITS, window)
    for step in range(700):
        samples = int(random.integers(1, 2 * batch + 1))
        opens_C = random.binomial(samples, rate_C * (step < 500)) * (np.arange(UNITS) > 3)
        recent.observe(torch.tensor(opens_C, dtype=torch.float32), samples, step // 2)
        whole, late = (
            recent.openings(),
            recent.openings(samples=max(2 * window, SUSPECT_SAMPLES), observations=MIN_OBSERVATIONS),
        )
        assert whole is not None and late is not None
        assert silence(known.absorb(late).ages_3C, window) == silence(known.absorb(whole).ages_3C, window)
        assert late.samples_T.sum() == whole.samples_T.sum() and np.array_equal(late.last_C, whole.last_C)


def test_a_look_costs_the_same_however_long_no_step_has_been_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, counted, add = Bench(window=640), [], Memory.evidence_with

    def counting(self: Memory, known: Known, seen: Openings) -> UnitEvidence:
        counted.append(len(seen.stamps_T))
        return add(self, known, seen)

    bench.record(0)
    monkeypatch.setattr(Memory, "evidence_with", counting)
    looks(bench, [9] * 500)
    assert len(counted) == 500 and max(counted) == 640 // BATCH + 1, "a window, and one for all before it"
    recent = cast(Recent, bench.site.recent)
    assert len(recent.times()[0]) == 500, "a recorded step is told each"


def test_no_units_are_no_silence() -> None:
    assert silence(np.zeros((3, 0)), 2048) == (0.0, 0.0, 0.0, 0.0, 0.0)


def modes(options: Options, steps: int, heed: dict[int, dict[str, bool]] | None = None) -> list[str]:
    schedule, found = Schedule(options, lambda: 0.0), []
    for step in range(steps):
        found.append(schedule.decide(step))
        if heed and step in heed:
            schedule.heed(step, **heed[step])
    return found


def test_the_first_steps_are_watched_one_by_one_then_every_fourth() -> None:
    said = modes(Options(max_overhead=None, attentive=True), 200)
    assert said[1:ATTENTIVE_STEPS] == ["record" if step == 50 else "watch" for step in range(1, ATTENTIVE_STEPS)]
    assert [i for i, mode in enumerate(said) if mode == "watch" and i >= ATTENTIVE_STEPS + 4] == [
        i for i in range(ATTENTIVE_STEPS + 4, 200) if i % 4 == 0 and i % 50
    ]


def test_a_budget_that_knows_no_bare_step_yet_leaves_one_of_four_alone() -> None:
    assert modes(Options(), 5) == ["record", "watch", "watch", "off", "watch"]


def test_a_closer_look_watches_every_step_for_a_while() -> None:
    said = modes(Options(max_overhead=None, attentive=True), 300, {104: {"closer": True, "record": False}})
    assert "off" not in said[105 : 105 + ATTENTIVE_STEPS]
    assert "off" in said[105 + ATTENTIVE_STEPS : 115 + ATTENTIVE_STEPS]


def test_a_verdict_that_is_due_is_given_at_the_next_step_but_not_right_after_another() -> None:
    due = {"closer": False, "record": True}
    options = Options(max_overhead=None, attentive=True)
    recorded = [i for i, mode in enumerate(modes(options, 101, {80: due})) if mode == "record"]
    assert recorded == [0, 50, 81, 100]
    recorded = [i for i, mode in enumerate(modes(options, 101, {52: due})) if mode == "record"]
    assert recorded == [0, 50, 50 + RECORD_GAP_STEPS, 100]


def test_nothing_is_recorded_after_the_end_whatever_a_look_asks_for() -> None:
    options = Options(max_overhead=None, attentive=True, end_step=60)
    assert set(modes(options, 80, {58: {"closer": True, "record": True}})[60:]) == {"off"}


def test_ranks_that_merge_keep_to_the_intervals_they_agreed_on() -> None:
    schedule = Schedule(Options(), lambda: 0.0)
    schedule.agree({"record": 50, "watch": 6})
    said = [schedule.decide(step) for step in range(17)]
    assert said == ["record", *(["off"] * 7 + ["watch"]) * 2], "6 steps, on the grid of 4"


def test_without_a_budget_intervals_are_as_given_unless_attention_is_asked_for() -> None:
    assert modes(Options(max_overhead=None), 5) == ["record", "off", "off", "off", "watch"]
    assert modes(Options(attentive=False), 5) == ["record", "off", "off", "off", "watch"]


def test_attentive_must_be_true_false_or_none() -> None:
    with pytest.raises(ConfigError, match="attentive must be True or False"):
        Monitor(nn.Linear(2, 2), attentive="yes")


def killed_at(step: int, *, units: int = 24, seldom: int = 0, **options: Any) -> tuple[list[Snapshot], Monitor]:
    """A layer of 32 ReLUs of which `units` are closed for every input from `step` on; one batch of 32 a step.

    The last `seldom` open for one sample in 20 batches, from the first step on.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    first, optimizer = cast(nn.Linear, model[0]), torch.optim.SGD(model.parameters(), lr=1e-3)
    with torch.no_grad():
        first.weight[32 - seldom :] = torch.eye(8)[0]
        first.bias[32 - seldom :] = -10.0
    with Monitor(model, optimizer, **options) as monitor:
        for now in range(220):
            if now == step:
                with torch.no_grad():
                    first.bias[:units] = -1e3
            x = torch.randn(32, 8)
            x[0, 0] = 20.0 if seldom and now % 20 == 10 else 0.0
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), torch.randint(4, (32,))).backward()
            optimizer.step()
    return monitor.snapshots, monitor


@pytest.mark.parametrize("step", [7, 107, 133])
def test_units_that_die_between_two_recorded_steps_are_told_within_25_steps(step: int) -> None:
    _, monitor = killed_at(step, max_overhead=None, attentive=True)
    told = [f for f in monitor.findings if f.rule == "dead-units"]
    assert [f.layer for f in told] == ["1"]
    assert step + 16 <= told[0].step <= step + 25
    assert told[0].evidence["dead_units"] + told[0].evidence["suspect_units"] == 24


@pytest.mark.parametrize("seldom,windows", [(0, 1), (1, 2)])
def test_of_few_units_just_enough_are_told_after_two_windows_where_one_opens_seldom(seldom: int, windows: int) -> None:
    """15 of 32 units: windows of 64 batches end at step 70 and 134; the next recorded steps would be 100 and 150."""
    _, monitor = killed_at(7, units=15, seldom=seldom, max_overhead=None, attentive=True, watch_every_n_steps=1)
    (told,) = (f for f in monitor.findings if f.rule == "dead-units")
    due = 6 + 64 * windows
    assert told.severity == "warning" and due <= (told.severity_step or told.step) <= due + 6


def test_without_attention_they_wait_for_the_next_recorded_step() -> None:
    snapshots, monitor = killed_at(107, max_overhead=None)
    assert [s.step for s in snapshots] == [0, 50, 100, 150, 200]
    assert [f.step for f in monitor.findings if f.rule == "dead-units"] == [200], "only 11 batches were seen until 150"


def outliers(until: int) -> list[int]:
    """When dead-units is told of 24 ReLUs; 22 open for one sample in 20 batches from step 60 on, then for none."""
    model = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 1))
    first, optimizer = cast(nn.Linear, model[0]), torch.optim.SGD(model.parameters(), lr=0.0)
    with torch.no_grad():
        first.weight[:] = torch.tensor([0.0, 2.0])
        first.bias[:] = 1.0
    options = {"max_overhead": None, "attentive": True, "watch_every_n_steps": 1}
    with Monitor(model, optimizer, **cast(Any, options)) as monitor:
        for now in range(340):
            with torch.no_grad():
                first.bias[:22] = 1.0 if now < 60 else -1.0 if now < until else -9.0
            x = torch.zeros(32, 2)
            x[0, 1] = float(now % 20 == 10)
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    return [f.step for f in monitor.findings if f.rule == "dead-units"]


def test_a_layer_that_falls_silent_revives_and_falls_silent_again_is_told_when_it_stays_so() -> None:
    (told,) = outliers(until=200)
    assert 200 + 48 <= told <= 200 + 66, "it came back from 19 batches: three times as many, or the window of 64"


def test_a_layer_that_goes_on_to_open_for_rare_samples_is_not_told() -> None:
    assert outliers(until=340) == []


def test_a_layer_that_falls_silent_at_once_does_not_wait_for_anything() -> None:
    (told,) = outliers(until=60)
    assert 60 + 16 <= told <= 60 + 22


def test_attention_does_not_touch_the_training() -> None:
    def trained(**options: Any) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        with Monitor(model, optimizer, **options):
            for _ in range(90):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(4, (16,))).backward()
                optimizer.step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    plain = trained(max_overhead=None, attentive=False)
    assert torch.equal(plain, trained(max_overhead=None, attentive=True))
