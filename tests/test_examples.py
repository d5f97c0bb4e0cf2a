"""Every example runs, and shows what it says it shows."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from why_relu.page import EXPECTED

from actdiag.report.read import read_runs

FOLDER = Path(__file__).resolve().parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_plain_loop_sees_functional_activations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("plain_loop").main(str(tmp_path))
    out = capsys.readouterr().out
    assert "relu#0" in out and "relu#1" in out and "no open finding" in out
    assert len(read_runs(tmp_path)[0].snapshots) > 3


@pytest.mark.filterwarnings("ignore")
def test_the_lightning_callback_prints_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("lightning_callback").main(str(tmp_path))
    assert re.search(r"net\.3 +Tanh", capsys.readouterr().out)
    assert len(read_runs(tmp_path)) == 1


def test_the_dying_relu_is_caught_early(capsys: pytest.CaptureFixture[str]) -> None:
    step = load("catch_dying_relu").main()
    assert 16 <= step < 1500
    out = capsys.readouterr().out
    assert "stopped at step" in out and "ReLU units" in out


def test_the_example_of_two_processes_runs_in_one_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("ddp_torchrun").main(str(tmp_path))
    assert "process 0 alone would call 0 units dead\ntogether: 0 dead units" in capsys.readouterr().out
    assert len(read_runs(tmp_path)[0].snapshots) > 3


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_hugging_face_trains_offline_and_writes_into_its_own_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load("hf_trainer").main(str(tmp_path), steps=25)
    assert re.search(r"transformer\.h\.1\.mlp\.act +ReLU", capsys.readouterr().out)
    (run,) = read_runs(tmp_path)
    assert {1, 20} <= {snapshot.step for snapshot in run.snapshots}
    assert len(list(tmp_path.rglob("*tfevents*"))) == 1


@pytest.mark.filterwarnings("ignore")
def test_the_engine_of_ignite_is_told_of_in_its_own_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("ignite_engine").main(str(tmp_path))
    assert re.search(r"3 +Tanh", capsys.readouterr().out)
    assert len(read_runs(tmp_path)[0].snapshots) > 3 and len(list(tmp_path.rglob("*tfevents*"))) == 1


def test_the_loop_of_accelerate_counts_updates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("accelerate_loop").main(str(tmp_path))
    assert "a step has seen 2,048 elements of the first ReLU" in capsys.readouterr().out
    (run,) = read_runs(tmp_path)
    assert run.snapshots[-1].step < 5 * 56


@pytest.mark.filterwarnings("ignore")
def test_the_loop_of_fabric_is_told_of_by_its_own_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("fabric_loop").main(str(tmp_path))
    assert re.search(r"^3 +Tanh", capsys.readouterr().out, re.MULTILINE)
    assert len(read_runs(tmp_path)[0].snapshots) > 3


def test_the_convolutional_network_is_well_on_scaled_pixels_and_dies_on_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (well, right), (ill, wrong) = load("conv_net").main(epochs=6).values()
    assert well == [] and right > 0.85 and wrong < right - 0.1
    assert (ill[0].rule, ill[0].step) == ("poor-initialization", 0)
    assert {"1", "3"} & {finding.layer for finding in ill if finding.rule == "dead-units"}
    assert "try: standardize the inputs" in capsys.readouterr().out


def test_the_small_gpt_learns_and_its_bare_twin_is_told_of_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    (well, low), (ill, high) = load("small_gpt").main(steps=100).values()
    assert well.findings == [] and low < high - 0.2
    assert [(finding.rule, finding.step) for finding in ill.findings] == [("poor-initialization", 0)]
    assert re.search(r"blocks\.2\.mlp\.1 +ReLU", capsys.readouterr().out)


def test_gates_of_an_lstm_may_stand_at_their_ends_and_its_tanh_may_not(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("lstm")
    (well, right), (ill, wrong) = example.main(steps=200).values()
    assert well.findings == [] and right > 0.9 and wrong < 0.3
    mean, ends = example.forget_gates(well.latest)
    assert mean > 0.95 and ends > 0.5
    rules = [finding.rule for finding in ill.findings]
    assert rules[0] == "poor-initialization" and rules.count("saturated-activation") >= 5
    assert "healthy: " in capsys.readouterr().out


@pytest.mark.slow
def test_why_relu_works_gives_every_verdict_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    results = load("why_relu_works").main(["--quick", "--write", str(page)])
    assert {name: result.word for name, result in results.items()} == EXPECTED
    out, text = capsys.readouterr().out, " ".join(page.read_text().split())
    assert all(result.why in out and result.why in text for result in results.values())
    assert "## The short answer" in text and "differ" not in text


def test_every_example_is_tested_and_says_what_one_will_see() -> None:
    tested = {name for name in Path(__file__).read_text().split('"')}
    for path in FOLDER.glob("*.py"):
        assert path.stem in tested, f"{path.name} has no test"
        assert "You will see" in path.read_text(), path.name
