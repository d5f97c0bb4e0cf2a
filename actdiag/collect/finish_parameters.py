"""From a Tally, of one rank or of all, to the numbers of parameters and their gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from actdiag.collect.tally import FLAGS, Tally
from actdiag.snapshot import ParameterState, ParameterStats

_CLIP_ROUNDING = 1e-6
"""Two norms of the same float32 gradient differ by less."""


def _values(tally: Tally) -> list[dict[str, float]]:
    """What is known of each parameter, by name."""
    if not tally.pieces:
        return tally.values
    named = zip(tally.values, tally.layout.parameters, strict=True)
    return [own | _joined(tally, row.name, own) for own, row in named]


def _joined(tally: Tally, name: str, own: Mapping[str, float]) -> dict[str, float]:
    """What the terms of a gradient tell that ranks have added up."""
    pieces = {piece: terms for piece, terms in tally.pieces.items() if piece.name == name}
    found: dict[str, float] = {}
    for value in sorted({piece.value for piece in pieces}):  # "clipped" first: it stands for "grad" where there is none
        sums = [terms for piece, terms in pieces.items() if piece.value == value]
        found[value] = float(sum(np.square(terms).sum() for terms in sums))
        found["zeros"] = float(sum((terms == 0).sum() for terms in sums))
        found["elements"] = float(sum(terms.size for terms in sums))
    if "clipped" in found and "grad" not in own:
        found.setdefault("grad", found["clipped"])
    return found


def finish_parameters(tally: Tally, *, complete: bool = True) -> list[ParameterStats]:
    """ParameterStats of the parameters of a tally, in its order. A norm of non-finite values is infinite.

    `complete`: the parts of all ranks are in the tally; of a part alone nothing is told.
    """
    untold = set() if complete else _divided(tally)
    flags_PF = tally.flags_PF.tolist()
    found = []
    for row, own, flags in zip(tally.layout.parameters, _values(tally), flags_PF, strict=True):
        own = {} if row.name in untold else own
        zeros, elements = own.get("zeros"), own.get("elements")
        update, base = own.get("update"), own.get("base")
        stats = ParameterStats(
            state=_state(dict(zip(FLAGS, flags, strict=True)), zeros, elements),
            weight_norm=_norm(own.get("weight")),
            grad_norm=_norm(own.get("grad")),
            grad_zero_fraction=zeros / elements if zeros is not None and elements else None,
            update_ratio=_norm(update / base) if update is not None and base else None,
        )
        found.append(stats)
    return found


def _divided(tally: Tally) -> set[str]:
    """The parameters of which nothing can be told by one rank alone."""
    return {row.name for row in tally.layout.parameters if row.part} | {piece.name for piece in tally.pieces}


def _norm(squares: float | None) -> float | None:
    if squares is None:
        return None
    return math.sqrt(squares) if math.isfinite(squares) else math.inf


def _state(flags: dict[str, bool], zeros: float | None, elements: float | None) -> ParameterState:
    if not flags["requires_grad"]:
        return "frozen"
    if not flags["in_optimizer"]:
        return "not_in_optimizer"
    if not flags["has_grad"]:
        return "no_grad"
    return "zero_grad" if zeros is not None and zeros == elements else "trained"


def total_norms(tally: Tally, *, complete: bool = True) -> tuple[float | None, float | None]:
    """Total gradient norm before clipping, and the clip coefficient.

    None where no gradient was seen, or where one of them cannot be told: its scale is unknown, or it is a part. Where
    ranks have averaged after the backward, there is no telling how it was before clipping.
    """
    before = after = 0.0
    seen = False
    untold = set() if complete else _divided(tally)
    used_P = tally.flags_PF[:, FLAGS.index("has_grad")].tolist()
    for row, own, used in zip(tally.layout.parameters, _values(tally), used_P, strict=True):
        if not used:
            continue
        if "clipped" not in own or "grad" not in own or row.name in untold:
            return None, None
        before += own["grad"]
        after += own["clipped"]
        seen = True
    if not seen:
        return None, None
    late = bool(tally.flags_PF[:, FLAGS.index("late")].any())
    return _norm(before), None if late else _clip(before, after)


def _clip(before: float, after: float) -> float | None:
    """By what the gradient was shortened; None for one that was made longer, which is not what clipping does."""
    if not 0 < before < math.inf or not math.isfinite(after):
        return None
    clip = math.sqrt(after / before)
    if abs(clip - 1) < _CLIP_ROUNDING:
        return 1.0
    return clip if clip < 1 else None
