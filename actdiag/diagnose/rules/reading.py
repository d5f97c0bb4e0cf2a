"""How the rules read a snapshot: which calls are one layer, what learns, what the inputs look like."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.once import once
from actdiag.snapshot import SiteStats, Snapshot

Named = tuple[str, SiteStats]
Why = tuple[str, tuple[str, ...]]
"""A likely cause, and what to try, the most promising first."""

IDLE: Why = (
    "nothing up to this layer is trained in this run (frozen or detached): it came this way",
    ("leave it as it is, or unfreeze the layers before it",),
)


class Layer(NamedTuple):
    """One site, or the call sites of one module in a loop over time; `name` is what findings call it."""

    name: str
    calls: Sequence[Named]

    @property
    def site(self) -> SiteStats:
        """The first call."""
        return self.calls[0][1]


@once
def in_order(snapshot: Snapshot) -> Sequence[Named]:
    """Sites in the order of execution."""
    return tuple(sorted(snapshot.sites.items(), key=lambda item: item[1].order))


def module_of(site: str) -> str:
    """`fc` for the sites `fc`, `fc:in` and `fc#3`."""
    return site.removesuffix(":in").partition("#")[0]


@once
def looped(snapshot: Snapshot) -> frozenset[str]:
    """Modules that run once in each turn of a loop, such as the parts of a hand-written recurrent cell.

    They are called as often as some weighted module is. An activation that is merely used at several places is
    called more than once too, but the weights between its calls are not: its call sites are layers of their own.
    """
    calls = Counter(module_of(name) for name in snapshot.sites if "#" in name)
    weighted = {module_of(n) for n, site in snapshot.sites.items() if "#" in n and site.role == "layer"}
    turns = {calls[module] for module in weighted if calls[module] > 1}
    return frozenset(module for module, count in calls.items() if count in turns)


@once
def layers(snapshot: Snapshot) -> Sequence[Layer]:
    """All sites in order, the call sites of a loop taken together."""
    loops = looped(snapshot)
    found: dict[str, list[Named]] = {}
    for name, site in in_order(snapshot):
        module = module_of(name)
        together = module in loops and "#" in name
        found.setdefault(module if together else name, []).append((name, site))
    return tuple(Layer(name, calls) for name, calls in found.items())


def is_idle(site: SiteStats, snapshot: Snapshot) -> bool:
    """Whether nothing up to this site learns: gradients reach others, but not this one (frozen or detached)."""
    if site.grad_rms is not None or site.grad_nonfinite:
        return False
    return any(other.grad_rms is not None for other in snapshot.sites.values())


def silent_fraction(site: SiteStats) -> float:
    """Share of units that are dead, or on the way to be called so; 0 where it is unknown."""
    if not site.units or site.dead_units is None:
        return 0.0
    return (site.dead_units + (site.suspect_units or 0)) / site.units


@once
def hidden(snapshot: Snapshot) -> Sequence[Named]:
    """Weighted layers and activations in order, without the last site and the outputs."""
    order = in_order(snapshot)
    last = max((i for i, (_, site) in enumerate(order) if site.role == "layer"), default=len(order))
    return tuple((name, site) for name, site in order[:last] if site.role in ("layer", "activation"))


def hidden_rms(snapshot: Snapshot) -> float | None:
    """Size of the largest hidden activation; None if there is none, or it is not finite."""
    sizes = [site.rms for _, site in hidden(snapshot) if site.rms is not None]
    return max(sizes) if sizes and all(map(math.isfinite, sizes)) else None


def first_input(snapshot: Snapshot) -> Named | None:
    """What the first layer receives; None where it is not a number (of an embedding), or not recorded."""
    return next((named for named in in_order(snapshot) if named[1].role == "input"), None)


def bad_input(snapshot: Snapshot, limits: Limits) -> str | None:
    """What is odd about the first input, in words that can be a cause; None if it is standardized well enough."""
    found = first_input(snapshot)
    if found is None:
        return None
    first = found[1]
    energy = centering(first)
    off_center = energy is not None and energy > limits.input_mean_energy
    unscaled = first.rms is not None and first.rms > limits.input_rms
    if not (off_center or unscaled):
        return None
    return f"the inputs are not standardized (mean {short(first.mean)}, std {short(first.std)})"


def centering(site: SiteStats) -> float | None:
    """Mean energy without the part that a mean over few samples has by chance, 1/n for centered data."""
    n = site.samples
    if site.mean_energy is None or not n or n < 2:
        return None
    return max(0.0, (n * site.mean_energy - 1) / (n - 1))


def short(value: float | None) -> str:
    """A number in three digits, as messages show it."""
    return "unknown" if value is None or math.isnan(value) else f"{value:.3g}"


def percent(share: float) -> str:
    """A share as a percentage that is 0 or 100 only if it is exactly that."""
    if 0 < share < 0.005:
        return "under 1%"
    return "over 99%" if 0.995 <= share < 1 else f"{share:.0%}"
