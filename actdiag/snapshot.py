"""Everything learned at one recorded step, as plain numbers on the host.

A Snapshot is frozen, knows no torch, and survives JSON and the event file exactly: floats are rounded to
float32 when it is built, since that is what the event file keeps.

A number that does not apply is None, never 0 and never NaN: a layer without units that can die has
`dead_units is None`; a tensor without a finite element has `mean is None`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from typing import Any, Literal, get_args

from actdiag.rounding import round_floats

SCHEMA_VERSION = 1

Role = Literal["input", "layer", "normalization", "activation", "gate", "output", "other"]
ParameterState = Literal["trained", "frozen", "no_grad", "zero_grad", "not_in_optimizer"]

UNIT_STATES = {"a": "alive", "r": "rare", "s": "suspect", "d": "dead", "v": "revived"}
"""One letter a unit in `SiteStats.unit_states`."""
_LETTERS = {name: letter for letter, name in UNIT_STATES.items()}


def _stat(doc: str, unit: str = "", kind: str = "float") -> Any:
    return field(default=None, metadata={"doc": doc, "unit": unit, "kind": kind})


def _round(stats: Any) -> None:
    """Make the floats of a new value what the event file can keep."""
    kind: Any = type(stats)
    round_floats(stats, _float_names(kind))


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
    half_window_units: int | None = _stat("units silent for half of the window or longer, the dead too", "units", "int")
    double_window_units: int | None = _stat("units silent for two windows or longer", "units", "int")
    flickering_units: int | None = _stat("units that came back from a silence for a moment only", "units", "int")
    seldom_units: int | None = _stat("units, silent or not, that opened on 0.4 % of a window at most", "units", "int")
    rare_units: int | None = _stat("units that open on less than 1 % of the samples", "units", "int")
    revived_units: int | None = _stat("units that were dead and opened again", "units", "int")
    evidence_samples: int | None = _stat("samples behind the unit counts, at most the window", "samples", "int")
    first_death_step: int | None = _stat("step at which the first unit of this site fell silent", "steps", "int")
    dying_units: int | None = _stat("living units whose falling firing rate will end before long", "units", "int")
    dying_step: int | None = _stat(
        "step at which half of the dying units open for fewer than 3 samples of a window, if it goes on", "steps", "int"
    )
    dying_earliest_step: int | None = _stat("the same, if its rate falls a standard error faster", "steps", "int")
    dying_latest_step: int | None = _stat("the same, if it falls a standard error slower", "steps", "int")
    grad_rms: float | None = _stat("root mean square of the loss gradient at this site")
    grad_zero_fraction: float | None = _stat("share of gradient elements that are exactly 0", "share")
    grad_nonfinite: int | None = _stat("gradient elements that are NaN or infinite", "elements", "int")
    unit_states: str | None = None
    histogram: Histogram | None = None
    grad_histogram: Histogram | None = None

    def __post_init__(self) -> None:
        _round(self)

    @property
    def dead_rate_bound(self) -> float | None:
        """Upper 95 % bound of a dead unit's firing rate: 3 / evidence_samples; None without evidence."""
        return 3.0 / self.evidence_samples if self.evidence_samples else None

    def units_in(self, state: str) -> list[int]:
        """Indices of the units in a state: "alive", "rare", "suspect", "dead" or "revived"."""
        letter, states = _LETTERS[state], self.unit_states or ""
        return [i for i, s in enumerate(states) if s == letter] if letter in states else []


@dataclass(frozen=True, kw_only=True)
class ParameterStats:
    """One parameter at one recorded step; gradients before clipping and without the loss scale."""

    state: ParameterState
    weight_norm: float | None = _stat("2-norm of the weights before the update")
    grad_norm: float | None = _stat("2-norm of the gradient before clipping, unscaled")
    grad_zero_fraction: float | None = _stat("share of gradient elements that are exactly 0", "share")
    update_ratio: float | None = _stat("2-norm of the update really applied over the 2-norm of the weights")

    def __post_init__(self) -> None:
        _round(self)


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
    epoch: int | None = _stat("epoch of the trainer, from 0", "epochs", "int")
    ranks: int | None = _stat("processes whose statistics are in it; None for a single process", "processes", "int")
    world_size: int | None = _stat("processes that train together; None for a single process", "processes", "int")
    overhead_percent: float | None = _stat("share of the time of all steps so far that observing took", "%")
    overhead_ms: float | None = _stat("time that the recorded step before this one took beyond an unrecorded one", "ms")

    def __post_init__(self) -> None:
        _round(self)

    def to_json(self) -> str:
        """One line of strict JSON; NaN and infinities become the strings "nan", "inf", "-inf"."""
        return json.dumps({"version": SCHEMA_VERSION, **spell_out(asdict(self))}, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Snapshot:
        """The inverse of `to_json`. Raises ValueError for text of another kind or another schema version."""
        try:
            raw = json.loads(text, parse_constant=_refuse_constant)
        except RecursionError:
            raise ValueError("not an actdiag snapshot: nested too deep") from None
        if not isinstance(raw, dict) or "version" not in raw:
            raise ValueError("not an actdiag snapshot: no object with a 'version'")
        version = raw.pop("version")
        if version != SCHEMA_VERSION:
            raise ValueError(f"snapshot has schema version {version}, this actdiag reads {SCHEMA_VERSION}")
        return Snapshot(
            **_checked(Snapshot, raw)
            | {
                "sites": {name: site_from_dict(value) for name, value in _mapping(raw, "sites")},
                "parameters": {
                    name: ParameterStats(**_checked(ParameterStats, value))
                    for name, value in _mapping(raw, "parameters")
                },
            }
        )


def site_of(values: Mapping[str, Any]) -> SiteStats:
    """`SiteStats(**values)`, in half the time: the forty fields of a frozen dataclass are set one by one else."""
    site = object.__new__(SiteStats)
    vars(site).update(_defaults())
    vars(site).update(values)
    site.__post_init__()
    return site


def site_from_dict(raw: Mapping[str, Any]) -> SiteStats:
    """A SiteStats from the plain values of `asdict`, with lists where tuples were. Raises ValueError."""
    values = _checked(SiteStats, raw)
    for name in ("histogram", "grad_histogram"):
        if values.get(name) is not None:
            values[name] = histogram_of(values[name].get("top"), values[name].get("counts"))
    return SiteStats(**values)


def histogram_of(top: Any, counts: Any) -> Histogram:
    """A Histogram from numbers of unknown origin. Raises ValueError for what cannot be one."""
    counts = tuple(counts) if isinstance(counts, (list, tuple)) else ()
    if len(counts) % 2 == 0 or set(map(type, counts)) != {int} or min(counts) < 0:
        raise ValueError("a histogram has an odd number of counts, whole and not negative")
    if not _is_int(top) or not -_LARGEST_TOP <= top <= _LARGEST_TOP:
        raise ValueError(f"the top of a histogram is an exponent of two up to {_LARGEST_TOP}, got {top!r}")
    return Histogram(top, counts)


def stat_fields(kind: type) -> dict[str, Mapping[str, Any]]:
    """Name -> {doc, unit, kind} of the numbers a snapshot class holds; the docs and the writers use it."""
    return {spec.name: spec.metadata for spec in fields(kind) if "doc" in spec.metadata}


def spell_out(value: Any) -> Any:
    """Plain values as strict JSON can hold them: NaN and infinities become "nan", "inf", "-inf"; tuples lists."""
    if isinstance(value, dict):
        return {key: spell_out(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [spell_out(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def spell_in(value: Any) -> Any:
    """One value as it was before `spell_out`. Only for places that hold numbers: a name may be "nan"."""
    return _SPELLED.get(value, value) if isinstance(value, str) else value


@cache
def _float_names(kind: Any) -> tuple[str, ...]:
    return tuple(name for name, metadata in stat_fields(kind).items() if metadata["kind"] == "float")


@cache
def _defaults() -> dict[str, Any]:
    return {spec.name: spec.default for spec in fields(SiteStats) if spec.default is not MISSING}


_SPELLED = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_LARGEST_TOP = 1023
"""The largest exponent of two that a float can hold; the smallest is of about that size."""


def _refuse_constant(text: str) -> None:
    raise ValueError(f"not an actdiag snapshot: {text} is not strict JSON")


def _mapping(raw: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    if not isinstance(raw.get(key), dict):
        raise ValueError(f"not an actdiag snapshot: {key!r} must be an object")
    return list(raw[key].items())


def _checked(kind: type, raw: Any) -> dict[str, Any]:
    """The values that make up a statistics class, each of its type; "inf" spelled out becomes a float."""
    if not isinstance(raw, dict):
        raise ValueError(f"not an actdiag snapshot: {raw!r:.40} where a {kind.__name__} is expected")
    known = {spec.name: spec.metadata.get("kind", spec.name) for spec in fields(kind)}
    if unknown := raw.keys() - known:
        raise ValueError(f"a {kind.__name__} has no {', '.join(sorted(unknown))}")
    if missing := _REQUIRED[kind.__name__] - raw.keys():
        raise ValueError(f"a {kind.__name__} needs {', '.join(sorted(missing))}")
    values = {name: spell_in(value) if known[name] == "float" else value for name, value in raw.items()}
    for name, value in values.items():
        if not _FITS[known[name]](value):
            raise ValueError(f"{name} of a {kind.__name__} cannot be {value!r:.40}")
    return values


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_REQUIRED = {"Snapshot": {"step"}, "SiteStats": {"kind", "role", "order"}, "ParameterStats": {"state"}}
_FITS: dict[str, Callable[[Any], bool]] = {
    "float": lambda v: v is None or isinstance(v, float) or _is_int(v),
    "int": lambda v: v is None or _is_int(v),
    "kind": lambda v: isinstance(v, str),
    "role": lambda v: v in get_args(Role),
    "state": lambda v: v in get_args(ParameterState),
    "unit_states": lambda v: v is None or (isinstance(v, str) and set(v) <= set(UNIT_STATES)),
    **dict.fromkeys(("order", "step", "sites_selected"), _is_int),
    **dict.fromkeys(("sites", "parameters"), lambda v: isinstance(v, dict)),
    **dict.fromkeys(("histogram", "grad_histogram"), lambda v: v is None or isinstance(v, dict)),
}
"""Kind of a number, or name of another field -> what it may be."""
