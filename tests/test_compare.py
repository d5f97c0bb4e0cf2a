"""Two runs side by side: what differs is told, by how much, in what order; what is equal is not."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actdiag import TensorBoardWriter
from actdiag.cli import NOTHING, OK, USAGE, main
from actdiag.diagnose.finding import SEVERITIES, Change, Finding
from actdiag.report.choose import SeveralRuns, read_run
from actdiag.report.compare import (
    LAYER_MEASURES,
    POINTS_AS_A_FACTOR_OF_TWO,
    RUN_MEASURES,
    Comparison,
    Difference,
    FindingPair,
    Match,
    Measure,
    Pair,
    Steps,
    align,
    compare,
)
from actdiag.report.document import render_comparison_json
from actdiag.report.read import ReadError
from actdiag.report.run import Run
from actdiag.report.side_by_side import difference, render_comparison_markdown, render_comparison_text
from actdiag.snapshot import ParameterState, ParameterStats, SiteStats, Snapshot
from actdiag.write.protocol import Writer
from tests.test_snapshot import refuse_constant

ROOT = Path(__file__).resolve().parent.parent
SHARE, SCALE, COUNT = Measure("s", "s", "share"), Measure("x", "x", "scale"), Measure("n", "n", "count")

Captured = pytest.CaptureFixture[str]


def site(order: int = 0, kind: str = "ReLU", **stats: Any) -> SiteStats:
    return SiteStats(kind=kind, role="activation", order=order, **stats)


def parameter(state: ParameterState = "trained", **stats: Any) -> ParameterStats:
    return ParameterStats(state=state, **stats)


def finding(layer: str = "fc", step: int = 0, **fields: Any) -> Finding:
    known = {"rule": "dead-units", "severity": "warning", "message": f"{layer}: half of it is dead"}
    return Finding(**{**known, "layer": layer, "step": step, **fields})


def run(*snapshots: Snapshot, findings: Sequence[Finding] = (), problems: Sequence[str] = ()) -> Run:
    return Run("run", snapshots, findings, problems)


def log(folder: Path, *snapshots: Snapshot, changes: Sequence[Change] = (), prefix: str = "") -> Path:
    """A run of these snapshots, the changes told with the last."""
    writer: Writer = TensorBoardWriter(folder, prefix=prefix)
    for snapshot in snapshots:
        writer.write(snapshot, changes if snapshot is snapshots[-1] else [])
    writer.close()
    return folder


def relu_snapshot(step: int) -> Snapshot:
    return Snapshot(
        step=step,
        sites={
            "in": site(0, "Linear", rms=1.0, grad_rms=0.5),
            "act": site(1, rms=2.0, mean_energy=0.25, dead_fraction=0.5, grad_rms=0.25),
            "even": site(2, "Linear", rms=3.0),
            "last": site(3, "Linear", rms=1.0),
        },
        parameters={"w": parameter(update_ratio=0.001), "old": parameter()},
        grad_norm_total=1.0,
        clip_coefficient=1.0,
    )


def tanh_snapshot(step: int) -> Snapshot:
    return Snapshot(
        step=step,
        sites={
            "in": site(0, "Linear", rms=1.5, grad_rms=0.5),
            "act": site(1, "Tanh", rms=0.5, mean_energy=0.0, saturated_fraction=0.125, grad_rms=0.25),
            "even": site(2, "Linear", rms=3.0),
            "new": site(3, "Dropout", rms=1.0),
        },
        parameters={"w": parameter(update_ratio=0.004), "fresh": parameter("frozen")},
        grad_norm_total=8.0,
        clip_coefficient=0.5,
        ranks=4,
        world_size=4,
    )


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A ReLU and a tanh network; A recorded steps 0, 10, 20, 30 and B 0, 20, 40."""
    here = [
        Change("new", finding("act", 10, severity="error")),
        Change("resolved", finding("in", 0, resolved_step=20)),
        Change("new", finding("last", 30)),
    ]
    there = [
        Change("new", finding("act", 20)),
        Change("new", finding("in", 40, rule="off-center", severity="info")),
        Change("resolved", finding("last", 20, resolved_step=40)),
    ]
    a = log(tmp_path / "relu", *map(relu_snapshot, (0, 10, 20, 30)), changes=here)
    b = log(tmp_path / "tanh", *map(tanh_snapshot, (0, 20, 40)), changes=there)
    return a, b


def compared(two: tuple[Path, Path], step: int | None = None) -> Comparison:
    return compare(read_run(str(two[0])), read_run(str(two[1])), step)


# What is compared ---------------------------------------------------------------------------------------


def test_the_last_step_that_both_recorded_is_compared(two: tuple[Path, Path]) -> None:
    assert compared(two).steps == Steps(20, 20, 2)


def test_layers_that_both_have_come_with_their_numbers_the_most_different_first(two: tuple[Path, Path]) -> None:
    both = compared(two).layers.both
    assert [(pair.name, pair.a, pair.b) for pair in both] == [
        ("act", "ReLU", "Tanh"), ("in", "Linear", "Linear"), ("even", "Linear", "Linear")
    ]  # fmt: skip
    told = {d.measure.name: (d.a, d.b, d.change) for d in both[0].differences}
    assert told == {
        "rms": (2.0, 0.5, -2.0),
        "mean_energy": (0.25, 0.0, -0.25),
        "saturated_fraction": (None, 0.125, None),
        "dead_fraction": (0.5, None, None),
        "grad_rms": (0.25, 0.25, 0.0),
    }
    assert [pair.differs for pair in both] == [True, True, False]


def test_parameters_come_with_their_update_ratio(two: tuple[Path, Path]) -> None:
    (w,) = compared(two).parameters.both
    assert w.name == "w"
    assert w.differences[0].change == pytest.approx(2.0, abs=1e-6)


def test_what_only_one_has_is_listed(two: tuple[Path, Path]) -> None:
    result = compared(two)
    assert (result.layers.only_a, result.layers.only_b) == ((("last", "Linear"),), (("new", "Dropout"),))
    assert (result.parameters.only_a, result.parameters.only_b) == ((("old", "trained"),), (("fresh", "frozen"),))


def test_the_numbers_of_the_whole_step_are_compared(two: tuple[Path, Path]) -> None:
    told = {d.measure.name: (d.a, d.b, d.change) for d in compared(two).run}
    assert told == {
        "grad_norm_total": (1.0, 8.0, 3.0),
        "clip_coefficient": (1.0, 0.5, -0.5),
        "ranks": (None, 4, None),
    }


def test_findings_are_paired_by_rule_and_layer_open_and_severe_ones_first(two: tuple[Path, Path]) -> None:
    def step(told: Any) -> Any:
        return told and (told.step, told.resolved_step)

    assert [(pair.rule, pair.layer, step(pair.a), step(pair.b)) for pair in compared(two).findings] == [
        ("dead-units", "act", (10, None), (20, None)),
        ("dead-units", "last", (30, None), (20, 40)),
        ("off-center", "in", None, (40, None)),
        ("dead-units", "in", (0, 20), None),
    ]


def test_episodes_of_a_rule_at_a_layer_are_one_line_and_open_if_one_of_them_is() -> None:
    episodes = [
        finding("a", 5, severity="error", resolved_step=8, message="first"),
        finding("a", 20, severity="info", message="third"),
        finding("a", 12, resolved_step=15, message="second"),
    ]
    (pair,) = compare(run(findings=episodes), run(findings=episodes[::2][:1])).findings
    assert pair.a is not None and pair.b is not None
    assert (pair.a.step, pair.a.resolved_step, pair.a.episodes) == (5, None, 3)
    assert (pair.a.severity, pair.a.message) == ("info", "third"), "an episode that is over no longer counts"
    assert (pair.b.severity, pair.b.resolved_step) == ("error", 8)


def test_the_heading_counts_what_appeared_and_what_is_no_longer() -> None:
    over = [finding("same", resolved_step=9), finding("mended", resolved_step=9)]
    a = run(findings=[finding("mended"), finding("same", resolved_step=9), finding("both")])
    b = run(findings=[*over, finding("new"), finding("newer"), finding("newest"), finding("both")])
    for left, right, counts in ((a, b, "3 open only in B, 1 only in A"), (b, a, "1 open only in B, 3 only in A")):
        assert f"first told: {counts}\n" in render_comparison_text(compare(left, right), 10)


def test_a_finding_that_is_over_has_its_highest_severity_and_last_end() -> None:
    episodes = [finding("a", 5, severity="error", resolved_step=8), finding("a", 12, resolved_step=15)]
    (pair,) = compare(run(findings=episodes), run()).findings
    assert pair.a is not None
    assert (pair.a.severity, pair.a.step, pair.a.resolved_step) == ("error", 5, 15)


# Which steps --------------------------------------------------------------------------------------------

NO_COMMON = "no step was recorded by both; compared are step {} of A and step {} of B, the nearest to {}"
ALIGNED = {
    "the last common one": ([0, 10, 20], [0, 10, 30], None, Steps(10, 10, 2)),
    "the one that is wanted": ([0, 10, 20], [0, 10, 20], 10, Steps(10, 10, 3)),
    "step 0 is a step": ([0, 10], [0, 10], 0, Steps(0, 0, 2)),
    "the nearest common one": (
        [0, 9, 14], [0, 9, 15], 14, Steps(9, 9, 2, "step 14 was not recorded by both; the nearest that was is step 9")
    ),
    "the later of two as near": (
        [0, 10], [0, 10], 5, Steps(10, 10, 2, "step 5 was not recorded by both; the nearest that was is step 10")
    ),
    "nearest to each other": ([0, 10, 50], [7, 41, 90], None, Steps(10, 7, 0, NO_COMMON.format(10, 7, "each other"))),
    "the latest of such pairs": ([0, 10], [1, 11], None, Steps(10, 11, 0, NO_COMMON.format(10, 11, "each other"))),
    "one after the other": ([0, 1], [8, 9], None, Steps(1, 8, 0, NO_COMMON.format(1, 8, "each other"))),
    "nearest to the wanted": ([0, 10], [1, 13], 10, Steps(10, 13, 0, NO_COMMON.format(10, 13, "step 10"))),
    "nothing in A": ([], [1], None, None),
    "nothing in B": ([1], [], 1, None),
}  # fmt: skip


@pytest.mark.parametrize(("a", "b", "wanted", "found"), ALIGNED.values(), ids=ALIGNED.keys())
def test_the_steps_that_are_compared(a: list[int], b: list[int], wanted: int | None, found: Steps | None) -> None:
    assert align(a, b, wanted) == found


def test_steps_that_are_not_the_same_are_told(tmp_path: Path) -> None:
    a = log(tmp_path / "a", relu_snapshot(3))
    b = log(tmp_path / "b", relu_snapshot(4))
    text = render_comparison_text(compared((a, b)), 10)
    assert "note: no step was recorded by both; compared are step 3 of A and step 4 of B" in text
    assert "\nStep 3 of A and step 4 of B\n" in text


def test_only_the_snapshots_that_are_compared_are_unpacked(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = read_run(str(two[0])), read_run(str(two[1]))
    unpacked = []
    original = type(a.snapshots).__getitem__

    def counting(self: Any, index: Any) -> Any:
        unpacked.append(index)
        return original(self, index)

    monkeypatch.setattr(type(a.snapshots), "__getitem__", counting)
    compare(a, b)
    assert unpacked == [2, 1]


# How far apart ------------------------------------------------------------------------------------------

DIFFERENCES = {
    "equal": (SCALE, 0.5, 0.5, 0.0, 0.0, "="),
    "neither": (SCALE, None, None, 0.0, 0.0, "="),
    "twice": (SCALE, 0.5, 1.0, 1.0, 1.0, "x2.00"),
    "half": (SCALE, 1.0, 0.5, -1.0, 1.0, "/2.00"),
    "hardly more": (SCALE, 1.0, 1.0 + 2**-20, pytest.approx(0, abs=1e-5), pytest.approx(0, abs=1e-5), "x1.00"),
    "a hundred times": (SCALE, 1.0, 128.0, 7.0, 7.0, "x128"),
    "just below it": (SCALE, 1.0, 99.96, pytest.approx(6.643, abs=1e-3), pytest.approx(6.643, abs=1e-3), "x100"),
    "from zero": (SCALE, 0.0, 1e-30, math.inf, math.inf, "from 0"),
    "to zero": (SCALE, 1.0, 0.0, -math.inf, math.inf, "to 0"),
    "to infinity": (SCALE, 1.0, math.inf, math.inf, math.inf, "to inf"),
    "from infinity": (SCALE, math.inf, 2.0, -math.inf, math.inf, "to 2"),
    "both infinite": (SCALE, math.inf, math.inf, 0.0, 0.0, "="),
    "a scale only in A": (SCALE, 1.0, None, None, math.inf, "only in A"),
    "a scale only in B": (SCALE, None, 0.0, None, math.inf, "only in B"),
    "below zero": (SCALE, -1.0, 1.0, None, math.inf, "not comparable"),
    "a share": (SHARE, 0.25, 0.75, 0.5, 5.0, "+50.0 points"),
    "a smaller share": (SHARE, 1.0, 0.0, -1.0, 10.0, "-100.0 points"),
    "a share only in B": (SHARE, None, 1.0, None, 0.0, "only in B"),
    "a count": (COUNT, 8, 2, -6, 6, "-6"),
    "a larger count": (COUNT, 2, 8, 6, 6, "+6"),
}


@pytest.mark.parametrize(("measure", "a", "b", "change", "size", "shown"), DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_a_difference(measure: Measure, a: Any, b: Any, change: Any, size: Any, shown: str) -> None:
    found = Difference(measure, a, b)
    assert (found.change, found.size, difference(found)) == (change, size, shown)


def test_ten_points_of_a_share_weigh_as_much_as_a_factor_of_two() -> None:
    assert POINTS_AS_A_FACTOR_OF_TWO == 10
    assert Difference(SHARE, 0.25, 0.35).size == pytest.approx(Difference(SCALE, 3.0, 6.0).size)


def pair(name: str, *ab: tuple[float | None, float | None]) -> tuple[str, SiteStats, SiteStats]:
    names = [m.name for m in LAYER_MEASURES]
    a, b = ({n: v[i] for n, v in zip(names, ab, strict=False)} for i in (0, 1))
    return name, site(**a), site(**b)


def order_of(*pairs: tuple[str, SiteStats, SiteStats]) -> list[str]:
    a, b = (Snapshot(step=0, sites={p[0]: p[1 + i] for p in pairs}) for i in (0, 1))
    return [p.name for p in compare(run(a), run(b)).layers.both]


def test_shares_and_scales_are_in_one_order() -> None:
    assert order_of(
        pair("5 points", (1.0, 1.0), (0.5, 0.55)),
        pair("a third", (3.0, 1.0)),
        pair("20 points", (1.0, 1.0), (0.4, 0.2)),
        pair("dead at once", (1.0, 0.0)),
        pair("nothing", (1.0, 1.0)),
    ) == ["dead at once", "20 points", "a third", "5 points", "nothing"]


def test_of_equal_largest_differences_the_next_decides_and_then_the_order_of_the_layers() -> None:
    assert order_of(
        pair("zero", (1.0, 0.0)),
        pair("second", (1.0, 2.0)),
        pair("third", (2.0, 4.0)),
        pair("zero and more", (1.0, 0.0), (0.1, 0.2)),
    ) == ["zero and more", "zero", "second", "third"]


def test_a_kind_that_changed_is_a_difference_even_without_numbers() -> None:
    a, b = (Snapshot(step=0, sites={"act": site(kind=kind)}) for kind in ("ReLU", "Tanh"))
    text = render_comparison_text(compare(run(a), run(b)), 10)
    assert "1 in both, 1 of them differ" in text
    assert "\n  act  (ReLU -> Tanh)\n" in text


def test_a_parameter_that_was_frozen_is_a_difference() -> None:
    a = Snapshot(step=0, parameters={"w": parameter(update_ratio=0.5)})
    b = Snapshot(step=0, parameters={"w": parameter("frozen")})
    text = render_comparison_text(compare(run(a), run(b)), 10)
    assert re.search(r"^  w  0\.5  ->  -  only in A \(trained -> frozen\)$", text, re.MULTILINE)


# Formats ------------------------------------------------------------------------------------------------

EXPECTED = """\
A  {a}
   4 recorded steps, the last at step 30; 4 sites; 2 open findings
B  {b}
   3 recorded steps, the last at step 40, all of 4 processes; 4 sites; 2 open findings

Findings, by the step at which they were first told: 1 open only in B, 1 only in A
    severity         rule        layer  A               B
  only in A (1)
    WARNING          dead-units  in     0, resolved 20  -
  only in B (1)
    INFO             off-center  in     -               40, open
  in both (2)
    ERROR / WARNING  dead-units  act    10, open        20, open
    WARNING          dead-units  last   30, open        20, resolved 40

Step 20 of both, which have 2 recorded steps in common
                       A  ->      B  difference
  grad norm            1  ->      8  x8.00
  clip coefficient  100%  ->  50.0%  -50.0 points
  processes            -  ->      4  only in B

Layers: 3 in both, 2 of them differ, the most different first
                     A  ->      B  difference
  act  (ReLU -> Tanh)
    rms              2  ->    0.5  /4.00
    mean energy  25.0%  ->     0%  -25.0 points
    saturated        -  ->  12.5%  only in B
    dead units   50.0%  ->      -  only in A
    grad rms      0.25  ->   0.25  =
  in  (Linear)
    rms              1  ->    1.5  x1.50
    grad rms       0.5  ->    0.5  =

Update ratios of parameters: 1 in both, 1 of them differ, the most different first
         A  ->      B  difference
  w  0.001  ->  0.004  x4.00

Only in one of them
           kind
  layers only in A (1)
    last   Linear
  layers only in B (1)
    new    Dropout
  parameters only in A (1)
    old    trained
  parameters only in B (1)
    fresh  frozen

x2: twice as much in B; /2: half. In the order, 10 points weigh as much as a factor of two.
"""


def test_the_text_of_a_comparison(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(two[0].parent)
    text = render_comparison_text(compared((Path("relu"), Path("tanh"))), 10)
    assert text == EXPECTED.format(a="relu", b="tanh")


def test_the_markdown_has_the_same_rows_as_tables(two: tuple[Path, Path]) -> None:
    lines = render_comparison_markdown(compared(two), 10).splitlines()
    assert lines[0] == "## Two runs compared"
    for row in (
        "| in both (2) | ERROR / WARNING | dead-units | act | 10, open | 20, open |",
        "| clip coefficient | 100% | 50.0% | -50.0 points |",
        "| act  (ReLU -&gt; Tanh) | rms | 2 | 0.5 | /4.00 |",
        "| w | 0.001 | 0.004 | x4.00 |",
        "| layers only in B (1) | new | Dropout |",
    ):
        assert row in lines, row
    assert "### Layers: 3 in both, 2 of them differ, the most different first" in lines


def test_the_json_is_strict_and_leaves_nothing_out(two: tuple[Path, Path]) -> None:
    document = json.loads(render_comparison_json(compared(two)), parse_constant=refuse_constant)
    assert (document["version"], document["common_steps"], document["notes"]) == (1, 2, [])
    assert document["a"] == {
        "name": str(two[0]), "recorded_steps": 4, "last_step": 30, "compared_step": 20, "open_findings": 2,
        "worst": "error", "problems": [],
    }  # fmt: skip
    assert [layer["name"] for layer in document["layers"]["both"]] == ["act", "in", "even"]
    act = document["layers"]["both"][0]
    assert act["kind"] == {"a": "ReLU", "b": "Tanh"}
    assert act["numbers"]["rms"] == {"a": 2.0, "b": 0.5, "difference": -2.0, "measure": "log2(b / a)"}
    assert act["numbers"]["saturated_fraction"] == {"a": None, "b": 0.125, "difference": None, "measure": "b - a"}
    assert document["layers"]["only_b"] == [{"name": "new", "kind": "Dropout"}]
    assert document["parameters"]["both"][0]["state"] == {"a": "trained", "b": "trained"}
    assert document["run"]["grad_norm_total"]["difference"] == 3.0
    assert [f["b"] and f["b"]["step"] for f in document["findings"]] == [20, 20, 40, None]


def test_infinite_differences_stay_strict_json() -> None:
    a, b = (Snapshot(step=0, sites={"act": site(rms=rms)}) for rms in (0.0, math.inf))
    document = json.loads(render_comparison_json(compare(run(a), run(b))), parse_constant=refuse_constant)
    rms = document["layers"]["both"][0]["numbers"]["rms"]
    assert (rms["a"], rms["b"], rms["difference"]) == (0.0, "inf", "inf")


def many(n: int, rms: float, extra: str) -> Run:
    sites = {f"blocks.{i}.act": site(i, rms=rms) for i in range(n)}
    sites |= {f"{extra}.{i}": site(n + i) for i in range(n)}
    parameters = {f"blocks.{i}.weight": parameter(update_ratio=rms) for i in range(n)}
    findings = [finding(f"{extra}.{i}") for i in range(n)]
    return run(Snapshot(step=0, sites=sites, parameters=parameters), findings=findings, problems=["broken"] * n)


def test_thousands_of_layers_are_cut_and_counted() -> None:
    result = compare(many(3000, 1.0, "a"), many(3000, 2.0, "b"))
    text = render_comparison_text(result, 4)
    assert len(text.splitlines()) < 90
    for left_out in (
        "(2996 more layers; --limit shows more, --format json all)",
        "(2996 more parameters; --limit",
        "(5992 more findings; --limit",
        "(5992 more names; --limit",
        "note: A: (2996 more notes; --limit",
    ):
        assert left_out in text
    assert "blocks.3.act" in text
    assert "blocks.4.act" not in text
    assert len(json.loads(render_comparison_json(result))["layers"]["both"]) == 3000


def test_nothing_is_said_to_be_left_out_that_is_not() -> None:
    assert "more" not in render_comparison_text(compare(many(4, 1.0, "a"), many(4, 2.0, "b")), 4)
    assert "1 more layer;" in render_comparison_text(compare(many(5, 1.0, "a"), many(5, 2.0, "b")), 4)


def test_layers_without_a_difference_are_counted_and_not_shown() -> None:
    text = render_comparison_text(compare(many(3, 1.0, "a"), many(3, 1.0, "a")), 10)
    assert "Layers: 6 in both, no difference\n" in text
    assert "blocks" not in text
    assert "x2:" not in text, "no legend without what it explains"


HOSTILE = "a\x1b[2J\nb\u202e|`<img src=x>`[x](http://e.vil)*слой*" + "z" * 300


def hostile(name: str, rms: float) -> Run:
    sites = {HOSTILE: site(kind=HOSTILE, rms=rms), HOSTILE + name: site(kind=HOSTILE)}
    parameters = {HOSTILE: parameter(update_ratio=rms), HOSTILE + name: parameter()}
    last = Snapshot(step=2**60, sites=sites, parameters=parameters)
    findings = [finding(HOSTILE, 10**80, rule="a" * 90), finding(HOSTILE, 1, resolved_step=10**80)]
    return Run(HOSTILE, [last], findings, [HOSTILE])


def test_hostile_names_stay_text_on_lines_of_at_most_100_characters() -> None:
    text = render_comparison_text(compare(hostile("a", 1.0), hostile("b", 2.0)), 10)
    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.splitlines())) == 100
    assert r"a\x1b[2J\nb\u202e" in text


def test_hostile_names_do_not_become_markup() -> None:
    markdown = render_comparison_markdown(compare(hostile("a", 1.0), hostile("b", 2.0)), 10)
    assert markdown.replace("\n", "").isprintable()
    for live in ("<img", "](http", "http://", "`<", "*слой*"):
        assert live not in markdown.replace("\\*", "").replace("\\`", "").replace("\\[", "").replace("\\]", "")
    for table in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_names_that_are_too_long_are_cut_in_the_middle_in_text_only() -> None:
    name = "encoder." * 20 + "weight"
    a, b = (
        run(Snapshot(step=0, parameters={n: parameter(update_ratio=ratio) for n in (name, "w")}))
        for ratio in (0.5, 1.0)
    )
    result = compare(a, b)
    text = render_comparison_text(result, 10)
    assert name not in text
    assert re.search(r"^  encoder\..*….*encoder\.weight  0\.5  ->  1  x2\.00$", text, re.MULTILINE)
    assert re.search(r"^  w {70,}0\.5  ->  1  x2\.00$", text, re.MULTILINE), "only the name gives way"
    assert name in render_comparison_markdown(result, 10)
    assert name in render_comparison_json(result)


def test_the_columns_of_numbers_are_aligned(two: tuple[Path, Path]) -> None:
    text = render_comparison_text(compared(two), 10)
    layers = text[text.index("Layers: ") : text.index("Update ratios")].splitlines()[1:]
    assert len({line.index("  ->  ") for line in layers if "  ->  " in line}) == 1


# Strange runs -------------------------------------------------------------------------------------------


def test_a_run_without_a_step_is_compared_by_its_findings() -> None:
    result = compare(run(findings=[finding()]), run(relu_snapshot(0)), 5)
    assert result.steps is None
    text = render_comparison_text(result, 10)
    assert "note: A has no recorded step\n" in text
    assert "only in A (1)" in text
    assert "Layers" not in text
    assert json.loads(render_comparison_json(result))["a"]["compared_step"] is None
    assert render_comparison_markdown(result, 10)


def test_a_run_that_saw_no_site_says_so() -> None:
    text = render_comparison_text(compare(run(Snapshot(step=0, sites_selected=31)), run(relu_snapshot(0))), 10)
    assert "0 of 31 sites ran in training mode" in text
    assert "Layers: none in both" in text
    assert "layers only in B (4)" in text


def test_a_damaged_log_is_compared_as_far_as_it_goes(two: tuple[Path, Path]) -> None:
    (event_file,) = two[1].iterdir()
    event_file.write_bytes(event_file.read_bytes()[:-5])
    result = compared(two)
    assert result.steps == Steps(20, 20, 2)
    text = render_comparison_text(result, 10)
    assert "\nnote: B: events.out." in text
    assert "cut off" in " ".join(text.split())


def test_the_same_directory_twice_differs_in_nothing_and_says_so(two: tuple[Path, Path]) -> None:
    (two[0].parent / "link").symlink_to(two[0])
    result = compared((two[0], two[0].parent / "link"))
    assert result.notes == ("A and B are the same run",)
    assert "Layers: 4 in both, no difference" in render_comparison_text(result, 10)


# Which run ----------------------------------------------------------------------------------------------


def several(tmp_path: Path) -> Path:
    """Two monitors with prefixes and one without in one directory, and a run with a prefix in one below."""
    root = tmp_path / "gan"
    for prefix in ("", "gan_d", "gan_g"):
        log(root, relu_snapshot(0), prefix=prefix)
    log(root / "a run", relu_snapshot(0), prefix="p")
    return root


def test_a_directory_of_several_runs_names_each_of_them(tmp_path: Path) -> None:
    root = several(tmp_path)
    with pytest.raises(SeveralRuns) as caught:
        read_run(str(root))
    first, *names = str(caught.value).split("\n  ")
    assert first == f"{root} holds 4 runs; give one of them:"
    assert sorted(names) == sorted([f"'{root}/a run'", f"{root}:", f"{root}:gan_d", f"{root}:gan_g"])


def test_every_name_that_is_told_names_its_run(tmp_path: Path) -> None:
    root = several(tmp_path)
    for name, prefix in (
        (f"{root}/a run", "p"),
        (f"{root}:", ""),
        (f"{root}:gan_d", "gan_d"),
        (f"{root}/:gan_g", "gan_g"),
    ):
        found = read_run(name)
        assert found.prefix == prefix
        assert found.name == name.replace("/:", ":")


def test_a_run_above_another_is_named_by_its_directory_and_a_colon(tmp_path: Path) -> None:
    log(tmp_path, relu_snapshot(3))
    log(tmp_path / "below", relu_snapshot(4))
    with pytest.raises(SeveralRuns) as caught:
        read_run(str(tmp_path))
    names = str(caught.value).split("\n  ")[1:]
    assert names == [str(tmp_path / "below"), f"{tmp_path}:"]
    assert [read_run(name).steps for name in names] == [[4], [3]]


def test_two_monitors_of_one_directory_are_not_the_same_run(tmp_path: Path) -> None:
    root = several(tmp_path)
    assert compare(read_run(f"{root}:gan_d"), read_run(f"{root}:gan_g")).notes == ()


def test_one_run_below_a_directory_needs_no_name_of_its_own(tmp_path: Path) -> None:
    log(tmp_path / "logs" / "version_0", relu_snapshot(0))
    assert read_run(str(tmp_path)).name == str(tmp_path / "logs" / "version_0")


def test_what_cannot_be_read_beside_the_run_is_told(tmp_path: Path) -> None:
    log(tmp_path / "good", relu_snapshot(0))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "events.out.tfevents.x").write_bytes(b"\xff" * 100)
    (problem,) = read_run(str(tmp_path)).problems
    assert problem.startswith("bad: events.out.tfevents.x is damaged")


def test_a_prefix_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    root = several(tmp_path)
    with pytest.raises(ReadError, match="no steps of a monitor with the prefix 'gan_x'; it has: '', 'gan_d', 'gan_g'"):
        read_run(f"{root}:gan_x")
    with pytest.raises(ReadError, match="with the prefix 'p'; it has: none"):
        log(tmp_path / "deep" / "er", relu_snapshot(0), prefix="p")
        read_run(f"{tmp_path / 'deep'}:p")


def test_a_directory_whose_name_has_a_colon_is_that_directory(tmp_path: Path) -> None:
    log(tmp_path / "run", relu_snapshot(0), prefix="b")
    log(tmp_path / "run:b", relu_snapshot(7))
    assert read_run(f"{tmp_path}/run:b").steps == [7]


def test_many_runs_are_cut_and_counted(tmp_path: Path) -> None:
    first = log(tmp_path / "0", relu_snapshot(0))
    for i in range(1, 23):
        shutil.copytree(first, tmp_path / str(i))
    with pytest.raises(SeveralRuns, match="holds 23 runs") as caught:
        read_run(str(tmp_path))
    assert str(caught.value).endswith(f"\n  {tmp_path / '19'}\n  … and 3 more")


# The command --------------------------------------------------------------------------------------------


def process(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *(("-c", code) if code else ("-m", "actdiag")), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_the_command_prints_the_comparison(two: tuple[Path, Path]) -> None:
    done = process("compare", *map(str, two))
    assert (done.returncode, done.stderr) == (OK, "")
    assert done.stdout == EXPECTED.format(a=two[0], b=two[1])


def test_the_command_loads_neither_torch_nor_lightning(two: tuple[Path, Path]) -> None:
    code = (
        "import sys; from actdiag.cli import main; main(['compare', *sys.argv[1:], '--format', 'json']);"
        "print([n for n in ('torch', 'pytorch_lightning', 'lightning', 'tensorflow') if n in sys.modules])"
    )
    assert process(*map(str, two), code=code).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("form", "begins"), [("text", "A  "), ("markdown", "## Two runs"), ("json", '{"version": 1')])
def test_the_command_has_three_formats(two: tuple[Path, Path], capsys: Captured, form: str, begins: str) -> None:
    assert main(["compare", *map(str, two), "--format", form]) == OK
    assert capsys.readouterr().out.startswith(begins)


def test_the_command_takes_a_step_and_a_limit(two: tuple[Path, Path], capsys: Captured) -> None:
    assert main(["compare", *map(str, two), "--step", "0", "--limit", "1"]) == OK
    out = capsys.readouterr().out
    assert "\nStep 0 of both" in out
    assert "(1 more layer; --limit shows more" in out


def test_a_run_that_cannot_be_read_is_said_and_nothing_is_printed(two: tuple[Path, Path], capsys: Captured) -> None:
    for places in ((two[0], two[0] / "x"), (two[0] / "x", two[0])):
        assert main(["compare", *map(str, places)]) == NOTHING
        assert capsys.readouterr() == ("", f"actdiag compare: {two[0] / 'x'} does not exist\n")


def test_several_runs_are_wrong_usage(two: tuple[Path, Path], capsys: Captured) -> None:
    assert main(["compare", str(two[0]), str(two[0].parent)]) == USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"actdiag compare: {two[0].parent} holds 2 runs; give one of them:\n  {two[0]}\n  {two[1]}\n"


def test_a_name_that_is_too_long_is_no_traceback(two: tuple[Path, Path], capsys: Captured) -> None:
    assert main(["compare", str(two[0]), "x" * 5000]) == NOTHING
    assert capsys.readouterr().err.startswith("actdiag compare: xxx")


# Laws ---------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c.d", "слой", "x\x1b[2J", ""])
NUMBERS = st.none() | st.floats(width=32) | st.sampled_from([0.0, 1.0, 0.5, math.inf])
SITES = st.builds(
    lambda kind, numbers: site(kind=kind, **dict(zip((m.name for m in LAYER_MEASURES), numbers, strict=True))),
    st.sampled_from(["ReLU", "Tanh"]),
    st.tuples(*[NUMBERS] * len(LAYER_MEASURES)),
)
PARAMETERS = st.builds(ParameterStats, state=st.sampled_from(get_args(ParameterState)), update_ratio=NUMBERS)
SNAPSHOTS = st.builds(
    Snapshot,
    step=st.integers(0, 40),
    sites=st.dictionaries(NAMES, SITES, max_size=4),
    parameters=st.dictionaries(NAMES, PARAMETERS, max_size=4),
    grad_norm_total=NUMBERS,
    clip_coefficient=NUMBERS,
    ranks=st.none() | st.integers(1, 9),
)
FINDINGS = st.builds(
    finding,
    NAMES,
    st.integers(0, 40),
    rule=st.sampled_from(["dead-units", "off-center"]),
    severity=st.sampled_from(SEVERITIES),
    resolved_step=st.none() | st.integers(0, 40),
)
RUNS = st.builds(
    lambda snapshots, findings: run(*sorted(snapshots, key=lambda s: s.step), findings=findings),
    st.lists(SNAPSHOTS, max_size=3, unique_by=lambda s: s.step),
    st.lists(FINDINGS, max_size=5),
)
STEPS = st.none() | st.integers(0, 40)


@settings(max_examples=150, deadline=None)
@given(a=RUNS, step=STEPS)
def test_any_run_compared_with_itself_shows_no_difference_and_nothing_on_one_side(a: Run, step: int | None) -> None:
    result = compare(a, a, step)
    for match in (result.layers, result.parameters):
        assert (match.only_a, match.only_b) == ((), ())
        assert not any(pair.differs or pair.weight < (0.0,) * len(pair.differences) for pair in match.both)
    assert all(d.change == 0.0 and difference(d) == "=" for d in result.run)
    assert all(pair.a == pair.b for pair in result.findings)
    text = render_comparison_text(result, 10)
    assert "differ," not in text and "only in A (" not in text and "only in B (" not in text


def mirrored(c: Comparison) -> Comparison:
    """The comparison of B with A, from that of A with B."""

    def numbers(differences: Sequence[Difference]) -> tuple[Difference, ...]:
        return tuple(Difference(d.measure, d.b, d.a) for d in differences)

    def match(m: Match) -> Match:
        return Match(tuple(Pair(p.name, p.b, p.a, numbers(p.differences)) for p in m.both), m.only_b, m.only_a)

    steps = c.steps and Steps(c.steps.b, c.steps.a, c.steps.common, c.steps.note)
    findings = tuple(FindingPair(p.rule, p.layer, p.b, p.a) for p in c.findings)
    return Comparison(c.b, c.a, steps, findings, numbers(c.run), match(c.layers), match(c.parameters), c.notes)


def without_notes(c: Comparison) -> Comparison:
    return replace(c, notes=(), steps=c.steps and replace(c.steps, note=""))


@settings(max_examples=150, deadline=None)
@given(a=RUNS, b=RUNS, step=STEPS)
def test_comparing_b_with_a_mirrors_comparing_a_with_b(a: Run, b: Run, step: int | None) -> None:
    there, back = compare(a, b, step), compare(b, a, step)
    assert without_notes(back) == without_notes(mirrored(there))
    assert len(back.notes) == len(there.notes)
    for one, other in zip(there.run, back.run, strict=True):
        assert one.change == (None if other.change is None else -other.change)
        assert one.size == other.size


@settings(max_examples=150, deadline=None)
@given(a=RUNS, b=RUNS, limit=st.integers(1, 3))
def test_any_two_runs_can_be_shown_in_every_format(a: Run, b: Run, limit: int) -> None:
    result = compare(a, b)
    text = render_comparison_text(result, limit)
    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.splitlines())) <= 100
    assert render_comparison_markdown(result, limit).replace("\n", "").isprintable()
    assert json.loads(render_comparison_json(result), parse_constant=refuse_constant)["version"] == 1


def test_what_is_compared_are_numbers_of_a_snapshot() -> None:
    assert all(hasattr(site(), measure.name) for measure in LAYER_MEASURES)
    assert all(hasattr(Snapshot(step=0), measure.name) for measure in RUN_MEASURES)
