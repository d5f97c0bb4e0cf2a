"""The columns of a report's table, once for every format."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from actdiag.snapshot import SiteStats


@dataclass(frozen=True)
class Column:
    """A heading and how a site fills it."""

    title: str
    fill: Callable[[SiteStats], str]


def share(value: float | None) -> str:
    """A share as a percentage: "0" only if it is exactly 0, "100" only if it is exactly 1, "-" if it does not apply."""
    if value is None or not 0 <= value <= 1:  # outside, it is no share: a log may hold anything
        return number(value)
    if value in (0.0, 1.0):
        return f"{value:.0%}"
    percent = min(max(100 * value, 0.1), 99.9)
    return f"{percent:.1f}%"


def number(value: float | None) -> str:
    """Three significant digits; "-" if it does not apply."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.3g}"


def _dead(site: SiteStats) -> str:
    if site.unit_states is None:
        return "-"
    if site.dead_units is None:
        return f"? ({site.evidence_samples or 0} samples)"
    extra = [f"{n} {what}" for n, what in ((site.suspect_units, "suspect"), (site.rare_units, "rare")) if n]
    note = f" ({', '.join(extra)})" if extra else ""
    return f"{site.dead_units} of {site.units}{note}"


COLUMNS = (
    Column("kind", lambda s: s.kind if s.role in ("layer", "activation") else f"{s.kind} ({s.role})"),
    Column("mean", lambda s: number(s.mean)),
    Column("std", lambda s: number(s.std)),
    Column("mean energy", lambda s: share(s.mean_energy)),
    Column("saturated", lambda s: share(s.saturated_fraction)),
    Column("zeros", lambda s: share(s.zero_fraction)),
    Column("dead units", _dead),
    Column("grad rms", lambda s: number(s.grad_rms)),
)
