"""Numbers that are hard to add up: half precision, large means, many elements, NaN and infinity, tiny gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag.report.read import read_runs
from tests.observing import last, on, run
from tests.regimes import regime


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Emits(nn.Module):
    """A layer that gives out a tensor of the test's, and lets a gradient through to its weight."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x, self.weight = x, nn.Parameter(torch.ones(1))

    def forward(self, _: Tensor) -> Tensor:
        return self.x * self.weight.to(self.x.dtype)


class Around(nn.Module):
    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.emits, self.act = Emits(x), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.emits(x))


def emitted(x: Tensor, *, loss: Any = lambda out: out.float().sum(), **options: Any) -> Any:
    return last(run(lambda: Around(x.clone()), on(torch.zeros(1), loss=loss), **options))


@regime(
    "mixed precision",
    "autocast to bf16 and fp16, with large values (std 300) and with a mean of 100 standard deviations",
    exact="the values in the dtype in which they were computed; the training is bit-identical",
    proves=("R34", "R35", "R51", "C18", "C19"),
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_R34_R35_autocast_values_are_told_exactly(dtype: torch.dtype, shift: float) -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        nn.init.constant_(model[0].bias, shift)
        return model

    x = data(64, 4) * (300 if not shift else 1)

    def step(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = model(x).float().square().mean() * 1e-4
        loss.backward()
        optimizer.step()

    sites = run(build, step, steps=2).snapshots[0].sites
    torch.manual_seed(0)
    model = build()
    out = x
    with torch.autocast("cpu", dtype=dtype):
        for index in range(3):
            out = model[index](out)
            assert out.dtype == dtype
            site = sites[str(index)]
            truth = out.detach().double()
            assert site.std == pytest.approx(float(truth.std(correction=0)), rel=1e-6)
            assert site.mean == pytest.approx(float(truth.mean()), rel=1e-5)
            assert site.rms == pytest.approx(float(truth.square().mean().sqrt()), rel=1e-6)
            assert site.grad_rms is not None and site.nonfinite == 0


@regime(
    "outputs and odd tensors",
    "a mean 3,000 times (fp32) and 10,000 times (fp64) the standard deviation",
    exact="std within 1e-4",
    proves=("R34", "C18"),
)
@pytest.mark.parametrize("dtype,mean", [(torch.float32, 3000.0), (torch.float64, 10_000.0)])
def test_R34_the_spread_beside_a_large_mean_is_told(dtype: torch.dtype, mean: float) -> None:
    x = data(500, 6).to(dtype) + mean
    site = emitted(x).sites["emits"]
    assert site.std == pytest.approx(float(x.double().std(correction=0)), rel=1e-4)
    assert site.mean_energy == pytest.approx(1.0, rel=1e-6)


@regime(
    "outputs and odd tensors",
    "more than 2^24 elements in one tensor",
    exact="counts, mean, extremes: n, zeros and non-finite to the last element",
    approximate="the histogram: of about 65,000 elements at a fixed stride",
    proves=("R20", "R34", "C18"),
)
def test_R20_R34_more_elements_than_float32_can_count_are_counted_exactly() -> None:
    rows = (1 << 21) + 1
    x = torch.ones(rows, 8)
    x[0, 0], x[1, :3], x[2, 0] = 0.0, math.nan, -5.0
    site = emitted(x, loss=lambda out: out[:2].sum()).sites["emits"]
    assert site.n == rows * 8 > 1 << 24
    assert site.nonfinite == 3 and site.samples == rows
    assert site.zero_fraction == pytest.approx(1 / (rows * 8 - 3), rel=1e-6)
    assert (site.low, site.high) == (-5.0, 1.0)
    assert site.histogram is not None and 60_000 <= site.histogram.n <= 1 << 16


HARD: dict[str, Tensor] = {
    "NaN": torch.tensor([[1.0, math.nan], [2.0, -1.0]]),
    "all NaN": torch.full((4, 3), math.nan),
    "infinite": torch.tensor([[math.inf, 1.0], [-math.inf, 2.0]]),
    "1e38": torch.full((3, 3), 1e38),
    "constant": torch.full((3, 3), 2.5),
    "zeros": torch.zeros(3, 3),
    "denormal": torch.full((3, 3), 1e-42),
    "one element": torch.ones(1, 1),
    "fp16 at its end": torch.full((64, 3), 65504.0, dtype=torch.float16),
}


@regime(
    "outputs and odd tensors",
    "NaN, infinity, 1e38, constants, denormals, single elements in activations",
    exact="`nonfinite` counted, everything else over the finite part; the event file is read back",
    not_observed="mean, std and the like of a tensor without a finite element: None",
    proves=("R1", "R2", "C17"),
)
@pytest.mark.parametrize("kind", HARD)
def test_R01_R02_any_values_are_told_and_written(kind: str, tmp_path: Path) -> None:
    x = HARD[kind]
    monitor = run(lambda: Around(x.clone()), on(torch.zeros(1), loss=lambda out: out.sum()), steps=2, log_dir=tmp_path)
    site = monitor.snapshots[0].sites["emits"]
    finite = x.double()[x.isfinite()]
    assert (site.n, site.nonfinite) == (x.numel(), int((~x.isfinite()).sum()))
    if finite.numel() == 0:
        assert (site.mean, site.std, site.low, site.zero_fraction, site.histogram) == (None,) * 5
    else:
        assert (site.low, site.high) == (pytest.approx(float(finite.min())), pytest.approx(float(finite.max())))
    (logged,) = read_runs(tmp_path)
    assert list(logged.snapshots) == monitor.snapshots, "what is read back is what was recorded"


@regime(
    "outputs and odd tensors",
    "fp64 values whose square overflows (1e300)",
    exact="counts and the other sites",
    approximate="what float32 cannot hold is infinite",
    proves=("R1", "C17"),
)
def test_R01_doubles_whose_square_overflows_are_told() -> None:
    told = emitted(torch.full((3, 3), 1e300, dtype=torch.float64), loss=lambda out: out.mean() * 1e-300)
    assert (told.sites["emits"].n, told.sites["emits"].nonfinite) == (9, 0)
    assert told.parameters["emits.weight"].grad_norm


@regime(
    "outputs and odd tensors",
    "gradients of 1e-30 and of 1e30",
    exact="norms and octaves",
    proves=("R3", "C17"),
)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_R03_tiny_and_huge_gradients_have_a_histogram(scale: float) -> None:
    weights = data(64, 8) * scale
    told = emitted(torch.ones(64, 8), loss=lambda out: (out * weights).sum()).sites["emits"]
    assert told.grad_rms == pytest.approx(float(weights.double().square().mean().sqrt()), rel=1e-5)
    assert told.grad_histogram is not None and sum(count > 0 for count in told.grad_histogram.counts) > 8
    assert told.grad_histogram.n == 512


def deep(broken: int) -> nn.Sequential:
    model = nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(4, 4), nn.Tanh())))
    with torch.no_grad():
        model[broken].weight[1, 1] = math.nan
    return model


@regime(
    "outputs and odd tensors",
    "the first NaN of a forward, in any layer or in the input",
    exact="the finding names the producer, the counts and the step; the layers behind it are not named",
    proves=("R4", "C17"),
)
@pytest.mark.parametrize("broken", [0, 2, 4, 8])
def test_R04_the_producer_of_the_first_nan_is_named_and_not_those_who_pass_it_on(broken: int) -> None:
    monitor = run(lambda: deep(broken), on(data(7, 4)), steps=2)
    (finding,) = [f for f in monitor.findings if f.rule == "non-finite"]
    assert (finding.layer, finding.step) == (str(broken), 0)
    assert finding.evidence["nonfinite"] == 7 and finding.evidence["n"] == 28


def test_R04_nan_in_the_data_is_said_of_the_data() -> None:
    x = data(7, 4)
    x[3, 2] = math.nan
    monitor = run(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), on(x))
    (finding,) = [f for f in monitor.findings if f.rule == "non-finite"]
    assert "data" in finding.cause and finding.evidence["nonfinite"] == 1


class Root(nn.Module):
    """Its slope at 0 is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


@regime(
    "outputs and odd tensors",
    "the first NaN of a backward, every activation being finite",
    exact="the finding names the module in whose backward it was born",
    proves=("R4b", "C17"),
)
def test_R04b_the_module_in_whose_backward_a_nan_is_born_is_named() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4, bias=False), Root(), nn.Linear(4, 2))

    monitor = run(build, on(torch.zeros(3, 4)))
    site = last(monitor).sites
    assert site["0"].grad_nonfinite and site["1"].grad_nonfinite == 0, "the case itself is wrong"
    (finding,) = [f for f in monitor.findings if f.rule == "non-finite"]
    assert finding.layer == "1"
