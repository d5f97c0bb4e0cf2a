"""Findings are told once an episode, again when worse, and resolved when over."""

from __future__ import annotations

import pytest

from actdiag.diagnose import judge as judging
from actdiag.diagnose.finding import Change, Finding, at_least
from actdiag.diagnose.judge import Ledger
from actdiag.snapshot import SiteStats, Snapshot


def at(step: int, dead: int) -> Snapshot:
    """A layer of 64 units of which some are dead."""
    site = SiteStats(
        kind="ReLU", role="activation", order=0, n=64, nonfinite=0, units=64, dead_units=dead, dead_fraction=dead / 64,
        suspect_units=0, evidence_samples=2048,
    )  # fmt: skip
    return Snapshot(step=step, sites={"act": site})


def kinds(changes: list[Change]) -> list[str]:
    return [change.kind for change in changes]


def test_an_episode_is_told_once_again_when_worse_and_resolved_after_two_quiet_snapshots() -> None:
    ledger = Ledger()
    course = [(0, []), (24, ["new"]), (25, []), (40, ["worse"]), (30, []), (0, []), (0, ["resolved"]), (0, [])]
    for step, (dead, expected) in enumerate(course):
        assert kinds(ledger.judge(at(step, dead))) == expected, step
    (finding,) = ledger.findings
    assert (finding.severity, finding.step, finding.resolved_step) == ("error", 1, 6)


def test_a_new_episode_is_a_new_finding() -> None:
    ledger = Ledger()
    for step, dead in enumerate([40, 0, 0, 40]):
        ledger.judge(at(step, dead))
    assert [(f.step, f.resolved_step) for f in ledger.findings] == [(0, 2), (3, None)]


def test_a_value_that_swings_about_its_threshold_speaks_once() -> None:
    ledger = Ledger()
    told = [change for step in range(20) for change in ledger.judge(at(step, 23 if step % 2 else 20))]
    assert kinds(told) == ["new"] or kinds(told) == ["new", "worse"]
    assert len(ledger.findings) == 1


@pytest.mark.parametrize("ignore", [["dead-units"], ["dead-units:act"], ["dead-units:a*"]])
def test_ignored_findings_are_not_told(ignore: list[str]) -> None:
    assert Ledger(ignore=ignore).judge(at(0, 60)) == []


def test_ignoring_another_layer_changes_nothing() -> None:
    assert len(Ledger(ignore=["dead-units:head*", "off-center"]).judge(at(0, 60))) == 1


def test_a_rule_that_fails_is_switched_off_with_one_line_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(history: object, limits: object) -> list[object]:
        raise ZeroDivisionError("in a rule")

    monkeypatch.setitem(judging.RULES, "off-center", broken)
    ledger = Ledger()
    for step in range(3):
        ledger.judge(at(step, 60))
    assert sum("rule off-center failed" in r.getMessage() for r in caplog.records) == 1
    assert [f.rule for f in ledger.findings] == ["dead-units"]


def nan_at(step: int, *names: str) -> Snapshot:
    sites = {
        name: SiteStats(kind="Linear", role="layer", order=i, n=8, nonfinite=8 if name in names else 0)
        for i, name in enumerate(("first", "second"))
    }
    return Snapshot(step=step, sites=sites)


def test_a_nan_that_spreads_stays_one_finding_that_names_where_it_began() -> None:
    ledger = Ledger()
    ledger.judge(nan_at(0, "second"))
    for step in range(1, 40):
        assert ledger.judge(nan_at(step, "first", "second")) == []
    assert [(f.rule, f.layer, f.step) for f in ledger.findings] == [("non-finite", "second", 0)]


def test_a_finding_survives_its_plain_form() -> None:
    (change,) = Ledger().judge(at(3, 40))
    assert Finding.from_dict(change.finding.to_dict()) == change.finding
    assert "dead-units" in str(change.finding)


def test_severities_are_ordered() -> None:
    assert at_least("error", "warning") and at_least("info", "info") and not at_least("info", "warning")
