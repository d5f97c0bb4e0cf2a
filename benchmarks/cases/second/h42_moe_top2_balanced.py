"""A noisy top-2 mixture of six experts with a balancing loss: each works on a small share of the samples."""

import torch
from _common import CE, Batches, digits, seed
from torch import nn


class Experts(nn.Module):
    """The output is the router-weighted sum of the two best experts; the loss term is n * sum(load * probability)."""

    def __init__(self, width, experts, hidden):
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width)) for _ in range(experts)]
        )

    def forward(self, x):
        scores = self.router(x)
        if self.training:
            scores = scores + 0.3 * torch.randn_like(scores)
        p = torch.softmax(scores, -1)
        values, chosen = p.topk(2, -1)
        values = values / values.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for e, expert in enumerate(self.experts):
            rows, slot = (chosen == e).nonzero(as_tuple=True)
            if len(rows):
                out = out.index_add(0, rows, values[rows, slot, None] * expert(x[rows]))
        n = len(self.experts)
        load = torch.bincount(chosen.flatten(), minlength=n) / chosen.numel()
        return out, n * (load * p.mean(0)).sum()


class Block(nn.Module):
    def __init__(self, width, experts, hidden):
        super().__init__()
        self.ln = nn.LayerNorm(width)
        self.moe = Experts(width, experts, hidden)

    def forward(self, x):
        out, balance = self.moe(self.ln(x))
        return x + out, balance


class Net(nn.Module):
    def __init__(self, width=32, experts=6, hidden=32, depth=2):
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.ModuleList([Block(width, experts, hidden) for _ in range(depth)])
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x)
        total = 0.0
        for block in self.blocks:
            x, balance = block(x)
            total = total + balance
        return self.head(self.ln(x)), total


def build():
    seed(0)
    X, Y = digits("std")
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    ce = CE()

    def loss_fn(out, y):
        logits, balance = out
        return ce(logits, y) + 0.05 * balance

    return (
        model,
        optimizer,
        loss_fn,
        Batches(X, Y, 32, 6),
        dict(
            name="h42_moe_top2_balanced",
            label="healthy",
            layers_at_fault=[],
            tricky="an expert sees about a third of a batch of 32, another number each step; its gradient is noisy",
            source="Shazeer et al. 2017; Fedus et al. 2022 (balancing loss)",
        ),
    )
