"""What of a session is saved with a checkpoint, and how a session goes on from it.

A checkpoint may be of another model, of another release, or damaged: what fits is used, what does not is left out with
one line in the log, and nothing is changed before everything has been read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actdiag.collect.collector import Collector
from actdiag.collect.resume import SavedSite, collector_state, parse_sites, resume_sites, split_known
from actdiag.collect.saved import mapping, whole
from actdiag.collect.scaler import ScaleWatch
from actdiag.collect.schedule import Schedule
from actdiag.config import ConfigError, Options
from actdiag.diagnose.judge import RULES, Ledger
from actdiag.diagnose.terms import Terms, parse_terms

logger = logging.getLogger("actdiag")

STATE_VERSION = 1
_NAMED = 6


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """The parts of a session, going on from a saved state."""

    schedule: Schedule
    ledger: Ledger
    scaler: ScaleWatch
    next_step: int
    sites: Sequence[SavedSite]


def save(
    collector: Collector, schedule: Schedule, ledger: Ledger, scaler: ScaleWatch, next_step: int
) -> dict[str, Any]:
    """Everything that a resumed run must know, as PyTorch loads it with `weights_only=True`."""
    return {
        "version": STATE_VERSION,
        "next_step": next_step,
        "collector": collector_state(collector),
        "schedule": schedule.state(next_step),
        "ledger": ledger.state(),
        "scaler": scaler.state(),
    }


def terms_of(options: Options) -> Terms:
    """On what terms findings are told. Raises ConfigError for options that name what there is not."""
    try:
        return parse_terms(
            RULES, ignore=options.ignore, limits=options.limits, severities=options.severities, rules=options.rules
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def restore(state: Any, collector: Collector, options: Options, scaler: Any) -> Resumed | None:
    """Parts that go on from a saved state, the collector's sites with them; None, with one warning, if it is no use."""
    try:
        sites = parse_sites(mapping(_checked(state), "collector"), options.window_samples)
        known, unknown = split_known(collector, sites)
        found = Resumed(
            schedule=Schedule.restored(mapping(state, "schedule"), options),
            ledger=Ledger.restored(mapping(state, "ledger"), terms_of(options)),
            scaler=ScaleWatch(scaler),
            next_step=whole(state, "next_step"),
            sites=known,
        )
        found.scaler.load(mapping(state, "scaler"))
    except Exception as error:  # a checkpoint may hold anything
        logger.warning("actdiag: the saved state cannot be read (%s: %s); starting afresh", type(error).__name__, error)
        return None
    if unknown and not known:
        logger.warning("actdiag: the saved state is of another model; starting afresh")
        return None
    _leave_out(unknown)
    resume_sites(collector, sites, known)
    still = len(found.ledger.open_findings())
    logger.info("actdiag: going on from a saved state at step %d, findings open: %d", found.next_step, still)
    return found


def _checked(state: Any) -> Mapping[str, Any]:
    if not isinstance(state, Mapping):
        raise ValueError(f"it is {type(state).__name__}, not a dict")
    if state.get("version") != STATE_VERSION:
        raise ValueError(f"it has version {state.get('version')!r:.20}, this actdiag reads {STATE_VERSION}")
    return state


def _leave_out(unknown: Sequence[SavedSite]) -> None:
    if unknown:
        names = ", ".join(site.name for site in unknown[:_NAMED]) + (", ..." if len(unknown) > _NAMED else "")
        logger.info("actdiag: the saved state speaks of layers that this model does not have: %s", names)
