"""Deep temporal convolution with WaveNet gates but without its residual sums: each layer halves the signal and more."""

import torch
from _common import Batches, seed
from torch import nn


class GatedLayer(nn.Module):
    """Causal dilated convolution; half of its channels gate the other half."""

    def __init__(self, channels, dilation, residual):
        super().__init__()
        self.residual = residual
        self.pad = nn.ConstantPad1d((2 * dilation, 0), 0.0)
        self.conv = nn.Conv1d(channels, 2 * channels, 3, dilation=dilation)
        self.tanh = nn.Tanh()
        self.gate = nn.Sigmoid()

    def forward(self, x):
        signal, gate = self.conv(self.pad(x)).chunk(2, 1)
        h = self.tanh(signal) * self.gate(gate)
        return x + h if self.residual else h


class TCN(nn.Module):
    """Forecasts the next value of a series at each of its steps."""

    def __init__(self, residual, channels=16, layers=8):
        super().__init__()
        self.stem = nn.Conv1d(1, channels, 1)
        self.layers = nn.Sequential(*(GatedLayer(channels, 2 ** (i % 4), residual) for i in range(layers)))
        self.head = nn.Conv1d(channels, 1, 1)

    def forward(self, x):
        return self.head(self.layers(self.stem(x)))


def series(n, length=32):
    """Sums of two sinusoids of random period and phase."""
    time = torch.arange(length + 1.0)
    period = 5.0 + 20.0 * torch.rand(n, 2, 1)
    phase = 2 * torch.pi * torch.rand(n, 2, 1)
    values = torch.sin(2 * torch.pi * time / period + phase).sum(1, keepdim=True)
    return values[:, :, :-1], values[:, :, 1:]


def build(repaired=False):
    seed(0)
    X, Y = series(240)
    model = TCN(residual=repaired)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return (
        model,
        optimizer,
        nn.MSELoss(),
        Batches(X, Y, 16, 16),
        dict(
            name="f63_tcn_gated_no_residual",
            label="vanishing_gradient",
            also=["not_learning"],
            layers_at_fault=["layers.0.tanh", "layers.0.conv", "layers.1.conv", "layers.2.conv"],
            source="constructed: gated convolutions (van den Oord et al. 2016) without the residual connections",
        ),
    )
