"""A residual network whose blocks start as the identity: the last batch norm of each has gamma = 0."""

import torch
from _common import CE, Batches, digits, seed
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    def __init__(self, channels=12):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(*[Block(channels) for _ in range(4)])
        self.head = nn.Linear(channels, 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.pool(self.act(self.bn(self.stem(x))))
        return self.head(self.blocks(x).mean((2, 3)))


def build():
    seed(0)
    X, Y = digits("std", img=True)
    model = ResNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 232)

    def advance(*_):
        schedule.step()

    optimizer.register_step_post_hook(advance)
    return (
        model,
        optimizer,
        CE(label_smoothing=0.1),
        Batches(X, Y, 64, 8),
        dict(
            name="h41_resnet_zero_gamma",
            label="healthy",
            layers_at_fault=[],
            tricky="at first all inner convolutions have gradients of exactly zero, and batch norms give zeros",
            source="Goyal et al. 2017",
        ),
    )
