"""Several monitors in one run: each prefix has its own tags, its own run in the report, and one monitor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from actdiag import ConfigError, Monitor, TensorBoardWriter
from actdiag.cli import main
from actdiag.report.read import ReadError, read_runs
from tests.regimes import regime


def small() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 4)).square().mean().backward()
        optimizer.step()


def tags(folder: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = folder.glob("*tfevents*")
    return {v.tag for path in files for event in EventFileLoader(str(path)).Load() for v in event.summary.value}


@pytest.mark.parametrize("prefix", ["", "gan_d", "D-1.b", "_"])
def test_R32_a_prefix_of_letters_digits_and_a_few_signs_is_taken(prefix: str) -> None:
    Monitor(small()[0], prefix=prefix).close()


@pytest.mark.parametrize("prefix", ["a/b", "a b", "ä", "a\n", "<b>", 3, None])
def test_R32_another_prefix_is_refused_with_what_is_allowed(prefix: Any) -> None:
    with pytest.raises(ConfigError, match="prefix must be letters, digits") as error:
        Monitor(small()[0], prefix=prefix)
    assert repr(prefix) in str(error.value)


def test_R32_a_prefix_names_the_groups_of_all_tags_and_the_run_in_the_report(tmp_path: Path, capsys: Any) -> None:
    model, optimizer = small()
    options: dict[str, Any] = {"log_dir": tmp_path, "log_every_n_steps": 1, "max_overhead": None}
    with Monitor(model, optimizer, prefix="gan_d", **options) as monitor:
        train(model, optimizer)
    assert {tag.partition("actdiag")[0] for tag in tags(tmp_path)} == {"gan_d.", "custom_scalars__config__"}
    assert {"gan_d.actdiag/findings_open", "gan_d.actdiag_rms/0", "gan_d.actdiag/report"} <= tags(tmp_path)
    (run,) = read_runs(tmp_path)
    assert run.name == f"{tmp_path.name} (gan_d)" and list(run.snapshots) == monitor.snapshots
    assert main(["report", str(tmp_path)]) == 0
    assert "(gan_d)" in capsys.readouterr().out


@regime(
    "never in the way",
    "two monitors of two models in one SummaryWriter",
    exact="with different prefixes each has its own curves",
    not_observed="with the same prefix the second writes nothing, with one warning",
    proves=("R32",),
)
@pytest.mark.parametrize("second", ["d", "g"])
def test_R32_two_monitors_share_a_summary_writer_by_prefix(
    tmp_path: Path, second: str, caplog: pytest.LogCaptureFixture
) -> None:
    (d, d_optimizer), (g, g_optimizer) = small(), small()
    options: dict[str, Any] = {"log_every_n_steps": 1, "max_overhead": None}
    with SummaryWriter(str(tmp_path)) as writer:
        with (
            Monitor(d, d_optimizer, writers=[writer], prefix="d", **options) as first,
            Monitor(g, g_optimizer, writers=[writer], prefix=second, **options) as other,
        ):
            train(d, d_optimizer)
            train(g, g_optimizer)
        taken = sum("another monitor writes to the same logger" in r.getMessage() for r in caplog.records)
        runs = {run.name.rpartition(" ")[2]: list(run.snapshots) for run in read_runs(tmp_path)}
        if second == "g":
            assert runs == {"(d)": first.snapshots, "(g)": other.snapshots} and taken == 0
            return
        assert runs == {"(d)": first.snapshots} and taken == 1 and len(other.snapshots) == 3
        with Monitor(g, g_optimizer, writers=[writer], prefix=second, **options):
            train(g, g_optimizer, 1)
        assert sum("another monitor" in r.getMessage() for r in caplog.records) == 1, "closed, it is free again"


@pytest.mark.parametrize("front", ["x", "<b>.", "a/b.", "a b."])
def test_what_only_looks_like_a_prefix_is_somebody_elses(tmp_path: Path, front: str) -> None:
    model, optimizer = small()
    writer = TensorBoardWriter(tmp_path)
    writer._front = front
    with Monitor(model, optimizer, writers=[writer]):
        train(model, optimizer)
    with pytest.raises(ReadError, match="no actdiag data"):
        read_runs(tmp_path)
