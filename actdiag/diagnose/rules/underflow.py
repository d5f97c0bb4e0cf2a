"""gradient-underflow: gradients that half precision rounds to 0."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from actdiag.diagnose.finding import Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.reading import in_order, percent, short
from actdiag.snapshot import Histogram, SiteStats, Snapshot

_NEAR = 2


class Underflow(NamedTuple):
    """The site whose gradient lies most at the end of fp16, its share there, and sites where nothing is left.

    `first` is the first site, in the order of execution, that either is true of: there it shows most.
    """

    first: str
    site: str
    share: float
    rms: float
    lost: list[str]


def gradient_underflow(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """Gradients of half precision that are too small for it, and become 0.

    What: the gradients at a site end exactly at the smallest number of fp16 (6e-8, divided by the loss scale), with
    20 % of them within a factor 4 of it and a root mean square below 100 times it, in two snapshots in a row:
    warning. Error if nothing at all is left at sites before it. The precision is recognized by the histogram: wider
    types (bf16 too) go on below this number without a gap.
    Why: what is below half of it is 0, so weights with small gradients do not learn; the rest keeps a bit or two.
    Not a problem when: only the tail underflows, such as samples that are learned already (the root mean square
    is then far above); zeros come from ReLU; the type is bf16 or float32.
    What to try: a loss scaler (torch.amp.GradScaler) with float32 weights; bf16; a mean of the loss that does not
    divide by so much; normalization or another initialization if gradients shrink on their way.
    Source: Micikevicius et al. 2018, "Mixed Precision Training"; fp16 has exponents from -24 to 15.
    """
    recent = history[-limits.underflow_snapshots :]
    found = [f for snapshot in recent if (f := _underflow(snapshot, limits)) is not None]
    if len(found) < limits.underflow_snapshots:
        return
    last = found[-1]
    always = set.intersection(*(set(f.lost) for f in found))
    lost = [name for name in last.lost if name in always]
    yield _verdict(last, lost, history[-1])


def _underflow(snapshot: Snapshot, limits: Limits) -> Underflow | None:
    scale = snapshot.loss_scale
    if scale is not None and not 0 < scale < math.inf:
        return None
    smallest = limits.fp16_smallest - round(math.log2(scale or 1.0))
    order = in_order(snapshot)
    if not any(_is_small(site, smallest, limits) for _, site in order):
        return None
    octaves = 1 if _ends_everywhere(snapshot, smallest) else limits.underflow_octaves
    near = [_share(site, smallest, octaves, limits) for _, site in order]
    shares = [(share, i) for i, share in enumerate(near) if share is not None]
    if not shares:
        return None
    share, i = max(shares)
    lost = [name for name, s in order[:i] if (s.grad_zero_fraction or 0.0) >= limits.underflow_lost]
    first = lost[0] if lost else order[min(k for _, k in shares)][0]
    return Underflow(first, order[i][0], share, order[i][1].grad_rms or 0.0, lost)


def _ends_everywhere(snapshot: Snapshot, smallest: int) -> bool:
    """Whether no gradient at all is smaller. Elsewhere, one number alone (1/n of a loss) may look like the end."""
    seen = [s.grad_histogram for s in snapshot.sites.values() if s.grad_histogram is not None]
    return not any(n for h in seen for exponent, n in _magnitudes(h).items() if exponent < smallest)


def _is_small(site: SiteStats, smallest: int, limits: Limits) -> bool:
    """Whether its gradients are small enough for many of them to be lost."""
    if site.grad_histogram is None or not site.grad_rms or site.grad_nonfinite:
        return False
    return site.grad_rms < limits.underflow_near * 2.0**smallest


def _share(site: SiteStats, smallest: int, octaves: int, limits: Limits) -> float | None:
    """Share of the nonzero gradients next to the smallest number; None if they do not end there, or are larger."""
    if site.grad_histogram is None or not _is_small(site, smallest, limits):
        return None
    counts = _magnitudes(site.grad_histogram)
    total = sum(counts.values())
    seen = [exponent for exponent, n in counts.items() if n]
    if len(seen) < octaves or min(counts) >= smallest or min(seen) < smallest:
        return None
    share = sum(counts.get(smallest + i, 0) for i in range(_NEAR)) / total
    return share if share >= limits.underflow_share else None


def _magnitudes(histogram: Histogram) -> Mapping[int, int]:
    """Exponent of two -> values of this magnitude, of both signs."""
    k = len(histogram.counts) // 2
    return {histogram.top - k + i: histogram.counts[k + 1 + i] + histogram.counts[k - 1 - i] for i in range(k)}


def _verdict(found: Underflow, lost: Sequence[str], now: Snapshot) -> Verdict:
    rest = f"; nothing is left at {len(lost)} sites before it" if lost else ""
    scaled = f"the loss scale of {now.loss_scale:g} is too small" if now.loss_scale else "the loss is not scaled"
    return Verdict(
        rule="gradient-underflow",
        severity="error" if lost else "warning",
        layer=found.first,
        message=f"{found.first}: gradients are lost on their way here: {percent(found.share)} of those at {found.site} "
        f"lie at the end of fp16 (root mean square {short(found.rms)}), and smaller ones are rounded to 0{rest}",
        evidence={"share": found.share, "grad_rms": found.rms, "lost": list(lost[:32]), "healthy": "below 0.1"},
        cause=f"gradients are computed in fp16, which holds nothing below 6e-8, and {scaled}",
        advice=(
            "use a loss scaler (torch.amp.GradScaler), with the weights in float32",
            "use bf16 instead of fp16",
            "look whether the loss is divided by too much",
        ),
        source='Micikevicius et al. 2018, "Mixed Precision Training" (arXiv:1710.03740).',
    )
