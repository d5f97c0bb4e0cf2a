"""From a Tally, of one rank or of all, to the numbers of a Snapshot: plain float64 arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actdiag.collect.histogram import finish_histogram
from actdiag.collect.memory import Known
from actdiag.collect.tally import FLAGS, VALUES, Tally
from actdiag.snapshot import ParameterState, ParameterStats, SiteStats

_CLIP_ROUNDING = 1e-6
"""Two norms of the same float32 gradient differ by less."""


def finish_site(tally: Tally, i: int, known: Known, step: int, *, replicas: float = 1) -> SiteStats:
    """SiteStats of one site. `replicas`: the loss is a mean over so many ranks, so each one's gradient is larger."""
    row = tally.layout.sites[i]
    values: dict[str, Any] = {"n": int(tally.sum_of(i, "elements")), "samples": int(tally.sum_of(i, "samples"))}
    activation_U, gradient_U = tally.octaves(i)
    with np.errstate(over="ignore", invalid="ignore"):  # the square of a double can be infinite
        values |= {"histogram": finish_histogram(activation_U)} | _from_moments(tally, i)
    values |= _from_gate(tally, i, row.ends)
    scale = float(tally.scale_S[i]) * replicas
    values |= _from_gradient(tally, i, gradient_U, None if math.isnan(scale) else scale)
    values |= _from_evidence(known, step)
    return SiteStats(kind=row.kind, role=row.role, order=i, **values)


def _from_moments(tally: Tally, i: int) -> dict[str, Any]:
    """Layer numbers from unit numbers; None where no element is finite."""
    part = slice(tally.units_at[i], tally.units_at[i + 1])
    n_C, mean_C, m2_C = tally.n_C[part], tally.mean_C[part], tally.m2_C[part]
    values: dict[str, Any] = {"units": int(n_C.size), "nonfinite": int(tally.sum_of(i, "nonfinite"))}
    n = float(n_C.sum())
    if n == 0:
        return values
    mean = float(n_C @ mean_C) / n
    variance = (float(m2_C.sum()) + float(n_C @ np.square(mean_C - mean))) / n
    # Of a unit without a finite element mean and m2 are 0: it adds nothing, whatever it is divided by.
    squares = float(np.square(mean_C).sum())
    energy = float((m2_C / np.maximum(n_C, 1)).sum()) + squares
    return values | {
        "mean": mean,
        "std": math.sqrt(variance),
        "rms": math.sqrt(variance + mean * mean),
        "low": float(tally.low_S[i]),
        "high": float(tally.high_S[i]),
        "zero_fraction": tally.sum_of(i, "zeros") / n,
        "mean_energy": squares / energy if energy > 0 else None,
    }


def _from_gate(tally: Tally, i: int, ends: str) -> dict[str, Any]:
    n = tally.sum_of(i, "gate_n")
    if n == 0:
        return {}
    values: dict[str, Any] = {"gate_mean": tally.sum_of(i, "gate") / n if "g" in ends else None}
    low, high = tally.sum_of(i, "gate_low") / n, tally.sum_of(i, "gate_high") / n
    if "b" in ends:
        values["saturated_low"] = low if "l" in ends else None
        values["saturated_high"] = high if "h" in ends else None
        values["saturated_fraction"] = low + high
    return values


def _from_gradient(tally: Tally, i: int, counts_U: NDArray[np.int64], scale: float | None) -> dict[str, Any]:
    if not tally.sum_of(i, "gradients"):
        return {}
    n = tally.sum_of(i, "grad_n")
    values: dict[str, Any] = {"grad_nonfinite": int(tally.sum_of(i, "grad_nonfinite"))}
    histogram = finish_histogram(counts_U)
    if histogram is not None and scale is not None:
        values["grad_histogram"] = replace(histogram, top=histogram.top - round(math.log2(scale)))
    if n == 0:
        return values
    return values | {
        "grad_rms": None if scale is None else math.sqrt(tally.sum_of(i, "grad_squares") / n) / scale,
        "grad_zero_fraction": tally.sum_of(i, "grad_zeros") / n,
    }


def _from_evidence(known: Known, step: int) -> dict[str, Any]:
    if known.evidence is None or known.ledger is None:
        return {}
    verdict = known.ledger.judge(known.evidence, step)
    dead = verdict.count("d")
    forecast = known.trend.forecast(np.array([s in "arv" for s in verdict.states]), known.evidence.window)
    return {
        "units": len(verdict.states),
        "dead_units": dead,
        "dead_fraction": None if dead is None else dead / len(verdict.states),
        "suspect_units": verdict.count("s"),
        "half_window_units": verdict.half_window if verdict.known else None,
        "flickering_units": verdict.flickering if verdict.known else None,
        "rare_units": verdict.count("r"),
        "revived_units": verdict.count("v"),
        "evidence_samples": verdict.evidence_samples,
        "first_death_step": verdict.first_death_step,
        "dying_units": None if forecast is None else forecast.units,
        "dying_step": None if forecast is None else forecast.step,
        "dying_earliest_step": None if forecast is None else forecast.earliest_step,
        "dying_latest_step": None if forecast is None else forecast.latest_step,
        "unit_states": verdict.states,
    }


def _values(tally: Tally, i: int) -> dict[str, float]:
    own = {name: float(tally.values_PV[i, k]) for k, name in enumerate(VALUES) if tally.known_PV[i, k]}
    pieces = {piece: terms for piece, terms in tally.pieces.items() if piece.name == tally.layout.parameters[i].name}
    for value in sorted({piece.value for piece in pieces}):  # "clipped" first: it stands for "grad" where there is none
        sums = [terms for piece, terms in pieces.items() if piece.value == value]
        own[value] = float(sum(np.square(terms).sum() for terms in sums))
        own["zeros"] = float(sum((terms == 0).sum() for terms in sums))
        own["elements"] = float(sum(terms.size for terms in sums))
    if pieces and "clipped" in own:
        own.setdefault("grad", own["clipped"])
    return own


def finish_parameter(tally: Tally, i: int, *, complete: bool = True) -> ParameterStats:
    """ParameterStats of one parameter. A norm of non-finite values is infinite.

    `complete`: the parts of all ranks are in the tally; of a part alone nothing is told.
    """
    own = _values(tally, i) if complete or not _divided(tally, i) else {}
    zeros, elements = own.get("zeros"), own.get("elements")
    update, base = own.get("update"), own.get("base")
    return ParameterStats(
        state=_state(dict(zip(FLAGS, tally.flags_PF[i].tolist(), strict=True)), zeros, elements),
        weight_norm=_norm(own.get("weight")),
        grad_norm=_norm(own.get("grad")),
        grad_zero_fraction=zeros / elements if zeros is not None and elements else None,
        update_ratio=_norm(update / base) if update is not None and base else None,
    )


def _divided(tally: Tally, i: int) -> bool:
    """Whether nothing can be told of a parameter by one rank alone."""
    row = tally.layout.parameters[i]
    return row.part or any(piece.name == row.name for piece in tally.pieces)


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
    for i in range(len(tally.layout.parameters)):
        if not tally.flags_PF[i, FLAGS.index("has_grad")]:
            continue
        own = _values(tally, i)
        if "clipped" not in own or "grad" not in own or (not complete and _divided(tally, i)):
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
