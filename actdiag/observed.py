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
from actdiag.session import Session
from actdiag.snapshot import Snapshot
from actdiag.stepping import Driver
from actdiag.write.protocol import Writer

logger = logging.getLogger("actdiag")


class Observed:
    """A session and the driver that tells it of steps. Closed at the latest when nobody holds it any more."""

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizers: Sequence[Optimizer],
        options: Options,
        *,
        told: bool = False,
    ) -> None:
        """`told`: the loop says when a step begins, by `driver.begin_at`. Raises ConfigError."""
        self.session = Session(model, options)
        self.driver = Driver(self.session, list(optimizers), told=told)
        self._finalizer = weakref.finalize(self, self.driver.close)

    @property
    def findings(self) -> list[Finding]:
        """All findings of the run so far, oldest first."""
        self.driver.settle()
        return list(self.session.ledger.findings)

    @property
    def snapshots(self) -> list[Snapshot]:
        """The last 64 recorded steps, oldest first."""
        self.driver.settle()
        return list(self.session.snapshots)

    @property
    def latest(self) -> Snapshot | None:
        """The last recorded step, or None before the first."""
        self.driver.settle()
        return self.session.latest

    @property
    def should_stop(self) -> bool:
        """Whether a finding of the severity `stop_on` has been told."""
        self.driver.settle()
        return self.session.outlet.should_stop

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know; empty, with one warning, if that cannot be told. Copies from the device."""
        self.driver.settle()
        try:
            return self.session.state_dict()
        except Exception as error:
            logger.warning("actdiag: the state cannot be saved (%s); the training goes on", error, exc_info=error)
            return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. What cannot be read costs one line in the log; it raises nothing."""
        self.session.guarded(self.driver.resume, state)

    def close(self) -> None:
        """Leave the model as it was found, close what was opened. Safe to call twice."""
        self._finalizer()


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
        observed = Observed(model, optimizers, options, told=told)
    except Exception:
        for writer in own:
            writer.close()
        raise
    if writes:
        observed.session.outlet = Outlet(options, [*given_writers(None, into.given, options), *own])
    return observed


def _models(model: Any) -> Iterable[Any]:
    return model.values() if isinstance(model, Mapping) else [model]
