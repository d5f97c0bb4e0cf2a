"""The names under which things stand in an event file: written by write/, read by report/ and the tab.

A monitor with a prefix has groups of its own: `gan_d.actdiag/loss_scale`, `gan_d.actdiag_rms/net.0`. TensorBoard groups
by what stands before the first slash, so that each metric of each monitor is a group, and those of a monitor stand
together.
"""

from __future__ import annotations

PLUGIN = "actdiag"
SCHEMA = "actdiag/schema"
STAT = "actdiag/stat/"
PARAMETER = "actdiag/parameter/"
HISTOGRAM = "actdiag/hist/"
UNITS = "actdiag/units/states"
FINDINGS = "actdiag/findings"
REPORT = "actdiag/report"
STEP = "actdiag/"

STEP_STATS = (
    "grad_norm_total", "clip_coefficient", "loss_scale", "skipped_steps", "overhead_ms", "overhead_percent", "epoch",
    "ranks", "world_size",
)  # fmt: skip
HISTOGRAM_KINDS = {"activation": "histogram", "gradient": "grad_histogram"}


def front(prefix: str) -> str:
    """What stands before all tags of a monitor."""
    return f"{prefix}." if prefix else ""


NO_INT = -1
"""Stands for None among counts; NaN stands for it among floats (a Snapshot holds no NaN)."""
