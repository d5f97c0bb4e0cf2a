"""The table of rules, and the ledger that tells each episode once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from actdiag.diagnose.finding import SEVERITIES, Change, Finding, Verdict, finding_of, verdict_of
from actdiag.diagnose.rules.activations import off_center, saturated_activation
from actdiag.diagnose.rules.collapse import collapsed_activation
from actdiag.diagnose.rules.dying import dying_units
from actdiag.diagnose.rules.gradients import exploding_gradient, vanishing_gradient
from actdiag.diagnose.rules.initialization import poor_initialization
from actdiag.diagnose.rules.nonfinite import non_finite
from actdiag.diagnose.rules.reading import module_of
from actdiag.diagnose.rules.scale import exploding_activation
from actdiag.diagnose.rules.underflow import gradient_underflow
from actdiag.diagnose.rules.units import dead_units
from actdiag.diagnose.rules.updates import oversized_update, stalled_update
from actdiag.diagnose.rules.wiring import no_gradient
from actdiag.diagnose.terms import Rule, Terms
from actdiag.snapshot import Snapshot

logger = logging.getLogger("actdiag")

RULES: dict[str, Rule] = {
    "non-finite": non_finite,
    "dead-units": dead_units,
    "dying-units": dying_units,
    "saturated-activation": saturated_activation,
    "off-center": off_center,
    "exploding-activation": exploding_activation,
    "collapsed-activation": collapsed_activation,
    "vanishing-gradient": vanishing_gradient,
    "exploding-gradient": exploding_gradient,
    "no-gradient": no_gradient,
    "stalled-update": stalled_update,
    "oversized-update": oversized_update,
    "gradient-underflow": gradient_underflow,
    "poor-initialization": poor_initialization,
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

    def __init__(self, terms: Terms | None = None) -> None:
        self.terms = terms or Terms()
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
        verdicts = _worst([kept for v in said if (kept := self.terms.apply(v)) is not None])
        changes = [change for v in verdicts.values() if (change := self._tell(v, snapshot.step)) is not None]
        quiet = [key for key in self._open if key not in verdicts]
        if blind:
            quiet = [key for key in quiet if key[0] in _ONE_EPISODE]
        return changes + self._resolve([key for key in quiet if self._can_tell(key, snapshot)], snapshot.step)

    @property
    def broken(self) -> list[str]:
        """The rules that have failed and are left out."""
        return sorted(self._broken)

    def open_findings(self) -> list[Finding]:
        """The findings that are not over, oldest first."""
        return [self.findings[index] for index in sorted(self._open.values())]

    def state(self) -> dict[str, Any]:
        """The findings, the running episodes and the snapshots that rules look back on, as plain values.

        Histograms are left out: they are most of a snapshot, and the one rule that looks at them (gradient-underflow)
        needs only those of the last two.
        """
        return {
            "findings": [_plain(finding.to_dict()) for finding in self.findings],
            "open": [[*key, index] for key, index in self._open.items()],
            "quiet": [[*key, times] for key, times in self._quiet.items()],
            "beginning": [_thin(snapshot).to_json() for snapshot in self._beginning],
            "recent": [_thin(snapshot).to_json() for snapshot in self._recent],
        }

    @staticmethod
    def restored(state: Mapping[str, Any], terms: Terms | None = None) -> Ledger:
        """A ledger that goes on from a `state`. Raises an exception for anything else."""
        ledger = Ledger(terms)
        ledger.findings = [_finding(raw) for raw in state["findings"]]
        ledger._open = {(str(rule), str(layer)): int(index) for rule, layer, index in state["open"]}
        for index in ledger._open.values():
            if not 0 <= index < len(ledger.findings):
                raise ValueError(f"there is no finding {index}")
        ledger._open = {
            key: index
            for key, index in ledger._open.items()
            if ledger.terms.apply(verdict_of(ledger.findings[index])) is not None
        }
        quiet = {(str(rule), str(layer)): int(times) for rule, layer, times in state["quiet"]}
        ledger._quiet = {key: times for key, times in quiet.items() if key in ledger._open}
        ledger._beginning = [Snapshot.from_json(text) for text in state["beginning"]][:BEGINNING]
        ledger._recent.extend(Snapshot.from_json(text) for text in state["recent"])
        return ledger

    def _add(self, snapshot: Snapshot) -> None:
        if len(self._beginning) < BEGINNING:
            self._beginning.append(snapshot)
        else:
            self._recent.append(snapshot)

    def _verdicts(self) -> list[Verdict]:
        history = (*self._beginning, *self._recent)
        found: list[Verdict] = []
        for slug, rule in {**RULES, **self.terms.rules}.items():
            if slug in self._broken:
                continue
            try:
                given = rule(history, self.terms.limits)
                found += list(given) if slug in RULES else _own(slug, given)
            except (Exception, SystemExit) as error:
                self._broken.add(slug)
                logger.warning("actdiag: rule %s failed and is switched off (%s)", slug, error, exc_info=error)
        return found

    def _can_tell(self, key: Key, snapshot: Snapshot) -> bool:
        """Whether silence about an episode means that it is over."""
        rule, layer = key
        if rule in self._broken:
            return False
        return (
            not layer or rule in self.terms.rules or any(module_of(name) == module_of(layer) for name in snapshot.sites)
        )

    def _tell(self, verdict: Verdict, step: int) -> Change | None:
        key = _key(verdict)
        self._quiet.pop(key, None)
        if key not in self._open:
            finding = finding_of(verdict, step)
            self._open[key] = len(self.findings)
            self.findings.append(finding)
            return Change("new", finding)
        index = self._open[key]
        held = self.findings[index]
        if SEVERITIES.index(verdict.severity) <= SEVERITIES.index(held.severity):
            return None
        self.findings[index] = finding_of(verdict, held.step, severity_step=step)
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


def _own(slug: str, given: Any) -> list[Verdict]:
    """What a user's rule gave, in plain values. Raises TypeError or ValueError for what cannot be told."""
    if given is None:
        raise TypeError("it gave None; yield Verdicts, or return a list of them")
    return [_plain_verdict(slug, verdict) for verdict in given]


def _plain_verdict(slug: str, given: Any) -> Verdict:
    if not isinstance(given, Verdict):
        raise TypeError(f"it gave {type(given).__name__} and not a Verdict")
    if given.rule != slug or given.severity not in SEVERITIES:
        raise ValueError(f"its verdict must have rule={slug!r} and a severity of {SEVERITIES}; got {given.rule!r}, "
                         f"{given.severity!r}")  # fmt: skip
    if not isinstance(given.evidence, Mapping):
        raise TypeError(f"the evidence of its verdict must be a mapping, got {type(given.evidence).__name__}")
    raw: Any = given.advice
    texts: dict[str, Any] = {n: str(getattr(given, n) or "") for n in ("layer", "message", "cause", "source")}
    advice = (raw,) if isinstance(raw, str) else tuple(map(str, raw or ()))
    return replace(given, **texts, evidence=_plain(given.evidence), advice=advice)


def _thin(snapshot: Snapshot) -> Snapshot:
    sites = {name: replace(site, histogram=None, grad_histogram=None) for name, site in snapshot.sites.items()}
    return replace(snapshot, sites=sites)


def _plain(value: Any) -> Any:
    """Lists for tuples, dicts for other mappings, numbers for those of NumPy and torch: what a checkpoint may hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    number = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
    return number if type(number) in (int, float, bool) else float(number) if isinstance(number, float) else str(number)


def _finding(raw: Mapping[str, Any]) -> Finding:
    finding = Finding.from_dict(raw)
    if finding.severity not in SEVERITIES or not isinstance(finding.step, int):
        raise ValueError(
            f"a finding cannot have the severity {finding.severity!r:.20} and the step {finding.step!r:.20}"
        )
    return finding


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
