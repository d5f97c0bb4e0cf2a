"""Two processes: nobody waits for anybody, and only rank 0 writes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from actdiag.report.read import read_runs
from tests.regimes import regime

SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
import pytorch_lightning as pl
from torch import nn
from actdiag.lightning import ActivationMonitor

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, kind = sys.argv[1:]
    logger = pl.loggers.CSVLogger(folder) if kind == "csv" else False
    data = torch.utils.data.TensorDataset(torch.randn(64, 6), torch.randint(0, 2, (64,)))
    trainer = pl.Trainer(
        callbacks=[ActivationMonitor(log_every_n_steps=1, max_overhead=None)], logger=logger,
        strategy="ddp_fork", devices=2, accelerator="cpu", max_epochs=1, enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, log_every_n_steps=1,
    )
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=8))
"""


@regime(
    "processes",
    "DistributedDataParallel on two ranks (Lightning, fork)",
    exact="rank 0's own numbers; both ranks end; one event file",
    not_observed="the other ranks",
    proves=("R48", "R49", "C38"),
)
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "csv"])
def test_R48_R49_two_ranks_train_to_the_end_and_one_writes(tmp_path: Path, kind: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    folder = tmp_path / "out"
    folder.mkdir()
    command = [sys.executable, str(script), str(folder), kind]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(list(folder.rglob("*tfevents*"))) == 1
    (run,) = read_runs(folder)
    assert [snapshot.step for snapshot in run.snapshots] == [0, 1, 2, 3]
    assert set(run.snapshots[0].sites) == {"net.0:in", "net.0", "net.1", "net.2"}, "the names of one process"
