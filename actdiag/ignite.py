"""The door for PyTorch Ignite: `attach` to the engine that trains.

from actdiag.ignite import attach
handle = attach(trainer, model, optimizer, log_dir="runs/ignite")
trainer.run(loader, max_epochs=5)
print(handle.report())
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from actdiag.config import ConfigError, build_options
from actdiag.diagnose.finding import Finding
from actdiag.loggers import Targets
from actdiag.observed import Observed, observe
from actdiag.optimizers import given_optimizers
from actdiag.snapshot import Snapshot
from actdiag.write.protocol import Writer

try:
    from ignite.engine import Engine, Events
except ImportError as error:
    raise ImportError("actdiag.ignite needs pytorch-ignite: pip install pytorch-ignite") from error

__all__ = ["Attached", "attach"]


class Attached:
    """What `attach` has put on an engine: what has been seen of its training, and the way off."""

    def __init__(self, engine: Engine, observed: Observed) -> None:
        self._observed = observed
        self._events = [
            engine.add_event_handler(event, handler)
            for event, handler in (
                (Events.ITERATION_STARTED, self._begin),
                (Events.ITERATION_COMPLETED, self._end),
                (Events.INTERRUPT, self._rest),
                (Events.TERMINATE, self._over),
                (Events.COMPLETED, self._over),
            )
        ]
        engine.add_event_handler(Events.EXCEPTION_RAISED, _OnException(self))

    @property
    def findings(self) -> list[Finding]:
        """All findings of the run so far, oldest first."""
        return self._observed.findings

    @property
    def snapshots(self) -> list[Snapshot]:
        """The last 64 recorded steps, oldest first."""
        return self._observed.snapshots

    @property
    def latest(self) -> Snapshot | None:
        """The last recorded step, or None before the first."""
        return self._observed.latest

    def report(self) -> str:
        """A table of the sites, worst first, and the findings, as plain text."""
        return self._observed.report()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know: give the handle to Ignite's Checkpoint as `{"actdiag": handle, ...}`.

        Copies from the device to the host.
        """
        return self._observed.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`, before the run goes on. It raises nothing; the log says what does not fit."""
        self._observed.load_state_dict(state)

    def close(self) -> None:
        """Leave the model and the engine as they were. Done by itself when the run ends; safe to call twice."""
        events, self._events = self._events, []
        for event in events:
            event.remove()
        self._observed.close()

    # The engine's events ---------------------------------------------------------------------------------

    def _begin(self, engine: Engine) -> None:
        session, driver = self._observed.session, self._observed.driver
        session.epoch = int(engine.state.epoch)
        if driver.running:  # of the step that accumulates gradients, or was skipped
            driver.number(engine.state.iteration)
        else:
            session.guarded(driver.begin_at, engine.state.iteration)

    def _end(self, engine: Engine) -> None:
        if self._observed.should_stop:
            engine.terminate()

    def _rest(self, engine: Engine) -> None:
        """The run stops here, and may go on later: what a half step has put on the model comes off."""
        session = self._observed.session
        session.guarded(session.begin_again, engine.state.iteration)

    def _over(self, engine: Engine) -> None:
        self.close()


class _OnException:
    """Closes where the engine's run raises, and has the exception go where it would go without us.

    An engine with any handler of exceptions raises nothing by itself, even after the handler is removed. So this one
    stays, and raises unless a handler of the user's is there to decide.
    """

    def __init__(self, attached: Attached) -> None:
        self._attached = weakref.ref(attached)

    def __call__(self, engine: Engine, error: BaseException) -> None:
        attached = self._attached()
        if attached is not None:
            attached.close()
        handlers = [one[0] for one in getattr(engine, "_event_handlers", {}).get(Events.EXCEPTION_RAISED, ())]
        if all(isinstance(one, _OnException) for one in handlers) and (not handlers or handlers[-1] is self):
            raise error


def attach(
    engine: Engine,
    model: nn.Module | Mapping[str, nn.Module],
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    log_dir: str | Path | None = None,
    writers: Iterable[Writer | Any] = (),
    **options: Any,
) -> Attached:
    """Observe the training that an engine runs; what is seen of it is read from the handle that comes back.

    - `model`, `optimizer`, `log_dir`, `writers` and the options are those of `actdiag.Monitor`; `writers` may hold
      Ignite's TensorboardLogger, MLflowLogger, and functions of (metrics, step) such as `WandBLogger.log`.
    - A step is an optimizer step; its number is the engine's iteration in which it is made, from 1, as Ignite logs.
    - It ends with the run (completed, terminated, or by an exception); to observe another run, attach again.
    - `stop_on` terminates the run after the iteration.

    Raises ConfigError here for values that cannot work; during the run it raises nothing of its own (but FindingError,
    if `raise_on` asks for it), and synchronizes with the device once a recorded step.
    """
    checked, optimizers = build_options(options), given_optimizers(optimizer)
    if not optimizers:
        raise ConfigError("optimizer must be the one that the engine steps, or a list of them; got none")
    return Attached(engine, observe(model, optimizers, checked, Targets.of(log_dir, writers), told=True))
