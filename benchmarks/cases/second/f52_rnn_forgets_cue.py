"""Recall over 25 steps with a plain tanh RNN at its default initialization: the cue's encoder gets no gradient."""

import torch
from _common import CE, Batches, seed
from torch import nn

KINDS = 6
DELAY = 25
NOISE = 4


class CueRecall(nn.Module):
    """A cue sets the first hidden state, noise is read for DELAY steps, then the cue has to be named."""

    def __init__(self, width=48, orthogonal=False):
        super().__init__()
        self.encoder = nn.Linear(2 * KINDS, width)
        self.encoded = nn.Tanh()
        self.rnn = nn.RNN(NOISE, width, batch_first=True)
        self.readout = nn.Linear(width, width)
        self.act = nn.Tanh()
        self.head = nn.Linear(width, KINDS)
        if orthogonal:
            nn.init.orthogonal_(self.rnn.weight_hh_l0)

    def forward(self, x):
        cue = x[:, : 2 * KINDS]
        noise = x[:, 2 * KINDS :].view(len(x), DELAY, NOISE)
        first = self.encoded(self.encoder(cue))
        states, _ = self.rnn(noise, first[None])
        return self.head(self.act(self.readout(states[:, -1])))


def sequences(count):
    kind = torch.randint(0, KINDS, (count,))
    prototypes = torch.randn(KINDS, 2 * KINDS)
    cue = prototypes[kind] + 0.3 * torch.randn(count, 2 * KINDS)
    noise = 0.1 * torch.randn(count, DELAY * NOISE)
    return torch.cat([cue, noise], dim=1), kind


def build(repaired=False):
    seed(0)
    x, y = sequences(1500)
    model = CueRecall(orthogonal=repaired)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    meta = dict(
        name="f52_rnn_forgets_cue",
        label="vanishing_gradient",
        also=["not_learning"],
        layers_at_fault=["encoded", "encoder", "rnn"],
        source="Pascanu et al. 2013, On the difficulty of training recurrent neural networks (the task is made up)",
    )
    return model, optimizer, CE(), Batches(x, y, 50, 14), meta
