"""Every statistic of an activation that a claim uses: written by `actdiag.Monitor`, read back from its log."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import actdiag
from actdiag.report.read import read_runs
from actdiag.snapshot import SiteStats, Snapshot

from .data import Data, digits
from .nets import Net
from .results import Sample

BATCH = 64
_PIECES = 16
"""A unit is called dead after as many batches without an open gate, at the earliest."""
_OPTIONS: dict[str, Any] = {"max_overhead": None, "histograms": False, "distributed": "off", "detail": "full"}


@dataclass
class Lab:
    """Where logs go, which seeds are used, and what has been observed already."""

    logs: Path
    seeds: Sequence[int] = (0, 1, 2)
    full: bool = False
    seen: dict[Any, Any] = field(default_factory=dict)

    def looks(self, net: Net) -> list[Snapshot]:
        """The untrained network on all digits at once, a snapshot a seed."""
        if net not in self.seen:
            folder = self.logs / "start" / net.slug
            self.seen[net] = [look(net.build(s), digits(), folder / f"seed-{s}", units=False)[0] for s in self.seeds]
        found: list[Snapshot] = self.seen[net]
        return found

    def start(self, net: Net, site: str, stat: str) -> Sample:
        """One statistic of one site at the start, a number a seed, over all samples at once."""
        return tuple(value(snapshot.sites[site], stat) for snapshot in self.looks(net))


def value(site: SiteStats, stat: str) -> float:
    """A statistic as a number: infinite where all elements overflowed, 0 where it does not apply."""
    found = getattr(site, stat)
    if found is None or site.nonfinite:
        return math.inf if site.nonfinite else 0.0
    return float(found)


def loss_of(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of logits [N, C] and labels [N]; of a single logit [N, 1], the binary one."""
    if logits.shape[1] == 1:
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], y.float())
    return nn.functional.cross_entropy(logits, y)


def error_of(model: nn.Module, data: Data) -> float:
    """Share of wrong answers. Batch norm takes its statistics from all samples, so that no running mean lags."""
    with torch.no_grad():
        logits = model(data[0])
    guess = logits[:, 0] > 0 if logits.shape[1] == 1 else logits.argmax(1)
    return (guess != data[1]).float().mean().item()


@contextmanager
def quiet() -> Iterator[None]:
    """Findings stay in the logs: half of these networks are wrong on purpose."""
    logger = logging.getLogger("actdiag")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def look(model: nn.Module, data: Data, folder: Path, units: bool = True) -> list[Snapshot]:
    """Forward and backward without an update. The snapshots, as read from the log.

    The first is of all samples at once. The others are of pieces of them, after which the last one tells which units
    no sample opens: a verdict about units needs many batches.
    """
    x, y = data
    passes = [(x, y), *(zip(x.chunk(_PIECES), y.chunk(_PIECES), strict=True) if units else ())]
    model.train()
    with quiet(), actdiag.Monitor(
        model, log_dir=folder, log_every_n_steps=1, watch_every_n_steps=1, window_samples=len(x), **_OPTIONS
    ) as monitor:  # fmt: skip
        for part, labels in passes:
            model.zero_grad()
            loss_of(model(part), labels).backward()
            monitor.step()
    return snapshots_of(folder)


def snapshots_of(folder: Path) -> list[Snapshot]:
    """What the log of one run holds, in order of steps."""
    (run,) = read_runs(folder)
    assert not run.problems, run.problems
    return list(run.snapshots)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: plain SGD on batches of 64."""

    lr: float
    epochs: int
    decay: float = 0.0
    every: int = 0


def train(net: Net, seed: int, recipe: Recipe, folder: Path) -> Trained:
    """Train on the digits and look before; with `every`, also after, at the units, and at every so many steps."""
    model, data, whole = net.build(seed), digits(), bool(recipe.every)
    before = look(model, data, folder / "before", units=whole)
    during = _fit(model, data, recipe, seed, folder / "during")
    after = look(model, data, folder / "after") if whole else []
    return Trained(before, during, after, 1 - error_of(model, data))


@dataclass(frozen=True)
class Trained:
    """Snapshots before, during and after a training, and the accuracy on the training set after it."""

    before: list[Snapshot]
    during: list[Snapshot]
    after: list[Snapshot]
    accuracy: float


def batches(count: int, seed: int) -> Iterator[Tensor]:
    """Indices [64] of batches, epoch after epoch without end, in an order of its own for each seed."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(BATCH)[: count // BATCH]


def _fit(model: nn.Module, data: Data, recipe: Recipe, seed: int, folder: Path) -> list[Snapshot]:
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, weight_decay=recipe.decay)
    steps = recipe.epochs * (len(data[0]) // BATCH)
    order = batches(len(data[0]), seed)
    monitor = None
    if recipe.every:
        options = {"log_every_n_steps": recipe.every, "watch_every_n_steps": recipe.every, **_OPTIONS}
        monitor = actdiag.Monitor(model, optimizer, log_dir=folder, **options)
    with quiet():
        for _, index in zip(range(steps), order, strict=False):
            optimizer.zero_grad()
            loss_of(model(data[0][index]), data[1][index]).backward()
            optimizer.step()
        if monitor is not None:
            monitor.close()
    return snapshots_of(folder) if recipe.every else []
