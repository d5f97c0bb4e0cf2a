"""Physics-informed network for a damped oscillator: derivatives inside forward, losses of unlike sizes."""

import torch
from _common import Batches, seed
from torch import nn

FREQUENCY = 3.0
DAMPING = 0.3


class Oscillator(nn.Module):
    """Position at a time in 0..2, and how far the equation of motion is from holding there."""

    def __init__(self, width=40):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(1, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, 1),
        )

    def forward(self, time):
        with torch.enable_grad():
            time = time.detach().requires_grad_()
            position = self.net(time)
            (speed,) = torch.autograd.grad(position.sum(), time, create_graph=True)
            (acceleration,) = torch.autograd.grad(speed.sum(), time, create_graph=True)
        residual = acceleration + 2 * DAMPING * speed + FREQUENCY**2 * position
        return position, speed, residual


def physics_loss(out, measured):
    """Residual everywhere, and the few positions that were measured (NaN where none was)."""
    position, _, residual = out
    known = ~measured.isnan()
    data = (position[known] - measured[known]).square().sum() / known.sum().clamp(min=1)
    return 0.01 * residual.square().mean() + data


def build():
    seed(0)
    time = torch.linspace(0, 2, 300).unsqueeze(1)
    omega = (FREQUENCY**2 - DAMPING**2) ** 0.5
    position = torch.exp(-DAMPING * time) * torch.cos(omega * time)
    measured = torch.where(torch.rand_like(time) < 0.2, position, float("nan"))
    measured[0] = 1.0
    model = Oscillator()
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    return (
        model,
        optimizer,
        physics_loss,
        Batches(time, measured, 60, 100),
        dict(
            name="h63_pinn_oscillator",
            label="healthy",
            tricky="a second backward inside forward, NaN among the targets, one input column, not centred",
            layers_at_fault=[],
            source="Raissi et al. 2019",
        ),
    )
