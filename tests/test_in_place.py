"""In-place operations and views: the numbers are those of the twin that copies, or the gradient is not told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.observing import last, on, run
from tests.regimes import regime

SHAPES = {"linear on rows": (6, 4), "linear on tokens": (3, 5, 4), "conv": (2, 4, 5, 5), "norm": (2, 4, 5, 5)}


def layer(kind: str) -> nn.Module:
    if kind.startswith("linear"):
        return nn.Linear(4, 6)
    conv = nn.Conv2d(4, 6, 3, padding=1)
    return conv if kind == "conv" else nn.Sequential(conv, nn.BatchNorm2d(6))


class Changed(nn.Module):
    """A layer, a change of its output, a head of the same kind."""

    def __init__(self, kind: str, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head = layer(kind), nn.Linear(6, 2) if kind.startswith("linear") else nn.Conv2d(6, 2, 1)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.change(self.body(x)))


def in_units(h: Tensor, change: Callable[[Tensor], Tensor], *, inplace: bool) -> Tensor:
    """Apply a change to the first half of the units: in a view, or joined from two parts."""
    dim = 1 if h.ndim == 4 else h.ndim - 1
    if inplace:
        change(h.narrow(dim, 0, 3))
        return h
    return torch.cat([change(h.narrow(dim, 0, 3)), h.narrow(dim, 3, 3)], dim)


def zeroed(h: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(h[:1]), h[1:]])


def set_zero(h: Tensor) -> Tensor:
    h[0] = 0
    return h


WHOLE: dict[str, tuple[Any, Any]] = {
    "relu_": (F.relu_, torch.relu),
    "+=": (lambda h: h.add_(torch.ones_like(h)), lambda h: h + torch.ones_like(h)),
    "*=": (lambda h: h.mul_(2.0), lambda h: h * 2.0),
    "clamp_": (lambda h: h.clamp_(-0.1, 0.1), lambda h: h.clamp(-0.1, 0.1)),
}
VIEWS: dict[str, tuple[Any, Any]] = {
    "x[0] = 0": (set_zero, zeroed),
    "*= in a slice": (
        lambda h: in_units(h, lambda v: v.mul_(2.0), inplace=True),
        lambda h: in_units(h, lambda v: v * 2.0, inplace=False),
    ),
    "+= in a transposed view": (lambda h: (h.transpose(0, 1).add_(1.0), h)[1], lambda h: h + 1.0),
    "clamp_ in a flat view": (lambda h: (h.view(-1).clamp_(-0.1, 0.1), h)[1], lambda h: h.clamp(-0.1, 0.1)),
}


def pair(kind: str, change: tuple[Any, Any]) -> list[Any]:
    x = torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(1))
    return [last(run(lambda how=how: Changed(kind, how), on(x))) for how in change]


@regime(
    "in-place and views",
    "`F.relu_`, `+=`, `*=`, `clamp_` on the output of a Linear (rows, tokens), Conv or BatchNorm",
    exact="all numbers of the twin that copies, the layer's pre-activation and gradient among them",
    proves=("R5", "R6", "C1", "C2", "C3", "C5"),
)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("how", WHOLE)
def test_R05_R06_a_layer_whose_output_is_overwritten_is_told_as_it_was(kind: str, how: str) -> None:
    there, twin = pair(kind, WHOLE[how])
    assert there.sites == twin.sites and there.parameters == twin.parameters
    assert all(site.grad_rms for site in there.sites.values() if site.role != "input")


@regime(
    "in-place and views",
    "a slice, row, transposed or flat view of a layer's output changed in place",
    exact="activation and gradient of the layer, as its output was before the change",
    proves=("R5", "C4"),
)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("how", VIEWS)
def test_R05_changes_through_a_view_of_an_output_leave_its_numbers_right(kind: str, how: str) -> None:
    there, twin = pair(kind, VIEWS[how])
    assert there.sites == twin.sites and there.parameters == twin.parameters
    assert all(site.grad_rms for site in there.sites.values() if site.role != "input")


@regime(
    "in-place and views",
    "an activation function in place on a slice (`h[:, :3].relu_()`)",
    exact="everything forward; the layer's gradient",
    not_observed="the gradient at that activation: autograd keeps none for a view of what changes",
    proves=("R5", "C4", "C5"),
)
@pytest.mark.parametrize("kind", SHAPES)
def test_R05_an_activation_in_place_on_a_slice_has_no_gradient_of_its_own_and_no_zero(kind: str) -> None:
    changes = [
        lambda h, flag=flag: in_units(h, F.relu_ if flag else torch.relu, inplace=flag) for flag in (True, False)
    ]
    there, twin = pair(kind, (changes[0], changes[1]))
    (name,) = (name for name in there.sites if "relu" in name)
    assert there.sites[name].grad_rms is None and there.sites[name].grad_zero_fraction is None
    for field in ("n", "mean", "low", "zero_fraction", "gate_mean", "units", "histogram"):
        assert getattr(there.sites[name], field) == getattr(twin.sites[name], field)
    rest = [{key: site for key, site in told.sites.items() if key != name} for told in (there, twin)]
    assert rest[0] == rest[1]


class Half(nn.Module):
    """A leaf of the user's that returns a view of a part of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3]


@regime(
    "in-place and views",
    "a module that returns a part of its input as a view, changed in place by the next",
    exact="its activation; activation and gradient of the layer before",
    not_observed="the gradient at the view: None, not 0",
    proves=("R5", "C4"),
)
def test_R05_a_module_that_returns_a_slice_that_is_then_overwritten() -> None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))

    def net(inplace: bool) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), Half(), nn.ReLU(inplace=inplace), nn.Linear(3, 2))

    there, twin = (last(run(lambda flag=flag: net(flag), on(x))).sites for flag in (True, False))
    assert there["0"] == twin["0"] and there["3"] == twin["3"]
    assert there["1"].mean == twin["1"].mean and there["1"].low == twin["1"].low
    assert there["1"].grad_rms is None and twin["1"].grad_rms


class Basic(nn.Module):
    """A residual block as in torchvision: one ReLU used twice, everything in place, or nothing."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.down, self.act, self.inplace = nn.Conv2d(2, 4, 1), nn.ReLU(inplace=inplace), inplace
        self.drop = nn.Dropout(0.5, inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.two(self.act(self.norm1(self.one(x)))))
        if self.inplace:
            y += self.drop(self.down(x))
        else:
            y = y + self.drop(self.down(x))
        return self.act(y)


@regime(
    "in-place and views",
    "a residual block with BatchNorm, one ReLU(inplace) used twice, `+=` and Dropout(inplace)",
    exact="all numbers of the twin that copies, three steps long",
    proves=("R5", "R55", "C1", "C3", "C7"),
)
def test_R05_a_residual_block_in_place_is_its_twin() -> None:
    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    there, twin = (run(lambda flag=flag: Basic(flag), on(x), steps=3) for flag in (True, False))
    for a, b in zip(there.snapshots, twin.snapshots, strict=True):
        assert a.sites == b.sites and a.parameters == b.parameters
    assert {"act#0", "act#1"} < set(last(there).sites)


@regime(
    "in-place and views",
    "`view`, `reshape`, `flatten`, `permute`, `expand` between layers",
    exact="activation and gradient of the layers on both sides",
    proves=("R5", "C4"),
)
@pytest.mark.parametrize(
    "turn",
    [
        lambda h: h.view(2, 3, 6), lambda h: h.t().contiguous().t(), lambda h: h.unsqueeze(0), lambda h: h.flatten(0),
        lambda h: h.expand(3, 6, 6), lambda h: h[:, ::2], lambda h: h.detach() + h,
    ],
)  # fmt: skip
def test_views_of_an_output_do_not_move_its_gradient(turn: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return turn(self.fc(x))

    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    told = last(run(Net, on(x))).sites["fc"]
    torch.manual_seed(0)
    out = Net().fc(x)
    out.retain_grad()
    turn(out).square().mean().backward()
    assert out.grad is not None
    assert told.grad_rms == pytest.approx(float(out.grad.double().square().mean().sqrt()), rel=1e-5)
