"""Convolutional autoencoder whose second file of images misses the division by 16: its ReLUs die half-way."""

import torch
from _common import Batches, digits, seed
from torch import nn


class ConvAutoencoder(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.conv0 = nn.Conv2d(1, width, 3, padding=1)
        self.act0 = nn.ReLU()
        self.conv1 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, 8, 3, stride=2, padding=1)
        self.up0 = nn.ConvTranspose2d(8, width, 2, stride=2)
        self.act2 = nn.ReLU()
        self.up1 = nn.ConvTranspose2d(width, 1, 2, stride=2)

    def forward(self, x):
        code = self.conv2(self.act1(self.conv1(self.act0(self.conv0(x)))))
        return self.up1(self.act2(self.up0(code)))


class TwoFiles(Batches):
    """Half of the epochs from the first file, then the second, whose pixels are `factor` times as large."""

    def __init__(self, images, batch, epochs, factor):
        super().__init__(images, images, batch, epochs)
        self.factor = factor

    def __iter__(self):
        half = len(self) // 2
        for step, (x, y) in enumerate(super().__iter__()):
            scale = 1.0 if step < half else self.factor
            yield scale * x, y


def build(repaired=False):
    seed(0)
    images, _ = digits(img=True)
    model = ConvAutoencoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    batches = TwoFiles(images, 64, 12, factor=1.0 if repaired else 16.0)
    meta = dict(
        name="f51_conv_autoencoder_raw_shard_dead",
        label="dead_units",
        also=["not_learning"],
        layers_at_fault=["act1", "act2", "conv1", "up0"],
        source="constructed: one shard of the data on another scale",
        fault_step=len(batches) // 2,
    )
    return model, optimizer, nn.SmoothL1Loss(), batches, meta
