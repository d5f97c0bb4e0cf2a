"""A loss scaler that was in use before the monitor, or is loaded meanwhile: what it skipped before is not ours."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor
from tests.regimes import regime

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as unified
    import pytorch_lightning as classic

    from actdiag.lightning import ActivationMonitor

EVERY: dict[str, Any] = {"log_every_n_steps": 1, "max_overhead": None}


def batch(step: int) -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(step))


class Loop:
    """A model, its optimizer and a scaler of 1,024, trained a few iterations at a time."""

    def __init__(self, scale: float = 1024.0) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

    def monitor(self, *, given: bool = False, **options: Any) -> Monitor:
        more = {"grad_scaler": self.scaler} if given else {}
        return Monitor(self.model, self.optimizer, **{**EVERY, **more, **options})

    def train(self, steps: int, overflow_at: Collection[int] = ()) -> None:
        for step in range(steps):
            self.optimizer.zero_grad()
            loss = self.model(batch(step)).square().mean() * (float("inf") if step in overflow_at else 1.0)
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()


def told(monitor: Monitor) -> list[tuple[int, int | None]]:
    return [(s.step, s.skipped_steps) for s in monitor.snapshots]


@regime(
    "mixed precision",
    "a scaler that was in use before: a notebook's second monitor, `load_state_dict` of monitor or scaler",
    exact="skipped_steps counts from there on, from 0 or from what was saved",
    approximate="what was skipped between the last recorded step and a scaler's own load_state_dict is not counted",
    proves=("R12", "R60", "C20"),
)
@pytest.mark.parametrize("given", [False, True])
def test_R12_a_second_monitor_counts_only_what_is_skipped_while_it_looks(given: bool) -> None:
    loop = Loop()
    with loop.monitor() as first:
        loop.train(8, {2, 3, 4})
    assert first.latest is not None and first.latest.skipped_steps == 3
    with loop.monitor(given=given) as second:
        loop.train(5, {3})
    # Not given, it shows itself only in the first step: that one may hold iterations that were skipped.
    assert told(second) == ([(0, 0)] if given else []) + [(1, 0), (2, 0), (3, 1)]


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_R12_a_state_loaded_beside_a_scaler_in_use_does_not_count_twice(given: bool, new: bool) -> None:
    loop = Loop()
    monitor = loop.monitor(given=given)
    loop.train(8, {2, 3, 4})
    state = monitor.state_dict()
    if new:
        monitor.close()
        monitor = loop.monitor(given=given)
    monitor.load_state_dict(state)
    loop.train(5, {1})
    monitor.close()
    assert monitor.latest is not None
    assert (monitor.latest.step, monitor.latest.skipped_steps) == (8, 4), "3 before and 1 after"


@pytest.mark.parametrize("given", [False, True])
def test_R12_a_scaler_that_is_loaded_meanwhile_has_skipped_nothing_by_it(given: bool) -> None:
    loop = Loop()
    monitor = loop.monitor(given=given)
    loop.train(4, {1})
    saved, state = loop.scaler.state_dict(), monitor.state_dict()
    loop.train(6, {1, 2})
    assert monitor.latest is not None and monitor.latest.skipped_steps == 3
    loop.scaler.load_state_dict(saved)
    loop.train(3)
    loop.train(3, {1})
    assert [s.skipped_steps for s in monitor.snapshots[-5:]] == [3, 3, 3, 3, 4]
    loop.scaler.load_state_dict(saved)
    monitor.close()
    with loop.monitor(given=given) as again:
        again.load_state_dict(state)
        loop.train(4, {2})
    assert again.latest is not None and (again.latest.step, again.latest.skipped_steps) == (5, 2), "1 saved, 1 now"


def test_R12_a_new_scaler_that_skips_before_it_shows_itself_is_counted_from_its_making() -> None:
    loop = Loop()
    with loop.monitor() as monitor:
        loop.train(8, {0, 1, 2})
    assert told(monitor) == [(step, 3) for step in range(1, 5)]


# Lightning ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("L", [classic, unified], ids=["pytorch_lightning", "lightning.pytorch"])
def test_R11_R32_a_scale_that_grows_between_two_optimizers_of_a_lightning_gan_is_of_each_its_own(
    L: Any, tmp_path: Path
) -> None:
    truth: dict[str, list[float]] = {"d": [], "g": []}

    class Gan(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            torch.manual_seed(1)
            self.g, self.d = nn.Linear(4, 4), nn.Linear(4, 1)

        def training_step(self, given: Any, index: int) -> None:
            for name, optimizer in zip("gd", self.optimizers(), strict=True):
                fake = self.g(given[0])
                loss = self.d(fake if name == "g" else fake.detach()).float().square().mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                squares = sum(float(p.grad.double().square().sum()) for p in getattr(self, name).parameters())
                truth[name].append(squares**0.5 / self.trainer.precision_plugin.scaler.get_scale())
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(getattr(self, name).parameters(), lr=0.01) for name in "gd"]

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(48, 4)), batch_size=6)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
    callback = ActivationMonitor(**EVERY)
    L.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[callback], default_root_dir=tmp_path, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        plugins=L.plugins.MixedPrecision("16-mixed", "cpu", scaler),
    ).fit(Gan(), loader)  # fmt: skip
    assert [s.step for s in callback.snapshots] == list(range(8))
    for name in "gd":
        norms = [
            sum((p.grad_norm or 0.0) ** 2 for key, p in s.parameters.items() if key.startswith(f"{name}.")) ** 0.5
            for s in callback.snapshots
        ]
        assert norms == pytest.approx(truth[name], rel=1e-5)
    assert [s.skipped_steps for s in callback.snapshots] == [0] * 8
