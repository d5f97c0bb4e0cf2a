"""A finished run judged once more, from what is in its log: with other terms, or by the rules of today."""

from __future__ import annotations

from dataclasses import replace

from actdiag.diagnose.finding import verdict_of
from actdiag.diagnose.judge import Ledger
from actdiag.diagnose.terms import Terms
from actdiag.report.run import Run


def judge_again(run: Run, terms: Terms) -> tuple[Run, list[str]]:
    """The run with the findings that these terms give, and the rules that have failed on it.

    Snapshots are read one after the other, and not kept. A log holds what was recorded: a run that was resumed is
    judged as one, and one that began to be recorded late has no beginning.
    """
    ledger = Ledger(terms)
    for snapshot in run.snapshots:
        ledger.judge(snapshot)
    return replace(run, findings=tuple(ledger.findings)), ledger.broken


def drop(run: Run, terms: Terms) -> Run:
    """The run without those of its findings that the terms ignore; the others as they were told."""
    return replace(run, findings=tuple(f for f in run.findings if terms.apply(verdict_of(f)) is not None))
