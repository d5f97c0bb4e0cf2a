"""Deep set over padded sets of 1 to 20 points with max pooling: most rows are padding, most gradients exactly zero."""

import torch
from _common import Batches, seed
from torch import nn

LONGEST = 20


class DeepSet(nn.Module):
    """Columns of a point: its coordinates, then 1 where it is real and 0 where it is padding."""

    def __init__(self, width=48):
        super().__init__()
        self.phi = nn.Sequential(
            nn.Linear(2, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
        )
        self.rho = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, x):
        real = x[:, :, 2:] > 0
        h = self.phi(x[:, :, :2])
        h = h.masked_fill(~real, float("-inf")).amax(1)
        return self.rho(h)


def sets(n):
    """The target is the standardized width of the box around the real points of a set."""
    size = (LONGEST * torch.rand(n, 1) ** 2).long() + 1
    real = (torch.arange(LONGEST) < size).float().unsqueeze(2)
    points = torch.randn(n, LONGEST, 2) * real
    left = points[:, :, 0].masked_fill(real[:, :, 0] == 0, float("inf")).amin(1)
    right = points[:, :, 0].masked_fill(real[:, :, 0] == 0, float("-inf")).amax(1)
    box = (right - left).unsqueeze(1)
    return torch.cat([points, real], 2), (box - box.mean()) / box.std()


def build():
    seed(0)
    X, Y = sets(900)
    model = DeepSet()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    return (
        model,
        optimizer,
        nn.MSELoss(),
        Batches(X, Y, 40, 8),
        dict(
            name="h62_deepset_padded_max_pool",
            label="healthy",
            tricky="two thirds of the rows are zeros, infinities inside, a gradient for at most one point per feature",
            layers_at_fault=[],
            source="Zaheer et al. 2017; Qi et al. 2017 (max pooling)",
        ),
    )
