"""Put the monitor around a loop of Lightning Fabric.

You will see: a network learns the digits; afterwards the table of its layers, under the names they had before Fabric
wrapped the model. With `devices=2, strategy="ddp"` the numbers are of both processes together. In TensorBoard:

    tensorboard --logdir runs/fabric
"""

from __future__ import annotations

import sys

import torch
from lightning.fabric import Fabric
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import actdiag


def main(log_dir: str = "runs/fabric") -> None:
    """Train, then print the report."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.as_tensor(digits.data, dtype=torch.float32)
    data = TensorDataset((x - x.mean(0)) / (x.std(0) + 1e-6), torch.as_tensor(digits.target))
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10))

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    model, optimizer = fabric.setup(net, torch.optim.Adam(net.parameters(), lr=1e-3))
    batches = fabric.setup_dataloaders(DataLoader(data, batch_size=64, shuffle=True))

    with actdiag.Monitor(model, optimizer, log_dir=log_dir, log_every_n_steps=20) as monitor:
        for _ in range(8):
            for rows, labels in batches:
                optimizer.zero_grad()
                fabric.backward(nn.functional.cross_entropy(model(rows), labels))
                fabric.clip_gradients(model, optimizer, max_norm=1.0)
                optimizer.step()

    if fabric.is_global_zero:
        print(monitor.report())


if __name__ == "__main__":
    main(*sys.argv[1:])
