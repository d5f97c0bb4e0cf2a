"""Least-squares GAN trained jointly: two losses pull against each other, so the sum falls early, then only wavers."""

import torch
from _common import Batches, seed
from torch import nn
from torch.func import functional_call

NOISE = 8


def perceptron(inputs, outputs, act, width=64):
    return nn.Sequential(
        nn.Linear(inputs, width),
        act(),
        nn.Linear(width, width),
        act(),
        nn.Linear(width, outputs),
    )


class GAN(nn.Module):
    """Scores of real and of detached fake points, and scores of the fakes by a critic whose parameters are detached."""

    def __init__(self):
        super().__init__()
        self.generator = perceptron(NOISE, 2, nn.ReLU)
        self.critic = perceptron(2, 1, lambda: nn.LeakyReLU(0.2))

    def forward(self, real):
        fake = self.generator(torch.randn(len(real), NOISE))
        frozen = {name: parameter.detach() for name, parameter in self.critic.named_parameters()}
        on_real = self.critic(real)
        on_fake = self.critic(fake.detach())
        fooled = functional_call(self.critic, frozen, (fake,))
        return on_real, on_fake, fooled


def least_squares(output, _):
    on_real, on_fake, fooled = output
    critic = 0.5 * ((on_real - 1) ** 2).mean() + 0.5 * (on_fake**2).mean()
    generator = 0.5 * ((fooled - 1) ** 2).mean()
    return critic + generator


def ring(count):
    angle = 2 * torch.pi * torch.rand(count)
    points = torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)
    return points + 0.1 * torch.randn(count, 2)


def build():
    seed(0)
    x = ring(2000)
    model = GAN()
    groups = [
        {"params": model.generator.parameters(), "lr": 5e-4},
        {"params": model.critic.parameters(), "lr": 1e-3},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.5, 0.999))
    meta = dict(
        name="h52_least_squares_gan",
        label="healthy",
        layers_at_fault=[],
        tolerate={},
        tricky="the loss stops falling early and is meant to; the critic is called three times; two learning rates",
        source="Mao et al. 2017, Least squares generative adversarial networks (the ring is constructed)",
    )
    return model, optimizer, least_squares, Batches(x, x, 64, 18), meta
