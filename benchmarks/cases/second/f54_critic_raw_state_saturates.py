"""TD(0) critic with tanh layers on a pendulum's state in degrees (per second): its first layer saturates at once."""

import copy

import torch
from _common import Batches, seed
from torch import nn
from torch.nn import functional as F

GAMMA = 0.95
DT = 0.05


class Critic(nn.Module):
    def __init__(self, width=64):
        super().__init__()
        self.fc0 = nn.Linear(2, width)
        self.act0 = nn.Tanh()
        self.fc1 = nn.Linear(width, width)
        self.act1 = nn.Tanh()
        self.value = nn.Linear(width, 1)

    def forward(self, state):
        hidden = self.act0(self.fc0(state))
        return self.value(self.act1(self.fc1(hidden)))[:, 0]


class TemporalDifference(nn.Module):
    """Returns V(s) and r + gamma V'(s'), where V' trails V by an exponential moving average."""

    def __init__(self, scale, tau=0.02):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.tau = tau
        self.critic = Critic()
        self.trailing = copy.deepcopy(self.critic).requires_grad_(False)

    def forward(self, transition):
        state, reward, following = transition.split([2, 1, 2], dim=1)
        if self.training:
            self.follow()
        value = self.critic(state / self.scale)
        with torch.no_grad():
            later = self.trailing(following / self.scale)
        return value, reward[:, 0] + GAMMA * later

    @torch.no_grad()
    def follow(self):
        for mine, theirs in zip(self.trailing.parameters(), self.critic.parameters(), strict=True):
            mine.lerp_(theirs, self.tau)


def td_loss(output, _):
    value, target = output
    return F.mse_loss(value, target)


def swing(count):
    """A pendulum under a fixed damping policy, from uniformly drawn states; the cost is the squared angle."""
    angle = (torch.rand(count) - 0.5) * 120
    velocity = (torch.rand(count) - 0.5) * 240
    radians = torch.deg2rad(angle)
    acceleration = torch.rad2deg(-9.8 * torch.sin(radians)) - 2.0 * velocity
    next_velocity = velocity + DT * acceleration
    next_angle = angle + DT * next_velocity
    reward = -(radians**2)
    state = torch.stack([angle, velocity], dim=1)
    following = torch.stack([next_angle, next_velocity], dim=1)
    return torch.cat([state, reward[:, None], following], dim=1), torch.zeros(count)


def build(repaired=False):
    seed(0)
    x, y = swing(2000)
    model = TemporalDifference(scale=[35.0, 70.0] if repaired else [1.0, 1.0])
    optimizer = torch.optim.Adam(model.critic.parameters(), lr=1e-3)
    meta = dict(
        name="f54_critic_raw_state_saturates",
        label="saturation",
        also=[],
        layers_at_fault=["critic.act0", "critic.fc0", "trailing.act0"],
        source="constructed: observations in physical units, not normalized, into tanh layers",
    )
    return model, optimizer, td_loss, Batches(x, y, 64, 15), meta
