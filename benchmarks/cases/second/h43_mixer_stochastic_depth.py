"""An MLP-Mixer with LayerScale (0.1) and stochastic depth: whole branches are skipped in many training steps."""

import torch
from _common import CE, Batches, digits, seed
from torch import nn


class Branch(nn.Module):
    """Norm, two layers, LayerScale; in training the branch does not run at all with probability `skip`."""

    def __init__(self, width, norm, hidden, skip, over_tokens):
        super().__init__()
        self.norm = nn.LayerNorm(norm)
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)
        self.gamma = nn.Parameter(torch.full((norm,), 0.1))
        self.skip = skip
        self.over_tokens = over_tokens

    def forward(self, x):
        if self.training and torch.rand(()) < self.skip:
            return x
        h = self.norm(x)
        if self.over_tokens:
            h = h.transpose(1, 2)
        h = self.fc2(self.act(self.fc1(h)))
        if self.over_tokens:
            h = h.transpose(1, 2)
        if self.training:
            h = h / (1 - self.skip)
        return x + self.gamma * h


class Mixer(nn.Module):
    """16 patches of 2x2 pixels; the probability to skip grows with depth to one half."""

    def __init__(self, width=32, depth=4):
        super().__init__()
        self.patch = nn.Conv2d(1, width, kernel_size=2, stride=2)
        branches = []
        for i in range(depth):
            skip = 0.5 * (i + 1) / depth
            branches.append(Branch(16, width, 32, skip, over_tokens=True))
            branches.append(Branch(width, width, 64, skip, over_tokens=False))
        self.branches = nn.Sequential(*branches)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.branches(x)).mean(1))


def build():
    seed(0)
    X, Y = digits("std", img=True)
    model = Mixer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    return (
        model,
        optimizer,
        CE(),
        Batches(X, Y, 64, 10),
        dict(
            name="h43_mixer_stochastic_depth",
            label="healthy",
            layers_at_fault=[],
            tricky="deep branches get no gradient in every second step, and weak ones (LayerScale) in the others",
            source="Huang et al. 2016 (stochastic depth); Touvron et al. 2021 (LayerScale)",
        ),
    )
