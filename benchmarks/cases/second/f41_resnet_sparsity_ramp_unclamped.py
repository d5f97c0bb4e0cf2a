"""The cubic ramp of an activation penalty on a residual CNN has no upper end: channels die mid-training."""

import torch
from _common import CE, Batches, digits, seed
from torch import nn

RAMP_START = 80
RAMP_STEPS = 16


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        a = self.act1(self.bn1(self.conv1(x)))
        return x + self.bn2(self.conv2(a)), a


class ResNet(nn.Module):
    """Stem, a residual block, pooling, two more, linear head; also returns the mean hidden activation."""

    def __init__(self, channels=16):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.ModuleList([Block(channels) for _ in range(3)])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(channels, 10)

    def forward(self, x):
        x = self.stem(x)
        activity = 0.0
        for i, block in enumerate(self.blocks):
            x, a = block(x)
            activity = activity + a.mean() / len(self.blocks)
            if i == 0:
                x = self.pool(x)
        return self.head(x.mean((2, 3))), activity


def build(repaired=False):
    seed(0)
    X, Y = digits("std", img=True)
    model = ResNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    ce = CE()
    weight = [0.0]

    def ramp(optimizer, *_):
        step = optimizer.state[model.head.bias]["step"].item()
        progress = max((step - RAMP_START) / RAMP_STEPS, 0.0)
        if repaired:
            progress = min(progress, 1.0)
        weight[0] = 0.5 * progress**3

    optimizer.register_step_post_hook(ramp)

    def loss_fn(out, y):
        logits, activity = out
        return ce(logits, y) + weight[0] * activity

    return (
        model,
        optimizer,
        loss_fn,
        Batches(X, Y, 64, 11),
        dict(
            name="f41_resnet_sparsity_ramp_unclamped",
            label="dead_units",
            also=["exploding_gradient"],
            layers_at_fault=["blocks.0.act1", "blocks.1.act1", "blocks.2.act1"],
            fault_step=RAMP_START + RAMP_STEPS,
            source="constructed: a schedule without min(1, t / T)",
        ),
    )
