"""Several optimizers in one loop: whose gradient, whose update, whose loss scale."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor
from tests.regimes import regime


def data(*shape: int) -> Tensor:
    return torch.randn(shape)


@regime(
    "accumulation, clipping and optimizers",
    "a GAN whose generator's backward goes through the discriminator after its update",
    exact="the discriminator's gradient as its optimizer saw it; clip_coefficient 1",
    proves=("R29", "R32"),
)
def test_R29_R32_what_the_generators_loss_adds_is_not_the_discriminators_gradient() -> None:
    torch.manual_seed(0)
    models = {"g": nn.Linear(4, 4), "d": nn.Linear(4, 1)}
    d_opt, g_opt = (torch.optim.SGD(models[name].parameters(), lr=0.1) for name in "dg")
    truth = []
    with Monitor(models, [g_opt, d_opt], log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(3):
            real, fake = data(5, 4), models["g"](data(5, 4))
            d_opt.zero_grad()
            (models["d"](real).mean() - models["d"](fake.detach()).mean()).square().backward()
            truth.append(float(models["d"].weight.grad.norm()))
            d_opt.step()
            g_opt.zero_grad()
            models["d"](fake).square().mean().backward()
            g_opt.step()
    told = [snapshot.parameters["d.weight"].grad_norm for snapshot in monitor.snapshots]
    assert told == pytest.approx(truth, rel=1e-5)
    assert [snapshot.clip_coefficient for snapshot in monitor.snapshots] == [1.0] * 3
