"""On what terms findings are told: limits and severities of one's own, through the monitor, the check and a resume."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from actdiag import ConfigError, Monitor, check
from actdiag.diagnose.finding import Verdict
from actdiag.diagnose.judge import RULES, Ledger
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.terms import Terms, parse_terms
from actdiag.snapshot import SiteStats, Snapshot


def at(step: int, dead: int, layer: str = "act") -> Snapshot:
    site = SiteStats(
        kind="ReLU", role="activation", order=0, n=6400, samples=64, units=100, dead_units=dead, suspect_units=0,
        dead_fraction=dead / 100, evidence_samples=2048, unit_states="d" * dead + "a" * (100 - dead), grad_rms=1e-3,
    )  # fmt: skip
    return Snapshot(step=step, sites={layer: site})


def told(terms: Terms, dead: int, layer: str = "act") -> list[tuple[str, str]]:
    ledger = Ledger(*terms)
    ledger.judge(at(0, dead, layer))
    return [(f.rule, f.severity) for f in ledger.findings]


def terms(**given: Any) -> Terms:
    return parse_terms(RULES, **{"ignore": (), "limits": {}, "severities": {}, **given})


def test_without_terms_the_limits_are_those_of_the_table() -> None:
    assert terms() == Terms() and terms().limits == Limits()
    assert told(terms(), 47) == [("dead-units", "warning")]


def test_a_limit_of_ones_own_moves_the_threshold() -> None:
    assert told(terms(limits={"dead_warning": 0.48}), 47) == [("dead-units", "info")]
    assert told(terms(limits={"dead_error": 0.46}), 47) == [("dead-units", "error")]


@pytest.mark.parametrize("severity", ["info", "warning", "error"])
def test_a_rule_has_the_severity_that_is_asked_for(severity: str) -> None:
    assert told(terms(severities={"dead-units": severity}), 47) == [("dead-units", severity)]
    assert told(terms(severities={"off-center": severity}), 47) == [("dead-units", "warning")]


def test_a_rule_can_be_switched_off_as_a_whole_or_at_some_layers() -> None:
    assert told(terms(severities={"dead-units": "off"}), 47) == []
    some = terms(severities={"dead-units": "error", "dead-units:head.*": "off"})
    assert told(some, 47) == [("dead-units", "error")] and told(some, 47, "head.act") == []


def test_the_layer_decides_before_the_rule_in_either_order() -> None:
    for pairs in (
        [("dead-units", "info"), ("dead-units:act", "error")],
        [("dead-units:act", "error"), ("dead-units", "info")],
    ):
        assert told(terms(severities=dict(pairs)), 47) == [("dead-units", "error")]


def test_what_is_ignored_stays_so_whatever_its_severity() -> None:
    assert told(terms(ignore=["dead-units:act"], severities={"dead-units": "error"}), 47) == []


def test_a_verdict_that_nothing_speaks_of_is_left_as_it_is() -> None:
    verdict = Verdict(rule="dead-units", severity="info", layer="act", message="m")
    assert terms(severities={"dead-units:other": "error"}).apply(verdict) is verdict


@pytest.mark.parametrize(
    "given,words",
    [
        ({"ignore": ["dead-unit"]}, "ignore names no rule 'dead-unit'; did you mean 'dead-units'?"),
        ({"ignore": ["x:y"]}, "ignore names no rule 'x'; there are non-finite, dead-units"),
        ({"severities": {"dead-unit": "info"}}, "severities names no rule 'dead-unit'; did you mean 'dead-units'?"),
        (
            {"severities": {"dead-units": "fatal"}},
            "severities['dead-units'] must be info, warning, error or off; got 'fatal'",
        ),
        ({"limits": {"dead_warnin": 0.5}}, "limits names no limit 'dead_warnin'; did you mean 'dead_warning'?"),
        (
            {"limits": {"dead_warning": -1}},
            "limits['dead_warning'] must be a number of at least 0, such as 0.45; got -1",
        ),
        ({"limits": {"dead_warning": float("nan")}}, "must be a number of at least 0"),
        ({"limits": {"dead_warning": True}}, "must be a number of at least 0"),
        ({"limits": {"dead_narrow_units": 3.5}}, "limits['dead_narrow_units'] must be a whole number of at least 0"),
        ({"limits": {"dead_warning": "0.5"}}, "limits must be a mapping from names to numbers"),
        ({"limits": [0.5]}, "limits must be a mapping from names to numbers"),
        ({"severities": "off"}, "severities must be a mapping from names to texts"),
    ],
)
def test_terms_that_cannot_be_are_refused_at_construction(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Monitor(nn.Linear(2, 2), **given)
    assert words in str(caught.value)


def half_dead() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    """30 of 64 units closed for every input."""
    torch.manual_seed(0)
    layer = nn.Linear(8, 64)
    with torch.no_grad():
        layer.bias[:30] = -1e3
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(64, 2))
    return model, torch.optim.SGD(model.parameters(), lr=1e-3)


def train(monitor: Monitor, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[tuple[str, int]]:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(128, 8)).square().mean().backward()
        optimizer.step()
    return [(f.severity, f.step) for f in monitor.findings if f.rule == "dead-units"]


@pytest.mark.parametrize(
    "given,severity",
    [({}, "warning"), ({"severities": {"dead-units": "error"}}, "error"), ({"limits": {"dead_warning": 0.7}}, "info")],
)
def test_a_monitor_judges_on_these_terms_and_goes_on_doing_so_after_a_resume(given: Any, severity: str) -> None:
    model, optimizer = half_dead()
    with Monitor(model, optimizer, max_overhead=None, log_every_n_steps=20, watch_every_n_steps=1, **given) as monitor:
        found = train(monitor, model, optimizer, 21)
        state = monitor.state_dict()
    assert found == [(severity, 20)]
    with Monitor(model, optimizer, max_overhead=None, log_every_n_steps=20, watch_every_n_steps=1, **given) as monitor:
        monitor.load_state_dict(state)
        assert train(monitor, model, optimizer, 21) == found, "told once, as before"


def test_an_open_finding_that_is_switched_off_now_is_not_carried_over() -> None:
    ledger = Ledger()
    ledger.judge(at(0, 47))
    again = Ledger.restored(ledger.state(), terms(severities={"dead-units": "off"}))
    assert again.open_findings() == [] and len(again.findings) == 1


def test_check_is_on_these_terms_too() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    batch = (torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
    assert check(model, batch, nn.CrossEntropyLoss(), severities={"poor-initialization": "off"}) == []
