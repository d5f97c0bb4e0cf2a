"""Noise predictor of a diffusion model whose output layers start at zero, so that most gradients do as well."""

import torch
from _common import Batches, digits, seed
from torch import nn


class Block(nn.Module):
    """Residual block that the time scales and shifts; its last layer starts at zero."""

    def __init__(self, width, time_width):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(time_width, 2 * width)
        self.fc0 = nn.Linear(width, width)
        self.act = nn.SiLU()
        self.fc1 = nn.Linear(width, width)
        nn.init.zeros_(self.fc1.weight)
        nn.init.zeros_(self.fc1.bias)

    def forward(self, x, time):
        scale, shift = self.film(time).chunk(2, 1)
        h = self.norm(x) * (1 + scale) + shift
        return x + self.fc1(self.act(self.fc0(h)))


class Denoiser(nn.Module):
    """Columns of x: 64 noisy pixels, then the time in 0..1."""

    def __init__(self, width=96, blocks=3):
        super().__init__()
        self.register_buffer("frequency", 2.0 ** torch.arange(6) * torch.pi)
        self.time0 = nn.Linear(12, 32)
        self.time_act = nn.SiLU()
        self.stem = nn.Linear(64, width)
        self.blocks = nn.ModuleList(Block(width, 32) for _ in range(blocks))
        self.out = nn.Linear(width, 64)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x):
        angle = x[:, 64:] * self.frequency
        time = self.time_act(self.time0(torch.cat([angle.sin(), angle.cos()], 1)))
        h = self.stem(x[:, :64])
        for block in self.blocks:
            h = block(h, time)
        return self.out(h)


def build():
    seed(0)
    clean, _ = digits("unit")
    clean = 2 * clean - 1
    time = torch.rand(len(clean), 1)
    noise = torch.randn_like(clean)
    alpha = torch.cos(time * torch.pi / 2)
    sigma = torch.sin(time * torch.pi / 2)
    X = torch.cat([alpha * clean + sigma * noise, time], 1)
    model = Denoiser()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    return (
        model,
        optimizer,
        nn.MSELoss(),
        Batches(X, noise, 64, 12),
        dict(
            name="h60_diffusion_film_zero_init",
            label="healthy",
            tricky="zero-initialized layers: outputs and most gradients are exactly zero before the first step",
            layers_at_fault=[],
            source="zero-initialized output layers as in Ho et al. 2020",
        ),
    )
