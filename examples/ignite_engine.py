"""Attach to an engine of PyTorch Ignite.

You will see: a network learns the digits, with Ignite's TensorboardLogger writing its loss; afterwards the table of its
layers. actdiag writes into the same run, at the same iterations:

    tensorboard --logdir runs/ignite
"""

from __future__ import annotations

import sys

import torch
from ignite.engine import Events, create_supervised_trainer
from ignite.handlers import TensorboardLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from actdiag.ignite import attach


def main(log_dir: str = "runs/ignite") -> None:
    """Train, then print the report."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.as_tensor(digits.data, dtype=torch.float32)
    data = TensorDataset((x - x.mean(0)) / (x.std(0) + 1e-6), torch.as_tensor(digits.target))
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())
    logger = TensorboardLogger(log_dir)
    logger.attach_output_handler(
        trainer, Events.ITERATION_COMPLETED(every=20), "training", output_transform=lambda loss: {"loss": loss}
    )
    monitor = attach(trainer, model, optimizer, writers=[logger.writer], log_every_n_steps=20)  # the one added line
    trainer.run(DataLoader(data, batch_size=64, shuffle=True), max_epochs=8)
    logger.close()
    print(monitor.report())


if __name__ == "__main__":
    main(*sys.argv[1:])
