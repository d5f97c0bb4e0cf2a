"""The Lightning door, in both namespaces, with every kind of logger."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from actdiag import ConfigError
from actdiag.report.read import ReadError, read_runs
from tests.conftest import assert_untouched

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as unified
    import pytorch_lightning as classic

    from actdiag.lightning import ActivationMonitor, logged_step

NAMESPACES = {"pytorch_lightning": classic, "lightning.pytorch": unified}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=NAMESPACES)
def L(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield NAMESPACES[request.param]


def module(L: Any, *, manual: bool = False, fail_at: int | None = None) -> Any:
    class Module(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
            self.automatic_optimization = not manual

        def loss(self, batch: Any) -> torch.Tensor:
            loss: torch.Tensor = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def training_step(self, batch: Any, index: int) -> Any:
            if index == fail_at:
                raise RuntimeError("mine")
            loss = self.loss(batch)
            if manual:
                for optimizer in self.optimizers():
                    optimizer.zero_grad()
                    self.manual_backward(self.loss(batch))
                    optimizer.step()
                return None
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.loss(batch)

        def configure_optimizers(self) -> Any:
            optimizers = [torch.optim.SGD(self.net.parameters(), lr=0.1) for _ in range(2)]
            return optimizers if manual else optimizers[0]

    return Module()


def loader(n: int = 96, size: int = 8) -> Any:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(n, 6, generator=generator), torch.randint(0, 2, (n,), generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=size)


def fit(L: Any, tmp_path: Path, *callbacks: Any, model: Any = None, logger: Any = False, **options: Any) -> Any:
    options = {"max_epochs": 1, "log_every_n_steps": 4, "enable_checkpointing": False, **options}
    trainer = L.Trainer(
        logger=logger, callbacks=list(callbacks), accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    model = module(L) if model is None else model
    trainer.fit(model, loader(), loader(16))
    assert_untouched(model)
    return trainer


def loss_steps(folder: Path) -> set[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return {
        event.step
        for event in accumulator.Scalars("loss_step" if "loss_step" in accumulator.Tags()["scalars"] else "loss")
    }


def tensorboard_logger(L: Any, path: Path) -> Any:
    return L.loggers.TensorBoardLogger(str(path))


def test_one_added_line_writes_into_the_loggers_own_run_at_its_own_steps(L: Any, tmp_path: Path) -> None:
    callback = ActivationMonitor()
    trainer = fit(L, tmp_path, callback, logger=tensorboard_logger(L, tmp_path), log_every_n_steps=1)
    folder = Path(trainer.logger.log_dir)
    (run,) = read_runs(folder)
    assert [s.step for s in run.snapshots] == [s.step for s in callback.snapshots]
    assert list(run.snapshots) == callback.snapshots, "what is read back is what was recorded"
    assert {s.step for s in run.snapshots} <= loss_steps(folder)
    assert len(list(folder.glob("*tfevents*"))) == 1, "two event files in one run directory hide each other"


def test_the_interval_is_the_trainers_unless_it_is_given(L: Any, tmp_path: Path) -> None:
    default, given = (
        ActivationMonitor(max_overhead=None),
        ActivationMonitor(log_every_n_steps=5, max_overhead=None, prefix="given"),
    )
    fit(L, tmp_path, default, given)
    assert [s.step for s in default.snapshots] == [0, 4, 8]
    assert [s.step for s in given.snapshots] == [0, 5, 10]


def test_accumulated_batches_are_one_step_and_clipping_comes_after(L: Any, tmp_path: Path) -> None:
    callback = ActivationMonitor(log_every_n_steps=1, max_overhead=None)
    logger = tensorboard_logger(L, tmp_path)
    trainer = fit(
        L,
        tmp_path,
        callback,
        logger=logger,
        accumulate_grad_batches=3,
        gradient_clip_val=0.01,
        val_check_interval=2,
    )
    assert [s.step for s in callback.snapshots] == [0, 1, 2, 3]
    first = callback.snapshots[0]
    assert first.sites["net.0"].n == 3 * 8 * 8
    assert first.clip_coefficient == pytest.approx(0.01 / first.grad_norm_total, rel=1e-2)
    assert first.parameters["net.0.weight"].update_ratio
    assert trainer.global_step == 4


def test_manual_optimization_with_two_optimizers_records_once_a_batch(L: Any, tmp_path: Path) -> None:
    callback = ActivationMonitor(log_every_n_steps=1, max_overhead=None)
    trainer = fit(L, tmp_path, callback, model=module(L, manual=True))
    assert trainer.global_step == 24
    assert [s.step for s in callback.snapshots] == list(range(12)), "not the doubled global_step"


LOGGERS = {
    "none": lambda L, path: False,
    "csv": lambda L, path: L.loggers.CSVLogger(str(path / "csv")),
    "csv and two tensorboards": lambda L, path: [
        L.loggers.CSVLogger(str(path / "csv")), tensorboard_logger(L, path / "a"), tensorboard_logger(L, path / "b"),
    ],
    "tensorboard": tensorboard_logger,
}  # fmt: skip


@pytest.mark.parametrize("kind", LOGGERS)
@pytest.mark.parametrize("fast", [False, True])
def test_any_set_of_loggers_works(
    L: Any, tmp_path: Path, kind: str, fast: bool, caplog: pytest.LogCaptureFixture
) -> None:
    callback = ActivationMonitor()
    fit(L, tmp_path, callback, logger=LOGGERS[kind](L, tmp_path), fast_dev_run=2 if fast else False)
    said = [r.getMessage() for r in caplog.records if "no TensorBoard logger" in r.getMessage()]
    if fast:
        with pytest.raises(ReadError):
            read_runs(tmp_path)
        return
    runs = read_runs(tmp_path)
    assert len(runs) == (2 if "two" in kind else 1)
    assert all(list(run.snapshots) == callback.snapshots for run in runs)
    assert len(said) == (0 if "tensorboard" in kind else 1)
    assert not [r for r in caplog.records if "failed" in r.getMessage()]


def test_a_failing_training_step_leaves_nothing_behind(L: Any, tmp_path: Path) -> None:
    model = module(L, fail_at=2)
    with pytest.raises(RuntimeError, match="mine"):
        fit(L, tmp_path, ActivationMonitor(log_every_n_steps=1), model=model)
    assert_untouched(model)


def test_one_callback_serves_two_fits(L: Any, tmp_path: Path) -> None:
    callback = ActivationMonitor(max_overhead=None)
    for _ in range(2):
        model = module(L)
        fit(L, tmp_path, callback, model=model)
        assert [s.step for s in callback.snapshots] == [0, 4, 8]
        assert callback.latest.sites["net.0"].n == 64
    assert "net.1" in callback.report()


def test_a_single_callback_is_accepted_without_a_list(L: Any, tmp_path: Path) -> None:
    callback = ActivationMonitor()
    trainer = L.Trainer(callbacks=callback, logger=False, fast_dev_run=1, enable_progress_bar=False, accelerator="cpu")
    trainer.fit(module(L), loader())
    assert callback.latest is not None


def test_training_is_the_same_with_and_without(L: Any, tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [ActivationMonitor(log_every_n_steps=1)]):
        model = module(L)
        torch.manual_seed(5)
        fit(L, tmp_path, *callbacks, model=model, max_epochs=2)
        states.append((model.state_dict(), torch.get_rng_state()))
    assert all(torch.equal(a, b) for a, b in zip(states[0][0].values(), states[1][0].values(), strict=True))
    assert torch.equal(states[0][1], states[1][1])


def test_training_resumes_at_the_step_where_it_was(L: Any, tmp_path: Path) -> None:
    callback = ActivationMonitor(max_overhead=None)
    trainer = fit(L, tmp_path, callback)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = ActivationMonitor(max_overhead=None)
    trainer = L.Trainer(
        max_epochs=2, callbacks=[again], logger=False, accelerator="cpu", log_every_n_steps=4,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module(L), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert [s.step for s in again.snapshots] == [12, 16, 20]


def test_the_callback_pickles_before_and_during_a_fit(L: Any, tmp_path: Path) -> None:
    class Pickles(L.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            assert pickle.loads(pickle.dumps(callback)).snapshots is not None

    callback = ActivationMonitor()
    pickle.loads(pickle.dumps(callback))
    fit(L, tmp_path, callback, Pickles())


def test_a_findings_callback_and_raise_on_work_through_this_door(L: Any, tmp_path: Path) -> None:
    from actdiag.session import FindingError

    model, told = module(L), []
    with torch.no_grad():
        model.net[2].weight[0, 0] = float("nan")
    with pytest.raises(FindingError):
        fit(L, tmp_path, ActivationMonitor(on_finding=told.append, raise_on="error"), model=model)
    assert [f.rule for f in told] == ["non-finite"]
    assert_untouched(model)


def test_R43_stop_on_ends_the_fit_after_the_batch_and_leaves_everything_in_order(L: Any, tmp_path: Path) -> None:
    model, callback = module(L), ActivationMonitor(stop_on="error")
    with torch.no_grad():
        model.net[2].weight[0, 0] = float("nan")
    trainer = fit(L, tmp_path, callback, model=model)
    assert trainer.should_stop and trainer.global_step == 1
    assert [finding.rule for finding in callback.findings] == ["non-finite"]
    assert_untouched(model)


def test_wrong_options_are_refused_at_construction() -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        ActivationMonitor(log_every=3)


def test_the_step_falls_back_to_global_step_where_lightning_hides_its_own() -> None:
    class Trainer:
        global_step = 7
        fit_loop = None

    assert logged_step(Trainer()) == 7


@pytest.mark.slow
@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning"])
def test_either_package_alone_is_enough(package: str) -> None:
    """The other package is made unimportable in a fresh interpreter."""
    other = {"pytorch_lightning": "lightning", "lightning": "pytorch_lightning"}[package]
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")
class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {other!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Barred())
import importlib.util as util
find = util.find_spec
util.find_spec = lambda name, package=None: None if name == {other!r} else find(name, package)
import importlib.metadata
from actdiag.lightning import ActivationMonitor
bases = [b.__module__.partition(".")[0] for b in ActivationMonitor.__mro__ if b.__name__ == "Callback"]
assert bases == [{package!r}], bases
assert {other!r} not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_lightning_the_import_says_what_to_install() -> None:
    code = """
import importlib.util as util
util.find_spec = lambda name, package=None: None
try:
    import actdiag.lightning
except ImportError as error:
    assert "pip install pytorch-lightning" in str(error), error
else:
    raise SystemExit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
