"""dead-units: units whose gate no sample opens any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from actdiag.diagnose.finding import Severity, Verdict
from actdiag.diagnose.limits import Limits
from actdiag.snapshot import SiteStats, Snapshot

SOURCE = (
    "Evidence window and thresholds: measured on 33 healthy and 32 faulty runs; bound: rule of three; "
    "remedies: He et al. 2015, Lu et al. 2019 (arXiv:1903.06733)."
)


def dead_units(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """Units whose gate stayed closed for every sample of the evidence window.

    What: a unit (channel or feature) counts as dead after `window_samples` samples and 16 batches in which no
    sample opened it: its firing rate is below 3/n with 95 % confidence. A layer is reported from 35 % dead units
    (error from 50 %), or early, as a warning, when half of its units are silent and the window is not full.
    Why: no gradient passes a closed gate; such a unit learns nothing and does not come back by itself.
    Not a problem when: units are rare rather than dead (sparse features), an expert received no data (then it
    is "not executed"), the unit is a gate that has decided, or a few units of a wide layer are dead.
    What to try: lower the learning rate or warm it up; standardize inputs (and regression targets); He
    initialization; LeakyReLU, ELU or GELU; batch or layer normalization. Units that are dead stay dead: restart
    from a checkpoint before `first_death_step`.
    Source: metrics measured on 65 training programs; rule of three; Lu et al. 2019, arXiv:1903.06733.
    """
    now = history[-1]
    first = _first_input(now)
    for name, site in now.sites.items():
        severity = _severity(site, limits)
        if severity is not None:
            yield _verdict(name, site, severity, first)


def _first_input(now: Snapshot) -> SiteStats | None:
    return next((site for site in now.sites.values() if site.role == "input"), None)


def _severity(site: SiteStats, limits: Limits) -> Severity | None:
    if site.dead_fraction is None or not site.units or site.role == "gate":
        return None
    silent = site.dead_fraction + (site.suspect_units or 0) / site.units
    if site.units < limits.dead_narrow_units:
        if site.dead_fraction >= limits.dead_narrow:
            return "error"
        return "warning" if silent >= limits.dead_narrow else None
    if site.dead_fraction >= limits.dead_error:
        return "error"
    if site.dead_fraction >= limits.dead_warning or silent >= limits.silent_warning:
        return "warning"
    return "info" if site.dead_fraction >= limits.dead_info else None


def _verdict(name: str, site: SiteStats, severity: Severity, first: SiteStats | None) -> Verdict:
    dead, suspect, units, n = (
        site.dead_units or 0,
        site.suspect_units or 0,
        site.units or 0,
        site.evidence_samples,
    )
    if dead >= suspect:
        message = (
            f"{name}: {dead} of {units} {site.kind} units ({dead / units:.0%}) are dead: closed for all of the last "
            f"{n} samples, so each fires on fewer than {3 / (n or 1):.2%} of samples"
        )
    else:
        message = (
            f"{name}: {dead + suspect} of {units} {site.kind} units ({(dead + suspect) / units:.0%}) have been silent "
            f"for at least 300 samples; {dead} of them for the whole evidence window so far"
        )
    cause, advice = _cause(site, first)
    return Verdict(
        rule="dead-units",
        severity=severity,
        layer=name,
        message=message,
        evidence={
            "dead_units": dead,
            "suspect_units": suspect,
            "units": units,
            "dead_fraction": site.dead_fraction,
            "evidence_samples": n,
            "first_death_step": site.first_death_step,
            "units_dead": site.units_in("dead")[:32],
            "healthy": "dead fraction at most 0.1, in narrow layers 0.3",
        },
        cause=cause,
        advice=advice,
        source=SOURCE,
    )


def _cause(site: SiteStats, first: SiteStats | None) -> tuple[str, tuple[str, ...]]:
    off_center = first is not None and first.mean_energy is not None and first.mean_energy > 0.9
    unscaled = first is not None and first.rms is not None and first.rms > 5
    if off_center or unscaled:
        assert first is not None
        return (
            f"the inputs are not standardized (mean {first.mean:.3g}, std {first.std:.3g})",
            ("standardize the inputs: subtract the mean, divide by the std", "lower the learning rate"),
        )
    if site.first_death_step == 0:
        return (
            "the units were closed from the first step on: initialization or inputs",
            ("use He initialization with zero bias", "center the inputs", "try LeakyReLU, ELU or GELU"),
        )
    return (
        "an update moved the units below zero for every sample: the learning rate, or a target scale, is too high",
        (
            "lower the learning rate or warm it up",
            "standardize regression targets",
            "try LeakyReLU, ELU or GELU, or normalization before the activation",
            "restart from a checkpoint before the first death",
        ),
    )
