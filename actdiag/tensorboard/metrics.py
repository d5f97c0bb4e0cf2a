"""The statistics as the screen shows them: title, scale, and what is healthy by the limits of the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actdiag.diagnose.limits import Limits
from actdiag.snapshot import ParameterStats, SiteStats, stat_fields
from actdiag.write import tags

Of = Literal["site", "parameter"]
Scale = Literal["share", "log", "signed", "linear"]
Worse = Literal["high", "low", "both"]


@dataclass(frozen=True)
class Metric:
    """`name` is what a request calls it, `field` what a snapshot does: a name is unique, a field is not."""

    name: str
    of: Of
    field: str
    title: str
    scale: Scale
    healthy: tuple[float | None, float | None] | None = None
    worse: Worse = "both"
    main: bool = False

    @property
    def metadata(self) -> Mapping[str, Any]:
        """doc, unit and kind of the field."""
        return _FIELDS[self.of][self.field]

    @property
    def tag(self) -> str:
        """Where it stands in a log, without the prefix of the monitor."""
        return (tags.STAT if self.of == "site" else tags.PARAMETER) + self.field

    def to_dict(self) -> dict[str, Any]:
        """As the screen is told."""
        return {
            "name": self.name,
            "of": self.of,
            "title": self.title,
            "doc": self.metadata["doc"],
            "unit": self.metadata["unit"],
            "scale": self.scale,
            "healthy": None if self.healthy is None else list(self.healthy),
            "worse": self.worse,
            "main": self.main,
        }


_FIELDS: dict[Of, Mapping[str, Mapping[str, Any]]] = {
    "site": stat_fields(SiteStats),
    "parameter": stat_fields(ParameterStats),
}
_SIGNED = frozenset({"mean", "low", "high"})
_FEW_MATTER = frozenset({"nonfinite", "grad_nonfinite"})
_LIMITS = Limits()


def _main(
    name: str, title: str, scale: Scale, worse: Worse, healthy: tuple[float | None, float | None] | None = None
) -> Metric:
    of: Of = "parameter" if name == "update_ratio" else "site"
    return Metric(name, of, name, title, scale, healthy, worse, main=True)


def _other(of: Of, field: str) -> Metric:
    taken = of == "parameter" and field in _FIELDS["site"]
    name = f"parameter_{field}" if taken else field
    unit, kind = _FIELDS[of][field]["unit"], _FIELDS[of][field]["kind"]
    # of elements one that is not finite matters as much as thousands
    counts: Scale = "log" if field in _FEW_MATTER else "linear"
    scale: Scale = counts if kind == "int" else "share" if unit == "share" else "log"
    return Metric(name, of, field, name.replace("_", " "), "signed" if field in _SIGNED else scale)


def _all() -> dict[str, Metric]:
    main = (
        _main("dead_fraction", "Dead units", "share", "high", (None, _LIMITS.dead_warning)),
        _main("saturated_fraction", "Saturation", "share", "high", (None, _LIMITS.saturated_warning)),
        _main("mean_energy", "Mean energy (centering)", "share", "high", (None, _LIMITS.input_mean_energy)),
        _main("rms", "Activation scale", "log", "both"),
        _main("grad_rms", "Gradient scale", "log", "low"),
        _main("grad_zero_fraction", "Zero gradient", "share", "high"),
        _main("update_ratio", "Update ratio", "log", "both", (_LIMITS.stalled_update, _LIMITS.oversized_update)),
        _main("zero_fraction", "Zeros (sparsity)", "share", "high"),
        _main("gate_mean", "Mean gate", "share", "low"),
    )
    shown = {(metric.of, metric.field) for metric in main}
    others = [_other(of, field) for of, fields in _FIELDS.items() for field in fields if (of, field) not in shown]
    return {metric.name: metric for metric in (*main, *others)}


METRICS: Mapping[str, Metric] = _all()
"""Name -> metric, the main ones first."""


def metrics_of(known: Sequence[str] | frozenset[str]) -> list[Metric]:
    """Those whose tag is among the given ones, in order."""
    return [metric for metric in METRICS.values() if metric.tag in known]
