"""Put the monitor around a loop of Accelerate, with gradient accumulation and clipping.

You will see: a network learns the digits from micro-batches of 16; in the table afterwards a step is an update, of two
micro-batches together (32 rows of 64 units are 2,048 elements), and gradients are those before clipping. Launched on
several processes by `accelerate launch`, the numbers are of all of them together. In TensorBoard:

    tensorboard --logdir runs/accelerate
"""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import actdiag


def main(log_dir: str = "runs/accelerate") -> None:
    """Train, then print the report."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.as_tensor(digits.data, dtype=torch.float32)
    data = TensorDataset((x - x.mean(0)) / (x.std(0) + 1e-6), torch.as_tensor(digits.target))
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    accelerator = Accelerator(gradient_accumulation_steps=2)
    loader = DataLoader(data, batch_size=16, shuffle=True, drop_last=True)
    model, optimizer, batches = accelerator.prepare(net, torch.optim.SGD(net.parameters(), lr=0.05), loader)

    with actdiag.Monitor(model, optimizer, log_dir=log_dir, log_every_n_steps=20) as monitor:
        for _ in range(5):
            for rows, labels in batches:
                with accelerator.accumulate(model):
                    accelerator.backward(nn.functional.cross_entropy(model(rows), labels))
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()

    if accelerator.is_main_process:
        print(monitor.report())
        print(f"a step has seen {monitor.snapshots[-1].sites['1'].n:,} elements of the first ReLU")


if __name__ == "__main__":
    main(*sys.argv[1:])
