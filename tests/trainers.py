"""A tiny training by Hugging Face's Trainer, and the same one by a plain loop under a Monitor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actdiag import Monitor, Snapshot

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from transformers import Trainer, TrainerCallback, TrainingArguments

EVERY_STEP: dict[str, Any] = {"log_every_n_steps": 1, "max_overhead": None}
ROWS = 8
"""Rows of a batch."""
OF_THE_CLOCK = {"step", "epoch", "overhead_ms", "overhead_percent"}
"""What differs between two observations of the same training: a plain loop counts from 0, and knows no epoch."""


class Net(nn.Module):
    """A gate that can die and one that saturates; its loss is the Trainer's to use."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)]
            self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Rows [N, 6] and classes [N] to a loss and logits [N, 2]."""
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def dataset(n: int = 64) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 6, generator=generator)
    return [{"x": row, "labels": (row[0] > 0).long()} for row in x]


class Kept:
    """Joins rows to a batch, and keeps the batches in the order in which they were asked for."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def __call__(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        self.batches.append({name: torch.stack([row[name] for row in rows]) for name in rows[0]})
        return dict(self.batches[-1])


ARGUMENTS = {spec.name for spec in fields(TrainingArguments)}
"""What the installed release takes: some names came with transformers 5, others went."""
CHECKPOINTING = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if name in ARGUMENTS)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)


def trainer(
    folder: Path,
    *callbacks: TrainerCallback,
    model: nn.Module | None = None,
    kind: type[Trainer] = Trainer,
    given: Mapping[str, Any] | None = None,
    **options: Any,
) -> Trainer:
    """A Trainer that is ready to train. `given` goes to the Trainer, `options` to its arguments."""
    for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
        del os.environ[name]  # transformers 4 leaves there how the Trainer before has trained
    model = Net() if model is None else model
    optimizer = sgd(model)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    arguments: dict[str, Any] = {
        "output_dir": str(folder), "use_cpu": True, "max_steps": 6, "logging_steps": 2, "report_to": "none",
        "per_device_train_batch_size": ROWS, "save_strategy": "no", "disable_tqdm": True, "max_grad_norm": 0.05,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    wanted: dict[str, Any] = {
        "train_dataset": dataset(), "data_collator": Kept(), "optimizers": (optimizer, constant), **(given or {}),
    }  # fmt: skip
    return kind(model=model, args=TrainingArguments(**arguments | options), callbacks=list(callbacks), **wanted)


def plain(batches: Iterable[Mapping[str, Tensor]], *, accumulate: int = 1, clip: float = 0.05) -> list[Snapshot]:
    """What a Monitor tells of the same training in a plain loop."""
    model = Net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **EVERY_STEP) as monitor:
        for index, batch in enumerate(batches):
            (model(**batch)["loss"] / accumulate).backward()
            if (index + 1) % accumulate == 0:
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
    return monitor.snapshots


def numbers(snapshots: Iterable[Snapshot]) -> list[dict[str, Any]]:
    """All that snapshots tell, but for the times of the clock."""
    return [{k: v for k, v in asdict(one).items() if k not in OF_THE_CLOCK} for one in snapshots]
