"""What is known of sites beyond one step: their names, the evidence about their units, which units have died.

Every rank remembers the same, that of all ranks joined, so that every rank comes to the same verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from actdiag.collect.recent import Openings
from actdiag.collect.tally import Tally
from actdiag.collect.trend import Trend
from actdiag.collect.units import UnitEvidence, UnitLedger
from actdiag.names import call_name

Key = tuple[str, int]
"""The module path of a site, and the number of its call."""


@dataclass
class Known:
    """One site."""

    name: str
    evidence: UnitEvidence | None = None
    ledger: UnitLedger | None = None
    trend: Trend = field(default_factory=Trend)


class Memory:
    """All sites. `frozen`: after the first recorded step a site keeps its name, however often its module is called.

    `shared`: it is of several ranks, so that what one of them has seen since the last recorded step is no part of it.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self.known: dict[Key, Known] = {}
        self.frozen = False
        self.shared = False

    def of(self, key: str, index: int) -> Known:
        """What is known of a site, made when it is first asked for."""
        return self.known.setdefault((key, index), Known(call_name(key, index, several=index > 0)))

    def absorb(self, tally: Tally) -> None:
        """Add what was observed of units since the last recorded step."""
        for i, row in enumerate(tally.layout.sites):
            seen = tally.openings(i)
            if seen is not None:
                known = self.with_seen(self.of(row.key, row.call), seen)
                known.trend = known.trend.close()
                self.known[row.key, row.call] = known

    def with_seen(self, known: Known, seen: Openings) -> Known:
        """A site with what was observed of it since; the one given stays as it is."""
        units, evidence, ledger, trend = len(seen.last_C), known.evidence, known.ledger, known.trend
        if evidence is None or ledger is None or evidence.units != units:
            ledger, trend = UnitLedger(units), Trend()
        return Known(known.name, self.evidence_with(known, seen), ledger, trend.add(seen))

    def evidence_with(self, known: Known, seen: Openings) -> UnitEvidence:
        """The evidence about its units alone."""
        units, evidence = len(seen.last_C), known.evidence
        if evidence is None or evidence.units != units:
            # Another number of units is another layer: what was known of the old ones says nothing of these.
            evidence = UnitEvidence.empty(units, self._window)
        return evidence.absorb(seen)

    def settle_names(self, tally: Tally) -> None:
        """Number the calls of each module that count; passes without gradients before them have no number."""
        if self.frozen:
            return
        calls: dict[str, list[int]] = {}
        for i, row in enumerate(tally.layout.sites):
            if tally.sum_of(i, "ran"):
                calls.setdefault(row.key, []).append(row.call)
        for key, counted in calls.items():
            for number, index in enumerate(sorted(counted)):
                self.of(key, index).name = call_name(key, number, several=len(counted) > 1)
        self.frozen = bool(self.known)
