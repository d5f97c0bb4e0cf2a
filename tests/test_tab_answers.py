"""The answers of the tab over a data provider that behaves as either of TensorBoard's loaders, and over a directory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard import errors
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.data.provider import RunTagFilter, TensorDatum, TensorTimeSeries
from tensorboard.util import tensor_util

from actdiag.diagnose.finding import Change, Finding
from actdiag.report.read import read_runs
from actdiag.snapshot import Histogram, ParameterStats, SiteStats, Snapshot
from actdiag.tensorboard.answers import ROUTES, answer
from actdiag.tensorboard.cache import Cache
from actdiag.tensorboard.directory import DirectoryLogs
from actdiag.tensorboard.metrics import METRICS
from actdiag.tensorboard.provider import Experiment, ProviderLogs
from actdiag.tensorboard.refusal import Refusal
from actdiag.tensorboard.view import view_of
from actdiag.write import tags
from tests.tab_logs import Events, decode_frame, save

HOSTILE = '</script><img src=x onerror="alert(1)">/../%2e\u2028 \u0438'


class FakeProvider:
    """Series as a loader gives them; `fast` drops what a rewind supersedes, series by series, as the data server."""

    def __init__(self, runs: dict[str, Sequence[Event]], *, fast: bool) -> None:
        self.reads: list[str] = []
        self.fail: Exception | None = None
        self._fast = fast
        self._series: dict[str, dict[str, list[TensorDatum]]] = {}
        for run, events in runs.items():
            self.add(run, events)

    def add(self, run: str, events: Iterable[Event]) -> None:
        for event in events:
            for value in event.summary.value:
                if tags.PLUGIN + "/" in value.tag and value.HasField("tensor"):
                    data = self._series.setdefault(run, {}).setdefault(value.tag, [])
                    while self._fast and data and data[-1].step >= event.step:
                        data.pop()
                    data.append(TensorDatum(event.step, event.wall_time, tensor_util.make_ndarray(value.tensor)))

    def list_tensors(
        self, ctx: Any, *, experiment_id: str, plugin_name: str, run_tag_filter: RunTagFilter
    ) -> dict[str, dict[str, TensorTimeSeries]]:
        assert plugin_name == "actdiag"
        if self.fail is not None:
            raise self.fail
        wanted = run_tag_filter.runs
        return {
            run: {
                tag: TensorTimeSeries(
                    max_step=max(d.step for d in data),
                    max_wall_time=max(d.wall_time for d in data),
                    plugin_content=b"",
                    description="",
                    display_name="",
                )
                for tag, data in series.items()
                if data
            }
            for run, series in self._series.items()
            if wanted is None or run in wanted
        }

    def read_tensors(
        self, ctx: Any, *, experiment_id: str, plugin_name: str, downsample: int, run_tag_filter: RunTagFilter
    ) -> dict[str, dict[str, list[TensorDatum]]]:
        assert downsample >= 1 << 30
        (run,), (tag,) = run_tag_filter.runs, run_tag_filter.tags
        self.reads.append(tag)
        if self.fail is not None:
            raise self.fail
        return {run: {tag: list(self._series[run][tag])}}


def logs_of(provider: FakeProvider, cache: Cache | None = None) -> ProviderLogs:
    return ProviderLogs(Experiment(provider, object(), "x"), cache or Cache())


def site(order: int, **stats: Any) -> SiteStats:
    return SiteStats(**{"kind": "ReLU", "role": "activation", "order": order, **stats})


def test_one_element_that_is_not_finite_is_seen_beside_thousands() -> None:
    assert {METRICS[name].scale for name in ("nonfinite", "grad_nonfinite")} == {"log"}


def snapshot(step: int, *, scale: float = 1.0, sites: Sequence[str] = ("a", "b:in", "b")) -> Snapshot:
    """Numbers that differ at every step and site; some None, some infinite."""
    told = {}
    for i, name in enumerate(sites):
        told[name] = site(
            i,
            n=64 + step,
            mean=scale * (0.1 * step - i),
            rms=None if (step + i) % 3 == 0 else math.inf if step == 4 else scale * (1 + step / 7),
            dead_fraction=i / 8 if name != "b:in" else None,
            dead_units=step if i == 0 else None,
            unit_states="ad"[step > 2] + "ars" if name == "a" else None,
            histogram=Histogram(step % 4, (1, step, 3, 4, 5)) if name == "a" and step % 2 == 0 else None,
        )
    weights = {
        "a.weight": ParameterStats(state="trained", grad_norm=scale * step, grad_zero_fraction=0.25),
        "b.bias": ParameterStats(state="frozen", weight_norm=2.0),
    }
    return Snapshot(step=step, sites=told, parameters=weights, sites_selected=len(told))


def finding(step: int, **fields: Any) -> Finding:
    known = {"rule": "dead-units", "severity": "warning", "layer": "a", "message": "half of it is dead"}
    return Finding(**{**known, "step": step, **fields})


def plain_run(steps: int = 7, **options: Any) -> tuple[list[Snapshot], list[Event]]:
    snapshots = [snapshot(step) for step in range(steps)]
    return snapshots, Events(**options).write(snapshots).events


def get(logs: Any, route: str, **query: Any) -> Any:
    """JSON as it is, a frame as (header, arrays)."""
    made = answer(logs, route, {k.rstrip("_"): str(v) for k, v in query.items()})
    return decode_frame(made) if isinstance(made, bytes) else json.loads(json.dumps(made))


def refused(logs: Any, route: str, **query: Any) -> tuple[int, str]:
    with pytest.raises(Refusal) as refusal:
        get(logs, route, **query)
    return refusal.value.status, str(refusal.value)


def wanted(snapshots: Sequence[Snapshot], metric: str, names: Sequence[str]) -> np.ndarray:
    """f4[R, T] of a metric, straight from the snapshots."""
    told = METRICS[metric]
    found = np.full((len(names), len(snapshots)), np.nan, np.float32)
    for t, s in enumerate(snapshots):
        items: Any = s.sites if told.of == "site" else s.parameters
        for r, name in enumerate(names):
            value = getattr(items[name], told.field) if name in items else None
            found[r, t] = np.nan if value is None else value
    return found


@pytest.fixture(params=["fast", "legacy", "directory"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Events -> logs with a run "run", however they are read."""

    def read(*parts: Sequence[Event]) -> Any:
        if request.param == "directory":
            return DirectoryLogs(read_runs(save(tmp_path / "run", *parts)))
        provider = FakeProvider({}, fast=request.param == "fast")
        for part in parts:
            provider.add("run", part)
        return logs_of(provider)

    return read


# Values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_every_answered_value_is_the_one_that_was_logged(source: Any, metric: str) -> None:
    snapshots, events = plain_run()
    logs = source(events)
    known = {m["name"] for m in get(logs, "run", run="run")["metrics"]}
    if metric not in known:
        assert np.isnan(wanted(snapshots, metric, ["a", "b:in", "b", "a.weight", "b.bias"])).all()
        assert refused(logs, "stat", run="run", metric=metric)[0] == 404
        return
    header, arrays = get(logs, "stat", run="run", monitor="", metric=metric)
    assert header["rows"] == (["a", "b:in", "b"] if METRICS[metric].of == "site" else ["a.weight", "b.bias"])
    assert (header["run"], header["monitor"], header["metric"], header["of"]) == ("run", "", metric, METRICS[metric].of)
    assert (header["count"], header["exact"], header["problems"]) == (7, True, [])
    assert arrays["first"].tolist() == arrays["last"].tolist() == list(range(7))
    expected = wanted(snapshots, metric, header["rows"])
    for side in ("low", "high"):
        assert arrays[side].dtype == np.float32
        np.testing.assert_array_equal(arrays[side], expected)


def test_fewer_columns_hold_the_extremes_of_the_steps_they_name(source: Any) -> None:
    snapshots, events = plain_run()
    header, arrays = get(source(events), "stat", run="run", metric="rms", columns=3, from_=1, to=5)
    assert (header["count"], header["exact"]) == (5, False)
    assert [arrays["first"].tolist(), arrays["last"].tolist()] == [[1, 2, 4], [1, 3, 5]]
    table = wanted(snapshots, "rms", header["rows"])
    for c, (begin, end) in enumerate([(1, 2), (2, 4), (4, 6)]):
        np.testing.assert_array_equal(arrays["low"][:, c], np.fmin.reduce(table[:, begin:end], axis=1))
        np.testing.assert_array_equal(arrays["high"][:, c], np.fmax.reduce(table[:, begin:end], axis=1))


def test_a_range_without_recorded_steps_has_no_columns(source: Any) -> None:
    logs = source(plain_run()[1])
    for route, query in (
        ("stat", {"metric": "rms"}),
        ("layer", {"site": "a"}),
        ("units", {"site": "a"}),
        ("histogram", {"site": "a", "kind": "activation"}),
    ):
        header, arrays = get(logs, route, run="run", from_=100, to=200, **query)
        assert header["count"] == 0
        assert all(0 in array.shape for array in arrays.values())


def test_a_layer_has_the_curves_that_hold_a_number_those_of_its_parameters_last(source: Any) -> None:
    snapshots, events = plain_run()
    header, arrays = get(source(events), "layer", run="run", site="a")
    names = [(curve["metric"], curve["of"], curve["name"]) for curve in header["curves"]]
    assert names == [
        ("dead_fraction", "site", "a"), ("rms", "site", "a"), ("n", "site", "a"), ("mean", "site", "a"),
        ("dead_units", "site", "a"), ("grad_norm", "parameter", "a.weight"),
        ("parameter_grad_zero_fraction", "parameter", "a.weight"),
    ]  # fmt: skip
    for i, (metric, _, name) in enumerate(names):
        np.testing.assert_array_equal(arrays["low"][i], wanted(snapshots, metric, [name])[0])
    header, arrays = get(source(events), "layer", run="run", site="b:in", columns=2)
    assert {curve["metric"] for curve in header["curves"]} == {"rms", "n", "mean"}
    assert arrays["high"].shape == (3, 2)


def test_histograms_are_of_the_steps_that_have_one(source: Any) -> None:
    snapshots, events = plain_run()
    logs = source(events)
    header, arrays = get(logs, "histogram", run="run", site="a", kind="activation")
    assert arrays["step"].tolist() == [0, 2, 4, 6]
    assert (header["count"], header["exact"], header["kind"]) == (4, True, "activation")
    assert len(arrays["share"]) == 2 * (header["top"] - header["bottom"]) + 1
    np.testing.assert_allclose(arrays["share"].sum(0), 1, rtol=1e-6)
    last = snapshots[6].sites["a"].histogram
    assert arrays["share"][-1, -1] == np.float32((last.counts[-1] if last.top == header["top"] else 0) / last.n)
    _, arrays = get(logs, "histogram", run="run", site="a", kind="activation", columns=2)
    assert arrays["step"].tolist() == [2, 6]
    _, arrays = get(logs, "histogram", run="run", site="b", kind="activation")
    assert np.isnan(arrays["share"]).all()


def test_units_say_when_they_died_and_come_worst_first(source: Any) -> None:
    header, arrays = get(source(plain_run()[1]), "units", run="run", site="a", columns=3)
    assert (header["units"], header["shown"], header["letters"], header["exact"]) == (4, 4, "arsdv", False)
    assert arrays["unit"].tolist() == [0, 3, 2, 1]
    assert arrays["died"].tolist() == [3, -1, -1, -1]
    assert arrays["states"].tolist() == [[1, 4, 4], [3, 3, 3], [2, 2, 2], [1, 1, 1]]
    header, arrays = get(source(plain_run()[1]), "units", run="run", site="b")
    assert (header["units"], arrays["states"].shape) == (0, (0, 7))


# Runs ---------------------------------------------------------------------------------------------------


def test_a_run_tells_what_there_is(source: Any) -> None:
    told = get(source(plain_run()[1]), "run", run="run", monitor="")
    assert {k: told[k] for k in ("run", "monitor", "name", "first_step", "last_step", "count", "units")} == {
        "run": "run", "monitor": "", "name": "run", "first_step": 0, "last_step": 6, "count": 7, "units": True,
    }  # fmt: skip
    assert [s["name"] for s in told["sites"]] == ["a", "b:in", "b"]
    assert told["sites"][0] == {"name": "a", "kind": "ReLU", "role": "activation", "order": 0}
    assert told["parameters"] == [{"name": "a.weight", "site": "a"}, {"name": "b.bias", "site": "b"}]
    assert [m["name"] for m in told["metrics"] if m["main"]] == ["dead_fraction", "rms"]
    assert told["metrics"][0]["doc"] == "dead units over units"
    assert told["histograms"] == ["activation"]
    assert (told["findings"], told["problems"]) == ([], [])


def test_findings_are_those_of_the_report_with_the_title_of_their_rule(source: Any) -> None:
    evidence = {"ratio": math.inf, "units": [1, 2]}
    found = finding(2, evidence=evidence, advice=("x",), layer=HOSTILE)
    changes = {
        2: [Change("new", found)],
        4: [Change("new", finding(4, rule="my-rule"))],
        5: [Change("resolved", replace(found, resolved_step=5))],
    }
    snapshots = [snapshot(step) for step in range(7)]
    told = get(source(Events().write(snapshots, changes).events), "run", run="run")["findings"]
    assert [(f["rule"], f["step"], f["resolved_step"]) for f in told] == [("dead-units", 2, 5), ("my-rule", 4, None)]
    assert told[0]["layer"] == HOSTILE
    assert told[0]["advice"] == ["x"]
    assert told[1]["rule_title"] == "my-rule"
    assert told[0]["rule_title"] not in ("", "dead-units")


def test_runs_are_listed_by_name_with_their_monitors() -> None:
    events = [*plain_run()[1], *plain_run(3, prefix="gan_d")[1], *plain_run(2, prefix="gan.g")[1]]
    provider = FakeProvider({"run10": plain_run(2)[1], "run9": events}, fast=True)
    told = get(logs_of(provider), "runs")
    assert told["problem"] is None
    assert [(r["name"], r["run"], r["monitor"], r["count"], r["last_step"]) for r in told["runs"]] == [
        ("run9", "run9", "", 7, 6),
        ("run9 (gan.g)", "run9", "gan.g", 2, 1),
        ("run9 (gan_d)", "run9", "gan_d", 3, 2),
        ("run10", "run10", "", 2, 1),
    ]
    assert get(logs_of(provider), "run", run="run9", monitor="gan.g")["count"] == 2


def test_monitors_that_record_at_the_same_time_keep_their_own_numbers() -> None:
    one, two = [snapshot(step) for step in range(3)], [snapshot(step, scale=9.0) for step in range(3)]
    events = [*Events().write(one).events, *Events(prefix="gan_d").write(two).events]
    logs = logs_of(FakeProvider({"run": events}, fast=True))
    for monitor, snapshots in (("", one), ("gan_d", two), ("", one)):
        header, arrays = get(logs, "stat", run="run", monitor=monitor, metric="mean")
        np.testing.assert_array_equal(arrays["low"], wanted(snapshots, "mean", header["rows"]))


def test_monitors_of_one_directory_are_told_apart(tmp_path: Path) -> None:
    save(tmp_path, plain_run()[1], plain_run(3, prefix="gan_d")[1])
    logs = DirectoryLogs(read_runs(tmp_path))
    assert [(r["run"], r["monitor"], r["count"]) for r in get(logs, "runs")["runs"]] == [
        (tmp_path.name, "", 7),
        (tmp_path.name, "gan_d", 3),
    ]
    assert get(logs, "stat", run=tmp_path.name, monitor="gan_d", metric="mean")[0]["count"] == 3


def test_without_data_of_ours_there_are_no_runs_and_no_problem() -> None:
    assert get(logs_of(FakeProvider({}, fast=True)), "runs") == {"runs": [], "problem": None}


def test_a_monitor_without_sites_is_told_by_its_parameters() -> None:
    bare = [replace(snapshot(step), sites={}) for step in range(3)]
    logs = logs_of(FakeProvider({"run": Events().write(bare).events}, fast=True))
    assert get(logs, "runs")["runs"][0]["count"] == 3
    header, arrays = get(logs, "stat", run="run", metric="grad_norm")
    assert arrays["high"][0].tolist() == [0, 1, 2]
    assert header["of"] == "parameter"


# Resume, schema changes, live runs ----------------------------------------------------------------------


def test_a_resumed_run_shows_each_step_once_as_it_was_written_last(source: Any) -> None:
    first = [snapshot(step) for step in range(8)]
    later = [snapshot(step, scale=100.0) for step in range(5, 11)]
    told_early, told_late = finding(6), finding(9, layer="b")
    one = Events().write(first, {6: [Change("new", told_early)]}).events
    two = Events(2000.0).write(later, {9: [Change("new", told_late)]}).events
    logs = source(one, two)
    for metric in ("rms", "grad_norm", "dead_units"):
        header, arrays = get(logs, "stat", run="run", metric=metric)
        assert arrays["first"].tolist() == list(range(11))
        np.testing.assert_array_equal(arrays["low"], wanted(first[:5] + later, metric, header["rows"]))
    assert [f["step"] for f in get(logs, "run", run="run")["findings"]] == [9]
    assert get(logs, "histogram", run="run", site="a", kind="activation")[1]["step"].tolist() == [0, 2, 4, 6, 8, 10]


def test_a_resume_on_a_machine_whose_clock_is_behind_still_supersedes(source: Any) -> None:
    first, later = [snapshot(s) for s in range(6)], [snapshot(s, scale=9.0) for s in range(3, 5)]
    logs = source(Events(5000.0).write(first).events, Events(100.0).write(later).events)
    header, arrays = get(logs, "stat", run="run", metric="mean")
    np.testing.assert_array_equal(arrays["low"], wanted(first[:3] + later, "mean", header["rows"]))


def test_sites_that_come_and_go_keep_their_own_rows(source: Any) -> None:
    shown = [("a", "b"), ("a", "b", "c"), ("c", "a"), ("c", "a")]
    snapshots = [snapshot(step, sites=names) for step, names in enumerate(shown)]
    logs = source(Events().write(snapshots).events)
    header, arrays = get(logs, "stat", run="run", metric="mean")
    assert sorted(header["rows"]) == ["a", "b", "c"]
    assert header["rows"].index("c") < header["rows"].index("a")
    np.testing.assert_array_equal(arrays["low"], wanted(snapshots, "mean", header["rows"]))
    assert get(logs, "units", run="run", site="a")[1]["states"].shape == (4, 4)


def test_unit_states_in_the_same_bytes_are_those_of_other_sites_under_another_schema(source: Any) -> None:
    both = {name: site(i, n=1, unit_states=states) for i, (name, states) in enumerate([("a", "dd"), ("b", "aa")])}
    swapped = {name: replace(both[name], order=i) for i, name in enumerate("ba")}
    swapped = {"b": replace(swapped["b"], unit_states="dd"), "a": replace(swapped["a"], unit_states="aa")}
    logs = source(Events().write([Snapshot(step=0, sites=both), Snapshot(step=1, sites=swapped)]).events)
    assert get(logs, "units", run="run", site="a")[1]["states"].tolist() == [[4, 1]] * 2
    assert get(logs, "units", run="run", site="b")[1]["states"].tolist() == [[1, 4]] * 2


def test_a_live_run_is_read_again_only_where_something_is_new() -> None:
    snapshots, events = plain_run()
    provider = FakeProvider({"run": events[:4]}, fast=True)
    cache = Cache()
    version = get(logs_of(provider, cache), "runs")["runs"][0]["version"]
    assert get(logs_of(provider, cache), "stat", run="run", metric="mean")[0]["count"] == 4
    before = list(provider.reads)
    assert get(logs_of(provider, cache), "runs")["runs"][0]["version"] == version
    get(logs_of(provider, cache), "stat", run="run", metric="mean", columns=2)
    assert provider.reads == before
    provider.add("run", events[4:])
    assert get(logs_of(provider, cache), "runs")["runs"][0]["version"] != version
    header, arrays = get(logs_of(provider, cache), "stat", run="run", metric="mean")
    np.testing.assert_array_equal(arrays["low"], wanted(snapshots, "mean", header["rows"]))


def test_steps_that_arrive_between_two_readings_do_not_shift_a_series() -> None:
    _, events = plain_run()
    provider = FakeProvider({"run": events[:4]}, fast=True)
    logs = logs_of(provider, Cache())
    log = logs.one("run", "")
    steps = log.timeline().steps_T
    provider.add("run", events[4:])
    assert len(log.grid(METRICS["mean"]).values_TR) == len(steps) == len(log.timeline().steps_T)


# What cannot be answered --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "query", "status", "said"),
    [
        ("stat", {}, 400, "run is missing"),
        ("stat", {"run": "run"}, 400, "metric is missing"),
        ("stat", {"run": "run", "metric": "rms", "columns": "0"}, 400, "columns must be from 1 to 4000"),
        ("stat", {"run": "run", "metric": "rms", "columns": "x"}, 400, "columns must be a whole number"),
        ("stat", {"run": "run", "metric": "rms", "from_": "5", "to": "4"}, 400, "no range"),
        ("stat", {"run": "run", "metric": "nothing"}, 404, "no metric"),
        ("stat", {"run": "run", "metric": "saturated_fraction"}, 404, "no metric"),
        ("stat", {"run": HOSTILE, "metric": "rms"}, 404, "no run"),
        ("run", {"run": "run", "monitor": "other"}, 404, "no run"),
        ("layer", {"run": "run", "site": HOSTILE}, 404, "no site"),
        ("layer", {"run": "run"}, 400, "site is missing"),
        ("units", {"run": "run", "site": "x"}, 404, "no site"),
        ("histogram", {"run": "run", "site": "a", "kind": "weights"}, 400, "kind must be activation or gradient"),
        ("histogram", {"run": "run", "site": "a", "kind": "gradient"}, 404, "no gradient histograms"),
        ("histogram", {"run": "run", "site": "a"}, 400, "kind is missing"),
        ("elsewhere", {"run": "run"}, 404, "there is no 'elsewhere'"),
    ],
)
def test_a_bad_question_is_refused_in_plain_words(
    source: Any, route: str, query: dict[str, str], status: int, said: str
) -> None:
    found = refused(source(plain_run()[1]), route, **query)
    assert found[0] == status
    assert said in found[1]


def test_an_answer_that_would_be_too_large_is_refused() -> None:
    with pytest.raises(Refusal, match="4000 columns are more than 64 MiB here; ask for fewer columns") as refusal:
        view_of(np.arange(10_000), {}, 4000, rows=2 * 2500)
    assert refusal.value.status == 413
    assert view_of(np.arange(10_000), {}, 1000, rows=2 * 2500).columns == 1000
    assert view_of(np.arange(10), {}, 4000, rows=2 * 2500).columns == 10, "what counts is what there is"


class Exhausted(Exception):
    """As grpc's error for a message beyond the limit."""

    def code(self) -> Any:
        class Code:
            name = "RESOURCE_EXHAUSTED"

        return Code


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (Exhausted(), 413, "too large to be read at once"),
        (errors.NotFoundError("no such experiment"), 404, "no such experiment"),
        (OSError("down"), 503, "could not read its data (OSError)"),
    ],
)
def test_failures_of_the_data_server_are_told_in_plain_words(error: Exception, status: int, said: str) -> None:
    provider = FakeProvider({"run": plain_run()[1]}, fast=True)
    provider.fail = error
    found = refused(logs_of(provider), "stat", run="run", metric="mean")
    assert found[0] == status
    assert said in found[1]


def test_a_run_that_cannot_be_read_is_told_and_the_others_are_listed() -> None:
    provider = FakeProvider({"good": plain_run(2)[1], "huge": plain_run(2)[1]}, fast=True)
    read = provider.read_tensors

    def failing(ctx: Any, **words: Any) -> Any:
        if "huge" in words["run_tag_filter"].runs:
            raise Exhausted
        return read(ctx, **words)

    provider.read_tensors = failing  # type: ignore[method-assign]
    told = get(logs_of(provider), "runs")
    assert [run["name"] for run in told["runs"]] == ["good"]
    assert told["problem"].startswith("huge: this series is too large")


def test_damaged_series_are_left_out_and_the_rest_is_answered() -> None:
    snapshots, events = plain_run()
    for value in events[2].summary.value:
        if value.tag in (tags.STAT + "mean", tags.UNITS, tags.HISTOGRAM + "activation"):
            value.tensor.tensor_content = value.tensor.tensor_content[:-4]
            value.tensor.tensor_shape.dim[0].size -= 4 if value.tensor.dtype == 4 else 1
        if value.tag == tags.FINDINGS:
            value.tensor.string_val[0] = b"{"
    logs = logs_of(FakeProvider({"run": events}, fast=True))
    header, arrays = get(logs, "stat", run="run", metric="mean")
    assert header["problems"] == ["vectors that do not fit their schema: 1, the first at step 2"]
    assert np.isnan(arrays["low"][:, 2]).all()
    np.testing.assert_array_equal(arrays["low"][:, 3], wanted(snapshots, "mean", header["rows"])[:, 3])
    assert get(logs, "units", run="run", site="a")[1]["states"][0].tolist() == [1, 1, 0, 4, 4, 4, 4]
    assert np.isnan(get(logs, "histogram", run="run", site="a", kind="activation")[1]["share"][:, 1]).all()


def test_a_schema_of_another_version_is_told_as_a_problem() -> None:
    _, events = plain_run(3)
    for value in events[0].summary.value:
        if value.tag == tags.SCHEMA:
            value.tensor.string_val[0] = b'{"version": 99}'
    told = get(logs_of(FakeProvider({"run": events}, fast=True)), "run", run="run")
    assert told["problems"] == ["the log has schema version 99, this actdiag reads 1"]
    assert (told["sites"], told["count"]) == ([], 3)


def test_hostile_names_come_through_as_they_are(source: Any) -> None:
    snapshots = [snapshot(step, sites=[HOSTILE, "a"]) for step in range(3)]
    logs = source(Events().write(snapshots).events)
    assert HOSTILE in [s["name"] for s in get(logs, "run", run="run")["sites"]]
    header, arrays = get(logs, "layer", run="run", site=HOSTILE)
    assert header["site"] == HOSTILE
    row = [curve["metric"] for curve in header["curves"]].index("mean")
    np.testing.assert_array_equal(arrays["low"][row], wanted(snapshots, "mean", [HOSTILE])[0])


def test_every_route_is_tried_here() -> None:
    assert set(ROUTES) == {"runs", "run", "stat", "layer", "histogram", "units"}
