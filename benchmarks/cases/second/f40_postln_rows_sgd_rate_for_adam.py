"""A post-LN transformer trained by Adam at SGD's rate of 0.1, without warm-up: most ReLU units die early."""

import torch
from _common import CE, Batches, digits, seed
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln1 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden, width)
        self.ln2 = nn.LayerNorm(width)

    def forward(self, x):
        x = self.ln1(x + self.attn(x, x, x, need_weights=False)[0])
        return self.ln2(x + self.fc2(self.act(self.fc1(x))))


class RowTransformer(nn.Module):
    """Each of the 8 pixel rows is a token; learned positions, mean pooling."""

    def __init__(self, width=32, heads=4, hidden=64, depth=3):
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.pos = nn.Parameter(0.02 * torch.randn(1, 8, width))
        self.blocks = nn.Sequential(*[Block(width, heads, hidden) for _ in range(depth)])
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.blocks(self.embed(x.view(-1, 8, 8)) + self.pos)
        return self.head(x.mean(1))


def build(repaired=False):
    seed(0)
    X, Y = digits("unit")
    model = RowTransformer()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3 if repaired else 0.1)
    return (
        model,
        optimizer,
        CE(),
        Batches(X, Y, 64, 8),
        dict(
            name="f40_postln_rows_sgd_rate_for_adam",
            label="dead_units",
            also=["vanishing_gradient", "exploding_activation", "not_learning"],
            layers_at_fault=["blocks.0.act", "blocks.1.act", "blocks.2.act", "blocks.2.fc2"],
            source="Lu et al. 2019 (dying ReLU); DeepCrime HLR (Humbatova et al. 2021)",
        ),
    )
