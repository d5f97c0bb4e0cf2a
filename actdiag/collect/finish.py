"""From a Tally, of one rank or of all, to SiteStats: plain float64 arithmetic, on all sites at once.

Legend: S sites, C units of all sites in a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from actdiag.collect.histogram import BINS, finish_histograms
from actdiag.collect.memory import Known
from actdiag.collect.tally import SUMS, Floats, Tally
from actdiag.snapshot import Histogram, SiteStats, site_of

_LIVING = np.isin(np.arange(128), list(b"arv"))
"""By the letter of its state, whether a unit is neither dead nor suspect."""
Columns = Mapping[str, Sequence[Any]]
"""Name -> a number for each site."""


def finish_sites(
    tally: Tally, known: Sequence[Known | None], step: int, *, replicas: float = 1
) -> list[SiteStats | None]:
    """SiteStats of the sites of a tally, in its order; None for one of which nothing is given as known.

    `replicas`: the loss is a mean over so many ranks, so each one's gradient is larger.
    """
    sums: Columns = dict(zip(SUMS, tally.sums_SK.T.tolist(), strict=True))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the square of a double can be infinite
        moments = _moments(tally)
    activation_S, gradient_S = _histograms(tally)
    scale_S = (tally.scale_S * replicas).tolist()
    found: list[SiteStats | None] = []
    for i, (row, own) in enumerate(zip(tally.layout.sites, known, strict=True)):
        if own is None:
            found.append(None)
            continue
        scale = None if math.isnan(scale_S[i]) else scale_S[i]
        values: dict[str, Any] = {
            "kind": row.kind,
            "role": row.role,
            "order": i,
            "n": int(sums["elements"][i]),
            "samples": int(sums["samples"][i]),
            "units": row.units,
            "nonfinite": int(sums["nonfinite"][i]),
            "histogram": activation_S[i],
            **_from_moments(moments, sums, i),
            **_from_gate(sums, i, row.ends),
            **_from_gradient(sums, i, gradient_S[i], scale),
            **_from_evidence(own, step),
        }
        found.append(site_of(values))
    return found


def _moments(tally: Tally) -> Columns:
    """Layer numbers from unit numbers; whatever comes out where a layer has no finite element."""
    at = tally.units_at
    sizes_S = np.diff(at)
    used_S = sizes_S > 0
    first = np.array(at[:-1], np.intp)[used_S]

    def total(x_C: Floats) -> Floats:
        if first.size == len(sizes_S) > 0:
            return np.add.reduceat(x_C, first)
        sums_S = np.zeros(len(sizes_S))
        if first.size:
            sums_S[used_S] = np.add.reduceat(x_C, first)
        return sums_S

    n_S = total(tally.n_C)
    mean_S = total(tally.n_C * tally.mean_C) / n_S
    off_C = tally.mean_C - np.repeat(mean_S, sizes_S)
    variance_S = (total(tally.m2_C) + total(tally.n_C * off_C * off_C)) / n_S
    # Of a unit without a finite element mean and m2 are 0: it adds nothing, whatever it is divided by.
    squares_S = total(tally.mean_C * tally.mean_C)
    energy_S = total(tally.m2_C / np.maximum(tally.n_C, 1)) + squares_S
    columns = {
        "finite": n_S,
        "mean": mean_S,
        "std": np.sqrt(variance_S),
        "rms": np.sqrt(variance_S + mean_S * mean_S),
        "low": tally.low_S,
        "high": tally.high_S,
        "mean_energy": squares_S / energy_S,
    }
    return {name: column_S.tolist() for name, column_S in columns.items()}


def _from_moments(moments: Columns, sums: Columns, i: int) -> dict[str, Any]:
    """None of them where no element is finite."""
    n = moments["finite"][i]
    if n == 0:
        return {}
    energy = moments["mean_energy"][i]
    return {
        "mean": moments["mean"][i],
        "std": moments["std"][i],
        "rms": moments["rms"][i],
        "low": moments["low"][i],
        "high": moments["high"][i],
        "zero_fraction": sums["zeros"][i] / n,
        "mean_energy": None if math.isnan(energy) else energy,
    }


def _histograms(tally: Tally) -> tuple[list[Histogram | None], list[Histogram | None]]:
    """Of the activations and of the gradients."""
    found = finish_histograms(tally.octaves().reshape(-1, BINS))
    return found[::2], found[1::2]


def _from_gate(sums: Columns, i: int, ends: str) -> dict[str, Any]:
    n = sums["gate_n"][i]
    if n == 0:
        return {}
    values: dict[str, Any] = {"gate_mean": sums["gate"][i] / n if "g" in ends else None}
    low, high = sums["gate_low"][i] / n, sums["gate_high"][i] / n
    if "b" in ends:
        values["saturated_low"] = low if "l" in ends else None
        values["saturated_high"] = high if "h" in ends else None
        values["saturated_fraction"] = low + high
    return values


def _from_gradient(sums: Columns, i: int, histogram: Histogram | None, scale: float | None) -> dict[str, Any]:
    if not sums["gradients"][i]:
        return {}
    n = sums["grad_n"][i]
    values: dict[str, Any] = {"grad_nonfinite": int(sums["grad_nonfinite"][i])}
    if histogram is not None and scale is not None:
        octaves = round(math.log2(scale))
        values["grad_histogram"] = replace(histogram, top=histogram.top - octaves) if octaves else histogram
    if n == 0:
        return values
    return values | {
        "grad_rms": None if scale is None else math.sqrt(sums["grad_squares"][i] / n) / scale,
        "grad_zero_fraction": sums["grad_zeros"][i] / n,
    }


def _from_evidence(known: Known, step: int) -> dict[str, Any]:
    if known.evidence is None or known.ledger is None:
        return {}
    verdict = known.ledger.judge(known.evidence, step)
    dead = verdict.count("d")
    living_C = _LIVING[np.frombuffer(verdict.states.encode(), np.uint8)]
    forecast = known.trend.forecast(living_C, known.evidence.window)
    return {
        "units": len(verdict.states),
        "dead_units": dead,
        "dead_fraction": None if dead is None else dead / len(verdict.states),
        "suspect_units": verdict.count("s"),
        "half_window_units": verdict.half_window if verdict.known else None,
        "double_window_units": verdict.double_window if verdict.known else None,
        "flickering_units": verdict.flickering if verdict.known else None,
        "seldom_units": verdict.seldom if verdict.known else None,
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
