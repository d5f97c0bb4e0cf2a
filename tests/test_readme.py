"""What the README says can be done, can be done."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import actdiag
from actdiag.config import Options
from actdiag.diagnose.judge import RULES
from actdiag.snapshot import ParameterStats, SiteStats, Snapshot

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def test_code_stands_on_the_first_screen_and_a_picture_exists() -> None:
    lines = README.splitlines()
    assert min(i for i, line in enumerate(lines) if line.startswith("```python")) < 15
    for image in re.findall(r"!\[[^]]+\]\(([^)]+)\)", README):
        assert (ROOT / image).stat().st_size > 20_000


def test_the_first_commands_are_those_of_make() -> None:
    assert README.index("make demo") < README.index("make test") < README.index("actdiag demo")


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
    assert len(told) == 7
    names = {
        "defaults**, first 2 s": "defaults",
        "defaults**, later": "defaults, later",
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
