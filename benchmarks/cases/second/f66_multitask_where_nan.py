"""Multi-task regression with few labels missing: torch.where hides the NaN from the loss, not from the gradient."""

import torch
from _common import Batches, diabetes, seed
from torch import nn


class MultiTask(nn.Module):
    """A shared trunk and one head for each of two targets."""

    def __init__(self, width=48):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(8, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
        )
        self.head_progress = nn.Linear(width, 1)
        self.head_glucose = nn.Linear(width, 1)

    def forward(self, x):
        h = self.trunk(x)
        return torch.cat([self.head_progress(h), self.head_glucose(h)], 1)


class MaskedLoss(nn.Module):
    """Mean squared error over the targets that are present."""

    def __init__(self, fill):
        super().__init__()
        self.fill = fill

    def forward(self, out, target):
        present = ~target.isnan()
        if self.fill:
            target = target.nan_to_num(0.0)
        error = (out - target).square()
        return torch.where(present, error, 0.0).sum() / present.sum()


def build(repaired=False):
    seed(0)
    X, progress = diabetes("std")
    target = torch.cat([progress, X[:, 9:10]], 1)
    X = X[:, :8]
    missing = torch.randperm(len(X))[:2]
    target[missing, 1] = float("nan")
    model = MultiTask()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    return (
        model,
        optimizer,
        MaskedLoss(fill=repaired),
        Batches(X, target, 16, 14),
        dict(
            name="f66_multitask_where_nan",
            label="nan",
            also=["not_learning"],
            layers_at_fault=["trunk.0", "trunk.2", "head_glucose"],
            source="bug class: gradient of torch.where with NaN in the branch that is not taken",
        ),
    )
