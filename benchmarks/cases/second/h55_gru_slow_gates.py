"""Hand-written gated cell with chrono-initialized gates: its update gate is meant to stay shut for most units."""

import torch
from _common import Batches, seed
from torch import nn

STEPS = 30


class SlowGRU(nn.Module):
    def __init__(self, inputs=2, width=32):
        super().__init__()
        self.width = width
        self.gates = nn.Linear(inputs + width, 2 * width)
        self.update = nn.Sigmoid()
        self.reset = nn.Sigmoid()
        self.candidate = nn.Linear(inputs + width, width)
        self.act = nn.Tanh()
        self.head = nn.Linear(width, 1)
        with torch.no_grad():
            spans = torch.empty(width).uniform_(1, 8 * STEPS)
            self.gates.bias[:width] = -torch.log(spans)
            self.gates.bias[width:] = 1.0

    def forward(self, x):
        x = x.view(len(x), STEPS, 2)
        state = x.new_zeros(len(x), self.width)
        for step in range(STEPS):
            now = x[:, step]
            update, reset = self.gates(torch.cat([now, state], dim=1)).chunk(2, dim=1)
            update = self.update(update)
            fresh = self.act(self.candidate(torch.cat([now, self.reset(reset) * state], dim=1)))
            state = (1 - update) * state + update * fresh
        return self.head(state)


def adding_problem(count):
    """The sum of the two marked numbers of a sequence (Hochreiter & Schmidhuber 1997), centred."""
    numbers = torch.rand(count, STEPS) - 0.5
    marks = torch.zeros(count, STEPS)
    rows = torch.arange(count)
    marks[rows, torch.randint(0, STEPS // 2, (count,))] = 1.0
    marks[rows, torch.randint(STEPS // 2, STEPS, (count,))] = 1.0
    target = (numbers * marks).sum(1, keepdim=True)
    return torch.stack([numbers, marks], dim=2).flatten(1), target


def build():
    seed(0)
    x, y = adding_problem(1000)
    model = SlowGRU()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    meta = dict(
        name="h55_gru_slow_gates",
        label="healthy",
        layers_at_fault=[],
        tolerate={"update": "saturation"},
        tricky="update gates near zero by design; every module is called 30 times a forward",
        source="Tallec & Ollivier 2018, Can recurrent neural networks warp time? (chrono initialization)",
    )
    return model, optimizer, nn.MSELoss(), Batches(x, y, 50, 12), meta
