"""Runs whose every number is known, for the tests of the tab's screen: made of Snapshots, without a training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event

from actdiag.diagnose.finding import Change, Finding
from actdiag.snapshot import Histogram, ParameterStats, SiteStats, Snapshot
from tests.tab_logs import Events, save

LAYERS = (
    "stem",
    *(f"blocks.{i}.{part}" for i in range(3) for part in ("linear", "norm", "act")),
    "head.pool",
    "head.out",
)
STEPS = tuple(range(0, 400, 10))
EARLIEST = LAYERS.index("blocks.0.act")
UNITS = 16
AGAIN = 100
HOSTILE = '<img src=x onerror="parent.pwned=1;window.pwned=1">'
HOSTILE_LAYER = f"net.{HOSTILE}&amp;&#39;"


def is_activation(layer: str) -> bool:
    """The layers whose units can die."""
    return layer.endswith(".act") or HOSTILE in layer


def dead_fraction(order: int, step: int) -> float | None:
    """Grows with time and depth; of the first activation not known at the first two steps."""
    return None if order == EARLIEST and step < STEPS[2] else min(1.0, (order + 1) * step / 4000)


def rms(order: int, step: int) -> float:
    """Falls with depth, in no round numbers."""
    return 1.1 / (1 + order / 3) + math.sin(step / 50) / 10


def states(order: int, step: int) -> str:
    """Dead units first, then one of each other state."""
    dead = round(UNITS * (dead_fraction(order, step) or 0) * 0.7)
    return ("d" * dead + "srv" + "a" * UNITS)[:UNITS]


def site(layer: str, order: int, step: int) -> SiteStats:
    """One layer at one step."""
    acts = is_activation(layer)
    n = 640
    return SiteStats(
        kind="ReLU" if acts else "BatchNorm1d" if layer.endswith("norm") else "Linear",
        role="activation" if acts else "normalization" if layer.endswith("norm") else "layer",
        order=order,
        n=n,
        samples=64,
        mean=math.sin(step / 90 + order),
        std=0.3 + order / 40,
        rms=rms(order, step),
        low=-1.5 - order / 7,
        high=2.5 + step / 1000,
        zero_fraction=0.1 + order / 30 if acts else None,
        nonfinite=0,
        mean_energy=min(1.0, 0.05 * order + step / 2000),
        gate_mean=0.9 - order / 20 if acts else None,
        units=UNITS if acts else None,
        dead_units=round(UNITS * (dead_fraction(order, step) or 0)) if acts else None,
        dead_fraction=dead_fraction(order, step) if acts else None,
        evidence_samples=2048 if acts else None,
        grad_rms=math.inf if (layer, step) == ("stem", STEPS[3]) else 1e-3 * 2.0**-order,
        grad_zero_fraction=0.0,
        unit_states=states(order, step) if acts else None,
        histogram=Histogram(top=2, counts=(1, 5, 20 + order, 100, 30 + step % 7, 8, 2)),
        grad_histogram=Histogram(top=-6, counts=(2, 60, 80, 50, 3)),
    )


def parameter(order: int, step: int) -> ParameterStats:
    """A weight whose update ratio is healthy."""
    return ParameterStats(
        state="trained", weight_norm=3.0 + order, grad_norm=0.1, grad_zero_fraction=0.0, update_ratio=1e-3 + step / 1e7
    )


def snapshot(step: int, layers: Iterable[str] = LAYERS) -> Snapshot:
    """All layers at one step."""
    names = list(layers)
    return Snapshot(
        step=step,
        sites={name: site(name, order, step) for order, name in enumerate(names)},
        parameters={f"{name}.weight": parameter(i, step) for i, name in enumerate(names) if not is_activation(name)},
        sites_selected=len(names),
        grad_norm_total=1.0 + step / 100,
    )


def finding(rule: str, layer: str, step: int, severity: str = "warning", **more: object) -> Finding:
    """A finding that has everything."""
    return Finding(
        **{  # type: ignore[arg-type]
            "rule": rule,
            "severity": severity,
            "layer": layer,
            "step": step,
            "message": f"{layer}: more than half of its units are silent",
            "evidence": {"dead_fraction": 0.5625, "evidence_samples": 2048, "worst": math.inf, "units": [3, 4]},
            "cause": "a learning rate that is too large",
            "advice": ("lower the learning rate", "initialize the biases with a small positive number"),
            "source": "Maas et al. 2013",
            **more,
        }
    )


ACT, LAST_ACT = "blocks.1.act", "blocks.2.act"
VIEWS: dict[str, dict[str, object]] = {
    "overview": {},
    "layer": {"site": ACT, "step": 200},
    "compare": {"vs": "healthy"},
}
"""Each page of the tab, and what it is to show."""


def sick(folder: Path) -> Path:
    """Two findings in one step, one of a parameter, one that is over."""
    over = finding("off-center", "stem", STEPS[2], "info")
    changes = {
        STEPS[2]: [Change("new", over)],
        STEPS[9]: [Change("resolved", finding("off-center", "stem", STEPS[2], "info", resolved_step=STEPS[9]))],
        STEPS[20]: [
            Change("new", finding("dead-units", ACT, STEPS[20])),
            Change("new", finding("dead-units", LAST_ACT, STEPS[20], "error")),
        ],
        STEPS[25]: [Change("new", finding("stalled-update", "blocks.0.linear.weight", STEPS[25]))],
    }
    return save(folder, Events().write((snapshot(step) for step in STEPS), changes).events)


def healthy(folder: Path) -> Path:
    """The same layers but the last, at other steps, without a finding."""
    return save(folder, Events().write(snapshot(step, LAYERS[:-1]) for step in range(5, 300, 5)).events)


def resumed(folder: Path) -> Path:
    """Forty steps, then once more from the twentieth on, to the forty-fifth."""
    first, second = Events(), Events(5000.0)
    first.write(snapshot(step, LAYERS[:4]) for step in range(40))
    second.write(snapshot(step, LAYERS[:4]) for step in range(20, 46))
    return save(folder, first.events, second.events)


def hostile(folder: Path) -> Path:
    """Names and words that would be markup anywhere else."""
    told = finding(
        "dead-units", HOSTILE_LAYER, 1, "error", message=f"{HOSTILE} is dead", cause=HOSTILE, advice=(HOSTILE,),
        source=HOSTILE, evidence={HOSTILE: HOSTILE},
    )  # fmt: skip
    events = Events().write((snapshot(step, ["stem", HOSTILE_LAYER]) for step in range(3)), {1: [Change("new", told)]})
    return save(folder / HOSTILE.replace("/", ""), events.events)


def many(folder: Path, layers: int, steps: int) -> Path:
    """A run of any size, with two numbers a layer, which come again every hundred steps."""
    names = [f"stages.{i // 20}.block{i % 20}.act" for i in range(layers)]
    events = Events().write(_small(names, step) for step in range(min(steps, 2 * AGAIN))).events
    again = events[AGAIN:]
    for step in range(len(events), steps):
        events.append(Event(wall_time=1000.0 + step, step=step, summary=again[step % AGAIN].summary))
    return save(folder, events)


def _small(names: list[str], step: int) -> Snapshot:
    sites = {
        name: SiteStats(
            kind="ReLU", role="activation", order=i, n=64, rms=1 + i / 9, dead_fraction=(i * 7 + step) % AGAIN / 100
        )
        for i, name in enumerate(names)
    }
    return Snapshot(step=step, sites=sites, sites_selected=len(names))
