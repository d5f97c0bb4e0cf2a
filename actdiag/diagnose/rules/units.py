"""dead-units: units whose gate no sample opens any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from actdiag.diagnose.finding import Severity, Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.reading import IDLE, Layer, Why, bad_input, is_idle, layers, percent
from actdiag.snapshot import UNIT_STATES, SiteStats, Snapshot

SOURCE = (
    "Thresholds measured on healthy and faulty runs (0.38 and 0.58); bound: rule of three; remedies: He et al. 2015, "
    "Lu et al. 2019 (arXiv:1903.06733)."
)
_NAMED_UNITS = 32


class Evidence(NamedTuple):
    """What is known of the units of one layer."""

    units: int
    dead: int
    suspect: int
    half_window: int
    double_window: int
    flickering: int
    seldom: int
    samples: int
    dead_indices: list[int]

    @property
    def silent(self) -> int:
        """Dead, or on the way to be called so."""
        return self.dead + self.suspect

    def doubtful(self, limits: Limits) -> int:
        """Silent units that may open again: a few that fire rarely, and more where that is what units do that open.

        As many have not been seen to open once more as have been seen to open once (Good-Turing), and these are silent
        again. Where most of those that open are alive, a silent one is of another kind.
        """
        back = 2 * self.flickering
        return max(1, self.spare(limits)) + (back if back >= self.units - self.silent else 0)

    def certain(self, limits: Limits) -> int:
        """Dead units that stay so as far as can be told: where units are few, one that opens again counts for much."""
        return max(self.double_window, self.dead - self.spare(limits))

    def spare(self, limits: Limits) -> int:
        """Silent units that units which open seldom stand for."""
        return limits.dead_spare(self.units, self.seldom)


def dead_units(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """Units whose gate stayed closed for every sample of the evidence window.

    What: a unit (channel or feature) is dead when no sample of the last `window_samples` (2,048) opened it, in 16
    batches or more: it fires on fewer than 3/n of the samples (95 %). A layer is a warning from 45 % dead units, an
    error from 50 %; earlier, a warning if 50 % of its units and one more have been silent for half of the window, or
    60 % and one more for 300 samples. Up to 32 units as many more must be silent as open seldom (on 0.4 % of a window
    or less; two at most), or 45 or 50 % for two windows. Where most units that open at all only flicker (they came
    back from a silence of 100 samples or more, on less than 1 % of the samples since), these, and as many more, do
    not count early. From 20 % it is told as info. Layers of fewer than 16 units, and outputs, need 90 %.
    Why: no gradient passes a closed gate; such a unit learns nothing and rarely comes back by itself.
    Not a problem when: units are rare rather than dead (sparse features); an expert received no data (it is then
    "not executed"); the layer is a gate that has decided, or is frozen; tanh or sigmoid units are closed but swing
    between both ends; a few units of a wide layer are dead.
    What to try: lower the learning rate or warm it up; standardize inputs (and regression targets); He
    initialization with zero bias; LeakyReLU, ELU or GELU; batch or layer normalization. Units that are dead stay
    dead: restart from a checkpoint before `first_death_step`.
    Source: thresholds measured on healthy and faulty training runs; rule of three; He et al. 2015; Lu et al. 2019,
    arXiv:1903.06733.
    """
    now = history[-1]
    for layer in layers(now):
        evidence = _evidence(layer)
        if evidence is None:
            continue
        severity = _severity(layer.site, evidence, limits)
        if severity is None:
            continue
        if is_idle(layer.site, now):
            yield _verdict(layer, evidence, "info", IDLE, limits)
        else:
            yield _verdict(layer, evidence, severity, _cause(layer, evidence, history, limits), limits)


def _evidence(layer: Layer) -> Evidence | None:
    """A unit that is used in a loop is dead if it is dead in every turn."""
    site = layer.site
    if site.role in ("input", "gate") or site.dead_units is None or not site.units:
        return None
    if len(layer.calls) == 1:
        double = site.dead_units if site.double_window_units is None else site.double_window_units
        return Evidence(
            site.units, site.dead_units, site.suspect_units or 0, max(site.half_window_units or 0, site.dead_units),
            double, site.flickering_units or 0, _seldom(site), site.evidence_samples or 0, site.units_in("dead"),
        )  # fmt: skip
    turns = [call.unit_states or "" for _, call in layer.calls]
    if len({len(states) for states in turns}) > 1 or not turns[0]:
        return None
    letters = {name: letter for letter, name in UNIT_STATES.items()}
    seen = [set(states) for states in zip(*turns, strict=True)]
    dead = [i for i, states in enumerate(seen) if states == {letters["dead"]}]
    silent = [states for states in seen if states <= {letters["dead"], letters["suspect"]}]
    samples = sum(call.evidence_samples or 0 for _, call in layer.calls)
    return Evidence(len(seen), len(dead), len(silent) - len(dead), len(dead), len(dead), 0, 0, samples, dead)


def _seldom(site: SiteStats) -> int:
    """Older logs do not know; each silent unit may be one then."""
    return _silent(site) if site.seldom_units is None else site.seldom_units


def _severity(site: SiteStats, evidence: Evidence, limits: Limits) -> Severity | None:
    dead, silent = evidence.dead / evidence.units, evidence.silent / evidence.units
    narrow = evidence.units < limits.dead_narrow_units
    if _has_two_ends(site) and not _is_pinned(site, limits, narrow=narrow):
        return None
    if narrow or site.role == "output":
        if dead >= limits.dead_narrow:
            return "error"
        return "warning" if silent >= limits.dead_narrow else None
    certain = evidence.certain(limits) / evidence.units
    if certain >= limits.dead_error:
        return "error"
    if certain >= limits.dead_warning or _is_early_warning(evidence, limits):
        return "warning"
    return "info" if dead >= limits.dead_info else None


def _is_early_warning(evidence: Evidence, limits: Limits) -> bool:
    """Whether enough units have been silent, not yet for the window, without those that may open again."""
    doubtful = evidence.doubtful(limits)
    half, silent = (max(n - doubtful, 0) / evidence.units for n in (evidence.half_window, evidence.silent))
    return half >= limits.half_window_warning or silent >= limits.silent_warning


def _has_two_ends(site: SiteStats) -> bool:
    return site.saturated_low is not None and site.saturated_high is not None


def _is_pinned(site: SiteStats, limits: Limits, *, narrow: bool) -> bool:
    """Whether closed units of a bounded activation are constant, and not just sure of themselves.

    An output may be constant for as long as its target is (border pixels, rare labels), so only the few units of
    a narrow one are judged.
    """
    at_one_end = max(site.saturated_low or 0, site.saturated_high or 0) >= limits.pinned_share
    if site.role == "output":
        return narrow and at_one_end
    return at_one_end or (site.mean_energy or 0) >= limits.pinned_mean_energy


def _cause(layer: Layer, evidence: Evidence, history: Sequence[Snapshot], limits: Limits) -> Why:
    site = layer.site
    if (odd := bad_input(history[-1], limits)) is not None:
        return odd, ("standardize the inputs: subtract the mean, divide by the std", "lower the learning rate")
    if site.role == "output":
        return (
            f"the output {site.kind} is closed for every sample: targets it cannot reach, or too large an update",
            ("use no activation, or one whose range holds the targets", "standardize the targets"),
        )
    if _born_dead(layer, evidence, history):
        return (
            "most of these units have been closed since the first step: initialization, a negative bias, or inputs",
            (
                "use He initialization with zero bias",
                "center the inputs",
                "add normalization or skip connections, or widen narrow layers",
                "try LeakyReLU, ELU or GELU",
            ),
        )
    when = f" (the first at step {site.first_death_step})" if site.first_death_step else ""
    return (
        f"updates pushed the units out of the range of all samples{when}: the learning rate, or the scale of the "
        "targets, is too high",
        (
            "lower the learning rate or warm it up",
            "standardize the targets if this is a regression",
            "try LeakyReLU, ELU or GELU, or normalization before the activation",
            "restart from a checkpoint before the first death",
        ),
    )


def _born_dead(layer: Layer, evidence: Evidence, history: Sequence[Snapshot]) -> bool:
    """Whether most of the silent units can have been so at the first step.

    The first death must date from step 0, so few gates must have been open in the first snapshot, and the first
    snapshot that knew of any silent units must have known of half of these.
    """
    if (layer.site.first_death_step or 0) > 0:
        return False
    name = layer.calls[0][0]
    seen = [snapshot.sites[name] for snapshot in history if name in snapshot.sites]
    known = [site for site in seen if site.dead_units is not None]
    if not known or _silent(known[0]) < 0.5 * evidence.silent:
        return False
    open_share = seen[0].gate_mean
    return open_share is None or open_share <= 1 - evidence.silent / evidence.units + 0.05


def _silent(site: SiteStats) -> int:
    return (site.dead_units or 0) + (site.suspect_units or 0)


def _verdict(layer: Layer, evidence: Evidence, severity: Severity, why: Why, limits: Limits) -> Verdict:
    return Verdict(
        rule="dead-units",
        severity=severity,
        layer=layer.name,
        message=_message(layer, evidence),
        evidence={
            "dead_units": evidence.dead,
            "suspect_units": evidence.suspect,
            "half_window_units": evidence.half_window,
            "double_window_units": evidence.double_window,
            "flickering_units": evidence.flickering,
            "seldom_units": evidence.seldom,
            "units": evidence.units,
            "dead_fraction": evidence.dead / evidence.units,
            "evidence_samples": evidence.samples,
            "first_death_step": layer.site.first_death_step,
            "units_dead": evidence.dead_indices[:_NAMED_UNITS],
            "healthy": f"dead fraction below {limits.dead_warning:g}, with fewer than {limits.dead_narrow_units} units "
            f"or at an output below {limits.dead_narrow:g}",
        },
        cause=why[0],
        advice=why[1],
        source=SOURCE,
    )


def _message(layer: Layer, evidence: Evidence) -> str:
    kind, of = layer.site.kind, f"of {evidence.units}"
    if evidence.dead >= evidence.suspect:
        return (
            f"{layer.name}: {evidence.dead} {of} {kind} units ({percent(evidence.dead / evidence.units)}) are dead: "
            f"closed for all of the last {evidence.samples} samples, so each fires on fewer than "
            f"{3 / (evidence.samples or 1):.2%} of samples"
        )
    proven = f"{evidence.dead} of them" if evidence.dead else "none of them yet"
    half = f", {evidence.half_window} for half of the evidence window" if evidence.half_window > evidence.dead else ""
    return (
        f"{layer.name}: {evidence.silent} {of} {kind} units ({percent(evidence.silent / evidence.units)}) have been "
        f"silent for at least 300 samples{half}, {proven} for the whole{'' if half else ' evidence window'}"
    )
