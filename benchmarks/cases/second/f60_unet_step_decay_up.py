"""U-Net denoiser whose step decay has gamma=10 for gamma=0.1: the rate goes up at the milestones and ReLUs die."""

import torch
from _common import Batches, digits, seed
from torch import nn

MILESTONES = [120, 190]


class StepAdam(torch.optim.Adam):
    """Adam whose rate is multiplied by gamma at the milestones."""

    def __init__(self, params, lr, gamma):
        super().__init__(params, lr)
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self, MILESTONES, gamma)

    def step(self, closure=None):
        loss = super().step(closure)
        if hasattr(self, "schedule"):
            self.schedule.step()
        return loss


class UNet(nn.Module):
    """8x8 -> 4x4 -> 2x2 and back, with concatenated skips."""

    def __init__(self, width=12):
        super().__init__()
        self.down0 = nn.Conv2d(1, width, 3, padding=1)
        self.act_d0 = nn.ReLU()
        self.down1 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.act_d1 = nn.ReLU()
        self.middle = nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1)
        self.act_m = nn.ReLU()
        self.upsample = nn.Upsample(scale_factor=2)
        self.up1 = nn.Conv2d(4 * width, width, 3, padding=1)
        self.act_u1 = nn.ReLU()
        self.up0 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.act_u0 = nn.ReLU()
        self.out = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        d0 = self.act_d0(self.down0(x))
        d1 = self.act_d1(self.down1(d0))
        m = self.act_m(self.middle(d1))
        u1 = self.act_u1(self.up1(torch.cat([self.upsample(m), d1], 1)))
        u0 = self.act_u0(self.up0(torch.cat([self.upsample(u1), d0], 1)))
        return self.out(u0)


def build(repaired=False):
    seed(0)
    clean, _ = digits("std", img=True)
    clean = clean[:700]
    noisy = clean + 0.5 * torch.randn_like(clean)
    model = UNet()
    optimizer = StepAdam(model.parameters(), 2e-3, gamma=0.1 if repaired else 10.0)
    batches = Batches(noisy, clean, 32, 14)
    return (
        model,
        optimizer,
        nn.MSELoss(),
        batches,
        dict(
            name="f60_unet_step_decay_up",
            label="dead_units",
            also=["vanishing_gradient"],
            layers_at_fault=["act_d1", "act_m", "act_u1", "down1", "middle", "up1"],
            fault_step=MILESTONES[0],
            source="constructed: wrong gamma of a learning rate schedule",
        ),
    )
