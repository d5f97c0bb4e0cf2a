"""Deep set with sum pooling over 80 points: the pooled features are so large that the first updates kill the ReLUs."""

import torch
from _common import Batches, seed
from torch import nn

POINTS = 80


class ClippedSGD(torch.optim.SGD):
    """SGD with the norm of the gradient limited to 5."""

    def step(self, closure=None):
        for group in self.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 5.0)
        return super().step(closure)


class DeepSet(nn.Module):
    """rho(pool(phi(x))); Zaheer et al. 2017."""

    def __init__(self, pool, width=64):
        super().__init__()
        self.pool = pool
        self.phi0 = nn.Linear(2, width)
        self.phi_act0 = nn.ReLU()
        self.phi1 = nn.Linear(width, width)
        self.phi_act1 = nn.ReLU()
        self.rho0 = nn.Linear(width, width)
        self.rho_act0 = nn.ReLU()
        self.rho1 = nn.Linear(width, width)
        self.rho_act1 = nn.ReLU()
        self.head = nn.Linear(width, 1)

    def forward(self, x):
        h = self.phi_act0(self.phi0(x))
        h = self.phi_act1(self.phi1(h))
        h = h.mean(1) if self.pool == "mean" else h.sum(1)
        h = self.rho_act0(self.rho0(h))
        h = self.rho_act1(self.rho1(h))
        return self.head(h)


def ellipses(n):
    """Point clouds from ellipses of random axes; the target is the standardized logarithm of their ratio."""
    axes = 0.3 + 1.2 * torch.rand(n, 1, 2)
    angle = 2 * torch.pi * torch.rand(n, POINTS)
    circle = torch.stack([angle.cos(), angle.sin()], 2)
    points = axes * circle + 0.05 * torch.randn(n, POINTS, 2)
    target = (axes[:, :, 0] / axes[:, :, 1]).log()
    return points, (target - target.mean()) / target.std()


def build(repaired=False):
    seed(0)
    X, Y = ellipses(400)
    model = DeepSet(pool="mean" if repaired else "sum")
    optimizer = ClippedSGD(model.parameters(), 0.1, momentum=0.9)
    return (
        model,
        optimizer,
        nn.SmoothL1Loss(),
        Batches(X, Y, 32, 16),
        dict(
            name="f61_deepset_sum_pool",
            label="dead_units",
            also=["not_learning", "vanishing_gradient"],
            layers_at_fault=["phi_act1", "rho_act0", "rho_act1", "phi1", "rho0", "rho1"],
            source="constructed: sum pooling instead of mean pooling at an unchanged learning rate",
        ),
    )
