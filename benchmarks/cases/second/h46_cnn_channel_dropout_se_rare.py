"""A CNN for a rare class: channel dropout of one half, squeeze-and-excitation gates, and a loss weighted 9 to 1."""

import torch
from _common import Batches, digits, seed
from torch import nn


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 2, 1)
        self.act = nn.SiLU()
        self.up = nn.Conv2d(channels // 2, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x):
        return x * self.gate(self.up(self.act(self.down(x.mean((2, 3), keepdim=True)))))


class Net(nn.Module):
    def __init__(self, channels=24):
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU()
        self.drop1 = nn.Dropout2d(0.5)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU()
        self.se = SqueezeExcite(channels)
        self.drop2 = nn.Dropout2d(0.5)
        self.head = nn.Linear(channels, 1)
        nn.init.constant_(self.bn1.bias, -1.0)
        nn.init.constant_(self.bn2.bias, -1.0)

    def forward(self, x):
        x = self.drop1(self.act1(self.bn1(self.conv1(x))))
        x = nn.functional.max_pool2d(x, 2)
        x = self.drop2(self.se(self.act2(self.bn2(self.conv2(x)))))
        return self.head(x.amax((2, 3)))


def build():
    seed(0)
    X, digit = digits("std", img=True)
    Y = (digit == 8).float().view(-1, 1)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
    return (
        model,
        optimizer,
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(9.0)),
        Batches(X, Y, 64, 8),
        dict(
            name="h46_cnn_channel_dropout_se_rare",
            label="healthy",
            layers_at_fault=[],
            tolerate={"se.gate": "saturation"},
            tricky="half of the channels are zero in each training step, ReLUs are sparse (batch norm bias -1), gates",
            source="Tompson et al. 2015 (channel dropout); Hu et al. 2018 (squeeze-and-excitation)",
        ),
    )
