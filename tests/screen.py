"""The tab in a browser: runs, TensorBoard and Chromium as fixtures, and what the tests look for on a page.

Fixtures are known to all tests through conftest.py; what they need is imported when one asks for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import SIZE, Board, Raster, Watched, chromium, environment, until

SICK, HEALTHY, RESUMED, LONG = 40, 59, 46, 1300
"""Recorded steps of the runs."""

Open = Callable[..., Any]


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the built wheel and without torch."""
    base = tmp_path_factory.getbasetemp()
    return environment((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tab")


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log directory with runs of every kind."""
    from tests import screen_runs as runs

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
    yield board.wait_for(sick=SICK, healthy=HEALTHY, resumed=RESUMED, long=LONG)
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
    assert wrong == [], "\n".join(wrong)


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
    from playwright.sync_api import expect

    expect(frame.locator(where).first).to_contain_text(text)


def labelled(node: Any, text: str) -> None:
    """Wait until a chart says so of itself."""
    from playwright.sync_api import expect

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


def saved(page: Any, panel: Any, what: str) -> bytes:
    with page.expect_download() as download:
        panel.get_by_role("button", name=what, exact=True).click()
    assert download.value.suggested_filename.endswith(f".{what.lower()}")
    return Path(download.value.path()).read_bytes()


def charts_of(page: Any) -> list[Any]:
    """The panels of charts that are seen."""
    return [panel for panel in page.locator(".panel:has(.tools)").all() if panel.is_visible()]


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
