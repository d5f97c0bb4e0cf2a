"""Sums per unit: against a float64 oracle, and the merge law on shards that differ in everything."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from actdiag.collect.activations import TANH
from actdiag.collect.finish import _from_moments, _moments
from actdiag.collect.known import module_facts
from actdiag.collect.layout import arrange
from actdiag.collect.moments import (
    Moments,
    add_gates,
    add_gradients,
    measure,
    measure_gate,
    measure_gradient,
    merge,
)
from actdiag.collect.tally import SUMS, Layout, SiteRow, Tally
from tests.oracle import rows, statistics

NAN, INF = float("nan"), float("inf")


def told(moments: Moments) -> dict[str, object]:
    tally = Tally.empty(Layout((SiteRow("x", 0, "Linear", "layer", len(moments.n_C), 0, ""),)))
    tally.n_C[:], tally.mean_C[:], tally.m2_C[:] = (x.numpy() for x in (moments.n_C, moments.mean_C, moments.m2_C))
    tally.low_S[0], tally.high_S[0] = float(moments.low_C.min()), float(moments.high_C.max())
    tally.sums_SK[0, SUMS.index("zeros")] = float(moments.zeros)
    tally.sums_SK[0, SUMS.index("nonfinite")] = float(moments.nonfinite)
    sums = dict(zip(SUMS, tally.sums_SK.T.tolist(), strict=True))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return {"nonfinite": int(moments.nonfinite), **_from_moments(_moments(tally), sums, 0)}


def assert_same(found: dict[str, object], truth: dict[str, object], rtol: float = 1e-5) -> None:
    for name, expected in truth.items():
        if name == "n":
            continue
        value = found.get(name)
        if expected is None:
            assert value is None, f"{name}: {value} where nothing applies"
        else:
            # A mean is known to a share of the spread it is the mean of. Non-finite elements are counted as 0 and taken
            # out of the sums again, which leaves a std of 0 at the root of what float64 rounds.
            share = {"mean": 1e-9, "std": 1e-7 if truth["nonfinite"] else 0.0}.get(name, 0.0)  # type: ignore[dict-item]
            slack = max(1e-12, share * float(truth["rms"] or 0))  # type: ignore[arg-type]
            assert value == pytest.approx(expected, rel=rtol, abs=slack), name


def make(shape: tuple[int, ...], *, mean: float = 0.0, std: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * std + mean


LAYOUTS = {
    "NF": ((64, 12), 1),
    "NTF": ((8, 5, 12), 2),
    "NCHW": ((6, 5, 4, 3), 1),
    "NCL": ((6, 5, 9), 1),
    "N": ((40,), 0),
    "0d": ((), 0),
    "one sample": ((1, 7), 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("mean,std", [(0, 1), (1e4, 1), (-3, 300), (0, 1e-3)])
def test_every_statistic_equals_its_oracle(layout: str, dtype: torch.dtype, mean: float, std: float) -> None:
    shape, dim = LAYOUTS[layout]
    x = make(shape, mean=mean, std=std).to(dtype)
    assert_same(told(measure(arrange(x, dim))), statistics(x, dim))


def test_the_variance_survives_a_mean_ten_thousand_times_larger() -> None:
    x = make((4096, 3), mean=1e4, std=1.0).float()
    truth = rows(x, 1)
    found = measure(arrange(x, 1))
    np.testing.assert_allclose((found.m2_C / found.n_C).sqrt().numpy(), truth.std(0), rtol=1e-5)


def test_half_precision_does_not_overflow_at_std_300() -> None:
    x = make((4096, 3), std=300.0).half()
    assert_same(told(measure(arrange(x, 1))), statistics(x, 1))


def test_a_tensor_larger_than_a_chunk_is_measured_whole() -> None:
    x = make((3000, 67), mean=5, std=2).float()
    x[2999, 66] = 1e6
    assert_same(told(measure(arrange(x, 1))), statistics(x, 1))


def test_channels_last_memory_gives_the_numbers_of_contiguous_memory() -> None:
    x = make((4, 3, 6, 5), mean=2).float()
    units = arrange(x.contiguous(memory_format=torch.channels_last), 1)
    assert units.x.is_contiguous(), "channels_last must be read in its own order, without a copy"
    for a, b in zip(measure(units), measure(arrange(x, 1)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "values",
    [
        [NAN, 1.0, 2.0, 4.0],
        [INF, -INF, NAN, 3.0],
        [NAN, NAN, NAN, NAN],
        [5.0, 5.0, 5.0, 5.0],
        [0.0, 0.0, 0.0, 0.0],
        [-0.0, 0.0, 1e-45, -1e-45],
        [3e38, -3e38, 1.0, 0.0],
        [1e4, NAN, 1e4 + 1, 1e4 + 2],
    ],
)
def test_odd_values_are_counted_and_the_rest_is_measured(values: list[float]) -> None:
    x = torch.tensor(values, dtype=torch.float32).reshape(2, 2)
    assert_same(told(measure(arrange(x, 1))), statistics(x, 1))


SHARDS: dict[str, Tensor] = {
    "wide": make((50, 4), mean=3, std=10, seed=1).float(),
    "tight, far away": make((3, 4), mean=1e4, std=0.1, seed=2).float(),
    "half": make((17, 4), std=300, seed=3).half(),
    "bfloat": make((8, 4), mean=-5, seed=4).bfloat16(),
    "constant": torch.full((9, 4), 7.0),
    "one row": make((1, 4), seed=5),
    "non-finite": torch.tensor([[NAN, INF, 1.0, 2.0], [3.0, -INF, NAN, 4.0]]),
    "all NaN": torch.full((2, 4), NAN),
}


def test_shards_that_differ_in_mean_spread_size_and_dtype_merge_to_the_whole() -> None:
    parts = [measure(arrange(x, 1)) for x in SHARDS.values()]
    whole = torch.cat([x.double() for x in SHARDS.values()])
    for order in (parts, parts[::-1], parts[3:] + parts[:3]):
        assert_same(told(functools.reduce(merge, order)), statistics(whole, 1), rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.floats(-1e4, 1e4), st.floats(1e-3, 1e3), st.integers(0, 99)),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 5),
)
def test_any_split_into_shards_gives_the_same_numbers(shards: list[tuple[int, float, float, int]], c: int) -> None:
    tensors = [make((n, c), mean=mean, std=std, seed=seed) for n, mean, std, seed in shards]
    merged = functools.reduce(merge, [measure(arrange(x, 1)) for x in tensors])
    at_once = measure(arrange(torch.cat(tensors), 1))
    for name, a, b in zip(Moments._fields, merged, at_once, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([(7,), (5, 3), (4, 3, 2), (2, 3, 4, 5), (1, 1), (2, 3, 2, 2, 2)]),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(0, 10**6),
    st.sampled_from(["plain", "transposed", "strided", "channels_last"]),
    st.floats(0, 0.5),
)
def test_shapes_strides_dtypes_and_non_finite_values(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int, memory: str, bad: float
) -> None:
    x = make(shape, mean=2, std=3, seed=seed).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    x[torch.rand(shape, generator=generator) < bad] = [NAN, INF, -INF][seed % 3]
    if memory == "transposed" and x.ndim > 1:
        x = x.transpose(0, -1)
    elif memory == "strided":
        x = x.repeat_interleave(2, dim=0)[::2]
    elif memory == "channels_last" and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    dim = 1 if x.ndim >= 4 else max(x.ndim - 1, 0)
    assert_same(told(measure(arrange(x, dim))), statistics(x, dim))


@pytest.mark.parametrize("kind", [nn.Tanh, nn.Sigmoid, nn.ReLU, nn.Hardtanh, nn.Softsign])
def test_gates_and_saturated_ends_equal_a_count_over_the_elements(kind: type[nn.Module]) -> None:
    a = kind()(make((70, 9), std=3).float())
    facts = module_facts(kind(), {})
    assert facts is not None and facts.gate is not None
    sums = add_gates(measure_gate(a[:50], facts), measure_gate(a[50:], facts))
    wide = a.double()
    assert float(sums.n) == a.numel()
    assert float(sums.gate) == pytest.approx(float(facts.gate(wide).sum()), rel=1e-6)
    low, high = facts.saturated_low, facts.saturated_high
    assert float(sums.low) == (0 if low is None else int((wide <= low).sum()))
    assert float(sums.high) == (0 if high is None else int((wide >= high).sum()))


def test_non_finite_elements_have_no_gate() -> None:
    sums = measure_gate(torch.tensor([[NAN, INF, 0.0, 0.98]]), TANH)
    assert float(sums.n) == 2
    assert float(sums.gate) == pytest.approx(1 + 1 - 0.98**2)


def test_gradients_far_below_float32_squares_keep_their_norm() -> None:
    g = make((1000,), std=1e-30).float()
    sums = measure_gradient(g)
    assert float(sums.squares) == pytest.approx(float(g.double().square().sum()), rel=1e-9)
    assert float(sums.squares) > 0


def test_gradient_sums_count_zeros_and_non_finite_and_add() -> None:
    a, b = torch.tensor([0.0, 3.0, NAN]), torch.tensor([[INF, -4.0], [0.0, 0.0]])
    sums = add_gradients(measure_gradient(a), measure_gradient(b))
    assert [float(v) for v in sums] == [5.0, 25.0, 3.0, 2.0]
