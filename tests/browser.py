"""A real Chromium, and a real TensorBoard in an environment into which the built wheel has been installed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "actdiag" / "tensorboard" / "static"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WHERE_CHROMIUM_IS = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; on Debian: apt-get install chromium")
FLAGS = [
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZE = {"width": 1280, "height": 900}
SECONDS = 30.0


def until(what: str, found: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """The first truthy answer. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = found()
        if answer:
            return answer
        time.sleep(0.03)
    raise TimeoutError(what)


# The environment ----------------------------------------------------------------------------------------


def environment(folder: Path, *linked: str) -> Path:
    """The Python of an environment with the wheel and the linked packages. Made once, whoever asks first.

    Without names: TensorBoard, and so no torch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = folder / "venv" / "bin" / "python"
        if not (folder / "ready").exists():
            _make_environment(folder, python, linked or ("tensorboard",))
            (folder / "ready").touch()
    return python


def _make_environment(folder: Path, python: Path, linked: tuple[str, ...]) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    _run(build)
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")])
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    for path in _files_of(*linked):
        # installing them anew would take half a minute, and a network
        (packages / path.name).symlink_to(path)
    (wheel,) = folder.glob("*.whl")
    _run([sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index", str(wheel)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PIP_NO_INPUT": "1"})
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def _files_of(*names: str) -> set[Path]:
    """What the named packages, and those that they require, have put into site-packages."""
    found: set[Path] = set()
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        package = metadata.distribution(name)
        tops = {file.parts[0] for file in package.files or () if file.parts[0] != ".."}
        found |= {Path(str(package.locate_file(top))) for top in tops - {"__pycache__"}}
        waiting += [re.split(r"[^\w.-]", need)[0] for need in package.requires or () if "extra ==" not in need]
    return found


class Board:
    """A `tensorboard` process on a free port of this machine."""

    def __init__(self, python: Path, log_dir: Path, errors: Path, *options: str, prefix: str = "") -> None:
        self.errors = errors
        command = [
            str(python),
            "-m",
            "tensorboard.main",
            "--logdir",
            str(log_dir),
            "--host",
            "127.0.0.1",
            "--port",
            "0",
        ]
        own = ["--reload_interval", "1", *(["--path_prefix", prefix] if prefix else []), *options]
        environ = {**os.environ, "PYTHONPATH": "", "PYTHONWARNINGS": "default"}
        with errors.open("w") as file:
            self._process = subprocess.Popen([*command, *own], stderr=file, stdout=file, env=environ, cwd=errors.parent)
        port = until("TensorBoard names its port", self._port)
        self.address = f"http://127.0.0.1:{port}{prefix}"

    def _port(self) -> str | None:
        text = self.errors.read_text()
        assert self._process.poll() is None, text
        found = re.search(r"at http://127\.0\.0\.1:(\d+)", text)
        return found[1] if found else None

    def ask(self, route: str, **query: object) -> Any:
        """A JSON answer of the tab's routes."""
        asked = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())
        with urllib.request.urlopen(f"{self.address}/data/plugin/actdiag/{route}?{asked}", timeout=SECONDS) as answer:
            return json.load(answer)

    def runs(self) -> dict[str, int]:
        """Name of each run -> its recorded steps."""
        return {run["name"]: run["count"] for run in self.ask("runs")["runs"]}

    def wait_for(self, **counts: int) -> Board:
        """Until the named runs have so many recorded steps."""
        until(f"{counts} in {self.errors}", lambda: counts.items() <= self.runs().items())
        return self

    def frame_url(self, **state: object) -> str:
        """The page that TensorBoard puts into its frame, by itself; `state` as in the address."""
        return f"{self.address}/data/plugin_entry.html?name=actdiag#{address_of(state)}"

    def url(self, **state: object) -> str:
        """TensorBoard with the tab in front."""
        return f"{self.address}/#{'&'.join(filter(None, ['actdiag', address_of(state)]))}"

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(SECONDS)


def address_of(state: dict[str, Any]) -> str:
    """The state as the tab writes it into the address."""
    return "&".join(f"p.actdiag.{name}={quote(str(value), safe='')}" for name, value in state.items())


# Pages --------------------------------------------------------------------------------------------------


class Watched:
    """A page, and whatever went wrong in it: errors, refused content, failed requests, requests to other hosts."""

    def __init__(self, context: Any, host: str) -> None:
        context.set_default_timeout(8000)
        context.add_init_script(_POLICY)
        self.page = context.new_page()
        self.host = host
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("requestfailed", self._failed)
        self.page.on("request", self._request)
        self.page.on("response", self._response)

    def _console(self, message: Any) -> None:
        alone = "name=actdiag" in self.page.url or "/plugin/actdiag/" in self.page.url or "file:" in self.page.url
        where = message.location["url"] + message.text
        ours = alone or "/plugin/actdiag/" in where or "name=actdiag" in where  # the rest is TensorBoard's own page
        tests = "favicon" in where or "willReadFrequently" in where  # a page without TensorBoard; reading colors
        if message.type in ("error", "warning") and ours and not tests:
            self.wrong.append(f"console: {message.text}")

    def _failed(self, request: Any) -> None:
        if "/plugin/actdiag/" in request.url and request.failure != "net::ERR_ABORTED":
            self.wrong.append(f"failed: {request.url} {request.failure}")

    def _request(self, request: Any) -> None:
        ours = "plugin_entry.html" in request.frame.url
        if ours:
            self.asked.append(request.url)
        if ours and not request.url.startswith((self.host, "data:", "blob:")):
            self.wrong.append(f"elsewhere: {request.url}")

    def _response(self, response: Any) -> None:
        if "/plugin/actdiag/" in response.url and response.status >= 400:
            self.wrong.append(f"status {response.status}: {response.url}")


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


# Charts -------------------------------------------------------------------------------------------------

_AXIS = 30
_POLICY = """if (location.href.includes("actdiag")) addEventListener("securitypolicyviolation",
    (event) => console.error("refused in /plugin/actdiag/", event.violatedDirective, event.blockedURI));"""


class Raster:
    """A chart of cells, as somebody with a mouse sees it."""

    def __init__(self, page: Any, node: Any, rows: int, columns: int) -> None:
        self.page, self.node, self.rows, self.columns = page, node, rows, columns
        node.scroll_into_view_if_needed()
        self.box = node.bounding_box()
        self.row_height = (self.box["height"] - _AXIS) / rows
        self.left = self._gutter()

    def _gutter(self) -> float:
        """Where the cells begin: the mouse is another one there."""
        low, high = 0.0, self.box["width"] - 4
        while high - low > 0.5:
            middle = (low + high) / 2
            self.page.mouse.move(self.box["x"] + middle, self.box["y"] + 6)
            inside = self.node.evaluate("node => node.style.cursor") == "crosshair"
            low, high = (low, middle) if inside else (middle, high)
        return round(high)

    def inside(self, row: int, column: int) -> tuple[float, float]:
        """The middle of a cell, in the raster."""
        width = (self.box["width"] - self.left - 2) / self.columns
        return self.left + (column + 0.5) * width, 2 + (row + 0.5) * self.row_height

    def at(self, row: int, column: int) -> tuple[float, float]:
        """The middle of a cell, in the window."""
        x, y = self.inside(row, column)
        return self.box["x"] + x, self.box["y"] + y

    def hover(self, row: int, column: int) -> dict[str, Any]:
        """What the tooltip says of a cell."""
        self.page.mouse.move(*self.at(row, column))
        return tip(self.node)

    def color(self, row: int, column: int) -> tuple[int, ...]:
        """Red, green and blue of a cell."""
        return pixel_of(self.node.locator("canvas").first, *self.inside(row, column))


def tip(node: Any) -> dict[str, Any]:
    """Value, name and lines of the tooltip; nothing where it is hidden."""
    found: dict[str, Any] = node.evaluate(
        """node => { const box = node.ownerDocument.querySelector(".tip");
        const text = (tag) => [...box.querySelectorAll(tag)].map((one) => one.textContent);
        return box.hidden ? {} : { value: text("b")[0], name: text("code")[0], lines: text("span") }; }"""
    )
    return found


def pixel_of(canvas: Any, x: float, y: float) -> tuple[int, ...]:
    """The color of a canvas at a place, in CSS pixels."""
    found = canvas.evaluate(
        """(canvas, place) => { const [x, y] = place.map((value) => Math.floor(value * devicePixelRatio));
        return [...canvas.getContext("2d").getImageData(x, y, 1, 1).data]; }""",
        [x, y],
    )
    return tuple(found[:3])
