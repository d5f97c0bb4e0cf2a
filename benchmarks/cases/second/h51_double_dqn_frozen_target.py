"""Double DQN on one-hot states: half of its parameters are a frozen copy that jumps, and most rewards are zero."""

import copy

import torch
from _common import Batches, seed
from torch import nn
from torch.nn import functional as F

CELLS = 16
ACTIONS = 2
GAMMA = 0.9


class DoubleDQN(nn.Module):
    """Returns Q(s, a) and its double-Q target; the target network is copied each `every` training steps."""

    def __init__(self, every=30, width=64):
        super().__init__()
        self.online = nn.Sequential(
            nn.Linear(CELLS, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, ACTIONS),
        )
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.every = every
        self.steps = 0

    def forward(self, transition):
        state, action, reward, following, done = transition.split([CELLS, ACTIONS, 1, CELLS, 1], dim=1)
        if self.training:
            self.steps += 1
            if self.steps % self.every == 0:
                self.target.load_state_dict(self.online.state_dict())
        chosen = (self.online(state) * action).sum(1)
        with torch.no_grad():
            best = self.online(following).argmax(1, keepdim=True)
            later = self.target(following).gather(1, best)[:, 0]
        return chosen, reward[:, 0] + GAMMA * (1 - done[:, 0]) * later


def huber(output, _):
    chosen, target = output
    return F.smooth_l1_loss(chosen, target)


def corridor(count):
    """A corridor walked at random: its right end pays 5, its left end costs 1, anything between pays nothing."""
    cell = torch.randint(1, CELLS - 1, (count,))
    action = torch.randint(0, ACTIONS, (count,))
    following = cell + 2 * action - 1
    right = following == CELLS - 1
    left = following == 0
    reward = 5.0 * right - 1.0 * left
    parts = [
        F.one_hot(cell, CELLS),
        F.one_hot(action, ACTIONS),
        reward[:, None],
        F.one_hot(following, CELLS),
        (left | right)[:, None],
    ]
    return torch.cat([part.float() for part in parts], dim=1), torch.zeros(count)


def build():
    seed(0)
    x, y = corridor(2000)
    model = DoubleDQN()
    optimizer = torch.optim.Adam(model.online.parameters(), lr=5e-4)
    meta = dict(
        name="h51_double_dqn_frozen_target",
        label="healthy",
        layers_at_fault=[],
        tolerate={},
        tricky="a target network without gradients that jumps, a loss that rises with it, one-hot inputs",
        source="van Hasselt et al. 2016, Deep reinforcement learning with double Q-learning (the task is made up)",
    )
    return model, optimizer, huber, Batches(x, y, 64, 18), meta
