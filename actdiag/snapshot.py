"""Everything learned at one recorded step, as plain numbers on the host.

A Snapshot is frozen, knows no torch, and survives JSON and the event file exactly: floats are rounded to
float32 when it is built, since that is what the event file keeps.

A number that does not apply is None, never 0: a layer without units that can die has `dead_units is None`;
a tensor without a finite element has `mean is None`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

SCHEMA_VERSION = 1

Role = Literal["input", "layer", "normalization", "activation", "gate", "output"]
ParameterState = Literal["trained", "frozen", "no_grad", "zero_grad", "not_in_optimizer"]

UNIT_STATES = {"a": "alive", "r": "rare", "s": "suspect", "d": "dead", "v": "revived"}
"""One letter a unit in `SiteStats.unit_states`."""


def _stat(doc: str, unit: str = "", kind: str = "float") -> Any:
    return field(default=None, metadata={"doc": doc, "unit": unit, "kind": kind})


@dataclass(frozen=True)
class Histogram:
    """Counts on a fixed grid of signed octaves.

    `counts` has 2K + 1 entries: K negative octaves from the largest magnitude down, everything smaller
    (zero too) in the middle, K positive octaves upwards. The outermost octaves hold magnitudes in
    [2^(top-1), 2^top). All grids share the octave edges, so two histograms merge by shifting.
    Only finite values are counted; of tensors with more than 65,536 elements a sample is (prime stride).
    """

    top: int
    counts: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of values counted."""
        return sum(self.counts)

    def edges(self) -> list[float]:
        """The len(counts) + 1 bucket edges, increasing."""
        k = len(self.counts) // 2
        positive = [math.ldexp(1.0, self.top - k + i) for i in range(k + 1)]
        return [-edge for edge in reversed(positive)] + positive


@dataclass(frozen=True, kw_only=True)
class SiteStats:
    """Statistics of one site at one recorded step.

    Everything but `n` and `nonfinite` is over the finite elements. std is the population value (divisor n).
    Unit counts refer to the evidence window that ends at this snapshot.
    """

    kind: str
    role: Role
    order: int
    n: int = _stat("elements seen", "elements", "int")
    samples: int | None = _stat("samples seen in this step: images, tokens or rows", "samples", "int")
    mean: float | None = _stat("mean of the elements")
    std: float | None = _stat("standard deviation (divisor n)")
    rms: float | None = _stat("root of the mean square")
    low: float | None = _stat("smallest element")
    high: float | None = _stat("largest element")
    zero_fraction: float | None = _stat("share of elements that are exactly 0 (sparsity, not death)", "share")
    nonfinite: int | None = _stat("elements that are NaN or infinite", "elements", "int")
    mean_energy: float | None = _stat("share of the second moment that is the units' mean; 0 is centered", "share")
    saturated_fraction: float | None = _stat("share of elements on a flat end of a bounded activation", "share")
    saturated_low: float | None = _stat("the part of it at the lower end", "share")
    saturated_high: float | None = _stat("the part of it at the upper end", "share")
    gate_mean: float | None = _stat("mean slope of the activation over its largest slope", "share")
    units: int | None = _stat("channels or features", "units", "int")
    dead_units: int | None = _stat("units whose gate was closed for every sample of the window", "units", "int")
    dead_fraction: float | None = _stat("dead units over units", "share")
    suspect_units: int | None = _stat("silent units with evidence below the window", "units", "int")
    rare_units: int | None = _stat("units that open on less than 1 % of the samples", "units", "int")
    revived_units: int | None = _stat("units that were dead and opened again", "units", "int")
    evidence_samples: int | None = _stat("samples behind the unit counts, at most the window", "samples", "int")
    first_death_step: int | None = _stat("step at which the first unit of this site fell silent", "steps", "int")
    grad_rms: float | None = _stat("root mean square of the loss gradient at this site")
    grad_zero_fraction: float | None = _stat("share of gradient elements that are exactly 0", "share")
    grad_nonfinite: int | None = _stat("gradient elements that are NaN or infinite", "elements", "int")
    unit_states: str | None = None
    histogram: Histogram | None = None
    grad_histogram: Histogram | None = None

    @property
    def dead_rate_bound(self) -> float | None:
        """Upper 95 % bound of a dead unit's firing rate: 3 / evidence_samples; None without evidence."""
        return 3.0 / self.evidence_samples if self.evidence_samples else None

    def units_in(self, state: str) -> list[int]:
        """Indices of the units in a state: "alive", "rare", "suspect", "dead" or "revived"."""
        letter = {name: letter for letter, name in UNIT_STATES.items()}[state]
        return [i for i, s in enumerate(self.unit_states or "") if s == letter]


@dataclass(frozen=True, kw_only=True)
class ParameterStats:
    """One parameter at one recorded step; gradients before clipping and without the loss scale."""

    state: ParameterState
    weight_norm: float | None = _stat("2-norm of the weights before the update")
    grad_norm: float | None = _stat("2-norm of the gradient before clipping, unscaled")
    grad_zero_fraction: float | None = _stat("share of gradient elements that are exactly 0", "share")
    update_ratio: float | None = _stat("2-norm of the update really applied over the 2-norm of the weights")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything learned at one recorded step. `sites` and `parameters` are in execution and model order."""

    step: int
    sites: Mapping[str, SiteStats] = field(default_factory=dict)
    parameters: Mapping[str, ParameterStats] = field(default_factory=dict)
    sites_selected: int = 0
    grad_norm_total: float | None = _stat("2-norm of all parameter gradients before clipping, unscaled")
    clip_coefficient: float | None = _stat("gradient norm after clipping over before; 1 is not clipped", "share")
    loss_scale: float | None = _stat("loss scale of mixed precision")
    skipped_steps: int | None = _stat("optimizer steps skipped by the loss scaler so far", "steps", "int")
    overhead_ms: float | None = _stat("time that this recorded step took beyond an unrecorded one", "ms")

    def to_json(self) -> str:
        """One line of strict JSON; NaN and infinities become the strings "nan", "inf", "-inf"."""
        return json.dumps({"version": SCHEMA_VERSION, **_encode(asdict(self))}, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Snapshot:
        """The inverse of `to_json`. Raises ValueError for text of another kind or a newer schema."""
        raw = _decode(json.loads(text))
        if not isinstance(raw, dict) or "step" not in raw:
            raise ValueError("not an actdiag snapshot: no 'step'")
        version = raw.pop("version", None)
        if version != SCHEMA_VERSION:
            raise ValueError(f"snapshot has schema version {version}, this actdiag reads {SCHEMA_VERSION}")
        raw["sites"] = {name: site_from_dict(value) for name, value in raw["sites"].items()}
        raw["parameters"] = {name: ParameterStats(**value) for name, value in raw["parameters"].items()}
        return Snapshot(**raw)


def site_from_dict(raw: Mapping[str, Any]) -> SiteStats:
    """A SiteStats from the plain values of `asdict`, with lists where tuples were."""
    values = dict(raw)
    for name in ("histogram", "grad_histogram"):
        if values.get(name) is not None:
            values[name] = Histogram(int(values[name]["top"]), tuple(values[name]["counts"]))
    return SiteStats(**values)


def stat_fields(kind: type) -> dict[str, Mapping[str, Any]]:
    """Name -> {doc, unit, kind} of the numbers a snapshot class holds; the docs and the writers use it."""
    return {spec.name: spec.metadata for spec in fields(kind) if "doc" in spec.metadata}


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key in _TEXT_KEYS else _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


_TEXT_KEYS = ("kind", "role", "state", "unit_states")
