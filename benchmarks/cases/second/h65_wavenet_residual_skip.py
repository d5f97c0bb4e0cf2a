"""WaveNet on event series: gates, weight norm, summed skip outputs, masked loss, gradient clipping."""

import torch
from _common import Batches, seed
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class ClippedAdam(torch.optim.Adam):
    """Adam with the norm of the gradient limited to 0.5."""

    def step(self, closure=None):
        for group in self.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 0.5)
        return super().step(closure)


class Layer(nn.Module):
    """Causal dilated convolution with a gate; one output goes on, the other to the sum of skips."""

    def __init__(self, channels, dilation):
        super().__init__()
        self.pad = nn.ConstantPad1d((dilation, 0), 0.0)
        self.conv = weight_norm(nn.Conv1d(channels, 2 * channels, 2, dilation=dilation))
        self.tanh = nn.Tanh()
        self.gate = nn.Sigmoid()
        self.mix = nn.Conv1d(channels, 2 * channels, 1)

    def forward(self, x):
        signal, gate = self.conv(self.pad(x)).chunk(2, 1)
        onward, skip = self.mix(self.tanh(signal) * self.gate(gate)).chunk(2, 1)
        return x + onward, skip


class WaveNet(nn.Module):
    """Predicts at each step whether an event is active."""

    def __init__(self, channels=16, layers=5):
        super().__init__()
        self.stem = nn.Conv1d(1, channels, 1)
        self.layers = nn.ModuleList(Layer(channels, 2**i) for i in range(layers))
        self.skip_act = nn.ReLU()
        self.head = nn.Conv1d(channels, 1, 1)

    def forward(self, x):
        h = self.stem(x)
        total = 0.0
        for layer in self.layers:
            h, skip = layer(h)
            total = total + skip
        return self.head(self.skip_act(total))


def masked_bce(logits, target):
    """Targets of -1 are padding."""
    real = target >= 0
    loss = nn.functional.binary_cross_entropy_with_logits(logits, target.clamp(min=0), reduction="none")
    return (loss * real).sum() / real.sum()


def events(n, length=32):
    """Rare pulses in noise; an event is active for six steps from its pulse on."""
    pulse = (torch.rand(n, 1, length) < 0.04).float()
    active = nn.functional.conv1d(nn.functional.pad(pulse, (5, 0)), torch.ones(1, 1, 6)).clamp(max=1.0)
    values = 1.5 * pulse + 0.6 * torch.randn(n, 1, length)
    end = torch.randint(length // 2, length + 1, (n, 1, 1))
    padding = torch.arange(length) >= end
    return values.masked_fill(padding, 0.0), active.masked_fill(padding, -1.0)


def build():
    seed(0)
    X, Y = events(400)
    model = WaveNet()
    optimizer = ClippedAdam(model.parameters(), 2e-3)
    gates = {f"layers.{i}.gate": "saturation" for i in range(5)}
    return (
        model,
        optimizer,
        masked_bce,
        Batches(X, Y, 32, 16),
        dict(
            name="h65_wavenet_residual_skip",
            label="healthy",
            tolerate=gates,
            tricky="gates, weight norm, mostly silent inputs, padded targets, the last onward output goes unused",
            layers_at_fault=[],
            source="van den Oord et al. 2016; Salimans & Kingma 2016",
        ),
    )
