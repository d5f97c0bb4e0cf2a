"""Pictures for docs/reading-charts.md: TensorBoard's own charts, of a healthy run and of a sick one side by side.

Trains each pair on scikit-learn's digits, starts a real TensorBoard over each run, lets headless Chromium take the
chart, and puts the two into one picture. `make screenshot` runs it; `python docs/screenshot_charts.py dead-units` takes
one of them.
"""

from __future__ import annotations

import base64
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from screenshot import IMAGES, board, chromium
from sklearn.datasets import load_digits
from torch import nn

import actdiag

EPOCHS, BATCH, EVERY = 8, 32, 10
SIZE = {"width": 1000, "height": 900}


@dataclass(frozen=True)
class Arm:
    """One training: an activation with the gain of its Xavier or He weights, depth, rate, and a shift of the inputs."""

    activation: type[nn.Module] = nn.ReLU
    gain: float = 2**0.5
    depth: int = 4
    lr: float = 0.05
    offset: float = 0.0
    clip: float | None = None


@dataclass(frozen=True)
class Chart:
    """A picture: what is healthy and what is sick, what each shows, and the chart in TensorBoard."""

    healthy: Arm
    sick: Arm
    left: str
    right: str
    metric: str
    log: bool = False


HEALTHY = Arm()
TANH = Arm(nn.Tanh, gain=1.0)
CHARTS = {
    "centering": Chart(HEALTHY, Arm(lr=0.01, offset=8.0), "inputs standardized", "inputs shifted by 8", "mean_energy"),
    "scale": Chart(HEALTHY, Arm(gain=0.3, depth=6), "He initialization", "weights a fifth of that", "rms", log=True),
    "saturation": Chart(
        TANH, Arm(nn.Tanh, gain=5.0), "tanh, Xavier", "tanh, weights 5 times as large", "saturated_fraction"
    ),
    "dead-units": Chart(HEALTHY, Arm(lr=4.0, clip=1.0), "learning rate 0.05", "learning rate 4", "dead_fraction"),
    "gradient-flow": Chart(
        Arm(depth=8),
        Arm(nn.Sigmoid, gain=1.0, depth=8),
        "8 ReLU layers, He",
        "8 sigmoid layers, Xavier",
        "grad_rms",
        log=True,
    ),
    "update-ratio": Chart(HEALTHY, Arm(lr=1e-6), "learning rate 0.05", "learning rate 1e-6", "update_ratio", log=True),
    "histograms": Chart(HEALTHY, Arm(lr=4.0, clip=1.0), "learning rate 0.05", "learning rate 4", "activation/7"),
}


def train(arm: Arm, folder: Path) -> None:
    """A run of one arm."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    digits = load_digits()
    x, y = torch.as_tensor(digits.data, dtype=torch.float32), torch.as_tensor(digits.target)
    x = (x - x.mean(0)) / (x.std(0) + 1e-6) + arm.offset
    layers: list[nn.Module] = []
    for a, b in pairwise([64] * (arm.depth + 1)):
        linear = nn.Linear(a, b)
        nn.init.normal_(linear.weight, std=arm.gain / a**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, arm.activation()]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=arm.lr)
    with actdiag.Monitor(model, optimizer, log_dir=folder, log_every_n_steps=EVERY, max_overhead=None):
        for _ in range(EPOCHS):
            for index in torch.randperm(len(x)).split(BATCH)[:-1]:  # the last one has five images
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[index]), y[index]).backward()
                if arm.clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), arm.clip)
                optimizer.step()


def layers(page: Any, address: str, chart: Chart) -> bytes:
    """The chart of custom scalars that has all layers of a metric in it."""
    page.goto(f"{address}/#custom_scalars&_smoothingWeight=0")
    card = page.locator("tf-custom-scalar-multi-line-chart-card", has_text=chart.metric).first
    card.wait_for(timeout=60_000)
    page.locator("paper-checkbox", has_text="Ignore outliers").click()
    buttons = card.locator("paper-icon-button")
    buttons.nth(0).click()  # as wide as the page
    if chart.log:
        buttons.nth(1).click()
    card.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(2000)  # the chart animates to its scale
    return above(page, card, buttons)


def octaves(page: Any, address: str, chart: Chart) -> bytes:
    """TensorBoard's own histograms of one activation."""
    page.goto(f"{address}/#histograms")
    card = page.locator("tf-histogram-loader", has_text=chart.metric).first
    card.wait_for(timeout=60_000)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(2000)
    return above(page, card, card.locator("paper-icon-button"))


def above(page: Any, card: Any, buttons: Any) -> bytes:
    """A picture of a card down to its buttons."""
    box, end = card.bounding_box(), buttons.first.bounding_box()["y"]
    return bytes(page.screenshot(clip={**box, "height": end - box["y"]}))


FRAME = """
<body style="margin:0;font:15px Roboto,Helvetica,Arial,sans-serif;background:#fff">
<div id="both" style="display:inline-flex;gap:24px;padding:8px">{figures}</div></body>
"""
FIGURE = """
<figure style="margin:0"><figcaption style="padding:4px 0 8px"><b style="color:{color}">{word}</b>: {what}</figcaption>
<img src="data:image/png;base64,{data}" style="width:460px"></figure>
"""


def side_by_side(page: Any, chart: Chart, left: bytes, right: bytes) -> bytes:
    """Both pictures in one, with what they are of."""
    sides = (("healthy", "#1b7a2f", chart.left, left), ("sick", "#b3261e", chart.right, right))
    figures = [
        FIGURE.format(word=word, color=color, what=what, data=base64.b64encode(picture).decode())
        for word, color, what, picture in sides
    ]
    page.set_content(FRAME.format(figures="".join(figures)))
    return bytes(page.locator("#both").screenshot())


def main(names: Sequence[str]) -> None:
    """Take the named pictures, or all."""
    logging.getLogger("actdiag").setLevel(logging.CRITICAL)  # findings are told in the runs
    folder = IMAGES / "charts"
    folder.mkdir(exist_ok=True)
    with chromium(SIZE) as browser, tempfile.TemporaryDirectory() as runs:
        for name in names or CHARTS:
            chart, pictures = CHARTS[name], []
            for arm, side in ((chart.healthy, "healthy"), (chart.sick, "sick")):
                train(arm, Path(runs) / name / side)
                with board(Path(runs) / name / side) as address:
                    take = octaves if "activation/" in chart.metric else layers
                    pictures.append(take(browser.new_page(), address, chart))
            (folder / f"{name}.png").write_bytes(side_by_side(browser.new_page(), chart, *pictures))
            print(folder / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
