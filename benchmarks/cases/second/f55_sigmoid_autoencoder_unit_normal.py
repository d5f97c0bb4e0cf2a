"""Sigmoid autoencoder whose weights are drawn from N(0, 1) whatever the fan-in: its code is stuck near 0 and 1."""

import torch
from _common import Batches, digits, seed
from torch import nn


class Autoencoder(nn.Module):
    def __init__(self, width=100, code=24):
        super().__init__()
        self.enc0 = nn.Linear(64, width)
        self.enc0_act = nn.Sigmoid()
        self.enc1 = nn.Linear(width, code)
        self.enc1_act = nn.Sigmoid()
        self.dec0 = nn.Linear(code, width)
        self.dec0_act = nn.Sigmoid()
        self.dec1 = nn.Linear(width, 64)

    def forward(self, x):
        code = self.enc1_act(self.enc1(self.enc0_act(self.enc0(x))))
        return self.dec1(self.dec0_act(self.dec0(code)))


def unit_normal(layer):
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)


def glorot(layer):
    if isinstance(layer, nn.Linear):
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)


def build(repaired=False):
    seed(0)
    x, _ = digits("std")
    model = Autoencoder().apply(glorot if repaired else unit_normal)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    meta = dict(
        name="f55_sigmoid_autoencoder_unit_normal",
        label="saturation",
        also=[],
        layers_at_fault=["enc0_act", "enc1_act", "enc0", "enc1"],
        source="Glorot & Bengio 2010; weight initialization mutator of DeepCrime (Humbatova et al. 2021)",
    )
    return model, optimizer, nn.MSELoss(), Batches(x, x, 64, 15), meta
