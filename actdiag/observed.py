"""A training that is observed, whichever door it came through: what has been seen of it, its state and its end."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from actdiag.collect.ranks import team_of
from actdiag.config import Options
from actdiag.diagnose.finding import Finding
from actdiag.loggers import Targets, given_writers
from actdiag.outlet import Outlet
from actdiag.report.run import Run
from actdiag.report.text import render_text
from actdiag.session import Session
from actdiag.snapshot import Snapshot
from actdiag.stepping import Driver
from actdiag.write.protocol import Writer

logger = logging.getLogger("actdiag")


class Observed:
    """A session and what tells it of steps: a driver, or a trainer's own hooks.

    Closed at the latest when nobody holds it any more.
    """

    def __init__(self, session: Session, driver: Driver | None = None) -> None:
        self.session, self._driver = session, driver
        self._finalizer = weakref.finalize(self, session.close if driver is None else driver.close)

    @property
    def driver(self) -> Driver:
        """What follows the optimizers; for those who have given one."""
        assert self._driver is not None
        return self._driver

    def _settle(self) -> None:
        if self._driver is not None:
            self._driver.settle()
        self.session.guarded(self.session.finish)

    @property
    def findings(self) -> list[Finding]:
        """All findings of the run so far, oldest first."""
        self._settle()
        return list(self.session.ledger.findings)

    @property
    def snapshots(self) -> list[Snapshot]:
        """The last 64 recorded steps, oldest first."""
        self._settle()
        return list(self.session.snapshots)

    @property
    def latest(self) -> Snapshot | None:
        """The last recorded step, or None before the first."""
        self._settle()
        return self.session.latest

    @property
    def should_stop(self) -> bool:
        """Whether a finding of the severity `stop_on` has been told."""
        self._settle()
        return self.session.outlet.should_stop

    def report(self, called: str = "this run") -> str:
        """A table of the sites, worst first, and the findings, as plain text. `called`: what was observed."""
        return render_text([Run(called, self.snapshots, self.findings)])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know; empty, with one warning, if that cannot be told. Copies from the device."""
        self._settle()
        try:
            return self.session.state_dict()
        except Exception as error:
            logger.warning("actdiag: the state cannot be saved (%s); the training goes on", error, exc_info=error)
            return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. What cannot be read costs one line in the log; it raises nothing."""
        self.session.guarded(self.session.load_state_dict if self._driver is None else self._driver.resume, state)

    def close(self) -> None:
        """Leave the model as it was found, close what was opened. Safe to call twice."""
        self._finalizer()


class Seen:
    """What a callback that outlives its trainings has to tell: of the one that runs, else of the last."""

    def __init__(self, called: str) -> None:
        """`called`: what a report calls such a training."""
        self.running: Observed | None = None
        self._called = called
        self._last: tuple[list[Snapshot], list[Finding]] = ([], [])

    @property
    def findings(self) -> list[Finding]:
        """All findings, oldest first."""
        return list(self._last[1]) if self.running is None else self.running.findings

    @property
    def snapshots(self) -> list[Snapshot]:
        """The last 64 recorded steps, oldest first."""
        return list(self._last[0]) if self.running is None else self.running.snapshots

    @property
    def latest(self) -> Snapshot | None:
        """The last recorded step, or None."""
        return self.snapshots[-1] if self.snapshots else None

    def report(self) -> str:
        """A table of the sites, worst first, and the findings, as plain text."""
        return render_text([Run(self._called, self.snapshots, self.findings)])

    def end(self) -> None:
        """Close what runs, and keep what was seen of it."""
        observed, self.running = self.running, None
        if observed is not None:
            observed.close()
            self._last = observed.snapshots, observed.findings

    def __getstate__(self) -> dict[str, Any]:
        """A callback is copied and travels to other processes without hooks, writers or a model."""
        return {**self.__dict__, "running": None, "_last": (self.snapshots, self.findings)}


def driven(
    model: nn.Module | Mapping[str, nn.Module], optimizers: Sequence[Optimizer], options: Options, *, told: bool = False
) -> Observed:
    """Observe a training by the steps of its optimizers. Raises ConfigError.

    `told`: the loop says when a step begins, by `driver.begin_at`.
    """
    session = Session(model, options)
    return Observed(session, Driver(session, list(optimizers), told=told))


def observe(
    model: nn.Module | Mapping[str, nn.Module],
    optimizers: Sequence[Optimizer],
    options: Options,
    into: Targets,
    *,
    told: bool = False,
) -> Observed:
    """Observe the training of a model, and write it where the caller says, on the process that writes.

    Raises ConfigError, and has opened nothing then.
    """
    own = list[Writer]()
    writes = options.distributed == "off" or team_of(_models(model)).leads
    if writes:
        into.check(options)
        own = given_writers(into.log_dir, (), options)
    # An earlier monitor of this model is closed here: what can be wrong with the values has been looked at.
    try:
        observed = driven(model, optimizers, options, told=told)
    except Exception:
        for writer in own:
            writer.close()
        raise
    if writes:
        observed.session.outlet = Outlet(options, [*given_writers(None, into.given, options), *own])
    return observed


def _models(model: Any) -> Iterable[Any]:
    return model.values() if isinstance(model, Mapping) else [model]
