"""`actdiag demo`: one healthy network and three that go wrong in known ways, trained on scikit-learn's digits.

Two are observed through the Lightning door, two through the plain door. Nothing is staged: the faults are a learning
rate, an activation function in depth, and inputs that were not centered.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from actdiag.lightning import ActivationMonitor
from actdiag.monitor import Monitor
from actdiag.report.read import read_runs
from actdiag.report.text import render_text

_MARKER = ".actdiag-demo"
_BATCH = 32
_EVERY = 20  # steps; without a budget, so that the demo shows the same on every machine
_REFUSED = 2
_PINNED = ("actdiag/dead_fraction_max", "actdiag/mean_energy_max", "actdiag/gradient_ratio", "actdiag/findings_open")


@dataclass(frozen=True)
class Case:
    """One training: a name, what it shows, how it is built, and what is wrong with it."""

    name: str
    shows: str
    activation: Callable[[], nn.Module]
    depth: int
    lr: float
    epochs: int
    offset: float = 0.0
    clip: float | None = None
    lightning: bool = False


CASES = (
    Case("healthy", "four ReLU layers, He initialization, standardized inputs", nn.ReLU, 4, 0.05, 12, lightning=True),
    Case("dying-relu", "the same, at a much too high learning rate", nn.ReLU, 4, 4.0, 12, clip=1.0, lightning=True),
    Case("deep-sigmoid", "eight sigmoid layers, Xavier initialization", nn.Sigmoid, 8, 0.1, 8),
    Case("uncentered-inputs", "the healthy network on inputs shifted by 8", nn.ReLU, 4, 0.01, 12, offset=8.0),
)


def run_demo(log_dir: str, *, epochs: int | None) -> int:
    """Train the four networks below `log_dir`, print the report; the exit status.

    Runs of an earlier demo in the same directory are replaced. A directory that holds anything else is refused.
    `epochs` overrides every network's own number.
    """
    root = Path(log_dir)
    refused = _missing() or _prepare(root)
    if refused is not None:
        print(f"actdiag demo: {refused}", file=sys.stderr)
        return _REFUSED
    console = Console()
    console.print("Four networks on scikit-learn's digits (1,797 images of 8 x 8):\n", highlight=False)
    for case in CASES:
        console.print(f"  {case.name:18} {case.shows}", highlight=False)
    console.print()
    with _quiet(), _one_thread(), torch.random.fork_rng(devices=[]), _progress(console) as progress:
        for case in CASES:
            _train(case, root / case.name, progress, epochs or case.epochs)
    sys.stdout.write("\n" + render_text(read_runs(root)))
    sys.stdout.write(_where_to_look(root))
    return 0


def _where_to_look(root: Path, server: str = "http://localhost:6006") -> str:
    """How to start TensorBoard, and addresses of the tab and of stock curves with something to see."""
    cards = quote(json.dumps([{"plugin": "scalars", "tag": tag} for tag in _PINNED], separators=(",", ":")))
    return (
        f"\nLook at the runs:\n\n    tensorboard --logdir {root}\n\n"
        f"the dying network, layer by layer:\n\n    {server}/#actdiag&p.actdiag.run=dying-relu\n\n"
        f"curves of all of them, pinned:\n\n    {server}/?smoothing=0&pinnedCards={cards}#timeseries\n"
    )


def _missing() -> str | None:
    """What has to be installed first, or None. Asked before anything is written."""
    try:
        import_module("sklearn.datasets")
    except ImportError as error:
        return f"{error}; pip install pytorch-lightning scikit-learn rich"
    return None


def _prepare(root: Path) -> str | None:
    """Make room for the runs; why it cannot be done, or None."""
    try:
        if root.exists() and not root.is_dir():
            return f"{root} is a file; give a directory with --log-dir"
        if root.is_dir() and any(root.iterdir()) and not (root / _MARKER).exists():
            return f"{root} holds something that is not of an earlier demo; give another --log-dir"
        for case in CASES:
            if (root / case.name).exists():
                shutil.rmtree(root / case.name)
        root.mkdir(parents=True, exist_ok=True)
        (root / _MARKER).write_text("The runs beside this file are replaced by the next `actdiag demo`.\n")
    except OSError as error:
        return f"{root} cannot be written ({error.strerror}); give another --log-dir"
    return None


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("  {task.description:18}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        console=console,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Findings belong in the report and Lightning's start-up talk nowhere while the bars run."""
    names = ("actdiag", "pytorch_lightning", "lightning.pytorch", "lightning", "pytorch_lightning.utilities.rank_zero",
             "lightning.pytorch.utilities.rank_zero")  # fmt: skip
    held = [(logger, logger.level) for logger in map(logging.getLogger, names)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger, _ in held:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in held:
                logger.setLevel(level)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads, and much slower on a busy machine."""
    held = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(held)


def _data(offset: float) -> tuple[Tensor, Tensor]:
    """Digits, every pixel standardized, then shifted."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.as_tensor(digits.data, dtype=torch.float32)
    return (x - x.mean(0)) / (x.std(0) + 1e-6) + offset, torch.as_tensor(digits.target)


def _network(case: Case) -> nn.Sequential:
    """64 inputs, `depth` hidden layers of 64, ten classes; He for ReLU, Xavier for sigmoid, zero biases."""
    layers: list[nn.Module] = []
    for a, b in pairwise([64] * (case.depth + 1)):
        linear = nn.Linear(a, b)
        if case.activation is nn.ReLU:
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        else:
            nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, case.activation()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


@dataclass(frozen=True)
class _Job:
    """One training about to run."""

    case: Case
    net: nn.Module
    loader: Any
    folder: Path
    epochs: int
    advance: Callable[[], None]


def _train(case: Case, folder: Path, progress: Progress, epochs: int) -> None:
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(*_data(case.offset))
    loader = torch.utils.data.DataLoader(data, batch_size=_BATCH, shuffle=True)
    task = progress.add_task(case.name, total=epochs * len(loader))
    job = _Job(case, _network(case), loader, folder, epochs, lambda: progress.advance(task))
    (_train_lightning if case.lightning else _train_plain)(job)


def _train_plain(job: _Job) -> None:
    """The plain door: a loop, and a SummaryWriter that stays ours."""
    from torch.utils.tensorboard import SummaryWriter

    optimizer = torch.optim.SGD(job.net.parameters(), lr=job.case.lr)
    writer = SummaryWriter(str(job.folder))
    step = 0
    with Monitor({"net": job.net}, optimizer, writers=[writer], log_every_n_steps=_EVERY, max_overhead=None):
        for _ in range(job.epochs):
            for x, y in job.loader:
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(job.net(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if step % _EVERY == 0:
                    writer.add_scalar("loss", loss.item(), step)
                step += 1
                job.advance()
    writer.close()


def _train_lightning(job: _Job) -> None:
    """The Lightning door: one callback."""
    package = "pytorch_lightning" if find_spec("pytorch_lightning") else "lightning.pytorch"
    lightning = import_module(package)
    loggers = import_module(f"{package}.loggers")

    class Classifier(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = job.net

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("loss", loss)
            job.advance()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=job.case.lr)

    trainer = lightning.Trainer(
        callbacks=[ActivationMonitor(max_overhead=None)],
        logger=loggers.TensorBoardLogger(str(job.folder.parent), name="", version=job.folder.name),
        log_every_n_steps=_EVERY,
        max_epochs=job.epochs,
        gradient_clip_val=job.case.clip,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Classifier(), job.loader)
