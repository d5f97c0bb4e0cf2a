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
from actdiag.diagnose.rules.reading import module_of
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
BEGINNING = 2
"""Snapshots a rule sees: how the run began, which stays, and the last ones."""
_QUIET_SNAPSHOTS = 2
_ONE_EPISODE = frozenset({"non-finite"})
"""Rules whose first verdict explains the later ones: a NaN reaches every layer with the next update."""

Key = tuple[str, str]
"""An episode: rule and layer."""


class Ledger:
    """Keeps the findings of a run: told once an episode, told again when worse, resolved when over.

    An episode is over after two snapshots that could tell and did not repeat its verdict, so that a value that
    swings about a threshold does not speak at every step. A snapshot cannot tell if it does not hold the layer, if
    the rule has failed, or if NaN hides everything else.
    """

    def __init__(self, limits: Limits | None = None, ignore: Sequence[str] = ()) -> None:
        self._limits = limits or Limits()
        self._ignore = [pattern.partition(":") for pattern in ignore]
        self._beginning: list[Snapshot] = []
        self._recent: deque[Snapshot] = deque(maxlen=HISTORY)
        self._open: dict[Key, int] = {}
        self._quiet: dict[Key, int] = {}
        self._broken: set[str] = set()
        self.findings: list[Finding] = []

    def judge(self, snapshot: Snapshot) -> list[Change]:
        """Add a snapshot; what changed among the findings by it. Never raises: a failing rule is left out."""
        self._add(snapshot)
        said = self._verdicts()
        blind = any(v.rule in _ONE_EPISODE and v.severity != "info" for v in said)
        verdicts = _worst([v for v in said if not self._ignored(v)])
        changes = [change for v in verdicts.values() if (change := self._tell(v, snapshot.step)) is not None]
        quiet = [key for key in self._open if key not in verdicts]
        if blind:
            quiet = [key for key in quiet if key[0] in _ONE_EPISODE]
        return changes + self._resolve([key for key in quiet if self._can_tell(key, snapshot)], snapshot.step)

    def _add(self, snapshot: Snapshot) -> None:
        if len(self._beginning) < BEGINNING:
            self._beginning.append(snapshot)
        else:
            self._recent.append(snapshot)

    def _verdicts(self) -> list[Verdict]:
        history = [*self._beginning, *self._recent]
        found: list[Verdict] = []
        for slug, rule in RULES.items():
            if slug in self._broken:
                continue
            try:
                found += list(rule(history, self._limits))
            except Exception as error:
                self._broken.add(slug)
                logger.warning("actdiag: rule %s failed and is switched off (%s)", slug, error, exc_info=error)
        return found

    def _ignored(self, verdict: Verdict) -> bool:
        return any(
            verdict.rule == rule and (not colon or fnmatchcase(verdict.layer, layer))
            for rule, colon, layer in self._ignore
        )

    def _can_tell(self, key: Key, snapshot: Snapshot) -> bool:
        """Whether silence about an episode means that it is over."""
        rule, layer = key
        if rule in self._broken:
            return False
        return not layer or any(module_of(name) == module_of(layer) for name in snapshot.sites)

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

    def _resolve(self, quiet: Iterable[Key], step: int) -> list[Change]:
        changes = []
        for key in quiet:
            self._quiet[key] = self._quiet.get(key, 0) + 1
            if self._quiet[key] < _QUIET_SNAPSHOTS:
                continue
            index = self._open.pop(key)
            del self._quiet[key]
            self.findings[index] = replace(self.findings[index], resolved_step=step)
            changes.append(Change("resolved", self.findings[index]))
        return changes


def _worst(verdicts: Iterable[Verdict]) -> dict[Key, Verdict]:
    """One verdict an episode, the most severe."""
    found: dict[Key, Verdict] = {}
    for verdict in verdicts:
        held = found.get(_key(verdict))
        if held is None or SEVERITIES.index(verdict.severity) > SEVERITIES.index(held.severity):
            found[_key(verdict)] = verdict
    return found


def _key(verdict: Verdict) -> Key:
    """A rule of one episode has a single key; but what a loss scaler deals with is none."""
    single = verdict.rule in _ONE_EPISODE and verdict.severity != "info"
    return verdict.rule, "" if single else verdict.layer
