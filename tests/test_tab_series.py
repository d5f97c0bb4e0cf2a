"""The pure functions of the tab against slow oracles: columns, timelines, grids, histograms, units, frames, cache."""

from __future__ import annotations

import math
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actdiag.snapshot import Histogram, ParameterStats, SiteStats, stat_fields
from actdiag.tensorboard.answers import owners
from actdiag.tensorboard.cache import Cache
from actdiag.tensorboard.frame import encode_frame
from actdiag.tensorboard.grid import LARGEST_BYTES, check_size, grid_of
from actdiag.tensorboard.histograms import MOST_OCTAVES, common_grid, shares
from actdiag.tensorboard.metrics import METRICS, metrics_of
from actdiag.tensorboard.query import MOST_COLUMNS, columns_of, span_of, text_of
from actdiag.tensorboard.reduce import column_edges, evenly, extremes, first_and_last, placed
from actdiag.tensorboard.refusal import Refusal
from actdiag.tensorboard.states import LETTERS, MOST_ROWS, as_letters, unit_map, worst_units
from actdiag.tensorboard.timeline import Names, Timeline, build, timeline_of
from actdiag.write import tags
from actdiag.write.codec import (
    decode_histogram_at,
    decode_histograms,
    decode_states,
    decode_states_at,
    encode_histograms,
    encode_states,
)
from actdiag.write.pack import parse_schema
from actdiag.write.plain import strict_json
from tests.tab_logs import decode_frame

FLOATS = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -2.25, 3e38, 1e-45])


# Columns ------------------------------------------------------------------------------------------------


@given(st.integers(0, 400), st.integers(1, 90))
def test_columns_are_whole_in_order_and_equally_full(count: int, columns: int) -> None:
    edges = column_edges(count, columns)
    sizes = np.diff(edges)
    assert (edges[0], edges[-1], len(sizes)) == (0, count, min(count, columns))
    assert not len(sizes) or (sizes.min() >= 1 and sizes.max() - sizes.min() <= 1)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.data())
def test_a_column_has_the_extremes_of_its_steps_and_nan_only_where_all_is_nan(
    count: int, columns: int, data: st.DataObject
) -> None:
    values = np.array(data.draw(st.lists(FLOATS, min_size=2 * count, max_size=2 * count)), np.float32)
    edges = column_edges(count, columns)
    low, high = extremes(values.reshape(count, 2), edges)
    assert low.shape == high.shape == (2, len(edges) - 1)
    for row in range(2):
        for c, (begin, end) in enumerate(pairwise(edges)):
            known = [v for v in values.reshape(count, 2)[begin:end, row].tolist() if not math.isnan(v)]
            wanted = (min(known), max(known)) if known else (math.nan, math.nan)
            np.testing.assert_array_equal((low[row, c], high[row, c]), wanted)


def test_a_spike_of_one_step_is_seen_in_any_number_of_columns() -> None:
    values = np.zeros((10_000, 1), np.float32)
    values[7_321] = math.inf
    for columns in (1, 2, 7, 300, 4000):
        _, high = extremes(values, column_edges(10_000, columns))
        assert np.isinf(high).sum() == 1


def test_no_step_gives_no_column() -> None:
    edges = column_edges(0, 100)
    low, _ = extremes(np.zeros((0, 3), np.float32), edges)
    assert low.shape == (3, 0)
    assert first_and_last(np.zeros(0, np.int64), edges)["first"].shape == (0,)


def test_columns_say_their_first_and_last_step() -> None:
    told = first_and_last(np.array([2, 4, 8, 16, 32]), column_edges(5, 2))
    assert [told["first"].tolist(), told["last"].tolist()] == [[2, 8], [4, 32]]


@given(st.integers(0, 500), st.integers(1, 60))
def test_evenly_chosen_positions_increase_and_end_with_the_last(count: int, most: int) -> None:
    picked = evenly(count, most).tolist()
    assert len(picked) == min(count, most)
    assert picked == sorted(set(picked))
    if count:
        assert picked[-1] == count - 1
        assert picked[0] >= 0
        gaps = np.diff(picked)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_rows_without_numbers_are_nan() -> None:
    full = placed(np.ones((1, 2), np.float32), np.array([1]), 3)
    np.testing.assert_array_equal(full, [[np.nan] * 2, [1, 1], [np.nan] * 2])


# Timeline -----------------------------------------------------------------------------------------------


def schema(*sites: str, parameters: tuple[str, ...] = (), session: str = "s", first: int = 0) -> str:
    told = [{"name": n, "kind": "ReLU", "role": "activation", "order": first + i} for i, n in enumerate(sites)]
    return strict_json(
        {"version": 1, "session": session, "sites": told, "parameters": list(parameters), "sites_selected": len(sites)}
    )


def slow_timeline(steps: list[int]) -> list[int]:
    """Positions that hold, by the definition: no later event has this step or an earlier one."""
    return [i for i, step in enumerate(steps) if all(later > step for later in steps[i + 1 :])]


@given(st.lists(st.integers(0, 12), max_size=40))
def test_a_step_that_comes_again_or_earlier_supersedes_everything_from_it_on(steps: list[int]) -> None:
    keys = [(step, 100.0 + i) for i, step in enumerate(steps)]
    timeline = timeline_of(keys, [])
    kept = slow_timeline(steps)
    assert timeline.steps_T.tolist() == [steps[i] for i in kept]
    assert timeline.places == {keys[i]: place for place, i in enumerate(kept)}
    assert (np.diff(timeline.steps_T) > 0).all()


def test_a_clock_that_was_set_back_loses_no_step() -> None:
    keys = [(step, 100.0 + step - 50 * (step > 5)) for step in range(10)]
    timeline = timeline_of(keys, [(keys[0], schema("a")), (keys[7], schema("a", "b"))])
    assert timeline.steps_T.tolist() == list(range(10))
    assert timeline.schema_T.tolist() == [0] * 7 + [1] * 3


def test_a_schema_holds_from_its_event_on_and_a_resumed_run_has_its_own() -> None:
    steps = [0, 10, 20, 30, 15, 25]
    keys = [(step, 100.0 + i) for i, step in enumerate(steps)]
    old, wide, resumed = schema("a"), schema("a", "b"), schema("a", session="later")
    timeline = timeline_of(keys, [(keys[0], old), (keys[1], wide), (keys[4], resumed)])
    assert timeline.steps_T.tolist() == [0, 10, 15, 25]
    assert [timeline.schemas[i].session for i in timeline.schema_T] == ["s", "s", "later", "later"]
    assert [len(timeline.schemas[i].sites) for i in timeline.schema_T] == [1, 2, 1, 1]


def test_a_schema_whose_own_step_was_purged_holds_by_its_wall_time() -> None:
    keys = [(0, 100.0), (5, 103.0)]  # steps 10 (wall 101) and 20 were purged by a rewind to 5
    timeline = timeline_of(keys, [((0, 100.0), schema("a")), ((10, 101.0), schema("a", "b"))])
    assert [len(timeline.schemas[i].sites) for i in timeline.schema_T] == [1, 2]


def test_a_schema_that_cannot_be_read_is_told_and_its_steps_have_none() -> None:
    keys = [(0, 1.0), (1, 2.0), (2, 3.0)]
    timeline = timeline_of(keys, [(keys[0], schema("a")), (keys[1], "{"), (keys[2], schema("b"))])
    assert timeline.schema_T.tolist() == [0, -1, 1]
    assert len(timeline.problems) == 1
    assert timeline_of(keys, []).schema_T.tolist() == [-1, -1, -1]


def test_sites_are_those_of_all_schemas_in_the_order_told_last() -> None:
    keys = [(0, 1.0), (1, 2.0)]
    timeline = timeline_of(keys, [(keys[0], schema("a", "gone")), (keys[1], schema("new", "a", first=0))])
    assert set(timeline.sites.names) == {"a", "new", "gone"}
    assert list(timeline.sites.names).index("new") < list(timeline.sites.names).index("a")
    assert [rows.tolist() for rows in timeline.sites.rows] == [
        [list(timeline.sites.names).index(n) for n in names] for names in (["a", "gone"], ["new", "a"])
    ]


# Grids --------------------------------------------------------------------------------------------------


def line(*texts: str) -> Timeline:
    """One step a schema."""
    return build([(i, float(i)) for i in range(len(texts))], [parse_schema(text) for text in texts])


FLOAT = {"kind": "float"}
INT = {"kind": "int"}


def test_a_grid_puts_every_vector_at_the_rows_of_its_schema() -> None:
    timeline = line(schema("a", "b"), schema("b", "c"), schema("a", "b"))
    vectors = [np.array(v, np.float32) for v in ([1, 2], [3, np.nan], [5, 6])]
    grid = grid_of(timeline, timeline.sites, vectors, FLOAT)
    names = [timeline.sites.names[row] for row in grid.rows]
    assert sorted(names) == ["a", "b"], "c has no number"
    table = {name: grid.values_TR[:, i].tolist() for i, name in enumerate(names)}
    np.testing.assert_equal(table, {"a": [1, math.nan, 5], "b": [2, 3, 6]})
    assert not grid.problems


def test_whole_numbers_of_changing_width_keep_their_values_and_minus_one_is_none() -> None:
    timeline = line(*[schema("a", "b")] * 3)
    vectors: list[Any] = [np.array([5, -1], np.int16), None, np.array([70_000, 1 << 24], np.int32)]
    grid = grid_of(timeline, timeline.sites, vectors, INT)
    np.testing.assert_array_equal(grid.values_TR, [[5, np.nan], [np.nan, np.nan], [70_000, 1 << 24]])


@pytest.mark.parametrize(
    "damaged",
    [
        np.zeros(3, np.float32),
        np.zeros((1, 2), np.float32),
        np.zeros(2, np.int32),
        np.array([b"a", b"b"], dtype=object),
        np.zeros(0, np.float32),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_a_vector_that_does_not_fit_its_schema_is_left_out_and_told(damaged: Any) -> None:
    timeline = line(*[schema("a", "b")] * 2)
    grid = grid_of(timeline, timeline.sites, [damaged, np.ones(2, np.float32)], FLOAT)
    np.testing.assert_array_equal(grid.values_TR, [[np.nan, np.nan], [1, 1]])
    assert grid.problems == ["vectors that do not fit their schema: 1, the first at step 0"]


def test_a_table_beyond_the_limit_is_refused_before_it_is_read() -> None:
    timeline = line(schema("a"))
    names = Names(range(LARGEST_BYTES // 4 + 1), [])
    with pytest.raises(Refusal, match=r"1 recorded steps of .* Record fewer steps") as refused:
        check_size(timeline, names)
    assert refused.value.status == 413
    check_size(timeline, timeline.sites)


# Histograms ---------------------------------------------------------------------------------------------


@st.composite
def histograms(draw: st.DrawFn, octaves: int = 6) -> Histogram | None:
    if draw(st.booleans()) and draw(st.booleans()):
        return None
    k = draw(st.integers(0, octaves))
    counts = draw(st.lists(st.integers(0, 9), min_size=2 * k + 1, max_size=2 * k + 1))
    return Histogram(draw(st.integers(-9, 9)), tuple(counts))


@settings(deadline=None)
@given(st.lists(histograms(), max_size=6))
def test_histograms_on_one_grid_hold_the_same_counts_at_the_same_values(found: list[Histogram | None]) -> None:
    bottom, top = common_grid(found)
    share = shares(found, bottom, top)
    assert share.shape == (2 * (top - bottom) + 1, len(found))
    for column, h in enumerate(found):
        if h is None or not h.n:
            assert np.isnan(share[:, column]).all()
            continue
        wanted: Counter[int] = Counter()
        edges = h.edges()
        for count, low, high in zip(h.counts, edges[:-1], edges[1:], strict=True):
            largest = max(abs(low), abs(high))
            inside = low < 0 < high or largest <= math.ldexp(1, bottom)
            octave = 0 if inside else round(math.log2(largest)) - bottom
            wanted[(top - bottom) + (octave if high > 0 else -octave)] += count
        for i in range(len(share)):
            assert share[i, column] == np.float32(wanted[i] / h.n)


def test_more_octaves_than_can_be_shown_keep_the_largest_and_lose_no_count() -> None:
    found = [Histogram(60, (0,) * 60 + (1,) + (0,) * 59 + (1,)), Histogram(-60, (2, 0, 1))]
    bottom, top = common_grid(found)
    assert (bottom, top) == (60 - MOST_OCTAVES, 60)
    np.testing.assert_allclose(shares(found, bottom, top).sum(0), 1)
    assert shares(found, bottom, top)[MOST_OCTAVES, 1] == 1


def test_the_grid_is_no_wider_than_what_was_counted_and_loses_no_octave() -> None:
    found = [Histogram(3, (0, 1, 0, 0, 2)), Histogram(4, (0, 0, 5, 0, 0))]
    assert common_grid(found) == (1, 3)
    np.testing.assert_allclose(shares(found, 1, 3)[:, 0], [0, 1 / 3, 0, 0, 2 / 3])


def test_a_histogram_of_zeros_is_one_middle_bin() -> None:
    found = [Histogram(3, (0, 0, 7, 0, 0))]
    assert common_grid(found) == (1, 1)
    assert shares(found, 1, 1).tolist() == [[1.0]]
    assert common_grid([None]) == (0, 0)


@given(st.lists(histograms(), min_size=1, max_size=5), st.data())
def test_one_histogram_of_a_blob_is_the_one_that_decoding_all_gives(
    found: list[Histogram | None], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(found) - 1))
    blob = encode_histograms(found)
    if blob.size:
        assert (
            decode_histogram_at(blob, len(found), index) == decode_histograms(blob, len(found))[index] == found[index]
        )
        with pytest.raises(ValueError, match=r"do not fit|cut off|cannot reshape"):
            decode_histogram_at(blob, len(found) + 1, index)


# Units --------------------------------------------------------------------------------------------------

LINES = st.one_of(st.none(), st.text("arsdv", min_size=0, max_size=5))


@settings(deadline=None)
@given(st.lists(LINES, min_size=1, max_size=12), st.integers(1, 12))
def test_a_column_of_units_is_the_worst_and_the_step_of_death_the_first(lines: list[str | None], columns: int) -> None:
    steps = np.arange(len(lines)) * 10
    edges = column_edges(len(lines), columns)
    found = unit_map(lines, steps, edges)
    units = max((len(text) for text in lines if text is not None), default=0)
    letters = as_letters(found.rank_UC)
    assert letters.shape == (units, len(edges) - 1)
    for u in range(units):
        seen = [text[u] if text is not None and u < len(text) else "" for text in lines]
        for c, (begin, end) in enumerate(pairwise(edges)):
            worst = max(seen[begin:end], key=lambda letter: " avrsd".find(letter) if letter else -1)
            assert letters[u, c] == (1 + LETTERS.index(worst) if worst else 0)
        assert found.died_U[u] == (10 * seen.index("d") if "d" in seen else -1)


def test_units_are_sorted_by_their_last_state_then_by_when_they_died() -> None:
    lines = ["aadddaa", "adddvra", "sdddvra"]
    found = unit_map(lines, np.array([0, 5, 9]), column_edges(3, 3))
    assert worst_units(found).tolist() == [2, 3, 1, 0, 5, 4, 6]
    assert found.died_U[[2, 3, 1, 4]].tolist() == [0, 0, 5, 0]
    assert worst_units(found, 2).tolist() == [2, 3]
    assert MOST_ROWS == 4096


def test_units_that_would_take_too_much_memory_are_refused() -> None:
    with pytest.raises(Refusal, match="ask for fewer columns") as refused:
        unit_map(["a" * (1 << 20)] * 200, np.arange(200), column_edges(200, 200))
    assert refused.value.status == 413


@given(st.lists(LINES.filter(lambda text: text != ""), min_size=1, max_size=5), st.data())
def test_one_line_of_unit_states_is_the_one_that_decoding_all_gives(
    lines: list[str | None], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(lines) - 1))
    blob = encode_states(lines)
    if blob.size:
        assert decode_states_at(blob, len(lines), index) == decode_states(blob)[index] == lines[index]
    with pytest.raises(ValueError, match="lines of unit states do not fit"):
        decode_states_at(blob, len(lines) + 1, index)


# Frames, metrics, owners, queries -----------------------------------------------------------------------


def test_a_frame_is_read_back_exactly_whatever_its_shapes() -> None:
    odd = np.array([[math.nan, math.inf, -0.0], [1e-45, -3e38, 2.5]], np.float32)
    arrays = {
        "a": odd.T,
        "empty": np.zeros((0, 4), np.float32),
        "bytes": np.arange(5, dtype=np.uint8),
        "steps": np.array([-1, 2**31 - 1, 2**40]),
    }
    header, found = decode_frame(encode_frame({"rows": ["<é\u2028", "b"], "limit": math.inf}, arrays))
    assert (header["rows"], header["limit"]) == (["<é\u2028", "b"], "inf")
    assert found["a"].tobytes() == np.ascontiguousarray(odd.T).tobytes()
    assert found["empty"].shape == (0, 4)
    assert found["bytes"].tolist() == [0, 1, 2, 3, 4]
    assert found["steps"].tolist() == [-1, 2**31 - 1, 2**31 - 1]


def test_every_statistic_of_a_snapshot_is_one_metric_and_the_main_ones_come_first() -> None:
    fields = {("site", f) for f in stat_fields(SiteStats)} | {("parameter", f) for f in stat_fields(ParameterStats)}
    assert {(m.of, m.field) for m in METRICS.values()} == fields
    assert len(METRICS) == len(fields)
    main = [m.name for m in METRICS.values() if m.main]
    assert main == list(METRICS)[: len(main)] == [
        "dead_fraction", "saturated_fraction", "mean_energy", "rms", "grad_rms", "grad_zero_fraction", "update_ratio",
        "zero_fraction", "gate_mean",
    ]  # fmt: skip
    assert len({m.title for m in METRICS.values()}) == len(METRICS)
    assert {m.scale for m in METRICS.values()} == {"share", "log", "signed", "linear"}
    assert METRICS["dead_fraction"].to_dict()["healthy"] == [None, 0.45]
    assert [m.name for m in metrics_of([tags.PARAMETER + "grad_zero_fraction"])] == ["parameter_grad_zero_fraction"]


def test_a_parameter_belongs_to_the_first_call_of_its_module() -> None:
    sites = ["fc:in", "fc", "cell#0:in", "cell#0", "cell#1", "only:in", "attention"]
    names = ["fc.weight", "cell.weight_ih", "only.bias", "attention.out.weight", "free"]
    assert dict(owners(names, sites)) == {
        "fc.weight": "fc", "cell.weight_ih": "cell#0", "only.bias": "only:in", "attention.out.weight": None,
        "free": None,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "a", "1.5", "1e3", "٣", "--1", "9" * 19, " 1", "0x10", "nan"])
def test_what_is_no_whole_number_is_a_bad_query(text: str) -> None:
    for name in ("from", "to"):
        with pytest.raises(Refusal, match=f"{name} must be a whole number") as refused:
            span_of({name: text})
        assert refused.value.status == 400
    with pytest.raises(Refusal, match="columns must be"):
        columns_of({"columns": text}, 5)


def test_queries_have_bounds_and_defaults() -> None:
    assert columns_of({}, 5) == 5
    assert columns_of({"columns": str(MOST_COLUMNS)}, 5) == 4000
    for wrong in ("0", "-1", "4001"):
        with pytest.raises(Refusal, match="columns must be from 1 to 4000"):
            columns_of({"columns": wrong}, 5)
    assert span_of({"from": "-3", "to": "-3"}) == (-3, -3)
    assert span_of({}) == (None, None)
    with pytest.raises(Refusal, match="no range of steps"):
        span_of({"from": "2", "to": "1"})
    assert text_of({}, "monitor", "") == ""
    with pytest.raises(Refusal, match="run is missing"):
        text_of({}, "run")
    with pytest.raises(Refusal, match="too long"):
        text_of({"run": "x" * 5000}, "run")


# Cache --------------------------------------------------------------------------------------------------


def test_the_cache_makes_a_value_once_a_stamp() -> None:
    cache, made = Cache(100), []
    for stamp in (1, 1, 2, 2, 1):
        value = cache.get("a", stamp, lambda stamp=stamp: made.append(stamp) or stamp, lambda _: 10)  # type: ignore[misc]
        assert value == stamp
    assert made == [1, 2, 1]
    assert cache.size == 10


def test_the_cache_drops_what_was_used_longest_ago_and_keeps_nothing_that_is_too_large() -> None:
    cache, made = Cache(100), []

    def get(key: str, size: int = 40) -> None:
        cache.get(key, 0, lambda: made.append(key), lambda _: size)

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key)
    assert made == ["a", "b", "c", "b"]
    get("large", 101)
    get("large", 101)
    assert made[4:] == ["large", "large"]
    assert cache.size == 80
    get("whole", 100)
    assert cache.size == 100


def test_threads_that_want_the_same_value_wait_for_one_of_them() -> None:
    cache, made, two = Cache(100), [], threading.Barrier(2)

    def make() -> int:
        made.append(1)
        with suppress(threading.BrokenBarrierError):  # a second thread that makes it as well would come here
            two.wait(timeout=0.5)
        return 7

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: cache.get("a", 0, make, lambda _: 1), range(8))) == [7] * 8
    assert made == [1]


def test_a_value_that_could_not_be_made_is_made_again() -> None:
    cache = Cache(100)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", 0, lambda: 1 // 0, lambda _: 1)
    assert cache.get("a", 0, lambda: 3, lambda _: 1) == 3
