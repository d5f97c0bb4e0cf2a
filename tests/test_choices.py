"""What the user chooses: modules by name, class or function; the numbers of steps; epochs; and TensorBoard's pages."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from actdiag import ConfigError, Monitor
from actdiag.lightning import ActivationMonitor
from actdiag.report.read import read_runs
from tests.observing import last, on, run


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": [nn.ReLU, "4"]}, {"1", "4:in", "4"}),
        ({"exclude": [nn.Linear]}, {"1", "3"}),
        ({"include": [lambda name, module: isinstance(module, nn.Linear) and name != "0"]}, {"2:in", "2", "4"}),
        ({"include": [nn.Module], "exclude": ["2", nn.Tanh]}, {"0:in", "0", "1", "4"}),
    ],
)
def test_R58_modules_are_chosen_by_name_class_or_function(options: dict[str, Any], expected: set[str]) -> None:
    assert set(last(run(small, on(torch.randn(3, 4)), **options)).sites) - {"Sequential"} == expected


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        ("0", "include must be a list of name patterns"),
        ([3], "include must be a list of name patterns"),
        ([nn.Conv2d], "leave no module to observe"),
        ([lambda name: True], r"functions of \(name, module\).*raised TypeError"),
    ],
)
def test_R58_a_selector_that_cannot_work_is_refused(selectors: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Monitor(small(), include=selectors)


def test_R15_a_plain_loop_numbers_its_steps_and_never_goes_back(caplog: pytest.LogCaptureFixture) -> None:
    model = small()
    with Monitor(model, log_every_n_steps=1, max_overhead=None) as monitor:
        for number in (10, 20, 15, 15, 21, 21):
            model(torch.randn(3, 4)).sum().backward()
            monitor.step(number)
    assert [snapshot.step for snapshot in monitor.snapshots] == [10, 20, 21]
    assert caplog.text.count("steps that go back are left out") == 1


class Lit(pytorch_lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(6, 4)), batch_size=2)


def test_R15_the_epoch_is_written_at_the_same_steps(tmp_path: Path) -> None:
    callback = ActivationMonitor(log_every_n_steps=1, max_overhead=None)
    logger = pytorch_lightning.loggers.TensorBoardLogger(tmp_path)
    pytorch_lightning.Trainer(
        max_epochs=2, logger=logger, callbacks=[callback], enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    ).fit(Lit())  # fmt: skip
    assert [(s.step, s.epoch) for s in callback.snapshots] == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]
    log = EventAccumulator(logger.log_dir).Reload()
    assert [(e.step, e.value) for e in log.Scalars("actdiag/epoch")] == [(s.step, s.epoch) for s in callback.snapshots]
    (read,) = read_runs(logger.log_dir)
    assert read.snapshots[-1].epoch == 1


def layouts(path: Path) -> list[Any]:
    log = EventAccumulator(str(path)).Reload()
    if metadata.CONFIG_SUMMARY_TAG not in log.Tags()["tensors"]:
        return []
    found = [layout_pb2.Layout() for _ in log.Tensors(metadata.CONFIG_SUMMARY_TAG)]
    for layout, event in zip(found, log.Tensors(metadata.CONFIG_SUMMARY_TAG), strict=True):
        layout.ParseFromString(event.tensor_proto.string_val[0])
    return found


def test_R54_a_run_of_our_own_has_one_page_of_custom_scalars_and_a_callers_none(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path / "theirs"))
    monitor = run(small, on(torch.randn(3, 4)), steps=3, log_dir=tmp_path / "ours", prefix="a.b", writers=[writer])
    writer.close()
    assert monitor.latest is not None
    (layout,) = layouts(tmp_path / "ours")
    (category,) = layout.category
    charts = {chart.title: chart.multiline.tag[0] for chart in category.chart}
    assert charts["grad_rms"] == r"^a\.b\.actdiag_grad_rms/.*" and len(charts) == 7
    assert layouts(tmp_path / "theirs") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "theirs"], "no directory for a curve"


def test_R45_tensorboard_starts_beside_the_setuptools_that_torch_brings() -> None:
    project = Path(__file__).parent.parent / "pyproject.toml"
    assert '"tensorboard>=2.21"' in project.read_text(encoding="utf-8")
    assert int(importlib.metadata.version("setuptools").partition(".")[0]) >= 82, "else this shows nothing"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tensorboard.main", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, importlib.metadata.version("tensorboard"))
