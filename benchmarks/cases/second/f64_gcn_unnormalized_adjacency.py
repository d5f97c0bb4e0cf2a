"""Graph network over the pixels of a digit, adjacency matrix not divided by the node degrees: features explode."""

from itertools import pairwise

import torch
from _common import CE, Batches, digits, seed
from torch import nn


def grid_adjacency(normalized, side=8):
    """Eight neighbours and the node itself; normalized as in Kipf & Welling 2017."""
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
    adjacency = (torch.cdist(place, place) < 1.5).float()
    if normalized:
        scale = adjacency.sum(1).rsqrt()
        adjacency = scale[:, None] * adjacency * scale
    return adjacency


class GraphConv(nn.Module):
    """Aggregate over the neighbours, then a linear map."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.lin = nn.Linear(inputs, outputs)
        nn.init.kaiming_normal_(self.lin.weight, nonlinearity="relu")
        nn.init.zeros_(self.lin.bias)

    def forward(self, h, adjacency):
        return self.lin(adjacency @ h)


class GCN(nn.Module):
    """Five graph convolutions, mean over the nodes, a linear head."""

    def __init__(self, adjacency, width=16, layers=5):
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        sizes = [1] + [width] * layers
        self.convs = nn.ModuleList(GraphConv(a, b) for a, b in pairwise(sizes))
        self.acts = nn.ModuleList(nn.LeakyReLU(0.1) for _ in range(layers))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        h = x.unsqueeze(2)
        for conv, act in zip(self.convs, self.acts, strict=True):
            h = act(conv(h, self.adjacency))
        return self.head(h.mean(1))


def build(repaired=False):
    seed(0)
    X, Y = digits("std")
    X, Y = X[:500], Y[:500]
    model = GCN(grid_adjacency(normalized=repaired))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return (
        model,
        optimizer,
        CE(),
        Batches(X, Y, 32, 10),
        dict(
            name="f64_gcn_unnormalized_adjacency",
            label="exploding_activation",
            also=["exploding_gradient"],
            layers_at_fault=[f"convs.{i}.lin" for i in range(5)] + ["acts.4", "acts.0"],
            source="constructed: message passing without the degree normalization of Kipf & Welling 2017",
        ),
    )
