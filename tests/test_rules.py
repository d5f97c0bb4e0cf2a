"""Each rule: fires, stays silent, survives anything. Snapshots are built by hand; no torch here."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields, replace
from typing import Any

import pytest

from actdiag.diagnose.finding import Verdict
from actdiag.diagnose.judge import RULES
from actdiag.diagnose.limits import Limits
from actdiag.snapshot import ParameterStats, SiteStats, Snapshot

INF = math.inf


def site(kind: str = "ReLU", role: Any = "activation", **values: Any) -> SiteStats:
    return SiteStats(kind=kind, role=role, order=0, **{"n": 6400, "samples": 100, "nonfinite": 0, **values})


def units(dead: int, of: int = 64, **values: Any) -> SiteStats:
    shares = {"units": of, "dead_units": dead, "dead_fraction": dead / of, "suspect_units": 0, "evidence_samples": 2048}
    return site(**{**shares, **values})


def snapshot(sites: dict[str, SiteStats], step: int = 0, **values: Any) -> Snapshot:
    ordered = {name: replace(s, order=i) for i, (name, s) in enumerate(sites.items())}
    return Snapshot(step=step, sites=ordered, sites_selected=len(sites), **values)


def judge(slug: str, *history: Snapshot) -> list[Verdict]:
    return list(RULES[slug](list(history), Limits()))


def one(slug: str, *history: Snapshot) -> Verdict:
    (verdict,) = judge(slug, *history)
    assert verdict.rule == slug and verdict.message and verdict.cause and verdict.source
    assert "healthy" in verdict.evidence
    return verdict


def chain(first: float, last: float, **values: Any) -> dict[str, SiteStats]:
    """Eight sites whose gradients run from `first` at the input to `last` at the loss, geometrically."""
    steps = [first * (last / first) ** (i / 7) if first and last else (first if i < 4 else last) for i in range(8)]
    return {f"act{i}": site(grad_rms=g, grad_nonfinite=0, **values) for i, g in enumerate(steps)}


HEALTHY = snapshot(
    {
        "fc0:in": site("Linear", "input", mean=0.0, std=1.0, rms=1.0, mean_energy=0.02),
        "fc0": site("Linear", "layer", grad_rms=1e-3),
        "act0": units(2, grad_rms=1e-3, zero_fraction=0.85, mean_energy=0.8),
        "act1": site("Tanh", saturated_fraction=0.25, grad_rms=1.2e-3),
        "act2": site("LeakyReLU", grad_rms=8e-4),
        "fc2": site("Linear", "layer", grad_rms=1e-3),
        "out": site("Sigmoid", "output", saturated_fraction=0.93, grad_rms=1e-3),
    },
    parameters={"fc0.weight": ParameterStats(state="trained", weight_norm=3.0, grad_norm=0.1, update_ratio=1e-3)},
    grad_norm_total=0.1,
)
EMPTY = snapshot({})


@pytest.mark.parametrize("slug", RULES)
def test_a_healthy_run_is_left_alone(slug: str) -> None:
    history = [replace(HEALTHY, step=i) for i in range(8)]
    assert judge(slug, *history) == []


@pytest.mark.parametrize("slug", RULES)
def test_nothing_is_said_of_nothing(slug: str) -> None:
    assert judge(slug, EMPTY) == []
    assert judge(slug, EMPTY, EMPTY, EMPTY) == []
    assert judge(slug, snapshot({"a": SiteStats(kind="ReLU", role="activation", order=0)})) == []
    blank = {f"s{i}": site(n=0, samples=0) for i in range(8)}
    assert judge(slug, snapshot(blank), snapshot(blank)) == []


@pytest.mark.parametrize("slug", RULES)
@pytest.mark.parametrize("value", [None, INF, -INF, 0, 1e30])
def test_no_value_in_any_field_makes_a_rule_raise(slug: str, value: Any) -> None:
    for spec in fields(SiteStats):
        if "doc" not in spec.metadata:
            continue
        whole = spec.metadata["kind"] == "int"
        given = value if not whole or value is None else int(min(max(value, 0), 10**9))
        odd = {name: replace(s, **{spec.name: given}) for name, s in HEALTHY.sites.items()}
        history = [replace(HEALTHY, sites=odd, grad_norm_total=value, step=i) for i in range(6)]
        judge(slug, *history)


@pytest.mark.parametrize("slug", RULES)
def test_sites_may_come_and_go(slug: str) -> None:
    other = snapshot({"new": units(1, grad_rms=1.0)})
    assert judge(slug, HEALTHY, other, HEALTHY) == []
    judge(slug, other, HEALTHY, EMPTY)


@pytest.mark.parametrize("slug", RULES)
def test_the_docstring_of_a_rule_is_its_manual(slug: str) -> None:
    manual = inspect.getdoc(RULES[slug]) or ""
    heads = [line.partition(":")[0] for line in manual.splitlines() if line.partition(":")[0] in HEADS]
    assert heads == HEADS


HEADS = ["What", "Why", "Not a problem when", "What to try", "Source"]


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
    verdict = one("non-finite", snapshot({"fc0": site("Linear", "layer", nonfinite=9)}, parameters=broken))
    assert "fc0.weight" in verdict.cause and "checkpoint" in verdict.advice[0]


def test_non_finite_gradients_are_named_where_they_are_born_and_forgiven_to_a_loss_scaler() -> None:
    sites = {"a": site(grad_nonfinite=9), "b": site(grad_nonfinite=3), "c": site(grad_nonfinite=0)}
    verdict = one("non-finite", snapshot(sites))
    assert verdict.layer == "b" and "while every activation is finite" in verdict.message
    assert one("non-finite", snapshot(sites, loss_scale=65536.0)).severity == "info"


@pytest.mark.parametrize(
    "stats,severity",
    [
        (units(3, 8), None), (units(8, 8), "error"), (units(6, 8), None), (units(2, 8, suspect_units=6), "warning"),
        (units(10), None),
        (units(14), "info"), (units(24), "info"), (units(29), "warning"),
        (units(32), "error"), (units(0, suspect_units=39), "warning"),
        (units(0, suspect_units=20), None), (units(1, 1, role="output"), "error"), (units(60, role="gate"), None),
        (site(units=64, dead_units=None, dead_fraction=None), None),
    ],
)  # fmt: skip
def test_dead_units_by_share_width_and_role(stats: SiteStats, severity: str | None) -> None:
    told = judge("dead-units", snapshot({"act": stats}))
    assert [v.severity for v in told] == ([severity] if severity else [])


def test_dead_units_state_the_bound_and_the_likely_cause() -> None:
    verdict = one("dead-units", snapshot({"act": units(40, unit_states="d" * 40 + "a" * 24, first_death_step=120)}))
    assert "40 of 64" in verdict.message and "last 2048 samples" in verdict.message and "0.15%" in verdict.message
    assert verdict.evidence["units_dead"] == list(range(32))
    assert "learning rate" in verdict.cause
    born = one("dead-units", snapshot({"act": units(40, first_death_step=0)}))
    assert "initialization" in born.cause
    raw = site("Linear", "input", mean=8.0, std=5.0, rms=9.4, mean_energy=0.7)
    assert "not standardized" in one("dead-units", snapshot({"in": raw, "act": units(40)})).cause
    early = one("dead-units", snapshot({"act": units(0, suspect_units=40)}))
    assert "silent for at least 300 samples" in early.message and early.severity == "warning"


def test_saturation_needs_two_snapshots_and_a_hidden_activation() -> None:
    def at(share: float, role: str = "activation") -> Snapshot:
        return snapshot(
            {"act": site("Tanh", role, saturated_fraction=share, saturated_low=share / 2, saturated_high=0.1)}
        )

    assert judge("saturated-activation", at(0.9)) == []
    assert one("saturated-activation", at(0.9), at(0.8)).severity == "error"
    assert one("saturated-activation", at(0.9), at(0.6)).severity == "warning"
    assert judge("saturated-activation", at(0.9), at(0.3)) == []
    assert judge("saturated-activation", at(0.9, "output"), at(0.9, "output")) == []
    assert judge("saturated-activation", at(0.9, "gate"), at(0.9, "gate")) == []


def test_only_the_networks_input_is_off_center() -> None:
    sites = {"fc0:in": site("Linear", "input", mean=8.0, std=1.0, rms=8.1, mean_energy=0.98)}
    verdict = one("off-center", snapshot(sites))
    assert verdict.layer == "fc0" and "98%" in verdict.message
    assert judge("off-center", snapshot({"act": site(mean_energy=0.99)})) == []


def test_vanishing_is_measured_on_activations_and_needs_two_snapshots() -> None:
    faint = snapshot(chain(1e-8, 1e-3))
    assert judge("vanishing-gradient", faint) == []
    verdict = one("vanishing-gradient", faint, faint)
    assert verdict.severity == "error" and verdict.layer == "act0" and "too small" in verdict.cause
    weak = snapshot(chain(4e-7, 1e-3))
    assert judge("vanishing-gradient", weak, weak) == []
    assert one("vanishing-gradient", weak, weak, weak).severity == "warning"
    assert judge("vanishing-gradient", faint, snapshot(chain(1e-4, 1e-3))) == []
    tiny = snapshot(chain(1e-12, 2e-12))
    assert judge("vanishing-gradient", tiny, tiny) == [], "converged: all are small together"


def test_vanishing_tells_what_blocks_the_way() -> None:
    sigmoid = snapshot(chain(1e-8, 1e-3, kind="Sigmoid"))
    assert "slope of at most 1/4" in one("vanishing-gradient", sigmoid, sigmoid).cause
    dead = snapshot({**chain(0.0, 1e-3), "act5": units(40, suspect_units=20, grad_rms=1e-3)})
    verdict = one("vanishing-gradient", dead, dead)
    assert "94% of the units of act5" in verdict.cause and "no gradient at all" in verdict.message
    flat = snapshot(chain(1e-8, 1e-3, kind="Tanh", saturated_fraction=0.9))
    assert "flat ends" in one("vanishing-gradient", flat, flat).cause


def test_a_wide_layer_compares_with_a_narrow_one_by_its_gradient_per_sample() -> None:
    wide = {f"conv{i}": site(grad_rms=1e-5, n=100 * 100_000, samples=100) for i in range(4)}
    narrow = {f"fc{i}": site(grad_rms=1e-2, n=100 * 10, samples=100) for i in range(4)}
    now = snapshot({**wide, **narrow})
    assert judge("vanishing-gradient", now, now) == []


def test_exploding_through_depth_and_through_time() -> None:
    grows = snapshot(chain(1e3, 1e-3))
    assert "grows" in one("exploding-gradient", grows).message
    assert judge("exploding-gradient", snapshot(chain(1e-2, 1e-3))) == []
    calm = [snapshot({}, step=i, grad_norm_total=1.0) for i in range(4)]
    assert "200 times its usual" in one("exploding-gradient", *calm, snapshot({}, grad_norm_total=200.0)).message
    assert judge("exploding-gradient", *calm, snapshot({}, grad_norm_total=50.0)) == []
    clipped = snapshot({}, grad_norm_total=200.0, clip_coefficient=0.005)
    assert judge("exploding-gradient", *calm, clipped) == [], "clipping has dealt with it"
    assert judge("exploding-gradient", *calm[:2], snapshot({}, grad_norm_total=1e9)) == [], "no history, no usual"
    huge = [snapshot({}, step=i, grad_norm_total=6e4) for i in range(6)]
    assert judge("exploding-gradient", *huge) == [], "a summed loss is not an explosion"


def test_no_threshold_lies_inside_the_healthy_range_it_states() -> None:
    limits = Limits()
    assert limits.dead_info < limits.dead_warning < limits.dead_error < limits.dead_narrow
    assert limits.saturated_warning < limits.saturated_error
    assert limits.vanishing_error < limits.vanishing_warning
    assert limits.dead_warning > 0.31 and limits.saturated_warning > 0.38 and limits.input_mean_energy > 0.69
