"""Triplet net with unit-length embeddings: most triplets soon meet the margin, so the gradients rightly fade."""

import torch
from _common import Batches, digits, seed
from torch import nn
from torch.nn import functional as F


class Embedder(nn.Module):
    """Anchor, positive and negative image in one row; the same encoder sees each of them."""

    def __init__(self, width=96, embedding=16):
        super().__init__()
        self.fc0 = nn.Linear(64, width)
        self.act0 = nn.ReLU()
        self.fc1 = nn.Linear(width, width)
        self.act1 = nn.ReLU()
        self.out = nn.Linear(width, embedding)

    def embed(self, image):
        hidden = self.act1(self.fc1(self.act0(self.fc0(image))))
        return F.normalize(self.out(hidden), dim=1)

    def forward(self, triplet):
        return tuple(self.embed(image) for image in triplet.split(64, dim=1))


class TripletLoss(nn.Module):
    def __init__(self, margin=0.3):
        super().__init__()
        self.loss = nn.TripletMarginLoss(margin)

    def forward(self, output, _):
        return self.loss(*output)


def triplets(images, labels):
    positive = torch.empty_like(labels)
    negative = torch.empty_like(labels)
    for label in range(10):
        here = (labels == label).nonzero()[:, 0]
        there = (labels != label).nonzero()[:, 0]
        positive[here] = here.roll(1)
        negative[here] = there[torch.randperm(len(there))[: len(here)]]
    return torch.cat([images, images[positive], images[negative]], dim=1)


def build():
    seed(0)
    images, labels = digits()
    x = triplets(images, labels)
    model = Embedder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    meta = dict(
        name="h54_triplet_margin_satisfied",
        label="healthy",
        layers_at_fault=[],
        tolerate={},
        tricky="nearly all samples give no gradient at the end; the encoder runs three times a forward",
        source="Schroff et al. 2015, FaceNet (on digits)",
    )
    return model, optimizer, TripletLoss(), Batches(x, labels, 64, 14), meta
