"""What the README says can be done, can be done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import actdiag
from actdiag.config import Options
from actdiag.diagnose.judge import RULES
from actdiag.snapshot import ParameterStats, SiteStats, Snapshot

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = re.findall(r"^    (make .*|actdiag .*|tensorboard .*)$", README, flags=re.MULTILINE)
    return [line.partition("#")[0].strip() for line in lines]


def test_code_stands_on_the_first_screen_and_a_picture_exists() -> None:
    lines = README.splitlines()
    assert min(i for i, line in enumerate(lines) if line.startswith("```python")) < 15
    for image in re.findall(r"!\[[^]]+\]\(([^)]+)\)", README):
        assert (ROOT / image).stat().st_size > 20_000


def test_the_plain_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    known = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss_fn": nn.CrossEntropyLoss(),
        "loader": [(torch.randn(6, 4), torch.zeros(6, dtype=torch.long))] * 3,
    }
    (code,) = [block for block in blocks("python") if "Monitor(" in block and "Activation" not in block]
    exec(compile(code, "README.md", "exec"), known)
    assert list((tmp_path / "runs" / "relu").glob("*tfevents*"))


def test_the_check_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.Softmax(1))
    known = {
        "actdiag": actdiag, "model": model, "loss_fn": nn.CrossEntropyLoss(), "x": torch.randn(6, 4),
        "y": torch.zeros(6, dtype=torch.long), "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }  # fmt: skip
    (code,) = [block for block in blocks("python") if "actdiag.check" in block]
    exec(compile(code, "README.md", "exec"), known)
    assert "the outputs are probabilities already" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
def test_the_lightning_example_runs_as_it_stands() -> None:
    import pytorch_lightning

    (code,) = [block for block in blocks("python") if "actdiag.lightning" in block]
    exec(compile(code, "README.md", "exec"), {"Trainer": pytorch_lightning.Trainer})


def test_the_example_of_hugging_faces_trainer_runs_as_it_stands(tmp_path: Path) -> None:
    from tests.trainers import Net, Trainer, TrainerCallback, TrainingArguments, dataset

    class Trained(Trainer):  # type: ignore[misc]
        def __init__(self, model: nn.Module, args: TrainingArguments, callbacks: list[TrainerCallback]) -> None:
            super().__init__(model=model, args=args, callbacks=callbacks, train_dataset=dataset())
            self.train()
            told.append(callbacks[0])

    told: list[Any] = []
    given = {"output_dir": str(tmp_path), "use_cpu": True, "max_steps": 1, "report_to": "none", "disable_tqdm": True}
    args = TrainingArguments(**given, dataloader_pin_memory=False, save_strategy="no")
    (code,) = [block for block in blocks("python") if "actdiag.transformers" in block]
    exec(compile(code, "README.md", "exec"), {"Trainer": Trained, "model": Net(), "args": args})
    assert [snapshot.step for snapshot in told[0].snapshots] == [1]


def test_the_example_of_ignite_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ignite.engine import create_supervised_trainer

    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())
    known: dict[str, Any] = {"trainer": trainer, "model": model, "optimizer": optimizer}
    (code,) = [block for block in blocks("python") if "actdiag.ignite" in block]
    exec(compile(code, "README.md", "exec"), known)
    trainer.run([(torch.randn(6, 4), torch.zeros(6, dtype=torch.long))])
    assert known["handle"].latest.step == 1 and list((tmp_path / "runs" / "ignite").glob("*tfevents*"))


def test_every_command_is_one_that_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = commands()
    assert {"make demo", "make test"} <= set(named)
    for command in named:
        program, verb, *_ = command.split()
        if program == "make":
            assert verb in targets, command
        elif program == "actdiag":
            done = subprocess.run([sys.executable, "-m", "actdiag", verb, "--help"], capture_output=True, text=True)
            assert done.returncode == 0, command


@pytest.mark.slow
def test_the_commands_run_in_their_order(tmp_path: Path) -> None:
    for command in commands():
        program, *arguments = command.split()
        if program != "actdiag":
            continue
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "actdiag", *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
        )
        assert done.returncode == (1 if "--fail-on" in arguments else 0), command + done.stderr
        assert done.stdout


def test_the_readme_names_every_number_and_every_finding() -> None:
    named = set(re.findall(r"`([a-z_0-9-]+)`", README))
    assert set(RULES) <= named
    told = {
        spec.name for kind in (SiteStats, ParameterStats, Snapshot) for spec in fields(kind) if "doc" in spec.metadata
    }
    left_out = {"n", "samples", "units", "evidence_samples", "first_death_step", "skipped_steps"}
    derived = {"dead_fraction", "revived_units", "saturated_low", "saturated_high"}
    assert told - left_out - derived <= named


def test_figures_of_the_benchmark_are_those_of_its_page() -> None:
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8").partition("## Set `second`")[2]
    rows = [line.split("|")[1:5] for line in page.splitlines() if re.match(r"\| (actdiag|[A-Z]\w+( \w+)?) \|", line)]
    found = {name.strip(): (kind.strip(), alarms.strip()) for name, kind, _, alarms in rows}
    (right, told), others = found["actdiag"], [found[name] for name in found if not name.startswith("actdiag")]
    wrong, healthy = told.split(" of ")
    kinds, alarms = (sorted(int(text.split()[0]) for text in column) for column in zip(*others, strict=True))
    text = " ".join(README.split())
    assert (
        f"the right kind of fault in {right} runs and raises {wrong} false alarm in {healthy}".replace(" 0 ", " no ")
        in text
    )
    assert f"{len(others)} other tools' rules".replace("4 other", "four other") in text
    assert f"name {kinds[0]} to {kinds[-1]}, with {alarms[0]} to {alarms[-1]} false alarms" in text


def test_options_named_in_the_readme_exist() -> None:
    known = {spec.name for spec in fields(Options)}
    for name in re.findall(r"`?([a-z_]+)=", README):
        assert name in known | {"callbacks", "log_dir", "writers"}, name
    assert "window_samples" in known and "2,048" in README
    assert Options().window_samples == 2048 and Options().watch_every_n_steps == 4 and Options().log_every_n_steps == 50


def test_the_wheel_is_described_completely() -> None:
    changelog, version = (ROOT / "CHANGELOG.md").read_text(), (ROOT / "pyproject.toml").read_text()
    assert f'version = "{actdiag.__version__}"' in version
    assert "Unreleased" in changelog
    assert (ROOT / "actdiag" / "py.typed").exists()


def test_no_placeholder_is_left_in_the_readme() -> None:
    assert not re.search(r"\{[a-z_]+\}", README)


def test_the_costs_in_the_readme_are_those_that_were_measured() -> None:
    page = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    measured: dict[tuple[str, str], list[float]] = {}
    for model, variant, ratio in re.findall(r"^\| (\w+), \d+, [\d.]+ ms \| (.+?) \| ([\d.]+) \|", page, re.MULTILINE):
        measured.setdefault((model, variant), []).append(float(ratio))
    table = README[README.index("## What it costs") : README.index("## Several processes")]
    told = re.findall(r"^\| \**(.+?)\** \| ([\d.]+) \| ([\d.]*) ?\| ([\d.]*) ?\| ([\d.]*) ?\|$", table, re.MULTILINE)
    assert len(told) == 6
    names = {
        "every step, no C compiler": "every step, without the kernel",
        "`wandb.watch`, every step": "wandb.watch (all, offline), every step",
    }
    for name, *ratios in told:
        for model, ratio in zip(("mlp", "lstm", "cnn", "gpt"), ratios, strict=True):
            known = measured.get((model, names.get(name, name)), [])
            assert not ratio or float(ratio) in [round(value, len(ratio.partition(".")[2])) for value in known], (
                name,
                model,
            )
