"""Findings are told once an episode, again when worse, and resolved when over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from actdiag.diagnose import judge as judging
from actdiag.diagnose.finding import Change, Finding, Severity, Verdict, at_least
from actdiag.diagnose.judge import BEGINNING, HISTORY, Ledger
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.terms import Terms
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
    course = [(0, []), (30, ["new"]), (25, []), (40, ["worse"]), (30, []), (0, []), (0, ["resolved"]), (0, [])]
    for step, (dead, expected) in enumerate(course):
        assert kinds(ledger.judge(at(step, dead))) == expected, step
    (finding,) = ledger.findings
    assert (finding.severity, finding.step, finding.severity_step, finding.resolved_step) == ("error", 1, 3, 6)


def test_a_new_episode_is_a_new_finding() -> None:
    ledger = Ledger()
    for step, dead in enumerate([40, 0, 0, 40]):
        ledger.judge(at(step, dead))
    assert [(f.step, f.severity_step, f.resolved_step) for f in ledger.findings] == [(0, None, 2), (3, None, None)]


def test_a_value_that_swings_about_its_threshold_speaks_once() -> None:
    ledger = Ledger()
    told = [change for step in range(20) for change in ledger.judge(at(step, 30 if step % 2 else 10))]
    assert kinds(told) == ["new"]
    told = [change for step in range(20, 40) for change in ledger.judge(at(step, 33 if step % 2 else 30))]
    assert kinds(told) == ["worse"], "between warning and error it gets worse once, and never better"
    assert len(ledger.findings) == 1


@pytest.mark.parametrize(
    "ignore", [["dead-units"], ["dead-units:act"], ["dead-units:a*"], ["off-center", "dead-units"]]
)
def test_ignored_findings_are_not_told(ignore: list[str]) -> None:
    assert Ledger(Terms(ignore=ignore)).judge(at(0, 60)) == []


def test_ignoring_another_layer_changes_nothing() -> None:
    assert len(Ledger(Terms(ignore=["dead-units:head*", "off-center", "dead-*"])).judge(at(0, 60))) == 1


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


def test_a_finding_is_not_over_because_its_layer_was_not_seen() -> None:
    ledger = Ledger()
    ledger.judge(at(0, 40))
    for step in range(1, 10):
        assert ledger.judge(Snapshot(step=step)) == [], "an expert without data has not recovered"
    ledger.judge(at(10, 0))
    assert kinds(ledger.judge(at(11, 0))) == ["resolved"]


def test_nothing_is_over_while_nan_hides_everything() -> None:
    def broken(step: int) -> Snapshot:
        return Snapshot(step=step, sites={"act": SiteStats(kind="ReLU", role="activation", order=0, n=64, nonfinite=9)})

    ledger = Ledger()
    ledger.judge(at(0, 40))
    told = [kinds(ledger.judge(broken(step))) for step in range(1, 6)]
    assert told == [["new"], [], [], [], []]
    assert [(f.rule, f.resolved_step) for f in ledger.findings] == [("dead-units", None), ("non-finite", None)]
    hidden = Ledger(Terms(ignore=["non-finite"]))
    for snapshot in (at(0, 40), *map(broken, range(1, 6))):
        hidden.judge(snapshot)
    assert [f.resolved_step for f in hidden.findings] == [None]


def test_what_a_failed_rule_has_said_is_not_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    ledger.judge(at(0, 40))
    monkeypatch.setitem(judging.RULES, "dead-units", lambda history, limits: 1 / 0)
    assert [ledger.judge(at(step, 0)) for step in range(1, 5)] == [[]] * 4
    assert ledger.findings[0].resolved_step is None


def test_an_overflow_that_the_loss_scaler_handles_is_not_where_a_later_nan_began() -> None:
    scaled = SiteStats(kind="Linear", role="layer", order=0, n=8, nonfinite=0, grad_nonfinite=2)
    ledger = Ledger()
    ledger.judge(Snapshot(step=0, sites={"first": scaled}, loss_scale=2.0**16))
    ledger.judge(replace(nan_at(7, "first"), loss_scale=2.0**15))
    assert [(f.rule, f.severity, f.step) for f in ledger.findings] == [
        ("non-finite", "info", 0), ("non-finite", "error", 7),
    ]  # fmt: skip


def test_of_two_verdicts_on_a_layer_the_most_severe_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(history: Sequence[Snapshot], limits: object) -> Iterator[Verdict]:
        order: tuple[Severity, ...] = ("warning", "error", "info")
        for severity in order:
            yield Verdict(rule="off-center", severity=severity, layer="act", message=severity)

    monkeypatch.setitem(judging.RULES, "off-center", twice)
    assert [f.message for f in told_by(Ledger(), at(0, 0))] == ["error"]


def told_by(ledger: Ledger, snapshot: Snapshot) -> list[Finding]:
    return [change.finding for change in ledger.judge(snapshot)]


def test_rules_see_how_the_run_began_and_its_last_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def watching(history: Sequence[Snapshot], limits: object) -> list[Verdict]:
        seen.append([snapshot.step for snapshot in history])
        return []

    monkeypatch.setitem(judging.RULES, "off-center", watching)
    ledger = Ledger()
    for step in range(50):
        ledger.judge(at(step, 0))
    assert seen[0] == [0] and seen[4] == [0, 1, 2, 3, 4]
    assert seen[-1] == [*range(BEGINNING), *range(50 - HISTORY, 50)]


def test_a_finding_survives_its_plain_form() -> None:
    (change,) = Ledger().judge(at(3, 40))
    assert Finding.from_dict(change.finding.to_dict()) == change.finding
    assert "dead-units" in str(change.finding)


def test_severities_are_ordered() -> None:
    assert at_least("error", "warning") and at_least("info", "info") and not at_least("info", "warning")


def test_what_a_rule_said_before_it_failed_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = judging.RULES["dead-units"]

    def breaks(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
        yield from whole(history, limits)
        raise RuntimeError("mine")

    monkeypatch.setitem(judging.RULES, "dead-units", breaks)
    ledger = Ledger()
    assert ledger.judge(at(0, 60)) == [] and ledger.broken == ["dead-units"]
