"""The table of rules, and the ledger that tells each episode once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from actdiag.diagnose.finding import SEVERITIES, Change, Finding, Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.activations import off_center, saturated_activation
from actdiag.diagnose.rules.gradients import exploding_gradient, vanishing_gradient
from actdiag.diagnose.rules.nonfinite import non_finite
from actdiag.diagnose.rules.units import dead_units
from actdiag.snapshot import Snapshot

logger = logging.getLogger("actdiag")

Rule = Callable[[Sequence[Snapshot], Limits], Iterable[Verdict]]

RULES: dict[str, Rule] = {
    "non-finite": non_finite,
    "dead-units": dead_units,
    "saturated-activation": saturated_activation,
    "off-center": off_center,
    "vanishing-gradient": vanishing_gradient,
    "exploding-gradient": exploding_gradient,
}
"""Slug -> rule. A slug is for ever: it is the name in code, in TensorBoard, in the docs and in `ignore`."""

HISTORY = 16
_QUIET_SNAPSHOTS = 2
_ONE_EPISODE = frozenset({"non-finite"})
"""Rules whose first verdict explains the later ones: a NaN reaches every layer with the next update."""


class Ledger:
    """Keeps the findings of a run: told once an episode, told again when worse, resolved when over.

    An episode is over after two snapshots without its verdict, so that a value that swings about a threshold
    does not speak at every step.
    """

    def __init__(self, limits: Limits | None = None, ignore: Sequence[str] = ()) -> None:
        self._limits = limits or Limits()
        self._ignore = [pattern.partition(":") for pattern in ignore]
        self._history: deque[Snapshot] = deque(maxlen=HISTORY)
        self._open: dict[tuple[str, str], int] = {}
        self._quiet: dict[tuple[str, str], int] = {}
        self._broken: set[str] = set()
        self.findings: list[Finding] = []

    def judge(self, snapshot: Snapshot) -> list[Change]:
        """Add a snapshot; what changed among the findings by it. Never raises: a failing rule is left out."""
        self._history.append(snapshot)
        verdicts = {_key(v): v for v in self._verdicts()}
        changes = [change for v in verdicts.values() if (change := self._tell(v, snapshot.step)) is not None]
        return changes + self._resolve(set(verdicts), snapshot.step)

    def _verdicts(self) -> Iterable[Verdict]:
        for slug, rule in RULES.items():
            if slug in self._broken:
                continue
            try:
                found = list(rule(self._history_list(), self._limits))
            except Exception as error:
                self._broken.add(slug)
                logger.warning("actdiag: rule %s failed and is switched off (%s)", slug, error, exc_info=error)
                continue
            yield from (v for v in found if not self._ignored(v))

    def _history_list(self) -> list[Snapshot]:
        return list(self._history)

    def _ignored(self, verdict: Verdict) -> bool:
        return any(
            verdict.rule == rule and (not colon or fnmatchcase(verdict.layer, layer))
            for rule, colon, layer in self._ignore
        )

    def _tell(self, verdict: Verdict, step: int) -> Change | None:
        key = _key(verdict)
        self._quiet.pop(key, None)
        fields = {name: getattr(verdict, name) for name in Verdict.__dataclass_fields__}
        if key not in self._open:
            finding = Finding(step=step, **fields)
            self._open[key] = len(self.findings)
            self.findings.append(finding)
            return Change("new", finding)
        index = self._open[key]
        held = self.findings[index]
        if SEVERITIES.index(verdict.severity) <= SEVERITIES.index(held.severity):
            return None
        self.findings[index] = Finding(step=held.step, **fields)
        return Change("worse", self.findings[index])

    def _resolve(self, said: set[tuple[str, str]], step: int) -> list[Change]:
        changes = []
        for key in [key for key in self._open if key not in said]:
            self._quiet[key] = self._quiet.get(key, 0) + 1
            if self._quiet[key] < _QUIET_SNAPSHOTS:
                continue
            index = self._open.pop(key)
            del self._quiet[key]
            self.findings[index] = replace(self.findings[index], resolved_step=step)
            changes.append(Change("resolved", self.findings[index]))
        return changes


def _key(verdict: Verdict) -> tuple[str, str]:
    return verdict.rule, "" if verdict.rule in _ONE_EPISODE else verdict.layer
