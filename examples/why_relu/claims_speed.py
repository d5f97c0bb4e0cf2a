"""Claims about speed: ReLU against tanh and sigmoid, and centering with the slope held fixed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from .nets import Net
from .observe import Lab
from .race import Arm, Rules, race
from .results import Panel, Points, Result, Table, mid, number, say

TARGETS = ("steps to 25 %", "steps to 5 %", "steps to 1 %")
SIX = Rules(600)
NETS = {
    "6 layers": (Net(), SIX),
    "6 layers, default init": (Net(init="default"), Rules(500)),
    "12 layers": (Net(depth=12), Rules(500)),
    "CNN, 4 layers": (Net(shape="cnn"), Rules(200, grid=(0.1, 0.3), tuners=1)),
}


def word(*conditions: bool) -> str:
    """What is left of a claim of several parts."""
    return "confirmed" if all(conditions) else "half true" if any(conditions) else "refuted"


def lags(slow: Arm, fast: Arm) -> list[float]:
    """Steps of one arm over those of the other, target by target; without targets that neither reaches."""
    pairs = [(mid(a), mid(b)) for a, b in zip(slow.steps, fast.steps, strict=True)]
    return [a / b for a, b in pairs if math.isfinite(b)]


def race_table(title: str, arms: dict[str, Arm], columns: Sequence[str] = TARGETS) -> Table:
    """Steps to each target, with the rates that were chosen."""
    rows = {name: arm.steps for name, arm in arms.items()}
    return Table(title, columns, rows, notes={name: arm.told() for name, arm in arms.items()}, note_column="rate")


def race_panel(title: str, lines: dict[str, Points]) -> Panel:
    """Steps on a logarithmic axis; what never arrived stands at the top."""
    return Panel(title, "", "steps to 5 % error (SGD, batch 64)", lines, log="y")


Field = dict[str, dict[str, Arm]]
"""Kind of network -> activation -> its race."""


def run(lab: Lab, place: str, *phis: str) -> dict[str, Arm]:
    """The races of some activations in one kind of network."""
    net, rules = NETS[place]
    return {phi: race(lab, replace(net, phi=phi), rules) for phi in phis}


def flat(field: Field) -> dict[str, Arm]:
    """All arms under names of their own."""
    return {f"{phi}, {place}": arm for place, arms in field.items() for phi, arm in arms.items()}


def drawn(field: Field) -> dict[str, Points]:
    """Steps to the second target, by activation, over the kinds of network."""
    lines: dict[str, Points] = {}
    for place, arms in field.items():
        for phi, arm in arms.items():
            lines.setdefault(phi, []).append((place, arm.steps[1]))
    return lines


_SPEED = """
Against sigmoid yes: {beaten} within the budget, at any rate of the grid. Against tanh no: with an initialization that
fits, tanh needs {least} to {most} times the steps of ReLU. The initialization matters more than the activation: ReLU
needs {default} steps to 25 % error with torch's default and {he} with He's. These are small images and small
networks."""


def speed(lab: Lab) -> Result:
    """ReLU, tanh and sigmoid, each at its own best rate."""
    six, default = "6 layers", "6 layers, default init"
    three = ("ReLU", "tanh", "sigmoid")
    field = {six: run(lab, six, *three), default: run(lab, default, *(three if lab.full else three[:1]))}
    if lab.full:
        field |= {
            "12 layers": run(lab, "12 layers", "ReLU", "tanh"),
            "CNN, 4 layers": run(lab, "CNN, 4 layers", "ReLU", "tanh"),
        }
    lag = [lag for place, arms in field.items() if place != default for lag in lags(arms["tanh"], arms["ReLU"])]
    behind = [arms["sigmoid"].steps[1] for arms in field.values() if "sigmoid" in arms]
    ahead = [arms["ReLU"].steps[1] for arms in field.values() if "sigmoid" in arms]
    lost = all(math.isinf(mid(steps)) for steps in behind)
    slower = all(mid(a) > 1.5 * mid(b) for a, b in zip(behind, ahead, strict=True))
    told = {"default": field[default]["ReLU"].steps[0], "he": field[six]["ReLU"].steps[0]}
    beaten = "no sigmoid network gets to 5 %" if lost else "sigmoid takes longer"
    return Result(
        "ReLU trains deep networks several times faster than tanh and sigmoid",
        word(slower, max(lag) >= 2),
        say(_SPEED, beaten=beaten, least=min(lag), most=max(lag), **told),
        [race_table("Steps to a training error, rate tuned for each arm and target", flat(field))],
        [race_panel("ReLU, tanh and sigmoid", drawn(field))],
        {"lag": f"{number(min(lag))} to {number(max(lag))}"},
    )


_CENTER = """
Shifting ReLU down by 0.4 changes no slope and saves steps: ReLU needs {least} to {most} times as many. For a sigmoid
that is stretched to a slope of 1 the shift decides: without it, it needs {sigmoid} times the steps to 25 % error. Not
being centered is a price that ReLU pays, and no part of why it works."""


def center_alone(lab: Lab) -> Result:
    """The same slope everywhere, only the mean differs."""
    pair = ("ReLU", "ReLU - 0.4")
    field = {"6 layers": run(lab, "6 layers", *pair, "4 sigmoid", "4 (sigmoid - 1/2)")}
    if lab.full:
        field |= {place: run(lab, place, *pair) for place in ("12 layers", "CNN, 4 layers")}
    relu = [lag for arms in field.values() for lag in lags(arms[pair[0]], arms[pair[1]])]
    sigmoid = lags(field["6 layers"]["4 sigmoid"], field["6 layers"]["4 (sigmoid - 1/2)"])
    return Result(
        "Centering alone, with every slope as it was, makes training faster",
        word(min(relu) > 1, min(sigmoid) > 1),
        say(_CENTER, least=min(relu), most=max(relu), sigmoid=sigmoid[0]),
        [race_table("The same slope, with and without a shift", flat(field))],
        [race_panel("Only the mean differs", drawn(field))],
        {"relu_gain": f"{number(min(relu))} to {number(max(relu))}"},
    )
