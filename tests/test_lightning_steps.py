"""Lightning: points at the logger's own steps, resumed fits, two callbacks, and batches that make no step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from actdiag import Snapshot
from actdiag.report.read import read_runs
from tests.conftest import assert_untouched
from tests.regimes import regime
from tests.test_resume import OPTIONS, kill, timeless
from tests.test_resume import Net as Dying

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as unified
    import pytorch_lightning as classic

    from actdiag.lightning import ActivationMonitor

pytestmark = pytest.mark.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parent.parent
NAMESPACES = {"pytorch_lightning": classic, "lightning.pytorch": unified}


@pytest.fixture(params=NAMESPACES)
def L(request: pytest.FixtureRequest) -> Any:
    return NAMESPACES[request.param]


def module(
    L: Any, *, gan: bool = False, none_at: tuple[int, ...] = (), lbfgs: bool = False, stop_at: Any = None
) -> Any:
    class Module(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.g = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
            self.d = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
            self.automatic_optimization = not gan

        def on_train_batch_start(self, batch: Any, index: int) -> Any:
            return -1 if index == stop_at else None

        def training_step(self, batch: Any, index: int) -> Any:
            loss = self.d(self.g(batch[0])).square().mean()
            self.log("loss", loss)
            if not gan:
                return None if index in none_at else loss
            for optimizer in self.optimizers():
                self.toggle_optimizer(optimizer)
                optimizer.zero_grad()
                self.manual_backward(self.d(self.g(batch[0])).square().mean())
                optimizer.step()
                self.untoggle_optimizer(optimizer)
            return None

        def validation_step(self, batch: Any, index: int) -> None:
            self.g(batch[0] + 100)

        def configure_optimizers(self) -> Any:
            if lbfgs:
                return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)
            if not gan:
                return torch.optim.SGD(self.parameters(), lr=0.05)
            return [torch.optim.SGD(net.parameters(), lr=0.05) for net in (self.d, self.g)]

    return Module()


def loader(n: int = 48, size: int = 4) -> Any:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=size)


def fit(
    L: Any, path: Path, *callbacks: Any, model: Any = None, data: Any = None, ckpt: Any = None, **options: Any
) -> Any:
    trainer = L.Trainer(
        accelerator="cpu", callbacks=list(callbacks), default_root_dir=path, enable_progress_bar=False,
        **{"enable_model_summary": False, "enable_checkpointing": False, "logger": False, "max_epochs": 1, **options},
    )  # fmt: skip
    model = module(L) if model is None else model
    trainer.fit(model, data or loader(), loader(8), ckpt_path=ckpt)
    assert_untouched(model)
    return trainer


def every_step(**options: Any) -> Any:
    return ActivationMonitor(**{"log_every_n_steps": 1, "max_overhead": None, **options})


def steps(callback: Any) -> list[int]:
    return [snapshot.step for snapshot in callback.snapshots]


def scalars(folder: Path) -> list[tuple[str, int]]:
    """Tag and step of every value in the event files of a folder."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = []
    for path in sorted(folder.glob("*tfevents*")):
        for event in EventFileLoader(str(path)).Load():
            found += [(value.tag, event.step) for value in event.summary.value]
    return found


# The x-axis -----------------------------------------------------------------------------------------------


@regime(
    "Lightning",
    "the x-axis: plain, accumulate_grad_batches=4, a GAN with two optimizers, a resumed fit",
    exact="points lie at the steps of the trainer's own logger, never two at one",
    proves=("R13", "R14", "C40"),
)
@pytest.mark.parametrize("kind", ["plain", "accumulated", "gan", "resumed"])
def test_R13_points_lie_at_the_loggers_own_steps(L: Any, tmp_path: Path, kind: str) -> None:
    logger = L.loggers.TensorBoardLogger(str(tmp_path))
    callback = every_step()
    options: dict[str, Any] = {"log_every_n_steps": 1}
    if kind == "accumulated":
        options["accumulate_grad_batches"] = 4
    trainer = fit(L, tmp_path, callback, model=module(L, gan=kind == "gan"), logger=logger, **options)
    expected = list(range(3 if kind == "accumulated" else 12))
    if kind == "resumed":
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        logger = L.loggers.TensorBoardLogger(str(tmp_path))
        callback = every_step()
        trainer = fit(L, tmp_path, callback, logger=logger, ckpt=tmp_path / "last.ckpt", max_epochs=2, **options)
        expected = list(range(12, 24))
    values = scalars(Path(trainer.logger.log_dir))
    ours = {step for tag, step in values if tag == "actdiag/findings_open"}
    assert sorted(ours) == expected == steps(callback)
    assert ours <= {step for tag, step in values if tag.startswith("loss")}
    assert max(Counter(values).values()) == 1, "never two values for one tag and step"


@regime(
    "Lightning",
    "LBFGS, whose training_step runs several times a batch",
    exact="one point a batch, counted once",
    proves=("R14", "C40"),
)
def test_R14_lbfgs_gives_one_point_a_batch(L: Any, tmp_path: Path) -> None:
    logger, callback = L.loggers.TensorBoardLogger(str(tmp_path)), every_step()
    trainer = fit(L, tmp_path, callback, model=module(L, lbfgs=True), logger=logger)
    assert steps(callback) == list(range(12))
    assert {s.sites["g.0"].samples for s in callback.snapshots} == {4}
    ours = Counter(v for v in scalars(Path(trainer.logger.log_dir)) if v[0].startswith("actdiag"))
    assert max(ours.values()) == 1


# Batches that make no step --------------------------------------------------------------------------------


@regime(
    "Lightning",
    "training_step returns None, although on_before_optimizer_step runs with old gradients",
    exact="nothing is recorded of that batch, the next is",
    proves=("C40",),
)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("none_at", [(0,), (3,), (3, 4), (11,), tuple(range(12))])
def test_R14_a_training_step_that_returns_none_is_not_recorded(
    L: Any, tmp_path: Path, none_at: tuple[int, ...], every: int
) -> None:
    callback = every_step(log_every_n_steps=every)
    fit(L, tmp_path, callback, model=module(L, none_at=none_at))
    expected = [i for i in range(12) if i not in none_at]
    if every == 1:
        assert steps(callback) == expected
    else:
        assert set(steps(callback)) <= set(expected) and (len(steps(callback)) >= 4 or not expected)
    for snapshot in callback.snapshots:
        assert snapshot.sites["g.0"].samples == 4
        assert {p.state for p in snapshot.parameters.values()} == {"trained"}


def test_R14_none_under_a_scaler_is_not_recorded_either(L: Any, tmp_path: Path) -> None:
    plugin = L.plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))
    callback = every_step()
    fit(L, tmp_path, callback, model=module(L, none_at=(0, 4)), plugins=plugin)
    assert steps(callback) == [1, 2, 3, *range(5, 12)]
    assert {s.skipped_steps for s in callback.snapshots} == {0}


@regime(
    "Lightning",
    "LightningModule.on_train_batch_start returns -1: a batch that starts and does not end",
    exact="the step begins anew in the next epoch",
    proves=("C40",),
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_R14_a_batch_that_is_cut_short_begins_anew(L: Any, tmp_path: Path, accumulate: int) -> None:
    class Runs(L.Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            pl_module.g(torch.full((100, 4), 50.0))

    callback = every_step()
    fit(
        L, tmp_path, callback, Runs(), model=module(L, stop_at=4), max_epochs=3, accumulate_grad_batches=accumulate,
        num_sanity_val_steps=0,
    )  # fmt: skip
    assert steps(callback) == list(range(len(steps(callback)))) and len(steps(callback)) >= 6
    for snapshot in callback.snapshots:
        assert snapshot.sites["g.0:in"].samples == 4 * accumulate and snapshot.sites["g.0:in"].high < 40  # type: ignore[operator]


# Beside other callbacks -----------------------------------------------------------------------------------


@regime(
    "Lightning",
    "other callbacks run the model in training mode in on_train_batch_end",
    exact="their passes are not recorded, whatever the order of callbacks (automatic optimization)",
    approximate="manual optimization: only if the other callback comes after ours",
    proves=("C40",),
)
@pytest.mark.parametrize("ours_first", [True, False])
def test_R74_forwards_of_other_callbacks_are_not_training(L: Any, tmp_path: Path, ours_first: bool) -> None:
    class Runs(L.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            assert pl_module.training
            pl_module.g(torch.full((100, 4), 50.0)).sum().backward()

    callbacks = [every_step(), Runs()]
    fit(L, tmp_path, *(callbacks if ours_first else callbacks[::-1]))
    for snapshot in callbacks[0].snapshots:
        assert snapshot.sites["g.0"].samples == 4 and snapshot.sites["g.0:in"].high < 40


@regime(
    "Lightning",
    "StochasticWeightAveraging, and gradient clipping by value and by norm",
    exact="one point a step, gradients before clipping, the copies record nothing",
    proves=("R21", "R29", "C34"),
)
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_R29_swa_and_clipping_beside_the_monitor(L: Any, tmp_path: Path, algorithm: str) -> None:
    swa, callback, plain = (
        L.callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1),
        every_step(),
        every_step(),
    )
    options = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm, "max_epochs": 3}
    fit(L, tmp_path, callback, swa, **options)
    fit(L, tmp_path, plain, max_epochs=3)
    assert steps(callback)[:24] == list(range(24))
    assert len(set(steps(callback))) == len(steps(callback))
    ours, theirs = callback.snapshots[0], plain.snapshots[0]
    assert ours.grad_norm_total == pytest.approx(theirs.grad_norm_total, rel=1e-6), "before clipping"
    assert theirs.clip_coefficient == 1.0
    if algorithm == "norm":
        assert ours.clip_coefficient == pytest.approx(1e-3 / ours.grad_norm_total, rel=1e-2)
    else:
        assert 0 < ours.clip_coefficient < 1
    assert {s.sites["g.0"].samples for s in callback.snapshots} == {4}


def test_R36_fast_dev_run_observes_and_writes_nothing(L: Any, tmp_path: Path) -> None:
    callback = every_step()
    fit(L, tmp_path, callback, fast_dev_run=3)
    assert steps(callback) == [0, 1, 2]
    assert not list(tmp_path.rglob("*tfevents*"))


# Two callbacks in one Trainer -----------------------------------------------------------------------------


@regime(
    "Lightning",
    "two callbacks with different prefixes in one Trainer and one logger",
    exact="each has its own tags and its own run in the report",
    proves=("R32", "R39"),
)
def test_R39_two_prefixes_share_a_logger_without_mixing(L: Any, tmp_path: Path) -> None:
    d, g = every_step(prefix="gan_d", include=["d.*"]), every_step(prefix="gan_g", include=["g.*"], log_every_n_steps=2)
    trainer = fit(L, tmp_path, d, g, model=module(L, gan=True), logger=L.loggers.TensorBoardLogger(str(tmp_path)))
    values = scalars(Path(trainer.logger.log_dir))
    assert max(Counter(v for v in values if "actdiag" in v[0]).values()) == 1
    groups = {tag.partition("/")[0] for tag, _ in values if "actdiag" in tag}
    assert {"gan_d.actdiag", "gan_g.actdiag", "gan_d.actdiag_rms", "gan_g.actdiag_rms"} <= groups
    assert not [group for group in groups if not group.startswith("gan_")]
    runs = {run.name.rpartition(" ")[2]: run for run in read_runs(tmp_path)}
    assert list(runs["(gan_d)"].snapshots) == d.snapshots and list(runs["(gan_g)"].snapshots) == g.snapshots
    assert set(d.snapshots[0].sites) == {"d.0:in", "d.0", "d.1", "d.2"}


def test_R39_two_with_one_prefix_warn_once_and_the_second_writes_nothing(
    L: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = every_step(), every_step(include=["d.*"])
    trainer = fit(L, tmp_path, first, second, logger=L.loggers.TensorBoardLogger(str(tmp_path)))
    told = [r.getMessage() for r in caplog.records if "another monitor writes to the same logger" in r.getMessage()]
    assert len(told) == 1 and "prefix=''" in told[0] and "prefix='gan_d'" in told[0]
    assert steps(second) == list(range(12)), "it observes all the same"
    assert max(Counter(v for v in scalars(Path(trainer.logger.log_dir)) if "actdiag" in v[0]).values()) == 1
    (run,) = read_runs(tmp_path)
    assert list(run.snapshots) == first.snapshots
    fit(L, tmp_path, every_step(), logger=trainer.logger)
    assert len([r for r in caplog.records if "another monitor" in r.getMessage()]) == 1, "a fit later it is free again"


def test_R39_the_state_key_is_one_for_each_configuration_and_the_same_in_every_process(L: Any, tmp_path: Path) -> None:
    def chosen(name: str, module: Any) -> bool:
        return True

    different = [
        ActivationMonitor(), ActivationMonitor(prefix="a"), ActivationMonitor(include=["x.*"]),
        ActivationMonitor(include=[chosen]), ActivationMonitor(exclude=[nn.ReLU]),
    ]  # fmt: skip
    keys = [callback.state_key for callback in different]
    assert len(set(keys)) == len(keys) and not any("0x" in key for key in keys)
    assert ActivationMonitor(window_samples=64, ignore=["off-center"]).state_key == ActivationMonitor().state_key, (
        "what does not say what is observed may change at a resume"
    )
    L.Trainer(callbacks=different, logger=False, accelerator="cpu", enable_checkpointing=False)
    with pytest.raises(RuntimeError, match="more than one stateful callback"):
        L.Trainer(callbacks=[ActivationMonitor(), ActivationMonitor()], logger=False, accelerator="cpu")


# Resume ---------------------------------------------------------------------------------------------------


def dying(L: Any) -> Any:
    class Module(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = Dying()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            if self.global_step == 2:
                kill(self.net, 10)
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Module()


def ten_batches() -> Any:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(320, 2, 16, generator=generator), torch.randint(0, 2, (320,), generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32)


@regime(
    "Lightning",
    "fit(ckpt_path=...), read with weights_only=True",
    exact="the later snapshots, dead units and their dates, evidence, findings: everything but times",
    proves=("R24", "R59"),
)
@pytest.mark.parametrize("every,epochs", [(1, 1), (3, 2), (7, 2)])
def test_R59_a_resumed_fit_is_the_fit_that_was_not_interrupted(L: Any, tmp_path: Path, every: int, epochs: int) -> None:
    options = {**OPTIONS, "log_every_n_steps": every}
    whole, first, second = (ActivationMonitor(**options) for _ in range(3))
    fit(L, tmp_path, whole, model=dying(L), data=ten_batches(), max_epochs=2 * epochs)
    checkpoint = L.callbacks.ModelCheckpoint(dirpath=tmp_path / "saved", save_last=True, every_n_epochs=1)
    fit(
        L, tmp_path, checkpoint, first, model=dying(L), data=ten_batches(), max_epochs=epochs, enable_checkpointing=True
    )
    fit(
        L,
        tmp_path,
        second,
        model=dying(L),
        data=ten_batches(),
        max_epochs=2 * epochs,
        ckpt=tmp_path / "saved/last.ckpt",
    )
    later = [timeless(s) for s in whole.snapshots if s.step >= 10 * epochs]
    assert later and [timeless(s) for s in second.snapshots] == later
    assert second.findings == whole.findings
    if epochs == 2:
        assert {s.sites["net.relu#0"].dead_units for s in second.snapshots} == {10}
        assert {s.sites["net.relu#0"].first_death_step for s in second.snapshots} == {2}


def test_R59_a_checkpoint_in_the_middle_of_an_accumulated_step_resumes(L: Any, tmp_path: Path) -> None:
    checkpoint = L.callbacks.ModelCheckpoint(dirpath=tmp_path / "saved", save_last=True, every_n_train_steps=2)
    callback = every_step()
    fit(L, tmp_path, checkpoint, callback, accumulate_grad_batches=3, enable_checkpointing=True, max_steps=2)
    again = every_step()
    fit(L, tmp_path, again, accumulate_grad_batches=3, ckpt=tmp_path / "saved/last.ckpt")
    assert steps(again) == [2, 3] and {s.sites["g.0"].samples for s in again.snapshots} == {12}


def test_R59_a_checkpoint_without_our_state_and_one_with_garbage_start_afresh(
    L: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = fit(L, tmp_path, every_step())
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    (key,) = [key for key in saved["callbacks"] if "ActivationMonitor" in key]
    for change, warned in (({}, 0), ({key: {"version": "abc"}}, 1), ({key: {"a": [torch.ones(3)]}}, 2)):
        saved["callbacks"] = change
        torch.save(saved, path)
        callback = every_step()
        fit(L, tmp_path, callback, ckpt=path, max_epochs=2)
        assert steps(callback) == list(range(12, 24)), "steps are the trainer's"
        assert sum("starting afresh" in r.getMessage() for r in caplog.records) == warned


def test_R59_a_new_fit_without_a_checkpoint_does_not_go_on_with_the_last_one(L: Any, tmp_path: Path) -> None:
    callback = ActivationMonitor(**{**OPTIONS, "log_every_n_steps": 1})
    for _ in range(2):
        fit(L, tmp_path, callback, model=dying(L), data=ten_batches())
        assert callback.snapshots[0].sites["net.first"].evidence_samples == 32
    assert callback.state_dict(), "it can be saved after a fit"
    callback.setup(None, None, "fit")
    assert not callback.state_dict(), "what a tuner saves before the next fit is not of the last one"


# Other ways in --------------------------------------------------------------------------------------------

CLI = """
import sys, warnings
warnings.simplefilter("ignore")
import {package} as L
from {package}.cli import LightningCLI
import torch
from torch import nn

class Module(L.LightningModule):
    def __init__(self, width: int = 8):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
    def training_step(self, batch, index):
        return self.net(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class Data(L.LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(48, 4)), batch_size=4)

if __name__ == "__main__":
    cli = LightningCLI(Module, Data, save_config_callback=None)
    import json
    ours = [c for c in cli.trainer.callbacks if type(c).__name__ == "ActivationMonitor"]
    print(json.dumps([[s.step for s in c.snapshots] for c in ours]))
"""

YAML = """
trainer:
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  log_every_n_steps: 3
  default_root_dir: {root}
  callbacks:
    - class_path: actdiag.lightning.ActivationMonitor
      init_args:
        max_overhead: null
    - class_path: actdiag.lightning.ActivationMonitor
      init_args:
        log_every_n_steps: 5
        max_overhead: null
        prefix: second
        exclude: [net.2]
        unit_dims: {{net.0: 1}}
        raise_on: error
"""


@regime(
    "Lightning",
    "LightningCLI with a YAML file",
    exact="all options are read with their types; the trainer's interval holds where none is given",
    proves=("R39", "C40"),
)
@pytest.mark.slow
@pytest.mark.parametrize("package", NAMESPACES)
def test_R39_lightning_cli_reads_the_options_from_yaml(package: str, tmp_path: Path) -> None:
    script, config = tmp_path / "train.py", tmp_path / "config.yaml"
    script.write_text(CLI.format(package=package))
    config.write_text(YAML.format(root=tmp_path))
    command = [sys.executable, str(script), "fit", "--config", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().splitlines()[-1]) == [[0, 3, 6, 9], [0, 5, 10]]


SPAWN = """
import warnings
warnings.simplefilter("ignore")
import {package} as L
import torch
from torch import nn
from actdiag.lightning import ActivationMonitor

class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    def training_step(self, batch, index):
        return self.net(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def main():
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(32, 4)), batch_size=4)
    callback = ActivationMonitor(log_every_n_steps=1, max_overhead=None)
    first = L.Trainer(callbacks=[callback], accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, default_root_dir="{root}/first")
    first.fit(Module(), data)  # it has a state now, and travels all the same
    trainer = L.Trainer(callbacks=[callback], strategy="ddp_spawn", devices=2, accelerator="cpu", max_epochs=1,
                        logger=L.loggers.TensorBoardLogger("{root}/second"), enable_checkpointing=False,
                        enable_progress_bar=False, enable_model_summary=False, default_root_dir="{root}")
    trainer.fit(Module(), data)
    assert callback.snapshots

if __name__ == "__main__":
    main()
"""


@regime(
    "Lightning",
    "ddp_spawn: the callback is pickled into the processes",
    exact="rank 0 writes",
    not_observed="the parent process's callback keeps what it had: the processes do not report back",
    proves=("R73",),
)
@pytest.mark.slow
@pytest.mark.parametrize("package", NAMESPACES)
def test_R73_the_callback_travels_into_spawned_processes(package: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SPAWN.format(package=package, root=tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (run,) = read_runs(tmp_path / "second")
    assert [s.step for s in run.snapshots] == [0, 1, 2, 3]


def test_snapshots_of_a_fit_have_increasing_steps(L: Any, tmp_path: Path) -> None:
    callback = every_step(log_every_n_steps=5)
    fit(L, tmp_path, callback)
    told: list[Snapshot] = callback.snapshots
    assert [s.step for s in told] == [0, 5, 10]
