"""The fused kernel gives what the eager functions give, for every tensor; where it cannot be had, they do the work."""

from __future__ import annotations

import ctypes
import gc
import shutil
import subprocess
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from actdiag import Monitor
from actdiag.collect import fused, reducing
from actdiag.collect import kernel as compiling
from actdiag.collect.activations import ActivationFacts, leaky_facts
from actdiag.collect.fused import Fused, reducer
from actdiag.collect.histogram import count_octaves
from actdiag.collect.kernel import kernel
from actdiag.collect.layout import Units, arrange
from actdiag.collect.lean import Lean
from actdiag.collect.plan import inward, packed, table_of
from actdiag.collect.reducing import Asked, Eager
from actdiag.collect.slopes import Over
from tests.oracle import statistics
from tests.reductions import EVERYTHING, FACTS, INF, INTO, NAN, SHAPES, known, same, tensor_of

compiled = pytest.mark.skipif(kernel() is None, reason="no C compiler; apt-get install gcc")
both = pytest.mark.parametrize("make", [pytest.param(Fused, marks=compiled), Lean])
"""The kernel, and what does its work where there is no compiler."""
NEAR = 1e-6
"""What docs/decisions.md promises of sums that were made in float first."""


@both
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SHAPES),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.integers(0, 10**6),
    st.sampled_from(["plain", "transposed", "strided", "expanded", "channels_last"]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from(sorted(FACTS)),
)  # fmt: skip
def test_the_kernel_and_the_eager_functions_agree(
    make: Any, shape: tuple[int, ...], dtype: torch.dtype, seed: int, memory: str, bad: float, name: str
) -> None:
    x, facts = tensor_of(shape, seed=seed, dtype=dtype, bad=bad, memory=memory), FACTS[name]
    if name in INTO:
        x = INTO[name](x)
    for dim in {0, min(1, max(x.ndim - 1, 0)), max(x.ndim - 1, 0)}:
        units = arrange(x, dim)
        if facts is None:
            asked = Asked(moments=True, octaves=True)
            found, expected = (r.reduce(units, None, asked) for r in (make(), Eager()))
            assert found.gate_4 is None and found.open_C is None
            same(found._replace(open_C=torch.zeros(0)), expected, x.numel(), near=NEAR)
            continue
        found, expected = (r.reduce(units, facts, EVERYTHING) for r in (make(), Eager()))
        same(found, expected, x.numel(), near=NEAR)
        for part in (Asked(gate=True), Asked(open=True), Asked(gate=True, open=True)):
            alone = make().reduce(units, facts, part)
            assert alone.columns_5C is None and alone.octaves is None
            assert (alone.open_C is None) == (not part.open) and (alone.gate_4 is None) == (not part.gate)
            if alone.open_C is not None and found.open_C is not None:
                assert alone.open_C.tolist() == found.open_C.tolist()
            if alone.gate_4 is not None and found.gate_4 is not None:
                torch.testing.assert_close(alone.gate_4, found.gate_4, rtol=1e-12, atol=1e-12)


@both
@pytest.mark.parametrize("dim", [1, 2])
def test_the_variance_survives_a_mean_ten_thousand_times_the_spread(make: Any, dim: int) -> None:
    x = torch.randn(50, 40, 30, generator=torch.Generator().manual_seed(0)) * 0.01 + 100
    x[0, 0, 0] = NAN
    truth = statistics(x, dim)
    found = make().reduce(Units(x, dim), None, Asked(moments=True))
    assert found.columns_5C is not None and found.counts_2 is not None and found.counts_2.tolist() == [0, 1]
    n_C, mean_C, m2_C = found.columns_5C[:3]
    assert float((mean_C * n_C).sum() / n_C.sum()) == pytest.approx(truth["mean"], rel=1e-12)
    within = float(m2_C.sum() / n_C.sum())
    clean = torch.where(x.isfinite(), x.double(), torch.nan)
    by_unit = clean.movedim(dim, 0).flatten(1)
    expected = (by_unit - by_unit.nanmean(1, keepdim=True)).square().nansum() / by_unit.isfinite().sum()
    assert within == pytest.approx(float(expected), rel=NEAR)


def put(x: Tensor, **places: float) -> None:
    """Values into rows, by name: of a whole, these are the first, the middle one, ..."""
    rows = {"few": slice(16), "third": 3, "fifth": 5, "early": len(x) // 3, "half": len(x) // 2, "all": slice(None)}
    for name, value in places.items():
        x[rows[name]] = value


def scale(x: Tensor, by: float, first: int = 0) -> None:
    x[first:] *= by


ODD: dict[str, Callable[[Tensor], Any]] = {
    "the first are far from the others": lambda x: x[:16].add_(1e5),
    "one of the first is far from the others": lambda x: put(x, third=-1e7),
    "squares are beyond a float": lambda x: scale(x, 1e25),
    "squares are below a float": lambda x: scale(x, 1e-26),
    "a float holds the squares badly": lambda x: scale(x, 1e-20),
    "squares are below a float in the middle": lambda x: scale(x, 1e-26, len(x) // 2),
    "nearly all are zero": lambda x: x.mul_(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) > 0.97),
    "a constant": lambda x: put(x, all=12345.678),
    "a constant but for one": lambda x: put(x, all=12345.678, half=12345.688),
    "a drift": lambda x: x.add_(torch.linspace(0, 1e4, len(x))[:, None]),
    "not finite": lambda x: put(x, half=NAN, early=INF, fifth=-INF),
    "not finite at first": lambda x: put(x, few=NAN),
    "nothing finite": lambda x: put(x, all=INF),
    "a mean of many deviations": lambda x: x.add_(3e4),
}
"""Values with which sums in float go wrong; x is [rows, units], a view."""


def odd_values(kind: str, rows: int, units: int) -> Tensor:
    """Of every third unit the values are odd."""
    x = torch.randn(rows, units, generator=torch.Generator().manual_seed(rows))
    ODD[kind](x[:, 1::3])
    return x


@both
@pytest.mark.parametrize("kind", list(ODD))
@pytest.mark.parametrize("rows", [63, 64, 65, 511, 512, 1000])
def test_sums_that_are_made_in_float_first_are_right_whatever_the_values_are(make: Any, kind: str, rows: int) -> None:
    x = odd_values(kind, rows, 37)
    for units in (
        Units(x[:, None, :], 2),  # units side by side
        Units(x.t()[None].contiguous(), 1),  # a row a unit
        Units(x[: rows // 8 * 8].reshape(-1, 8, 37).movedim(2, 1).contiguous(), 1),  # short rows of several samples
        Units(x[: rows // 9 * 9].reshape(-1, 9, 37).movedim(2, 1).contiguous(), 1),  # that do not fill their vectors
    ):
        found, expected = (r.reduce(units, None, Asked(moments=True, octaves=True)) for r in (make(), Eager()))
        assert found.octaves is not None and expected.octaves is not None
        assert known(found.octaves) == known(expected.octaves), "also where it is gone through twice"
        assert found.columns_5C is not None and expected.columns_5C is not None
        (n_C, mean_C, m2_C, *ends), (count_C, center_C, spread_C, *limits) = found.columns_5C, expected.columns_5C
        assert torch.equal(n_C, count_C) and all(map(torch.equal, ends, limits))
        torch.testing.assert_close(m2_C, spread_C, rtol=NEAR, atol=0)
        off_C = (mean_C - center_C).abs() / ((spread_C / n_C.clamp(min=1)).sqrt() + 1e-12 * center_C.abs())
        assert bool((off_C.nan_to_num() <= NEAR).all()), float(off_C.nan_to_num().max())
        assert found.counts_2 is not None and expected.counts_2 is not None
        assert found.counts_2.tolist() == expected.counts_2.tolist()


@both
@pytest.mark.parametrize("shape", [(40, 8, 300), (41, 8, 300), (3, 200, 400)])
def test_every_sample_of_a_large_tensor_counts(make: Any, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + torch.arange(shape[0])[:, None, None]
    units = Units(x, 1)
    found, expected = (r.reduce(units, None, Asked(moments=True, octaves=True)) for r in (make(), Eager()))
    same(found._replace(open_C=torch.zeros(0)), expected, x.numel(), near=NEAR)


WIDE = [
    *((300, 1, 300), (1003, 1, 600), (7, 50, 300), (3, 4, 9000), (41, 30, 301), (5, 257, 100)),
    *((1, 1, 90001), (70000, 1, 1), (64, 128, 16), (19, 3, 1200), (66, 1, 1025)),
]
"""Samples, positions or units: several tiles, rows of no whole number of vectors, long and short ones."""
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it lies": lambda x: x,
    "turned": lambda x: x.transpose(0, 1),
    "every other row": lambda x: x.repeat(1, 2, 1)[:, ::2],
    "a part of each row": lambda x: x.repeat(1, 1, 2)[..., : x.shape[2]],
}


@both
@pytest.mark.parametrize("view", list(VIEWS))
@pytest.mark.parametrize("shape", WIDE)
def test_of_a_large_tensor_the_same_elements_are_sampled(make: Any, shape: tuple[int, ...], view: str) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(shape, generator=generator) * 10 ** (20 * torch.rand(shape, generator=generator) - 10)
    drift, broken = plain.clone(), plain.clone()
    drift[..., ::3] = drift[..., ::3] * 1e-3 + 1e5  # is gone through twice
    drift[: max(1, shape[0] // 20)] = 0
    broken.view(-1)[::11] = NAN
    for x in (plain, drift, broken):
        seen = VIEWS[view](x)
        expected = count_octaves(seen)
        for dim in (1, 2):
            for moments in (True, False):
                found = make().reduce(Units(seen, dim), None, Asked(moments=moments, octaves=True))
                assert found.octaves is not None and known(found.octaves) == known(expected)
        counts = make().gradient(seen, octaves=True)[1]
        assert counts is not None and known(counts) == known(expected)


@both
@pytest.mark.parametrize("name", sorted(FACTS))
@pytest.mark.parametrize("shape,dim", [((70, 30), 1), ((6, 5, 300), 1), ((40, 6, 3, 3), 1)])
def test_what_is_observed_stays_as_it_is_to_the_bit(make: Any, name: str, shape: tuple[int, ...], dim: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x.view(-1)[7] = NAN
    for seen in (x, x.nan_to_num(0.5)):
        before, facts = seen.clone(), FACTS[name]
        asked = Asked(moments=True, octaves=True) if facts is None else EVERYTHING
        make().reduce(arrange(seen, dim), facts, asked)
        make().gradient(seen, octaves=True)
        make().norms([seen])
        assert torch.equal(seen.view(torch.int32), before.view(torch.int32))


@both
@pytest.mark.parametrize("at", [0, 7, 31, 32, 63, 64, 98, 99])
@pytest.mark.parametrize("dim", [1, 2])
def test_a_sample_is_open_wherever_in_it_the_unit_is(make: Any, at: int, dim: int) -> None:
    x = torch.zeros(3, 2, 100)
    x[1, 0, at] = 1.0
    units = Units(x if dim == 1 else x.movedim(1, 2).contiguous(), dim)
    for asked in (Asked(open=True), EVERYTHING):
        found = make().reduce(units, FACTS["RELU"], asked)
        assert found.open_C is not None and found.open_C.tolist() == [1.0, 0.0]


@both
@pytest.mark.parametrize("at", [0, 5, 63, 64, 100, 199])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_gates_of_a_square_and_gradients_leave_out_what_is_not_finite(make: Any, at: int, value: float) -> None:
    x = torch.rand(200, generator=torch.Generator().manual_seed(0)) * 0.99999
    x[at] = value
    for name in ("TANH", "SIGMOID"):
        units = Units(x[None, None], 1)
        found, expected = (r.reduce(units, FACTS[name], Asked(gate=True)).gate_4 for r in (make(), Eager()))
        assert found is not None and expected is not None
        torch.testing.assert_close(found, expected, rtol=NEAR, atol=0)
    found, expected = (r.gradient(x, octaves=False)[0] for r in (make(), Eager()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


TABLES = sorted(name for name, facts in FACTS.items() if facts is not None and facts.form == "table")


@both
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("count", [3, 8, 64, 100])
def test_a_tabulated_gate_is_right_to_eight_millionths(make: Any, name: str, count: int) -> None:
    values = [*torch.linspace(-9, 9, 181).tolist(), -0.7518, 20.0, -20.0, 19.9999, 1e-30, -0.0, 77.7, -1e30, 3e38]
    inside = {"SOFTSIGN": lambda v: abs(v) <= 1, "LOGSIGMOID": lambda v: v <= 0}
    for value in filter(inside.get(name, lambda v: True), values):
        x = torch.full((1, 1, count), value)
        found, expected = (r.reduce(Units(x, 1), FACTS[name], Asked(gate=True)).gate_4 for r in (make(), Eager()))
        assert found is not None and expected is not None and float(found[0]) == count
        assert abs(float(found[1] - expected[1])) <= 8e-6 * count, value


@both
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("at", [0, 8, 63, 64, 100, 131])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_tabulated_gate_leaves_out_what_is_not_finite(make: Any, name: str, at: int, value: float) -> None:
    x = -torch.rand(132, generator=torch.Generator().manual_seed(0))
    rest = torch.cat([x[:at], x[at + 1 :]])
    x[at] = value
    for shape in ((1, 1, 132), (1, 12, 11), (11, 1, 12), (4, 1, 33)):
        for dim in (1, 2):
            found = make().reduce(Units(x.view(shape), dim), FACTS[name], Asked(gate=True)).gate_4
            wanted = make().reduce(Units(rest.view(1, 1, 131), 1), FACTS[name], Asked(gate=True)).gate_4
            assert found is not None and wanted is not None
            assert found[0] == wanted[0] == 131 and abs(float(found[1] - wanted[1])) <= 131 * 8e-6


@both
def test_a_table_that_fits_no_words_has_no_sign_either(make: Any) -> None:
    facts = ActivationFacts(name="Mine", reads="input", gate=Over(lambda z: 0.3 * z, 1.0), form="table")
    x = torch.randn(40, 3, 9, generator=torch.Generator().manual_seed(0))
    found, expected = (r.reduce(Units(x, 1), facts, Asked(gate=True)).gate_4 for r in (make(), Eager()))
    assert found is not None and expected is not None
    torch.testing.assert_close(found, expected, rtol=NEAR, atol=0)


TOUCHES: dict[str, Callable[[Tensor], Any]] = {
    "nothing": lambda x: x,
    "zero with a sign": lambda x: x.mul_(torch.where(x == 0, -1.0, 1.0)),
    "one below zero": lambda x: put(x, half=-1e-30),
    "one that is no number": lambda x: put(x, half=NAN),
    "one beyond all": lambda x: put(x, half=INF),
    "one below all": lambda x: put(x, half=-INF),
    "all zero": lambda x: put(x, all=0.0),
    "none zero": lambda x: x.add_(0.5),
    "the first far away": lambda x: put(x, few=1e6),
}
"""What one unit of a ReLU's output may look like; x is [rows], a view."""


@both
@pytest.mark.parametrize("touch", list(TOUCHES))
@pytest.mark.parametrize("name", ["RELU", "RELU6", "HARDSIGMOID", "GELU"])
def test_openings_and_gates_are_those_of_the_eager_functions_beside_moments(make: Any, name: str, touch: str) -> None:
    for shape, dim in (((130, 1, 270), 2), ((13, 10, 270), 2), ((24, 3, 40), 1), ((70, 2, 9), 1), ((5, 2, 3), 1)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu()
        unit = x[..., -1] if dim == 2 else x[:, -1]
        rows = unit.flatten().clone()
        TOUCHES[touch](rows)
        unit.copy_(rows.view(unit.shape))
        for gate, opens in ((True, True), (True, False), (False, True)):
            asked = Asked(moments=True, octaves=True, gate=gate, open=opens)
            found, expected = (r.reduce(Units(x, dim), FACTS[name], asked) for r in (make(), Eager()))
            assert (found.open_C is None) == (not opens) and (found.gate_4 is None) == (not gate)
            same(found if opens else found._replace(open_C=torch.zeros(0)), expected, x.numel(), near=NEAR)
            if found.gate_4 is not None and expected.gate_4 is not None and name != "GELU":
                assert found.gate_4.tolist() == expected.gate_4.tolist()


def test_a_table_in_words_holds_every_entry_and_the_way_to_the_next() -> None:
    table = table_of(FACTS["GELU"], torch.device("cpu"))  # type: ignore[arg-type]
    assert table is not None
    words = packed(table)
    assert words is not None
    entries, steps = words >> 12, (words << 20) >> 20
    torch.testing.assert_close(entries.double() / 500_000, table.double(), rtol=0, atol=1.1e-6)
    assert torch.equal(entries[:-1] + steps[:-1], entries[1:]) and int(steps[-1]) == 0
    assert packed(torch.tensor([0.0, 1.1])) is None and packed(torch.tensor([0.0, 0.005])) is None
    assert packed(torch.tensor([1.0, 0.997, 1.0, -1.04])) is None


@both
@pytest.mark.parametrize("shape", [(0,), (1,), (9,), (33, 65), (4, 3, 5, 5), (700, 999)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_gradients_agree(make: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-25
    g[torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.2] = 0
    if g.numel() > 4:
        g.view(-1)[2], g.view(-1)[3] = NAN, -INF
    g = g.to(dtype)
    for x in (g, g.t() if g.ndim == 2 else g, g[None].expand(2, *g.shape)):
        if not x.numel():
            continue
        (found, octaves), (expected, counts) = (r.gradient(x, octaves=True) for r in (make(), Eager()))
        assert [float(v) for v in found] == pytest.approx([float(v) for v in expected], rel=1e-9, abs=0)
        assert octaves is not None and counts is not None and octaves.tolist() == counts.tolist()
    assert make().gradient(torch.ones(3), octaves=False)[1] is None


@both
@pytest.mark.parametrize("dtypes", [[torch.float32] * 3, [torch.float32, torch.float64, torch.bfloat16]])
def test_sums_of_squares_agree_and_pass_on_what_is_not_finite(make: Any, dtypes: list[torch.dtype]) -> None:
    tensors = [torch.randn(n, 3, 2, 2).to(dtype) for n, dtype in zip((1, 0, 50), dtypes, strict=True)]
    tensors += [torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last), torch.randn(6, 4).t()]
    tensors += [torch.zeros(9), torch.tensor([0.0, -0.0, 1.0])]
    tensors += [torch.full((2,), 1e-25), torch.tensor([1.0, NAN]), torch.tensor([INF])]
    found, expected = (r.squares(tensors) for r in (make(), Eager()))
    pairs = [torch.stack([number.value for number in numbers]) for numbers in (found, expected)]
    torch.testing.assert_close(*pairs, rtol=1e-6, atol=0, equal_nan=True)
    assert make().squares([]) == [] and make().norms([]) == [] and make().updates([]) == []
    for (norm, zeros), x in zip(make().norms(tensors), tensors, strict=True):
        torch.testing.assert_close(norm.value, Eager().squares([x])[0].value, rtol=1e-9, atol=0, equal_nan=True)
        assert float(zeros.value) == int((x == 0).sum())


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_kept_is_a_copy_with_its_sum_of_squares(make: Any, dtype: torch.dtype) -> None:
    weights = [torch.randn(n).to(dtype) for n in (1, 0, 4095, 4097, 9000)] + [torch.tensor([1.0, NAN]).to(dtype)]
    kept = make().keep(weights)
    for weight, (copy, norm) in zip(weights, kept, strict=True):
        assert copy.dtype == dtype
        torch.testing.assert_close(copy, weight, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(norm.value, weight.double().square().sum(), rtol=1e-6, atol=0, equal_nan=True)
    weights[2].add_(1.0)
    assert torch.equal(kept[2][0] + 1.0, weights[2]) and make().keep([]) == []


@compiled
def test_copies_of_small_weights_share_memory_and_one_of_a_large_one_has_its_own() -> None:
    weights = [torch.randn(n) for n in (3, 1 << 16, 5, 7, 1 << 17, 9)]
    copies = [copy for copy, _ in Fused().keep(weights)]
    assert all(torch.equal(copy, weight) for copy, weight in zip(copies, weights, strict=True))
    where = [copy.untyped_storage().data_ptr() for copy in copies]
    assert len(set(where)) == 5 and where[2] == where[3]


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_updates_agree_also_of_a_sampled_parameter(make: Any, dtype: torch.dtype) -> None:
    weights = [torch.randn(n, dtype=dtype) for n in (1, 7, 64, 3001)]
    before = [w.clone() for w in weights] + [weights[3][::7].clone(), torch.zeros(3, dtype=dtype)]
    for w in weights:
        w.add_(torch.randn_like(w), alpha=1e-3)
    after = [*weights, weights[3][::7], torch.zeros(3, dtype=dtype)]
    found, expected = (r.updates(list(zip(after, before, strict=True))) for r in (make(), Eager()))
    for one, two in zip(found, expected, strict=True):
        pairs = [torch.stack([number.value for number in numbers]) for numbers in (one, two)]
        torch.testing.assert_close(*pairs, rtol=1e-9, atol=0)


NUMBERS = ("mean", "std", "rms", "mean_energy", "gate_mean", "saturated_fraction", "grad_rms", "grad_zero_fraction")


@compiled
def test_a_training_is_told_the_same_by_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(make: Any) -> list[Any]:
        monkeypatch.setattr("actdiag.collect.collector.reducer", lambda arenas, make=make: make())
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3), nn.GELU(), nn.Flatten(),
            nn.Linear(96, 20), nn.Tanh(), nn.Linear(20, 4),
        )  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Monitor(model, optimizer, log_every_n_steps=2, watch_every_n_steps=1, max_overhead=None) as monitor:
            for _ in range(24):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(torch.randn(16, 3, 8, 8)), torch.randint(0, 4, (16,))).backward()
                optimizer.step()
        return monitor.snapshots

    for mine, theirs in zip(run(Fused), run(Eager), strict=True):
        for name, site in theirs.sites.items():
            found = mine.sites[name]
            for key in ("n", "units", "dead_units", "nonfinite", "unit_states", "histogram", "grad_histogram"):
                assert getattr(found, key) == getattr(site, key), (name, key)
            for key in NUMBERS:
                a, b = getattr(found, key), getattr(site, key)
                assert (a is None) == (b is None) and (a is None or a == pytest.approx(b, rel=1e-5, abs=1e-6)), key
        for name, parameter in theirs.parameters.items():
            found_norms = mine.parameters[name]
            for key in ("weight_norm", "grad_norm", "update_ratio", "grad_zero_fraction"):
                a, b = getattr(found_norms, key), getattr(parameter, key)
                assert (a is None) == (b is None) and (a is None or a == pytest.approx(b, rel=1e-6)), (name, key)


# Where there is no kernel -------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As if nothing had been compiled yet, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ACTDIAG_FUSED", raising=False)
    monkeypatch.setattr(fused, "kernel", kernel.__wrapped__)
    monkeypatch.setattr(fused, "wanted", lambda: False)
    return tmp_path / "actdiag"


def test_without_a_compiler_torch_does_the_work(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert isinstance(reducer(), Lean) and not fresh.exists()


def test_the_environment_can_leave_it_out(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTDIAG_FUSED", "0")
    assert isinstance(reducer(), Lean) and not fresh.exists()


@pytest.mark.parametrize(
    "error",
    [subprocess.CalledProcessError(1, "cc"), subprocess.TimeoutExpired("cc", 60), OSError(), RuntimeError()],
)
def test_a_compiler_that_fails_is_no_error(fresh: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(shutil, "which", lambda name: "/bin/cc")
    monkeypatch.setattr(subprocess, "run", fail)
    assert isinstance(reducer(), Lean)
    assert list(fresh.iterdir()) == [], "nothing half made stays"


@compiled
def test_it_is_compiled_once_into_a_folder_of_the_users_own(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(kernel.__wrapped__(), ctypes.CDLL)
    (library,) = fresh.iterdir()
    assert library.suffix == ".so" and fresh.stat().st_mode & 0o077 == 0

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(subprocess, "run", never)
    assert isinstance(kernel.__wrapped__(), ctypes.CDLL)
    monkeypatch.setattr(compiling, "_processor", lambda: "another one")
    assert kernel.__wrapped__() is None, "one for another processor would have to be compiled"


@compiled
def test_a_cache_that_cannot_be_written_is_replaced_by_a_folder_of_this_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "actdiag").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiling._throwaway.cache_clear()
    assert isinstance(kernel.__wrapped__(), ctypes.CDLL)
    folder = compiling._throwaway()
    assert len(list(folder.iterdir())) == 1
    shutil.rmtree(folder)
    compiling._throwaway.cache_clear()


@compiled
def test_a_library_is_not_loaded_from_where_others_may_write(fresh: Path) -> None:
    fresh.mkdir()
    fresh.chmod(0o777)
    compiling._throwaway.cache_clear()
    assert isinstance(kernel.__wrapped__(), ctypes.CDLL) and list(fresh.iterdir()) == []
    shutil.rmtree(compiling._throwaway())
    compiling._throwaway.cache_clear()


@both
def test_a_sign_that_is_not_yet_in_memory_is_seen(make: Any) -> None:
    x = torch.imag(torch.conj(torch.complex(torch.ones(4, 3), torch.full((4, 3), 2.0))))
    assert x.is_neg()
    found = make().reduce(arrange(x, 1), None, Asked(moments=True, octaves=True))
    assert found.columns_5C is not None and found.columns_5C[1].tolist() == [-2.0] * 3


@compiled
def test_what_would_have_to_be_copied_is_small() -> None:
    limit = reducing._MOST_COPIED
    for dtype, copies in ((torch.bfloat16, False), (torch.float32, True)):
        small, large = (torch.zeros(1, dtype=dtype).expand(n) for n in (limit, limit + 1))
        assert reducing.fits(small, copies=copies) and not reducing.fits(large, copies=copies)
    assert reducing.fits(torch.zeros(1).expand(limit + 1))
    wide = torch.randn(600, 500).t()
    same(*(r.reduce(arrange(wide, 1), FACTS["RELU"], EVERYTHING) for r in (Fused(), Eager())), wide.numel())


@compiled
def test_facts_that_hold_a_parameter_go_with_the_monitor() -> None:
    gone = Fused()
    slope = torch.full((3,), 0.2)
    facts = leaky_facts("PReLU", slope, default=0.25)
    gone.reduce(arrange(torch.randn(5, 3), 1), facts, EVERYTHING)
    kept = weakref.ref(slope)
    del gone, facts, slope
    gc.collect()
    assert kept() is None


@compiled
def test_a_large_tensor_is_left_to_torch_where_it_has_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, dtype=torch.float32).expand(reducing._MANY_ELEMENTS + 1)
    for threads, fits in ((reducing._MANY_THREADS, True), (reducing._MANY_THREADS + 1, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert reducing.fits(x) is fits and reducing.fits(x[1:])
    assert not reducing.fits(torch.zeros(3, dtype=torch.float64))
    assert not reducing.fits(torch.zeros(3, device="meta"))


def test_ends_between_two_float32_lie_at_or_beyond_the_bound() -> None:
    for bound in (-0.97, 0.97, 0.015, 0.1, 0.5):
        low, high = inward(bound, -INF), inward(bound, INF)
        assert low <= bound <= high
        assert (low == high) == (bound == 0.5)
        assert high - low < 1e-7
