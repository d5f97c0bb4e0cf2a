"""An MLP-Mixer without its layer norms whose branches keep their He gain: each doubles the stream's energy."""

import torch
from _common import CE, Batches, digits, seed
from torch import nn


class Branch(nn.Module):
    """Two linear layers with a ReLU, He-initialised, times `scale`."""

    def __init__(self, width, hidden, scale):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden, width)
        self.scale = scale
        nn.init.normal_(self.fc1.weight, std=width**-0.5)
        nn.init.kaiming_normal_(self.fc2.weight, nonlinearity="relu")
        nn.init.zeros_(self.fc1.bias)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x):
        return self.scale * self.fc2(self.act(self.fc1(x)))


class MixerBlock(nn.Module):
    def __init__(self, tokens, width, scale):
        super().__init__()
        self.mix_tokens = Branch(tokens, 2 * tokens, scale)
        self.mix_channels = Branch(width, 2 * width, scale)

    def forward(self, x):
        x = x + self.mix_tokens(x.transpose(1, 2)).transpose(1, 2)
        return x + self.mix_channels(x)


class Mixer(nn.Module):
    """16 patches of 2x2 pixels, 13 blocks, mean pooling."""

    def __init__(self, depth, scale, width=16):
        super().__init__()
        self.patch = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.blocks = nn.Sequential(*[MixerBlock(16, width, scale) for _ in range(depth)])
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.blocks(x).mean(1))


def build(repaired=False):
    seed(0)
    X, Y = digits("std", img=True)
    depth = 13
    model = Mixer(depth, scale=(2 * depth) ** -0.5 if repaired else 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return (
        model,
        optimizer,
        CE(),
        Batches(X, Y, 64, 6),
        dict(
            name="f43_normfree_mixer_growth",
            label="exploding_activation",
            also=["exploding_gradient"],
            layers_at_fault=["blocks.0.mix_tokens.act"]
            + [
                f"blocks.{i}.{branch}.{part}"
                for i in (depth - 2, depth - 1)
                for branch in ("mix_tokens", "mix_channels")
                for part in ("fc1", "act", "fc2")
            ],
            source="residual growth without normalisation (Zhang et al. 2019, Fixup)",
        ),
    )
