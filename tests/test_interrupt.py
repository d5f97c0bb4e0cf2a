"""Whatever interrupts a training: nothing of ours is left on the model, and what was found is on the disk."""

from __future__ import annotations

import gc
import logging
import signal
import subprocess
import sys
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from actdiag import MemoryWriter, Monitor
from actdiag.report.read import ReadError, read_runs
from tests.conftest import assert_untouched
from tests.nets import one_step, small
from tests.regimes import regime

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as unified
    import pytorch_lightning as classic

    from actdiag.lightning import ActivationMonitor

ROOT = Path(__file__).resolve().parent.parent


def hooks(model: nn.Module) -> list[int]:
    return [len(module._forward_hooks) for module in model]  # type: ignore[union-attr]


def said(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in record.getMessage() for record in caplog.records)


@regime(
    "interruptions",
    "a notebook cell that is run again: a second Monitor on a model whose first was never closed",
    exact="the second takes the place of the first: one hook a module, one line in the log",
    proves=("R60", "C37"),
)
def test_R60_a_cell_that_is_run_again_replaces_its_monitor(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = small()
    monitors, writers, counts = [], [], []
    for run in range(3):
        writers.append(MemoryWriter())
        monitors.append(Monitor(model, optimizer, writers=[writers[-1]], log_every_n_steps=1, max_overhead=None))
        counts.append(hooks(model))
        assert counts[run] == counts[0], "as many hooks as of one monitor"
        assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 1
        one_step(model, optimizer)
    assert said(caplog, "a new monitor observes this model; the earlier one is closed") == 2
    assert [len(writer.snapshots) for writer in writers] == [1, 1, 1]
    assert [writer.closed for writer in writers] == [True, True, False]
    assert [monitor.latest.step for monitor in monitors] == [0, 0, 0]  # type: ignore[union-attr]
    monitors[0].close()
    assert hooks(model) == counts[0], "closing the one that was replaced does not touch its successor"
    monitors[2].close()
    assert_untouched(model)
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_R60_a_cell_with_a_new_optimizer_and_the_same_summary_writer_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = small()
    with SummaryWriter(str(tmp_path)) as writer:
        for _ in range(2):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            monitor = Monitor(model, optimizer, writers=[writer], log_every_n_steps=1, max_overhead=None)
            one_step(model, optimizer)
            one_step(model, optimizer)
        monitor.close()
    assert said(caplog, "another monitor writes to the same logger") == 0
    (run,) = read_runs(tmp_path)
    assert [s.step for s in run.snapshots] == [0, 1]


def test_R60_monitors_of_different_prefixes_observe_one_model_side_by_side() -> None:
    model, optimizer = small()
    with Monitor(model, optimizer) as a, Monitor(model, optimizer, prefix="b") as b:
        one_step(model, optimizer)
        assert a.latest is not None and b.latest is not None and a.latest.sites == b.latest.sites
    assert_untouched(model)


def test_R60_a_monitor_of_another_model_is_left_alone() -> None:
    (one, first), (two, second) = small(), small()
    with Monitor(one, first) as a, Monitor(two, second):
        one_step(one, first)
        assert a.latest is not None


def test_R60_del_monitor_frees_hooks_and_writer_at_once() -> None:
    model, optimizer = small()
    writer = MemoryWriter()
    monitor = Monitor(model, optimizer, writers=[writer])
    one_step(model, optimizer)
    gc.collect()
    gc.disable()
    try:
        del monitor
        assert_untouched(model)
        assert not optimizer._optimizer_step_pre_hooks and writer.closed
    finally:
        gc.enable()


def test_R60_a_closed_session_is_freed_without_a_collection() -> None:
    model, optimizer = small()
    monitor = Monitor(model, optimizer, log_every_n_steps=1)
    one_step(model, optimizer)
    session = weakref.ref(monitor._session)
    monitor.close()
    gc.collect()
    gc.disable()
    try:
        del monitor
        assert session() is None
    finally:
        gc.enable()


def test_R60_del_model_frees_it_without_a_collection_though_it_is_claimed() -> None:
    model, optimizer = small()
    monitor = Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None)
    one_step(model, optimizer)
    ref = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        del model, optimizer
        assert ref() is None
    finally:
        gc.enable()
    monitor.close()


KILLED = """
import os, signal, sys
import torch
from torch import nn
import actdiag
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
with torch.no_grad():
    model[2].weight[0, 0] = float("nan")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
where, how = sys.argv[1:]
def die(finding=None):
    os.kill(os.getpid(), signal.SIGKILL)
given = {"log_dir": where}
if "writer" in how:
    from torch.utils.tensorboard import SummaryWriter
    given = {"writers": [SummaryWriter(where)]}
monitor = actdiag.Monitor(model, optimizer, on_finding=die if "callback" in how else None, **given)
model(torch.randn(5, 4)).square().mean().backward()
optimizer.step()
die()
"""


_LATER = ("after the step", "callback, writer")


@regime(
    "interruptions",
    "kill -9 right after a finding",
    exact="the finding and its snapshot are on the disk before on_finding is called",
    proves=("R60",),
)
@pytest.mark.parametrize(
    "how", ["callback", *(pytest.param(how, marks=pytest.mark.slow) for how in _LATER), "after the step, writer"]
)
def test_R60_a_finding_is_on_the_disk_before_a_kill_can_come(tmp_path: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), how], cwd=ROOT, capture_output=True, timeout=120
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (run,) = read_runs(tmp_path)
    assert [f.rule for f in run.findings] == ["non-finite"] and len(run.snapshots) == 1


# Lightning ----------------------------------------------------------------------------------------------


@pytest.fixture(params=[classic, unified], ids=["pytorch_lightning", "lightning.pytorch"])
def L(request: pytest.FixtureRequest) -> Any:
    return request.param


def module(L: Any, *, raises: BaseException | None = None) -> Any:
    class Module(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net, _ = small()
            self.lr, self.batch_size = 0.1, 4

        def training_step(self, batch: Any, index: int) -> Any:
            loss = self.net(batch[0]).square().mean()
            if index == 2 and raises is not None:
                raise raises
            self.log("loss", loss)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.net(batch[0] + 100)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

        def train_dataloader(self) -> Any:
            return data(batch_size=self.batch_size)

        def val_dataloader(self) -> Any:
            return data(8)

    return Module()


def data(n: int = 32, batch_size: int = 4) -> Any:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=batch_size)


def trainer_of(L: Any, path: Path, *callbacks: Any, **options: Any) -> Any:
    return L.Trainer(
        accelerator="cpu", callbacks=list(callbacks), default_root_dir=path, enable_progress_bar=False,
        **{"enable_model_summary": False, "enable_checkpointing": False, "logger": False, "max_epochs": 1, **options},
    )  # fmt: skip


def every_step(**options: Any) -> Any:
    return ActivationMonitor(log_every_n_steps=1, max_overhead=None, **options)


@regime(
    "interruptions",
    "Lightning: an exception or Ctrl-C in training_step, a callback that fails in on_fit_start",
    exact="the exception reaches the user, no hook is left, a later fit is observed",
    proves=("R61", "C37"),
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("error,seen", [(RuntimeError("mine"), RuntimeError), (KeyboardInterrupt(), SystemExit)])
def test_R61_an_exception_or_ctrl_c_leaves_nothing_and_a_later_fit_is_observed(
    L: Any, tmp_path: Path, error: BaseException, seen: Any
) -> None:
    model, callback = module(L, raises=error), every_step()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(seen):
        trainer_of(L, tmp_path, callback).fit(model, val_dataloaders=data(8))
    signal.signal(signal.SIGINT, handler)
    assert_untouched(model)
    assert [s.step for s in callback.snapshots] == [0, 1]
    again = module(L)
    trainer_of(L, tmp_path, callback).fit(again)
    assert len(callback.snapshots) == 8 and callback.snapshots[0].sites["net.0"].samples == 4
    assert_untouched(again)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ours_first", [True, False])
def test_R61_another_callback_that_fails_in_on_fit_start_leaves_nothing(
    L: Any, tmp_path: Path, ours_first: bool
) -> None:
    class Fails(L.Callback):  # type: ignore[misc]
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            raise RuntimeError("theirs")

    model, callbacks = module(L), [every_step(), Fails()]
    with pytest.raises(RuntimeError, match="theirs"):
        trainer_of(L, tmp_path, *(callbacks if ours_first else callbacks[::-1])).fit(model)
    assert_untouched(model)


@pytest.mark.filterwarnings("ignore")
def test_R60_a_second_callback_in_a_second_trainer_replaces_a_first_that_never_ended(
    L: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, lost = module(L), every_step()
    trainer = trainer_of(L, tmp_path, lost)
    lost.on_fit_start(trainer, model)
    lost._session.begin_step(0)  # a kernel that was interrupted before Lightning could say so
    assert hooks(model.net)[0]
    callback = every_step()
    trainer_of(L, tmp_path, callback).fit(model)
    assert said(caplog, "the earlier one is closed") == 1
    assert len(callback.snapshots) == 8 and not lost.snapshots
    assert_untouched(model)


@pytest.mark.filterwarnings("ignore")
def test_R60_after_a_fit_the_model_is_freed_without_a_collection(L: Any, tmp_path: Path) -> None:
    callback, net = every_step(), small()[0]
    model = module(L)
    model.net = net
    trainer_of(L, tmp_path, callback).fit(model)
    ref = weakref.ref(net[1])
    gc.collect()
    model.net = nn.Sequential()
    gc.disable()
    try:
        del net
        assert ref() is None
    finally:
        gc.enable()
    assert callback.snapshots and callback.report()


@regime(
    "interruptions",
    "Tuner.lr_find and batch-size scaling",
    not_observed="nothing is recorded or written, and no hook is left",
    proves=("R74",),
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["lr_find", "scale_batch_size"])
def test_R74_the_tuner_writes_nothing_and_a_fit_after_it_is_complete(L: Any, tmp_path: Path, what: str) -> None:
    model, callback = module(L), every_step()
    logger = L.loggers.TensorBoardLogger(str(tmp_path))
    trainer = trainer_of(L, tmp_path, callback, logger=logger)
    tuner = L.tuner.Tuner(trainer)
    if what == "lr_find":
        tuner.lr_find(model, num_training=8)
    else:
        tuner.scale_batch_size(model, max_trials=1, steps_per_trial=2)
    assert callback.snapshots == [] and callback.findings == []
    assert_untouched(model)
    with pytest.raises(ReadError):
        read_runs(tmp_path)
    model.batch_size = 4
    trainer.fit(model)
    assert [s.step for s in callback.snapshots] == list(range(8))
    assert_untouched(model)


@pytest.mark.filterwarnings("ignore")
def test_R74_sanity_check_and_validation_do_not_mix_with_training(L: Any, tmp_path: Path) -> None:
    model, callback = module(L), every_step()
    trainer_of(L, tmp_path, callback, num_sanity_val_steps=2, val_check_interval=1, accumulate_grad_batches=2).fit(
        model, val_dataloaders=data(8)
    )
    assert [s.step for s in callback.snapshots] == [0, 1, 2, 3]
    for snapshot in callback.snapshots:
        assert snapshot.sites["net.0:in"].samples == 8 and snapshot.sites["net.0:in"].high < 50  # type: ignore[operator]


def test_log_records_are_of_the_actdiag_logger_only(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = small()
    Monitor(model, optimizer).close()
    Monitor(model, optimizer).close()
    assert {record.name for record in caplog.records if record.levelno >= logging.INFO} <= {"actdiag"}
