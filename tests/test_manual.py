"""Every number has a manual, and what the manual says of None is so."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from actdiag import Monitor
from actdiag.cli import main
from actdiag.diagnose.judge import RULES
from actdiag.manual import ENTRIES, FIELDS, entry_of, manual_of, numbers
from actdiag.snapshot import ParameterStats, SiteStats, Snapshot, stat_fields


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


def recorded(model: nn.Module, x: torch.Tensor | None = None) -> Snapshot:
    with Monitor(model, log_every_n_steps=1, max_overhead=None) as monitor:
        out = model(torch.randn(6, 4) if x is None else x)
        if out.requires_grad:
            out.sum().backward()
        monitor.step()
    assert monitor.latest is not None
    return monitor.latest


def missing(stats: SiteStats) -> set[str]:
    return {name for name in stat_fields(SiteStats) if getattr(stats, name) is None}


_COUNTED = ("dead_units", "suspect_units", "flickering_units", "seldom_units", "rare_units", "dying_units")
EVIDENCE = {name for entry in _COUNTED for name in ENTRIES[entry].names}
SATURATION = set(ENTRIES["saturated_fraction"].names)


def test_what_is_none_is_what_the_manual_says() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Tanh(), nn.ReLU6(), nn.LeakyReLU(), nn.Linear(8, 2))
    sites = recorded(model).sites
    assert missing(sites["0"]) == EVIDENCE - {"units"} | SATURATION | {"gate_mean"}
    assert missing(sites["1"]) == EVIDENCE - {"units", "evidence_samples"} | SATURATION
    assert missing(sites["2"]) == EVIDENCE - {"units", "evidence_samples"}
    assert missing(sites["3"]) == EVIDENCE - {"units", "evidence_samples"} | {"saturated_low"}
    assert missing(sites["4"]) == EVIDENCE - {"units"} | SATURATION


def test_of_what_is_not_finite_only_the_count_is_told() -> None:
    stats = recorded(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), torch.full((6, 4), math.nan)).sites["1"]
    assert (stats.n, stats.nonfinite, stats.samples) == (48, 48, 6)
    moments = {"mean", "std", "rms", "low", "high", "zero_fraction", "mean_energy"}
    assert moments | SATURATION | {"gate_mean"} <= missing(stats)


def test_a_constant_zero_has_no_mean_energy_and_one_sample_is_all_mean() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    assert recorded(model, torch.randn(1, 4)).sites["0"].mean_energy == 1
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    assert recorded(model).sites["1"].mean_energy is None


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
