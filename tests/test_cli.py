"""The command: what it prints, where, and with which exit status. Never a traceback."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import actdiag
from actdiag import Monitor, TensorBoardWriter
from actdiag.cli import FAILED, INTERRUPTED, NOTHING, OK, UNWRITTEN, USAGE, main
from actdiag.diagnose.finding import SEVERITIES, Change, Finding, Severity
from actdiag.diagnose.judge import RULES
from actdiag.snapshot import SiteStats, Snapshot

ROOT = Path(__file__).resolve().parent.parent

Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run without a finding."""
    log_dir = tmp_path_factory.mktemp("healthy")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Monitor(model, optimizer, log_dir=log_dir, log_every_n_steps=2, max_overhead=None):
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(32, 16)).square().mean().backward()
            optimizer.step()
    return log_dir


def log(folder: Path, *severities: Severity, layer: str = "fc", resolved: int | None = None) -> Path:
    """A run with one finding of each severity, at the only step."""
    writer = TensorBoardWriter(folder)
    told = [
        Finding(rule="dead-units", severity=s, layer=layer, step=0, message=f"{layer}: {s}", resolved_step=resolved)
        for s in severities
    ]
    site = SiteStats(kind="ReLU", role="activation", order=0, mean=0.5)
    changes = [Change("new" if resolved is None else "resolved", finding) for finding in told]
    writer.write(Snapshot(step=0, sites={layer: site}), changes)
    writer.close()
    return folder


def actdiag_process(
    arguments: Sequence[str], env: Mapping[str, str] | None = None, **options: object
) -> subprocess.Popen[str]:
    """`python -m actdiag`, as a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "actdiag", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, text=True, **{"stdout": pipe, "stderr": pipe, **options})  # type: ignore[call-overload]


def run(*arguments: str, env: Mapping[str, str] | None = None) -> SimpleNamespace:
    process = actdiag_process(arguments, env)
    out, err = process.communicate(timeout=60)
    return SimpleNamespace(status=process.returncode, out=out, err=err)


# report -------------------------------------------------------------------------------------------------


def test_a_report_goes_to_stdout_and_nothing_to_stderr(run_dir: Path) -> None:
    done = run("report", str(run_dir))
    assert (done.status, done.err) == (OK, "")
    assert done.out.startswith(f"{run_dir.name}: 3 recorded steps, the last at step 4; ")


@pytest.mark.parametrize(
    ("form", "begins"), [("text", "{}: 3 recorded"), ("markdown", "## {}: 3 recorded"), ("json", '{{"version": 1')]
)
def test_a_report_has_three_formats(run_dir: Path, capsys: Captured, form: str, begins: str) -> None:
    assert main(["report", str(run_dir), "--format", form]) == OK
    out = capsys.readouterr().out
    assert out.replace("\\_", "_").startswith(begins.format(run_dir.name))
    assert out.endswith("\n")
    if form == "json":
        assert json.loads(out)["runs"][0]["last"]["step"] == 4


@pytest.mark.parametrize("floor", SEVERITIES)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_fail_on_fails_from_its_severity_on(
    tmp_path: Path, capsys: Captured, severity: Severity, floor: Severity
) -> None:
    log(tmp_path, severity)
    expected = FAILED if SEVERITIES.index(severity) >= SEVERITIES.index(floor) else OK
    assert main(["report", str(tmp_path), "--fail-on", floor]) == expected
    assert f"fc: {severity}" in capsys.readouterr().out, "the report is printed all the same"


def test_without_fail_on_findings_do_not_fail(tmp_path: Path) -> None:
    assert main(["report", str(log(tmp_path, "error"))]) == OK


def test_a_finding_that_is_over_does_not_fail(tmp_path: Path) -> None:
    assert main(["report", str(log(tmp_path, "error", resolved=0)), "--fail-on", "info"]) == OK


def test_one_run_of_several_is_enough_to_fail(tmp_path: Path, run_dir: Path) -> None:
    log(tmp_path / "a", "info")
    log(tmp_path / "b", "error")
    assert main(["report", str(tmp_path), "--fail-on", "error"]) == FAILED


def test_the_exit_statuses_are_the_documented_ones(capsys: Captured) -> None:
    assert (OK, FAILED, USAGE, NOTHING, UNWRITTEN, INTERRUPTED) == (0, 1, 2, 3, 4, 130)
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "0 done, 1 a finding reached --fail-on, 2 wrong usage, 3 nothing to read, 4 the output could not" in told


# Bad input ----------------------------------------------------------------------------------------------


def empty(folder: Path) -> Path:
    return folder


def missing(folder: Path) -> Path:
    return folder / "missing"


def file(folder: Path) -> Path:
    return next(log(folder).iterdir())


def foreign(folder: Path) -> Path:
    with SummaryWriter(str(folder)) as writer:
        writer.add_scalar("loss", 1.0, 0)
    return folder


def noise(folder: Path) -> Path:
    (folder / "events.out.tfevents.x").write_bytes(random.Random(0).randbytes(5000))
    return folder


def cut_in_the_first_record(folder: Path) -> Path:
    event_file = file(folder)
    event_file.write_bytes(event_file.read_bytes()[:20])
    return folder


def spoiled(folder: Path) -> Path:
    event_file = file(folder)
    data = bytearray(event_file.read_bytes())
    data[-20] ^= 1
    event_file.write_bytes(data)
    return folder


def a_name_with_a_terminal_control(folder: Path) -> Path:
    return folder / "\x1b[2J"


UNREADABLE = {
    empty: "holds no TensorBoard event file",
    missing: "does not exist",
    file: "is a file; give the directory that holds it",
    foreign: "holds 1 event file, but no actdiag data in it",
    noise: "is damaged at its first record",
    cut_in_the_first_record: "cut off at its first record",
    spoiled: "1 damaged record left out",
    a_name_with_a_terminal_control: "\\x1b[2J does not exist",
}


@pytest.mark.parametrize(("build", "message"), UNREADABLE.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_where_nothing_can_be_read_stderr_says_why(
    tmp_path: Path, capsys: Captured, build: object, message: str
) -> None:
    assert callable(build)
    place = str(build(tmp_path))
    for command, places in (("report", [place]), ("compare", [place, place])):
        assert main([command, *places]) == NOTHING
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"actdiag {command}: ")
        assert message in err
        assert "Traceback" not in err
        assert err.replace("\n", "").isprintable()


def test_a_file_that_is_cut_off_later_is_reported_with_a_note(tmp_path: Path, capsys: Captured) -> None:
    writer = TensorBoardWriter(tmp_path)
    for step in range(10):
        writer.write(Snapshot(step=step), [])
    writer.close()
    (event_file,) = tmp_path.iterdir()
    event_file.write_bytes(event_file.read_bytes()[:-5])
    assert main(["report", str(tmp_path)]) == OK
    out = capsys.readouterr().out
    assert "9 recorded steps, the last at step 8" in out
    assert "\n\nnote: events.out." in out
    assert "is still being written or was cut off after 10 records; the rest was not read\n" in out


WRONG_USAGE = {
    "no command": [],
    "an unknown command": ["dance"],
    "no directory": ["report"],
    "two directories": ["report", "a", "b"],
    "an unknown format": ["report", "a", "--format", "pdf"],
    "an unknown severity": ["report", "a", "--fail-on", "fatal"],
    "an unknown option": ["report", "a", "--loud"],
    "one run to compare": ["compare", "a"],
    "an unknown format of a comparison": ["compare", "a", "b", "--format", "pdf"],
    "a step below zero": ["compare", "a", "b", "--step=-1"],
    "a step of too many digits": ["compare", "a", "b", "--step", "9" * 5000],
    "no rows": ["compare", "a", "b", "--limit", "0"],
    "no epochs": ["demo", "--epochs", "0"],
    "half an epoch": ["demo", "--epochs", "0.5"],
    "a word of epochs": ["demo", "--epochs", "many"],
}


@pytest.mark.parametrize("arguments", WRONG_USAGE.values(), ids=WRONG_USAGE.keys())
def test_wrong_usage_is_said_with_the_usage(capsys: Captured, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: actdiag")
    assert not re.search(r"\b_[a-z]+", err), "no name of a function"


def test_a_number_of_epochs_below_one_says_what_is_allowed(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--epochs", "-3"])
    assert "must be a whole number of at least 1, got '-3'" in capsys.readouterr().err


def test_a_step_below_zero_says_what_is_allowed(capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "a", "b", "--step=-1"])
    assert "must be a whole number of at least 0, got '-1'" in capsys.readouterr().err


# explain ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", RULES)
def test_every_rule_has_a_manual(capsys: Captured, slug: str) -> None:
    assert main(["explain", slug]) == OK
    out = capsys.readouterr().out
    assert out.startswith(f"{slug}\n\n")
    for heading in ("What:", "Why:", "Not a problem when:", "What to try:", "Source:"):
        assert heading in out


def test_explain_without_a_slug_lists_all_rules_with_a_sentence(capsys: Captured) -> None:
    assert main(["explain"]) == OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RULES)
    assert all(line.endswith(".") for line in lines)
    assert len({len(line) - len(line.partition(" ")[2].lstrip()) for line in lines}) == 1, "one column"


@pytest.mark.parametrize("slip", ["dead-unit", "dead_unit", "DEAD-UNITS", "deadunits"])
def test_a_slip_of_the_pen_is_answered_with_the_rule_that_was_meant(capsys: Captured, slip: str) -> None:
    assert main(["explain", slip]) == USAGE
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"actdiag explain: no rule {slip!r}; did you mean dead-units?\n")


def test_an_unknown_rule_is_answered_with_all_rules(capsys: Captured) -> None:
    assert main(["explain", "xyz"]) == USAGE
    assert capsys.readouterr().err == f"actdiag explain: no rule 'xyz'; the rules are {', '.join(RULES)}\n"


# The process --------------------------------------------------------------------------------------------


def test_python_dash_m_actdiag_tells_the_version() -> None:
    done = run("--version")
    assert (done.status, done.out, done.err) == (OK, f"actdiag {actdiag.__version__}\n", "")


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """As in `actdiag report runs --fail-on error | head -1`: quiet, and the verdict still counts."""
    log(tmp_path, "error", layer="a" * 100_000)
    process = actdiag_process(["report", str(tmp_path), "--fail-on", "error"])
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == FAILED
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said(run_dir: Path) -> None:
    with open("/dev/full", "w") as full:
        process = actdiag_process(["report", str(run_dir)], stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == UNWRITTEN
    assert err == "actdiag: the output could not be written (No space left on device)\n"


def test_a_terminal_of_another_alphabet_gets_what_it_can_show(tmp_path: Path) -> None:
    log(tmp_path, "error", layer="слой")
    done = run("report", str(tmp_path), env={"PYTHONIOENCODING": "ascii"})
    assert (done.status, done.err) == (OK, "")
    assert r"\u0441\u043b\u043e\u0439" in done.out


def test_an_interrupt_ends_quietly(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupted(log_dir: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("actdiag.report.read.read_runs", interrupted)
    assert main(["report", "anywhere"]) == INTERRUPTED
    assert capsys.readouterr() == ("", "")
