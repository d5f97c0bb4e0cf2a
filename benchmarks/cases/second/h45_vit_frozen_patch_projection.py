"""A vision transformer with a frozen random patch projection, a zero class token and strong weight decay."""

import torch
from _common import CE, Batches, digits, seed
from torch import nn


class ViT(nn.Module):
    """PyTorch's own encoder layers, pre-LN with GELU; only the class token's output is used."""

    def __init__(self, width=32, heads=4, hidden=64, depth=3):
        super().__init__()
        self.patch = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.patch.requires_grad_(False)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(
            [
                nn.TransformerEncoderLayer(
                    width, heads, hidden, dropout=0.1, activation=nn.GELU(), batch_first=True, norm_first=True
                )
                for _ in range(depth)
            ]
        )
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln(x[:, 0]))


def build():
    seed(0)
    X, Y = digits("std", img=True)
    model = ViT()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.3)
    return (
        model,
        optimizer,
        CE(),
        Batches(X, Y, 64, 8),
        dict(
            name="h45_vit_frozen_patch_projection",
            label="healthy",
            layers_at_fault=[],
            tricky="the first layer never has a gradient; as the head starts at zero, no other layer has one at step 0",
            source="Chen et al. 2021 (MoCo v3: frozen patch projection)",
        ),
    )
