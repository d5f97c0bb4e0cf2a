"""The screen of the tab as people use it: a built wheel, a real `tensorboard`, a real Chromium.

Most tests open the page that TensorBoard puts into its frame by itself, under the same content security policy; what
has to do with TensorBoard around it opens TensorBoard. Whatever page was opened has to be without errors in the end.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import struct
import subprocess
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import expect
from torch import nn

from actdiag import Monitor
from actdiag.report.read import read_runs
from actdiag.tensorboard.page import render_html
from tests import screen_runs as runs
from tests.browser import (
    SIZE,
    STATIC,
    WHERE_CHROMIUM_IS,
    Board,
    Raster,
    Watched,
    address_of,
    chromium,
    environment,
    pixel_of,
    tip,
    until,
)
from tests.screen_runs import HOSTILE, HOSTILE_LAYER, LAYERS, STEPS
from tests.tab_logs import Events, save

pytestmark = [WHERE_CHROMIUM_IS, pytest.mark.xdist_group("browser")]

ACTS = [name for name in LAYERS if runs.is_activation(name)]
LONG = 1300
VIEWS = {"overview": {}, "layer": {"site": runs.ACT, "step": 200}, "compare": {"vs": "healthy"}}

Open = Callable[..., Any]


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the built wheel and without torch."""
    base = tmp_path_factory.getbasetemp()
    return environment((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tab")


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory with runs of every kind."""
    folder = tmp_path_factory.mktemp("logs")
    runs.sick(folder / "sick")
    runs.healthy(folder / "healthy")
    runs.resumed(folder / "resumed")
    runs.hostile(folder)
    runs.many(folder / "long", 12, LONG)
    return folder


@pytest.fixture(scope="session")
def board(python: Path, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """TensorBoard over these runs."""
    board = Board(python, logs, tmp_path_factory.mktemp("board") / "errors.txt")
    yield board.wait_for(sick=len(STEPS), healthy=59, resumed=46, long=LONG)
    board.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Closed with the module: playwright's event loop would be in the way of other tests."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any, board: Board) -> Iterator[Open]:
    """Opens an address in a fresh profile; in the end nothing may have gone wrong in it."""
    opened: list[tuple[Any, Watched]] = []

    def open_page(address: str, *, host: str = board.address, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": SIZE, "color_scheme": "light", **options})
        watched = Watched(context, host)
        opened.append((context, watched))
        watched.page.watched = watched
        watched.page.goto(address)
        return watched.page

    yield open_page
    wrong = [text for _, watched in opened for text in watched.wrong]
    for context, _ in opened:
        context.close()
    assert wrong == []


@pytest.fixture
def open_tab(open_page: Open, board: Board) -> Open:
    """The tab's own page, in a state, when everything asked for has come."""

    def open_tab(options: dict[str, Any] | None = None, **state: Any) -> Any:
        return settled(open_page(board.frame_url(**state), **(options or {})))

    return open_tab


def settled(frame: Any) -> Any:
    """Wait until the charts are drawn."""
    frame.wait_for_function(
        """() => document.querySelector("main .panel h3")?.textContent && !document.querySelector("[aria-busy=true]")
        && [...document.querySelectorAll("main .panel")].some((panel) => panel.offsetHeight)"""
    )
    return frame


def see(frame: Any, text: str, where: str = "body") -> None:
    """Wait until a text is seen."""
    expect(frame.locator(where).first).to_contain_text(text)


def labelled(node: Any, text: str) -> None:
    """Wait until a chart says so of itself."""
    expect(node).to_have_attribute("aria-label", re.compile(re.escape(text)))


def state_of(page: Any) -> dict[str, str]:
    """What the address says."""
    found: dict[str, str] = page.evaluate(
        """() => Object.fromEntries(location.hash.slice(1).split("&").filter((p) => p.startsWith("p.actdiag."))
        .map((p) => p.slice("p.actdiag.".length).split("=").map(decodeURIComponent)))"""
    )
    return found


def heat_of(page: Any, rows: int, columns: int) -> Raster:
    return Raster(page, page.locator(".overview .raster"), rows, columns)


def tab_in(page: Any) -> Any:
    """The tab's frame in TensorBoard."""
    found = until(
        "the tab's frame", lambda: [f for f in page.frames if "name=actdiag" in f.url] or page.wait_for_timeout(20)
    )
    return found[0]


def f32(value: float) -> float:
    """As an event file holds it."""
    return float(np.float32(value))


# The wheel in TensorBoard -------------------------------------------------------------------------------


def test_the_built_wheel_brings_the_tab_to_an_environment_without_torch(python: Path, board: Board) -> None:
    with urllib.request.urlopen(f"{board.address}/data/plugins_listing") as answer:
        listed = json.load(answer)["actdiag"]
    assert listed["enabled"] and listed["loading_mechanism"]["module_path"] == "/data/plugin/actdiag/static/index.js"
    found = subprocess.run([str(python), "-I", "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in found.stderr


def test_every_file_of_the_screen_is_in_the_wheel_and_is_served(board: Board) -> None:
    for path in STATIC.iterdir():
        with urllib.request.urlopen(f"{board.address}/data/plugin/actdiag/static/{path.name}") as answer:
            assert answer.read() == path.read_bytes()
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.slow
def test_a_broken_plugin_does_not_keep_tensorboard_from_starting(python: Path, logs: Path, tmp_path: Path) -> None:
    shutil.copytree(python.parent.parent, tmp_path / "venv", symlinks=True)
    (plugin,) = (tmp_path / "venv").glob("lib/python*/site-packages/actdiag/tensorboard/plugin.py")
    plugin.write_text("raise RuntimeError('broken')\n")
    board = Board(tmp_path / "venv" / "bin" / "python", logs, tmp_path / "errors.txt")
    try:
        with urllib.request.urlopen(f"{board.address}/data/plugins_listing") as answer:
            listed = json.load(answer)
    finally:
        board.close()
    assert "scalars" in listed and "actdiag" not in listed
    assert "actdiag: its tab cannot be loaded" in (tmp_path / "errors.txt").read_text()


def test_the_watch_over_pages_can_fail(open_tab: Open) -> None:
    page = open_tab(run="sick")
    watched = page.watched
    assert watched.wrong == []
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.x = 1' }))"
    )
    page.evaluate("fetch('./stat?run=none').then(() => fetch('http://elsewhere.test/x')).catch(() => 0)")
    page.evaluate("console.error('something')")
    page.evaluate("setTimeout(() => undefined.x)")
    until("an error", lambda: page.wait_for_timeout(20) or any(text.startswith("error: ") for text in watched.wrong))
    text = "\n".join(watched.wrong)
    for part in ("refused in /plugin/actdiag/ script-src", "status 404", "connect-src", "something", "undefined"):
        assert part in text, part
    watched.wrong.clear()


# The tab in TensorBoard ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_tab_opens_by_a_click_and_shows_what_was_logged(open_page: Open, board: Board) -> None:
    page = open_page(f"{board.address}/")
    page.get_by_role("tab", name="actdiag").click()
    frame = settled(tab_in(page))
    see(frame, "3 recorded steps")
    assert frame.evaluate("document.title") and frame.evaluate("document.documentElement.lang") == "en"


def test_a_link_opens_the_tab_as_its_sender_saw_it(open_page: Open, board: Board) -> None:
    page = open_page(board.url(run="sick", view="layer", site=runs.ACT, step=200))
    frame = settled(tab_in(page))
    see(frame, "marked: step 200")
    frame.get_by_role("button", name="Overview").click()
    frame.locator("[data-metric=rms]").click()
    see(frame, "Activation scale", ".panel h3")
    assert "p.actdiag.metric=rms" in page.url and page.url.startswith(f"{board.address}/#actdiag&")
    page.reload()
    frame = settled(tab_in(page))
    see(frame, "Activation scale", ".panel h3")
    assert frame.locator("select").first.input_value() == "sick"


@pytest.mark.slow
def test_a_tab_that_is_not_in_front_asks_for_nothing_and_catches_up_when_it_is(open_page: Open, board: Board) -> None:
    page = open_page("about:blank")
    page.clock.install()
    page.goto(board.url(run="sick"))
    frame = settled(tab_in(page))
    page.get_by_role("tab", name="Text").click()
    until("the tab is hidden", lambda: frame.evaluate("innerHeight") == 0)
    asked = page.watched.asked
    asked.clear()
    page.clock.run_for(30_000)
    page.locator("button.reload-button").click()
    page.wait_for_load_state("networkidle")
    page.clock.run_for(30_000)
    assert asked == []
    page.get_by_role("tab", name="actdiag").click()
    until("the tab asks again", lambda: page.clock.run_for(50) or any("/runs?" in url for url in asked))
    assert frame.locator("select").first.input_value() == "sick"


@pytest.mark.slow
def test_the_tab_follows_tensorboards_own_dark_mode_at_once(open_page: Open, board: Board) -> None:
    page = open_page(board.url(run="sick", metric="rms"))
    frame = settled(tab_in(page))
    corner = frame.locator(".raster canvas").first
    light = pixel_of(corner, 400, 8)
    page.get_by_label("Menu for changing light or dark theme").click()
    page.get_by_role("menuitem", name="Dark").or_(page.get_by_text("Dark", exact=True)).first.click()
    frame.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    assert frame.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(30, 32, 35)"
    assert sum(pixel_of(corner, 400, 8)) < sum(light) - 200, "charts are drawn anew in dark colors"


@pytest.mark.slow
def test_an_empty_log_directory_shows_how_to_begin_and_the_tab_appears_with_the_data(
    python: Path, tmp_path: Path, open_page: Open
) -> None:
    (tmp_path / "logs").mkdir()
    board = Board(python, tmp_path / "logs", tmp_path / "errors.txt")
    try:
        page = open_page(board.url(), host=board.address)
        see(tab_in(page), "No activation statistics here yet")
        see(tab_in(page), "actdiag.Monitor(model, optimizer")
        assert axe(tab_in(page)) == []
        other = open_page(f"{board.address}/", host=board.address)
        other.wait_for_load_state("networkidle")
        assert other.get_by_role("tab", name="actdiag").count() == 0
        runs.sick(tmp_path / "logs" / "sick")
        board.wait_for(sick=len(STEPS))
        for one in (page, other):
            one.locator("button.reload-button").click()
        settled(tab_in(page))
        see(tab_in(page), "1 error and 2 warnings in 3 layers")
        other.get_by_role("tab", name="actdiag").click()
        settled(tab_in(other))
    finally:
        board.close()


@pytest.mark.slow
def test_everything_works_below_a_path_prefix(python: Path, logs: Path, tmp_path: Path, open_page: Open) -> None:
    board = Board(python, logs, tmp_path / "errors.txt", prefix="/a/b").wait_for(sick=len(STEPS))
    try:
        page = open_page(board.url(run="sick"), host=board.address)
        frame = settled(tab_in(page))
        see(frame, "1 error and 2 warnings in 3 layers")
        frame.locator(".finding").first.click()
        see(frame, "Distribution of activations")
        assert all(url.startswith(board.address) for url in page.watched.asked)
    finally:
        board.close()


# Values -------------------------------------------------------------------------------------------------


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


# Findings -----------------------------------------------------------------------------------------------


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


# Live ---------------------------------------------------------------------------------------------------


def grown(folder: Path, count: int) -> None:
    """A run of so many steps; its file grows."""
    save(folder, Events().write(runs.snapshot(step) for step in STEPS[:count]).events)


@pytest.mark.slow
def test_new_steps_appear_by_themselves_and_everything_stays_where_it_was(
    open_page: Open, board: Board, logs: Path
) -> None:
    grown(logs / "growing", 20)
    board.wait_for(growing=20)
    page = open_page("about:blank")
    page.clock.install()
    page.goto(board.frame_url(run="growing", metric="rms"))
    settled(page)
    see(page, "20 recorded steps")
    page.locator(".overview .raster").focus()
    for key in ("Home", "ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    before, said = boxes(page), tip(page.locator("body"))
    page.locator(".overview .raster").focus()
    grown(logs / "growing", 40)
    board.wait_for(growing=40)
    page.clock.run_for(6000)
    see(page, "40 recorded steps")
    settled(page)
    assert page.locator("select").first.input_value() == "growing"
    assert boxes(page) == before, "nothing moves"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    assert tip(page.locator("body")) == said, "the cursor is at the same layer and step"


def boxes(page: Any) -> list[list[float]]:
    """Where everything but the drawings is."""
    found: list[list[float]] = page.evaluate(
        """() => [...document.querySelectorAll("header, main, section, h2, .raster, .lines, .panel, nav, .field")]
        .map((node) => node.getBoundingClientRect()).map(({ x, y, width, height }) => [x, y, width, height])"""
    )
    return found


def test_a_screen_that_is_not_live_is_left_as_it_is(open_page: Open, board: Board) -> None:
    page = open_page("about:blank")
    page.clock.install()
    page.goto(board.frame_url(run="sick"))
    settled(page)
    page.get_by_label("Live").uncheck()
    page.watched.asked.clear()
    page.clock.run_for(20_000)
    assert page.watched.asked == []
    page.get_by_label("Live").check()
    page.clock.run_for(6000)
    until("it asks again", lambda: page.wait_for_timeout(20) or page.watched.asked)


# For everybody ------------------------------------------------------------------------------------------


def axe(frame: Any) -> list[str]:
    """What axe-core finds wrong."""
    import axe_playwright_python

    source = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    frame.evaluate(source)
    found = frame.evaluate("() => axe.run()")
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0]['failureSummary'][:200]}"
        for one in found["violations"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_nobody_is_shut_out_of_a_page(open_tab: Open, view: str, theme: str) -> None:
    page = open_tab({"color_scheme": theme}, run="sick", view=view, **VIEWS[view])
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert axe(page) == []


def tabbed(page: Any) -> list[str]:
    """Everything that Tab reaches, once around."""
    found: list[str] = []
    page.evaluate("document.activeElement.blur()")
    for _ in range(200):
        page.keyboard.press("Tab")
        name = page.evaluate(
            """() => { const node = document.activeElement;
            if (node === document.body) return "";
            window.reached ??= new Map();
            if (!window.reached.has(node)) window.reached.set(node, window.reached.size);
            return String(window.reached.get(node)); }"""
        )
        if not name or name in found:
            break
        found.append(name)
    return found


@pytest.mark.parametrize("view", VIEWS)
def test_every_control_can_be_reached_by_the_keyboard(open_tab: Open, view: str) -> None:
    page = open_tab(run="sick", view=view, **VIEWS[view])
    tabbed(page)
    missed = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, summary, [tabindex], a")]
        .filter((node) => node.checkVisibility() && !node.disabled && !window.reached.has(node))
        .map((node) => node.outerHTML.slice(0, 120))"""
    )
    assert missed == []


def test_the_keyboard_alone_leads_from_a_finding_to_its_cell_and_to_its_layer(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="rms")
    page.locator(".finding").first.focus()
    page.keyboard.press("Enter")
    see(page, "marked: step 200")
    assert state_of(page) == {"run": "sick", "metric": "rms", "view": "layer", "site": runs.LAST_ACT, "step": "200"}
    page.keyboard.press("1")
    settled(page)
    raster = page.locator(".overview .raster")
    raster.focus()
    for key in ("Home", "PageUp", "PageUp", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert tip(raster)["name"] == LAYERS[1] and tip(raster)["lines"][0] == "step 20"
    see(page, f"{LAYERS[1]}, ", ".spoken")
    page.keyboard.press("Enter")
    see(page, "marked: step 20")
    assert state_of(page)["site"] == LAYERS[1]
    assert tip(page.locator("body")) == {}, "a tooltip belongs to its chart"


def test_f_folds_the_module_around_the_cursor_and_unfolds_it_again(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="rms")
    raster = page.locator(".overview .raster")
    raster.focus()
    for key in ("Home", "PageUp", "PageUp", "ArrowDown", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    said = tip(raster)
    page.keyboard.press("f")
    labelled(raster, "10 rows")
    assert state_of(page)["fold"] == "blocks.0"
    page.keyboard.press("ArrowLeft")
    assert tip(raster)["name"] == "▸ blocks.0 (3)", "the cursor stays at what it was at"
    assert tip(raster)["value"] == f"{f32(runs.rms(3, 0)):.3} to {f32(runs.rms(1, 0)):.3}"
    page.keyboard.press("f")
    labelled(raster, f"{len(LAYERS)} rows")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert tip(raster) == said


def test_plus_zooms_at_the_cursor_and_minus_shows_all_steps(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="rms")
    raster = page.locator(".overview .raster")
    raster.focus()
    page.keyboard.press("End")
    page.keyboard.press("+")
    see(page, "steps 290 to 390")
    assert state_of(page)["from"] == "290" and state_of(page)["to"] == "390"
    assert page.get_by_role("button", name="All steps").is_visible()
    assert tip(raster) == {} or "step" in tip(raster)["lines"][0]
    page.keyboard.press("-")
    see(page, "steps 0 to 390")
    assert "from" not in state_of(page)


def test_dragging_zooms_and_a_double_click_shows_all_steps(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="rms")
    heat = heat_of(page, len(LAYERS), len(STEPS))
    page.mouse.move(*heat.at(3, 10))
    page.mouse.down()
    page.mouse.move(*heat.at(5, 20), steps=3)
    page.mouse.up()
    see(page, "steps 100 to 200")
    assert "view" not in state_of(page), "a drag is no click"
    page.mouse.dblclick(*heat.at(3, 10))
    see(page, "steps 0 to 390", ".panel .note")
    assert "view" not in state_of(page), "nor is the first half of a double click"
    page.mouse.move(*heat.at(5, 20))
    page.mouse.down()
    page.mouse.move(*heat.at(3, 10), steps=3)
    page.mouse.up()
    see(page, "steps 100 to 200")
    page.mouse.click(*heat.at(3, 0))
    see(page, "marked: step 100")


def test_a_click_on_a_cell_opens_its_layer_at_its_step(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="rms")
    heat = heat_of(page, len(LAYERS), len(STEPS))
    page.mouse.click(*heat.at(6, 12))
    see(page, "marked: step 120")
    assert state_of(page)["site"] == LAYERS[6]
    page.get_by_role("button", name="Next layer").click()
    see(page, "BatchNorm1d" if LAYERS[7].endswith("norm") else "Linear", ".layerhead .note")
    assert state_of(page)["site"] == LAYERS[7]


def test_a_filter_and_a_fold_of_all_modules_leave_the_rows_that_are_meant(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="rms")
    raster = page.locator(".overview .raster")
    page.get_by_label("Filter layers").fill("ACT 1")
    labelled(raster, ": 1 row,")
    page.get_by_label("Filter layers").fill("")
    page.get_by_role("button", name="Fold modules").click()
    labelled(raster, "3 rows")
    page.get_by_role("button", name="Unfold modules").click()
    labelled(raster, f"{len(LAYERS)} rows")


# What a log holds is text -------------------------------------------------------------------------------


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


# The state in the address -------------------------------------------------------------------------------


def test_what_is_looked_at_survives_a_reload(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="rms")
    page.locator(".overview .raster").focus()
    page.keyboard.press("+")
    see(page, "290 to 390")
    page.get_by_label("Filter layers").fill("blocks")
    page.get_by_role("button", name="Fold modules").click()
    page.reload()
    settled(page)
    assert page.get_by_label("Filter layers").input_value() == "blocks"
    assert state_of(page) == {
        "run": "sick",
        "metric": "rms",
        "from": "290",
        "to": "390",
        "filter": "blocks",
        "fold": "blocks,head",
    }
    see(page, "Unfold modules")
    see(page, "290 to 390")


@pytest.mark.parametrize("state", [{"run": "gone"}, {"view": "none"}, {"site": "gone", "view": "layer"}, {"from": "x"}])
def test_an_address_that_fits_nothing_shows_something_sensible(
    open_page: Open, board: Board, state: dict[str, str]
) -> None:
    page = open_page(board.frame_url(**{"run": "sick", "metric": "rms", **state}))
    page.wait_for_function(
        "[...document.querySelectorAll('main .panel h3, main .problem')].some((node) => node.textContent)"
    )
    if "from" in state:
        page.watched.wrong[:] = [text for text in page.watched.wrong if "400" not in text]
        see(page, "from must be a whole number")
        page.get_by_role("button", name="All steps").click()
        see(page, "steps 0 to 390")
        page.watched.wrong[:] = [text for text in page.watched.wrong if "400" not in text]


# Charts as tables and files -----------------------------------------------------------------------------


def saved(page: Any, panel: Any, what: str) -> bytes:
    with page.expect_download() as download:
        panel.get_by_role("button", name=what, exact=True).click()
    assert download.value.suggested_filename.endswith(f".{what.lower()}")
    return Path(download.value.path()).read_bytes()


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


@pytest.mark.parametrize(("view", "chart"), [("layer", 0), ("layer", 2), ("layer", 3), ("compare", 2), ("compare", 3)])
def test_every_kind_of_chart_is_a_file_too(open_tab: Open, view: str, chart: int) -> None:
    page = open_tab(run="sick", view=view, **VIEWS[view])
    panel = charts_of(page)[chart]
    svg = ElementTree.fromstring(saved(page, panel, "SVG"))
    assert panel.locator("h3").text_content() in [node.text for node in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert len(saved(page, panel, "CSV").splitlines()) > 10
    assert saved(page, panel, "PNG")[:4] == b"\x89PNG"


def charts_of(page: Any) -> list[Any]:
    """The panels of charts that are seen."""
    return [panel for panel in page.locator(".panel:has(.tools)").all() if panel.is_visible()]


# Sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_a_narrow_window_is_not_scrolled_sideways(open_tab: Open, view: str) -> None:
    page = open_tab({"viewport": {"width": 480, "height": 800}}, run="sick", view=view, **VIEWS[view])
    assert page.evaluate("document.documentElement.scrollWidth") == 480
    outside = page.evaluate(
        """() => [...document.querySelectorAll("main *")]
        .filter((node) => node.offsetParent && !node.closest(".table, pre, .spoken, svg"))
        .filter((node) => node.getBoundingClientRect().right > 481).map((node) => node.className || node.tagName)"""
    )
    assert outside == []


# Fingers ------------------------------------------------------------------------------------------------


def test_a_finger_first_reads_a_cell_and_then_opens_it(open_page: Open, board: Board) -> None:
    page = settled(open_page(board.frame_url(run="sick", metric="rms"), has_touch=True))
    heat = heat_of(page, len(LAYERS), len(STEPS))
    page.touchscreen.tap(*heat.at(2, 7))
    assert tip(heat.node)["name"] == LAYERS[2] and "step 70" in tip(heat.node)["lines"]
    assert "view" not in state_of(page)
    page.touchscreen.tap(*heat.at(2, 7))
    see(page, "marked: step 70")


def test_a_finger_that_scrolls_the_page_selects_nothing(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="rms")
    heat = heat_of(page, len(LAYERS), len(STEPS))
    page.mouse.move(*heat.at(3, 10))
    page.mouse.down()
    page.mouse.move(*heat.at(3, 20), steps=3)
    heat.node.dispatch_event("pointercancel")
    page.mouse.up()
    page.mouse.move(*heat.at(3, 30))
    assert {"from", "view"} & set(state_of(page)) == set()
    overlay = pixel_of(heat.node.locator(".overlay"), *heat.inside(3, 15))
    assert overlay == (0, 0, 0), "nothing is shaded"


# The report ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def report(logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs as one HTML file."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    chosen = [run for run in read_runs(logs) if run.name in ("sick", "healthy")]
    assert len(chosen) == 2
    path.write_text(render_html(chosen), encoding="utf-8")
    return path


@pytest.mark.parametrize("view", VIEWS)
def test_a_report_of_one_file_shows_the_same_pages_and_asks_nobody(open_page: Open, report: Path, view: str) -> None:
    state = address_of({"run": "sick", "view": view, **VIEWS[view]})
    page = open_page(f"{report.as_uri()}#{state}", host="file:", offline=True)
    page.on("request", lambda request: page.watched.wrong.append(request.url))
    settled(page)
    for title in {
        "overview": ["Dead units"],
        "layer": ["Units", "Activation scale"],
        "compare": ["healthy \u2212 sick"],
    }[view]:
        assert page.locator(".panel h3", has_text=title).first.is_visible()
    assert page.get_by_label("Live").count() == 0
    page.get_by_role("button", name="Overview").click()
    page.locator("[data-metric=rms]").click()
    see(page, "Activation scale", ".panel h3")
    assert heat_of(page, len(LAYERS), len(STEPS)).hover(4, 20)["name"] == LAYERS[4]
    assert state_of(page)["metric"] == "rms"


def test_a_zoom_in_a_report_keeps_to_what_is_there(open_page: Open, report: Path) -> None:
    page = settled(open_page(f"{report.as_uri()}#{address_of({'run': 'sick', 'metric': 'rms'})}", host="file:"))
    page.locator(".overview .raster").focus()
    page.keyboard.press("+")
    settled(page)
    assert page.locator(".problem:visible").count() == 0
    see(page, "Activation scale", ".panel h3")


# Much data ----------------------------------------------------------------------------------------------

MEASURE = """async () => {
    const node = document.querySelector(".overview .raster"), box = node.getBoundingClientRect(), times = [];
    for (let i = 0; i < 120; i++) {
        const from = performance.now();
        const place = { clientX: box.x + box.width * (0.3 + i / 200), clientY: box.y + 4 + 4 * i, bubbles: true };
        node.dispatchEvent(new PointerEvent("pointermove", place));
        times.push(performance.now() - from);
        await new Promise(requestAnimationFrame);
    }
    times.sort((a, b) => a - b);
    return times[60];
}"""

FIRST = """async (metric) => {
    const label = () => document.querySelector(".panel h3").textContent;
    const before = label(), asked = performance.getEntriesByType("resource").length;
    document.querySelector(`[data-metric=${metric}]`).click();
    while (label() === before) await new Promise((go) => setTimeout(go, 0));
    const shown = performance.now();
    const [entry] = performance.getEntriesByType("resource").slice(asked).filter((one) => one.name.includes("stat?"));
    return entry ? [entry.responseEnd - entry.startTime, shown - entry.responseEnd] : null;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1000, 10_000])
def test_two_hundred_layers_are_drawn_and_moved_over_at_once(
    python: Path, tmp_path: Path, open_page: Open, steps: int
) -> None:
    runs.many(tmp_path / "logs" / "wide", 200, steps)
    board = Board(python, tmp_path / "logs", tmp_path / "errors.txt").wait_for(wide=steps)
    try:
        page = settled(open_page(board.frame_url(run="wide", metric="dead_fraction"), host=board.address))
        answered, drawn = page.evaluate(FIRST, "rms")
        hovered = page.evaluate(MEASURE)
        page.screenshot(path=tmp_path / "wide.png")
    finally:
        board.close()
    print(f"200 x {steps}: answered in {answered:.0f} ms, drawn in {drawn:.0f} ms, hover {hovered:.2f} ms")
    assert answered < 10 * 2000 and drawn < 10 * 300 and hovered < 3 * 16


# A training ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_training_is_seen_with_the_numbers_of_its_snapshots(
    python: Path, tmp_path: Path, open_page: Open
) -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    with torch.no_grad():
        model[0].bias.fill_(-50.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Monitor(model, optimizer, log_dir=tmp_path / "real", log_every_n_steps=2, max_overhead=None) as monitor:
        for _ in range(60):
            optimizer.zero_grad()
            model(torch.randn(64, 8)).square().mean().backward()
            optimizer.step()
    assert monitor.latest is not None
    board = Board(python, tmp_path, tmp_path / "errors.txt")
    until("the run", lambda: board.runs().get("real"))
    try:
        page = settled(open_page(board.frame_url(metric="rms"), host=board.address))
        see(page, "Dead units", ".findings")
        text = saved(page, page.locator(".panel").first, "CSV").decode()
    finally:
        board.close()
    last = [row for row in csv.DictReader(io.StringIO(text)) if int(row["first_step"]) == monitor.latest.step]
    assert {row["layer"] for row in last} == set(monitor.latest.sites)
    for row in last:
        assert f32(float(row["rms_low"])) == monitor.latest.sites[row["layer"]].rms
