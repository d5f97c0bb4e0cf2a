"""Each rule: fires, stays silent, survives anything. Snapshots are built by hand; no torch here."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import fields, replace
from itertools import product
from typing import Any

import pytest

from actdiag.diagnose.finding import Verdict
from actdiag.diagnose.judge import RULES
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.gradients import gradient_ratio
from actdiag.diagnose.rules.reading import layers, percent
from actdiag.snapshot import ParameterStats, SiteStats, Snapshot

INF = math.inf


def site(kind: str = "ReLU", role: Any = "activation", **values: Any) -> SiteStats:
    return SiteStats(kind=kind, role=role, order=0, **{"n": 6400, "samples": 100, "nonfinite": 0, **values})


def units(dead: int, of: int = 64, **values: Any) -> SiteStats:
    shares = {"units": of, "dead_units": dead, "dead_fraction": dead / of, "suspect_units": 0, "evidence_samples": 2048}
    return site(**{**shares, **values})


def few(seldom: int | None, dead: int, of: int = 16, **values: Any) -> SiteStats:
    """A layer of few units that have not been silent for two windows."""
    return units(dead, of, seldom_units=seldom, **{"double_window_units": 0, **values})


def flat(share: float, kind: str = "Tanh", role: str = "activation", **values: Any) -> SiteStats:
    ends = {"saturated_fraction": share, "saturated_low": share / 2, "saturated_high": share / 2}
    return site(kind, role, **{**ends, **values})


def snapshot(sites: dict[str, SiteStats], step: int = 0, **values: Any) -> Snapshot:
    ordered = {name: replace(s, order=i) for i, (name, s) in enumerate(sites.items())}
    return Snapshot(step=step, sites=ordered, sites_selected=len(sites), **values)


def judge(slug: str, *history: Snapshot) -> list[Verdict]:
    return list(RULES[slug](list(history), Limits()))


def one(slug: str, *history: Snapshot) -> Verdict:
    (verdict,) = judge(slug, *history)
    assert_can_be_acted_on(slug, verdict)
    return verdict


def assert_can_be_acted_on(slug: str, verdict: Verdict) -> None:
    """One line with the numbers, a cause, and imperatives in order."""
    assert verdict.rule == slug and verdict.source and verdict.cause and verdict.advice
    assert "\n" not in verdict.message and re.search(r"\d|no gradient", verdict.message)
    assert verdict.layer in verdict.message and "healthy" in verdict.evidence
    assert not verdict.cause.endswith(".") and not verdict.message.endswith(".")
    for advice in verdict.advice:
        assert advice.split()[0] in IMPERATIVES, advice
        assert not advice.endswith(".")


IMPERATIVES = {
    *("add", "center", "check", "clip", "compute", "cure", "go", "guard", "initialize", "keep", "leave", "let", "look"),
    *(
        "lower",
        "put",
        "record",
        "remove",
        "restart",
        "return",
        "shorten",
        "standardize",
        "subtract",
        "try",
        "use",
        "watch",
    ),
}


def grow(first: float, last: float, **values: Any) -> dict[str, SiteStats]:
    """Eight sites whose gradients run from `first` at the input to `last` at the loss, geometrically."""
    steps = [first * (last / first) ** (i / 7) if first and last else (first if i < 4 else last) for i in range(8)]
    return {f"act{i}": site(**{"grad_rms": g, "grad_nonfinite": 0, **values}) for i, g in enumerate(steps)}


INPUT = site("Linear", "input", mean=0.0, std=1.0, rms=1.0, mean_energy=0.02)
RAW_INPUT = site("Linear", "input", mean=8.0, std=5.0, rms=9.4, mean_energy=0.7)
HEALTHY = snapshot(
    {
        "fc0:in": INPUT,
        "fc0": site("Linear", "layer", grad_rms=1e-3),
        "act0": units(2, grad_rms=1e-3, zero_fraction=0.85, mean_energy=0.8),
        "act1": flat(0.25, grad_rms=1.2e-3),
        "act2": site("LeakyReLU", grad_rms=8e-4),
        "gate": flat(1.0, "Hardsigmoid", "gate", grad_rms=0.0),
        "fc2": site("Linear", "layer", grad_rms=1e-3),
        "out": flat(0.93, "Sigmoid", "output", grad_rms=1e2),
    },
    parameters={"fc0.weight": ParameterStats(state="trained", weight_norm=3.0, grad_norm=0.1, update_ratio=1e-3)},
    grad_norm_total=0.1,
)
ILL = snapshot(
    {
        "fc0:in": site("Linear", "input", mean=8.0, std=1.0, rms=8.1, mean_energy=0.98),
        "fc0": site("Linear", "layer", grad_rms=1e-9),
        "act0": units(60, grad_rms=1e-9),
        "act1": flat(0.9, grad_rms=1e-6),
        "act1#0": flat(0.9, grad_rms=1e-6),
        "out": site("Linear", "layer", grad_rms=1e-1, nonfinite=1, grad_nonfinite=1),
    },
    parameters={"fc0.weight": ParameterStats(state="trained", weight_norm=INF, grad_norm=INF)},
    grad_norm_total=1e3,
)
EMPTY = snapshot({})


@pytest.mark.parametrize("slug", RULES)
def test_a_healthy_run_is_left_alone(slug: str) -> None:
    for n in range(1, 20):
        assert judge(slug, *(replace(HEALTHY, step=i) for i in range(n))) == []


@pytest.mark.parametrize("slug", RULES)
def test_nothing_is_said_of_nothing(slug: str) -> None:
    assert judge(slug, EMPTY) == []
    assert judge(slug, *[EMPTY] * 8) == []
    assert judge(slug, snapshot({"a": SiteStats(kind="ReLU", role="activation", order=0)})) == []
    blank = {f"s{i}": site(n=0, samples=0, units=0, dead_units=0) for i in range(8)}
    assert judge(slug, *[snapshot(blank)] * 8) == []


@pytest.mark.parametrize("slug", RULES)
@pytest.mark.parametrize("value", [None, math.nan, INF, -INF, 0, -1, 1e30, 1e-40])
@pytest.mark.parametrize("base", [HEALTHY, ILL], ids=["healthy", "ill"])
def test_no_value_in_any_field_makes_a_rule_raise(slug: str, value: Any, base: Snapshot) -> None:
    for name, s in with_every_field(value, SiteStats, base.sites):
        odd = replace(base, sites={**base.sites, name: s}, grad_norm_total=value, clip_coefficient=value)
        judge(slug, *[base] * 3, odd)
        judge(slug, *[odd] * 7)
        judge(slug, odd, replace(odd, loss_scale=value))
    for name, p in with_every_field(value, ParameterStats, base.parameters):
        judge(slug, *[replace(base, parameters={name: p})] * 3)


def with_every_field(value: Any, kind: type, items: Any) -> list[tuple[str, Any]]:
    """Each item with each of its numbers replaced."""
    specs = [spec for spec in fields(kind) if "doc" in spec.metadata]
    return [
        (name, replace(item, **{spec.name: fit(value, spec)})) for (name, item), spec in product(items.items(), specs)
    ]


def fit(value: Any, spec: Any) -> Any:
    """The nearest value that a count can have."""
    if spec.metadata["kind"] != "int" or value is None:
        return value
    return 0 if math.isnan(value) else int(min(max(value, 0), 10**9))


@pytest.mark.parametrize("slug", RULES)
def test_sites_may_come_and_go(slug: str) -> None:
    other = snapshot({"new": units(1, grad_rms=1.0)})
    assert judge(slug, HEALTHY, other, HEALTHY) == []
    for history in ((other, ILL, EMPTY), (EMPTY, ILL), (ILL, HEALTHY), (HEALTHY, EMPTY, ILL, other, ILL)):
        judge(slug, *history)


@pytest.mark.parametrize("slug", RULES)
def test_the_docstring_of_a_rule_is_its_manual(slug: str) -> None:
    manual = inspect.getdoc(RULES[slug]) or ""
    found = re.findall(r"^([A-Z][a-z ]+): (?=\S)", manual, re.MULTILINE)
    assert found == ["What", "Why", "Not a problem when", "What to try", "Source"]


# non-finite


def test_non_finite_names_the_producer_and_not_what_passes_it_on() -> None:
    sites = {
        "fc0": site("Linear", "layer"),
        "act0": site("Softplus", nonfinite=5),
        "fc1": site("Linear", "layer", nonfinite=9),
    }
    verdict = one("non-finite", snapshot(sites))
    assert verdict.layer == "act0" and verdict.severity == "error"
    assert "5 of 6400" in verdict.message and "Softplus" in verdict.cause


def test_non_finite_inputs_and_weights_are_told_as_the_cause() -> None:
    verdict = one("non-finite", snapshot({"fc0:in": site("Linear", "input", nonfinite=1), "fc0": site(nonfinite=9)}))
    assert verdict.layer == "fc0" and "data" in verdict.cause
    broken = {"fc0.weight": ParameterStats(state="trained", weight_norm=INF)}
    verdict = one("non-finite", snapshot({"fc0#1": site("Linear", "layer", nonfinite=9)}, parameters=broken))
    assert "fc0.weight are not finite: an update broke" in verdict.cause and "before this step" in verdict.advice[0]


def test_weights_that_broke_between_two_snapshots_are_told_with_the_last_healthy_step() -> None:
    def at(step: int, *norms: float) -> Snapshot:
        parameters = {f"fc{i}.weight": ParameterStats(state="trained", weight_norm=n) for i, n in enumerate(norms)}
        bad = 9 if INF in norms else 0
        return snapshot(
            {f"fc{i}": site("Linear", "layer", nonfinite=bad) for i in range(3)}, step, parameters=parameters
        )

    verdict = one("non-finite", at(40, 1.0, 1.0, 1.0), at(50, INF, INF, INF))
    assert "fc0.weight and 2 other parameters are not finite: an update after step 40" in verdict.cause
    assert "of step 40 or before" in verdict.advice[0] and "log_every_n_steps=1" in verdict.advice[1]
    single = one("non-finite", at(40, 1.0, 1.0, 1.0), at(50, INF, 1.0, 1.0))
    assert "fc0.weight are not finite: an update after step 40" in single.cause and len(single.advice) == 3


BACKWARD = {"a": site(grad_nonfinite=9), "b": site(grad_nonfinite=3), "c": site(grad_nonfinite=0, grad_rms=1.0)}


def test_a_gradient_that_is_not_finite_is_named_where_it_is_born() -> None:
    verdict = one("non-finite", snapshot(BACKWARD, grad_norm_total=INF))
    assert (verdict.layer, verdict.severity) == ("c", "error")
    assert "c: its backward makes 3 of 6400 gradient values at the output of b" in verdict.message
    loss = one("non-finite", snapshot({"a": site(grad_nonfinite=9), "b": site(grad_nonfinite=3)}, grad_norm_total=INF))
    assert loss.layer == "b" and "the loss" in loss.cause


def test_a_gradient_that_is_not_finite_but_reaches_no_weight_is_a_warning() -> None:
    verdict = one("non-finite", snapshot(BACKWARD, grad_norm_total=1.0))
    assert verdict.severity == "warning" and "none of it reached a parameter" in verdict.message


def test_a_loss_scaler_may_overflow_now_and_then_but_not_always() -> None:
    scaled = snapshot(BACKWARD, loss_scale=65536.0)
    calm = snapshot({}, loss_scale=65536.0)
    for history in ([scaled], [scaled, calm, scaled], [scaled, scaled]):
        verdict = one("non-finite", *history)
        assert verdict.severity == "info" and "skips this step" in verdict.cause
    verdict = one("non-finite", scaled, scaled, scaled)
    assert verdict.severity == "error" and "does not find a scale" in verdict.cause


@pytest.mark.parametrize("field,said", [("grad_norm", "gradient holds"), ("weight_norm", "weights hold")])
def test_what_no_site_has_shown_is_found_in_the_parameters(field: str, said: str) -> None:
    broken = {f"fc{i}.weight": ParameterStats(state="trained", **{field: INF if i else 1.0}) for i in range(3)}
    verdict = one("non-finite", snapshot({"act": site()}, parameters=broken))
    assert (verdict.layer, verdict.severity) == ("fc2", "error")
    assert said in verdict.message and "1 other parameters" in verdict.message
    scaled = one("non-finite", snapshot({"act": site()}, parameters=broken, loss_scale=2.0))
    assert scaled.severity == ("info" if field == "grad_norm" else "error")


# dead-units


@pytest.mark.parametrize(
    "stats,severity",
    [
        (units(10), None), (units(14), "info"), (units(24), "info"), (units(29), "warning"), (units(32), "error"),
        (units(0, suspect_units=37), None), (units(0, suspect_units=39), None), (units(0, suspect_units=40), "warning"),
        (units(10, suspect_units=30), "warning"), (units(10, suspect_units=29), None),
        (units(0, suspect_units=33, half_window_units=32), None),
        (units(0, suspect_units=33, half_window_units=33), "warning"),
        (few(1, 7, suspect_units=1, half_window_units=8), "info"),  # one that opens again, and it is no warning
        (few(1, 7, suspect_units=2, half_window_units=9), "warning"),
        (few(1, 0, suspect_units=10), None), (few(1, 0, suspect_units=11), "warning"),
        (few(0, 8), "error"), (few(1, 8), "info"), (few(1, 9), "error"), (few(2, 9), "info"), (few(2, 10), "error"),
        (few(9, 10), "error"),  # two at most are taken for rare
        (few(0, 7), "info"), (few(0, 15, 32), "warning"), (few(1, 15, 32), "info"), (few(1, 16, 32), "warning"),
        (few(9, 8, double_window_units=8), "error"), (few(9, 15, 32, double_window_units=15), "warning"),
        (few(9, 16, 33), "warning"),  # of so many none
        (few(0, 0, suspect_units=9, half_window_units=9), "warning"),  # early, one is in any case
        (few(1, 0, suspect_units=9, half_window_units=9), "warning"),
        (few(2, 0, suspect_units=9, half_window_units=9), None),
        (few(2, 0, suspect_units=11), None), (few(2, 0, suspect_units=12), "warning"),
        (few(None, 8), "info"), (few(None, 10), "error"), (few(None, 0, suspect_units=11), None),  # an older log
        (few(None, 8, double_window_units=None), "error"),  # and one that is older still
        (units(0, suspect_units=40, flickering_units=11), "warning"),  # of the 24 that open, most are alive
        (units(0, suspect_units=40, flickering_units=12), None), (units(29, flickering_units=35), "warning"),
        (units(0, suspect_units=62, flickering_units=5), "warning"),  # so many are silent that some may open again
        (units(0, suspect_units=62, flickering_units=12), None),
        (units(0, suspect_units=33, half_window_units=33, flickering_units=15), "warning"),
        (units(0, suspect_units=33, half_window_units=33, flickering_units=16), None),
        (units(2, 8, suspect_units=6, flickering_units=6), "warning"),  # nearly all of a narrow layer
        (units(8, 15, suspect_units=5, half_window_units=13), None),
        (units(3, 8), None), (units(6, 8), None), (units(8, 8), "error"), (units(2, 8, suspect_units=6), "warning"),
        (units(15, 16), "error"), (units(13, 15), None),
        (units(1, 1, role="output"), "error"), (units(40, role="output"), None), (units(60, role="output"), "error"),
        (units(60, role="gate"), None),
        (site(units=64, dead_units=None, dead_fraction=None), None),
    ],
)  # fmt: skip
def test_dead_units_by_share_width_and_role(stats: SiteStats, severity: str | None) -> None:
    told = judge("dead-units", snapshot({"act": stats}))
    assert [v.severity for v in told] == ([severity] if severity else [])


@pytest.mark.parametrize(
    "stats,severity",
    [
        (few(4, 7, suspect_units=3, half_window_units=10), "info"),
        (few(4, 7, suspect_units=4, half_window_units=11), "warning"),
        (few(4, 0, suspect_units=12), None), (few(4, 0, suspect_units=13), "warning"),
        (few(4, 10), "info"), (few(4, 11), "error"), (few(2, 10), "error"),
        (few(4, 8, double_window_units=8), "error"), (units(29, double_window_units=0), "warning"),
    ],
)  # fmt: skip
def test_more_of_few_units_may_be_rare_where_the_limits_say_so(stats: SiteStats, severity: str | None) -> None:
    found = list(RULES["dead-units"]([snapshot({"act": stats})], Limits(dead_few_spare=3)))
    assert [v.severity for v in found] == ([severity] if severity else [])


def bounded(dead: int, of: int = 64, low: float = 0.5, high: float = 0.5, **values: Any) -> SiteStats:
    ends = {"saturated_fraction": low + high, "saturated_low": low, "saturated_high": high}
    return units(dead, of, **{"kind": "Tanh", **ends, **values})


@pytest.mark.parametrize(
    "stats,told",
    [
        (bounded(64, mean_energy=0.02), False),  # closed, but from end to end: it has decided
        (bounded(64, mean_energy=0.95), True),  # closed, and constant
        (bounded(64, low=1.0, high=0.0, mean_energy=None), True),
        (bounded(10, 10, role="output", mean_energy=1.0), False),
        (bounded(10, 10, low=1.0, high=0.0, role="output"), True),
        (bounded(600, 600, low=1.0, high=0.0, role="output"), False),  # rare labels, border pixels
        (units(64, kind="ReLU6", saturated_low=None, saturated_high=0.0, saturated_fraction=0.0), True),
    ],
)
def test_closed_units_of_a_bounded_activation_are_dead_only_if_they_are_constant(stats: SiteStats, told: bool) -> None:
    assert bool(judge("dead-units", snapshot({"act": stats}))) == told


def test_dead_units_state_the_bound_and_name_the_units() -> None:
    verdict = one("dead-units", snapshot({"act": units(40, unit_states="d" * 40 + "a" * 24, first_death_step=120)}))
    assert "40 of 64 ReLU units (62%)" in verdict.message
    assert "last 2048 samples" in verdict.message and "0.15%" in verdict.message
    assert verdict.evidence["units_dead"] == list(range(32))
    early = one("dead-units", snapshot({"act": units(0, suspect_units=40)}))
    assert "silent for at least 300 samples, none of them yet" in early.message and early.severity == "warning"
    half = one("dead-units", snapshot({"act": units(1, suspect_units=32, half_window_units=33)}))
    assert "at least 300 samples, 33 for half of the evidence window, 1 of them for the whole" in half.message
    assert half.evidence["half_window_units"] == 33 and half.evidence["flickering_units"] == 0
    assert "1 of them for the whole" in one("dead-units", snapshot({"act": units(1, suspect_units=40)})).message


def test_dead_units_state_the_limits_they_are_judged_by() -> None:
    found = list(RULES["dead-units"]([snapshot({"act": units(40)})], Limits(dead_warning=0.3, dead_narrow=0.8)))
    assert "below 0.3," in found[0].evidence["healthy"] and "below 0.8" in found[0].evidence["healthy"]


def test_dead_units_tell_what_killed_them() -> None:
    raw = one("dead-units", snapshot({"fc0:in": RAW_INPUT, "act": units(40, first_death_step=0)}))
    assert "not standardized (mean 8, std 5)" in raw.cause and "standardize" in raw.advice[0]
    late = one("dead-units", snapshot({"act": units(40, first_death_step=120)}))
    assert "the first at step 120" in late.cause and "learning rate" in late.cause
    head = one("dead-units", snapshot({"out": units(1, 1, role="output", first_death_step=120)}))
    assert "output ReLU" in head.cause and "targets" in head.advice[1]


def test_units_are_called_dead_from_birth_only_if_most_of_them_can_have_been() -> None:
    def at(step: int, dead: int | None, open_share: float, suspect: int = 0) -> Snapshot:
        fraction = None if dead is None else dead / 64
        first = 0 if dead else None
        return snapshot(
            {"act": units(0, gate_mean=open_share, first_death_step=first, suspect_units=suspect)}
            if dead is None
            else {"act": units(dead, dead_fraction=fraction, gate_mean=open_share, first_death_step=first)},
            step,
        )

    assert "since the first step" in one("dead-units", at(0, 40, 0.3)).cause
    assert "since the first step" in one("dead-units", at(0, 30, 0.3), at(50, 40, 0.3)).cause
    assert "updates" in one("dead-units", at(0, 40, 0.55)).cause, "too many gates were open for that"
    assert "updates" in one("dead-units", at(0, 2, 0.3), at(50, 40, 0.3)).cause, "most died later"


def test_dead_units_of_frozen_layers_are_info() -> None:
    learning = {"head": site("Linear", "layer", grad_rms=1.0)}
    verdict = one("dead-units", snapshot({"act": units(60), **learning}))
    assert verdict.severity == "info" and "frozen" in verdict.cause
    assert one("dead-units", snapshot({"act": units(60, grad_rms=0.0), **learning})).severity == "error"
    assert one("dead-units", snapshot({"act": units(60, grad_nonfinite=3), **learning})).severity == "error"


def test_a_unit_of_a_recurrent_cell_is_dead_if_it_is_dead_at_every_time_step() -> None:
    def cell(*states: str) -> Snapshot:
        turns = {}
        for i, letters in enumerate(states):
            turns[f"rec#{i}"] = site("Linear", "layer")
            turns[f"act#{i}"] = units(letters.count("d"), len(letters), unit_states=letters)
        return snapshot(turns)

    assert judge("dead-units", cell("d" * 10 + "a" * 10, "a" * 10 + "d" * 10)) == []
    verdict = one("dead-units", cell("d" * 10 + "s" * 6 + "a" * 4, "d" * 16 + "a" * 4, "d" * 20))
    assert verdict.layer == "act" and "10 of 20" in verdict.message and verdict.evidence["suspect_units"] == 6
    assert judge("dead-units", cell("d" * 20, "d" * 10)) == [], "different widths are not one layer"


# saturated-activation


def net(*shares: float, step: int = 0, **inputs: SiteStats) -> Snapshot:
    return snapshot({**inputs, **{f"act{i}": flat(share) for i, share in enumerate(shares)}}, step)


def severities(*history: Snapshot) -> dict[str, str]:
    return {v.layer: v.severity for v in judge("saturated-activation", *history)}


def test_saturation_from_the_start_needs_two_snapshots() -> None:
    assert severities(net(0.9)) == {}
    assert severities(net(0.9), net(0.8)) == {"act0": "error"}
    assert severities(net(0.9), net(0.6)) == {"act0": "warning"}
    assert severities(net(0.9), net(0.3)) == {}
    assert severities(net(0.1, 0.9), net(0.1, 0.8)) == {"act1": "error"}


def test_saturation_in_all_layers_is_told_at_once_and_in_one_layer_as_info() -> None:
    calm = net(0.1, 0.1, 0.1)
    assert severities(calm, net(0.9, 0.9, 0.9), net(0.9, 0.8, 0.9)) == dict.fromkeys(("act0", "act1", "act2"), "error")
    assert severities(calm, net(0.1, 0.1, 0.9), net(0.1, 0.1, 0.9)) == {"act2": "info"}
    assert severities(net(0.1), net(0.8), net(0.8)) == {"act0": "info"}
    assert severities(calm, net(0.1, 0.6, 0.9), net(0.1, 0.6, 0.9)) == {"act1": "info", "act2": "info"}
    assert severities(calm, net(0.55, 0.1, 0.6), net(0.55, 0.1, 0.6)) == {"act0": "info", "act2": "info"}


def test_a_layer_that_stays_shut_has_not_decided_but_is_stuck() -> None:
    shut = [net(0.1, 0.1), *[net(0.1, 0.97)] * 6]
    assert severities(*shut) == {"act1": "error"}
    assert severities(*shut[:6]) == {"act1": "info"}
    assert severities(net(0.1, 0.1), *[net(0.1, 0.9)] * 12) == {"act1": "info"}


def test_outputs_gates_and_frozen_layers_may_saturate() -> None:
    for role in ("output", "gate"):
        now = snapshot({"act": flat(0.9, role=role)})
        assert severities(now, now) == {}
    frozen = snapshot({"act": flat(0.9), "head": site("Linear", "layer", grad_rms=1.0)})
    assert severities(frozen, frozen) == {"act": "info"}
    assert "frozen" in one("saturated-activation", frozen, frozen).cause


def test_saturation_tells_its_cause() -> None:
    start = one("saturated-activation", net(0.9), net(0.9))
    assert "90% of the Tanh outputs" in start.message and "(45% low, 45% high)" in start.message
    assert "initial weights" in start.cause and "5/3" in start.advice[0]
    inputs = {"fc:in": RAW_INPUT}
    raw = one("saturated-activation", net(0.1, **inputs), net(0.6, **inputs), net(0.6, **inputs))
    assert raw.severity == "warning" and "not standardized" in raw.cause
    trained = judge("saturated-activation", net(0.1, 0.1), net(0.9, 0.9), net(0.9, 0.9))[0]
    assert_can_be_acted_on("saturated-activation", trained)
    assert "learning rate" in trained.cause and "learning rate" in trained.advice[0]
    decided = one("saturated-activation", net(0.1, 0.1), net(0.1, 0.9), net(0.1, 0.9))
    assert "may have decided" in decided.cause
    one_end = snapshot({"act": flat(0.9, "ReLU6", saturated_low=None, saturated_high=0.9)})
    assert "(90% high)" in one("saturated-activation", one_end, one_end).message


def test_the_calls_of_a_loop_are_one_layer_and_other_calls_are_not() -> None:
    def calls(weighted: str) -> Snapshot:
        return snapshot({name: s for i in range(3) for name, s in (
            (f"{weighted}{i}", site("Linear", "layer")), (f"act#{i}", flat(0.9 if i else 0.6)))})  # fmt: skip

    looped, reused = calls("rec#"), calls("fc")
    assert [layer.name for layer in layers(looped)] == ["rec", "act"]
    assert "80% of the Tanh" in one("saturated-activation", looped, looped).message
    assert list(severities(reused, reused)) == ["act#0", "act#1", "act#2"]


# off-center


def test_only_the_networks_input_is_off_center() -> None:
    verdict = one("off-center", snapshot({"fc0:in": replace(RAW_INPUT, mean_energy=0.98)}))
    assert verdict.layer == "fc0" and "98%" in verdict.message and "mean 8, std 5" in verdict.message
    assert judge("off-center", snapshot({"act": site(mean_energy=0.99)})) == []
    assert judge("off-center", snapshot({"fc0:in": RAW_INPUT})) == []


def test_one_sample_is_all_mean_and_says_nothing() -> None:
    def batch(samples: int, energy: float) -> Snapshot:
        return snapshot({"in": site("Linear", "input", samples=samples, mean_energy=energy, mean=1.0, std=1.0)})

    assert judge("off-center", *[batch(1, 1.0)] * 64) == []
    assert judge("off-center", *[batch(2, 0.94)] * 18) == [], "0.88 without chance"
    assert judge("off-center", batch(8, 0.99)) == [], "too few samples"
    assert len(judge("off-center", *[batch(8, 0.99)] * 4)) == 1


# vanishing-gradient


def test_vanishing_must_last_longer_the_weaker_it_is() -> None:
    faint, weak = snapshot(grow(1e-8, 1e-3)), snapshot(grow(4e-7, 1e-3))
    assert judge("vanishing-gradient", faint) == []
    verdict = one("vanishing-gradient", faint, faint)
    assert verdict.severity == "error" and verdict.layer == "act0" and "too small" in verdict.cause
    assert judge("vanishing-gradient", weak, weak) == []
    assert one("vanishing-gradient", weak, weak, weak).severity == "warning"
    assert judge("vanishing-gradient", faint, snapshot(grow(1e-4, 1e-3))) == []
    assert judge("vanishing-gradient", faint, EMPTY, faint) == []
    tiny = snapshot(grow(1e-12, 2e-12))
    assert judge("vanishing-gradient", tiny, tiny, tiny) == [], "converged: all are small together"


@pytest.mark.parametrize("kind,role", [("Sigmoid", "output"), ("Softmax", "other")])
def test_an_output_that_is_sure_of_itself_is_not_a_vanishing_gradient(kind: str, role: str) -> None:
    sure = snapshot({**grow(1e-6, 1e-6), "out": flat(0.9, kind, role, grad_rms=1.0)})
    assert judge("vanishing-gradient", sure, sure, sure) == []
    assert gradient_ratio(sure) == pytest.approx(1.0)


def test_an_output_that_never_passed_a_gradient_is_named() -> None:
    blocked = snapshot({**grow(0.0, 0.0), "out": site("Softmax", "other", grad_rms=1.0)})
    verdict = one("vanishing-gradient", blocked, blocked)
    assert (verdict.layer, verdict.severity) == ("out", "error") and "softmax over a single unit" in verdict.cause
    assert judge("vanishing-gradient", snapshot(grow(1.0, 1.0)), blocked, blocked) == [], "it has converged"


CLOSED = {"act3": site(gate_mean=0.0, zero_fraction=1.0, grad_rms=1e-3)}
"""Of its units nothing is known yet."""
DEAD = {"act5": units(40, suspect_units=20, grad_rms=1e-3)}
PARAMETERS = {
    "act3.bias": ParameterStats(state="trained", weight_norm=0.0),
    "act3.weight": ParameterStats(state="trained", weight_norm=0.0),
}


@pytest.mark.parametrize(
    "now,cause,advice",
    [
        (snapshot(grow(1e-8, 1e-3, kind="Sigmoid")), "slope of at most 1/4", "use tanh"),
        (snapshot({**grow(0.0, 1e-3), **DEAD}), "94% of the units of act5", "cure the dead units first"),
        (snapshot({"in": RAW_INPUT, **grow(0.0, 1e-3), **DEAD}), "94% of the units", "cure the dead units first"),
        (snapshot(grow(1e-8, 1e-3, kind="Tanh", saturated_fraction=0.9)), "90% of act0", "cure the saturation first"),
        (snapshot({**grow(0.0, 1e-3), **CLOSED}), "the gates of act3 were closed for 100%", "lower the learning rate"),
        (
            snapshot({"in": RAW_INPUT, **grow(0.0, 1e-3), **CLOSED}),
            "the gates of act3 were closed",
            "lower the learning rate",
        ),
        (snapshot({**grow(0.0, 1e-3), **DEAD, **CLOSED}), "94% of the units of act5", "cure the dead units first"),
        (snapshot(grow(0.0, 1e-6)), "fp16", "use a loss scaler"),
        (snapshot(grow(0.0, 1e-3)), "between act4 and act3", "look at what the forward does"),
        (snapshot(grow(0.0, 1e-3), parameters=PARAMETERS), "act3.weight are exactly 0", "initialize weights"),
    ],
)
def test_vanishing_tells_what_blocks_the_way(now: Snapshot, cause: str, advice: str) -> None:
    verdict = one("vanishing-gradient", now, now)
    assert cause in verdict.cause and verdict.advice[0].startswith(advice)
    assert ("standardize the inputs" in verdict.advice) == ("in" in now.sites)
    assert ("no gradient at all" in verdict.message) == (now.sites["act0"].grad_rms == 0)


def test_a_wide_layer_compares_with_a_narrow_one_by_its_gradient_per_sample() -> None:
    wide = {f"conv{i}": site(grad_rms=1e-5, n=100 * 100_000, samples=100) for i in range(4)}
    narrow = {f"fc{i}": site(grad_rms=1e-2, n=100 * 10, samples=100) for i in range(4)}
    now = snapshot({**wide, **narrow})
    assert judge("vanishing-gradient", now, now, now) == []


# exploding-gradient


def test_a_gradient_that_grows_through_the_depth_is_told_at_once() -> None:
    assert judge("exploding-gradient", snapshot(grow(5e-2, 1e-3))) == []
    assert one("exploding-gradient", snapshot(grow(0.2, 1e-3))).severity == "warning"
    verdict = one("exploding-gradient", snapshot(grow(1e3, 1e-3)))
    assert verdict.severity == "error" and verdict.layer == "act0" and "5.69e+05 times" in verdict.message
    assert "weights are too large" in verdict.cause


def test_a_last_head_of_small_weight_is_not_an_explosion() -> None:
    assert judge("exploding-gradient", snapshot({**grow(1e-3, 1e-3), "side": site(grad_rms=1e-9)})) == []
    assert judge("exploding-gradient", snapshot({**grow(1e-3, 2e-3), "side": site(grad_rms=1e-9)})) == []


def test_experts_that_have_little_to_learn_are_not_an_explosion() -> None:
    experts = {f"expert{i}": site(grad_rms=1e-7, n=640, samples=10) for i in range(4)}
    assert judge("exploding-gradient", snapshot({**grow(4e-3, 1e-3), **experts, "head": site(grad_rms=1e-3)})) == []


def test_a_gradient_that_rises_and_falls_over_the_depth_does_not_explode() -> None:
    sizes = (1.0, 1.0, 1e-3, 1e-3, 1e-1, 1e-1, 1e-3, 1e-3)
    assert judge("exploding-gradient", snapshot({f"act{i}": site(grad_rms=g) for i, g in enumerate(sizes)})) == []


def test_growth_is_measured_from_where_the_late_layers_are_faintest() -> None:
    head = {"head": site("Linear", "layer", grad_rms=2e-2)}
    assert one("exploding-gradient", snapshot({**grow(2.0, 1e-3), **head})).evidence["ratio"] > 400


def test_an_explosion_through_time_has_its_own_advice() -> None:
    turns = {f"{name}#{i}": s for i, g in enumerate((1e3, 1e2, 1e1, 1.0)) for name, s in (
        ("rec", site("Linear", "layer", grad_rms=g)), ("act", site(grad_rms=g)))}  # fmt: skip
    verdict = one("exploding-gradient", snapshot(turns))
    assert verdict.layer == "rec" and "time step" in verdict.cause and "gated cell" in verdict.advice[1]


def norms(*values: float | None, **last: Any) -> list[Snapshot]:
    history = [snapshot({}, step=i, grad_norm_total=value) for i, value in enumerate(values)]
    return [*history[:-1], replace(history[-1], **last)]


def test_a_jump_of_the_total_norm_is_a_warning_and_twice_in_a_row_an_error() -> None:
    largest = {"a.weight": ParameterStats(state="trained", grad_norm=1.0),
               "b.weight": ParameterStats(state="trained", grad_norm=199.0)}  # fmt: skip
    verdict = one("exploding-gradient", *norms(1.0, 1.0, 1.0, 200.0, parameters=largest))
    assert (verdict.severity, verdict.layer) == ("warning", "")
    assert "200 times its usual 1" in verdict.message and "b.weight" in verdict.message
    again = one("exploding-gradient", *norms(1.0, 1.0, 1.0, 200.0, 1e5))
    assert again.severity == "error" and "learning rate" in again.cause


@pytest.mark.parametrize(
    "history",
    [
        norms(1.0, 1.0, 1.0, 50.0),
        norms(1.0, 1.0, 1e9),  # no history, no usual
        norms(None, None, 1.0, 1.0, 1e9),
        norms(1.0, 1.0, 1.0, INF),  # said by non-finite
        norms(*[6e4] * 6),  # a summed loss
        norms(3.0, 1e-2, 1e-4, 1e-6, 1e-6, 1e-6, 1e-2),  # converged: it swings, below where it began
        norms(0.0, 0.0, 0.0, 1.0),
        norms(1.0, 1.0, 1.0, 200.0, clip_coefficient=0.005),  # clipping has dealt with it
    ],
)
def test_what_is_no_explosion(history: list[Snapshot]) -> None:
    assert judge("exploding-gradient", *history) == []


# words and limits


def test_a_share_is_shown_as_none_or_all_only_if_it_is() -> None:
    shown = [percent(share) for share in (0.0, 0.001, 0.29, 0.999, 1.0)]
    assert shown == ["0%", "under 1%", "29%", "over 99%", "100%"]


def test_no_threshold_lies_inside_the_healthy_range_it_states() -> None:
    limits = Limits()
    assert limits.dead_info < limits.dead_warning < limits.dead_error < limits.silent_warning < limits.dead_narrow
    assert limits.dead_warning < limits.half_window_warning < limits.silent_warning, "less evidence asks for more units"
    assert limits.saturated_warning < limits.saturated_error < limits.shut_share
    assert limits.vanishing_error < limits.vanishing_warning < 2e-3
    assert limits.vanishing_snapshots <= limits.vanishing_weak_snapshots
    assert 10 < limits.exploding_warning < limits.exploding_error
    assert limits.dead_warning > 0.38 and limits.saturated_warning > 0.25 and limits.input_mean_energy > 0.89
