"""The screen of the tab under the hands of people: keys, mouse, fingers; what a reader hears; what an address keeps."""

from __future__ import annotations

from typing import Any

import pytest

from tests import screen_runs as runs
from tests.browser import WHERE_CHROMIUM_IS, Board, pixel_of, tip
from tests.screen import Open, axe, f32, heat_of, labelled, see, settled, state_of
from tests.screen_runs import LAYERS, STEPS, VIEWS

pytestmark = [WHERE_CHROMIUM_IS, pytest.mark.xdist_group("browser")]


# For everybody ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_nobody_is_shut_out_of_a_page(open_tab: Open, view: str, theme: str) -> None:
    page = open_tab({"color_scheme": theme}, run="sick", view=view, **VIEWS[view])
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    assert axe(page) == []
    for toggle in page.get_by_role("button", name="Table", exact=True).all():
        if toggle.is_visible():
            toggle.click()
    assert axe(page) == [], "with tables in the place of charts"


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
    page.keyboard.press("ArrowLeft")
    assert (tip(raster)["name"], tip(raster)["lines"][0]) == (runs.LAST_ACT, "step 190"), "the cursor is at the finding"
    for key in ("Home", "PageUp", "PageUp", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert tip(raster)["name"] == LAYERS[1] and tip(raster)["lines"][0] == "step 20"
    see(page, f"{LAYERS[1]}, ", ".spoken")
    page.keyboard.press("Enter")
    see(page, "marked: step 20")
    assert state_of(page)["site"] == LAYERS[1]
    assert tip(page.locator("body")) == {}, "a tooltip belongs to its chart"


def test_a_tooltip_goes_with_its_page(open_tab: Open) -> None:
    page = open_tab(run="sick", metric="rms")
    assert heat_of(page, len(LAYERS), len(STEPS)).hover(4, 20)
    page.keyboard.press("3")
    see(page, "Choose a run to compare with.")
    assert tip(page.locator("body")) == {}


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


# Fingers ----------------------------------------------------------------------------------------------


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


# The state in the address -----------------------------------------------------------------------------


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


def test_an_address_that_is_pasted_into_an_open_tab_is_followed(open_tab: Open) -> None:
    page = open_tab(run="sick")
    page.evaluate("location.hash = '#actdiag&p.actdiag.run=sick&p.actdiag.view=layer'")
    page.locator("nav button[data-view=layer][aria-current=page]").wait_for()
    settled(page)
    assert state_of(page) == {"run": "sick", "view": "layer"}


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


# Sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_a_narrow_window_is_not_scrolled_sideways(open_tab: Open, view: str) -> None:
    page = open_tab({"viewport": {"width": 480, "height": 800}}, run="sick", view=view, **VIEWS[view])
    for width in (480, 360):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function("() => new Promise(requestAnimationFrame)")
        outside = page.evaluate(
            """(width) => [...document.querySelectorAll("header *, main *")]
            .filter((node) => node.offsetParent && !node.closest(".table, pre, .spoken, svg"))
            .filter((node) => node.getBoundingClientRect().right > width + 1)
            .map((node) => `${node.tagName} ${node.className} ${node.textContent.slice(0, 40)}`)""",
            width,
        )
        assert outside == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
