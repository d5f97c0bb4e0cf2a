"""`benchmarks/scaling.py`: its bytes are those of real parcels, its page says how it was made; joining in blocks."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import scaling
import scaling_model as model

from actdiag.collect.parcel import pack, unpack
from actdiag.collect.ranks import combine, parcels_joined
from actdiag.collect.tally import Tally

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scaling.md"
SUMMED = ("sums_SK", "n_C", "mean_C", "m2_C", "opens_W", "values_PV")


@pytest.fixture(scope="module")
def host() -> model.Host:
    return model.measure(3, 8, repeat=1, most=8)


def test_the_bytes_of_the_dry_run_are_those_of_a_parcel(host: model.Host) -> None:
    parcels = [pack(model.WORD, model.random_tally(seed, 3, 8)) for seed in range(9)]
    assert {len(parcel) for parcel in parcels} == {host.bytes}
    assert abs(len(combine(parcels)) / host.joined - 1) < 0.1, "what is joined is as large as what is not"


def test_a_message_more_costs_what_the_model_says(host: model.Host) -> None:
    exact = host._replace(pack_s=1.0, join_s=model.Line(0.5, 0.25, 0.0), bytes=800, joined=1000)
    network = model.Line(2.0, 1 / 1000)
    flat = model.cost(exact, network, (8,))
    assert flat[:3] == pytest.approx((1 + 0.5 + 8 * 0.25, 7 * (2 + 1.0), 7 * 1000))
    blocks = model.cost(exact, network, (4, 2))
    shared = 2 * (2 + 0.008 + 2 + 1.0)
    assert blocks[:3] == pytest.approx((1 + 1.5 + 1.0 + 2 + 0.75, 4 * 3 + shared, 4 * 1000 + 1000))


def test_levels_hold_all_ranks() -> None:
    assert model.fans(8, 64) == (8,)
    assert model.fans(4096, 64) == (64, 64)
    assert model.fans(100, 8) == (8, 13)
    assert model.fans(4096, 8, 99) == (8, 8, 8, 8)


def test_a_line_is_found_with_its_residual() -> None:
    assert model.line((1, 2, 4), (3.0, 5.0, 9.0)) == pytest.approx((1.0, 2.0, 0.0))
    assert model.line((1, 2, 4), (1.0, 2.0, 5.0)).residual > 0.05


def test_every_table_can_be_made(host: model.Host) -> None:
    for made in (scaling.host_table, lambda hosts: scaling.design_table(hosts, model.Line(1e-4, 1e-9))):
        assert "| 3 | 8 |" in "\n".join(made([host]))
    assert len(scaling.split_table([host])) == 4 + len(model.RANKS)
    assert f"{model.OURS}, as implemented" in next(scaling.conclusion([host]))


def test_the_page_says_how_it_was_made() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "`python benchmarks/scaling.py --write docs/scaling.md" in text
    assert re.search(r"torch \d+\.\d+\S*, numpy\s\d\S*, Python 3\.\S*, \w+, \d+ CPUs", text)
    assert f"{model.OURS}, as implemented" in text
    assert "repetitions" in text and "residual" in text


def test_joining_in_blocks_is_joining_all_at_once() -> None:
    parcels = [pack(model.WORD, _differing(seed)) for seed in range(9)]
    word, flat = parcels_joined(parcels)
    blocks = [combine(parcels[at : at + 4]) for at in (0, 4, 8)]
    again, joined = unpack(combine(blocks))
    assert again == word and word.ranks == 9
    _same(flat, joined)


def _differing(seed: int) -> Tally:
    """Numbers of samples and openings that differ too; every third rank is at other steps."""
    tally = model.random_tally(seed, 4, 16)
    rng = np.random.default_rng(seed)
    tally.n_C[:] = rng.integers(0, 3, tally.n_C.size) * rng.integers(1, 4096, tally.n_C.size)
    stamps = 4096 * np.arange(951 + seed % 3, 1002, 4, dtype=np.int64) + 1
    return replace(tally, times=((stamps, rng.integers(1, 99, stamps.size).astype(float)),) * 4)


def _same(mine: Tally, truth: Tally) -> None:
    for spec in fields(Tally):
        a, b = getattr(mine, spec.name), getattr(truth, spec.name)
        if spec.name in SUMMED:
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=0)
        elif spec.name != "times":
            np.testing.assert_equal(a, b)
    for one, other in zip(mine.times, truth.times, strict=True):
        assert one is not None and other is not None
        np.testing.assert_array_equal(one, other)
