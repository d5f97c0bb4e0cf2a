"""A tiny GPT whose weight-decay groups, collected by module type, lack embeddings and packed attention weights."""

import torch
from _common import Batches, charlm, seed
from torch import nn

CONTEXT = 32


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 3 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(3 * width, width)

    def forward(self, x, mask):
        h = self.ln1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.fc2(self.act(self.fc1(self.ln2(x))))


class GPT(nn.Module):
    def __init__(self, vocab, width=32, heads=4, depth=2):
        super().__init__()
        self.tok = nn.Embedding(vocab, width)
        self.pos = nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab)
        self.register_buffer("mask", torch.triu(torch.full((CONTEXT, CONTEXT), float("-inf")), 1))
        nn.init.normal_(self.tok.weight, std=0.02)
        nn.init.normal_(self.pos.weight, std=0.02)

    def forward(self, x):
        x = self.tok(x) + self.pos.weight
        for block in self.blocks:
            x = block(x, self.mask)
        return self.head(self.ln(x))


def parameter_groups(model, complete):
    """Weights of linear layers decay; biases and layer norms do not."""
    decay = []
    no_decay = []
    for module in model.modules():
        if isinstance(module, nn.Linear):
            decay.append(module.weight)
            no_decay.append(module.bias)
        elif isinstance(module, nn.LayerNorm):
            no_decay.extend([module.weight, module.bias])
    if complete:
        taken = {id(p) for p in decay + no_decay}
        no_decay.extend(p for p in model.parameters() if id(p) not in taken)
    return [{"params": decay, "weight_decay": 0.1}, {"params": no_decay, "weight_decay": 0.0}]


def next_character_loss(logits, targets):
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def build(repaired=False):
    seed(0)
    X, Y, vocab = charlm(CONTEXT, 1024)
    model = GPT(vocab)
    optimizer = torch.optim.AdamW(parameter_groups(model, complete=repaired), lr=3e-3)
    return (
        model,
        optimizer,
        next_character_loss,
        Batches(X, Y, 32, 8),
        dict(
            name="f45_gpt_attention_not_in_optimizer",
            label="not_learning",
            also=[],
            layers_at_fault=["tok", "pos", "blocks.0.attn", "blocks.1.attn"],
            source="constructed: no optimizer group holds nn.MultiheadAttention.in_proj_weight (it is no nn.Linear)",
        ),
    )
