"""A vision transformer initialised by nn.init.normal_ with no std given, so with std 1: its tanh layers saturate."""

import torch
from _common import CE, Batches, digits, seed
from torch import nn


class Block(nn.Module):
    """Pre-LN attention and a feed-forward with tanh."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.Tanh()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        h = self.ln1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.fc2(self.act(self.fc1(self.ln2(x))))


class ViT(nn.Module):
    """A class token and 16 patches of 2x2 pixels; a tanh pooler before the head, as in BERT."""

    def __init__(self, scaled, width=32, heads=4, hidden=64, depth=2):
        super().__init__()
        self.patch = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*[Block(width, heads, hidden) for _ in range(depth)])
        self.ln = nn.LayerNorm(width)
        self.pooler = nn.Linear(width, width)
        self.tanh = nn.Tanh()
        self.head = nn.Linear(width, 10)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5 if scaled else 1.0)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.pos
        x = self.ln(self.blocks(x))
        return self.head(self.tanh(self.pooler(x[:, 0])))


def build(repaired=False):
    seed(0)
    X, Y = digits("std", img=True)
    model = ViT(scaled=repaired)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    return (
        model,
        optimizer,
        CE(),
        Batches(X, Y, 64, 10),
        dict(
            name="f44_vit_tanh_pooler_std_one",
            label="saturation",
            also=[],
            layers_at_fault=["tanh", "pooler", "blocks.0.act", "blocks.1.act"],
            source="constructed: nn.init.normal_ with its default std=1; saturation as in Glorot & Bengio 2010",
        ),
    )
