"""A Snapshot is frozen, plain, and survives JSON exactly; what is no snapshot is refused."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actdiag.snapshot import (
    SCHEMA_VERSION,
    UNIT_STATES,
    Histogram,
    ParameterStats,
    SiteStats,
    Snapshot,
    stat_fields,
)

AWKWARD_NAMES = (
    *("nan", "inf", "-inf", "NaN", "null", "", "kind", "role", "state", "unit_states", "histogram"),
    *("sites", "step", "version", "top", "counts", "a/b", "features.1:in", "relu#0", "a\nb", "\ud800"),
)

names = st.sampled_from(AWKWARD_NAMES) | st.text(max_size=12)
numbers = st.none() | st.floats(width=32, allow_nan=False)
counters = st.none() | st.integers(0, 2**53)
histograms = st.none() | st.builds(
    lambda top, half: Histogram(top, tuple(half + [3] + half[::-1])),
    st.integers(-150, 128),
    st.lists(st.integers(0, 2**40), max_size=5),
)


def stats_of(kind: type, /, **own: Any) -> st.SearchStrategy[Any]:
    described = stat_fields(kind).items()
    return st.builds(kind, **{name: counters if m["kind"] == "int" else numbers for name, m in described}, **own)


sites = stats_of(
    SiteStats,
    kind=names,
    role=st.sampled_from(("input", "layer", "normalization", "activation", "gate", "output")),
    order=st.integers(0, 10**6),
    unit_states=st.none() | st.text("".join(UNIT_STATES), max_size=9),
    histogram=histograms,
    grad_histogram=histograms,
)
states = st.sampled_from(("trained", "frozen", "no_grad", "zero_grad", "not_in_optimizer"))
snapshots = stats_of(
    Snapshot,
    step=st.integers(0, 2**40),
    sites=st.dictionaries(names, sites, max_size=4),
    parameters=st.dictionaries(names, stats_of(ParameterStats, state=states), max_size=4),
    sites_selected=st.integers(0, 1000),
)


def relu(**stats: Any) -> SiteStats:
    return SiteStats(kind="ReLU", role="activation", order=3, **stats)


def refuse_constant(text: str) -> None:
    raise AssertionError(f"not strict JSON: {text}")


@given(snapshots)
def test_a_snapshot_survives_json_exactly(snapshot: Snapshot) -> None:
    back = Snapshot.from_json(snapshot.to_json())
    assert back == snapshot
    assert list(back.sites) == list(snapshot.sites), "the order of the sites is kept"
    assert list(back.parameters) == list(snapshot.parameters)
    assert repr(back) == repr(snapshot), "types and the sign of zero are kept too"


@given(snapshots)
def test_the_json_is_one_line_and_strict(snapshot: Snapshot) -> None:
    text = snapshot.to_json()
    assert "\n" not in text
    assert json.loads(text, parse_constant=refuse_constant)["version"] == SCHEMA_VERSION


@pytest.mark.parametrize("name", ["kind", "nan", "state", "sites"])
def test_a_site_may_have_any_name(name: str) -> None:
    snapshot = Snapshot(step=1, sites={name: relu(low=-math.inf, high=math.inf, mean=0.5)})
    assert Snapshot.from_json(snapshot.to_json()).sites[name].low == -math.inf


def test_an_activation_class_may_be_called_nan() -> None:
    site = SiteStats(kind="nan", role="layer", order=0)
    assert Snapshot.from_json(Snapshot(step=0, sites={"x": site}).to_json()).sites["x"].kind == "nan"


@pytest.mark.parametrize("value", [Histogram(0, (1,)), relu(), ParameterStats(state="frozen"), Snapshot(step=0)])
def test_nothing_of_a_snapshot_can_be_assigned(value: Any) -> None:
    field = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, 1)


@given(snapshots)
def test_a_snapshot_pickles_and_copies(snapshot: Snapshot) -> None:
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot
    assert copy.deepcopy(snapshot) == snapshot


@given(st.floats(allow_nan=False))
def test_floats_are_rounded_to_float32_when_a_snapshot_is_built(value: float) -> None:
    with np.errstate(over="ignore"):
        rounded = float(np.float32(value))
    assert relu(mean=value).mean == rounded
    assert ParameterStats(state="trained", grad_norm=value).grad_norm == rounded
    assert Snapshot(step=0, overhead_ms=value).overhead_ms == rounded


def test_a_number_that_is_nan_does_not_apply_and_is_none() -> None:
    assert relu(mean=math.nan).mean is None
    assert Snapshot(step=0, loss_scale=math.nan).loss_scale is None


def test_a_number_beyond_float32_is_infinite() -> None:
    assert relu(low=-(10**400), high=1e39) == relu(low=-math.inf, high=math.inf)


def test_a_number_that_is_text_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="mean must be a number or None, got 'x'"):
        relu(mean="x")


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99, "2", 0])
def test_another_schema_version_is_refused_with_both_versions(version: Any) -> None:
    text = json.dumps({"version": version, "step": 1, "something": "new"})
    with pytest.raises(ValueError, match=f"version {version}.*reads {SCHEMA_VERSION}"):
        Snapshot.from_json(text)


def spoiled(**changes: Any) -> str:
    good = json.loads(Snapshot(step=1, sites={"a": relu(histogram=Histogram(0, (1,)))}).to_json())
    return json.dumps(good | changes)


SITE = {"kind": "ReLU", "role": "activation", "order": 0}
GARBAGE = {
    "empty": "",
    "prose": "once upon a time",
    "a list": "[]",
    "a number": "7",
    "null": "null",
    "no version": '{"step": 1}',
    "cut off": spoiled()[:-9],
    "a NaN literal": spoiled().replace('"mean": null', '"mean": NaN'),
    "nested a hundred thousand deep": "[" * 100_000,
    "step missing": '{"version": 1, "sites": {}, "parameters": {}}',
    "step is text": spoiled(step="1"),
    "step is null": spoiled(step=None),
    "sites missing": '{"version": 1, "step": 1, "parameters": {}}',
    "sites are a list": spoiled(sites=[]),
    "a site is a number": spoiled(sites={"a": 1}),
    "a site without a kind": spoiled(sites={"a": {"role": "layer", "order": 0}}),
    "a kind that is a number": spoiled(sites={"a": {**SITE, "kind": 1}}),
    "a role that does not exist": spoiled(sites={"a": {**SITE, "role": "boss"}}),
    "an unknown statistic": spoiled(sites={"a": {**SITE, "mood": 1.0}}),
    "a mean that is prose": spoiled(sites={"a": {**SITE, "mean": "high"}}),
    "a mean of four hundred digits and a half": spoiled(sites={"a": {**SITE, "mean": 10**400, "n": 0.5}}),
    "a count that is a fraction": spoiled(sites={"a": {**SITE, "n": 1.5}}),
    "unit states of another alphabet": spoiled(sites={"a": {**SITE, "unit_states": "xyz"}}),
    "a histogram without counts": spoiled(sites={"a": {**SITE, "histogram": {"top": 1}}}),
    "an even number of buckets": spoiled(sites={"a": {**SITE, "histogram": {"top": 1, "counts": [1, 2]}}}),
    "a negative count": spoiled(sites={"a": {**SITE, "histogram": {"top": 1, "counts": [-1]}}}),
    "edges beyond every float": spoiled(sites={"a": {**SITE, "histogram": {"top": 9999, "counts": [1]}}}),
    "a parameter without a state": spoiled(parameters={"w": {}}),
    "a state that does not exist": spoiled(parameters={"w": {"state": "bored"}}),
    "an unknown field": spoiled(mood="good"),
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE.keys())
def test_what_is_no_snapshot_is_refused_with_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Snapshot.from_json(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5))
def test_any_other_json_is_refused_with_a_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match="not an actdiag snapshot"):
        Snapshot.from_json(json.dumps(value))


@given(st.integers(-150, 128), st.lists(st.integers(0, 1000), min_size=0, max_size=40), st.integers(0, 9))
def test_a_histogram_has_one_edge_more_than_buckets_and_counts_n_values(top: int, half: list[int], middle: int) -> None:
    histogram = Histogram(top, (*half, middle, *half))
    edges = histogram.edges()
    assert histogram.n == 2 * sum(half) + middle
    assert len(edges) == len(histogram.counts) + 1
    assert all(a < b for a, b in itertools.pairwise(edges))
    assert edges == [-edge for edge in reversed(edges)], "symmetric about zero"
    assert edges[-1] == math.ldexp(1.0, top), "the outermost octave ends at 2^top"
    assert all(b == 2 * a for a, b in itertools.pairwise(edges) if a > 0), "octaves"


def test_units_are_found_by_their_state() -> None:
    site = relu(unit_states="adsdv", evidence_samples=300)
    assert site.units_in("dead") == [1, 3]
    assert site.units_in("rare") == []
    assert relu().units_in("dead") == []
    assert site.dead_rate_bound == pytest.approx(0.01)
    assert relu().dead_rate_bound is None


def test_every_number_says_what_it_is() -> None:
    for kind in (SiteStats, ParameterStats, Snapshot):
        for name, metadata in stat_fields(kind).items():
            assert metadata["doc"] and metadata["kind"] in ("int", "float"), name
