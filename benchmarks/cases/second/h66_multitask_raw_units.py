"""Deep SELU network for tables with two tasks: a raw target of hundreds and rare classes; losses in the 10,000s."""

import torch
from _common import Batches, seed, wine
from torch import nn


class EMAAdamW(torch.optim.AdamW):
    """AdamW with clipped gradients that also keeps an exponential average of the weights."""

    def __init__(self, params, lr):
        super().__init__(params, lr, weight_decay=0.1)
        self.average = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    def step(self, closure=None):
        params = [p for group in self.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(params, 10.0)
        loss = super().step(closure)
        for average, p in zip(self.average, params, strict=True):
            average.lerp_(p.detach(), 0.02)
        return loss


class Tabular(nn.Module):
    """Six SELU layers with alpha dropout, a head for proline and one for the grape."""

    def __init__(self, width=48, depth=6):
        super().__init__()
        layers = []
        for i in range(depth):
            linear = nn.Linear(12 if i == 0 else width, width)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.SELU(), nn.AlphaDropout(0.02)]
        self.trunk = nn.Sequential(*layers)
        self.proline = nn.Linear(width, 1)
        self.grape = nn.Linear(width, 3)
        self.register_buffer("scale", torch.tensor([300.0]))
        self.register_buffer("shift", torch.tensor([700.0]))

    def forward(self, x):
        h = self.trunk(x)
        return self.scale * self.proline(h) + self.shift, self.grape(h)


def both(out, target):
    """Squared error in raw units plus a hundred times the cross-entropy, rare classes weighted."""
    proline, grape = out
    weights = torch.tensor([1.0, 0.5, 2.0])
    raw = nn.functional.mse_loss(proline, target[:, :1])
    return raw + 100 * nn.functional.cross_entropy(grape, target[:, 1].long(), weights)


def build():
    seed(0)
    X, grape = wine("std")
    raw, _ = wine("raw")
    keep = (grape < 2) | (torch.rand(len(grape)) < 0.3)
    target = torch.cat([raw[:, 12:], grape[:, None].float()], 1)
    model = Tabular()
    optimizer = EMAAdamW(model.parameters(), 5e-4)
    return (
        model,
        optimizer,
        both,
        Batches(X[keep, :12], target[keep], 16, 30),
        dict(
            name="h66_multitask_raw_units",
            label="healthy",
            tricky="losses and gradients in the thousands, heads of very unlike size, clipping, averaged weights",
            layers_at_fault=[],
            source="Klambauer et al. 2017 (SELU); control",
        ),
    )
