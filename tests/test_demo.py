"""`actdiag demo`: real trainings whose faults are found, and a directory that is treated with care."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from tensorboard.compat.proto.event_pb2 import Event

from actdiag.cli import main
from actdiag.demo import run_demo
from actdiag.diagnose.finding import at_least
from actdiag.report.read import read_runs
from actdiag.report.records import our_records


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "actdiag", "demo", *arguments], capture_output=True, text=True)


@pytest.mark.slow
def test_each_network_gets_the_finding_it_was_built_for(tmp_path: Path) -> None:
    done = demo("--log-dir", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    runs = {run.name: run for run in read_runs(tmp_path / "runs")}
    told = {name: {f.rule for f in run.findings if at_least(f.severity, "warning")} for name, run in runs.items()}
    assert told["healthy"] == set()
    assert "dead-units" in told["dying-relu"]
    assert "vanishing-gradient" in told["deep-sigmoid"]
    assert "off-center" in told["uncentered-inputs"]
    dead = [f for f in runs["dying-relu"].findings if f.rule == "dead-units"]
    assert any(f.severity == "error" and f.evidence["dead_units"] for f in dead), "dead, and not only silent"
    for name in runs:
        assert name in done.stdout
    assert f"tensorboard --logdir {tmp_path / 'runs'}" in done.stdout
    links = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith("http://")]
    assert links[0].endswith("#actdiag&p.actdiag.run=dying-relu")
    cards = json.loads(parse_qs(urlsplit(links[1]).query)["pinnedCards"][0])
    assert len(cards) == 4 and {card["plugin"] for card in cards} == {"scalars"}
    assert {card["tag"] for card in cards} <= scalar_tags(tmp_path / "runs" / "dying-relu"), "each card has a curve"
    again = demo("--log-dir", str(tmp_path / "runs"), "--epochs", "1")
    assert again.returncode == 0
    assert all(len(run.snapshots) == 3 for run in read_runs(tmp_path / "runs")), "an earlier demo is replaced"


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["demo", "--log-dir", str(tmp_path)]) == 2
    assert "not of an earlier demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("where", ["/dev/null", "/dev/null/runs"])
def test_a_place_that_cannot_be_written_is_refused(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--log-dir", where]) == 2
    assert capsys.readouterr().err.startswith("actdiag demo: /dev/null")


def test_one_epoch_runs_and_leaves_threads_and_random_numbers_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    assert run_demo(str(tmp_path / "runs"), epochs=1) == 0
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), before)
    assert len(read_runs(tmp_path / "runs")) == 4
    printed = capsys.readouterr()
    assert "tensorboard --logdir" in printed.out and printed.err == ""


def scalar_tags(folder: Path) -> set[str]:
    """Tags of the stock scalars in a run's event files."""
    events = [Event.FromString(record) for path in folder.rglob("*tfevents*") for record in our_records(path, [])]
    return {v.tag for event in events for v in event.summary.value if v.HasField("simple_value")}


def test_without_scikit_learn_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert run_demo(str(tmp_path / "runs"), epochs=1) == 2
    assert "pip install pytorch-lightning scikit-learn" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists(), "nothing is written first"


def test_epochs_must_be_positive() -> None:
    done = demo("--epochs", "0")
    assert done.returncode == 2 and "at least 1" in done.stderr
