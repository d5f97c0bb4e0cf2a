"""Train an LSTM to remember a number, with gates one can see; once as usual, once on numbers that are far too large.

You will see: how much each arm recalls of the number that was marked in a sequence, what actdiag finds, and where the
forget gates stand. In a network that remembers they stand at their end, near 1, where a sigmoid has no slope: that
keeps a number in the cell, and nothing is told of it. A sigmoid that is multiplied with something is taken for a gate.

The sick arm is the same network on numbers that are 1,000 times as large. Its tanh, which is to carry the number, is at
its ends from the first step on; that is told, and soon that no gradient comes back to the weights. It recalls nothing.

`torch.nn.LSTM` is one fused kernel that nobody can see into, so the cell is written out here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import actdiag

LENGTH, WIDTH = 10, 16


class Cell(nn.Module):
    """One step of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(2 + WIDTH, 4 * WIDTH)
        with torch.no_grad():
            self.project.bias[WIDTH : 2 * WIDTH] = 5.0  # begin by remembering

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [N, 2] and the state, twice [N, WIDTH], to the next state."""
        put, keep, new, show = self.project(torch.cat([x, hidden], 1)).chunk(4, 1)
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(put) * torch.tanh(new)
        return torch.sigmoid(show) * torch.tanh(cell), cell


class Memory(nn.Module):
    """Sequences [N, T, 2] of numbers and marks to the number that was marked [N]."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = Cell(), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        hidden = cell = x.new_zeros(len(x), WIDTH)
        for step in x.unbind(1):
            hidden, cell = self.cell(step, hidden, cell)
        recalled: Tensor = self.head(hidden)[:, 0]
        return recalled


def sequences(n: int) -> tuple[Tensor, Tensor]:
    """Numbers in [-1, 1], one of which is marked; and that number."""
    x = torch.stack([2 * torch.rand(n, LENGTH) - 1, torch.zeros(n, LENGTH)], 2)
    places = torch.randint(LENGTH, (n,))
    x[torch.arange(n), places, 1] = 1.0
    return x, x[torch.arange(n), places, 0]


def train(scale: float, steps: int) -> tuple[actdiag.Monitor, float]:
    """Train on numbers times `scale`; the monitor, and the share of the numbers' variance that is recalled."""
    torch.manual_seed(0)
    model = Memory()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    size = torch.tensor([scale, 1.0])
    with actdiag.Monitor(model, optimizer, log_every_n_steps=20, max_overhead=None) as monitor:
        for _ in range(steps):
            x, y = sequences(64)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(size * x), y).backward()
            optimizer.step()
    x, y = sequences(1000)
    with torch.no_grad():
        return monitor, 1 - float((model(size * x) - y).square().mean() / y.var())


def forget_gates(snapshot: actdiag.Snapshot) -> tuple[float, float]:
    """Mean of the forget gates, and the share of them that stands at an end; the first sigmoid of each step of time."""
    gates = [snapshot.sites[f"cell/sigmoid#{3 * step}"] for step in range(LENGTH)]
    means, ends = [gate.mean or 0.0 for gate in gates], [gate.saturated_fraction or 0.0 for gate in gates]
    return sum(means) / LENGTH, sum(ends) / LENGTH


def main(steps: int = 300) -> dict[str, tuple[actdiag.Monitor, float]]:
    """Train both arms and print what was found in them; the monitor and the share recalled of each."""
    results = {}
    for name, scale in {"healthy": 1.0, "sick: numbers times 1,000": 1000.0}.items():
        results[name] = monitor, recalled = train(scale, steps)
        assert monitor.latest is not None
        mean, ends = forget_gates(monitor.latest)
        print(f"{name}: {max(recalled, 0):.0%} recalled, findings: {len(monitor.findings)}")
        print(f"  forget gates: {mean:.2f} on average, {ends:.0%} of them at an end")
        for rule in dict.fromkeys(finding.rule for finding in monitor.findings):
            found = [finding for finding in monitor.findings if finding.rule == rule]
            print(f"  {len(found)} x {rule}, first at step {found[0].step}: {found[0].message}")
    return results


if __name__ == "__main__":
    main()
