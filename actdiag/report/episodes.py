"""Changes of findings in a log -> the findings of the run. What is no finding is refused: a log may hold anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

from actdiag.diagnose.finding import SEVERITIES, Finding
from actdiag.report.steps import LoggedStep
from actdiag.snapshot import spell_in


def findings_of(steps: Iterable[LoggedStep], problems: list[str]) -> list[Finding]:
    """The findings of a run, in the order they were told.

    A resumed run either goes on with the findings, and says with its first step which are open, or judges afresh:
    what was open before and is not said to be so is over where it began.
    """
    told: dict[tuple[str, str, int], Finding] = {}
    session = None
    for logged in steps:
        if logged.session != session:
            session = logged.session
            told = {key: _over(finding, logged.step) for key, finding in told.items()}
        for change in logged.changes:
            try:
                finding = finding_from_log(change)
                told[finding.rule, finding.layer, finding.step] = finding
            except ValueError as error:
                problems.append(f"step {logged.step}: {error}")
    return list(told.values())


def _over(finding: Finding, step: int) -> Finding:
    return finding if finding.resolved_step is not None else replace(finding, resolved_step=step)


def finding_from_log(change: Any) -> Finding:
    """The finding of a logged change. Raises ValueError; fields of a later actdiag are passed over."""
    raw = change.get("finding") if isinstance(change, dict) else None
    if not isinstance(raw, dict):
        raise ValueError("a finding is damaged")
    known = {spec.name for spec in fields(Finding)}
    values = {name: value for name, value in raw.items() if name in known}
    for name, fits in _FITS.items():
        if not fits(values.get(name)):
            raise ValueError(f"a finding is damaged: its {name} cannot be {values.get(name)!r:.40}")
    values["evidence"] = {name: _restored(value) for name, value in values["evidence"].items()}
    return Finding.from_dict(values)


def _restored(value: Any) -> Any:
    return [spell_in(item) for item in value] if isinstance(value, list) else spell_in(value)


_SLUG = re.compile(r"[a-z][a-z0-9-]*")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_FITS: dict[str, Callable[[Any], bool]] = {
    "rule": lambda v: _is_text(v) and _SLUG.fullmatch(v) is not None,
    "severity": lambda v: v in SEVERITIES,
    "step": _is_int,
    **dict.fromkeys(("resolved_step", "severity_step"), lambda v: v is None or _is_int(v)),
    "evidence": lambda v: isinstance(v, dict),
    "advice": lambda v: isinstance(v, list) and all(map(_is_text, v)),
    **dict.fromkeys(("layer", "message", "cause", "source"), _is_text),
}
