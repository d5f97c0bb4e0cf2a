"""Train a tiny GPT on Python's own help texts, letter by letter; and once more with its skips and norms left out.

You will see: the loss of both arms, what actdiag finds in each, and the table of the healthy one's layers. The text is
what `help()` says of Python's statements and types: it comes with Python, nothing is downloaded. It is a toy: half a
minute is enough to learn which letters follow which, not to write. What is real is the anatomy: embeddings, pre-norm
blocks of attention and an MLP, AdamW with a warm-up.

The healthy arm has no finding. In the other one the signal shrinks a thousandfold from the first block to the last,
which is told at the first step; it learns hardly more than how frequent letters are, which is a loss of 3.24.
"""

from __future__ import annotations

import pydoc_data.topics

import torch
from torch import Tensor, nn

import actdiag

LENGTH, WIDTH, HEADS, BLOCKS = 64, 64, 4, 3


def letters() -> Tensor:
    """Python's help texts as bytes [N]; what is not ASCII is left out."""
    text = "\n".join(pydoc_data.topics.topics.values())
    return torch.tensor([ord(letter) for letter in text if ord(letter) < 128])


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Rows of tokens [N, T, C] to the same shape."""
        heads = self.project(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and an MLP, each on what its norm gives and added to what came in. `bare`: without norms and sums."""

    def __init__(self, *, bare: bool) -> None:
        super().__init__()
        self.bare, self.attention = bare, Attention()
        self.first, self.second = (nn.Identity() if bare else nn.LayerNorm(WIDTH) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """Rows of tokens [N, T, C] to the same shape."""
        attended = self.attention(self.first(x))
        x = attended if self.bare else x + attended
        changed: Tensor = self.mlp(self.second(x))
        return changed if self.bare else x + changed


class GPT(nn.Module):
    """Letters [N, T] to logits of the letter that follows each [N, T, 128]."""

    def __init__(self, *, bare: bool) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(128, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*[Block(bare=bare) for _ in range(BLOCKS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 128)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        places = torch.arange(x.shape[1], device=x.device)
        logits: Tensor = self.head(self.norm(self.blocks(self.letters(x) + self.places(places))))
        return logits


def train(steps: int, *, bare: bool) -> tuple[actdiag.Monitor, float]:
    """Train with a warm-up over 50 steps; the monitor, and the mean loss of the last 20 steps."""
    torch.manual_seed(0)
    text, model, losses = letters(), GPT(bare=bare), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 50))
    with actdiag.Monitor(model, optimizer, log_every_n_steps=20, max_overhead=None) as monitor:
        for _ in range(steps):
            starts = torch.randint(len(text) - LENGTH - 1, (16,))
            rows = torch.stack([text[start : start + LENGTH + 1] for start in starts])
            loss = nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            warm.step()
            losses.append(loss.item())
    return monitor, sum(losses[-20:]) / len(losses[-20:])


def main(steps: int = 200) -> dict[str, tuple[actdiag.Monitor, float]]:
    """Train both arms and print what was found in them; the monitor and the loss of each."""
    results = {}
    for name, bare in {"healthy": False, "sick: no skips, no norms": True}.items():
        results[name] = monitor, loss = train(steps, bare=bare)
        print(f"{name}: loss {loss:.2f}, findings: {len(monitor.findings)}")
        for finding in monitor.findings:
            print(f"  step {finding.step}: {finding}")
    print()
    print(results["healthy"][0].report())
    return results


if __name__ == "__main__":
    main()
