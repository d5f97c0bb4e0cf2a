"""Two processes, however they are launched and whatever wraps model and optimizer: one set of statistics, of all data.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m tests.test_launchers loops OUT TOLD

This file is also what the launched processes run: they train in OUT, and each of them leaves its snapshots in TOLD.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from actdiag import Monitor, Snapshot
from actdiag.report.read import read_runs
from tests.regimes import regime

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "ddp_torchrun.py"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
EVERY_STEP: dict[str, Any] = {"log_every_n_steps": 1, "max_overhead": None}

WORLD, ROWS, STEPS = 2, 4, 4
"""Processes, rows of a batch in each of them, batches of a pass over the data."""
BATCH = WORLD * ROWS
"""Rows of a step, all processes together."""
NAMES = {"net.0:in", "net.0", "net.1", "net.2", "net.3", "net.4"}
PREPARED = (("prepared", True, 1), ("unprepared", False, 1), ("prepared-accumulated", True, 2))
"""Case, whether the monitor is made of what a library has wrapped, and backwards a step."""
TIMES = {"epoch", "overhead_ms", "overhead_percent", "ranks", "world_size"}
"""What is not the same in one process and in two."""


# What is trained, and how one process tells of it -------------------------------------------------------------


class Net(nn.Module):
    """A gate that can die, one that saturates, and weights whose rows two processes can share."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Rows [N, 6] to logits [N, 2]."""
        logits: Tensor = self.net(x)
        return logits


def dataset() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(BATCH * STEPS, 6, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long())


def loss_of(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)


def joined() -> Iterator[Sequence[Tensor]]:
    """The batches of all processes together."""
    yield from DataLoader(dataset(), batch_size=BATCH)


@cache
def alone(*, passes: int = 1, accumulate: int = 1, clip: float | None = None, every: int = 1) -> list[Snapshot]:
    """What one process tells that trains on the data of all."""
    model = Net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **{**EVERY_STEP, "log_every_n_steps": every}) as monitor:
        for index, batch in enumerate(batch for _ in range(passes) for batch in joined()):
            (loss_of(model, batch) / accumulate).backward()  # type: ignore[no-untyped-call]
            if (index + 1) % accumulate == 0:
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
    return monitor.snapshots


def told_by(folder: Path, case: str) -> list[list[Snapshot]]:
    """The snapshots of a case, as each rank has them."""
    paths = sorted(folder.glob(f"{case}.rank*"))
    assert [path.suffix for path in paths] == [f".rank{rank}" for rank in range(WORLD)], f"{case}: {paths}"
    return [[Snapshot.from_json(line) for line in path.read_text().splitlines()] for path in paths]


def assert_merged(case: str, ranks: Sequence[Sequence[Snapshot]], expected: Sequence[Snapshot]) -> None:
    """All ranks tell the same, of all of them, and it is what one process tells of the same data."""
    for snapshots in ranks:
        assert [(s.step, s.ranks, s.world_size) for s in snapshots] == [(s.step, WORLD, WORLD) for s in expected]
        for snapshot, other, first in zip(snapshots, expected, ranks[0], strict=True):
            assert set(snapshot.sites) == NAMES
            assert_close(asdict(snapshot), asdict(other), f"{case}, step {snapshot.step}", rel=1e-5)
            assert_close(asdict(snapshot), asdict(first), f"{case}, step {snapshot.step}, of two ranks", rel=0)


def assert_close(seen: Any, expected: Any, where: str, *, rel: float) -> None:
    if isinstance(expected, Mapping):
        assert list(seen) == list(expected), where
        for name in expected.keys() - TIMES:
            assert_close(seen[name], expected[name], f"{where} {name}", rel=rel)
    elif isinstance(expected, float) and isinstance(seen, float):
        assert math.isclose(seen, expected, rel_tol=rel, abs_tol=rel / 100), f"{where}: {seen}, expected {expected}"
    else:
        assert seen == expected, where


def census(folder: Path) -> list[str]:
    """All that is in a folder; event files by what they are."""
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(str(p.with_name("EVENTS") if "tfevents" in p.name else p) for p in found)


def one_run_each(*folders: str) -> list[str]:
    """The census where each of these folders has one event file."""
    return sorted(entry for folder in folders for entry in (folder, f"{folder}/EVENTS"))


def launch(folder: Path, *command: str, allowed: str = "\n") -> tuple[Path, Path, list[str]]:
    """Run a command in a folder of its own, `out`. All processes end well, and have nothing to complain of.

    Returns `out`, where they leave what they have to tell, and what they have logged, which was `allowed`.
    """
    out, told = folder / "out", folder / "told"
    out.mkdir()
    told.mkdir()
    done = run([*command, str(out), str(told)], out)
    logged = [line for line in (done.stdout + done.stderr).splitlines() if "actdiag" in line]
    complaints = [line for line in logged if allowed not in line]
    assert done.returncode == 0 and not complaints, f"{complaints}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
    return out, told, logged


def run(command: Sequence[str], where: Path) -> subprocess.CompletedProcess[str]:
    strange = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in strange}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=where)


# The tests ---------------------------------------------------------------------------------------------------


@regime(
    "processes",
    "`torchrun`: a monitor that is made before init_process_group or after, of the model or of its "
    "DistributedDataParallel, with `no_sync`",
    exact="the numbers of one process on the data of all, on every rank; one event file, by rank 0",
    proves=("R47", "R48", "R49", "C38"),
)
def test_R47_R49_loops_under_torchrun_tell_what_one_process_tells_of_all_data(tmp_path: Path) -> None:
    out, told, _ = launch(tmp_path, *TORCHRUN, "-m", "tests.test_launchers", "loops")
    for case, accumulate in (("early", 1), ("late", 1), ("accumulated", 2)):
        assert_merged(case, told_by(told, case), alone(accumulate=accumulate))
    assert census(out) == one_run_each("early", "late0"), "of rank 0 alone"
    (run,) = read_runs(out / "early")
    assert list(run.snapshots) == told_by(told, "early")[0]


@regime(
    "processes",
    "Accelerate under `torchrun`: a monitor of what `prepare` returns or made before it, with `accumulate`",
    exact="the numbers of one process on the data of all, on every rank; one event file, by rank 0",
    proves=("R47", "R49", "C38"),
)
@pytest.mark.slow
def test_R47_R49_accelerate_tells_what_one_process_tells_of_all_data(tmp_path: Path) -> None:
    out, told, _ = launch(tmp_path, *TORCHRUN, "-m", "tests.test_launchers", "accelerate")
    assert_prepared_merged(out, told)


def assert_prepared_merged(out: Path, told: Path) -> None:
    for case, _, accumulate in PREPARED:
        assert_merged(case, told_by(told, case), alone(accumulate=accumulate))
    assert census(out) == one_run_each(*(case for case, _, _ in PREPARED))


@regime(
    "processes",
    "Hugging Face's Trainer under `torchrun`, with its callback",
    exact="the numbers of one process on the data of all, on every rank; in the run of the Trainer, by rank 0",
    proves=("R47", "R49"),
)
@pytest.mark.slow
def test_R47_R49_the_trainer_tells_what_one_process_tells_of_all_data(tmp_path: Path) -> None:
    out, told, _ = launch(tmp_path, *TORCHRUN, "-m", "tests.test_launchers", "trainer")
    expected = [replace(snapshot, step=snapshot.step + 1) for snapshot in alone()]
    assert_merged("trained", told_by(told, "trained"), expected)
    (file,) = out.rglob("*tfevents*")
    assert list(read_runs(file.parent)[0].snapshots) == told_by(told, "trained")[0]


@regime(
    "processes",
    "Lightning Fabric (`ddp`, `ddp_fork`, `ddp_spawn`), of what `setup` returns or before it, and with "
    "`no_backward_sync`",
    exact="the numbers of one process on the data of all, on every rank; one event file, by rank 0",
    proves=("R47", "R49", "C41"),
)
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork", "ddp_spawn"])
def test_R47_R49_fabric_tells_what_one_process_tells_of_all_data(strategy: str, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tests.test_launchers", "fabric", strategy)
    out, told, lines = launch(tmp_path, *command, allowed="a new monitor observes this model")
    assert_prepared_merged(out, told)
    assert len(lines) == WORLD, "each process has made two monitors of one model, as it was and as Fabric returned it"


@regime(
    "processes",
    "a unit that no sample of one process opens, and some of another's do",
    exact="it is not dead, and not called so",
    proves=("R47",),
)
@pytest.mark.slow
def test_R47_the_example_shows_that_a_unit_which_is_dead_on_one_rank_alone_is_not_dead(tmp_path: Path) -> None:
    done = run([*TORCHRUN, str(EXAMPLE)], tmp_path)
    assert done.returncode == 0 and "actdiag" not in done.stderr, done.stderr
    apart = re.findall(r"process (\d) alone would call (\d+) units dead", done.stdout)
    assert [rank for rank, _ in apart] == ["0", "1"] and int(apart[0][1]) >= 3, done.stdout
    assert "together: 0 dead units" in done.stdout and "0 of 32" in done.stdout
    assert census(tmp_path) == ["runs", "runs/ddp", "runs/ddp/EVENTS"]
    (told,) = read_runs(tmp_path)
    dead = [snapshot.sites["1"].dead_units for snapshot in told.snapshots]
    assert set(dead) == {None, 0} and dead[-1] == 0 and not told.findings


# What the launched processes do -------------------------------------------------------------------------------


def tell(folder: Path, case: str, snapshots: Iterable[Snapshot]) -> None:
    """Leave what this rank has seen, for the test."""
    path = folder / f"{case}.rank{distributed.get_rank()}"
    path.write_text("\n".join(snapshot.to_json() for snapshot in snapshots))


def train(model: nn.Module, optimizer: Any, *, accumulate: int = 1) -> None:
    """One pass over the part of this rank, as under a DistributedSampler that does not shuffle."""
    rank = distributed.get_rank()
    for index, batch in enumerate(joined()):
        last = (index + 1) % accumulate == 0
        waits = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
        with waits:
            (loss_of(model, [part[rank::WORLD] for part in batch]) / accumulate).backward()  # type: ignore[no-untyped-call]
        if last:
            optimizer.step()
            optimizer.zero_grad()


def loops(out: Path, told: Path) -> None:
    """Plain loops."""
    early = Net()
    optimizer = sgd(early)
    with Monitor(early, optimizer, log_dir=out / "early", **EVERY_STEP) as monitor:
        distributed.init_process_group("gloo")
        train(DistributedDataParallel(early), optimizer)
    tell(told, "early", monitor.snapshots)
    model = DistributedDataParallel(Net())
    optimizer = sgd(model)
    where = out / f"late{distributed.get_rank()}"
    with Monitor(model, optimizer, log_dir=where, **EVERY_STEP) as monitor:
        train(model, optimizer)
    tell(told, "late", monitor.snapshots)
    model = DistributedDataParallel(Net())
    optimizer = sgd(model)
    with Monitor(model, optimizer, **EVERY_STEP) as monitor:
        train(model, optimizer, accumulate=2)
    tell(told, "accumulated", monitor.snapshots)
    distributed.destroy_process_group()


def accelerate(out: Path, told: Path) -> None:
    """Accelerate's loops, in the process group that it makes."""
    for case, prepared, accumulate in PREPARED:
        tell(told, case, accelerated(out / case, prepared=prepared, accumulate=accumulate))
    distributed.destroy_process_group()


def accelerated(log_dir: Path, *, prepared: bool, accumulate: int) -> list[Snapshot]:
    """A loop as Accelerate has it; the monitor is made of what `prepare` returns, or before it."""
    accelerate: Any = import_module("accelerate")

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    bare = Net()
    inner = sgd(bare)
    early = None if prepared else Monitor(bare, inner, log_dir=log_dir, **EVERY_STEP)
    model, optimizer, loader = accelerator.prepare(bare, inner, DataLoader(dataset(), batch_size=ROWS))
    with early or Monitor(model, optimizer, log_dir=log_dir, **EVERY_STEP) as monitor:
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, batch))
                optimizer.step()
                optimizer.zero_grad()
    return monitor.snapshots


def trainer(out: Path, told: Path) -> None:
    """Hugging Face's Trainer, in the process group that it makes."""
    from actdiag.transformers import ActivationMonitorCallback
    from tests.trainers import Trainer, TrainingArguments

    class InOrder(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: nn.Module, inputs: Mapping[str, Tensor], **given: Any) -> Tensor:
            return loss_of(model, [inputs["x"], inputs["y"]])

        def _get_train_sampler(self, *given: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    callback = ActivationMonitorCallback(**EVERY_STEP)
    given: dict[str, Any] = {
        "per_device_train_batch_size": ROWS,
        "max_steps": STEPS,
    }
    given |= {
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "tensorboard",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
    }
    arguments = TrainingArguments(str(out), **given, remove_unused_columns=False, disable_tqdm=True)
    model = Net()
    optimizer = sgd(model)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    rows = [{"x": x, "y": y} for x, y in dataset()]
    kept: dict[str, Any] = {"train_dataset": rows, "callbacks": [callback], "optimizers": (optimizer, constant)}
    InOrder(model, arguments, **kept).train()
    tell(told, "trained", callback.snapshots)
    distributed.destroy_process_group()


def fabric(strategy: str, out: Path, told: Path) -> None:
    """Launch Fabric's loops; where it starts this file once more, in a second process, wait for its end."""
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=WORLD, strategy=strategy)
    fabric.launch(fabric_loops, out, told)
    assert_children_ended(fabric.strategy.launcher)


def assert_children_ended(launcher: Any) -> None:
    assert [child.wait(60) for child in getattr(launcher, "procs", ())] in ([], [0])


def fabric_loops(fabric: Any, out: Path, told: Path) -> None:
    for case, prepared, accumulate in PREPARED:
        bare = Net()
        inner = sgd(bare)
        early = None if prepared else Monitor(bare, inner, log_dir=out / case, **EVERY_STEP)
        model, optimizer = fabric.setup(bare, inner)
        loader = fabric.setup_dataloaders(DataLoader(dataset(), batch_size=ROWS))
        with early or Monitor(model, optimizer, log_dir=out / case, **EVERY_STEP) as monitor:
            for index, batch in enumerate(loader):
                last = (index + 1) % accumulate == 0
                with fabric.no_backward_sync(model, enabled=not last):
                    fabric.backward(loss_of(model, batch) / accumulate)
                if last:
                    optimizer.step()
                    optimizer.zero_grad()
        tell(told, case, monitor.snapshots)

    with Monitor(bare, inner, **EVERY_STEP), Monitor(model, optimizer, **EVERY_STEP):
        pass


def main(arguments: Sequence[str]) -> None:
    """As one of the processes."""
    kind, *options, out, told = arguments
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    WORKERS[kind](*options, Path(out), Path(told))


WORKERS: dict[str, Callable[..., None]] = {
    "loops": loops,
    "accelerate": accelerate,
    "trainer": trainer,
    "fabric": fabric,
}

if __name__ == "__main__":
    main(sys.argv[1:])
