"""On what terms findings are told: limits and severities of one's own, through the monitor, the check and a resume."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from actdiag import ConfigError, Finding, Limits, Monitor, Verdict, check
from actdiag.cli import FAILED, OK, USAGE, main
from actdiag.diagnose.judge import RULES, Ledger
from actdiag.diagnose.terms import Terms, parse_terms
from actdiag.report.judged import judge_again
from actdiag.report.read import read_runs
from actdiag.snapshot import SiteStats, Snapshot
from tests.rule_pages import OWN_RULE


def cold(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """A rule of one's own: layers named `act` whose gradient is near a thousandth."""
    for name, site in history[-1].sites.items():
        if name == "act" and site.grad_rms is not None and site.grad_rms < 2e-3:
            yield Verdict(rule="cold", severity="warning", layer=name, message=f"{name}: cold")


def at(step: int, dead: int, layer: str = "act") -> Snapshot:
    site = SiteStats(
        kind="ReLU", role="activation", order=0, n=6400, samples=64, units=100, dead_units=dead, suspect_units=0,
        dead_fraction=dead / 100, evidence_samples=2048, unit_states="d" * dead + "a" * (100 - dead), grad_rms=1e-3,
    )  # fmt: skip
    return Snapshot(step=step, sites={layer: site})


def told(terms: Terms, dead: int, layer: str = "act") -> list[tuple[str, str]]:
    ledger = Ledger(terms)
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
        ({"limits": {"dead_warning": -1}}, "limits['dead_warning'] must be a number from 0 to 1, such as 0.45; got -1"),
        ({"limits": {"dead_warning": 45}}, "limits['dead_warning'] must be a number from 0 to 1, such as 0.45; got 45"),
        ({"limits": {"dead_warning": float("nan")}}, "must be a number from 0 to 1"),
        ({"limits": {"dead_warning": True}}, "must be a number from 0 to 1"),
        ({"limits": {"input_rms": float("inf")}}, "must be a number of at least 0"),
        ({"limits": {"dead_narrow_units": 3.5}}, "limits['dead_narrow_units'] must be a whole number of at least 1"),
        ({"limits": {"dead_warning": "0.5"}}, "limits must be a mapping from names to numbers"),
        ({"limits": [0.5]}, "limits must be a mapping from names to numbers"),
        ({"limits": {"exploding_history": 0}}, "must be a whole number of at least 1, such as 3; got 0"),
        ({"limits": {"fp16_smallest": 10}}, "must be a whole number from -149 to -1, such as -24; got 10"),
        ({"limits": {"stalled_rise": 10**400}}, "limits['stalled_rise'] must be a number of at least 0"),
        ({"rules": {"cold": "math"}}, "'math' names no function"),
        ({"rules": {"Cold": cold}}, "rules names a rule 'Cold'; a slug is of lower-case words and '-'"),
        ({"rules": {"dead-units": cold}}, "rules names 'dead-units', which is one of actdiag's; give yours another"),
        ({"rules": {"cold": 3}}, "rules must be a mapping from names to functions"),
        ({"rules": {"cold": "nowhere:rule"}}, "rules['cold'] must be a function or 'package.module:function'"),
        ({"rules": {"cold": "math:nothing"}}, "'math:nothing': AttributeError"),
        (
            {"rules": {"cold": "math:pi"}},
            "'package.module:function'; 'math:pi' is float",
        ),
        ({"ignore": ["cold"]}, "ignore names no rule 'cold'"),
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


def test_a_rule_of_ones_own_is_told_as_the_others_are() -> None:
    own = terms(rules={"cold": cold})
    assert told(own, 0) == [("cold", "warning")]
    assert told(terms(rules={"cold": cold}, severities={"cold": "error"}), 0) == [("cold", "error")]
    assert told(terms(rules={"cold": cold}, ignore=["cold:act"]), 0) == []
    assert told(terms(rules={"cold": f"{__name__}:cold"}), 0) == [("cold", "warning")]


@pytest.mark.parametrize(
    "given",
    [
        "text", 3, None,
        Verdict(rule="odd", severity="warning", layer="", message="", evidence=[1]),  # type: ignore[arg-type]
        Verdict(rule="other", severity="warning", layer="", message=""),
        Verdict(rule="odd", severity="fatal", layer="", message=""),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_a_rule_of_ones_own_that_gives_no_verdict_is_switched_off_with_one_warning(
    given: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = Ledger(terms(rules={"odd": lambda history, limits: [given], "cold": cold}))
    for step in range(3):
        ledger.judge(at(step, 0))
    assert [f.rule for f in ledger.findings] == ["cold"], "the others go on"
    warned = [r.message for r in caplog.records if "rule odd failed" in r.message]
    assert len(warned) == 1


def test_a_rule_of_ones_own_that_forgot_to_yield_is_told_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    Ledger(terms(rules={"odd": lambda history, limits: None})).judge(at(0, 0))
    assert "it gave None; yield Verdicts" in caplog.text


def test_a_rule_of_ones_own_that_exits_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def leave(history: Sequence[Snapshot], limits: Limits) -> list[Verdict]:
        raise SystemExit(3)

    Ledger(terms(rules={"odd": leave})).judge(at(0, 0))
    assert "rule odd failed" in caplog.text


def test_a_rule_of_ones_own_is_resolved_wherever_it_points() -> None:
    def once(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
        if history[-1].step == 0:
            yield Verdict(rule="once", severity="info", layer="nowhere", message="m", cause=None)  # type: ignore[arg-type]

    ledger = Ledger(terms(rules={"once": once}))
    for step in range(3):
        ledger.judge(at(step, 0))
    assert [(f.cause, f.resolved_step) for f in ledger.findings] == [("", 2)]


def test_a_rule_of_ones_own_cannot_change_what_others_see() -> None:
    def clear(history: Any, limits: Limits) -> list[Verdict]:
        history.clear()
        return []

    ledger = Ledger(terms(rules={"clear": clear, "cold": cold}))
    ledger.judge(at(0, 0))
    assert [f.rule for f in ledger.findings] == ["cold"] and ledger.broken == ["clear"]


@pytest.mark.parametrize(
    "limits",
    [
        {"fp16_smallest": -24}, {"dead_warning": np.float32(0.5)},
        {"dead_narrow_units": np.int64(4)},        {"dead_warning": 0, "dead_info": 0}, {"vanishing_error": 1e-5},
        {"dead_warning": 0.9},
    ],
)  # fmt: skip
def test_limits_that_can_be_are_taken(limits: dict[str, Any]) -> None:
    found = terms(limits=limits).limits
    assert all(getattr(found, name) == value for name, value in limits.items())
    assert all(type(getattr(found, name)) is type(getattr(Limits(), name)) for name in limits)


def test_the_callback_says_at_construction_what_cannot_be() -> None:
    from actdiag.lightning import ActivationMonitor

    with pytest.raises(ConfigError, match="limits names no limit 'nope'"):
        ActivationMonitor(limits={"nope": 1})


def test_the_rule_in_the_documentation_works() -> None:
    names: dict[str, Any] = {}
    exec(OWN_RULE, names)
    own = terms(rules={"cold-head": names["cold_head"]})
    cold_one = replace(at(0, 0).sites["act"], grad_rms=1e-7)
    for layer, site, rules in (("head", cold_one, ["cold-head"]), ("act", cold_one, []), ("head", SiteStats(
        kind="ReLU", role="activation", order=0, n=0), [])):  # fmt: skip
        ledger = Ledger(own)
        ledger.judge(Snapshot(step=0, sites={layer: site}))
        assert [f.rule for f in ledger.findings] == rules


def test_evidence_of_ones_own_may_be_anything_and_is_told_as_plain_values() -> None:
    def odd(history: Sequence[Snapshot], limits: Limits) -> list[Verdict]:
        evidence = {
            "tensor": torch.ones(2),
            "one": torch.tensor(1.5),
            "n": np.float32(2),
            "yes": np.bool_(1),
            3: (1, 2),
        }
        return [Verdict(rule="odd", severity="info", layer="act", message="m", evidence=evidence, advice="one")]  # type: ignore[arg-type]

    ledger = Ledger(terms(rules={"odd": odd}))
    ledger.judge(at(0, 0))
    [found] = ledger.findings
    assert found.evidence == {
        "tensor": "tensor([1., 1.])",
        "one": 1.5,
        "n": 2.0,
        "yes": True,
        "3": [1, 2],
    } and found.advice == ("one",)
    json.dumps(found.to_dict())


def test_a_rule_of_ones_own_is_heard_in_a_training_and_by_check() -> None:
    model, optimizer = half_dead()
    heard: list[str] = []
    rules = {"cold": lambda history, limits: [Verdict(rule="cold", severity="info", layer="", message="brr")]}
    with Monitor(model, optimizer, rules=rules, on_finding=lambda f: heard.append(f.rule)) as monitor:
        train(monitor, model, optimizer, 1)
    assert "cold" in heard
    batch = (torch.randn(8, 8), torch.zeros(8, dtype=torch.long))
    assert "cold" in [f.rule for f in check(model, batch, nn.CrossEntropyLoss(), rules=rules)]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Finding]]:
    folder = tmp_path_factory.mktemp("logged")
    model, optimizer = half_dead()
    with Monitor(
        model, optimizer, log_dir=folder, max_overhead=None, log_every_n_steps=5, watch_every_n_steps=1
    ) as monitor:
        train(monitor, model, optimizer, 41)
    return folder, monitor.findings


def test_a_log_judged_again_tells_what_the_training_was_told(logged: tuple[Path, list[Finding]]) -> None:
    [run] = read_runs(logged[0])
    assert [f.rule for f in logged[1]].count("dead-units") == 1
    again = [f.to_dict() for f in judge_again(run, Terms())[0].findings]
    assert again == [f.to_dict() for f in run.findings]
    assert [(f["rule"], f["layer"], f["step"]) for f in again] == [(f.rule, f.layer, f.step) for f in logged[1]]


@pytest.mark.parametrize(
    "options,status",
    [
        ([], FAILED),
        (["--rejudge"], FAILED),
        (["--ignore", "dead-units"], OK),
        (["--limits", "dead_warning=0.7"], OK),
        (["--severities", "dead-units=info"], OK),
        (["--severities", "dead-units:9=info"], FAILED),
        (["--rules", f"cold={__name__}:cold", "--ignore", "dead-units", "--limits", "dead_info=0.9"], OK),
        (["--rules", f"cold={__name__}:always", "--ignore", "dead-units"], FAILED),
    ],
)
def test_a_report_fails_on_terms_of_ones_own(
    logged: tuple[Path, list[Finding]], options: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(logged[0]), "--fail-on", "warning", *options]) == status
    assert ("dead-units" in capsys.readouterr().out) is ("dead-units" not in options)


def test_a_rule_that_fails_on_a_log_is_no_success(
    logged: tuple[Path, list[Finding]], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rules", f"odd={__name__}:told", "--fail-on", "error", "--ignore", "dead-units"]
    assert main(["report", str(logged[0]), *options]) == USAGE
    assert "rules that failed, so that findings are missing: odd" in capsys.readouterr().err


def test_what_is_ignored_leaves_the_rest_as_it_was_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, optimizer = half_dead()
    given: dict[str, Any] = {"log_dir": tmp_path, "max_overhead": None, "log_every_n_steps": 5}
    rules = {"cold": always}
    with Monitor(
        model, optimizer, watch_every_n_steps=1, severities={"dead-units": "error"}, rules=rules, **given
    ) as m:
        train(m, model, optimizer, 41)
    report = ["report", str(tmp_path), "--fail-on", "error"]
    assert main([*report, "--ignore", "cold"]) == FAILED, "dead units are still an error"
    assert main([*report, "--ignore", "cold", "--ignore", "dead-units"]) == OK
    assert main([*report, "--rejudge"]) == OK, "what the training had set is forgotten"
    capsys.readouterr()


def test_rules_beside_the_training_are_found(
    logged: tuple[Path, list[Finding]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rules_of_mine.py").write_text("def nothing(history, limits):\n    return []\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["report", str(logged[0]), "--rules", "mine=rules_of_mine:nothing"]) == OK


def always(history: Sequence[Snapshot], limits: Limits) -> list[Verdict]:
    return [Verdict(rule="cold", severity="error", layer="", message="cold")]


@pytest.mark.parametrize(
    "options,words",
    [
        (["--ignore", "dead-unit"], "ignore names no rule 'dead-unit'; did you mean 'dead-units'?"),
        (["--limits", "dead_warning=x"], "limits['dead_warning'] must be a number; got 'x'"),
        (["--limits", "dead_warning=45"], "must be a number from 0 to 1"),
        (["--limits", "dead_warning"], "must be NAME=VALUE, got 'dead_warning'"),
        (["--severities", "dead-units=bad"], "must be info, warning, error or off; got 'bad'"),
        (["--rules", "cold=nowhere:rule"], "ModuleNotFoundError"),
    ],
)
def test_terms_that_cannot_be_are_said_with_the_status_of_wrong_usage(
    logged: tuple[Path, list[Finding]], options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: Any = main(["report", str(logged[0]), *options])
    except SystemExit as error:  # argparse's own
        status = error.code
    assert status == USAGE and words in capsys.readouterr().err


def test_check_is_on_these_terms_too() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    batch = (torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
    assert check(model, batch, nn.CrossEntropyLoss(), severities={"poor-initialization": "off"}) == []
