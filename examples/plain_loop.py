"""Put the monitor around a plain PyTorch loop.

You will see: a small convolutional network learns the digits; afterwards the table of its layers. The activations are
called as functions (`torch.relu`), and are seen all the same. In TensorBoard:

    tensorboard --logdir runs/plain
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import actdiag


class Net(nn.Module):
    """Two convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, 1, 8, 8] to logits [N, 10]."""
        x = torch.relu(self.conv1(x))
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        logits: Tensor = self.head(x.flatten(1))
        return logits


def main(log_dir: str = "runs/plain") -> None:
    """Train, then print the report."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.as_tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.as_tensor(digits.target)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    with actdiag.Monitor(model, optimizer, log_dir=log_dir, log_every_n_steps=20) as monitor:
        for _ in range(5):
            for index in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()

    print(monitor.report())


if __name__ == "__main__":
    main(*sys.argv[1:])
