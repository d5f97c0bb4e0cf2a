"""How much of the loss gradient arrives where, per sample."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from actdiag.diagnose.rules.once import once
from actdiag.diagnose.rules.reading import in_order, looped, module_of
from actdiag.snapshot import SiteStats, Snapshot

_MIN_SITES = 4
_TWICE = 2.0
_PROBABILITIES = frozenset({"Softmax", "Softmax2d", "Softmin"})


class Flow(NamedTuple):
    """Gradient per sample at the early sites, at the late ones, and the largest anywhere.

    Early is the median of the first quarter of the sites, late that of the last quarter or the last site, whichever
    is less. `grows` tells that it gets larger all the way back: the median of each quarter is at least that of the
    next, and the first at least twice the third. A last site that is merely faint by itself (a side head of small
    weight) is not that.
    """

    early: float
    late: float
    last: float
    largest: float
    first_name: str
    grows: bool


@once
def flow(snapshot: Snapshot) -> Flow | None:
    """How much gradient arrives where; None with fewer than four sites that have a gradient.

    Per sample: grad_rms · sqrt(elements per sample), so that a wide or spatial layer compares with a narrow one.
    What turns scores into probabilities is left out: the gradient of the loss by a probability (1/p) says nothing
    about the layers.
    """
    norms = [
        (name, norm)
        for name, site in in_order(snapshot)
        if not gives_probabilities(site) and (norm := per_sample(site)) is not None
    ]
    if len(norms) < _MIN_SITES:
        return None
    values = [norm for _, norm in norms]
    quarters = medians(values)
    return Flow(
        early=quarters[0],
        late=min(quarters[-1], values[-1]),
        last=values[-1],
        largest=max(values),
        first_name=_name(norms[0][0], snapshot),
        grows=all(a >= b for a, b in pairwise(quarters)) and quarters[0] >= _TWICE * quarters[2],
    )


def medians(values: Sequence[float]) -> list[float]:
    """The median of each quarter; what does not divide by four is left to the last quarter."""
    size = max(1, len(values) // 4)
    return [statistics.median(values[i * size : (i + 1) * size if i < 3 else None]) for i in range(4)]


def _name(site: str, snapshot: Snapshot) -> str:
    return module_of(site) if module_of(site) in looped(snapshot) else site


def gives_probabilities(site: SiteStats) -> bool:
    """Softmax, and a bounded activation behind the last layer."""
    return site.kind in _PROBABILITIES or (site.role == "output" and site.saturated_fraction is not None)


def per_sample(site: SiteStats) -> float | None:
    """Norm of the gradient at a site by one sample; None for inputs, and where it is unknown or not finite."""
    if site.role == "input" or site.grad_rms is None or not site.samples or not site.n or site.grad_nonfinite:
        return None
    norm = site.grad_rms * math.sqrt(max(0.0, site.n / site.samples))
    return norm if math.isfinite(norm) else None
