"""What people see without the actdiag tab: a dozen curves of the model, and per-layer groups of the layers that
matter most."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping

from actdiag.diagnose.finding import Change, Finding
from actdiag.diagnose.rules.gradients import gradient_ratio
from actdiag.snapshot import SiteStats, Snapshot
from actdiag.write import tags
from actdiag.write.plain import plain

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
        "mean_energy_max": _over(sites, lambda s: s.mean_energy if s.role not in ("layer", "other") else None, max),
        "zero_fraction_mean": _over(acting, lambda s: s.zero_fraction, statistics.fmean),
        "nonfinite": _over(sites, lambda s: s.nonfinite, sum),
        "gradient_ratio": gradient_ratio(snapshot),
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


class Curves:
    """The scalars of each recorded step, as TensorBoard's charts and other stores of metrics show them.

    `detail`: 'summary', 'full', or 'model' without any layer. `open`: findings that are not over, by rule and layer.
    """

    def __init__(self, detail: str) -> None:
        self.open: dict[tuple[str, str], Finding] = {}
        self.layers = LayerChoice(full=detail == "full")
        self._of_model_only = detail == "model"

    def note(self, changes: Iterable[Change]) -> None:
        """Take what a step has changed among the findings."""
        for change in changes:
            key = change.finding.rule, change.finding.layer
            if change.kind == "resolved":
                self.open.pop(key, None)
            else:
                self.open[key] = change.finding

    def scalars(self, snapshot: Snapshot) -> Scalars:
        """Tag -> value. A number that does not apply has no tag."""
        found = model_scalars(snapshot, len(self.open))
        return found if self._of_model_only else found | self.layers.scalars(snapshot, [name for _, name in self.open])


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
        """`actdiag_<metric>/<layer>` of the chosen layers; `named` are those that findings name."""
        named = set(named)
        found: Scalars = {}
        for metric in SITE_METRICS:
            found |= self._of(metric, snapshot.sites, named)
        return found | self._of("update_ratio", snapshot.parameters, named)

    def histograms(self, snapshot: Snapshot) -> list[str]:
        """The few activations whose histograms are also written in TensorBoard's own form."""
        acting = [n for n, s in snapshot.sites.items() if s.role == "activation" and s.histogram is not None]
        return [name for name in self._keep("histogram", acting, _HISTOGRAM_LAYERS) if name in acting]

    def _of(self, metric: str, items: Mapping[str, object], named: set[str]) -> Scalars:
        values = {name: value for name, item in items.items() if (value := getattr(item, metric)) is not None}
        most = len(values) if self._full else _LAYERS_A_METRIC
        chosen = self._keep(metric, list(values), most)
        extra = self._extra.setdefault(metric, [])
        if named:
            spoken_of = [name for name in values if named.intersection((*layers_of(name), name.rpartition(".")[0]))]
            extra += [name for name in spoken_of if name not in chosen and name not in extra]
            del extra[_EXTRA_LAYERS:]
        return {f"actdiag_{metric}/{plain(name)}": values[name] for name in chosen + extra if name in values}

    def _keep(self, what: str, names: list[str], most: int) -> list[str]:
        """The names chosen so far, and new ones while there is room."""
        chosen = self._chosen.setdefault(what, [])
        new = [name for name in names if name not in chosen]
        chosen += spread(new, max(0, most - len(chosen)))
        return chosen


def layers_of(site: str) -> tuple[str, str]:
    """The names under which a finding speaks of a site: `relu#1:in` is of `relu#1`, and of `relu`."""
    call = site.removesuffix(":in")
    return call, call.partition("#")[0]


def spread(names: list[str], most: int) -> list[str]:
    """At most `most` of the names, first and last among them, evenly spaced."""
    if len(names) <= most:
        return names
    if most < 2:
        return names[:most]
    picks = [round(i * (len(names) - 1) / (most - 1)) for i in range(most)]
    return [names[i] for i in picks]
