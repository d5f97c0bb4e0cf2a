"""What is written can be read back exactly, is small, stays out of the caller's way, and never becomes markup."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import markdown
import numpy as np
import pytest
import tensorboardX
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR
from tensorboard.context import RequestContext
from tensorboard.data.provider import RunTagFilter
from tensorboard.util.tensor_util import make_ndarray
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from actdiag import ConfigError, JsonlWriter, MemoryWriter, Monitor, TensorBoardWriter
from actdiag.diagnose.finding import Change, Finding
from actdiag.report.read import read_runs
from actdiag.report.run import Run
from actdiag.report.text import render_markdown
from actdiag.snapshot import Histogram, ParameterStats, SiteStats, Snapshot
from actdiag.write import tags
from actdiag.write.codec import decode_histograms, encode_histograms
from actdiag.write.markdown import escape, escape_line, findings_markdown
from actdiag.write.pack import pack, parse_schema, schema_of, unpack
from actdiag.write.plain import plain
from actdiag.write.protocol import Writer
from actdiag.write.stock import LayerChoice, spread
from actdiag.write.tensorboard import histogram_proto
from tests.test_snapshot import histograms, refuse_constant, snapshots

STEPS = 22


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Ten linear layers and ten ReLUs of width 256, twenty-two recorded steps."""
    log_dir = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [layer for _ in range(10) for layer in (nn.Linear(256, 256), nn.ReLU())]
    monitor = train(nn.Sequential(*layers), 256, STEPS, log_dir=log_dir)
    return SimpleNamespace(
        log_dir=log_dir, snapshots=monitor.snapshots, findings=monitor.findings, file=only_file(log_dir)
    )


def train(model: nn.Module, width: int, steps: int, **options: Any) -> Monitor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with Monitor(model, optimizer, max_overhead=None, log_every_n_steps=1, **options) as monitor:
        for _ in range(steps):
            x = torch.randn(64, width)
            optimizer.zero_grad()
            (model(x) - x[:, :1]).square().mean().backward()
            optimizer.step()
    return monitor


def only_file(log_dir: Path) -> Path:
    (file,) = log_dir.iterdir()
    return file


def events(log_dir: Path) -> Iterator[Any]:
    """The events as TensorBoard's own loader gives them."""
    return iter(LegacyEventFileLoader(str(only_file(log_dir))).Load())


def relu(order: int = 0, **stats: Any) -> SiteStats:
    return SiteStats(kind="ReLU", role="activation", order=order, **stats)


def finding(layer: str = "fc1", **fields: Any) -> Finding:
    known = {"rule": "dead-units", "severity": "warning", "step": 1, "message": f"{layer}: dead"}
    return Finding(**{**known, "layer": layer, **fields})


def write(log_dir: Path, *steps: Snapshot, changes: list[Change] | None = None, **options: Any) -> None:
    writer = TensorBoardWriter(log_dir, **options)
    for snapshot in steps:
        writer.write(snapshot, changes or [])
    writer.close()


# Reading back -------------------------------------------------------------------------------------------


def test_what_a_training_logged_is_read_back_exactly(trained: SimpleNamespace) -> None:
    (run,) = read_runs(trained.log_dir)
    assert list(run.snapshots) == trained.snapshots
    assert [snapshot.step for snapshot in run.snapshots] == list(range(STEPS))
    assert run.problems == []
    assert run.findings, "this network is diagnosed, or the findings are not tested here"
    for told, logged in zip(trained.findings, run.findings, strict=True):
        assert json.loads(json.dumps(told.to_dict())) == json.loads(json.dumps(logged.to_dict()))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(snapshot=snapshots)
def test_any_snapshot_is_read_back_exactly(tmp_path_factory: pytest.TempPathFactory, snapshot: Snapshot) -> None:
    log_dir = tmp_path_factory.mktemp("any")
    for name in ("skipped_steps", "epoch", "ranks", "world_size"):
        if (value := getattr(snapshot, name)) is not None:  # a scalar of the event file, exact to 2^24
            snapshot = replace(snapshot, **{name: value % 2**24})
    write(log_dir, snapshot)
    (run,) = read_runs(log_dir)
    (back,) = run.snapshots
    assert back == snapshot
    assert list(back.sites) == list(snapshot.sites)


@given(snapshots)
def test_packing_loses_nothing(snapshot: Snapshot) -> None:
    step_values = {name: float(v) for name in tags.STEP_STATS if (v := getattr(snapshot, name)) is not None}
    back = unpack(parse_schema(schema_of(snapshot)), pack(snapshot), step_values, snapshot.step)
    assert repr(back) == repr(snapshot), "types and the sign of zero are kept too"


def test_a_statistic_that_is_none_everywhere_takes_no_room() -> None:
    packed = pack(Snapshot(step=0, sites={"a": relu(mean=1.0), "b": relu()}))
    assert list(packed) == ["actdiag/stat/mean"]


@pytest.mark.parametrize(("largest", "dtype"), [(32767, "int16"), (32768, "int32"), (2**31, "int64")])
def test_counts_are_as_wide_as_they_must_be(largest: int, dtype: str) -> None:
    packed = pack(Snapshot(step=0, sites={"a": relu(n=largest), "b": relu(n=0)}))
    assert packed["actdiag/stat/n"].dtype == dtype
    assert packed["actdiag/stat/n"].tolist() == [largest, 0]


@pytest.mark.parametrize("count", [0, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**53])
def test_a_histogram_keeps_counts_of_any_size(count: int) -> None:
    held = [None, Histogram(-40, (count,)), Histogram(7, (1, count, 2))]
    assert decode_histograms(encode_histograms(held), 3) == held


def test_the_schema_is_written_again_only_when_it_changes(tmp_path: Path) -> None:
    one, two = {"a": relu()}, {"a": relu(), "b": relu(1)}
    write(tmp_path, *(Snapshot(step=i, sites=sites) for i, sites in enumerate((one, one, two, two, one))))
    described = [e.step for e in events(tmp_path) for v in e.summary.value if v.tag == tags.SCHEMA]
    assert described == [0, 2, 4]
    (run,) = read_runs(tmp_path)
    assert [list(snapshot.sites) for snapshot in run.snapshots] == [["a"], ["a"], ["a", "b"], ["a", "b"], ["a"]]


def test_findings_of_a_step_stand_in_one_event_and_are_strict_json(tmp_path: Path) -> None:
    changes = [
        Change("new", finding("a", evidence={"mean": math.nan, "low": -math.inf, "units": [1, 2]}, advice=("x", "y"))),
        Change("new", finding("b", severity="error")),
    ]
    write(tmp_path, Snapshot(step=1), changes=changes)
    (logged,) = [v for e in events(tmp_path) for v in e.summary.value if v.tag == tags.FINDINGS]
    told = json.loads(logged.tensor.string_val[0], parse_constant=refuse_constant)
    assert [(change["change"], change["finding"]["layer"]) for change in told] == [("new", "a"), ("new", "b")]
    (run,) = read_runs(tmp_path)
    assert run.findings[1] == changes[1].finding
    assert run.findings[0].evidence["low"] == -math.inf
    assert math.isnan(run.findings[0].evidence["mean"])
    assert run.findings[0].advice == ("x", "y")


# As TensorBoard sees it ---------------------------------------------------------------------------------


def test_tensorboard_lists_every_packed_tag_as_a_tensor_of_ours(trained: SimpleNamespace) -> None:
    accumulator = EventAccumulator(str(trained.log_dir))
    accumulator.Reload()
    ours = set(accumulator.PluginTagToContent("actdiag"))
    assert ours >= {tags.SCHEMA, tags.FINDINGS, tags.UNITS, "actdiag/stat/mean", "actdiag/hist/gradient"}
    for tag in ours:
        assert accumulator.SummaryMetadata(tag).data_class == DATA_CLASS_TENSOR, tag
    assert set(accumulator.PluginTagToContent("text")) == {tags.REPORT}


def test_the_data_provider_serves_the_numbers_that_were_logged(trained: SimpleNamespace) -> None:
    multiplexer = EventMultiplexer(tensor_size_guidance={"actdiag": 0}, size_guidance={"tensors": 0})
    multiplexer.AddRunsFromDirectory(str(trained.log_dir))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(trained.log_dir))
    context = RequestContext()
    assert "actdiag" in provider.list_plugins(context, experiment_id="")
    (series,) = provider.list_tensors(context, experiment_id="", plugin_name="actdiag").values()
    assert "actdiag/stat/n" in series
    (served,) = provider.read_tensors(
        context,
        experiment_id="",
        plugin_name="actdiag",
        downsample=10**6,
        run_tag_filter=RunTagFilter(tags=["actdiag/stat/n"]),
    ).values()
    data = served["actdiag/stat/n"]
    expected = [[site.n for site in snapshot.sites.values()] for snapshot in trained.snapshots]
    assert [datum.numpy.tolist() for datum in data] == expected


def test_a_recorded_step_is_one_event(trained: SimpleNamespace) -> None:
    count = Counter(e.step for e in events(trained.log_dir) if any("actdiag" in v.tag for v in e.summary.value))
    assert count == dict.fromkeys(range(STEPS), 1)


def test_metadata_stand_on_the_first_event_of_a_tag_only(trained: SimpleNamespace) -> None:
    described = Counter(
        v.tag
        for e in events(trained.log_dir)
        for v in e.summary.value
        if v.HasField("metadata") and v.metadata.plugin_data.plugin_name in ("actdiag", "text")
    )
    assert set(described.values()) == {1}


def test_a_recorded_step_of_twenty_layers_takes_at_most_eight_kilobytes(trained: SimpleNamespace) -> None:
    assert trained.file.stat().st_size / STEPS <= 8192


# In the caller's own writer -----------------------------------------------------------------------------


def test_a_callers_writer_gets_everything_and_stays_the_callers(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("loss/train", 2.5, 0)
        monitor = train(model, 16, 5, writers=[writer])
        writer.add_scalar("loss/train", 1.5, 7)
    only_file(tmp_path)
    (run,) = read_runs(tmp_path)
    assert list(run.snapshots) == monitor.snapshots
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    scalars = [(event.step, event.value) for event in accumulator.Scalars("loss/train")]
    assert scalars == [(0, 2.5), (7, 1.5)], "from before and from after the monitor was closed"


def test_two_monitors_may_follow_each_other_in_one_writer(tmp_path: Path) -> None:
    """The second begins at step 0 again: what it wrote holds."""
    with SummaryWriter(str(tmp_path)) as writer:
        train(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), 8, 6, writers=[writer])
        second = train(nn.Sequential(nn.Linear(8, 4), nn.Tanh()), 8, 3, writers=[writer])
    (run,) = read_runs(tmp_path)
    assert list(run.snapshots) == second.snapshots


def test_a_callers_scalars_under_our_name_do_not_hide_a_step(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        monitor = train(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), 8, 3, writers=[writer])
        for step in range(3):
            writer.add_scalar("actdiag/mine", 1.0, step)
    (run,) = read_runs(tmp_path)
    assert list(run.snapshots) == monitor.snapshots


def test_a_tensorboardx_writer_takes_what_torchs_own_takes(tmp_path: Path) -> None:
    with tensorboardX.SummaryWriter(str(tmp_path)) as writer:
        monitor = train(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), 8, 3, writers=[writer])
    (run,) = read_runs(tmp_path)
    assert len(monitor.snapshots) == 3 and list(run.snapshots) == monitor.snapshots
    assert len(list(tmp_path.glob("*tfevents*"))) == 1


def test_what_is_no_writer_at_all_is_refused_by_its_type() -> None:
    with pytest.raises(ConfigError, match=r"(Posix|Windows)Path is no writer"):
        Monitor(nn.Linear(2, 2), writers=[Path("runs")])


def test_closing_twice_is_safe(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    writer.write(Snapshot(step=0), [])
    writer.close()
    writer.close()
    with SummaryWriter(str(tmp_path / "own")) as own:
        TensorBoardWriter.into(own).close()
        TensorBoardWriter.into(own).close()


# The stock dashboards -----------------------------------------------------------------------------------


def deep(layers: int, step: int = 0) -> Snapshot:
    """Every statistic that has a curve, in every layer."""
    spread_out = Histogram(3, (1, 2, 3, 4, 5))
    stats: dict[str, Any] = dict.fromkeys(
        ("mean_energy", "rms", "zero_fraction", "grad_rms", "saturated_fraction"), 0.5
    )
    stats |= {"dead_fraction": 0.1, "dead_units": 3, "units": 30, "unit_states": "a" * 30}
    stats |= {"histogram": spread_out, "grad_histogram": spread_out, "nonfinite": 0, "n": 100}
    return Snapshot(
        step=step,
        sites={f"block{i}.act": relu(i, **stats) for i in range(layers)},
        parameters={
            f"block{i}.{kind}": ParameterStats(state="trained", update_ratio=0.001, grad_norm=1.0)
            for i in range(layers)
            for kind in ("weight", "bias")
        },
        grad_norm_total=1.0, clip_coefficient=1.0, loss_scale=1.0, skipped_steps=0, overhead_ms=1.0,
        overhead_percent=2.0,
    )  # fmt: skip


def tags_in(log_dir: Path) -> set[str]:
    return {value.tag for event in events(log_dir) for value in event.summary.value}


def test_two_hundred_layers_make_at_most_two_hundred_and_fifty_tags(tmp_path: Path) -> None:
    named = [Change("new", finding(f"block{i}.act")) for i in range(0, 200, 3)]
    write(tmp_path, deep(200), deep(200, 1), changes=named)
    found = tags_in(tmp_path)
    assert len(found) <= 250
    groups = Counter(tag.partition("/")[0] for tag in found)
    assert groups.keys() == {
        *("actdiag", "actdiag_dead_fraction", "actdiag_saturated_fraction", "actdiag_mean_energy", "actdiag_rms"),
        *("actdiag_zero_fraction", "actdiag_grad_rms", "actdiag_update_ratio"),
        *("actdiag_histogram_activation", "actdiag_histogram_gradient", "custom_scalars__config__"),
    }
    assert groups["actdiag_rms"] == 16, "twelve over the depth, four that findings name"
    assert {"actdiag_rms/block0.act", "actdiag_rms/block199.act"} <= found, "the first and the last among them"


def test_full_detail_gives_every_layer_a_curve(tmp_path: Path) -> None:
    write(tmp_path, deep(30), detail="full")
    assert sum(tag.startswith("actdiag_rms/") for tag in tags_in(tmp_path)) == 30


def test_a_layer_that_has_a_curve_keeps_it() -> None:
    choice = LayerChoice(full=False)
    first = choice.scalars(deep(200), ())
    named = [f"block{i}.act" for i in (7, 3, 50, 60, 70, 80)]
    assert choice.scalars(deep(200), named).keys() >= first.keys()
    assert choice.scalars(deep(200), ()).keys() > first.keys(), "those that a finding named stay"


def test_layers_that_come_later_fill_the_room_that_is_left() -> None:
    choice = LayerChoice(full=False)
    assert len(choice.scalars(Snapshot(step=0, sites={"a": relu(rms=1.0)}), ())) == 1
    later = {name: relu(rms=1.0) for name in "abcdefghijklmnopqrst"}
    assert len(choice.scalars(Snapshot(step=1, sites=later), ())) == 12


def test_a_finding_at_a_layer_shows_the_layers_parameters_too() -> None:
    shown = LayerChoice(full=False).scalars(deep(200), ["block7"])
    assert {"actdiag_update_ratio/block7.weight", "actdiag_update_ratio/block7.bias"} <= shown.keys()


@given(st.lists(st.integers(), unique=True), st.integers(0, 15))
def test_spreading_keeps_order_ends_and_number(names: list[int], most: int) -> None:
    picked = spread([str(name) for name in names], most)
    assert len(picked) == min(len(names), most) == len(set(picked))
    assert picked == [str(name) for name in names if str(name) in picked]
    if most >= 2 and names:
        assert (picked[0], picked[-1]) == (str(names[0]), str(names[-1]))


def test_stock_histograms_come_every_tenth_recorded_step(tmp_path: Path) -> None:
    write(tmp_path, *(deep(2, step) for step in range(21)))
    shown = [
        e.step
        for e in events(tmp_path)
        if any(v.tag == "actdiag_histogram_gradient/block0.act" for v in e.summary.value)
    ]
    assert shown == [0, 10, 20]


def test_the_text_dashboard_shows_open_findings_the_worst_of_many_only(tmp_path: Path) -> None:
    many = [Change("new", finding(f"layer{i}")) for i in range(50)]
    write(tmp_path, Snapshot(step=3), changes=[*many, Change("new", finding("worst", severity="error"))])
    (logged,) = [v for e in events(tmp_path) for v in e.summary.value if v.tag == tags.REPORT]
    text = logged.tensor.string_val[0].decode()
    assert text.startswith("**error**")
    assert text.endswith("and 31 more, less severe or older.")


# Histograms ---------------------------------------------------------------------------------------------


@given(histograms.filter(lambda h: h is not None), st.data())
def test_a_stock_histogram_keeps_every_count_in_increasing_buckets(histogram: Histogram, data: st.DataObject) -> None:
    edges, used = histogram.edges(), [i for i, count in enumerate(histogram.counts) if count]
    low = data.draw(st.none() | st.floats(edges[used[0]], edges[used[0] + 1])) if used else None
    high = data.draw(st.none() | st.floats(edges[used[-1]], edges[used[-1] + 1])) if used else None
    proto = histogram_proto(histogram, low, high)
    limits, buckets = list(proto.bucket_limit), list(proto.bucket)
    assert sum(buckets) == proto.num == histogram.n
    assert len(limits) == len(buckets)
    assert all(a < b for a, b in itertools.pairwise(limits))
    for i, count in enumerate(histogram.counts):
        if count:
            assert edges[i + 1] in limits, "a bucket with values keeps its end"
    assert proto.min <= limits[0], "the first bucket begins at min"
    assert proto.max <= limits[-1] and (len(limits) < 2 or proto.max >= limits[-2]), "the last ends at max"
    if used:
        assert proto.min == (edges[used[0]] if low is None else low)
        assert proto.max == (edges[used[-1] + 1] if high is None else high)


def test_runs_of_empty_buckets_are_one() -> None:
    proto = histogram_proto(Histogram(3, (4, 0, 0, 0, 0, 0, 9)))
    assert list(proto.bucket) == [4, 0, 9]
    assert list(proto.bucket_limit) == [-4, 4, 8]


@pytest.mark.parametrize("histogram", [Histogram(0, (0,)), Histogram(5, (0,) * 63)])
def test_an_empty_histogram_is_fine(histogram: Histogram, tmp_path: Path) -> None:
    assert histogram_proto(histogram).num == 0
    snapshot = Snapshot(step=0, sites={"a": relu(histogram=histogram)})
    write(tmp_path, snapshot)
    assert read_runs(tmp_path)[0].snapshots[0] == snapshot
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert accumulator.Histograms("actdiag_histogram_activation/a")[0].histogram_value.num == 0


def test_a_gradients_histogram_is_not_cut_to_the_range_of_the_activation(tmp_path: Path) -> None:
    """A ReLU's lowest output is 0, its gradient has both signs."""
    write(
        tmp_path,
        Snapshot(
            step=0,
            sites={
                "a": relu(low=0.0, high=9.0, histogram=Histogram(4, (0, 5, 5)), grad_histogram=Histogram(-3, (6, 0, 6)))
            },
        ),
    )
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    gradient = accumulator.Histograms("actdiag_histogram_gradient/a")[0].histogram_value
    assert (gradient.min, gradient.max) == (-0.125, 0.125)


def test_a_trained_layers_stock_histogram_spans_its_values(trained: SimpleNamespace) -> None:
    value = next(
        v for e in events(trained.log_dir) for v in e.summary.value if v.tag.startswith("actdiag_histogram_activation/")
    )
    site = trained.snapshots[0].sites[value.tag.partition("/")[2]]
    assert (value.histo.min, value.histo.max) == (site.low, site.high)


# Hostile names ------------------------------------------------------------------------------------------

HOSTILE = (
    "<img src=x onerror=alert(1)>", "</td></tr></table>", "<!-- x", "&lt;b&gt;", "&#60;b&#62;",
    "`code`", "```", "a|b", "|---|", "*bold* _it_ **b** ~~s~~", "[x](javascript:alert(1))", "![x](y)", "[a]: b",
    "a\nb", "a\r\n# b", "\n\n- item", "- item", "+ item", "1. item", "2) item", "# head", "===", "---", "***",
    "> quote", "    code", "\tcode", "http://evil.example", "www.evil.example", "me@evil.example", "\\", "\\`x\\`",
    "\x1b[31mred\x1b[0m", "\u202egnp.exe", "a\x00b", "\x02", "wzxhzdk:0", "!!! note",
)  # fmt: skip


class Page(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.elements.add("a comment")


def pages(text: str) -> list[Page]:
    """As TensorBoard renders it, before it takes out what it thinks dangerous, and as GitHub does."""
    tensorboards = markdown.markdown(text, extensions=["markdown.extensions.tables", "markdown.extensions.fenced_code"])
    githubs = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    return [Page(tensorboards), Page(githubs)]


@pytest.mark.parametrize("name", HOSTILE)
def test_an_escaped_text_is_shown_as_it_is(name: str) -> None:
    for page in pages(escape_line(name)):
        assert page.elements <= {"p"}
        assert page.text.strip() == plain(name).strip()
    for page in pages(f"text {escape(name)} text"):
        assert page.elements <= {"p"}


@given(st.text(st.sampled_from("<>&;`*_[]()|#~!\\-+=.:/@ \n\t1aw\"'{}"), max_size=20))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    for page in pages(escape_line(text)):
        assert page.elements <= {"p"}
        assert page.text.strip() == plain(text).strip()


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup_in_a_report(name: str) -> None:
    told = finding(
        name, message=f"{name}: dead", cause=name, advice=(name, name), evidence={name: name, "units": [name]}
    )
    over = replace(told, resolved_step=3)
    snapshot = Snapshot(step=1, sites={name: SiteStats(kind=name, role="activation", order=0, mean=-1.5)})
    innocent = render_markdown([report_of("x", Snapshot(step=1, sites={"x": relu(mean=-1.5)}), "x")])
    hostile = render_markdown([Run(name, [snapshot], [told, over], [name])])
    for page, expected in zip(pages(hostile), pages(innocent), strict=True):
        assert page.elements == expected.elements
    lines = [line for line in hostile.splitlines() if line.startswith("|")]
    assert len(lines) == 3, "one row a site"
    assert not re.search(r"https?://|www\.|\w@\w", hostile), "nothing that GitHub would make a link of"


def report_of(name: str, snapshot: Snapshot, text: str) -> Run:
    told = finding(name, message=text, cause=text, advice=(text, text), evidence={text: text})
    return Run(name, [snapshot], [told, replace(told, resolved_step=3)], [text])


def test_hostile_names_are_logged_and_read_back(tmp_path: Path) -> None:
    sites = {name: relu(i, rms=1.0) for i, name in enumerate(HOSTILE)}
    snapshot = Snapshot(step=0, sites=sites, parameters={n: ParameterStats(state="frozen") for n in HOSTILE})
    write(tmp_path, snapshot, changes=[Change("new", finding(HOSTILE[0]))])
    (run,) = read_runs(tmp_path)
    assert run.snapshots[0] == snapshot
    assert run.findings[0].layer == HOSTILE[0]
    assert all(tag.isprintable() for tag in tags_in(tmp_path))


def test_a_text_without_an_open_finding_says_so() -> None:
    assert findings_markdown([]).startswith("**No open finding.**")


# The other writers --------------------------------------------------------------------------------------


def test_every_writer_fits_the_protocol(tmp_path: Path) -> None:
    for writer in (MemoryWriter(), JsonlWriter(tmp_path / "a.jsonl"), TensorBoardWriter(tmp_path / "tb")):
        assert isinstance(writer, Writer)
        writer.close()


def test_the_memory_writer_keeps_what_it_was_given() -> None:
    writer = MemoryWriter()
    snapshot, change = Snapshot(step=1), Change("new", finding())
    writer.write(snapshot, [change])
    assert (writer.snapshots, writer.changes, writer.closed) == ([snapshot], [change], False)
    writer.close()
    assert writer.closed


def test_jsonl_is_strict_json_a_line_whole_while_it_grows_and_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.jsonl"
    snapshot = Snapshot(step=1, sites={"nan": relu(high=math.inf)})
    for _ in range(2):
        writer = JsonlWriter(path)
        writer.write(snapshot, [Change("new", finding(evidence={"mean": math.inf}))])
        lines = path.read_text().splitlines()  # before it is closed
        writer.close()
    assert len(lines) == 4
    for line in lines:
        json.loads(line, parse_constant=refuse_constant)
    assert Snapshot.from_json(json.dumps(json.loads(lines[0])["snapshot"])) == snapshot
    assert json.loads(lines[1])["finding"]["evidence"] == {"mean": "inf"}


def test_vectors_read_by_hand_are_the_numbers_in_order_of_the_schema(trained: SimpleNamespace) -> None:
    """The layout that others read: one value a site, float32, NaN where it does not apply."""
    event = next(e for e in events(trained.log_dir) if e.step == STEPS - 1 and e.summary.value)
    vector = next(make_ndarray(v.tensor) for v in event.summary.value if v.tag == "actdiag/stat/gate_mean")
    expected = [s.gate_mean for s in trained.snapshots[-1].sites.values()]
    assert vector.dtype == np.float32
    assert [None if np.isnan(value) else float(value) for value in vector] == expected
