"""dying-units: units that still open, and whose firing rate says that they will soon not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from actdiag.diagnose.finding import Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.reading import Layer, is_idle, layers, percent, silent_fraction
from actdiag.snapshot import SiteStats, Snapshot

SOURCE = (
    "Firing rates of four to eight bins of 256 samples or more, in units of the pre-activation's spread (their normal "
    "quantile); a line by weighted least squares, followed as far ahead as it reaches back; Lu et al. 2019 "
    "(arXiv:1903.06733) on how units die."
)
_ADVICE = (
    "lower the learning rate, or warm it up, before these units are lost: a dead unit rarely comes back",
    "look at the bias of the layer before: if it is falling, its gradient is one-sided (uncentered inputs or targets)",
    "add normalization before the activation, or try LeakyReLU, ELU or GELU",
)


def dying_units(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """A forecast that a large part of a layer will hardly open before long, as its units open ever more seldom.

    What: the firing rate of each unit is followed over the last four to eight bins (256 samples and 16 steps each, or
    more). Its normal quantile is the distance of the unit's mean pre-activation from the threshold, in its own spreads.
    A unit is dying if a line through these falls by three standard errors, its last rate is its lowest, and the line
    reaches the rate at which fewer than 3 samples of a window (`window_samples`, 2,048) open it no further ahead than
    it reaches back. The step that is told is the one by which half of the dying units have come to that rate, the next
    one at the earliest; a unit is called dead after a whole silent window more. Told, as info, when a fifth of a layer
    is dying and the dying and the silent ones are 45 % of it; with fewer than 16 units, and for outputs, 90 %.
    Activations with two ends (tanh, sigmoid) are left out: a unit that closes there is saturated, at either end.
    Why: a dead unit rarely comes back, while one that is dying can be saved by a smaller rate.
    Not a problem when: units specialize and come to rest at a low rate (the forecast is then withdrawn); the layer is
    a gate; training ends before the predicted step.
    What to try: lower the learning rate or warm it up; look whether biases fall; normalization before the activation;
    LeakyReLU, ELU or GELU.
    Source: the line and its error: weighted least squares on binomial rates; Lu et al. 2019, arXiv:1903.06733.
    """
    now = history[-1]
    for layer in layers(now):
        if len(layer.calls) == 1 and _told(layer.site, limits) and not is_idle(layer.site, now):
            yield _verdict(layer, now)


def _told(site: SiteStats, limits: Limits) -> bool:
    if site.role in ("input", "gate") or not site.units or not site.dying_units:
        return False
    if site.saturated_low is not None and site.saturated_high is not None:
        return False
    if site.dying_units / site.units < limits.dying_fraction:
        return False
    narrow = site.units < limits.dead_narrow_units or site.role == "output"
    goal = limits.dead_narrow if narrow else limits.dead_warning
    silent = silent_fraction(site)
    return silent < goal <= silent + site.dying_units / site.units


def _verdict(layer: Layer, now: Snapshot) -> Verdict:
    site = layer.site
    dying, units = site.dying_units or 0, site.units or 1
    silent = silent_fraction(site)
    span = f"step {site.dying_earliest_step} to {site.dying_latest_step}"
    also = f", beside {round(silent * units)} that are silent already" if silent else ""
    return Verdict(
        rule="dying-units",
        severity="info",
        layer=layer.name,
        message=(
            f"{layer.name}: {dying} of {units} {site.kind} units ({percent(dying / units)}) open ever more seldom; if "
            f"it goes on, half of them open for fewer than 3 samples of a whole window by step {site.dying_step} "
            f"({span}){also}"
        ),
        evidence={
            "dying_units": dying,
            "units": units,
            "dying_step": site.dying_step,
            "dying_earliest_step": site.dying_earliest_step,
            "dying_latest_step": site.dying_latest_step,
            "lead_steps": None if site.dying_step is None else site.dying_step - now.step,
            "silent_fraction": silent,
            "healthy": "firing rates that come to rest",
        },
        cause="updates push these units towards the closed side of their activation, step by step",
        advice=_ADVICE,
        source=SOURCE,
    )
