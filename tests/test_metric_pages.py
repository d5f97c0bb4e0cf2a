"""Every number has a manual and a page, and what the manual says of None is so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from actdiag import Monitor
from actdiag.cli import main
from actdiag.diagnose.judge import RULES
from actdiag.manual import ENTRIES, FIELDS, entry_of, manual_of, numbers
from actdiag.snapshot import ParameterStats, SiteStats, Snapshot, stat_fields
from actdiag.write.pack import pack
from tests import metric_pages


def test_the_pages_are_those_of_the_numbers() -> None:
    assert metric_pages.stale() == [], f"run: {metric_pages.COMMAND}"
    assert len(metric_pages.pages()) == len(ENTRIES) + 1


@pytest.mark.parametrize("kind, of", [(SiteStats, "site"), (ParameterStats, "parameter"), (Snapshot, "step")])
def test_every_number_of_a_snapshot_is_explained_once_and_no_other(kind: type, of: str) -> None:
    explained = [name for entry in ENTRIES.values() if entry.of == of for name in entry.names]
    assert sorted(explained) == sorted(FIELDS[of]) and set(stat_fields(kind)) <= set(explained)


def test_every_entry_says_all_and_names_rules_that_exist() -> None:
    for name, entry in ENTRIES.items():
        assert all((entry.formula, entry.values, entry.healthy, entry.none, entry.source)), name
        assert set(entry.rules) <= set(RULES), name
    spoken_of = {rule for entry in ENTRIES.values() for rule in entry.rules}
    assert set(RULES) == spoken_of


def test_every_tag_on_a_page_is_one_that_is_written() -> None:
    told = {tag for entry in ENTRIES.values() for tag in metric_pages.tags_of(entry)}
    curves = {tag for tag in metric_pages._model_curves() if tag != "actdiag/findings_open"}
    on_pages = {tag for tag in curves if any(metric_pages._belongs(tag, entry) for entry in ENTRIES.values())}
    assert on_pages == curves, "each curve of the model belongs to a number"
    assert {f"actdiag/stat/{name}" for name in stat_fields(SiteStats)} <= told
    assert set(pack(_snapshot())) <= told


def _snapshot() -> Snapshot:
    return _recorded(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))


def _recorded(model: nn.Module, x: torch.Tensor | None = None) -> Snapshot:
    with Monitor(model, log_every_n_steps=1, max_overhead=None) as monitor:
        out = model(torch.randn(6, 4) if x is None else x)
        if out.requires_grad:
            out.sum().backward()
        monitor.step()
    assert monitor.latest is not None
    return monitor.latest


def missing(stats: SiteStats) -> set[str]:
    return {name for name in stat_fields(SiteStats) if getattr(stats, name) is None}


_COUNTED = ("dead_units", "suspect_units", "rare_units", "dying_units")
EVIDENCE = {name for entry in _COUNTED for name in ENTRIES[entry].names}
SATURATION = set(ENTRIES["saturated_fraction"].names)


def test_what_is_none_is_what_the_manual_says() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Tanh(), nn.ReLU6(), nn.LeakyReLU(), nn.Linear(8, 2))
    sites = _recorded(model).sites
    assert missing(sites["0"]) == EVIDENCE - {"units"} | SATURATION | {"gate_mean"}
    assert missing(sites["1"]) == EVIDENCE - {"units", "evidence_samples"} | SATURATION
    assert missing(sites["2"]) == EVIDENCE - {"units", "evidence_samples"}
    assert missing(sites["3"]) == EVIDENCE - {"units", "evidence_samples"} | {"saturated_low"}
    assert missing(sites["4"]) == EVIDENCE - {"units"} | SATURATION


def test_of_what_is_not_finite_only_the_count_is_told() -> None:
    stats = _recorded(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), torch.full((6, 4), math.nan)).sites["1"]
    assert (stats.n, stats.nonfinite, stats.samples) == (48, 48, 6)
    moments = {"mean", "std", "rms", "low", "high", "zero_fraction", "mean_energy"}
    assert moments | SATURATION | {"gate_mean"} <= missing(stats)


def test_a_constant_zero_has_no_mean_energy_and_one_sample_is_all_mean() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    assert _recorded(model, torch.randn(1, 4)).sites["0"].mean_energy == 1
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    assert _recorded(model).sites["1"].mean_energy is None


# In a terminal ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", numbers())
def test_every_number_is_explained_in_a_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    out = capsys.readouterr().out
    assert f"{name}: " in out and all(f"\n{part}: " in out for part in ("Formula", "Values", "Healthy", "None and NaN"))


def test_a_name_that_is_nearly_one_is_answered_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "mean_enrgy"]) == 2
    assert "did you mean mean_energy?" in capsys.readouterr().err
    assert entry_of("nothing") is None and manual_of("nothing") is None


def test_a_page_that_is_stale_missing_or_of_no_number_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_pages, "DOCS", tmp_path)
    (tmp_path / "metrics").mkdir()
    for name, text in metric_pages.pages().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert metric_pages.stale() == []
    (tmp_path / "metrics" / "n.md").write_text("old", encoding="utf-8")
    (tmp_path / "metrics.md").unlink()
    (tmp_path / "metrics" / "gone.md").write_text("old", encoding="utf-8")
    assert metric_pages.stale() == ["metrics.md", "metrics/gone.md", "metrics/n.md"]
