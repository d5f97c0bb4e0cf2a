"""Denoising autoencoder with tied weights and an L1 penalty: half of the input is blanked, most of the code is zero."""

import torch
from _common import Batches, digits, seed
from torch import nn
from torch.nn import functional as F


class TiedAutoencoder(nn.Module):
    """One matrix encodes and, transposed, decodes."""

    def __init__(self, units=128):
        super().__init__()
        self.corrupt = nn.Dropout(0.5)
        self.encoder = nn.Linear(64, units)
        self.act = nn.ReLU()
        self.offset = nn.Parameter(torch.zeros(64))

    def forward(self, x):
        code = self.act(self.encoder(self.corrupt(x)))
        return F.linear(code, self.encoder.weight.T, self.offset), code


class SparseReconstruction(nn.Module):
    def __init__(self, penalty):
        super().__init__()
        self.penalty = penalty

    def forward(self, output, x):
        image, code = output
        return F.mse_loss(image, x) + self.penalty * code.abs().mean()


def build():
    seed(0)
    x, _ = digits()
    model = TiedAutoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loss = SparseReconstruction(penalty=0.01)
    meta = dict(
        name="h56_tied_sparse_denoiser",
        label="healthy",
        layers_at_fault=[],
        tolerate={},
        tricky="sparse code, dropout on the input only, a decoder that is no module, weights used twice",
        source="Vincent et al. 2010, Stacked denoising autoencoders (sparsity penalty added)",
    )
    return model, optimizer, loss, Batches(x, x, 64, 16), meta
