"""Forecasts of death from firing rates: right on a known drift, silent without one, the same in halves and in sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from actdiag import Finding, Monitor
from actdiag.collect.recent import Openings, stamp
from actdiag.collect.trend import KEPT_BINS, LEAST_BINS, Floats, Forecast, Trend, _distances
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.dying import dying_units
from actdiag.snapshot import SiteStats, Snapshot

WINDOW = 2048
GOAL = 2.9751
"""The spreads at which a unit fires on 3 of 2,048 samples."""
ALL = np.ones(200, dtype=np.bool_)


def rate(z: Floats | float) -> Floats:
    return np.vectorize(math.erfc)(np.asarray(z) / math.sqrt(2)) / 2


def seen(
    steps: Sequence[int], distance: Callable[[int], Floats | float], units: int, samples: int, seed: int = 0
) -> Openings:
    """What is observed of units whose pre-activations lie so many spreads below the threshold at each step."""
    random = np.random.default_rng(seed + steps[0])
    opens = sum(random.binomial(samples, rate(distance(step)), units) for step in steps)
    stamps = np.array([stamp(step, 0) for step in steps])
    return Openings(
        stamps, np.full(len(steps), float(samples)), np.asarray(opens, np.float64), stamps[-1:].repeat(units)
    )


def trend(bins: int, distance: Callable[[int], float], *, units: int = 200, samples: int = 32, seed: int = 0) -> Trend:
    found = Trend()
    for k in range(bins):
        found = found.add(seen(range(50 * k, 50 * k + 50, 2), distance, units, samples, seed)).close()
    return found


@pytest.mark.parametrize("speed", [0.008, 0.01])
def test_a_steady_drift_is_forecast_to_the_step(speed: float) -> None:
    found = trend(5, lambda step: speed * step).forecast(ALL, WINDOW)
    assert found is not None and found.units >= 190, "of 200"
    assert found.step is not None and found.earliest_step is not None and found.latest_step is not None
    assert found.earliest_step < found.step < found.latest_step
    assert found.step == pytest.approx(GOAL / speed, rel=0.06)


def fading(seed: int) -> Trend:
    """Of 200 units each falls at a speed of its own; at step 250 the lines of some have crossed."""
    random = np.random.default_rng(seed)
    speed_C, found = random.uniform(0.008, 0.016, 200), Trend()
    for k in range(5):
        steps = range(50 * k, 50 * k + 50, 2)
        found = found.add(seen(steps, lambda step: speed_C * step, 200, 64, seed)).close()
    return found


@pytest.mark.parametrize("seed", range(4))
def test_no_forecast_lies_in_the_past(seed: int) -> None:
    found = fading(seed)
    for later in (249, 280, 320, 1000):
        told = found.forecast(ALL, WINDOW)
        assert told is not None and told.units >= 40 and told.step is not None
        assert told.earliest_step is not None and told.latest_step is not None
        assert found.last_step < told.earliest_step <= told.step <= told.latest_step
        found = found.add(seen([later], lambda _: 2.9, 200, 64))
        assert found.last_step == later


def test_units_whose_line_has_crossed_are_still_dying() -> None:
    """They are called silent later; until then nothing has come to an end."""
    found = fading(0)
    before = found.forecast(ALL, WINDOW)
    later = found.add(seen([400], lambda _: 2.9, 200, 64)).forecast(ALL, WINDOW)
    assert before is not None and later == Forecast(before.units, 401, 401, 401)


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.5, 2.5])
def test_a_rate_that_stays_is_no_trend(level: float) -> None:
    for seed in range(5):
        found = trend(KEPT_BINS, lambda _: level, seed=1000 * seed).forecast(ALL, WINDOW)
        assert found is not None and found.units <= 1, "of 200, by chance"


def test_a_rate_that_rises_is_no_death() -> None:
    assert trend(6, lambda step: 2.5 - 0.005 * step).forecast(ALL, WINDOW) == Forecast(0)


def test_a_drift_that_ends_beyond_what_was_seen_is_not_told() -> None:
    assert trend(5, lambda step: 0.003 * step).forecast(ALL, WINDOW) == Forecast(0)


def test_a_rate_that_has_come_to_rest_is_no_forecast() -> None:
    found = trend(8, lambda step: min(1.2, 0.008 * step)).forecast(ALL, WINDOW)
    assert found is not None and found.units <= 2


def test_a_rate_that_has_turned_is_no_forecast() -> None:
    found = trend(6, lambda step: 0.01 * step if step < 250 else 1.9).forecast(ALL, WINDOW)
    assert found is not None and found.units <= 2


@pytest.mark.parametrize("level", [0.0, 1.0, -1.5, 2.0])
def test_a_rate_weighs_what_it_is_known_by(level: float) -> None:
    n = 2000
    opens = np.random.default_rng(0).binomial(n, rate(level), 20_000).astype(np.float64)
    z, weight = _distances(opens[None], np.array([float(n)]))
    assert z.mean() == pytest.approx(-level, abs=0.02)
    assert 1 / weight.mean() == pytest.approx(z.var(), rel=0.1)


def test_fewer_than_four_bins_say_nothing() -> None:
    assert trend(LEAST_BINS - 1, lambda step: 0.01 * step).forecast(ALL, WINDOW) is None
    assert Trend().forecast(ALL[:0], WINDOW) is None


def test_only_living_units_are_asked_for() -> None:
    found = trend(5, lambda step: 0.01 * step)
    assert found.forecast(~ALL, WINDOW) == Forecast(0)
    half = ALL.copy()
    half[:100] = False
    told = found.forecast(half, WINDOW)
    assert told is not None and 90 <= told.units <= 100


@pytest.mark.parametrize("level", [40.0, -40.0])
def test_units_that_never_or_always_open_give_finite_numbers(level: float) -> None:
    assert trend(6, lambda _: level).forecast(ALL, WINDOW) == Forecast(0)


def test_a_layer_without_units_has_no_forecast_and_raises_nothing() -> None:
    assert trend(5, lambda step: 0.01 * step, units=0).forecast(ALL[:0], WINDOW) == Forecast(0)


def test_halves_add_up_to_the_same_bin_and_nothing_seen_adds_nothing() -> None:
    whole = seen(range(0, 40, 2), lambda _: 1.0, 6, 32)
    parts = [
        Openings(whole.stamps_T[:7], whole.samples_T[:7], np.zeros(6), whole.last_C),
        Openings(whole.stamps_T[7:], whole.samples_T[7:], whole.opens_C, whole.last_C),
    ]
    nothing = Openings(whole.stamps_T[:0], whole.samples_T[:0], np.zeros(6), whole.last_C)
    once, twice = Trend().add(whole).close(), Trend().add(parts[0]).add(nothing).add(parts[1]).close()
    assert np.array_equal(once.bins[0].opens_C, twice.bins[0].opens_C)
    assert [(b.samples, b.moment, b.first, b.last) for b in once.bins] == [
        (b.samples, b.moment, b.first, b.last) for b in twice.bins
    ]


def test_a_bin_is_kept_open_until_it_tells_a_rate() -> None:
    few = Trend().add(seen(range(0, 40, 2), lambda _: 1.0, 4, 2)).close()
    assert few.bins == () and few.filling is not None and few.filling.samples == 40
    short = Trend().add(seen([0], lambda _: 1.0, 4, 10_000)).close()
    assert short.bins == (), "one step is no stretch of time"


def test_what_is_saved_goes_on_as_if_nothing_had_been() -> None:
    full = trend(9, lambda step: 0.006 * step).add(seen([460, 462], lambda _: 2.8, 200, 32))
    again = Trend.restored(full.state(), 200)
    assert len(again.bins) == KEPT_BINS and again.filling is not None
    assert again.close().forecast(ALL, WINDOW) == full.close().forecast(ALL, WINDOW)


@pytest.mark.parametrize("change", [{"samples": 0}, {"samples": math.nan}, {"opens": torch.zeros(3)}, {"first": "x"}])
def test_another_state_is_refused(change: dict[str, object]) -> None:
    state = trend(4, lambda _: 1.0, units=5).state()
    state["bins"][0] |= change
    with pytest.raises(ValueError):
        Trend.restored(state, 5)


def site(**values: object) -> SiteStats:
    given = {"units": 40, "dead_units": 0, "suspect_units": 0, "dying_units": 20, "dying_step": 300, "grad_rms": 1e-3}
    return SiteStats(kind="ReLU", role="activation", order=1, **{**given, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values,told",
    [
        ({}, True),
        ({"dying_units": None, "dying_step": None}, False),
        ({"units": 0}, False),
        ({"dying_units": 17}, False),
        ({"dying_units": 18}, True),
        ({"dying_units": 10, "suspect_units": 8}, True),
        ({"dying_units": 7, "dead_units": 12}, False),
        ({"dying_units": 20, "dead_units": 18}, False),
        ({"units": 8, "dying_units": 7}, False),
        ({"units": 8, "dying_units": 8}, True),
        ({"saturated_low": 0.1, "saturated_high": 0.1}, False),
        ({"grad_rms": math.nan}, True),
    ],
)
def test_a_forecast_is_told_where_a_layer_will_be_dead_and_is_not_yet(values: dict[str, object], told: bool) -> None:
    verdicts = list(dying_units([Snapshot(step=200, sites={"act": site(**values)})], Limits()))
    assert [(v.layer, v.severity) for v in verdicts] == ([("act", "info")] if told else [])
    assert not told or (verdicts[0].evidence["lead_steps"] == 100 and "step 300" in verdicts[0].message)


def test_a_forecast_speaks_of_the_rate_and_not_of_the_verdict_that_follows() -> None:
    verdict = next(dying_units([Snapshot(step=200, sites={"act": site()})], Limits()))
    assert "half of them open for fewer than 3 samples of a whole window by step 300" in verdict.message
    assert "dead" not in verdict.message
    manual = " ".join((dying_units.__doc__ or "").split())
    assert "called dead after a whole silent window more" in manual and "two ends" in manual


@pytest.mark.parametrize("role", ["gate", "input"])
def test_gates_and_inputs_die_not(role: str) -> None:
    snapshot = Snapshot(step=200, sites={"act": replace(site(), role=role)})  # type: ignore[arg-type]
    assert list(dying_units([snapshot], Limits())) == []


def driven(speed: float) -> list[Finding]:
    """The biases of 40 of 64 ReLUs fall by so many spreads of their pre-activations a step; nothing else changes."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64)
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Monitor(model, optimizer, max_overhead=None, attentive=True, log_every_n_steps=25) as monitor:
        for step in range(420):
            with torch.no_grad():
                layer.bias[:40] = -speed * step * layer.weight[:40].norm(dim=1)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(64, 64)), torch.randint(4, (64,))).backward()
            optimizer.step()
    return [f for f in monitor.findings if f.rule in ("dying-units", "dead-units")]


def test_a_forecast_comes_before_the_death_it_speaks_of_and_is_over_with_it() -> None:
    told = driven(0.012)
    assert told[0].rule == "dying-units" and told[0].layer == "1"
    death = GOAL / 0.012
    assert told[0].step < death - 25
    assert told[0].evidence["dying_step"] == pytest.approx(death, rel=0.1)
    dead = [f for f in told if f.rule == "dead-units" and f.severity != "info"]
    assert dead and dead[0].step > told[0].step and told[0].resolved_step is not None


def test_units_that_stay_are_told_nothing_of() -> None:
    assert driven(0.0) == []
