"""Variational autoencoder with a loss summed over pixels and a ramped divergence; several latents stay idle."""

import torch
from _common import Batches, digits, seed
from torch import nn


class VAE(nn.Module):
    def __init__(self, ramp, width=96, latent=16):
        super().__init__()
        self.enc = nn.Linear(64, width)
        self.enc_act = nn.ReLU()
        self.code = nn.Linear(width, 2 * latent)
        self.dec = nn.Linear(latent, width)
        self.dec_act = nn.ReLU()
        self.pixels = nn.Linear(width, 64)
        self.squash = nn.Sigmoid()
        self.ramp = ramp
        self.steps = 0

    def forward(self, x):
        mu, logvar = self.code(self.enc_act(self.enc(x))).chunk(2, dim=1)
        z = mu
        if self.training:
            self.steps += 1
            z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        weight = min(1.0, self.steps / self.ramp)
        return self.squash(self.pixels(self.dec_act(self.dec(z)))), mu, logvar, weight


def negative_elbo(output, x):
    """Gaussian pixels of variance 0.15, summed over the image."""
    image, mu, logvar, weight = output
    reconstruction = ((x - image) ** 2).sum(1) / (2 * 0.15)
    divergence = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1)
    return (reconstruction + weight * divergence).mean()


def build():
    seed(0)
    x, _ = digits()
    model = VAE(ramp=150)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    meta = dict(
        name="h53_vae_summed_loss_idle_latents",
        label="healthy",
        layers_at_fault=[],
        tolerate={},
        tricky="loss in the tens; latents that carry next to nothing; output sigmoid",
        source="Kingma & Welling 2014; Bowman et al. 2016 (ramped divergence)",
    )
    return model, optimizer, negative_elbo, Batches(x, x, 64, 18), meta
