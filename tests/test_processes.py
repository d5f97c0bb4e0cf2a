"""Lightning in two processes, under each of its strategies: one set of statistics, of all data, and one who writes.

    python tests/test_processes.py PACKAGE STRATEGY OUT TOLD

This file is also what the launched processes run; see test_launchers.py.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, DistributedSampler

from actdiag.report.read import read_runs
from tests.regimes import regime
from tests.test_launchers import (
    EVERY_STEP,
    ROWS,
    STEPS,
    WORLD,
    Net,
    alone,
    assert_children_ended,
    assert_merged,
    census,
    dataset,
    launch,
    loss_of,
    sgd,
    tell,
    told_by,
)  # fmt: skip

OWN_PLACE = "the trainer has no TensorBoard logger; writing to"
CLIP = 0.01
FSDP_REFUSED = "The strategy `fsdp` requires a GPU accelerator"


def under(strategy: str, folder: Path, *, package: str = "pytorch_lightning") -> tuple[Path, Path, list[str]]:
    return launch(folder, sys.executable, __file__, package, strategy, allowed=OWN_PLACE)


def logged(*cases: str) -> list[str]:
    """The census of cases that have one TensorBoardLogger each: what Lightning makes, and our numbers in its file."""
    return sorted(entry for case in cases for entry in (case, f"{case}/EVENTS", f"{case}/hparams.yaml"))


def assert_several_merged(out: Path, told: Path) -> None:
    assert_merged("plain", told_by(told, "plain"), alone())
    assert_merged("clipped", told_by(told, "clipped"), alone(clip=CLIP))
    assert_merged("accumulated", told_by(told, "accumulated"), alone(accumulate=2))
    assert_merged("resumed", told_by(told, "resumed"), alone(passes=2)[STEPS:])
    assert census(out) == sorted([*logged("plain", "clipped", "accumulated", "resumed"), "saved.ckpt"])
    (run,) = read_runs(out / "plain")
    assert list(run.snapshots) == told_by(told, "plain")[0]


@regime(
    "processes",
    "Lightning, `ddp`: with gradient clipping, `accumulate_grad_batches`, sanity check and validation, a resumed fit",
    exact="the numbers of one process on the data of all, on every rank; one event file, by rank 0",
    proves=("R47", "R48", "R49", "C38", "C40"),
)
@pytest.mark.slow
def test_R47_R49_lightning_ddp_tells_what_one_process_tells_of_all_data(tmp_path: Path) -> None:
    out, told, _ = under("ddp", tmp_path)
    assert_several_merged(out, told)


@regime(
    "processes",
    "Lightning, ModelParallelStrategy with `fully_shard`: clipped, accumulated, validated and resumed as well",
    exact="norms and zeros of the full parameters, their gradients and updates; statistics of all data; on every rank",
    not_observed="Lightning's `fsdp`, which runs on a GPU only",
    proves=("R46", "R47", "R49", "C39", "C40"),
)
@pytest.mark.slow
def test_R46_R47_sharded_parameters_are_told_as_whole_ones(tmp_path: Path) -> None:
    out, told, _ = under("sharded", tmp_path)
    assert_several_merged(out, told)


@regime(
    "processes",
    "Lightning, `ddp_fork`, `ddp_notebook` and `ddp_spawn`; two callbacks with different prefixes",
    exact="the numbers of one process on the data of all, on every rank; one event file, by rank 0",
    not_observed="the process that launches keeps no snapshots: the launched ones do not report back",
    proves=("R47", "R48", "R49", "C38", "C40"),
)
@pytest.mark.slow
@pytest.mark.parametrize(
    "package,strategy",
    [("pytorch_lightning", "ddp_fork"), ("lightning.pytorch", "ddp_notebook"), ("lightning.pytorch", "ddp_spawn")],
)
def test_R47_R49_processes_that_python_makes_tell_of_all_data(package: str, strategy: str, tmp_path: Path) -> None:
    out, told, _ = under(strategy, tmp_path, package=package)
    assert_merged("plain", told_by(told, "plain"), alone())
    if strategy == "ddp_spawn":  # each fit costs a second import of everything
        assert census(out) == logged("plain")
        return
    assert_merged("prefixes-a", told_by(told, "prefixes-a"), alone())
    assert_merged("prefixes-b", told_by(told, "prefixes-b"), alone(every=2))
    assert census(out) == logged("plain", "prefixes")
    assert [len(run.snapshots) for run in read_runs(out / "prefixes")] == [4, 2]


@pytest.mark.slow
def test_R49_without_a_tensorboard_logger_one_place_of_our_own_is_written_to_and_told_once(tmp_path: Path) -> None:
    out, told, lines = under("loggers", tmp_path)
    for case in ("none", "csv"):
        assert_merged(case, told_by(told, case), alone())
    ours = [entry for case in ("csv", "none") for entry in (case, f"{case}/actdiag", f"{case}/actdiag/EVENTS")]
    assert census(out) == sorted([*ours, "csv/metrics.csv"]), "the caller's logger has the curves too"
    assert [line.rpartition("/out/")[2] for line in lines] == ["none/actdiag", "csv/actdiag"]


# What the launched processes do -------------------------------------------------------------------------------


@dataclass
class Lightning:
    """One of the two packages, a strategy, and where the fits of this process write and tell."""

    package: str
    strategy: str
    out: Path
    told: Path

    @property
    def L(self) -> Any:
        return import_module(self.package)

    def fit(self, case: str, *, every: Sequence[int] = (1,), ckpt: Path | None = None, **options: Any) -> Any:
        """Fit the module, observed at one interval, or by a callback each at several."""
        trainer = self.L.Trainer(
            callbacks=self._callbacks(case, every), accelerator="cpu", devices=WORLD, default_root_dir=self.out / case,
            **{"strategy": self._strategy(), "logger": self._logger(case), "max_epochs": 1, **QUIET, **options},
        )  # fmt: skip
        trainer.fit(module(self.package, self.strategy == "sharded"), ckpt_path=ckpt)
        return trainer

    def _strategy(self) -> Any:
        """A new one for each trainer."""
        if self.strategy != "sharded":
            return self.strategy
        return self.L.strategies.ModelParallelStrategy(
            data_parallel_size=WORLD, tensor_parallel_size=1, process_group_backend="gloo",
            save_distributed_checkpoint=False,
        )  # fmt: skip

    def _logger(self, case: str) -> Any:
        return self.L.loggers.TensorBoardLogger(str(self.out), name=case, version="")

    def _callbacks(self, case: str, every: Sequence[int]) -> list[Any]:
        from actdiag.lightning import ActivationMonitor

        found = []
        for prefix, interval in zip("ab" if len(every) > 1 else [""], every, strict=True):
            ours = ActivationMonitor(**{**EVERY_STEP, "log_every_n_steps": interval, "prefix": prefix})
            name = f"{case}-{prefix}" if prefix else case
            found += [ours, telling(self.package, self.told, name, ours)]
        return found


QUIET = {
    "use_distributed_sampler": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False,
}  # fmt: skip


class Telling:
    """A callback behind a monitor, which tells what that has seen when a fit has ended."""

    def __init__(self, package: str, folder: Path, name: str, ours: Any) -> None:
        super().__init__()
        self.made_of = package, folder, name, ours

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        _, folder, name, ours = self.made_of
        tell(folder, name, ours.snapshots)

    def __reduce__(self) -> tuple[Any, ...]:
        return telling, self.made_of


def telling(package: str, *made_of: Any) -> Any:
    return type("Tell", (Telling, import_module(package).Callback), {})(package, *made_of)


class Steps:
    """What there is to a LightningModule; with `shard` its parameters are divided among the processes."""

    net: Any
    trainer: Any

    def __init__(self, package: str, shard: bool) -> None:
        super().__init__()
        self.made_of, self.shard = (package, shard), shard
        self.net = Net().net

    def __reduce__(self) -> tuple[Any, ...]:
        return module, self.made_of

    def configure_model(self) -> None:
        if self.shard:
            mesh = self.trainer.strategy.device_mesh["data_parallel"]
            for layer in (self.net[0], self.net[2], self.net[4], self.net):
                fully_shard(layer, mesh=mesh)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return loss_of(self.net, batch)

    def validation_step(self, batch: Any, index: int) -> None:
        self.net(batch[0] + 100)

    def train_dataloader(self) -> Any:
        data = dataset()  # a sampler of Lightning's own would shuffle
        sampler: Any = DistributedSampler(data, WORLD, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, batch_size=ROWS, sampler=sampler)

    def val_dataloader(self) -> Any:
        return self.train_dataloader()

    def configure_optimizers(self) -> Any:
        return sgd(self.net)


def module(package: str, shard: bool) -> Any:
    return type("Module", (Steps, import_module(package).LightningModule), {})(package, shard)


def several(run: Lightning) -> None:
    """One fit after the other, in processes that go on after a fit."""
    first = run.fit("plain")
    first.save_checkpoint(run.out / "saved.ckpt")
    run.fit("resumed", ckpt=run.out / "saved.ckpt", max_epochs=2)
    run.fit("clipped", gradient_clip_val=CLIP)
    run.fit("accumulated", accumulate_grad_batches=2)
    assert_children_ended(first.strategy.launcher)


def sharded(run: Lightning) -> None:
    with pytest.raises(Exception, match=FSDP_REFUSED):
        run.L.Trainer(strategy="fsdp", accelerator="cpu", devices=WORLD)
    several(run)


def made_by_python(run: Lightning) -> None:
    run.fit("plain")
    if run.strategy != "ddp_spawn":
        run.fit("prefixes", every=(1, 2))


def loggers(run: Lightning) -> None:
    run.strategy = "ddp_fork"
    run.fit("none", logger=False)
    run.fit("csv", logger=run.L.loggers.CSVLogger(str(run.out), name="csv", version=""))


WORKERS: dict[str, Callable[[Lightning], None]] = {"ddp": several, "sharded": sharded, "loggers": loggers}


def main(arguments: Sequence[str]) -> None:
    """As one of the processes, or as the one that makes them."""
    package, strategy, out, told = arguments
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    WORKERS.get(strategy, made_by_python)(Lightning(package, strategy, Path(out), Path(told)))


if __name__ == "__main__":
    main(sys.argv[1:])
