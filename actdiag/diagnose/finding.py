"""A finding: what is wrong, where, since when, by what evidence, and what to try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")


def at_least(severity: str, floor: str) -> bool:
    """Whether a severity reaches another."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(floor)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rule says of one snapshot; the ledger makes findings of verdicts."""

    rule: str
    severity: Severity
    layer: str
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""
    advice: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One episode of one rule at one layer.

    `step` is where the episode was first told, `severity_step` where its severity rose to what it is (None: it was told
    so), `resolved_step` where it was over (None: it is not). `message` is one plain line, `evidence` the numbers behind
    it, `advice` what to try, the most promising first.
    """

    rule: str
    severity: Severity
    layer: str
    step: int
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""
    advice: tuple[str, ...] = ()
    source: str = ""
    resolved_step: int | None = None
    severity_step: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to logs."""
        return asdict(self)

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Finding:
        """The inverse of `to_dict`; lists become tuples. Raises TypeError for fields it does not know."""
        return Finding(**{**raw, "advice": tuple(raw.get("advice", ()))})

    def __str__(self) -> str:
        return f"{self.severity}: {self.message} ({self.rule})"


@dataclass(frozen=True)
class Change:
    """What became of a finding at one snapshot.

    new, worse (its severity has risen), resolved; and open: told before a resume and not over. Writers are given
    the open ones with the first snapshot after the resume, so that a log that begins there knows them; they are
    not told again.
    """

    kind: Literal["new", "worse", "resolved", "open"]
    finding: Finding


def verdict_of(told: Finding) -> Verdict:
    """What the rule has said of a finding."""
    return Verdict(**{name: getattr(told, name) for name in Verdict.__dataclass_fields__})


def finding_of(verdict: Verdict, step: int, *, severity_step: int | None = None) -> Finding:
    """A verdict of an episode that was told first at a step, and of this severity maybe later."""
    return Finding(
        step=step,
        severity_step=severity_step,
        **{name: getattr(verdict, name) for name in Verdict.__dataclass_fields__},
    )
