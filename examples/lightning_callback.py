"""Add the callback to an existing Lightning module.

You will see: a digits classifier trains for a few epochs; afterwards a table of its layers (how centered they are,
how many of their units are dead, how much gradient reaches them) and, in TensorBoard, the same over time beside your
own loss:

    tensorboard --logdir runs/lightning
"""

from __future__ import annotations

import sys

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from actdiag.lightning import ActivationMonitor


class Classifier(pl.LightningModule):
    """A module as you may have it already; nothing in it knows of actdiag."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross-entropy of one batch."""
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main(log_dir: str = "runs/lightning") -> None:
    """Train, then print the report."""
    pl.seed_everything(0)
    digits = load_digits()
    x = torch.as_tensor(digits.data, dtype=torch.float32)
    data = TensorDataset((x - x.mean(0)) / (x.std(0) + 1e-6), torch.as_tensor(digits.target))

    monitor = ActivationMonitor()
    trainer = pl.Trainer(
        callbacks=[monitor],  # the one added line
        logger=TensorBoardLogger(log_dir),
        log_every_n_steps=20,
        max_epochs=8,
        accelerator="cpu",
        enable_checkpointing=False,
    )
    trainer.fit(Classifier(), DataLoader(data, batch_size=64, shuffle=True))
    print(monitor.report())


if __name__ == "__main__":
    main(*sys.argv[1:])
