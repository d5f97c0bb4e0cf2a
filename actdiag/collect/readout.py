"""From device sums to a Snapshot: one copy a device, then plain float64 arithmetic on the host."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actdiag.collect.histogram import finish_histogram
from actdiag.collect.parameters import ParameterRecord, pack_record
from actdiag.collect.site import Site
from actdiag.snapshot import ParameterState, ParameterStats, SiteStats

_CLIP_ROUNDING = 1e-6
"""Two norms of the same float32 gradient differ by less."""

Numbers = NDArray[np.float64]
Fetched = dict[str, dict[str, dict[str, Numbers]]]
"""Owner (site or parameter) -> group -> name -> numbers."""


class Readout:
    """Tensors waiting to be copied to the host together. `fetch` is the one synchronization of a recorded step."""

    def __init__(self) -> None:
        self._waiting: dict[torch.device, list[tuple[tuple[str, str, str], Tensor]]] = {}

    def add(self, owner: str, group: str, name: str, tensor: Tensor) -> None:
        """Queue a tensor under three names."""
        self._waiting.setdefault(tensor.device, []).append(((owner, group, name), tensor))

    def fetch(self) -> Fetched:
        """Copy everything queued; float64 arrays in the tensors' shapes. Synchronizes once for each device."""
        found: Fetched = {}
        for device, items in self._waiting.items():
            dtype = torch.float32 if device.type == "mps" else torch.float64
            flat = torch.cat([_flat(tensor, dtype) for _, tensor in items]).cpu()
            host = flat.numpy().astype(np.float64, copy=False)
            start = 0
            for (owner, group, name), tensor in items:
                numbers = host[start : start + tensor.numel()].reshape(tuple(tensor.shape))
                found.setdefault(owner, {}).setdefault(group, {})[name] = numbers
                start += tensor.numel()
        self._waiting.clear()
        return found


def _flat(x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype != dtype:
        x = x.to(dtype)
    return x if x.ndim == 1 else x.reshape(-1)


def queue_site(out: Readout, site: Site) -> None:
    """Queue everything a site has added up."""
    groups = {"moments": site.moments, "gate": site.gate, "gradient": site.gradient}
    for group, sums in groups.items():
        if sums is not None:
            for name, tensor in zip(sums._fields, sums, strict=True):
                out.add(site.name, group, name, tensor)
    for name, octaves in (("activation", site.octaves), ("gradient", site.gradient_octaves)):
        if octaves is not None:
            out.add(site.name, "octaves", name, octaves)
    if site.evidence is not None:
        out.add(site.name, "evidence", "ages", site.evidence.ages_3C)
        out.add(site.name, "evidence", "open", site.evidence.open_C + site.evidence.open_before_C)


def queue_records(out: Readout, records: Iterable[ParameterRecord]) -> None:
    """Queue the sums of all parameters."""
    for record in records:
        for name, tensor in pack_record(record).items():
            out.add(record.name, "parameter", name, tensor)


def finish_site(site: Site, fetched: Fetched, *, step: int, loss_scale: float | None) -> SiteStats:
    """SiteStats from the host numbers of one site. `loss_scale`: of its gradient; None if that cannot be told."""
    groups = fetched.get(site.name, {})
    values: dict[str, Any] = {"n": site.elements, "samples": site.samples}
    if "moments" in groups:
        with np.errstate(over="ignore", invalid="ignore"):  # the square of a double can be infinite
            values |= _from_moments(groups["moments"])
    if "gate" in groups:
        values |= _from_gate(groups["gate"], site)
    if "gradient" in groups:
        values |= _from_gradient(groups["gradient"], loss_scale)
    if "evidence" in groups:
        values |= _from_evidence(groups["evidence"], site, step)
    octaves = groups.get("octaves", {})
    if "activation" in octaves:
        values["histogram"] = finish_histogram(octaves["activation"])
    histogram = finish_histogram(octaves["gradient"]) if "gradient" in octaves and loss_scale is not None else None
    if histogram is not None and loss_scale is not None:
        values["grad_histogram"] = replace(histogram, top=histogram.top - round(math.log2(loss_scale)))
    return SiteStats(kind=site.kind, role=site.role, order=site.order, **values)


def _from_moments(m: Mapping[str, Numbers]) -> dict[str, Any]:
    """Layer numbers from unit numbers; None where no element is finite."""
    values: dict[str, Any] = {"units": int(m["n_C"].size), "nonfinite": int(m["nonfinite"])}
    n_C, n = m["n_C"], float(m["n_C"].sum())
    if n == 0:
        return values
    mean = float((n_C * m["mean_C"]).sum() / n)
    variance = float((m["m2_C"].sum() + (n_C * np.square(m["mean_C"] - mean)).sum()) / n)
    seen = n_C > 0
    square_C = m["m2_C"][seen] / n_C[seen] + m["mean_C"][seen] ** 2
    energy = float(square_C.sum())
    return values | {
        "mean": mean,
        "std": math.sqrt(variance),
        "rms": math.sqrt(variance + mean * mean),
        "low": float(m["low_C"].min()),
        "high": float(m["high_C"].max()),
        "zero_fraction": float(m["zeros"]) / n,
        "mean_energy": float((m["mean_C"][seen] ** 2).sum()) / energy if energy > 0 else None,
    }


def _from_gate(g: Mapping[str, Numbers], site: Site) -> dict[str, Any]:
    n = float(g["n"])
    if n == 0 or site.facts is None:
        return {}
    values: dict[str, Any] = {"gate_mean": float(g["gate"]) / n if site.facts.gate is not None else None}
    low, high = float(g["low"]) / n, float(g["high"]) / n
    if site.facts.bounded:
        values["saturated_low"] = low if site.facts.saturated_low is not None else None
        values["saturated_high"] = high if site.facts.saturated_high is not None else None
        values["saturated_fraction"] = low + high
    return values


def _from_gradient(g: Mapping[str, Numbers], loss_scale: float | None) -> dict[str, Any]:
    n = float(g["n"])
    values: dict[str, Any] = {"grad_nonfinite": int(g["nonfinite"])}
    if n == 0:
        return values
    return values | {
        "grad_rms": None if loss_scale is None else math.sqrt(float(g["squares"]) / n) / loss_scale,
        "grad_zero_fraction": float(g["zeros"]) / n,
    }


def _from_evidence(e: Mapping[str, Numbers], site: Site, step: int) -> dict[str, Any]:
    if site.evidence is None or site.ledger is None:
        return {}
    verdict = site.ledger.judge(e["ages"], e["open"], site.evidence, step)
    dead = verdict.count("d")
    return {
        "units": len(verdict.states),
        "dead_units": dead,
        "dead_fraction": None if dead is None else dead / len(verdict.states),
        "suspect_units": verdict.count("s"),
        "rare_units": verdict.count("r"),
        "revived_units": verdict.count("v"),
        "evidence_samples": verdict.evidence_samples,
        "first_death_step": verdict.first_death_step,
        "unit_states": verdict.states,
    }


def _own(record: ParameterRecord, fetched: Fetched) -> dict[str, float]:
    return {name: float(value) for name, value in fetched.get(record.name, {}).get("parameter", {}).items()}


def finish_parameter(record: ParameterRecord, fetched: Fetched, *, loss_scale: float | None) -> ParameterStats:
    """ParameterStats from the host numbers of one parameter. A norm of non-finite values is infinite."""
    own = _own(record, fetched)
    grad = own.get("grad_squares", own.get("clipped_squares")) if record.has_grad else None
    scaled = record.scaled if "grad_squares" in own else record.clipped_scaled
    zeros = own["grad_zeros"] + record.absent if "grad_zeros" in own else None
    update, base = own.get("update_squares"), own.get("base_squares")
    values = {
        "weight_norm": _norm(own.get("weight_squares")),
        "grad_norm": _norm(grad, over=loss_scale if scaled else 1.0),
        "grad_zero_fraction": zeros / record.elements if zeros is not None and record.elements else None,
        "update_ratio": _norm(update / base) if update is not None and base else None,
    }
    return ParameterStats(state=_state(record, zeros), **values)


def _norm(squares: float | None, *, over: float | None = 1.0) -> float | None:
    if squares is None or over is None:
        return None
    return math.sqrt(squares) / over if math.isfinite(squares) else math.inf


def _state(record: ParameterRecord, zeros: float | None) -> ParameterState:
    if not record.requires_grad:
        return "frozen"
    if not record.in_optimizer:
        return "not_in_optimizer"
    if not record.has_grad:
        return "no_grad"
    return "zero_grad" if zeros == record.elements else "trained"


def total_norms(
    records: Sequence[ParameterRecord], fetched: Fetched, over: Callable[[ParameterRecord], float | None]
) -> tuple[float | None, float | None]:
    """Total gradient norm before clipping, and the clip coefficient; None where no gradient was seen.

    `over`: by what a parameter's gradient is multiplied; where that cannot be told, there is no total.
    """
    before = after = 0.0
    seen = False
    for record in records:
        own = _own(record, fetched)
        if not record.has_grad or "clipped_squares" not in own:
            continue
        loss_scale = over(record)
        if loss_scale is None:
            return None, None
        clipped = own["clipped_squares"] / (loss_scale**2 if record.clipped_scaled else 1.0)
        unclipped = (
            own["grad_squares"] / (loss_scale**2 if record.scaled else 1.0) if "grad_squares" in own else clipped
        )
        before += unclipped
        after += clipped
        seen = True
    if not seen:
        return None, None
    clip = math.sqrt(after / before) if 0 < before < math.inf and math.isfinite(after) else None
    if clip is not None and abs(clip - 1) < _CLIP_ROUNDING:
        clip = 1.0
    return _norm(before), clip
