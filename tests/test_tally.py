"""Joining what ranks have counted: the laws, on shards that differ, against one process that has seen everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor
from actdiag.collect.activations import RELU, TANH, ActivationFacts
from actdiag.collect.finish import finish_sites
from actdiag.collect.finish_parameters import finish_parameters, total_norms
from actdiag.collect.layout import arrange
from actdiag.collect.memory import Known, Memory
from actdiag.collect.parallel import Place
from actdiag.collect.parcel import Word, pack, unpack
from actdiag.collect.placing import place
from actdiag.collect.ranks import parcels_joined
from actdiag.collect.readout import count_up, owner_of, queue_records, queue_site, seen_of
from actdiag.collect.recent import Recent
from actdiag.collect.records import ParameterRecord
from actdiag.collect.sending import Readout
from actdiag.collect.site import Site
from actdiag.collect.spread import Share, Term
from actdiag.collect.tally import FLAGS, VALUES, Layout, ParameterRow, Piece, SiteRow, Tally
from actdiag.collect.units import UnitEvidence
from actdiag.collect.widening import join_layouts
from actdiag.snapshot import SiteStats
from tests.oracle import statistics

NAN, INF = float("nan"), float("inf")


def site_of(x: Tensor | None, facts: ActivationFacts | None = RELU, *, step: int = 0) -> Site:
    """A site at which one call was added up, its gradient four times its output (exact in any dtype); None: none."""
    site = Site("act", "ReLU", "activation", facts)
    if x is not None:
        units = arrange(x, 1)
        site.add_forward(units, histogram=True)
        site.add_read(units, step, recording=True)
        site.add_gradient(4 * x, histogram=True)
        site.order = 1
    return site


def counted(*sites: Site, key: str = "act", scale: float | None = 1.0) -> Tally:
    """What a rank has counted at some sites: the calls of one module."""
    out = Readout()
    rows = [(key, call, site) for call, site in enumerate(sites)]
    for key_of, call, site in rows:
        queue_site(out, owner_of(key_of, call), site)
    return count_up(
        [seen_of(*row) for row in rows], [], out.send().read(), site_scales=[scale] * len(rows), record_scales=[]
    )


def word(step: int = 3) -> Word:
    return Word(step, drop=False, again=True, record_steps=50, watch_steps=4, ranks=1)


def join(tallies: Sequence[Tally]) -> Tally:
    """As ranks join: each tally has travelled."""
    return parcels_joined([pack(word(), tally) for tally in tallies])[1]


def finish_site(tally: Tally, i: int, known: Known, step: int) -> SiteStats:
    """One of the sites, beside others of which nothing is known."""
    sites = finish_sites(tally, [known if k == i else None for k in range(len(tally.layout.sites))], step)
    assert [site is None for site in sites] == [k != i for k in range(len(sites))]
    found = sites[i]
    assert found is not None
    return found


def finished(tally: Tally, known: Known | None = None) -> SiteStats:
    return finish_site(tally, 0, known or Known("act"), 0)


SHARDS: dict[str, list[Tensor]] = {
    "means and spreads": [torch.randn(8, 5) * 0.1 + 3, torch.randn(8, 5) * 4 - 2, torch.randn(8, 5)],
    "sizes": [torch.randn(1, 5), torch.randn(64, 5) + 1, torch.randn(7, 5) - 1],
    "dtypes": [torch.randn(8, 5).bfloat16(), torch.randn(9, 5).double() + 1, torch.randn(5, 5).half() * 3],
    "constant ones": [torch.full((6, 5), 2.5), torch.full((4, 5), -1.0), torch.zeros(3, 5)],
    "non-finite ones": [torch.full((4, 5), NAN), torch.tensor([[1.0, INF, 2, NAN, 0]]), torch.randn(6, 5)],
    "a large mean": [torch.randn(50, 5).double() + 1e4, torch.randn(30, 5).double() + 2e4],
    "one alone": [torch.randn(8, 5)],
}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("facts", [RELU, TANH], ids=["relu", "tanh"])
def test_joined_ranks_tell_what_one_process_with_all_the_data_tells(name: str, facts: ActivationFacts) -> None:
    shards = SHARDS[name]
    together = torch.cat([shard.double() for shard in shards])
    ours = finished(join([counted(site_of(shard, facts)) for shard in shards]))
    one = finished(counted(site_of(together, facts)))
    for spec in fields(SiteStats):
        mine, truth = getattr(ours, spec.name), getattr(one, spec.name)
        if isinstance(truth, float):
            assert mine == pytest.approx(truth, rel=1e-6, abs=1e-12), spec.name
        else:
            assert mine == truth, spec.name
    for stat, value in statistics(together, 1).items():
        if value is not None and stat in ("mean", "std", "rms", "low", "high", "zero_fraction", "mean_energy"):
            assert getattr(ours, stat) == pytest.approx(value, rel=1e-5, abs=1e-9), stat


def test_the_spread_of_the_means_between_ranks_is_added() -> None:
    """TransformerEngine subtracts it, and passes its own test: all shards there are drawn alike."""
    ours = finished(join([counted(site_of(torch.full((4, 1), value))) for value in (0.0, 10.0)]))
    assert (ours.mean, ours.std) == (5, 5)


@pytest.mark.parametrize("name", SHARDS)
def test_joining_is_associative_and_the_order_of_ranks_changes_nothing(name: str) -> None:
    a, *rest = [counted(site_of(shard)) for shard in SHARDS[name]]
    for other in ([join([a, *rest[:1]]), *rest[1:]], [*reversed(rest), a], [a, join([*rest, empty_like(a)])]):
        assert_same_numbers(join(other), join([a, *rest]))


def empty_like(tally: Tally) -> Tally:
    return Tally.empty(tally.layout)


def assert_same_numbers(found: Tally, truth: Tally) -> None:
    for name in ("sums_SK", "n_C", "mean_C", "m2_C", "opens_W"):
        np.testing.assert_allclose(getattr(found, name), getattr(truth, name), rtol=1e-12, atol=1e-300)
    for i in range(len(truth.layout.sites)):
        np.testing.assert_array_equal(found.octaves()[i], truth.octaves()[i])
    for name in ("low_S", "high_S", "scale_S", "last_W"):
        np.testing.assert_array_equal(getattr(found, name), getattr(truth, name))
    for mine, others in zip(found.times, truth.times, strict=True):
        assert (mine is None) == (others is None)
        if mine is not None and others is not None:
            assert mine[0].tolist() == others[0].tolist() and mine[1].tolist() == others[1].tolist()


def test_ranks_on_which_a_site_did_not_run_change_nothing() -> None:
    here = counted(site_of(torch.randn(8, 5)))
    for absent in (counted(site_of(None)), Tally.empty(Layout()), counted(key="other")):
        assert finished(join([here, absent])) == finished(here)
        assert finished(join([absent, here])) == finished(here)


# Layouts that differ ------------------------------------------------------------------------------------


def layout(*keys: str, units: int = 2) -> Layout:
    return Layout(tuple(SiteRow(key, 0, "Linear", "layer", units, 0, "") for key in keys), ())


def keys_of(*layouts: Layout) -> str:
    return "".join(row.key for row in join_layouts(layouts).sites)


def test_sites_of_all_ranks_are_in_an_order_that_each_of_them_would_accept() -> None:
    assert keys_of(layout(*"abc"), layout(*"abc")) == "abc"
    assert keys_of(layout(*"ac"), layout(*"abc")) == "abc", "a branch that only the second took"
    assert keys_of(layout(*"ab"), layout(*"cd"), layout(*"ef")) == "abcdef", "stages of a pipeline"
    assert keys_of(layout(), layout(*"ab")) == "ab"


def test_each_site_keeps_its_numbers_among_others_that_ranks_have_not() -> None:
    """Before it, after it, and between two: every column moves as far as it must."""
    sites = {key: site_of(torch.randn(7, units) * 4**units) for key, units in zip("abcd", (2, 3, 4, 5), strict=True)}

    def rank(keys: str) -> Tally:
        out, rows = Readout(), [(key, 0, sites[key]) for key in keys]
        for key, call, site in rows:
            queue_site(out, owner_of(key, call), site)
        return count_up(
            [seen_of(*row) for row in rows], [], out.send().read(), site_scales=[1.0] * len(rows), record_scales=[]
        )

    joined = join([rank("bd"), rank("a"), rank("c")])
    assert "".join(row.key for row in joined.layout.sites) == "bdac"
    for i, row in enumerate(joined.layout.sites):
        alone = counted(sites[row.key], key=row.key)
        assert finish_site(joined, i, Known("x"), 0) == replace(finish_site(alone, 0, Known("x"), 0), order=i)
        found, truth = joined.openings(i), alone.openings(0)
        assert found is not None and truth is not None
        assert [column.tolist() for column in found] == [column.tolist() for column in truth]


def test_calls_that_only_another_rank_made_are_named_on_all() -> None:
    memory = Memory(100)
    one, two = counted(site_of(torch.ones(2, 3))), counted(site_of(torch.ones(2, 3)), site_of(torch.ones(2, 3)))
    memory.settle_names(join([one, two]))
    assert [memory.of("act", call).name for call in (0, 1)] == ["act#0", "act#1"]


def test_another_number_of_units_is_left_out_and_named() -> None:
    joined = join([counted(site_of(torch.ones(2, 3))), counted(site_of(torch.zeros(2, 4)))])
    assert joined.conflicts == {"act"}
    assert finished(joined) == finished(counted(site_of(torch.ones(2, 3))))


# Evidence -------------------------------------------------------------------------------------------------


def test_a_unit_is_silent_only_if_it_is_on_every_rank() -> None:
    """Averaged or or-ed flags would call it half dead, or dead."""
    left, right = torch.tensor([[1.0, 0, 0]] * 20), torch.tensor([[0.0, 0, 3]] * 20)
    memory = Memory(320)
    for step in range(20):
        memory.absorb(join([counted(site_of(left, step=step)), counted(site_of(right, step=step))]))
    known = memory.of("act", 0)
    assert known.evidence is not None and known.ledger is not None
    assert known.ledger.judge(known.evidence, 19).states == "ada"
    assert known.evidence.samples == 20 * 40


def test_a_unit_flickers_only_if_no_rank_has_seen_it_open() -> None:
    """Of two units that come back on the left for a sample, one has been open on the right all the time."""
    memory, verdicts = Memory(2048), []
    for step in range(14):
        left, right = torch.zeros(32, 2), torch.zeros(32, 2)
        left[0] = 1.0 if step in (0, 12) else 0.0
        right[0, 1] = 1.0
        memory.absorb(join([counted(site_of(left, step=step)), counted(site_of(right, step=step))]))
        known = memory.of("act", 0)
        assert known.evidence is not None and known.ledger is not None
        verdicts.append(known.ledger.judge(known.evidence, step).flickering)
    assert verdicts == [0] * 12 + [1, 1], "11 steps of 64 samples were silent"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("every", [1, 3, 12])
def test_the_evidence_of_ranks_is_that_of_one_process(seed: int, every: int) -> None:
    """Ranks with batches of different sizes, some of which they have not: every age and count is the same."""
    rng = np.random.default_rng(seed)
    ranks, memory, alone = 3, Memory(200), UnitEvidence.empty(4, 200)
    sites = [Site("act", "ReLU", "activation", RELU) for _ in range(ranks)]
    single = Recent(4, torch.device("cpu"))
    for step in range(36):
        for _ in range(1 + step % 2):  # two micro-batches in every other step
            parts = [torch.as_tensor(rng.random((rng.integers(1, 9), 4)) < [0.9, 0.05, 0.0, 0.01]) for _ in sites]
            has = rng.random(ranks) < 0.8
            has[rng.integers(ranks)] = True
            if (step * 7 + seed) % 3 or step % 2 == 0:
                has[:] = True  # of two micro-batches, a rank has none, the first, or both
            for site, part, there in zip(sites, parts, has, strict=True):
                if there:
                    site.add_read(arrange(part.float(), 1), step, recording=False)
            whole = torch.cat([part for part, there in zip(parts, has, strict=True) if there])
            single.observe(whole.sum(0), len(whole), step)
            if not all(has):
                break  # a rank that has no first micro-batch has no second: the calls of a step have one order
        if step % every == 0:
            memory.absorb(join([counted(site) for site in sites]))
            for site in sites:
                assert site.recent is not None
                site.recent.clear()
            seen = single.openings()
            assert seen is not None
            alone = alone.absorb(seen)
            single.clear()
    joined = memory.of("act", 0).evidence
    assert joined is not None
    for spec in fields(UnitEvidence):
        assert np.array_equal(getattr(joined, spec.name), getattr(alone, spec.name)), spec.name


def test_a_site_without_units_leaves_the_others_as_they_are() -> None:
    rows = [SiteRow(key, 0, "Linear", "layer", units, 0, "") for key, units in (("b", 0), ("a", 2), ("c", 3))]
    tally = Tally.empty(Layout(tuple(rows)))
    tally.n_C[:], tally.mean_C[:], tally.m2_C[:] = 4.0, [1.0, 3.0, 10.0, 10.0, 40.0], [4.0, 4.0, 0.0, 0.0, 0.0]
    b, a, c = finish_sites(tally, [Known(key) for key in "bac"], 0)
    assert a is not None and b is not None and c is not None
    assert (a.mean, a.std) == (2.0, pytest.approx(math.sqrt(2))) and a.units == 2
    assert (b.mean, b.std, b.units) == (None, None, 0)
    assert (c.mean, c.std) == (20.0, pytest.approx(math.sqrt(200))) and c.units == 3


# Parameters ---------------------------------------------------------------------------------------------


def parameters(*rows: tuple[ParameterRow, dict[str, float]], pieces: Any = None) -> Tally:
    tally = Tally.empty(Layout((), tuple(row for row, _ in rows)))
    for i, (_, values) in enumerate(rows):
        tally.flags_PF[i] = True, True, True, False
        for name, value in values.items():
            tally.values_PV[i, VALUES.index(name)], tally.known_PV[i, VALUES.index(name)] = value, True
    return replace(tally, pieces=pieces or {})


WHOLE, PART = ParameterRow("w", False), ParameterRow("w", True)


def test_a_parameter_that_every_rank_has_is_counted_once_and_parts_add() -> None:
    values = {"weight": 9.0, "grad": 16.0, "clipped": 4.0, "zeros": 1.0, "elements": 8.0, "update": 1.0, "base": 9.0}
    whole = join([parameters((WHOLE, values))] * 3)
    assert finish_parameters(whole)[0].grad_norm == 4
    assert total_norms(whole) == (4, 0.5)
    parts = join([parameters((PART, values))] * 4)
    stats = finish_parameters(parts)[0]
    assert (stats.weight_norm, stats.grad_norm, stats.grad_zero_fraction) == (6, 8, 0.125)
    assert stats.update_ratio == finish_parameters(whole)[0].update_ratio


def test_a_rank_with_a_copy_or_an_empty_part_changes_nothing() -> None:
    values = {"weight": 9.0, "grad": 16.0, "clipped": 16.0, "zeros": 0.0, "elements": 8.0}
    one, copy, empty = parameters((PART, values)), parameters((PART, {})), parameters((PART, dict.fromkeys(values, 0)))
    assert finish_parameters(join([copy, one, empty]))[0] == finish_parameters(one)[0]


def test_nothing_is_told_of_a_part_alone() -> None:
    tally = parameters((PART, {"weight": 9.0, "grad": 16.0, "clipped": 16.0, "zeros": 0.0, "elements": 8.0}))
    stats = finish_parameters(tally, complete=False)[0]
    assert (stats.weight_norm, stats.grad_norm, stats.grad_zero_fraction, stats.state) == (None, None, None, "trained")
    assert total_norms(tally, complete=False) == (None, None)


def test_terms_of_a_gradient_are_added_before_its_norm_is_taken() -> None:
    key = Piece("clipped", "w", "")
    terms = [parameters((WHOLE, {"weight": 1.0}), pieces={key: np.array(x)}) for x in ([3.0, 1.0], [0.0, -1.0])]
    stats = finish_parameters(join(terms))[0]
    assert (stats.grad_norm, stats.grad_zero_fraction) == (3, 0.5)
    assert total_norms(join(terms)) == (3, 1)
    assert finish_parameters(terms[0], complete=False)[0].grad_norm is None


def test_a_term_of_a_gradient_that_no_update_has_used_is_no_trouble() -> None:
    """Another loss came through a parameter whose optimizer did not step."""
    tally = parameters((WHOLE, {"weight": 1.0}), pieces={Piece("grad", "w", ""): np.array([3.0, 4.0])})
    assert finish_parameters(join([tally]))[0].grad_norm == 5
    assert total_norms(join([tally])) == (None, None)


def test_only_the_gradient_of_an_update_is_told() -> None:
    record = ParameterRecord("w", nn.Parameter(torch.ones(2)), Share())
    assert record.keep_piece("grad", Term("", 1.0, copied=False), torch.tensor([3.0, 4.0]))
    for used in (False, True):
        record.has_grad = used
        out = Readout()
        queue_records(out, [record])
        tally = count_up([], [record], out.send().read(), site_scales=[], record_scales=[1.0])
        assert finish_parameters(tally)[0].grad_norm == (5 if used else None)


def test_a_parameter_has_a_gradient_if_it_has_one_on_any_rank() -> None:
    without = parameters((WHOLE, {"weight": 1.0}))
    without.flags_PF[0, FLAGS.index("has_grad")] = False
    with_one = parameters((WHOLE, {"weight": 1.0, "zeros": 0.0, "elements": 2.0}))
    assert finish_parameters(without)[0].state == "no_grad"
    assert finish_parameters(join([without, with_one]))[0].state == "trained"


# Parcels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARDS)
def test_a_parcel_is_read_back_bit_for_bit(name: str) -> None:
    tally = join([counted(site_of(shard)) for shard in SHARDS[name]])
    tally = replace(
        join([tally, counted(site_of(torch.ones(3, 5)), key="never"), parameters((PART, {"weight": NAN}))]),
        pieces={Piece("grad", "w", "0:1"): np.array([1.0, NAN])},
        conflicts=frozenset({"x"}),
    )
    said, back = unpack(pack(word(), tally))
    assert said == word()
    for spec in fields(Tally):
        mine, truth = getattr(back, spec.name), getattr(tally, spec.name)
        if isinstance(truth, np.ndarray):
            if spec.name in ("octaves_S2U", "used_U"):  # those that are nowhere in use are left out
                mine, truth = ([tally_.octaves()[i] for i in range(2)] for tally_ in (back, tally))
                mine, truth = np.array(mine), np.array(truth)
            assert mine.dtype == truth.dtype and mine.tobytes() == truth.tobytes(), spec.name
    assert (back.layout, back.conflicts, list(back.pieces)) == (tally.layout, tally.conflicts, list(tally.pieces))
    assert_same_numbers(back, tally)


def test_nothing_counted_is_a_parcel_too() -> None:
    said, back = unpack(pack(word(), Tally.empty(Layout())))
    assert (said, back.layout) == (word(), Layout())


def test_counts_beyond_32_bits_survive() -> None:
    tally = counted(site_of(torch.ones(3, 5)))
    tally.octaves_S2U[0, 0, 7] = 2**40
    assert unpack(pack(word(), tally))[1].octaves()[0][0, 7] == 2**40


# Layers divided among ranks -------------------------------------------------------------------------------


def slices(x: Tensor, widths: Sequence[int]) -> list[Tally]:
    """What ranks count that have slices of one layer's units, all of the same samples."""
    found, offset = [], 0
    for i, part in enumerate(x.split(list(widths), 1)):
        at = Place(offset, x.shape[1], tells=True, counts=i == 0)
        found.append(place(counted(site_of(part)), [at]))
        offset += part.shape[1]
    return found


@pytest.mark.parametrize("widths", [(3, 3), (3, 2, 1), (6, 0)], ids=str)
def test_slices_of_a_layer_are_joined_to_the_whole(widths: tuple[int, ...]) -> None:
    x = torch.randn(40, 6).clamp(min=0)
    x[:, 4] = 0
    tallies = slices(x, [width for width in widths if width])
    joined, whole = join(tallies), counted(site_of(x))
    assert finished(joined) == finished(whole)
    found, truth = joined.openings(0), whole.openings(0)
    assert found is not None and truth is not None
    assert [column.tolist() for column in found] == [column.tolist() for column in truth]


def test_copies_of_a_tensor_are_counted_once() -> None:
    x = torch.randn(8, 5)
    tallies = [place(counted(site_of(x)), [Place(0, 5, tells=at == 0, counts=at == 0)]) for at in range(3)]
    assert finished(join(tallies)) == finished(counted(site_of(x)))


# What ranks say besides ----------------------------------------------------------------------------------


def said(*words: Word) -> Word:
    return parcels_joined([pack(one, Tally.empty(Layout())) for one in words])[0]


def test_what_one_rank_wants_left_out_is_left_out_and_the_longest_interval_holds() -> None:
    quiet = Word(7, drop=False, again=False, record_steps=50, watch_steps=9, ranks=1)
    assert said(quiet, quiet) == quiet._replace(ranks=2)
    assert said(quiet, quiet._replace(drop=True)) == quiet._replace(drop=True, ranks=2)
    assert said(quiet, quiet._replace(again=True, ranks=0)) == quiet._replace(again=True)
    assert said(quiet, quiet._replace(record_steps=75, watch_steps=4)) == quiet._replace(record_steps=75, ranks=2)


def test_ranks_that_speak_of_different_steps_are_not_joined() -> None:
    with pytest.raises(ValueError, match="at different steps: 3, 4"):
        said(word(3), word(4))


def test_the_layout_is_added_up_as_often_for_many_sites_as_for_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each site it would be a square, which a thousand layers feel."""
    asked: list[int] = []

    def counted(name: str) -> None:
        given = getattr(Layout, name)
        monkeypatch.setattr(Layout, name, lambda self: (asked.append(len(self.sites)), given(self))[1])

    counted("units_at")
    counted("watched_at")

    def times(layers: int) -> int:
        model = nn.Sequential(*(nn.ReLU() for _ in range(layers)))
        with Monitor(model, log_every_n_steps=1, watch_every_n_steps=1, max_overhead=None) as monitor:
            asked.clear()
            for _ in range(2):
                model(torch.randn(4, 3, requires_grad=True)).sum().backward()
                monitor.step()
            assert monitor.latest is not None and len(monitor.latest.sites) == layers
        return asked.count(layers)

    assert times(40) == times(5) > 0
