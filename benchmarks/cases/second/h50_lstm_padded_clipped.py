"""Token LSTM on sequences that are mostly padding, with zero pad embeddings and gradients clipped to a small norm."""

import torch
from _common import CE, Batches, seed
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

LENGTH = 24
TOKENS = 12


class Tagger(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.embed = nn.Embedding(TOKENS + 1, 24, padding_idx=0)
        self.lstm = nn.LSTM(24, width, batch_first=True)
        self.proj = nn.Linear(width, width)
        self.act = nn.ReLU()
        self.head = nn.Linear(width, 4)

    def forward(self, tokens):
        lengths = (tokens > 0).sum(1)
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        _, (last, _) = self.lstm(packed)
        return self.head(self.act(self.proj(last[-1])))


def sentences(count):
    """Class: which of two tokens is more frequent, and whether a sentence opens with a low or a high token."""
    tokens = torch.randint(1, TOKENS + 1, (count, LENGTH))
    lengths = 4 + (torch.rand(count) ** 4 * (LENGTH - 4)).long()
    tokens[torch.arange(LENGTH)[None] >= lengths[:, None]] = 0
    more = (tokens == 1).sum(1) > (tokens == 2).sum(1)
    high = tokens[:, 0] > TOKENS // 2
    return tokens, more.long() + 2 * high.long()


def build():
    seed(0)
    x, y = sentences(1000)
    model = Tagger()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(model.parameters(), 0.25) and None)
    meta = dict(
        name="h50_lstm_padded_clipped",
        label="healthy",
        layers_at_fault=[],
        tolerate={},
        tricky="most positions are padding; the pad row never learns; most steps are clipped",
        source="constructed: packed sequences and gradient clipping (Pascanu et al. 2013)",
    )
    return model, optimizer, CE(), Batches(x, y, 64, 14), meta
