"""Siamese net whose distance is a bare square root: the first pair of one image with itself makes the gradient NaN."""

import torch
from _common import Batches, digits, seed
from torch import nn

MARGIN = 1.0


class Siamese(nn.Module):
    def __init__(self, eps, width=96, embedding=16):
        super().__init__()
        self.eps = eps
        self.encoder = nn.Sequential(
            nn.Linear(64, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, embedding, bias=False),
        )

    def forward(self, pair):
        left = self.encoder(pair[:, :64])
        right = self.encoder(pair[:, 64:])
        return ((left - right) ** 2).sum(1).add(self.eps).sqrt()


def contrastive(distance, same):
    apart = (MARGIN - distance).clamp(min=0)
    return (same * distance**2 + (1 - same) * apart**2).mean()


class Pairs(Batches):
    """Pairs by position, some of them of one class on purpose; drawn anew each batch, so an image can meet itself."""

    def __init__(self, images, labels, size, steps):
        first = torch.randperm(len(images))
        second = torch.randperm(len(images))
        second = torch.where(first == second, (first + 1) % len(images), second)
        x = torch.cat([images[first], images[second]], dim=1)
        super().__init__(x, (labels[first] == labels[second]).float(), size, 1, seed=3)
        self.images = images
        self.labels = labels
        self.steps = steps

    def __len__(self):
        return self.steps

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            first = torch.randint(len(self.images), (self.bs,), generator=generator)
            second = torch.randint(len(self.images), (self.bs,), generator=generator)
            for row in range(0, self.bs, 8):
                peers = (self.labels == self.labels[first[row]]).nonzero()[:, 0]
                second[row] = peers[torch.randint(len(peers), (1,), generator=generator)]
            x = torch.cat([self.images[first], self.images[second]], dim=1)
            yield x, (self.labels[first] == self.labels[second]).float()


def build(repaired=False):
    seed(0)
    images, labels = digits()
    model = Siamese(eps=1e-8 if repaired else 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    meta = dict(
        name="f56_siamese_sqrt_nan",
        label="nan",
        also=["not_learning"],
        layers_at_fault=["encoder.4", "encoder.2", "encoder.0"],
        source="constructed: the derivative of sqrt at zero is infinite",
        fault_step=48,
    )
    return model, optimizer, contrastive, Pairs(images, labels, 32, 400), meta
