"""Claims about units: sparsity, dropout, and what uncentered inputs do to them."""

from __future__ import annotations

import math

import torch
from torch import nn

from actdiag.snapshot import Snapshot

from .claims_depth import epochs, growth
from .claims_speed import SIX, lags, race_table, word
from .data import Data, cancer, digits
from .nets import Net
from .observe import Lab, Trained, look, value
from .race import Arm, Rules, race
from .results import Panel, Points, Result, Sample, Table, mid, number, say

LAYERS = range(1, 9)

_SPARSITY = """
Each of eight ReLU layers has {low:%} to {high:%} zeros before training, tanh has none. A zero is not a dead unit: at
most {dead:%} of a layer's units are closed for every image. Nor is it dropout's zero: shown one image again and
again, ReLU closes the same {closed:%} of its units each time; with dropout in front, {dropped:%} of its outputs are
zero, and still {dropped_closed:%} of its units never open. Which outputs are zero depends on the image with ReLU, on
chance with dropout. That zeros help training is not shown: leaky ReLU has none, and needs {least} to {most} times the
steps."""


def sparsity(lab: Lab) -> Result:
    """Zeros before and after training, their difference from dropout's, and whether they make training faster."""
    rows = {}
    for phi in ("ReLU", "tanh"):
        rows[f"{phi}, before training"] = _zeros([run.before for run in growth(lab, phi)])
        rows[f"{phi}, after training"] = _zeros([run.after for run in growth(lab, phi)])
    shown = {"ReLU": _one_image(lab, 0.0), "dropout 0.5, ReLU": _one_image(lab, 0.5)}
    arms = {phi: race(lab, Net(phi), SIX) for phi in ("ReLU", "leaky ReLU")}
    lag = lags(arms["leaky ReLU"], arms["ReLU"])
    low, high, dead = rows["ReLU, before training"]
    (_, closed), (dropped, dropped_closed) = shown.values()
    told: dict[str, Sample] = {"low": low, "high": high, "dead": dead, "closed": closed, "dropped": dropped}
    lines = {phi: _by_layer(growth(lab, phi)) for phi in ("ReLU", "tanh")}
    return Result(
        "ReLU is sparse, and that is why it works",
        word(mid(low) > 0.3, min(lag) > 1.5),
        say(_SPARSITY, dropped_closed=dropped_closed, least=min(lag), most=max(lag), **told),
        [
            Table(
                f"8 layers of 128, {epochs(lab)} epochs",
                ("zeros, lowest layer", "zeros, highest layer", "dead units, highest layer"),
                rows,
            ),
            Table("One image, 640 times, one layer of 256", ("zeros", "units that never open"), shown),
            race_table("Steps to a training error, 6 layers of 64", arms),
        ],
        [Panel("Before training", "hidden layer", "zeros (share)", lines)],
        {"zeros": f"{100 * mid(low):.0f} to {100 * mid(high):.0f}"},
    )


def _zeros(looks: list[list[Snapshot]]) -> list[Sample]:
    """Zeros of the layer with fewest and with most, dead units of the layer with most."""
    zeros = [[value(look[0].sites[f"act{i}"], "zero_fraction") for i in LAYERS] for look in looks]
    dead = [[value(look[-1].sites[f"act{i}"], "dead_fraction") for i in LAYERS] for look in looks]
    return [tuple(map(min, zeros)), tuple(map(max, zeros)), tuple(map(max, dead))]


def _by_layer(runs: list[Trained]) -> Points:
    return [(i, tuple(value(run.before[0].sites[f"act{i}"], "zero_fraction") for run in runs)) for i in LAYERS]


def _one_image(lab: Lab, dropout: float) -> list[Sample]:
    """Zeros, and units that never open, while a layer is shown the same image: what the unit itself decides."""
    zeros, closed = [], []
    x, y = digits()
    for seed in lab.seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Linear(64, 256), nn.Dropout(dropout), nn.ReLU(), nn.Linear(256, 10))
            shown: Data = (x[seed : seed + 1].expand(640, -1), y[seed : seed + 1].expand(640))
            seen = look(model, shown, lab.logs / "one-image" / f"dropout-{dropout:g}" / f"seed-{seed}")
        zeros.append(value(seen[0].sites["2"], "zero_fraction"))
        closed.append(value(seen[-1].sites["2"], "dead_fraction"))
    return [tuple(zeros), tuple(closed)]


OFFSETS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)
CANCER = Rules(1500, (0.03,), 10, (0.3, 0.1, 1.0, 0.03, 0.01, 0.003, 0.001))

_INPUTS = """
An offset of 2 standard deviations makes ReLU need {two} steps to 97 % accuracy, where it needs {near} without. An
offset of {offset} kills {dead:%} of its units before the first step, where {near_dead:%} are dead without: the line
at which such a unit opens does not cross the data. Centering the inputs costs nothing."""


def inputs(lab: Lab) -> Result:
    """The same data with a constant added to every feature."""
    arms: dict[str, Arm] = {}
    rows: dict[str, list[Sample]] = {}
    lines: list[dict[str, Points]] = [{}, {}]
    tried = [("ReLU", offset) for offset in (OFFSETS if lab.full else OFFSETS[::2])]
    for phi, offset in tried + [("tanh", offset) for offset in OFFSETS[::2] if lab.full]:
        name = f"{phi}, offset {offset:g}"
        arms[name] = race(lab, _small(phi), CANCER, cancer(offset), f" + {offset:g}")
        rows[name] = [arms[name].steps[0], _dead(lab, phi, offset)]
        for line, cell in zip(lines, rows[name], strict=True):
            line.setdefault(phi, []).append((f"{offset:g}", cell))
    near, two, ten = (rows[f"ReLU, offset {offset}"] for offset in (0, 2, 10))
    slower = mid(two[0]) / mid(near[0])
    axis, rates = "offset (standard deviations)", {name: arm.told() for name, arm in arms.items()}
    columns = ("steps to 97 %", "dead units before training")
    return Result(
        "Uncentered inputs slow learning and kill units",
        word(slower > 2 or math.isinf(slower), mid(ten[1]) > 0.2),
        say(_INPUTS, two=two[0], near=near[0], offset="10", dead=ten[1], near_dead=near[1]),
        [Table("Breast cancer, one layer of 32, default init", columns, rows, notes=rates, note_column="rate")],
        [
            Panel("Learning", axis, "steps to 97 % accuracy", lines[0], log="y"),
            Panel("Units before training", axis, "dead units (share)", lines[1]),
        ],
        {"slower": number(slower), "dead": f"{100 * mid(ten[1]):.0f}"},
    )


def _small(phi: str) -> Net:
    return Net(phi, 1, 32, "default", inputs=30, outputs=1)


def _dead(lab: Lab, phi: str, offset: float) -> Sample:
    """Share of units that no sample opens, before training."""
    folder = lab.logs / "offset" / f"{phi}-{offset:g}"
    looks = [look(_small(phi).build(seed), cancer(offset), folder / f"seed-{seed}") for seed in lab.seeds]
    return tuple(value(seen[-1].sites["act1"], "dead_fraction") for seen in looks)
