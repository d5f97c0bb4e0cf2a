"""The plain-PyTorch door: `Monitor`, a hook manager around a training loop."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from actdiag.collect.scaler import frames, scaler_above, unscales_inside
from actdiag.collect.scope import Silent
from actdiag.config import ConfigError, build_options
from actdiag.diagnose.finding import Finding
from actdiag.loggers import given_writers
from actdiag.outlet import Outlet
from actdiag.report.run import Run
from actdiag.report.text import render_text
from actdiag.session import Session
from actdiag.snapshot import Snapshot
from actdiag.write.protocol import Writer

logger = logging.getLogger("actdiag")


class Monitor:
    """Observes the training of a model.

        with actdiag.Monitor(model, optimizer, log_dir="runs/relu") as monitor:
            for x, y in loader:
                ...                       # the loop stays as it was

    - `model`: a module, or a dict of named modules.
    - `optimizer`: one or a list; the first one's steps are the steps that are counted, from 0. Without one the
      loop calls `monitor.step()` after each update.
    - `log_dir`: a run directory for TensorBoard. `writers`: objects with `write` and `close`, or SummaryWriters of
      the caller's, which are written to at the same steps and never closed.
    - options: see `actdiag.config.Options`; all keyword-only, the same through every door.

    To resume, save `monitor.state_dict()` with the checkpoint and load it before the loop goes on; see there. A
    second monitor on the same model takes the place of the first, unless it has another `prefix`.

    Raises ConfigError at construction for values that cannot work. During training it raises nothing of its own
    (except FindingError if `raise_on` asks for it), never synchronizes with the device but once a recorded step,
    and is not collective.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        log_dir: str | Path | None = None,
        writers: Iterable[Writer | Any] = (),
        **options: Any,
    ) -> None:
        checked = build_options(options)
        optimizers = _optimizers(optimizer)
        self._session = Session(model, checked)
        if checked.distributed == "off" or _is_rank_zero():
            self._session.outlet = Outlet(checked, given_writers(log_dir, writers, checked))
        self._driver = _Driver(self._session, optimizers)
        self._finalizer = weakref.finalize(self, self._driver.close)
        self._session.guarded(self._driver.begin)

    @property
    def findings(self) -> list[Finding]:
        """All findings of the run so far, oldest first; `resolved_step` tells those that are over."""
        return list(self._session.ledger.findings)

    @property
    def latest(self) -> Snapshot | None:
        """The last recorded step, or None before the first."""
        return self._session.latest

    @property
    def snapshots(self) -> list[Snapshot]:
        """The last 64 recorded steps, oldest first."""
        return list(self._session.snapshots)

    def step(self, step: int | None = None) -> None:
        """One update has been made. For loops without an optimizer to watch; with one it does nothing.

        `step`: its number on the x-axis, for loops that count otherwise than from 0 by 1. A number that is not above
        the last one is not recorded: the first such is warned of.
        """
        self._driver.manual_step(step)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know, to be saved with the checkpoint.

            torch.save({"model": model.state_dict(), ..., "actdiag": monitor.state_dict()}, path)

        Evidence about units, deaths, findings, the schedule, the number of steps and the loss scaler's skips, as
        str, int, float, bool, None, list, dict and tensors of the host, so that `torch.load` reads it with
        `weights_only=True`. Copies from the device to the host; call it between two steps.
        """
        try:
            return self._session.state_dict()
        except Exception as error:
            logger.warning("actdiag: the state cannot be saved (%s); the training goes on", error, exc_info=error)
            return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`: steps continue, units keep their evidence, findings are not told again.

        Call it before the first step, after the model has been built. What does not fit (another model, another
        width, another release) is left out with one line in the log; of something else nothing is loaded, with one
        warning. It raises nothing.
        """
        self._session.guarded(self._driver.resume, state)

    def report(self) -> str:
        """A table of the sites, worst first, and the findings, as plain text."""
        return render_text([Run("this run", self.snapshots, self.findings)])

    def close(self) -> None:
        """Leave the model as it was found, close what was opened here. Safe to call twice."""
        self._finalizer()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Driver:
    """Counts the steps of the first optimizer, and tells the session before and after each update."""

    def __init__(self, session: Session, optimizers: list[Optimizer]) -> None:
        self._session = session
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]
        self._inside: weakref.ref[Optimizer] | None = None
        self._nested = 0
        self._closure = False
        self._step = 0
        self._since = 0
        self._went_back = False
        self._round: object = None
        session.collector.on_forward = self._forward_begins
        session.on_close = self._let_go
        self._handles: list[RemovableHandle] = []
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(Silent(self._before)))
            self._handles.append(optimizer.register_step_post_hook(Silent(self._after)))

    def _alive(self) -> list[Optimizer]:
        return [optimizer for ref in self._optimizers if (optimizer := ref()) is not None]

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._session.closed:
            return
        if self._inside is not None and _runs_twice(optimizer):
            self._nested += 1  # a subclass whose step() calls super().step() fires the hooks once more
            return
        self._inside, self._nested, self._round = weakref.ref(optimizer), 0, None
        self._closure = _closure_of(args, kwargs)
        self._session.collector.single = self._closure
        if self._session.mode == "record":
            self._session.guarded(self._read, optimizer, kwargs)
        elif self._session.scaler.scaler is not None:
            self._session.guarded(self._session.scaler.stepping)

    def _read(self, optimizer: Optimizer, kwargs: Mapping[str, Any]) -> None:
        scaler = self._session.scaler
        if scaler.scaler is None:
            found = scaler_above(sys._getframe(1))
            if found is not None and found.is_enabled() and scaler.found(found, self._since):
                self._session.postpone(self._step + 1)  # it has skipped steps that were taken for this one
                return
        if scaler.active:
            scaler.stepping()
            scaler.note(optimizer)
        self._session.before_update(self._alive(), optimizer, fused=unscales_inside(optimizer, kwargs))

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._session.closed or self._inside is None:
            return
        if self._nested:
            self._nested -= 1
            return
        self._inside = None
        self._session.collector.single = False
        self._session.guarded(self._session.after_update, closure=self._closure)
        if optimizer is self._optimizers[0]():
            self._session.guarded(self._turn)

    def _forward_begins(self) -> None:
        """GradScaler.update() starts a new round; if none of our steps came in between, it has skipped one."""
        now = getattr(self._session.scaler.scaler, "_per_optimizer_states", None)
        if now is not None and self._round is not None and now is not self._round and self._inside is None:
            self._session.guarded(self._session.restart_step, self._step)
        self._round = now

    def manual_step(self, step: int | None) -> None:
        """The loop says that an update has been made."""
        if self._optimizers or self._session.closed:
            return
        if step is not None and not self._go_to(step):
            self._session.guarded(self._session.start_over)
            self._session.guarded(self._session.remember_weights)
            return
        self._session.guarded(self._session.before_update, (), None)
        self._session.guarded(self._session.after_update)
        self._session.guarded(self._turn)

    def _go_to(self, step: int) -> bool:
        """Number the running step; whether it is later than all before."""
        if step >= self._step:
            self._step = step
            return True
        if not self._went_back:
            self._went_back = True
            logger.warning(
                "actdiag: step %s comes after step %s; steps that go back are left out", step, self._step - 1
            )
        return False

    def _turn(self) -> None:
        self._session.end_step(self._step)
        self._step += 1
        self._since += 1
        self.begin()

    def resume(self, state: Mapping[str, Any]) -> None:
        """Begin the running step again, as the one that a saved state was before."""
        if not self._session.load_state_dict(state):
            return
        self._session.abandon_step()
        self._step = self._session.next_step
        self.begin()

    def begin(self) -> None:
        """The next step begins."""
        self._round = None
        self._session.begin_step(self._step)
        if not self._optimizers:
            self._session.remember_weights()

    def close(self) -> None:
        """Close the session, which lets go of the optimizers."""
        self._session.close()

    def _let_go(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _optimizers(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    found: list[Any] = [optimizer]
    if optimizer is None or isinstance(optimizer, Sequence):
        found = list(optimizer or ())
    for one in found:
        if not isinstance(one, Optimizer):
            raise ConfigError(
                f"optimizer must be a torch.optim.Optimizer, a list of them, or None; got {type(one).__name__}"
            )
    return found


def _is_rank_zero() -> bool:
    from torch import distributed

    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _closure_of(args: Any, kwargs: Any) -> bool:
    return kwargs.get("closure") is not None or any(callable(arg) and not isinstance(arg, Optimizer) for arg in args)


def _runs_twice(optimizer: Optimizer) -> bool:
    """Whether this optimizer's step() is on the stack twice: then the hook belongs to the inner call.

    Looked at only while a step is believed to run, so that an exception in an earlier step() cannot fool it.
    """
    running = 0
    for frame in frames(sys._getframe(1)):
        if frame.f_code.co_name == "wrapper" and frame.f_code.co_filename.endswith("optimizer.py"):
            running += frame.f_locals.get("self") is optimizer
    return running > 1
