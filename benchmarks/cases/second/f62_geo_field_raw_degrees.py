"""Coordinate network for a temperature field: latitude and longitude go in as raw degrees of a small region."""

import torch
from _common import Batches, seed
from torch import nn


class Field(nn.Module):
    """Implicit field: two coordinates in, one value out."""

    def __init__(self, width=64):
        super().__init__()
        self.fc0 = nn.Linear(2, width)
        self.act0 = nn.GELU()
        self.fc1 = nn.Linear(width, width)
        self.act1 = nn.GELU()
        self.fc2 = nn.Linear(width, width)
        self.act2 = nn.GELU()
        self.out = nn.Linear(width, 1)

    def forward(self, x):
        h = self.act0(self.fc0(x))
        h = self.act1(self.fc1(h))
        h = self.act2(self.fc2(h))
        return self.out(h)


def stations(n):
    """Weather stations at 45..48 degrees north and 6..11 degrees east; valleys and ridges make the temperature."""
    place = torch.rand(n, 2)
    valley = torch.sin(5.0 * place[:, :1] + 1.0) * torch.cos(4.0 * place[:, 1:])
    temperature = valley - 0.8 * place[:, :1] + 0.05 * torch.randn(n, 1)
    degrees = torch.tensor([45.0, 6.0]) + place * torch.tensor([3.0, 5.0])
    return degrees, (temperature - temperature.mean()) / temperature.std()


def build(repaired=False):
    seed(0)
    degrees, temperature = stations(800)
    if repaired:
        degrees = (degrees - degrees.mean(0)) / degrees.std(0)
    model = Field()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    return (
        model,
        optimizer,
        nn.MSELoss(),
        Batches(degrees, temperature, 32, 18),
        dict(
            name="f62_geo_field_raw_degrees",
            label="uncentred",
            also=["dead_units"],
            layers_at_fault=["fc0", "act0", "act1"],
            source="missing input normalization (LeCun et al. 1998, Efficient BackProp, 4.3)",
        ),
    )
