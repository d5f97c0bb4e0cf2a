"""The parts of the tab's screen that are no drawing, in Chromium, against values made in Python; and rules for all.

The modules are served to a blank page out of the folder; there is no TensorBoard here.
"""

from __future__ import annotations

import csv
import io
import math
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actdiag.tensorboard.frame import encode_frame
from actdiag.tensorboard.metrics import METRICS
from tests.browser import STATIC, WHERE_CHROMIUM_IS, chromium

ADDRESS = "http://modules.test"


def in_a_browser(test: Any) -> Any:
    """Skipped without Chromium; beside the other tests that use one."""
    return WHERE_CHROMIUM_IS(pytest.mark.xdist_group("browser")(test))


Run = Callable[..., Any]


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with chromium() as browser:
        context = browser.new_context()
        context.route(f"{ADDRESS}/**", _serve)
        context.set_default_timeout(8000)
        yield context


def _serve(route: Any) -> None:
    name = route.request.url.split("#")[0].removeprefix(f"{ADDRESS}/")
    if name == "blank":
        route.fulfill(content_type="text/html", body="<!doctype html><title>blank</title>")
    else:
        route.fulfill(content_type="text/javascript", body=(STATIC / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def blank(context: Any) -> Any:
    page = context.new_page()
    page.goto(f"{ADDRESS}/blank")
    return page


@pytest.fixture
def run(blank: Any) -> Run:
    """The value of an expression over a module `m` and an argument `a`."""

    def run(module: str, expression: str, argument: Any = None) -> Any:
        body = f"async (a) => {{ const m = await import('/{module}.js'); return ({expression}); }}"
        return blank.evaluate(body, argument)

    return run


NAMES = ["stem", "a.0.x", "a.0.y", "a.1.x", "b.x"]


# Layers as rows -----------------------------------------------------------------------------------------


@in_a_browser
@pytest.mark.parametrize(
    ("folded", "words", "expected"),
    [
        ([], "", [["stem", [0]], ["a.0.x", [1]], ["a.0.y", [2]], ["a.1.x", [3]], ["b.x", [4]]]),
        (["a"], "", [["stem", [0]], ["▸ a (3)", [1, 2, 3]], ["b.x", [4]]]),
        (["a", "a.0"], "", [["stem", [0]], ["▸ a (3)", [1, 2, 3]], ["b.x", [4]]]),
        (["a.0"], "", [["stem", [0]], ["▸ a.0 (2)", [1, 2]], ["a.1.x", [3]], ["b.x", [4]]]),
        (["b"], "", [["stem", [0]], ["a.0.x", [1]], ["a.0.y", [2]], ["a.1.x", [3]], ["b.x", [4]]]),
        (["a"], "X", [["▸ a (2)", [1, 3]], ["b.x", [4]]]),
        ([], "a. y", [["a.0.y", [2]]]),
        ([], "nothing", []),
    ],
)
def test_layers_are_rows_in_their_order_and_folded_modules_are_one(
    run: Run, folded: list[str], words: str, expected: list[Any]
) -> None:
    found = run(
        "tree", "m.rowsOf(a[0], new Set(a[1]), a[2]).rows.map((r) => [r.label, r.members])", [NAMES, folded, words]
    )
    assert found == expected


@in_a_browser
def test_brackets_stand_around_the_layers_of_a_module(run: Run) -> None:
    found = run("tree", "m.rowsOf(a, new Set(), '').brackets.map((b) => [b.key, b.from, b.to, b.depth])", NAMES)
    assert sorted(found) == [["a", 1, 4, 0], ["a.0", 1, 3, 1]]


@in_a_browser
def test_a_module_around_all_layers_is_not_folded(run: Run) -> None:
    assert run("tree", "[...m.groups(a)]", ["net.a.x", "net.a.y", "net.b"]) == [["net.a", [0, 1]]]


@in_a_browser
def test_of_modules_around_the_same_layers_the_inner_one_is_folded(run: Run) -> None:
    names = ["in", *(f"net.blocks.{block}.{layer}" for block in range(2) for layer in "ab")]
    found = run("tree", "[...m.groups(a).keys()]", names)
    assert sorted(found) == ["net.blocks", "net.blocks.0", "net.blocks.1"]


@in_a_browser
def test_a_long_name_keeps_its_end_where_it_differs(run: Run) -> None:
    assert run("format", "m.ending(a, 12)", "backbone.layers.7.act") == "…ayers.7.act"
    assert run("format", "m.ending(a, 5)", "fc.1") == "fc.1"


@in_a_browser
@pytest.mark.parametrize(
    "message,place", [("fc:in: 3 of 64 elements are NaN", "fc:in"), ("3 of 64", "fc"), ("fc: all of it", "fc")]
)
def test_a_finding_of_an_input_is_seen_at_the_input(run: Run, message: str, place: str) -> None:
    info = {"sites": [{"name": "fc:in"}, {"name": "fc"}]}
    assert run("tools", "m.placeOf(a[0], a[1])", [info, {"message": message, "layer": "fc"}]) == place


@in_a_browser
def test_a_folded_row_holds_the_least_and_the_most_of_its_layers(run: Run) -> None:
    nan, inf = math.nan, math.inf
    low = [[1.0, nan, nan, -inf], [2.0, 5.0, nan, 0.0], [0.5, 7.0, nan, 3.0]]
    high = [[1.5, nan, nan, 1.0], [3.0, 5.0, nan, inf], [0.75, 7.0, nan, 3.0]]
    rows = [{"members": [0, 1, 2]}, {"members": [1]}]
    flat = [value for row in low for value in row], [value for row in high for value in row]
    script = """(({low, high}) => [[...low], [...high]])(
        m.combine(a[0], Float32Array.from(a[1]), Float32Array.from(a[2]), 4))"""
    found = run("tree", script, [rows, *flat])
    with np.errstate(invalid="ignore"):
        expected = [np.fmin.reduce(low), np.fmax.reduce(high)]
    np.testing.assert_array_equal(np.array(found[0]).reshape(2, 4), [expected[0], low[1]])
    np.testing.assert_array_equal(np.array(found[1]).reshape(2, 4), [expected[1], high[1]])


# Numbers as text ----------------------------------------------------------------------------------------


@in_a_browser
def test_numbers_of_a_csv_are_read_back_exactly(run: Run) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = np.concatenate([values[np.isfinite(values)], np.float32([0, -0.0, 1e-45, 3.4028235e38, 0.1, 1 / 3])])
    texts = run("format", "a.map((v) => m.exact(Math.fround(v)))", [float(value) for value in values])
    np.testing.assert_array_equal(np.array([float(text) for text in texts], np.float32), values)
    assert run("format", "[NaN, Infinity, -Infinity].map(m.exact)") == ["", "Infinity", "-Infinity"]
    few = run("format", "[0.1, 1 / 3].map((v) => m.exact(Math.fround(v)))")
    assert few == ["0.1", "0.33333334"], "as few digits as tell it apart"


@in_a_browser
def test_a_share_is_nothing_or_all_only_if_it_is_exactly_that(run: Run) -> None:
    found = run("format", "a.map(m.percent)", [0, 1e-9, 0.0004, 0.5, 0.45678, 0.9996, 1 - 1e-9, 1])
    assert found == ["0 %", "0.1 %", "0.1 %", "50.0 %", "45.7 %", "99.9 %", "99.9 %", "100 %"]
    assert run("format", "[NaN, null, undefined, Infinity].map(m.percent)") == [*["not applicable"] * 3, "infinite"]


@in_a_browser
def test_numbers_are_short_and_never_zero_unless_they_are(run: Run) -> None:
    found = run("format", "a.map(m.number)", [0, 12, 1234, -5, 0.123456, 1.5e-7, -2.5e9, 99999.4, 1e-300])
    assert found == ["0", "12", "1,234", "\u22125", "0.123", "1.5e-7", "\u22122.5e9", "100000", "1e-300"]
    assert run("format", "[NaN, Infinity, -Infinity].map(m.number)") == ["not applicable", "infinite", "minus infinite"]


@in_a_browser
def test_a_csv_keeps_every_cell_and_runs_no_formula(run: Run) -> None:
    rows = [["layer", "x"], ['a,"b"\nc', "1.5"], ["=1+1", "-2.5"], ["@x", "-cmd"], ["+1", "\ttab"]]
    text = run("save", "m.csvOf(a)", rows)
    found = list(csv.reader(io.StringIO(text, newline="")))
    assert found == [["layer", "x"], ['a,"b"\nc', "1.5"], ["'=1+1", "-2.5"], ["'@x", "'-cmd"], ["'+1", "'\ttab"]]


# Scales -------------------------------------------------------------------------------------------------


def metric(name: str, **changed: Any) -> dict[str, Any]:
    return {**METRICS[name].to_dict(), **changed}


@in_a_browser
def test_every_metric_has_a_scale_that_rises_and_is_read_back(run: Run) -> None:
    values = [1e-3, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9]
    script = """a[0].map((metric) => { const s = m.scaleOf(metric, [Float64Array.from(a[1])]);
        return a[1].map((v) => [s.position(v), s.value(s.position(v))]); })"""
    for found in run("scale", script, [[one.to_dict() for one in METRICS.values()], values]):
        positions, back = zip(*found, strict=True)
        assert list(positions) == sorted(positions) and positions[0] >= 0 and positions[-1] <= 1 + 1e-9
        assert back == pytest.approx(values)


@in_a_browser
def test_a_share_is_shown_on_the_whole_scale_and_a_size_by_its_logarithm(run: Run) -> None:
    assert run("scale", "m.scaleOf(a, [[0.2, 0.3]]).position(0.25)", metric("dead_fraction")) == 0.25
    place = "((s) => [0.01, 0.1, 1, 10, 100].map(s.position))(m.scaleOf(a, [[0.02, 50]]))"
    assert run("scale", place, metric("rms")) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert run("scale", "m.scaleOf(a, [[0.02, 50]]).position(0)", metric("rms")) == -math.inf


@in_a_browser
def test_what_is_no_number_has_a_color_of_its_own(run: Run) -> None:
    script = """(async () => { const { SPECIAL } = await import("/color.js"); const s = m.scaleOf(a, [[0, 1]]);
        const paint = m.painter(s, "light"); const { none, infinite } = SPECIAL.light;
        const painted = [NaN, Infinity, -Infinity, 0].map(paint);
        return [none, infinite, infinite, none].map((color, i) => painted[i] === color); })()"""
    assert run("scale", f"await {script}", metric("dead_fraction")) == [True, True, True, False]


@in_a_browser
def test_of_a_column_the_worse_value_is_seen(run: Run) -> None:
    script = "m.worst(m.scaleOf(a[0], [[0.01, 100]]), a[1], a[2])"
    assert run("scale", script, [metric("dead_fraction"), 0.2, 0.7]) == pytest.approx(0.7)
    assert run("scale", script, [metric("grad_rms"), 0.2, 0.7]) == pytest.approx(0.2)
    assert run("scale", script, [metric("rms"), 0.02, 3.0]) == 0.02, "further from 1"
    assert run("scale", script, [metric("rms"), 0.9, 30.0]) == 30


@in_a_browser
def test_colors_are_those_of_oklch(run: Run) -> None:
    found = run(
        "color", "a.map(([l, c, h]) => m.oklch(l, c, h))", [[0.5, 0.1, 30], [0.9, 0.05, 250], [1, 0, 0], [0, 0, 0]]
    )
    assert found == [oklch(0.5, 0.1, 30), oklch(0.9, 0.05, 250), [255, 255, 255], [0, 0, 0]]


def oklch(lightness: float, chroma: float, hue: float) -> list[int]:
    """After Ottosson, in matrices."""
    lab = [lightness, chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))]
    to_lms = [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
    to_rgb = [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.707614701],
    ]
    linear = np.clip(np.array(to_rgb) @ (np.array(to_lms) @ lab) ** 3, 0, 1)
    return [round(255 * (12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055)) for x in linear]


@in_a_browser
@pytest.mark.parametrize("kind", ["alarm", "depth"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_scale_of_colors_goes_one_way_in_lightness(run: Run, kind: str, theme: str) -> None:
    pixels = run("color", "[...m.ramp(a[0], a[1])]", [kind, theme])
    light = [0.2126 * (p & 255) + 0.7152 * (p >> 8 & 255) + 0.0722 * (p >> 16 & 255) for p in pixels]
    steps = np.diff(light) * (1 if theme == "dark" else -1)
    assert len(pixels) == 256 and steps.min() > -2.5 and np.mean(steps) > 0.4


@in_a_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_curves_and_runs_stand_out_from_the_page(run: Run, theme: str) -> None:
    names = [f"run{i}" for i in range(8)]
    script = """(([names, theme]) => { const { page, ink, quiet, curve, second, edge } = m.THEMES[theme];
        return [page, [ink, quiet], [curve, second, edge, ...m.runColors(names, theme).values()]]; })(a)"""
    page, texts, lines = run("color", script, [names, theme])
    assert min(contrast(page, color) for color in texts) >= 4.5, "text"
    assert min(contrast(page, color) for color in lines) >= 3.5, "lines"


def contrast(one: str, other: str) -> float:
    """As WCAG counts it."""
    bright = sorted(luminance(color) for color in (one, other))
    return (bright[1] + 0.05) / (bright[0] + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@in_a_browser
def test_runs_beside_each_other_have_colors_of_their_own(run: Run) -> None:
    names = [f"run{i}" for i in range(8)]
    found = run("color", "[...m.runColors(a, 'dark')]", names)
    assert [name for name, _ in found] == names and len({color for _, color in found}) == 8
    assert found[0][1] == run("color", "m.runColor(a, 'dark')", names[0]), "the first has that of its name"


@in_a_browser
def test_labels_keep_apart_and_those_of_folded_modules_come_first(run: Run) -> None:
    script = "m.labelledRows({ rows: a[0], rowHeight: a[1], strong: (row) => a[2].includes(row) })"
    assert run("rasterpaint", script, [4, 20, []]) == [0, 1, 2, 3]
    assert run("rasterpaint", script, [10, 4, []]) == [0, 4, 8]
    assert run("rasterpaint", script, [10, 4, [5]]) == [0, 5, 9]
    assert run("rasterpaint", script, [0, 4, []]) == []


@in_a_browser
def test_findings_are_told_open_before_over_the_worst_and_the_newest_first(run: Run) -> None:
    told = [("warning", 9, None), ("error", 5, 7), ("info", 20, None), ("error", 1, None), ("error", 3, None)]
    findings = [
        {"severity": severity, "step": step, "resolved_step": over, "layer": "x", "rule": "r"}
        for severity, step, over in told
    ]
    found = run("findings", "m.sorted(a).map((f) => [f.severity, f.step])", findings)
    assert found == [["error", 3], ["error", 1], ["warning", 9], ["info", 20], ["error", 5]]


@in_a_browser
def test_a_finding_says_since_when_and_since_when_it_is_as_bad_as_it_is(run: Run) -> None:
    for risen, over, words in (
        (None, None, "since step 3"), (50, None, "since step 3, error since 50"), (50, 90, "step 3 to 90, resolved"),
    ):  # fmt: skip
        told = {"severity": "error", "step": 3, "severity_step": risen, "resolved_step": over}
        assert run("findings", "m.when(a)", told) == words
    assert run("findings", "m.when(a)", {"severity": "error", "step": 3, "resolved_step": None}) == "since step 3"


# Comparing ----------------------------------------------------------------------------------------------


def stat(rows: list[str], steps: list[int], values: list[list[float]]) -> dict[str, Any]:
    return {"rows": rows, "steps": steps, "values": [value for row in values for value in row]}


DIFFERENCE = """(([a, b, metric]) => { const made = [a, b].map(({ rows, steps, values }) => {
    const [first, low] = [Int32Array.from(steps), Float32Array.from(values)];
    return { rows, exact: true, count: steps.length, first, last: first, low, high: low }; });
    const found = m.difference(made[0], made[1], metric, { metric, position: (v) => v });
    return [found.rows, [...found.first], [...found.low]]; })(a)"""


@in_a_browser
def test_the_difference_is_taken_at_the_steps_of_the_run_with_fewer(run: Run) -> None:
    a = stat(["x", "y", "z"], [0, 5, 10, 15, 20], [[1, 2, 3, 4, 5], [0, 0, 0, 0, math.nan], [9] * 5])
    b = stat(["y", "x"], [0, 10, 20], [[1, 2, 3], [2, 2, 2]])
    rows, steps, values = run("difference", DIFFERENCE, [a, b, metric("mean_energy")])
    assert rows == ["x", "y"] and steps == [0, 10, 20]
    np.testing.assert_array_equal(np.array(values), [1, -1, -3, 1, 2, math.nan])


@in_a_browser
def test_the_difference_of_sizes_is_the_logarithm_of_their_ratio(run: Run) -> None:
    a, b = stat(["x"], [0, 10], [[1, 4]]), stat(["x"], [0, 10], [[2, 1]])
    assert run("difference", DIFFERENCE, [a, b, metric("rms")])[2] == [1, -2]


@in_a_browser
def test_there_is_no_difference_where_a_run_had_not_begun_or_was_over(run: Run) -> None:
    a, b = stat(["x"], [10, 20, 30, 40], [[1, 1, 1, 1]]), stat(["x"], [15, 25], [[2, 3]])
    _, steps, values = run("difference", DIFFERENCE, [a, b, metric("mean_energy")])
    shown = dict(zip(steps, values, strict=True))
    assert all(math.isnan(value) or 15 <= step <= 30 for step, value in shown.items())
    assert 1 in shown.values() or 2 in shown.values()


@in_a_browser
def test_curves_of_runs_at_other_steps_stand_over_one_axis(run: Run) -> None:
    series = [{"first": [0, 10, 20], "last": [0, 10, 20]}, {"first": [5, 10], "last": [5, 10]}]
    assert run("lines", "m.axisOf(a).last", series) == [0, 5, 10, 20]
    shared = [{"first": [0, 4], "last": [3, 9]}] * 2
    assert run("lines", "m.axisOf(a)", shared) == {"first": [0, 4], "last": [3, 9]}


# Frames and addresses -----------------------------------------------------------------------------------


@in_a_browser
def test_frames_are_read_as_they_were_packed(run: Run) -> None:
    arrays = {
        "first": np.array([0, 7, 2**31 - 1], np.int32),
        "low": np.array([[0.1, math.nan, math.inf]], np.float32),
        "states": np.arange(5, dtype=np.uint8),
        "none": np.zeros((0, 3), np.float32),
    }
    data = encode_frame({"rows": ["a", "é▸"], "count": 3}, arrays)
    script = """((f) => ({ rows: f.rows, count: f.count, first: [...f.first], low: [...f.low], states: [...f.states],
        none: f.none.length, kinds: [f.first, f.low, f.states].map((array) => array.constructor.name) }))(
        m.decode(Uint8Array.from(a).buffer))"""
    found = run("source", script, list(data))
    assert found["rows"] == ["a", "é▸"] and found["count"] == 3 and found["none"] == 0
    assert found["first"] == [0, 7, 2**31 - 1] and found["states"] == [0, 1, 2, 3, 4]
    assert found["low"] == pytest.approx(
        [struct.unpack("f", struct.pack("f", 0.1))[0], math.nan, math.inf], nan_ok=True
    )
    assert found["kinds"] == ["Int32Array", "Float32Array", "Uint8Array"]


@in_a_browser
def test_the_state_is_in_the_address_and_what_others_keep_there_stays(context: Any) -> None:
    page = context.new_page()
    page.goto(f"{ADDRESS}/blank#actdiag&p.other.x=1&p.actdiag.run=a%2Fb%26c&p.actdiag.site=50%&p.actdiag.evil=1")
    state = page.evaluate("import('/state.js').then((m) => m.read())")
    assert (state["run"], state["site"], state["view"]) == ("a/b&c", "50%", "overview") and "evil" not in state
    written = {**state, "view": "layer", "site": "x#0", "evil": "1"}
    page.evaluate("(state) => import('/state.js').then((m) => m.write(state))", written)
    assert (
        page.url
        == f"{ADDRESS}/blank#actdiag&p.other.x=1&p.actdiag.view=layer&p.actdiag.run=a%2Fb%26c&p.actdiag.site=x%230"
    )
    assert page.evaluate("import('/state.js').then((m) => m.read())")["site"] == "x#0"
    page.close()


@in_a_browser
@pytest.mark.parametrize("name", sorted(path.stem for path in STATIC.glob("*.js")))
def test_every_module_loads_by_itself(run: Run, name: str) -> None:
    assert run(name, "Object.keys(m).length") >= 1


# The sources --------------------------------------------------------------------------------------------

MODULES = sorted(STATIC.glob("*.js"))
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_LINE = 300, 50, 170
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|document\.write|DOMParser|\beval\b|new Function"
    r"|setTimeout\(\s*[\"'`]|https?://(?!www\.w3\.org/2000/svg)"
)
_OPENS = re.compile(r"^( *)(?!.*\b(?:if|for|while|switch|catch|class)\b \(?.*\{$)[^/*]*(?:\)|=>) \{$")


def functions(text: str) -> Iterator[tuple[str, int]]:
    """What begins each function, and its lines; by indentation, which is kept in these files."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        found = _OPENS.match(line)
        if found:
            end = next(j for j in range(i + 1, len(lines)) if re.match(rf"{found[1]}\}}", lines[j]))
            yield line.strip(), end - i + 1


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_files_functions_and_lines_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LONGEST_FILE
    assert [head for head, lines in functions(text) if lines > LONGEST_FUNCTION] == []
    assert [line for line in text.splitlines() if len(line) > LONGEST_LINE] == []


def test_the_check_of_functions_can_fail() -> None:
    body = "\n".join(["    x();"] * 60)
    for head in ("function f(a) {", "export async function f() {", "const f = (a) => {"):
        assert [lines for _, lines in functions(f"{head}\n{body}\n}}\n")] == [62], head
    assert [lines for _, lines in functions(f"class A {{\n  #f({{ a, b }}) {{\n{body}\n  }}\n}}\n")] == [62]
    assert list(functions("if (a) {\n  x();\n}\n")) == []


@pytest.mark.parametrize("path", sorted(STATIC.iterdir()), ids=lambda path: path.name)
def test_nothing_of_a_log_can_become_markup_and_nothing_is_fetched_from_elsewhere(path: Path) -> None:
    assert FORBIDDEN.findall(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line", ["a.innerHTML = b", "eval(x)", "import 'https://cdn'", "document.write(1)", "new Function('x')"]
)
def test_the_check_of_markup_can_fail(line: str) -> None:
    assert FORBIDDEN.search(line)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_modules_import_each_other_by_file_and_every_export_is_explained(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    imported = re.findall(r'^(?:import .*|\} )from "(.*)";$', text, re.MULTILINE)
    assert all(name.startswith("./") and (STATIC / name[2:]).exists() for name in imported)
    assert text.startswith("/**\n * "), "what it is for"
    lines = text.splitlines()
    for i, line in enumerate(lines):
        exported = re.match(r"export (?:async )?(?:function|const|class) (\w+)", line)
        if exported:
            assert lines[i - 1].endswith("*/"), f"{exported[1]} is not explained"
