"""Reports of real and of damaged logs: what is readable is reported, what is not is told, nothing else happens."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from actdiag import Monitor, TensorBoardWriter
from actdiag.diagnose.finding import Change, Finding
from actdiag.report.document import render_json
from actdiag.report.episodes import finding_from_log
from actdiag.report.read import ReadError, read_runs
from actdiag.report.run import Run, worst_first
from actdiag.report.table import number, share
from actdiag.report.text import render_markdown, render_text
from actdiag.snapshot import Histogram, ParameterStats, SiteStats, Snapshot
from actdiag.write import tags
from actdiag.write.crc import masked_crc32c
from actdiag.write.event_file import framed
from actdiag.write.markdown import findings_markdown
from tests.test_snapshot import refuse_constant


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A directory of two real runs: `healthy`, and `ill`, where 20 of the 32 units of the second ReLU are dead."""
    root = tmp_path_factory.mktemp("runs")
    torch.set_num_threads(1)
    monitors = {}
    for name, bias in (("healthy", 0.0), ("ill", -50.0)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
        nn.init.constant_(model[2].bias[:20], bias)
        monitors[name] = train(model, root / name)
    return SimpleNamespace(root=root, **monitors)


def train(model: nn.Module, log_dir: Path) -> Monitor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    options: dict[str, Any] = {"log_every_n_steps": 2, "watch_every_n_steps": 1, "window_samples": 256}
    with Monitor(model, optimizer, log_dir=log_dir, max_overhead=None, **options) as monitor:
        for _ in range(24):
            x = torch.randn(32, 16)
            optimizer.zero_grad()
            (model(x) - x[:, :4]).square().mean().backward()
            optimizer.step()
    return monitor


def site(order: int = 0, **stats: Any) -> SiteStats:
    return SiteStats(kind="ReLU", role="activation", order=order, **stats)


def snapshot(step: int, mean: float = 0.5) -> Snapshot:
    histogram = Histogram(1, (1, 2, 3, 4, 5))
    sites = {name: site(i, n=64, mean=mean, unit_states="ad", histogram=histogram) for i, name in enumerate("abc")}
    return Snapshot(step=step, sites=sites, parameters={"w": ParameterStats(state="trained", grad_norm=mean)})


def finding(layer: str = "a", **fields: Any) -> Finding:
    known = {"rule": "dead-units", "severity": "warning", "step": 0, "message": f"{layer}: half of it is dead"}
    return Finding(**{**known, "layer": layer, **fields})


def log(folder: Path, steps: range, *, mean: float = 0.5, changes: dict[int, list[Change]] | None = None) -> Path:
    """An event file of these steps, by a writer of its own."""
    before = set(folder.iterdir()) if folder.exists() else set()
    writer = TensorBoardWriter(folder)
    for step in steps:
        writer.write(snapshot(step, mean), (changes or {}).get(step, []))
    writer.close()
    (file,) = set(folder.iterdir()) - before
    return file


def foreign(folder: Path) -> Path:
    with SummaryWriter(str(folder)) as writer:
        for step in range(5):
            writer.add_scalar("loss", 1.0, step)
        writer.add_text("actdiag/remark", "somebody else's text under our name")
    (file,) = folder.iterdir()
    return file


def only(folder: Path) -> Run:
    (run,) = read_runs(folder)
    return run


# Formats ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "said"), [(None, ""), (4, ", all of 4 processes"), (1, ", only 1 of 4 processes")], ids=str
)
def test_R47_the_headline_says_of_how_many_processes_the_numbers_are(ranks: int | None, said: str) -> None:
    world = None if ranks is None else 4
    last = Snapshot(step=3, sites_selected=1, ranks=ranks, world_size=world)
    assert f"the last at step 3{said};" in render_text([Run("run", [last], [])])


def test_the_text_of_a_run_has_a_headline_a_table_and_its_findings(logs: SimpleNamespace) -> None:
    text = render_text(read_runs(logs.root / "ill"))
    headline, blank, header, *rest = text.splitlines()
    assert headline == "ill: 12 recorded steps, the last at step 22; 6 sites; 1 open finding"
    assert blank == ""
    assert header.split("  ")[0] == "site"
    assert rest[0].startswith("3 "), "the dead layer first"
    assert "20 of 32" in rest[0]
    assert "ERROR dead-units (step" in text
    assert "  likely cause: " in text
    assert "  try:  " in text
    assert "  evidence: dead_units 20" in text


def test_a_healthy_run_has_no_open_finding(logs: SimpleNamespace) -> None:
    run = only(logs.root / "healthy")
    assert render_text([run]).splitlines()[0].endswith("no open finding")
    assert run.worst is None


def test_the_columns_of_the_table_are_aligned(logs: SimpleNamespace) -> None:
    lines = render_text(read_runs(logs.root / "ill")).splitlines()[2:9]
    assert len(lines) == 7
    for title in ("mean", "std", "mean energy", "saturated", "zeros", "dead units", "grad rms"):
        end = lines[0].index(f" {title}") + 1 + len(title)
        assert all(line[end - 1] != " " and line[end : end + 1] in ("", " ") for line in lines), title


def test_the_running_monitor_reports_what_the_log_reports(logs: SimpleNamespace) -> None:
    assert render_text(read_runs(logs.root / "ill")) == logs.ill.report().replace("this run:", "ill:", 1)


def test_the_markdown_of_a_run_is_one_table_and_its_findings(logs: SimpleNamespace) -> None:
    lines = render_markdown(read_runs(logs.root / "ill")).splitlines()
    assert lines[0].startswith("## ill: 12 recorded steps")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 8
    assert {line.count("|") for line in table} == {10}
    assert table[2].startswith("| 3 | ReLU |")
    assert any(line.startswith("**error** · step ") for line in lines)


def test_the_json_of_a_run_is_strict_and_holds_its_last_snapshot(logs: SimpleNamespace) -> None:
    document = json.loads(render_json(read_runs(logs.root)), parse_constant=refuse_constant)
    assert document["version"] == 1
    healthy, ill = document["runs"]
    assert (healthy["name"], ill["name"]) == ("healthy", "ill")
    assert ill["steps"] == list(range(0, 24, 2))
    assert (healthy["worst"], ill["worst"]) == (None, "error")
    assert ill["findings"][0]["rule"] == "dead-units"
    assert ill["problems"] == []
    assert Snapshot.from_json(json.dumps(ill["last"])) == logs.ill.latest


def test_numbers_that_are_infinite_stay_strict_json() -> None:
    told = finding(evidence={"mean": math.inf, "std": math.nan})
    document = json.loads(render_json([Run("x", [snapshot(0, math.inf)], [told])]), parse_constant=refuse_constant)
    assert document["runs"][0]["findings"][0]["evidence"] == {"mean": "inf", "std": "nan"}


def test_sites_with_findings_come_first_by_severity_then_the_others_in_order() -> None:
    sites = {"a:in": site(0), "a": site(1), "b": site(2), "c": site(3), "d": site(4)}
    findings = [
        finding("d", severity="info"),
        finding("c", severity="error"),
        finding("a", severity="warning"),
        finding("b", severity="error", resolved_step=5),
    ]
    run = Run("x", [Snapshot(step=9, sites=sites)], findings)
    assert [name for name, _ in worst_first(run)] == ["c", "a:in", "a", "d", "b"]
    assert run.worst == "error"


def test_a_finding_at_a_module_lifts_all_of_its_calls_and_one_at_a_call_only_that() -> None:
    sites = {"a": site(0), "relu#0": site(1), "relu#1": site(2)}
    for layer, first in (("relu", ["relu#0", "relu#1", "a"]), ("relu#1", ["relu#1", "a", "relu#0"])):
        run = Run("x", [Snapshot(step=0, sites=sites)], [finding(layer)])
        assert [name for name, _ in worst_first(run)] == first


def test_evidence_says_what_would_be_healthy() -> None:
    evidence = {"ratio": 0.00060412, "units_dead": list(range(12)), "unknown": None, "healthy": "above 1e-2"}
    text = render_text([Run("x", [], [finding(evidence=evidence)])])
    assert text.endswith("  evidence: ratio 0.000604, units_dead 0 1 2 3 4 5 6 7 …; healthy: above 1e-2\n")
    assert "healthy: 0" in render_text([Run("x", [], [finding(evidence={"n": 3, "healthy": 0})])])


def test_a_finding_that_became_worse_says_since_when_it_is_so() -> None:
    worse = finding("a", severity="error", step=3, severity_step=50)
    assert "ERROR dead-units (step 3, error since step 50): a" in render_text([Run("x", [], [worse])])
    assert "**error** · step 3, error since step 50 ·" in findings_markdown([worse])
    assert finding_from_log({"finding": worse.to_dict() | {"advice": []}}) == worse
    older = {name: value for name, value in finding("a").to_dict().items() if name != "severity_step"}
    assert finding_from_log({"finding": older | {"advice": []}}).severity_step is None


def test_open_findings_stand_before_those_that_are_over_and_worse_ones_first() -> None:
    findings = [
        finding("a", severity="error", resolved_step=7),
        finding("b", severity="info"),
        finding("c", severity="error"),
        finding("d", severity="warning", step=1),
        finding("e", severity="warning", step=5),
    ]
    text = render_text([Run("x", [snapshot(9)], findings)])
    assert re.findall(r"^(\w+) dead-units \(step ([\d to]+)\): (\w)", text, re.MULTILINE) == [
        ("ERROR", "0", "c"), ("WARNING", "5", "e"), ("WARNING", "1", "d"), ("INFO", "0", "b"),
        ("resolved", "0 to 7", "a"),
    ]  # fmt: skip
    assert "Resolved:\n\n- step 0 to 7: a: half of it is dead" in render_markdown([Run("x", [snapshot(9)], findings)])


def test_one_of_a_thing_is_in_the_singular() -> None:
    one = Run("x", [Snapshot(step=3, sites={"a": site()})], [finding()])
    assert render_text([one]).startswith("x: 1 recorded step, the last at step 3; 1 site; 1 open finding\n")


def test_many_sites_are_cut_in_the_table_and_counted() -> None:
    run = Run("x", [Snapshot(step=0, sites={f"s{i}": site(i) for i in range(50)})], [])
    for text in (render_text([run]), render_markdown([run])):
        assert "s39" in text
        assert "s40" not in text
        assert "(10 more sites; --format json has all)" in text


def test_a_monitor_without_a_recorded_step_reports_that() -> None:
    with Monitor(nn.Linear(2, 2)) as monitor:
        assert monitor.report() == "this run: no recorded step\n"


def test_names_cannot_steer_the_terminal_or_break_the_table() -> None:
    name = "a\x1b[2J\nb\u202e"
    run = Run(name, [Snapshot(step=0, sites={name: site()})], [finding(name, cause=name, advice=(name,))], [name])
    text = render_text([run])
    assert text.replace("\n", "").isprintable()
    assert r"a\x1b[2J\nb\u202e" in text
    assert len(text.splitlines()) == 10


SHARES = {None: "-", 0.0: "0%", 1.0: "100%", 1e-9: "0.1%", 1 - 1e-9: "99.9%", 0.5: "50.0%", math.inf: "inf", 7.0: "7"}


@pytest.mark.parametrize(("value", "shown"), SHARES.items())
def test_a_share_is_0_or_100_only_if_it_is(value: float | None, shown: str) -> None:
    assert share(value) == shown


def test_a_number_has_three_digits_and_none_is_a_dash() -> None:
    assert [number(v) for v in (None, 0.0, 1234.5, 1e-9, -math.inf)] == ["-", "0", "1.23e+03", "1e-09", "-inf"]


# Directories and resumed runs ---------------------------------------------------------------------------


def test_every_run_below_a_directory_is_found_and_ordered_as_people_count(tmp_path: Path) -> None:
    for name in ("run10", "run9", "deep/er/run", "."):
        log(tmp_path / name, range(2))
    assert [run.name for run in read_runs(tmp_path)] == ["deep/er/run", "run9", "run10", tmp_path.name]


def test_a_run_resumed_at_an_earlier_step_supersedes_what_was_there_from_that_step_on(tmp_path: Path) -> None:
    log(tmp_path, range(10), mean=1.0)
    log(tmp_path, range(6, 8), mean=2.0)
    run = only(tmp_path)
    assert [s.step for s in run.snapshots] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert [s.sites["a"].mean for s in run.snapshots] == [1.0] * 6 + [2.0] * 2
    assert run.problems == []


def test_a_run_resumed_in_the_same_file_supersedes_too(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for steps, mean in ((range(5), 1.0), (range(3), 2.0)):
            ours = TensorBoardWriter.into(writer)
            for step in steps:
                ours.write(snapshot(step, mean), [])
            ours.close()
    assert [s.sites["a"].mean for s in only(tmp_path).snapshots] == [2.0] * 3


def test_files_are_read_in_the_order_in_which_they_were_begun(tmp_path: Path) -> None:
    """The tenth file of a process comes after its ninth."""
    for number_, mean in ((9, 1.0), (10, 2.0)):
        log(tmp_path, range(3), mean=mean).rename(tmp_path / f"events.out.tfevents.1700000000.host.1.{number_}")
    # the second rename must not have replaced the first
    assert len(list(tmp_path.iterdir())) == 2
    assert only(tmp_path).snapshots[0].sites["a"].mean == 2.0


def test_findings_of_superseded_steps_are_gone_and_a_resumed_run_judges_afresh(tmp_path: Path) -> None:
    told = {2: [Change("new", finding("a", step=2))], 7: [Change("new", finding("b", step=7))]}
    log(tmp_path, range(10), changes=told)
    assert [(f.layer, f.resolved_step) for f in only(tmp_path).findings] == [("a", None), ("b", None)]
    log(tmp_path, range(6, 10), changes={8: [Change("new", finding("c", step=8))]})
    run = only(tmp_path)
    assert [(f.layer, f.resolved_step) for f in run.findings] == [("a", 6), ("c", None)]
    assert [f.layer for f in run.open_findings] == ["c"]


def test_a_finding_is_shown_as_it_last_was(tmp_path: Path) -> None:
    first = finding("a", step=1)
    worse = finding("a", step=1, severity="error")
    over = finding("a", step=1, severity="error", resolved_step=4)
    log(
        tmp_path,
        range(5),
        changes={1: [Change("new", first)], 2: [Change("worse", worse)], 4: [Change("resolved", over)]},
    )
    assert only(tmp_path).findings == [over]


def test_snapshots_of_a_log_are_a_sequence(tmp_path: Path) -> None:
    log(tmp_path, range(6))
    snapshots = only(tmp_path).snapshots
    assert len(snapshots) == 6
    assert snapshots[-1] == snapshot(5)
    assert list(snapshots[1:3]) == [snapshot(1), snapshot(2)]
    assert repr(snapshots) == "<6 snapshots of a log>"
    with pytest.raises(IndexError):
        snapshots[6]


# Nothing to read ----------------------------------------------------------------------------------------


def message_of(path: Path) -> str:
    with pytest.raises(ReadError) as caught:
        read_runs(path)
    return str(caught.value)


def test_a_directory_that_does_not_exist_is_said(tmp_path: Path) -> None:
    assert message_of(tmp_path / "x") == f"{tmp_path / 'x'} does not exist"


def test_a_directory_without_event_files_is_said(tmp_path: Path) -> None:
    assert message_of(tmp_path) == f"{tmp_path} holds no TensorBoard event file"


def test_a_file_in_place_of_a_directory_is_said_with_its_directory(tmp_path: Path) -> None:
    file = log(tmp_path, range(1))
    assert message_of(file) == f"{file} is a file; give the directory that holds it: {tmp_path}"


def test_event_files_without_our_data_are_said(tmp_path: Path) -> None:
    foreign(tmp_path / "a")
    assert message_of(tmp_path) == f"{tmp_path} holds 1 event file, but no actdiag data in it"
    foreign(tmp_path / "b")
    assert message_of(tmp_path) == f"{tmp_path} holds 2 event files, but no actdiag data in them"


def test_somebody_elses_runs_beside_ours_are_left_out(tmp_path: Path) -> None:
    foreign(tmp_path / "theirs")
    log(tmp_path / "ours", range(2))
    assert [run.name for run in read_runs(tmp_path)] == ["ours"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_directory_without_read_permission_is_said(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    log(closed, range(2))
    closed.chmod(0)
    try:
        assert message_of(closed) == f"{closed} cannot be read (Permission denied)"
        log(tmp_path / "open", range(2))
        closed_run, open_run = read_runs(tmp_path)
        assert closed_run.problems == ["cannot be read (Permission denied)"]
        assert len(open_run.snapshots) == 2
    finally:
        closed.chmod(0o700)


def test_a_directory_that_closes_while_it_is_walked_is_noted_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, no permission can be taken away: the listing itself is made to fail."""
    log(tmp_path / "open", range(2))
    log(tmp_path / "shut", range(2))
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    readable, shut = read_runs(tmp_path)
    assert (readable.name, len(readable.snapshots)) == ("open", 2)
    assert (shut.name, shut.problems) == ("shut", ["cannot be read (Permission denied)"])
    assert "shut: no recorded step\n\nnote: cannot be read (Permission denied)" in render_text([readable, shut])
    assert message_of(tmp_path / "shut") == f"{tmp_path / 'shut'} cannot be read (Permission denied)"


# Damaged files ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An event file of forty steps."""
    return log(tmp_path_factory.mktemp("whole"), range(40)).read_bytes()


def records(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        yield data[start : start + length + 16]
        start += length + 16


def read_bytes(folder: Path, data: bytes) -> Run:
    """The run of an event file of these bytes; one without snapshots where there is nothing to read."""
    (folder / "events.out.tfevents.x").write_bytes(data)
    try:
        return only(folder)
    except ReadError as error:
        return Run("", [], [], str(error).split("\n  ")[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For one file that is written again and again."""
    return tmp_path_factory.mktemp("damaged")


def test_a_file_that_was_cut_off_is_read_up_to_there_with_a_note(folder: Path, whole: bytes) -> None:
    run = read_bytes(folder, whole[: len(whole) // 2])
    assert 10 < len(run.snapshots) < 30
    assert [s == snapshot(s.step) for s in run.snapshots] == [True] * len(run.snapshots)
    (note,) = run.problems
    read = len(run.snapshots) + 1  # and the one that states the file's version
    assert note == (
        f"events.out.tfevents.x is still being written or was cut off after {read} records; the rest was not read"
    )


@settings(deadline=None)
@given(data=st.data())
def test_wherever_a_file_is_cut_the_whole_records_are_read(folder: Path, whole: bytes, data: st.DataObject) -> None:
    end = data.draw(st.integers(0, len(whole)))
    boundaries = np.cumsum([0, *map(len, records(whole))]).tolist()
    run = read_bytes(folder, whole[:end])
    assert [s.step for s in run.snapshots] == list(range(max(0, sum(b <= end for b in boundaries) - 2)))
    assert len(run.problems) == (0 if end in boundaries else 1)


@settings(deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_never_changes_a_number_and_is_noted(
    folder: Path, whole: bytes, place: float, flip: int
) -> None:
    spoiled = bytearray(whole)
    spoiled[int(place * len(whole))] ^= flip
    run = read_bytes(folder, bytes(spoiled))
    assert all(s == snapshot(s.step) for s in run.snapshots)
    assert len(run.snapshots) == 40 or run.problems


def test_without_the_record_that_holds_the_schema_there_are_no_numbers(folder: Path, whole: bytes) -> None:
    _, first, *rest = records(whole)
    assert read_bytes(folder, first[:-1] + b"x" + b"".join(rest)).problems == [
        "events.out.tfevents.x: 1 damaged record left out",
        "steps 1 to 39 (39 of them): the schema is missing",
    ]


def test_a_damaged_record_in_the_middle_is_left_out_and_the_rest_is_read(folder: Path, whole: bytes) -> None:
    spoiled = bytearray(whole)
    spoiled[len(whole) // 2] ^= 1
    run = read_bytes(folder, bytes(spoiled))
    assert len(run.snapshots) == 39
    assert run.problems == ["events.out.tfevents.x: 1 damaged record left out"]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_no_event_file(folder: Path, garbage: bytes) -> None:
    run = read_bytes(folder, garbage)
    assert not run.snapshots
    assert len(run.problems) == (1 if garbage else 0)


def test_a_megabyte_of_noise_is_no_event_file(folder: Path) -> None:
    (note,) = read_bytes(folder, random.Random(0).randbytes(1 << 20)).problems
    assert note == "events.out.tfevents.x is damaged at its first record"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60).map(lambda noise: b"actdiag/" + noise), min_size=1, max_size=40))
def test_records_that_are_intact_but_no_events_are_passed_over(folder: Path, noise: list[bytes]) -> None:
    assert not read_bytes(folder, b"".join(map(framed, noise))).snapshots


def test_a_length_beyond_the_file_is_not_believed(folder: Path) -> None:
    length = struct.pack("<Q", 1 << 62)
    (note,) = read_bytes(folder, length + struct.pack("<I", masked_crc32c(length)) + b"actdiag/").problems
    assert "cut off" in note


def test_a_file_that_cannot_be_read_is_noted_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(tmp_path, range(2))
    bad = tmp_path / "events.out.tfevents.9999999999.bad"
    bad.write_bytes(b"")
    open_ = Path.open

    def refusing(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == bad:
            raise PermissionError(13, "Permission denied", str(path))
        return open_(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refusing)
    run = only(tmp_path)
    assert len(run.snapshots) == 2
    assert run.problems == [f"{bad.name} cannot be read (Permission denied)"]


# Logs that do not fit -----------------------------------------------------------------------------------


def edited(data: bytes, edit: Any) -> bytes:
    """The event file with each of its events changed, and its checksums right."""
    out = []
    for record in records(data):
        event = Event.FromString(record[12:-4])
        edit(event)
        out.append(framed(event.SerializeToString()))
    return b"".join(out)


def change_tag(tag: str, change: Any, *, step: int | None = None) -> Any:
    def edit(event: Any) -> None:
        for value in event.summary.value:
            if value.tag == tag and step in (None, event.step):
                change(value)

    return edit


def schema_change(**changes: Any) -> Any:
    def change(value: Any) -> None:
        raw = json.loads(value.tensor.string_val[0])
        value.tensor.string_val[0] = json.dumps({**raw, **changes}).encode()

    return change_tag(tags.SCHEMA, change)


def content(data: bytes, dtype: int | None = None) -> Any:
    def change(value: Any) -> None:
        value.tensor.tensor_content = data
        value.tensor.dtype = dtype or value.tensor.dtype

    return change


def text(data: bytes) -> Any:
    return lambda value: value.tensor.string_val.__setitem__(0, data)


def test_another_schema_version_is_refused_once_for_all_steps_with_both_versions(folder: Path, whole: bytes) -> None:
    (note,) = read_bytes(folder, edited(whole, schema_change(version=2))).problems
    assert note == "steps 0 to 39 (40 of them): the log has schema version 2, this actdiag reads 1"


MISFITS = {
    "one number too few": change_tag("actdiag/stat/mean", content(b"\0" * 8), step=7),
    "half a number": change_tag("actdiag/stat/mean", content(b"\0" * 13), step=7),
    "no number": change_tag("actdiag/stat/mean", content(b""), step=7),
    "whole numbers for a mean": change_tag("actdiag/stat/mean", content(b"\0" * 12, 3), step=7),
    "fractions for a count": change_tag("actdiag/stat/n", content(b"\0" * 12, 1), step=7),
    "states of too few units": change_tag(tags.UNITS, content(b"x\x9c"), step=7),
    "states that are not compressed": change_tag(tags.UNITS, content(b"ad\nad\nad"), step=7),
    "histograms that are not compressed": change_tag("actdiag/hist/activation", content(b"\0" * 99), step=7),
    "a state that parameters do not have": change_tag(
        "actdiag/parameter/state", content(zlib.compress(b"bored")), step=7
    ),
    "no states of the parameters": change_tag("actdiag/parameter/state", content(b"", 2), step=7),
}


@pytest.mark.parametrize("edit", MISFITS.values(), ids=MISFITS.keys())
def test_vectors_that_do_not_fit_the_schema_cost_their_step_only(folder: Path, whole: bytes, edit: Any) -> None:
    run = read_bytes(folder, edited(whole, edit))
    assert [s.step for s in run.snapshots] == [step for step in range(40) if step != 7]
    (note,) = run.problems
    assert note.startswith("step 7: ")
    assert "Error" not in note, "a sentence, not an exception"


SCHEMAS = {
    "prose": change_tag(tags.SCHEMA, text(b"once upon a time")),
    "no text": change_tag(tags.SCHEMA, text(b"")),
    "bytes": change_tag(tags.SCHEMA, text(b"\xff\xfe")),
    "a list": change_tag(tags.SCHEMA, text(b"[]")),
    "nested deep": change_tag(tags.SCHEMA, text(b"[" * 100_000)),
    "no string at all": change_tag(tags.SCHEMA, lambda value: value.tensor.ClearField("string_val")),
    "no sites": schema_change(sites=None),
    "sites that are numbers": schema_change(sites=[1, 2, 3]),
    "a site twice": schema_change(sites=[{"name": "a", "kind": "k", "role": "layer", "order": 0}] * 3),
    "a role that does not exist": schema_change(sites=[{"name": "a", "kind": "k", "role": "boss", "order": 0}]),
    "an order that is prose": schema_change(sites=[{"name": "a", "kind": "k", "role": "layer", "order": "x"}]),
    "an order that is infinite": schema_change(sites=[{"name": "a", "kind": "k", "role": "layer", "order": math.inf}]),
    "more sites than numbers": schema_change(
        sites=[{"name": str(i), "kind": "k", "role": "layer", "order": i} for i in range(1000)]
    ),
    "parameters that are a number": schema_change(parameters=3),
    "other parameters": schema_change(parameters=["v", "w"]),
    "a selection that is prose": schema_change(sites_selected="many"),
}


@pytest.mark.parametrize("edit", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_a_schema_that_is_damaged_is_told_once_for_all_its_steps(folder: Path, whole: bytes, edit: Any) -> None:
    run = read_bytes(folder, edited(whole, edit))
    assert not run.snapshots
    (note,) = run.problems
    assert note.startswith("steps 0 to 39 (40 of them): ")


def test_a_log_without_any_schema_is_told(folder: Path, whole: bytes) -> None:
    def drop(event: Any) -> None:
        kept = [value for value in event.summary.value if value.tag != tags.SCHEMA]
        if event.HasField("summary"):
            event.summary.CopyFrom(Summary(value=kept))

    assert read_bytes(folder, edited(whole, drop)).problems == ["steps 0 to 39 (40 of them): the schema is missing"]


GOOD_FINDING = finding(step=3).to_dict()
FINDINGS = {
    "prose": "once upon a time",
    "a number": "7",
    "an object": "{}",
    "nested deep": "[" * 100_000,
    "a list of numbers": "[1]",
    "no finding": json.dumps([{"change": "new"}]),
    **{
        f"{name} is {value!r}": json.dumps([{"change": "new", "finding": {**GOOD_FINDING, name: value}}])
        for name, value in (
            ("rule", "<b>"), ("rule", "dead-units<b>"), ("rule", None), ("severity", "fatal"), ("severity", []),
            ("step", "3"), ("step", True), ("layer", None), ("message", 1), ("evidence", []),
            ("advice", "do this"), ("advice", [1]), ("cause", None), ("source", 1), ("resolved_step", "never"),
            ("severity_step", 1.5),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("told", FINDINGS.values(), ids=FINDINGS.keys())
def test_what_is_no_finding_is_noted_and_the_snapshot_is_kept(folder: Path, told: str) -> None:
    event = edited_findings(folder, told)
    run = read_bytes(folder, event)
    assert [s.step for s in run.snapshots] == [3]
    assert run.findings == []
    (note,) = run.problems
    assert note.startswith("step 3: a finding is damaged")
    for render in (render_text, render_markdown, render_json):
        assert render([run])


def edited_findings(folder: Path, told: str) -> bytes:
    shutil.rmtree(folder)
    file = log(folder, range(3, 4), changes={3: [Change("new", finding(step=3))]})
    data = edited(file.read_bytes(), change_tag(tags.FINDINGS, text(told.encode())))
    file.unlink()
    return data


def test_fields_that_a_later_actdiag_adds_to_a_finding_are_passed_over(folder: Path) -> None:
    told = json.dumps([{"change": "new", "finding": {**GOOD_FINDING, "mood": "sad"}, "since": 1}])
    run = read_bytes(folder, edited_findings(folder, told))
    assert run.findings == [finding(step=3)]
    assert run.problems == []


def test_an_unknown_tag_of_ours_is_passed_over(folder: Path, whole: bytes) -> None:
    def add(event: Any) -> None:
        event.summary.value.add(tag="actdiag/stat/mood", tensor=TensorProto(dtype=1, tensor_content=b"\0" * 4))
        event.summary.value.add(tag="actdiag/picture", tensor=TensorProto(dtype=7))

    run = read_bytes(folder, edited(whole, add))
    assert (len(run.snapshots), run.problems) == (40, [])


def test_a_bomb_of_compressed_zeros_is_refused(folder: Path, whole: bytes) -> None:
    bomb = zlib.compress(bytes(1 << 27), 9)
    run = read_bytes(folder, edited(whole, change_tag(tags.UNITS, content(bomb), step=7)))
    assert len(run.snapshots) == 39
    assert run.problems == ["step 7: compressed data are cut off, or larger than 64 MiB"]
