"""A post-LN encoder that tells which document a short text is from; three quarters of the positions are padding."""

import torch
from _common import CE, Batches, seed, text_docs
from torch import nn

LENGTH = 40
PAD = 0


def snippets(count=1200, classes=4):
    """Pieces of 4 to 16 characters (now and then a full row) from the longest texts, padded with zeros at the end."""
    texts = sorted(text_docs(), key=len)[-classes:]
    index = {c: i + 1 for i, c in enumerate(sorted(set("".join(texts))))}
    draw = torch.Generator().manual_seed(0)
    X = torch.full((count, LENGTH), PAD)
    Y = torch.randint(0, classes, (count,), generator=draw)
    for row, label in enumerate(Y.tolist()):
        longest = LENGTH if row % 20 == 0 else 16
        size = int(torch.randint(4, longest + 1, (), generator=draw))
        start = int(torch.randint(0, 600, (), generator=draw))
        piece = texts[label][start : start + size]
        X[row, : len(piece)] = torch.tensor([index[c] for c in piece])
    return X, Y, len(index) + 1


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)
        self.ln1 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(2 * width, width)
        self.ln2 = nn.LayerNorm(width)

    def forward(self, x, padding):
        x = self.ln1(x + self.attn(x, x, x, key_padding_mask=padding, need_weights=False)[0])
        return self.ln2(x + self.fc2(self.act(self.fc1(x))))


class Encoder(nn.Module):
    def __init__(self, vocab, classes, width=32, heads=4, depth=2):
        super().__init__()
        self.tok = nn.Embedding(vocab, width, padding_idx=PAD)
        self.pos = nn.Parameter(0.1 * torch.randn(LENGTH, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        padding = x == PAD
        real = (~padding).unsqueeze(-1).float()
        h = (self.tok(x) + self.pos) * real
        for block in self.blocks:
            h = block(h, padding)
        return self.head((h * real).sum(1) / real.sum(1))


def build():
    seed(0)
    X, Y, vocab = snippets()
    model = Encoder(vocab, classes=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))

    def advance(*_):
        schedule.step()

    optimizer.register_step_post_hook(advance)
    return (
        model,
        optimizer,
        CE(),
        Batches(X, Y, 32, 8),
        dict(
            name="h44_postln_encoder_padded_text",
            label="healthy",
            layers_at_fault=[],
            tricky="most positions are padding without gradient; the embeddings of padding and rare characters stay",
            source="Vaswani et al. 2017 (post-LN, warm-up)",
        ),
    )
