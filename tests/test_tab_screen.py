"""The screen of the tab in a real TensorBoard: a built wheel, a real `tensorboard`, a real Chromium.

Most tests open the page that TensorBoard puts into its frame by itself, under the same content security policy; what
has to do with TensorBoard around it opens TensorBoard. Whatever page was opened has to be without errors in the end.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from actdiag import Monitor
from actdiag.report.read import read_runs
from actdiag.tensorboard.page import render_html
from tests import screen_runs as runs
from tests.browser import STATIC, WHERE_CHROMIUM_IS, Board, address_of, pixel_of, tip, until
from tests.screen import Open, axe, f32, heat_of, saved, see, settled, state_of, tab_in
from tests.screen_runs import LAYERS, STEPS, VIEWS
from tests.tab_logs import Events, save

pytestmark = [WHERE_CHROMIUM_IS, pytest.mark.xdist_group("browser")]


# The wheel in TensorBoard -----------------------------------------------------------------------------


def test_the_built_wheel_brings_the_tab_to_an_environment_without_torch(python: Path, board: Board) -> None:
    with urllib.request.urlopen(f"{board.address}/data/plugins_listing") as answer:
        listed = json.load(answer)["actdiag"]
    assert listed["enabled"] and listed["loading_mechanism"]["module_path"] == "/data/plugin/actdiag/static/index.js"
    found = subprocess.run([str(python), "-I", "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in found.stderr


def test_the_loader_of_the_wheel_loads_no_training_library(python: Path) -> None:
    code = "import sys, actdiag.tensorboard.loader; print([n for n in ('torch', 'lightning') if n in sys.modules])"
    found = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


def test_tensorboard_complains_of_nothing_and_has_the_stock_curves(board: Board) -> None:
    for route in ("runs", "run?run=sick", "stat?run=sick&metric=rms"):
        with urllib.request.urlopen(f"{board.address}/data/plugin/actdiag/{route}") as answer:
            assert answer.status == 200
    with urllib.request.urlopen(f"{board.address}/data/plugin/scalars/tags") as answer:
        tags = json.load(answer)["sick"]
    assert "actdiag/findings_open" in tags and len(tags) <= 250
    assert re.search(r"Traceback|3\.0", board.errors.read_text()) is None


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


# The tab in TensorBoard -------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_tab_opens_by_a_click_and_shows_what_was_logged(open_page: Open, board: Board) -> None:
    page = open_page(f"{board.address}/")
    page.get_by_role("tab", name="actdiag").click()
    frame = settled(tab_in(page))
    see(frame, "3 recorded steps")
    assert frame.evaluate("document.title") and frame.evaluate("document.documentElement.lang") == "en"


@pytest.mark.slow
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


# Live -------------------------------------------------------------------------------------------------


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


# The report -------------------------------------------------------------------------------------------


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


# Much data --------------------------------------------------------------------------------------------

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


# A training -------------------------------------------------------------------------------------------


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
