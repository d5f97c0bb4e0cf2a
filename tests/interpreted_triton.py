"""The kernels for a GPU give what the eager functions give: run by Triton's interpreter, on the CPU.

The interpreter must be asked for before anything imports triton, and torch.compile may have done that in the process of
other tests; so test_triton.py runs this file by a pytest of its own, with TRITON_INTERPRET=1. By hand:

    TRITON_INTERPRET=1 python -m pytest tests/interpreted_triton.py
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from actdiag import Monitor
from actdiag.collect import collector, sending
from actdiag.collect.arena import Arenas
from actdiag.collect.layout import Units, arrange
from actdiag.collect.reducing import Asked, Eager, Reducer, Reduction
from actdiag.collect.tiling import Limits
from actdiag.collect.triton_reducer import Triton
from actdiag.snapshot import Snapshot
from actdiag.write.memory import MemoryWriter
from tests.arriving import Coming, copied
from tests.oracle import statistics
from tests.reductions import EVERYTHING, FACTS, INF, INTO, NAN, SHAPES, known, same, tensor_of
from tests.test_no_sync import Spy

assert os.environ.get("TRITON_INTERPRET") == "1", "see above"

SMALL, TINY, LARGE = Limits(64, 16, 8, 4), Limits(16, 64, 32, 8), Limits()
"""With small tiles a small tensor has many tiles, parts and splits."""
NEAR = 5e-6
"""Sums within a tile are float32."""
SHORT = (Phase.explicit, Phase.generate)
"""The interpreter is slow: an example that fails is not made smaller."""
MANY = [(3, 2, 17, 11), (70, 5), (2, 131), (200,), (2, 3, 40), (1, 2, 9, 33)]


def kernels(limits: Limits = SMALL) -> Triton:
    return Triton(device="cpu", limits=limits)


@pytest.fixture(autouse=True)
def never_given_up(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What the eager functions did in place of a failing kernel would agree with them."""
    caplog.set_level(logging.DEBUG, logger="actdiag")
    yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that are launched."""
    from triton.runtime.interpreter import GridExecutor

    seen: list[str] = []
    run = GridExecutor.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.fn.__name__)
        return run(self, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", counted)
    return seen


def dims_of(x: Tensor) -> set[int]:
    return {0, min(1, max(x.ndim - 1, 0)), max(x.ndim - 1, 0)}


def agree(x: Tensor, name: str, limits: Limits, dims: set[int]) -> None:
    """For each of the dimensions as the one that counts the units."""
    facts = FACTS[name]
    x = INTO[name](x) if name in INTO else x
    for dim in dims:
        units = arrange(x, dim)
        made = kernels(limits)
        if facts is None:
            asked = Asked(moments=True, octaves=True)
            found, expected = made.reduce(units, None, asked), Eager().reduce(units, None, asked)
            assert found.gate_4 is None and found.open_C is None
            found = found._replace(open_C=torch.zeros(0))
        else:
            found, expected = made.reduce(units, facts, EVERYTHING), Eager().reduce(units, facts, EVERYTHING)
        same(found, expected, x.numel(), near=NEAR)


cases = given(
    st.sampled_from(SHAPES + MANY),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    st.integers(0, 10**6),
    st.sampled_from(["plain", "transposed", "strided", "expanded", "channels_last"]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from(sorted(FACTS)),
    st.sampled_from([SMALL, TINY, LARGE]),
)


@settings(max_examples=2, deadline=None, phases=SHORT)
@cases
@example((3, 2, 17, 11), torch.float32, 4, "plain", 0.1, "RELU6", SMALL)
@example((1, 2, 9, 33), torch.bfloat16, 1, "plain", 0.0, "RELU", TINY)
@example((2, 3, 4, 5), torch.float16, 2, "channels_last", 0.1, "Hardtanh", SMALL)
@example((70, 5), torch.float32, 12, "transposed", 0.1, "TANH", TINY)
@example((40, 300), torch.float32, 8, "plain", 1.0, "GELU", LARGE)
@example((1, 1), torch.float32, 0, "plain", 0.0, "no gate", LARGE)
def test_the_kernels_and_the_eager_functions_agree(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int, memory: str, bad: float, name: str, limits: Limits
) -> None:
    x = tensor_of(shape, seed=seed, dtype=dtype, bad=bad, memory=memory)
    agree(x, name, LARGE if limits is TINY and x.numel() > 2000 else limits, {min(1, max(x.ndim - 1, 0))})


@pytest.mark.slow
@settings(max_examples=60, deadline=None, phases=SHORT)
@cases
def test_the_kernels_and_the_eager_functions_agree_in_many_cases(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int, memory: str, bad: float, name: str, limits: Limits
) -> None:
    x = tensor_of(shape, seed=seed, dtype=dtype, bad=bad, memory=memory)
    agree(x, name, limits, dims_of(x))


OF_EACH_KIND = ("RELU", "HARDSIGMOID", "Hardtanh", "TANH", "GELU", "SOFTSIGN", "ELU", "no gate")
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in sorted(set(FACTS) - {"none", *OF_EACH_KIND})]


@pytest.mark.parametrize("name", [*OF_EACH_KIND, *OTHERS])
def test_every_activation_has_its_gate_its_ends_and_its_openings(name: str) -> None:
    agree(tensor_of((4, 3, 5, 4), seed=6, dtype=torch.float32, bad=0.1, memory="plain"), name, LARGE, {1})


PARTS = [Asked(moments=True), Asked(gate=True), Asked(open=True), Asked(gate=True, open=True), Asked(octaves=True)]


@pytest.mark.parametrize("asked", PARTS)
def test_what_is_not_asked_for_is_not_there_and_changes_nothing(asked: Asked) -> None:
    units = arrange(tensor_of((3, 2, 5, 4), seed=1, dtype=torch.float32, bad=0.1, memory="plain"), 1)
    full, alone = (kernels().reduce(units, FACTS["TANH"], some) for some in (EVERYTHING, asked))
    for part, all_of_it, wanted in zip(
        alone, full, (asked.moments, asked.moments, asked.octaves, asked.gate, asked.open), strict=True
    ):
        assert (part is not None) == wanted
        assert part is None or (all_of_it is not None and torch.equal(part, all_of_it))


@pytest.mark.parametrize("shape", [(5, 3, 7, 3), (2, 2, 40), (40, 5)])
def test_a_tensor_takes_two_launches_and_its_gradient_two(shape: tuple[int, ...], launches: list[str]) -> None:
    x = torch.randn(shape)
    for name in ("GELU", "ELU"):
        kernels().reduce(arrange(x, 1), FACTS[name], EVERYTHING)
        assert launches == ["reduce_parts", "merge_parts"]
        launches.clear()
    kernels().gradient(x, octaves=True)
    assert launches == ["gradient_parts", "merge_parts"]


def bits(found: Reduction) -> list[bytes]:
    return [x.numpy().tobytes() for x in found if x is not None]


def test_sums_lie_in_the_buffer_of_the_step_and_evidence_about_units_does_not() -> None:
    """What a watched unit has opened is kept from step to step; all else is given up with the buffer."""
    arenas = Arenas()
    made = Triton(device="cpu", limits=SMALL, arenas=arenas)
    x = tensor_of((6, 5, 4), seed=1, dtype=torch.float32, bad=0.1, memory="plain")
    units = arrange(x, 1)
    for step in range(3):
        arenas.begin()
        found = made.reduce(units, FACTS["RELU"], EVERYTHING)
        (sums_4, octaves), (expected_4, expected) = (one.gradient(x, octaves=True) for one in (made, Eager()))
        same(found, Eager().reduce(units, FACTS["RELU"], EVERYTHING), x.numel(), near=NEAR)
        torch.testing.assert_close(sums_4, expected_4, equal_nan=True)
        assert octaves is not None and expected is not None and known(octaves) == known(expected)
        arena = arenas.of(x.device)
        inside = [found.columns_5C, found.counts_2, found.octaves, found.gate_4, sums_4, octaves]
        assert all(one is not None and (arena.place(one) is None) == (step == 0) for one in inside)
        assert found.open_C is not None and arena.place(found.open_C) is None
        assert step == 0 or arena.used.numel() == 5 * 5 + 2 * (6 + 512)


def test_a_training_is_told_from_the_buffer_as_it_is_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """One copy a recorded step, read one step later; layers that run twice, and micro-batches, merge."""

    def trained(made: Callable[[Arenas], Reducer]) -> list[Snapshot]:
        torch.manual_seed(0)
        shared = nn.ReLU()
        model = nn.Sequential(nn.Linear(4, 8), shared, nn.Linear(8, 8), shared, nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        writer = MemoryWriter()
        with monkeypatch.context() as patch:
            patch.setattr(collector, "reducer", made)
            monitor = Monitor(
                model, optimizer, writers=[writer], log_every_n_steps=1, watch_every_n_steps=1, max_overhead=None
            )
            for _ in range(5):
                optimizer.zero_grad()
                for _ in range(2):
                    model(torch.randn(6, 4)).square().mean().backward()
                optimizer.step()
            monitor.close()
        return writer.snapshots

    expected = trained(lambda arenas: Eager())
    copied.clear()
    monkeypatch.setattr(sending, "LATE_DEVICES", frozenset({"cpu"}))
    monkeypatch.setattr(sending, "Coming", Coming)
    found = trained(lambda arenas: Triton(device="cpu", limits=SMALL, arenas=arenas))
    assert copied == [1] * 5 and [s.step for s in found] == [s.step for s in expected] == list(range(5))
    for a, b in zip(found, expected, strict=True):
        assert list(a.sites) == list(b.sites) and len(a.sites) == 6
        for name, site in a.sites.items():
            other = b.sites[name]
            for value in ("mean", "std", "rms", "grad_rms", "zero_fraction", "dead_units", "evidence_samples"):
                told, wanted = getattr(site, value), getattr(other, value)
                assert (told is None) == (wanted is None), (name, value)
                assert told is None or told == pytest.approx(wanted, rel=1e-5, abs=1e-7), (name, value)
            assert site.histogram == other.histogram


@pytest.mark.parametrize("memory", ["plain", "channels_last", "strided"])
def test_the_same_tensor_gives_the_same_bits_whatever_was_in_memory_before(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = tensor_of((5, 3, 3, 4), seed=2, dtype=torch.float32, bad=0.1, memory=memory)
    units, made = arrange(x, 1), kernels()
    first = made.reduce(units, FACTS["GELU"], EVERYTHING)
    gradient, octaves = made.gradient(x, octaves=True)
    empty = torch.empty

    def littered(*args: Any, **kwargs: Any) -> Tensor:
        out = empty(*args, **kwargs)
        return out.fill_(NAN if out.is_floating_point() else 7)

    monkeypatch.setattr(torch, "empty", littered)
    assert bits(made.reduce(units, FACTS["GELU"], EVERYTHING)) == bits(first)
    gradient_again, octaves_again = made.gradient(x, octaves=True)
    assert torch.equal(gradient, gradient_again)
    assert octaves is not None and octaves_again is not None and torch.equal(octaves, octaves_again)


def test_nothing_is_read_back_and_nothing_has_a_graph() -> None:
    x, made = torch.randn(4, 3, 4, 4, requires_grad=True), kernels(LARGE)
    with Spy() as spy, torch.autocast("cpu", dtype=torch.bfloat16):
        found = made.reduce(arrange(x, 1), FACTS["GELU"], EVERYTHING)
        gradient, _ = made.gradient(x, octaves=True)
    assert spy.reads == [] and not gradient.requires_grad
    assert all(part is not None and not part.requires_grad for part in found)


@pytest.mark.parametrize("dim", [1, 2])
def test_the_variance_survives_a_mean_ten_thousand_times_the_spread(dim: int) -> None:
    x = torch.randn(50, 40, 30, generator=torch.Generator().manual_seed(0)) * 0.01 + 100
    x[0, 0, 0] = NAN
    truth = statistics(x, dim)
    found = kernels(LARGE).reduce(Units(x, dim), None, Asked(moments=True))
    expected = Eager().reduce(Units(x, dim), None, Asked(moments=True))
    assert found.columns_5C is not None and expected.columns_5C is not None
    n_C, mean_C = found.columns_5C[:2]
    assert float((mean_C * n_C).sum() / n_C.sum()) == pytest.approx(truth["mean"], rel=1e-9)
    torch.testing.assert_close(found.columns_5C[2], expected.columns_5C[2], rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [1e-36, 1e-25, 1e20, 1e37])
def test_sizes_whose_squares_float32_does_not_hold_have_a_spread(size: float) -> None:
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0)).clamp(-3, 3) * size
    found, expected = (r.reduce(arrange(x, 1), None, Asked(moments=True)) for r in (kernels(), Eager()))
    assert found.columns_5C is not None and expected.columns_5C is not None
    torch.testing.assert_close(found.columns_5C, expected.columns_5C, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e30])
def test_a_constant_has_no_spread(value: float) -> None:
    x = torch.full((77, 4), value)
    found = kernels().reduce(arrange(x, 1), None, Asked(moments=True))
    assert found.columns_5C is not None
    assert found.columns_5C[1].tolist() == pytest.approx([float(x[0, 0])] * 4, rel=1e-7)
    assert float(found.columns_5C[2].max()) <= 77 * (1e-7 * value) ** 2 * 1e-3


def test_a_unit_without_a_finite_element_is_empty_and_open() -> None:
    x = torch.randn(9, 3)
    x[:, 1] = NAN
    found = kernels().reduce(arrange(x, 1), FACTS["RELU"], EVERYTHING)
    assert found.columns_5C is not None and found.open_C is not None and found.counts_2 is not None
    assert found.columns_5C[:, 1].tolist() == [0, 0, 0, INF, -INF]
    assert float(found.open_C[1]) == 9 and found.counts_2.tolist() == [0, 9]


@pytest.mark.parametrize("position", [0, 25, 59])
def test_a_sample_opens_a_unit_wherever_it_is_open(position: int) -> None:
    """Positions of one sample are divided among programs."""
    for samples in (1, 3):
        x = torch.zeros(samples, 2, 60)
        x[-1, 1, position] = 1.0
        for limits in (SMALL, TINY, LARGE):
            found = kernels(limits).reduce(Units(x, 1), FACTS["RELU"], Asked(open=True))
            assert found.open_C is not None and found.open_C.tolist() == [0.0, 1.0]


def test_parts_beyond_those_that_are_merged_at_once_count_too() -> None:
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(5)) + torch.linspace(-3, 3, 300)[:, None]
    many = kernels(Limits(tile=16, programs=512, parts=128))
    found, expected = (r.reduce(arrange(x, 1), FACTS["RELU"], EVERYTHING) for r in (many, Eager()))
    same(found, expected, x.numel(), near=NEAR)


def laid_out(g: Tensor) -> list[Tensor]:
    out = [g, g[None].expand(2, *g.shape)]
    if g.ndim == 2:
        out.append(g.t())
    if g.ndim == 4:
        out += [g.contiguous(memory_format=torch.channels_last), g.permute(3, 0, 2, 1)]
    return out


@pytest.mark.parametrize("shape", [(1,), (9,), (13, 25), (2, 3, 5, 4), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_agree(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * (1e-25 if dtype != torch.float16 else 1e-5)
    g[torch.rand(shape, generator=torch.Generator().manual_seed(2)) < 0.2] = 0
    if g.numel() > 4:
        g.view(-1)[2], g.view(-1)[3] = NAN, -INF
    for x in laid_out(g.to(dtype)):
        (found, octaves), (expected, counts) = (r.gradient(x, octaves=True) for r in (kernels(), Eager()))
        assert [float(v) for v in found] == pytest.approx([float(v) for v in expected], rel=1e-9, abs=0)
        assert octaves is not None and counts is not None and known(octaves) == known(counts)
    assert kernels().gradient(g, octaves=False)[1] is None


def test_octaves_of_a_large_tensor_are_sampled_in_the_order_of_its_dimensions() -> None:
    x = torch.randn(3, 5, 90, 60, generator=torch.Generator().manual_seed(3)) * torch.logspace(-9, 9, 60)
    for one in (x.contiguous(memory_format=torch.channels_last), x.permute(1, 0, 3, 2)):
        units = arrange(one, 1)
        found, expected = (r.reduce(units, None, Asked(octaves=True)).octaves for r in (kernels(LARGE), Eager()))
        assert found is not None and expected is not None and int(found.sum()) < x.numel()
        assert known(found) == known(expected)
        found, expected = (r.gradient(one, octaves=True)[1] for r in (kernels(LARGE), Eager()))
        assert found is not None and expected is not None and known(found) == known(expected)


def test_tensors_of_other_kinds_are_left_to_torch(launches: list[str]) -> None:
    imaginary = torch.imag(torch.conj(torch.complex(torch.ones(4, 3), torch.full((4, 3), 2.0))))
    for x in (torch.randn(4, 3, dtype=torch.float64), imaginary):
        found = kernels().reduce(arrange(x, 1), None, Asked(moments=True))
        assert found.columns_5C is not None and float(found.columns_5C[1, 0]) == pytest.approx(float(x[:, 0].mean()))
        kernels().gradient(x, octaves=True)
    assert launches == []
    assert float(kernels().squares([torch.full((3,), 2.0)])[0].value) == pytest.approx(12)
    ((norm, zeros),) = kernels().norms([torch.tensor([0.0, 3.0])])
    assert (float(norm.value), float(zeros.value)) == (9, 1)
    ((moved, base),) = kernels().updates([(torch.tensor([3.0]), torch.tensor([1.0]))])
    assert (float(moved.value), float(base.value)) == (4, 1)


@pytest.mark.slow
def test_counts_beyond_what_float32_counts_are_exact() -> None:
    n = (1 << 24) + 3
    x = torch.ones(n)
    x[5] = 0.0
    found = kernels(Limits(tile=1 << 20)).reduce(arrange(x, 0), FACTS["RELU"], EVERYTHING)
    assert found.columns_5C is not None and found.gate_4 is not None and found.open_C is not None
    assert found.columns_5C[:, 0].tolist() == pytest.approx([n, 1 - 1 / n, 1 - 1 / n, 0, 1], rel=1e-7)
    assert found.gate_4.tolist() == [n, n - 1, 0, 0] and found.open_C.tolist() == [n - 1]
    assert found.counts_2 is not None and found.counts_2.tolist() == [1, 0]
    assert math.isclose(float(kernels(Limits(tile=1 << 20)).gradient(x, octaves=False)[0][1]), n - 1, rel_tol=1e-12)
