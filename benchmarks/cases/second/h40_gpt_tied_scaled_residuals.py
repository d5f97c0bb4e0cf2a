"""A tiny pre-LN GPT as published: tied embeddings, -inf causal mask, smaller residual layers, warm-up, clipping."""

import math

import torch
from _common import Batches, charlm, seed
from torch import nn

CONTEXT = 32


class Block(nn.Module):
    """Causal self-attention written out, then a feed-forward four times as wide."""

    def __init__(self, width, heads, dropout=0.1):
        super().__init__()
        self.heads = heads
        self.ln1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ln2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def attend(self, x, mask):
        n, t, width = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        weights = torch.softmax(scores.masked_fill(mask, float("-inf")), -1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, t, width))

    def forward(self, x, mask):
        x = x + self.drop(self.attend(self.ln1(x), mask))
        return x + self.drop(self.fc2(self.act(self.fc1(self.ln2(x)))))


class GPT(nn.Module):
    def __init__(self, vocab, width=32, heads=4, depth=2):
        super().__init__()
        self.tok = nn.Embedding(vocab, width)
        self.pos = nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.register_buffer("mask", torch.triu(torch.ones(CONTEXT, CONTEXT, dtype=torch.bool), 1))
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("out.weight", "fc2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if residual else 0.02)
        self.head.weight = self.tok.weight

    def forward(self, x):
        x = self.tok(x) + self.pos(torch.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x, self.mask)
        return self.head(self.ln(x))


def next_character_loss(logits, targets):
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def build():
    seed(0)
    X, Y, vocab = charlm(CONTEXT, 1024)
    model = GPT(vocab)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 40))

    def clip(*_):
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    def advance(*_):
        schedule.step()

    optimizer.register_step_pre_hook(clip)
    optimizer.register_step_post_hook(advance)
    return (
        model,
        optimizer,
        next_character_loss,
        Batches(X, Y, 32, 8),
        dict(
            name="h40_gpt_tied_scaled_residuals",
            label="healthy",
            layers_at_fault=[],
            tricky="branches start tiny, one matrix is used twice, rare characters hardly move, scores of -inf",
            source="Radford et al. 2019 (GPT-2 initialisation); Press & Wolf 2017 (tied embeddings)",
        ),
    )
