"""Pictures of a real TensorBoard for the documentation: `make screenshot`.

Trains the demo, starts `tensorboard` on a free local port and lets headless Chromium (Debian's package `chromium`) take
docs/images/*.png. Needs playwright (in the `dev` extra; no browser download).
Exit status 1 if playwright or Chromium is missing.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1400, "height": 1080}
CURVES = "^(loss$|actdiag/(dead_fraction_max|mean_energy_max|gradient_ratio|grad_norm_total|findings_open))"
FLAGS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(address: str, seconds: float = 60) -> None:
    """Until TensorBoard lists scalars. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}/data/plugin/scalars/tags", timeout=5) as answer:
                if b"actdiag" in answer.read():
                    return
        except OSError:
            pass
        time.sleep(0.5)
    raise TimeoutError("TensorBoard does not answer")


def time_series(page: Any, address: str) -> None:
    """The model's curves of all runs, every chart drawn."""
    page.goto(f"{address}/?smoothing=0&tagFilter={quote(CURVES)}#timeseries")
    page.wait_for_selector("scalar-card line-chart", timeout=60_000)
    page.get_by_text("Settings", exact=True).first.click()  # closes the pane that is open by default
    page.wait_for_function("document.querySelectorAll('scalar-card line-chart').length >= 6", timeout=60_000)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1500)  # the charts animate to their scales
    for width in (SIZE["width"] - 40, SIZE["width"]):  # a chart resized while it was first drawn may have stayed empty
        page.set_viewport_size({**SIZE, "width": width})
        page.wait_for_timeout(1000)


def findings(page: Any, address: str) -> None:
    """The findings as Markdown, newest first."""
    page.goto(f"{address}/#text")
    page.wait_for_selector("text=Likely cause", timeout=60_000)
    page.wait_for_load_state("networkidle")


def tab(page: Any, address: str, *, dark: bool = False, height: int = SIZE["height"], **state: str) -> None:
    """The tab in a state, every chart drawn; in TensorBoard's dark theme if asked for."""
    page.set_viewport_size({**SIZE, "height": height})
    page.goto(f"{address}/#actdiag&" + "&".join(f"p.actdiag.{name}={quote(value)}" for name, value in state.items()))
    if dark:
        page.evaluate("document.body.classList.add('dark-mode')")
    frame = page.frame_locator("iframe").last
    frame.get_by_text("recorded steps").first.wait_for(timeout=60_000)
    page.wait_for_load_state("networkidle")
    frame.locator("section.panel[aria-busy='true']").first.wait_for(state="detached", timeout=60_000)
    page.wait_for_timeout(500)  # canvases are drawn when their size is known


PAGES = {
    "timeseries.png": time_series,
    "findings.png": findings,
    "tab-overview.png": partial(tab, run="dying-relu", height=760),
    "tab-layer.png": partial(tab, run="dying-relu", view="layer", site="net.7"),
    "tab-compare.png": partial(tab, run="dying-relu", view="compare", vs="healthy", metric="rms", dark=True),
}


@contextmanager
def board(log_dir: str | Path) -> Iterator[str]:
    """The address of a TensorBoard of its own."""
    port = free_port()
    where = ["--logdir", str(log_dir), "--port", str(port), "--host", "127.0.0.1"]
    command = [sys.executable, "-m", "tensorboard.main", *where]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def chromium(size: dict[str, int]) -> Iterator[Any]:
    """A headless browser with an empty profile. Raises SystemExit where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise SystemExit("no playwright found; pip install playwright") from None
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit("no chromium found; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=program, args=FLAGS, headless=True, viewport=size
        )
        yield browser
        browser.close()


def main(log_dir: str = "runs/demo") -> None:
    """Take all pictures."""
    with chromium(SIZE) as browser:
        subprocess.run([sys.executable, "-m", "actdiag", "demo", "--log-dir", log_dir], check=True)
        IMAGES.mkdir(exist_ok=True)
        with board(log_dir) as address:
            for name, arrange in PAGES.items():
                page = browser.new_page()
                arrange(page, address)
                page.screenshot(path=IMAGES / name)
                print(IMAGES / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
