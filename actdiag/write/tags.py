"""The names under which things stand in an event file: written by write/, read by report/ and the tab."""

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

STEP_STATS = ("grad_norm_total", "clip_coefficient", "loss_scale", "skipped_steps", "overhead_ms")
HISTOGRAM_KINDS = {"activation": "histogram", "gradient": "grad_histogram"}

NO_INT = -1
"""Stands for None among counts; NaN stands for it among floats (a Snapshot holds no NaN)."""
