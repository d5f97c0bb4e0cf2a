"""Catch a dying ReLU early and stop the run.

You will see: the learning rate is far too high, units go silent within some hundred steps, and the training stops
with the finding that says so, instead of running to its end for nothing.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import nn

import actdiag
from actdiag.session import FindingError


def main() -> int:
    """Train until a finding of severity warning or error; the step at which it stopped."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.as_tensor(digits.data, dtype=torch.float32)
    x, y = (x - x.mean(0)) / (x.std(0) + 1e-6), torch.as_tensor(digits.target)
    layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=4.0)

    step = 0
    # That the rate is too high is told even earlier, by its updates; here we wait for what it does to the units.
    ignore = ["oversized-update", "exploding-activation"]
    monitor = actdiag.Monitor(model, optimizer, log_every_n_steps=10, raise_on="warning", ignore=ignore)
    try:
        for _ in range(100):
            for index in torch.randperm(len(x)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[index]), y[index]).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                step += 1
    except FindingError as error:
        finding = error.finding
        print(f"stopped at step {step} of {100 * 57}: {finding.message}")
        print(f"likely cause: {finding.cause}")
        for advice in finding.advice:
            print(f"  try: {advice}")
    finally:
        monitor.close()
    return step


if __name__ == "__main__":
    main()
