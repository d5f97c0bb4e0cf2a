"""What people see without the actdiag tab: a dozen curves of the model, and per-layer groups of the layers that
matter most."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from actdiag.snapshot import SiteStats, Snapshot
from actdiag.write import tags

_LAYERS_A_METRIC = 12
_EXTRA_LAYERS = 4
_HISTOGRAM_LAYERS = 3

SITE_METRICS = (
    "dead_fraction",
    "saturated_fraction",
    "mean_energy",
    "rms",
    "zero_fraction",
    "grad_rms",
)
"""Per-layer groups `actdiag_<metric>/<layer>`; `update_ratio` of the parameters is the seventh."""

Scalars = dict[str, float]


def model_scalars(snapshot: Snapshot, open_findings: int) -> Scalars:
    """Curves of the whole model under `actdiag/`: the worst layer of each kind, sums, and the step's own numbers."""
    sites = snapshot.sites.values()
    acting = [site for site in sites if site.role in ("activation", "gate", "output")]
    ratios = [p.update_ratio for p in snapshot.parameters.values() if p.update_ratio is not None]
    curves: dict[str, float | None] = {
        "dead_fraction_max": _over(acting, lambda s: s.dead_fraction, max),
        "dead_units": _over(acting, lambda s: s.dead_units, sum),
        "saturated_fraction_max": _over(
            (s for s in acting if s.role == "activation"), lambda s: s.saturated_fraction, max
        ),
        "mean_energy_max": _over(sites, lambda s: s.mean_energy if s.role != "layer" else None, max),
        "zero_fraction_mean": _over(acting, lambda s: s.zero_fraction, statistics.fmean),
        "nonfinite": _over(sites, lambda s: s.nonfinite, sum),
        "update_ratio_median": statistics.median(ratios) if ratios else None,
        "findings_open": open_findings,
        **{name: getattr(snapshot, name) for name in tags.STEP_STATS},
    }
    return {tags.STEP + name: float(value) for name, value in curves.items() if value is not None}


def _over(
    sites: Iterable[SiteStats],
    pick: Callable[[SiteStats], float | None],
    join: Callable[[list[float]], float],
) -> float | None:
    values = [value for site in sites if (value := pick(site)) is not None]
    return join(values) if values else None


class LayerChoice:
    """Which layers have curves of their own. A layer once chosen stays, so that no curve ends in the middle.

    Up to twelve layers a metric, evenly spread over the depth when there are more, and up to four more that a
    finding has named. `full` keeps every layer.
    """

    def __init__(self, *, full: bool) -> None:
        self._full = full
        self._chosen: dict[str, list[str]] = {}
        self._extra: dict[str, list[str]] = {}

    def scalars(self, snapshot: Snapshot, named: Iterable[str]) -> Scalars:
        """`actdiag_<metric>/<layer>` of the chosen layers."""
        named = set(named)
        found: Scalars = {}
        for metric in SITE_METRICS:
            values = {name: value for name, s in snapshot.sites.items() if (value := getattr(s, metric)) is not None}
            found |= self._choose(metric, values, named)
        ratios = {name: p.update_ratio for name, p in snapshot.parameters.items() if p.update_ratio is not None}
        return found | self._choose("update_ratio", {n: v for n, v in ratios.items() if v is not None}, named)

    def _choose(self, metric: str, values: dict[str, float], named: set[str]) -> Scalars:
        chosen = self._chosen.get(metric)
        if values and (chosen is None or self._full):
            chosen = self._chosen[metric] = list(values) if self._full else spread(list(values), _LAYERS_A_METRIC)
        if not chosen:
            return {}
        extra = self._extra.setdefault(metric, [])
        for name in values:
            if name in named and name not in chosen and name not in extra and len(extra) < _EXTRA_LAYERS:
                extra.append(name)
        return {f"actdiag_{metric}/{name}": values[name] for name in chosen + extra if name in values}


def spread(names: list[str], most: int) -> list[str]:
    """At most `most` of the names, first and last among them, evenly spaced."""
    if len(names) <= most:
        return names
    picks = [round(i * (len(names) - 1) / (most - 1)) for i in range(most)]
    return [names[i] for i in picks]


def histogram_layers(snapshot: Snapshot) -> list[str]:
    """The few layers whose histograms are also written in TensorBoard's own form."""
    acting = [n for n, s in snapshot.sites.items() if s.role == "activation" and s.histogram is not None]
    return spread(acting, _HISTOGRAM_LAYERS)
