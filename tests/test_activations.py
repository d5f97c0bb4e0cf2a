"""Every number about an activation function is recomputed: slopes by autograd, Gaussian means by quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from actdiag.collect.activations import CLOSED_GATE, SATURATED_GATE, ActivationFacts
from actdiag.collect.functions import FUNCTIONS
from actdiag.collect.known import module_facts


class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class NewGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


MODULES = {
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "leaky": nn.LeakyReLU(),
    "leaky steep": nn.LeakyReLU(1.5),
    "prelu": nn.PReLU(),
    "elu": nn.ELU(),
    "elu 0.3": nn.ELU(0.3),
    "elu 2": nn.ELU(2.0),
    "celu": nn.CELU(),
    "celu 2": nn.CELU(2.0),
    "selu": nn.SELU(),
    "gelu": nn.GELU(),
    "gelu tanh": nn.GELU(approximate="tanh"),
    "new gelu": NewGELU(),
    "quick gelu": QuickGELU(),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardtanh": nn.Hardtanh(),
    "hardtanh 0.3..0.7": nn.Hardtanh(-0.3, 0.7),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "softplus": nn.Softplus(),
    "softplus beta 3": nn.Softplus(beta=3.0),
    "softsign": nn.Softsign(),
    "logsigmoid": nn.LogSigmoid(),
}
BOUNDED = {"relu6", "hardsigmoid", "hardtanh", "hardtanh 0.3..0.7", "sigmoid", "tanh", "softsign"}
# Their slope vanishes at one healthy point too, so "closed" is said of the tail only.
TAIL_ONLY = {"new gelu", "quick gelu", "gelu", "gelu tanh", "silu", "mish", "hardswish"}


def facts_of(name: str) -> ActivationFacts:
    facts = module_facts(MODULES[name].double(), {})
    assert facts is not None
    return facts


def curve(name: str, points: int = 400_001, reach: float = 12.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z, f(z) and |f'(z)| over max|f'|, by autograd in float64."""
    z = torch.linspace(-reach, reach, points, dtype=torch.float64, requires_grad=True)
    a = MODULES[name].double()(z)
    (slope,) = torch.autograd.grad(a.sum(), z)
    slope = slope.abs()
    return z.detach(), a.detach(), slope / slope.max()


@pytest.mark.parametrize("name", MODULES)
def test_the_gate_is_the_slope_over_the_largest_slope(name: str) -> None:
    facts = facts_of(name)
    z, a, gate = curve(name)
    assert facts.gate is not None
    told = facts.gate(a if facts.reads == "output" else z)
    # Autograd chooses one side at a kink; a grid point lies on one only by accident of rounding.
    differ = (told - gate).abs() > 1e-4
    assert int(differ.sum()) <= 4, (z[differ][:5], told[differ][:5], gate[differ][:5])


@pytest.mark.parametrize("name", MODULES)
def test_the_largest_slope_is_the_one_that_is_stated(name: str) -> None:
    z = torch.linspace(-12, 12, 400_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(MODULES[name].double()(z).sum(), z)
    assert slope.abs().max().item() == pytest.approx(facts_of(name).max_slope, rel=1e-4)


@pytest.mark.parametrize("name", MODULES)
def test_closed_is_where_the_gate_is_below_one_hundredth(name: str) -> None:
    facts = facts_of(name)
    z, a, gate = curve(name)
    read = a if facts.reads == "output" else z
    closed = facts.closed_mask(read).bool()
    expected = gate < CLOSED_GATE
    if name in TAIL_ONLY:
        first_open = z[~expected][0]
        expected = z < first_open
    if "leaky" in name or name == "prelu":
        assert not closed.any() and not facts.can_close
        return
    edge = (closed != expected).sum().item()
    assert edge <= 8, f"{edge} of {len(z)} points differ"  # the grid's points at the edge itself


@pytest.mark.parametrize("name", sorted(BOUNDED))
def test_saturated_is_where_a_bounded_gate_is_below_six_hundredths(name: str) -> None:
    facts = facts_of(name)
    z, a, gate = curve(name)
    low = a <= facts.saturated_low if facts.saturated_low is not None else torch.zeros_like(a, dtype=torch.bool)
    high = a >= facts.saturated_high if facts.saturated_high is not None else torch.zeros_like(low)
    expected = gate <= SATURATED_GATE
    if name == "relu6":
        expected &= z > 3  # its zeros are inactive, not saturated
    differ = ((low | high) != expected).sum().item()
    assert differ <= 8


@pytest.mark.parametrize("name", sorted(set(MODULES) - BOUNDED))
def test_saturation_is_not_said_of_unbounded_functions(name: str) -> None:
    assert not facts_of(name).bounded


@pytest.mark.parametrize("name", MODULES)
def test_the_gaussian_mean_and_std_are_those_of_the_function(name: str) -> None:
    facts = facts_of(name)
    if facts.expected_mean is None:
        assert name in {
            "prelu", "leaky steep", "elu 0.3", "elu 2", "celu 2", "hardtanh 0.3..0.7", "softplus beta 3",
        }  # fmt: skip
        return
    z, a, _ = curve(name)
    weight = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    mean = (a * weight).sum().item()
    std = math.sqrt((a * a * weight).sum().item() - mean * mean)
    assert facts.expected_mean == pytest.approx(mean, abs=1e-4)
    assert facts.expected_std == pytest.approx(std, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_clipped_value_meets_its_bound_in_every_dtype(dtype: torch.dtype) -> None:
    module = nn.Hardtanh(-0.3, 0.7)
    facts = module_facts(module, {})
    assert facts is not None and facts.clips
    out = module(torch.tensor([-5.0, 0.1, 5.0], dtype=dtype))
    assert facts.closed_mask(out).tolist() == [1.0, 0.0, 1.0]


def test_nan_is_never_closed() -> None:
    for name in MODULES:
        assert facts_of(name).closed_mask(torch.tensor([float("nan")])).item() == 0


def test_a_prelu_with_one_slope_a_channel_is_read_channel_by_channel() -> None:
    module = nn.PReLU(2)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.25, 2.0]))
    facts = module_facts(module, {})
    assert facts is not None and facts.gate is not None
    gate = facts.gate(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    torch.testing.assert_close(gate, torch.tensor([[1.0, 0.5], [0.25, 1.0]]))


def test_a_users_own_facts_come_before_ours() -> None:
    mine = ActivationFacts(name="mine", reads="output", gate=torch.ones_like)
    assert module_facts(nn.ReLU(), {nn.ReLU: mine}) is mine
    assert module_facts(nn.Linear(2, 2), {}) is None


def test_a_subclass_is_not_taken_for_its_parent() -> None:
    class Odd(nn.ReLU):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -super().forward(x)

    assert module_facts(Odd(), {}) is None


def test_functions_have_the_facts_of_their_modules() -> None:
    x = torch.linspace(-2, 2, 9)
    for function, (name, build) in FUNCTIONS.items():
        if name == "prelu":
            continue
        facts = build(x)
        out = function(x.clone())
        twin = next(m for m in MODULES.values() if (f := module_facts(m, {})) is not None and f.name == facts.name)
        torch.testing.assert_close(out, twin.float()(x), msg=f"{function} is not {facts.name}")
