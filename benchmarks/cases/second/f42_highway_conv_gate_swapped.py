"""A convolutional highway network whose two gate factors are swapped: the negative gate bias closes the carry path."""

import torch
from _common import CE, Batches, digits, seed
from torch import nn


class HighwayConv(nn.Module):
    """y = T * H(x) + (1 - T) * x, with a bias of -3 so that T is small at first."""

    def __init__(self, channels, swapped):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU()
        self.gate = nn.Conv2d(channels, channels, 1)
        self.swapped = swapped
        nn.init.constant_(self.gate.bias, -3.0)

    def forward(self, x):
        h = self.act(self.conv(x))
        t = torch.sigmoid(self.gate(x))
        if self.swapped:
            return (1 - t) * h + t * x
        return t * h + (1 - t) * x


class HighwayNet(nn.Module):
    def __init__(self, swapped, channels=16, depth=8):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.layers = nn.Sequential(*[HighwayConv(channels, swapped) for _ in range(depth)])
        self.head = nn.Linear(channels * 16, 10)

    def forward(self, x):
        x = self.layers(self.pool(self.act(self.stem(x))))
        return self.head(x.flatten(1))


def build(repaired=False):
    seed(0)
    X, Y = digits("std", img=True)
    model = HighwayNet(swapped=not repaired)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return (
        model,
        optimizer,
        CE(),
        Batches(X, Y, 64, 8),
        dict(
            name="f42_highway_conv_gate_swapped",
            label="vanishing_gradient",
            also=["not_learning", "dead_units"],
            layers_at_fault=["act"] + [f"layers.{i}.act" for i in range(8)],
            source="constructed: highway networks (Srivastava et al. 2015) with carry and transform exchanged",
        ),
    )
