"""Offline DQN whose rewards (up to 16) are not scaled, at a step size that suits rewards up to 1: the ReLUs die."""

import copy

import torch
from _common import Batches, seed
from torch import nn
from torch.nn import functional as F

SIDE = 8
GAMMA = 0.9
MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0))


class QNetwork(nn.Module):
    def __init__(self, inputs, actions, width=64):
        super().__init__()
        self.fc0 = nn.Linear(inputs, width)
        self.act0 = nn.ReLU()
        self.fc1 = nn.Linear(width, width)
        self.act1 = nn.ReLU()
        self.head = nn.Linear(width, actions)

    def forward(self, state):
        hidden = self.act0(self.fc0(state))
        return self.head(self.act1(self.fc1(hidden)))


class DQN(nn.Module):
    """Returns Q(s, a) and its bootstrapped target; the target network is copied every `every` training steps."""

    def __init__(self, every=25):
        super().__init__()
        self.online = QNetwork(2, len(MOVES))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.every = every
        self.steps = 0

    def forward(self, transition):
        state, action, reward, following, done = transition.split([2, 4, 1, 2, 1], dim=1)
        if self.training:
            if self.steps % self.every == 0:
                self.target.load_state_dict(self.online.state_dict())
            self.steps += 1
        chosen = (self.online(state) * action).sum(1)
        with torch.no_grad():
            best = self.target(following).max(1).values
        return chosen, reward[:, 0] + GAMMA * (1 - done[:, 0]) * best


def td_loss(output, _):
    chosen, target = output
    return F.mse_loss(chosen, target)


def explore(count, prize):
    """Uniformly drawn cells and actions; the far corner ends the episode, other steps cost their distance."""
    cell = torch.randint(0, SIDE, (count, 2))
    action = torch.randint(0, len(MOVES), (count,))
    following = (cell + torch.tensor(MOVES)[action]).clamp(0, SIDE - 1)
    distance = (SIDE - 1 - following).sum(1).float()
    done = (distance == 0).float()
    reward = prize * (done - distance / (2 * SIDE))
    scale = SIDE / 2
    parts = [
        cell / scale - 1,
        F.one_hot(action, len(MOVES)),
        reward[:, None],
        following / scale - 1,
        done[:, None],
    ]
    return torch.cat(parts, dim=1), torch.zeros(count)


def build(repaired=False):
    seed(0)
    x, y = explore(2000, prize=1.0 if repaired else 16.0)
    model = DQN()
    optimizer = torch.optim.SGD(model.online.parameters(), lr=0.02, momentum=0.9)
    meta = dict(
        name="f50_dqn_raw_rewards_dead",
        label="dead_units",
        also=["exploding_activation", "not_learning"],
        layers_at_fault=["online.act0", "online.act1", "target.act0", "target.act1", "online.fc0", "online.fc1"],
        source="constructed: rewards neither clipped nor scaled (Mnih et al. 2015 clip them to -1..1)",
    )
    return model, optimizer, td_loss, Batches(x, y, 64, 15), meta
