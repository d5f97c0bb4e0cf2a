"""DenseNet on small images: features are concatenated for all later layers; weight decay, OneCycle rate."""

import torch
from _common import CE, Batches, digits, seed
from torch import nn


class OneCycleAdamW(torch.optim.AdamW):
    """AdamW that rises to its rate and falls to almost zero within the given number of steps."""

    def __init__(self, params, lr, steps):
        super().__init__(params, lr, weight_decay=0.1)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self, lr, total_steps=steps + 1)

    def step(self, closure=None):
        loss = super().step(closure)
        if hasattr(self, "schedule"):
            self.schedule.step()
        return loss


class DenseLayer(nn.Module):
    """Group norm, ReLU, 1x1 bottleneck, norm, ReLU, 3x3; the input is passed on next to the output."""

    def __init__(self, channels, growth):
        super().__init__()
        self.norm0 = nn.GroupNorm(2, channels)
        self.act0 = nn.ReLU()
        self.conv0 = nn.Conv2d(channels, 2 * growth, 1, bias=False)
        self.norm1 = nn.GroupNorm(2, 2 * growth)
        self.act1 = nn.ReLU()
        self.conv1 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        h = self.conv0(self.act0(self.norm0(x)))
        h = self.conv1(self.act1(self.norm1(h)))
        return torch.cat([x, h], 1)


class DenseNet(nn.Module):
    """Two dense blocks of two layers and a transition between them."""

    def __init__(self, growth=6):
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.dense0 = nn.Sequential(*(DenseLayer(12 + i * growth, growth) for i in range(2)))
        self.transition = nn.Conv2d(24, 16, 1, bias=False)
        self.pool = nn.AvgPool2d(2)
        self.dense1 = nn.Sequential(*(DenseLayer(16 + i * growth, growth) for i in range(2)))
        self.norm = nn.GroupNorm(2, 28)
        self.act = nn.ReLU()
        self.head = nn.Linear(28, 10)

    def forward(self, x):
        x = self.dense0(self.stem(x))
        x = self.dense1(self.pool(self.transition(x)))
        return self.head(self.act(self.norm(x)).mean((2, 3)))


def build():
    seed(0)
    X, Y = digits("unit", img=True)
    X, Y = X[:600], Y[:600]
    batches = Batches(X, Y, 30, 14)
    model = DenseNet()
    optimizer = OneCycleAdamW(model.parameters(), 0.01, len(batches))
    return (
        model,
        optimizer,
        CE(),
        batches,
        dict(
            name="h61_densenet_concat_bottleneck",
            label="healthy",
            tricky="inputs not centred, a high peak rate, a rate near zero at both ends, activations of many widths",
            layers_at_fault=[],
            source="Huang et al. 2017; Smith & Topin 2019",
        ),
    )
