"""Hand-written tanh recurrence that starts at three times the neutral gain: the gradient grows with each step back."""

import math

import torch
from _common import Batches, seed
from torch import nn

STEPS = 40
DT = 0.1
GAIN = 3.0


class Pendulum(nn.Module):
    """Reads the start (angle, velocity) and the torque at every step, and predicts where the pendulum ends."""

    def __init__(self, gain, width=64):
        super().__init__()
        self.start = nn.Linear(2, width)
        self.start_act = nn.Tanh()
        self.from_state = nn.Linear(width, width)
        self.from_torque = nn.Linear(1, width)
        self.readout = nn.Linear(width, width)
        self.readout_act = nn.Tanh()
        self.head = nn.Linear(width, 2)
        nn.init.normal_(self.from_torque.weight, std=0.1)
        nn.init.normal_(self.from_state.weight, std=gain / math.sqrt(width))
        if gain == 1.0:
            nn.init.orthogonal_(self.from_state.weight)

    def forward(self, x):
        state = self.start_act(self.start(x[:, :2]))
        for step in range(STEPS):
            torque = x[:, 2 + step, None]
            state = torch.tanh(self.from_state(state) + self.from_torque(torque))
        return self.head(self.readout_act(self.readout(state)))


def simulate(count):
    angle = 0.7 * torch.randn(count)
    velocity = 0.7 * torch.randn(count)
    torque = 0.5 * torch.randn(count, STEPS)
    x = torch.cat([angle[:, None], velocity[:, None], torque], dim=1)
    for step in range(STEPS):
        velocity = velocity + DT * (torque[:, step] - torch.sin(angle) - 0.1 * velocity)
        angle = angle + DT * velocity
    y = torch.stack([angle, velocity], dim=1)
    return x, (y - y.mean(0)) / y.std(0)


def build(repaired=False):
    seed(0)
    x, y = simulate(1500)
    model = Pendulum(gain=1.0 if repaired else GAIN)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    meta = dict(
        name="f53_elman_gain_explodes",
        label="exploding_gradient",
        also=[],
        layers_at_fault=["start_act", "start", "from_state"],
        source="Pascanu et al. 2013, On the difficulty of training recurrent neural networks (the task is made up)",
    )
    return model, optimizer, nn.MSELoss(), Batches(x, y, 50, 10), meta
