"""A mixture of experts with log(load) in its balancing loss: NaN after the first batch that leaves an expert idle."""

import torch
from _common import CE, Batches, digits, seed
from torch import nn


class MixtureOfExperts(nn.Module):
    def __init__(self, width, experts, eps):
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, width)) for _ in range(experts)]
        )
        self.eps = eps

    def forward(self, x):
        """Output, and the cross-entropy between mean router probability and load (low where they agree)."""
        p = torch.softmax(self.router(x), 1)
        value, index = p.max(1)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            rows = (index == e).nonzero()[:, 0]
            if len(rows):
                out = out.index_add(0, rows, value[rows, None] * expert(x[rows]))
        load = torch.bincount(index, minlength=len(self.experts)) / len(x)
        balance = (p.mean(0) * (len(self.experts) * load + self.eps).log()).sum()
        return x + out, balance


class Net(nn.Module):
    def __init__(self, eps, width=48, experts=4):
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.act = nn.ReLU()
        self.moe = MixtureOfExperts(width, experts, eps)
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        h, balance = self.moe(self.act(self.stem(x)))
        return self.head(self.ln(h)), balance


def build(repaired=False):
    seed(0)
    X, Y = digits("std")
    model = Net(eps=1e-6 if repaired else 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    ce = CE()

    def loss_fn(out, y):
        logits, balance = out
        return ce(logits, y) + 0.01 * balance

    return (
        model,
        optimizer,
        loss_fn,
        Batches(X, Y, 64, 12),
        dict(
            name="f46_moe_balance_log_zero",
            label="nan",
            also=["not_learning"],
            layers_at_fault=["moe.router", "stem"],
            source="constructed: log of a count that can be zero",
        ),
    )
