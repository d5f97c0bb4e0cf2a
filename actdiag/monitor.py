"""The plain-PyTorch door: `Monitor`, a hook manager around a training loop."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from actdiag.collect.scope import Silent
from actdiag.config import ConfigError, Options, build_options
from actdiag.diagnose.finding import Finding
from actdiag.report.run import Run
from actdiag.report.text import render_text
from actdiag.session import Session
from actdiag.snapshot import Snapshot
from actdiag.write.protocol import Writer
from actdiag.write.tensorboard import TensorBoardWriter, refuse_foreign


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
        speaking = checked.distributed == "off" or _is_rank_zero()
        self._session = Session(model, checked, _writers(log_dir, writers, checked) if speaking else ())
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

    def step(self) -> None:
        """One update has been made. For loops without an optimizer to watch; with one it does nothing."""
        self._driver.manual_step()

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
        self._scaler: Any = session.options.grad_scaler
        self._round: object = None
        session.collector.on_forward = self._forward_begins
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
        self._inside, self._nested = weakref.ref(optimizer), 0
        self._closure = _closure_of(args, kwargs)
        self._session.collector.single = self._closure
        if self._session.mode == "record":
            self._session.guarded(self._read, optimizer)

    def _read(self, optimizer: Optimizer) -> None:
        known, scaler = self._scaler, self._scaler or _scaler_above(sys._getframe(1))
        if scaler is not None and scaler.is_enabled():
            self._scaler = scaler
            self._session.loss_scale = float(scaler.get_scale())
            # A fused optimizer divides by the scale itself, after this hook: what clipping did cannot be told.
            self._session.clip_known = getattr(optimizer, "grad_scale", None) is None
            if known is None and self._session.loss_scale != getattr(scaler, "_init_scale", self._session.loss_scale):
                self._session.postpone(self._step)  # it has skipped steps that were taken for this one
        self._session.before_update(self._alive(), optimizer)

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
        now = getattr(self._scaler, "_per_optimizer_states", None)
        if now is not None and self._round is not None and now is not self._round and self._inside is None:
            self._session.guarded(self._session.restart_step)
        self._round = now

    def manual_step(self) -> None:
        """The loop says that an update has been made."""
        if self._optimizers or self._session.closed:
            return
        self._session.guarded(self._session.before_update, (), None)
        self._session.guarded(self._session.after_update)
        self._session.guarded(self._turn)

    def _turn(self) -> None:
        self._session.end_step(self._step)
        self._step += 1
        self.begin()

    def begin(self) -> None:
        """The next step begins."""
        self._round = None
        self._session.begin_step(self._step)
        if not self._optimizers:
            self._session.remember_weights()

    def close(self) -> None:
        """Remove the optimizers' hooks and close the session."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._session.close()


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


def _writers(log_dir: str | Path | None, given: Iterable[Any], options: Options) -> list[Writer]:
    found: list[Writer] = []
    for writer in given:
        if isinstance(writer, Writer):
            found.append(writer)
        else:
            try:
                refuse_foreign(writer)
            except TypeError as error:
                raise ConfigError(f"writers: {error}") from None
            found.append(TensorBoardWriter.into(writer, detail=options.detail))
    if log_dir is not None:
        try:
            found.append(TensorBoardWriter(log_dir, detail=options.detail))
        except OSError as error:
            raise ConfigError(
                f"log_dir must be a directory that can be written, got {str(log_dir)!r}: {error}"
            ) from None
    return found


def _is_rank_zero() -> bool:
    from torch import distributed

    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _closure_of(args: Any, kwargs: Any) -> bool:
    return kwargs.get("closure") is not None or any(callable(arg) and not isinstance(arg, Optimizer) for arg in args)


def _frames(frame: FrameType | None) -> Iterable[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _runs_twice(optimizer: Optimizer) -> bool:
    """Whether this optimizer's step() is on the stack twice: then the hook belongs to the inner call.

    Looked at only while a step is believed to run, so that an exception in an earlier step() cannot fool it.
    """
    running = 0
    for frame in _frames(sys._getframe(1)):
        if frame.f_code.co_name == "wrapper" and frame.f_code.co_filename.endswith("optimizer.py"):
            running += frame.f_locals.get("self") is optimizer
    return running > 1


def _scaler_above(frame: FrameType | None) -> Any:
    """The GradScaler whose step() called the optimizer, if any: it tells the loss scale without being passed."""
    for depth, caller in enumerate(_frames(frame)):
        if depth > 16:
            return None
        if caller.f_code.co_filename.endswith("grad_scaler.py"):
            return caller.f_locals.get("self")
    return None
