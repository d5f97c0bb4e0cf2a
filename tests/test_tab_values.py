"""The screen of the tab says what was logged: numbers, colors, findings, tables and files; and it stays text."""

from __future__ import annotations

import csv
import io
import struct
import xml.etree.ElementTree as ElementTree

import pytest

from tests import screen_runs as runs
from tests.browser import WHERE_CHROMIUM_IS, pixel_of, tip
from tests.screen import Open, charts_of, f32, heat_of, saved, see, state_of
from tests.screen_runs import HOSTILE, HOSTILE_LAYER, LAYERS, STEPS, VIEWS

pytestmark = [WHERE_CHROMIUM_IS, pytest.mark.xdist_group("browser")]

ACTS = [name for name in LAYERS if runs.is_activation(name)]


# Values -----------------------------------------------------------------------------------------------


def test_the_tooltip_tells_the_number_that_was_logged(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="grad_rms")
    heat = heat_of(page, len(LAYERS), len(STEPS))
    for row, column in ((0, 0), (4, 20), (11, 39)):
        said = heat.hover(row, column)
        assert said["name"] == LAYERS[row] and f"step {STEPS[column]}" in said["lines"]
        assert float(said["value"]) == pytest.approx(f32(1e-3 * 2.0**-row), rel=5e-3)
    assert heat.hover(0, 3)["value"] == "infinite"


def test_what_does_not_apply_is_said_to_be_so_and_never_zero(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="dead_fraction")
    heat = heat_of(page, len(ACTS), len(STEPS))
    assert heat.hover(0, 1)["value"] == "not applicable"
    assert heat.hover(1, 0)["value"] == "0 %"
    see(page, "9 rows to which it does not apply are left out")


def test_a_cell_has_the_color_that_the_legend_gives_to_its_value(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="dead_fraction")
    heat = heat_of(page, len(ACTS), len(STEPS))
    legend = page.locator(".legend canvas")
    bar = 340
    for row, column in ((1, 0), (1, 15), (2, 39), (2, 30), (0, 20)):
        value = runs.dead_fraction(LAYERS.index(ACTS[row]), STEPS[column])
        assert value is not None
        expected = pixel_of(legend, value * (bar - 1), 21)
        assert heat.color(row, column) == pytest.approx(expected, abs=4), (row, column)
    assert heat.color(0, 0) == pixel_of(legend, bar + 28, 20), "not applicable"
    page.locator("[data-metric=grad_rms]").click()
    see(page, "Gradient scale", ".panel h3")
    assert heat_of(page, len(LAYERS), len(STEPS)).color(0, 3) == pixel_of(legend, bar + 28, 36), "not finite"


def test_all_of_a_thousand_steps_are_there(open_tab: Open) -> None:
    page = open_tab({"viewport": {"width": 1900, "height": 900}}, run="long", metric="dead_fraction")
    see(page, "steps 0 to 1,299, every recorded step is a column")
    page.locator(".overview .raster").focus()
    for key, steps in (("Home", "step 0"), ("End", "step 1,299"), ("ArrowLeft", "step 1,298")):
        page.keyboard.press(key)
        assert steps in tip(page.locator("body"))["lines"]


def test_more_steps_than_pixels_show_the_worst_of_each_column(open_tab: Open) -> None:
    page = open_tab({"viewport": {"width": 480, "height": 900}}, run="long", metric="dead_fraction")
    see(page, "the worst of each is shown")
    page.locator(".overview .raster").focus()
    page.keyboard.press("Home")
    said = tip(page.locator("body"))
    first, last = (int(word) for word in said["lines"][0].removeprefix("steps ").split(" to "))
    assert first == 0 and last > 0
    assert said["value"] == f"0 % to {last}.0 %"


def test_a_resumed_run_goes_on_where_it_was_resumed(open_tab: Open) -> None:
    page = open_tab(run="resumed", metric="rms")
    see(page, "step 45 · 46 recorded steps")
    page.get_by_role("button", name="Table").click()
    heads = page.locator("thead th").all_text_contents()[1:]
    steps = [int(head.removeprefix("step ")) for head in heads]
    assert steps == sorted(set(steps)) and steps[-1] == 45


# Findings ---------------------------------------------------------------------------------------------


def test_both_findings_of_one_step_are_shown_and_lead_to_their_layers(open_tab: Open) -> None:
    page = open_tab(run="sick")
    see(page, "1 error and 2 warnings in 3 layers", ".verdict")
    told = [text.split("since")[0] for text in page.locator(".summary > .findings .finding").all_text_contents()]
    assert told == [
        f"Dead units{runs.LAST_ACT}More than half of its units are silent",
        "Stalled updateblocks.0.linear.weightMore than half of its units are silent",
        f"Dead units{runs.ACT}More than half of its units are silent",
    ]
    page.get_by_role("button", name=runs.ACT).first.click()
    see(page, "marked: step 200")
    see(page, "Likely cause: a learning rate that is too large.")
    page.get_by_text("Evidence and source").click()
    for text in ("56.3 %", "inf", "3, 4", "Maas et al. 2013"):
        see(page, text, ".detail")
    page.get_by_role("button", name="Overview").click()
    page.get_by_role("button", name="blocks.0.linear.weight").click()
    see(page, "Stalled update", ".detail")
    assert state_of(page)["site"] == "blocks.0.linear", "the layer that owns the parameter"


def test_what_is_over_is_folded_away_and_what_is_healthy_is_said_to_be(open_tab: Open) -> None:
    page = open_tab(run="sick")
    see(page, "1 resolved", "summary")
    assert not page.get_by_role("button", name="Off center").is_visible()
    page.get_by_text("1 resolved").click()
    see(page, "step 20 to 90, resolved", "details")
    page.locator("select").first.select_option("healthy")
    see(page, "Nothing is wrong in 59 recorded steps", ".verdict")
    assert page.locator(".findings").count() == 0, "no empty list"


# What a log holds is text -----------------------------------------------------------------------------


@pytest.mark.parametrize("view", ["overview", "layer", "compare"])
def test_names_and_words_of_a_log_stay_text(open_tab: Open, view: str) -> None:
    page = open_tab(run=HOSTILE, view=view, site=HOSTILE_LAYER, vs="%2C".join(["sick", HOSTILE]), metric="rms")
    for summary in page.locator("summary").all():
        summary.click()
    page.get_by_role("button", name="Table").first.click()
    see(page, HOSTILE, "main")
    assert page.evaluate(
        "[window.pwned, window.parent.pwned, document.querySelectorAll('img, script[src=x]').length]"
    ) == [None, None, 0]


# Charts as tables and files ---------------------------------------------------------------------------


def test_a_csv_holds_the_numbers_exactly(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="rms")
    text = saved(page, page.locator(".panel").first, "CSV").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(LAYERS) * len(STEPS)
    for row in rows:
        expected = f32(runs.rms(LAYERS.index(row["layer"]), int(row["first_step"])))
        assert f32(float(row["rms_low"])) == f32(float(row["rms_high"])) == expected


def test_a_csv_leaves_empty_what_does_not_apply(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="dead_fraction")
    rows = list(csv.DictReader(io.StringIO(saved(page, page.locator(".panel").first, "CSV").decode())))
    assert [row["dead_fraction_high"] for row in rows if row["layer"] == ACTS[0]][:3] != ["0", "0", "0"]
    assert {row["dead_fraction_low"] for row in rows if row["layer"] == "stem"} == {""}


def test_pictures_are_offered_with_title_and_labels(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="rms")
    panel = page.locator(".panel").first
    svg = ElementTree.fromstring(saved(page, panel, "SVG"))
    texts = [node.text for node in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "Activation scale" in texts and set(LAYERS) <= set(texts) and "step" in texts
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}image"))) == 1
    png = saved(page, panel, "PNG")
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    box = panel.bounding_box()
    assert width >= box["width"] and height >= 20 * len(LAYERS)


@pytest.mark.parametrize("view", VIEWS)
def test_every_chart_is_a_table_too(open_tab: Open, view: str) -> None:
    page = open_tab(run="sick", view=view, **VIEWS[view])
    panels = charts_of(page)
    assert len(panels) >= {"overview": 1, "layer": 10, "compare": 4}[view]
    for panel in panels:
        toggle = panel.get_by_role("button", name="Table", exact=True)
        toggle.click()
        assert panel.locator("tbody tr").count() > 1 and panel.locator("caption").count() == 1
        toggle.click()
        assert panel.locator(".raster, .lines").is_visible()


@pytest.mark.slow
@pytest.mark.parametrize(("view", "chart"), [("layer", 0), ("layer", 2), ("layer", 3), ("compare", 2), ("compare", 3)])
def test_every_kind_of_chart_is_a_file_too(open_tab: Open, view: str, chart: int) -> None:
    page = open_tab(run="sick", view=view, **VIEWS[view])
    panel = charts_of(page)[chart]
    svg = ElementTree.fromstring(saved(page, panel, "SVG"))
    assert panel.locator("h3").text_content() in [node.text for node in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert len(saved(page, panel, "CSV").splitlines()) > 10
    assert saved(page, panel, "PNG")[:4] == b"\x89PNG"
