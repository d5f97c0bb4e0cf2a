"""Tensors to reduce, facts to reduce them by, and what it means that two reducers agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from actdiag.collect import activations as facts_of
from actdiag.collect.activations import ActivationFacts, elu_facts, hardtanh_facts, leaky_facts
from actdiag.collect.reducing import Asked, Reduction

NAN, INF = float("nan"), float("inf")
SHAPES = [(), (7,), (5, 3), (40, 300), (4, 3, 2), (2, 3, 4, 5), (3, 20, 9, 9), (1, 1), (2, 3, 2, 2, 2), (6, 4, 1)]
INTO = {"LOGSIGMOID": lambda x: -x.abs(), "SOFTSIGN": nn.functional.softsign}
"""Outside of its outputs a gate that is read off them has no meaning."""
EVERYTHING = Asked(moments=True, octaves=True, gate=True, open=True)
HALF_OPEN = ActivationFacts(name="Mine", reads="output", gate=None, closed_high=0.1, saturated_high=0.7)
FACTS = {
    name: getattr(facts_of, name)
    for name in (
        "RELU", "RELU6", "TANH", "SIGMOID", "HARDSIGMOID", "SOFTSIGN", "LOGSIGMOID", "GELU", "GELU_TANH", "SILU",
        "QUICK_GELU", "MISH", "HARDSWISH", "SELU",
    )
} | {
    "Hardtanh": hardtanh_facts(-0.3, 0.1), "LeakyReLU": leaky_facts("LeakyReLU", 0.2, default=0.01),
    "ELU": elu_facts("ELU", 1.0), "no gate": HALF_OPEN, "none": None,
}  # fmt: skip


def known(octaves: Tensor) -> list[int]:
    """Counters of finite octaves, and of all that is not finite together: a NaN has no sign that conversions keep."""
    grid = octaves.cpu().reshape(2, 256)
    return [*grid[:, :-1].flatten().tolist(), int(grid[:, -1].sum())]


def same(found: Reduction, expected: Reduction, n: int, *, near: float = 1e-9) -> None:
    """Counts are equal, mean and m2 nearly; what a table gives is right to 1e-5 an element."""
    assert found.columns_5C is not None and expected.columns_5C is not None
    for row, (a, b) in enumerate(zip(found.columns_5C, expected.columns_5C, strict=True)):
        by = near if row in (1, 2) else 0
        torch.testing.assert_close(a, b, rtol=by, atol=by, msg=lambda text, row=row: f"row {row}: {text}")
    assert found.counts_2 is not None and expected.counts_2 is not None
    assert found.counts_2.tolist() == expected.counts_2.tolist()
    assert found.octaves is not None and expected.octaves is not None and found.open_C is not None
    assert known(found.octaves) == known(expected.octaves)
    if expected.gate_4 is not None and found.gate_4 is not None:
        (n_gates, gate, *ends), (n_expected, gate_expected, *ends_expected) = found.gate_4, expected.gate_4
        assert (n_gates, *ends) == (n_expected, *ends_expected)
        assert float(gate) == pytest.approx(float(gate_expected), rel=1e-6, abs=1e-5 * n)
    assert expected.open_C is None or found.open_C.tolist() == expected.open_C.tolist()


def tensor_of(shape: tuple[int, ...], *, seed: int, dtype: torch.dtype, bad: float, memory: str) -> Tensor:
    """Many exact zeros and values at the ends of activations, some constant units, some of it not finite."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 2 + 0.3
    x[torch.rand(shape, generator=generator) < 0.3] = 0.0
    ends = torch.tensor([6.0, -0.3, 0.1, 0.97, -0.97, 1.0, -1.0, 0.015])
    at_ends = ends[torch.randint(len(ends), shape, generator=generator)]
    x = torch.where(torch.rand(shape, generator=generator) < 0.2, at_ends, x)
    x[torch.rand(shape, generator=generator) < bad] = [NAN, INF, -INF][seed % 3]
    if x.ndim > 1 and seed % 4 == 0:
        x[:, 0] = [0.0, -25.0, 3.0, NAN][seed // 4 % 4]
    x = x.to(dtype)
    if x.ndim == 0:
        return x
    if memory == "transposed" and x.ndim > 1:
        return x.transpose(0, -1)
    if memory == "strided":
        return x.repeat_interleave(2, dim=-1)[..., ::2]
    if memory == "expanded":
        return x[:1].expand(3, *x.shape[1:])
    if memory == "channels_last" and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    return x
