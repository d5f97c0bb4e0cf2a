"""What is a gate, what is an activation somebody wrote out, and what a pass without gradients leaves behind."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.compiling import compiled, eager, inner, train
from tests.observing import last, on, run
from tests.regimes import regime


class Handmade(nn.Module):
    """A GELU whose class nobody knows."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class NewGELU(Handmade):
    """The same under the name by which it is known."""


class Products(nn.Module):
    """tanh multiplied as it is (the output of an LSTM cell), and a sum of tensors that is multiplied."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x) * torch.tanh(x) + x * (torch.tanh(x) + x)


def around(make: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), make(), nn.Linear(8, 3))


@regime(
    "outputs and odd tensors",
    "activations written out (NewGELU, QuickGELU, those of transformers)",
    exact="known by class name: judged as the activation they are",
    approximate="an unknown class: its inner tanh or sigmoid is a gate, of which nothing is said",
)
def test_a_written_out_gelu_is_known_by_name_and_its_tanh_is_no_activation() -> None:
    known = last(run(lambda: around(NewGELU), on(torch.randn(5, 8)))).sites
    assert list(known) == ["0:in", "0", "1", "2"]
    assert (known["1"].kind, known["1"].role) == ("NewGELU", "activation") and known["1"].gate_mean is not None
    unknown = last(run(lambda: around(Handmade), on(torch.randn(5, 8)))).sites
    assert unknown["1/tanh"].role == "gate"


@pytest.mark.parametrize("wrap", [eager, compiled(fullgraph=True)])
def test_only_a_shifted_tanh_is_a_gate(wrap: Callable[[nn.Module], nn.Module]) -> None:
    sites = train(lambda: around(Products), wrap, observe=inner).snapshot.sites
    assert {name: sites[name].role for name in ("1/sigmoid", "1/tanh#0", "1/tanh#1")} == {
        "1/sigmoid": "gate",
        "1/tanh#0": "activation",
        "1/tanh#1": "activation",
    }
    assert train(lambda: around(Handmade), wrap, observe=inner).snapshot.sites["1/tanh"].role == "gate"


class Frozen(nn.Module):
    """A part that runs without gradients, and a cell that does so first."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.cell, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.cell(self.cell(self.frozen(x)))
        return self.head(self.cell(self.cell(x)))


@regime(
    "shared, reused, uncalled modules",
    "modules that run under no_grad in a training step, before they run with gradients or never",
    exact="calls with gradients, numbered from 0; what never had any is named with this reason",
    proves=("R57", "R68"),
)
@pytest.mark.parametrize("wrap", [eager, compiled(fullgraph=True)])
def test_R57_R68_a_pass_without_gradients_is_said_to_be_one(
    wrap: Callable[[nn.Module], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    sites = train(Frozen, wrap, observe=inner).snapshot.sites
    assert set(sites) - {"cell#0:in", "cell:in", "frozen:in", "head:in"} == {"cell#0", "cell#1", "head"}
    assert "frozen: it ran without gradients" in caplog.text
