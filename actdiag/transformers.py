"""The door for Hugging Face's Trainer: `ActivationMonitorCallback`.

    from actdiag.transformers import ActivationMonitorCallback
    Trainer(..., callbacks=[ActivationMonitorCallback()])

It writes into the Trainer's own TensorBoard run, at the Trainer's own steps, and records every `logging_steps` steps
unless told otherwise.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from actdiag.collect.rounds import frames
from actdiag.config import ConfigError, Options, build_options
from actdiag.diagnose.finding import Finding
from actdiag.loggers import Sink, integration, sink_writers
from actdiag.observed import Observed, Seen, driven
from actdiag.optimizers import given_optimizers
from actdiag.outlet import Outlet
from actdiag.snapshot import Snapshot
from actdiag.state import terms_of
from actdiag.write.protocol import Writer

try:
    from transformers.trainer_callback import TrainerCallback
except ImportError as error:
    raise ImportError("actdiag.transformers needs transformers: pip install transformers accelerate") from error

__all__ = ["ActivationMonitorCallback"]

logger = logging.getLogger("actdiag")


class ActivationMonitorCallback(TrainerCallback):  # type: ignore[misc]
    """Trainer callback: activation centering, saturation, dead units and gradient flow of the training.

    Takes the options of `actdiag.config.Options`, keyword-only; `log_every_n_steps` defaults to the `logging_steps` of
    the Trainer. A step is an optimizer step, and has the number under which the Trainer logs its loss: the first is 1.

    - It writes into the SummaryWriter of the Trainer's TensorBoardCallback. Where `report_to` names no tracker it
      writes nothing; where it names only others, an event file in `<output_dir>/actdiag`, or in `<logging_dir>/actdiag`
      where the Trainer has a `logging_dir`. The log says which.
    - Other trackers of `report_to` get the curves by their own `on_log`, under the names that they give to the
      Trainer's numbers (`train/actdiag/dead_units`); the Trainer's `log_history` and its console do not.
    - What a resumed training must know is saved in every checkpoint folder, as `actdiag.pt`, and found there by
      `train(resume_from_checkpoint=...)`. Two callbacks in one Trainer need different `prefix`es.
    - `stop_on` has the Trainer stop after the step.

    `findings`, `snapshots`, `latest` and `report()` can be read during and after a training. Raises ConfigError at
    construction for values that cannot work, and when a training starts for name patterns that leave no module and
    for DataParallel; during the training it raises nothing of its own (but FindingError, if `raise_on` asks for it).
    It synchronizes with the device once a recorded step, and when a checkpoint is saved.
    """

    def __init__(self, **options: Any) -> None:
        if options.get("log_every_n_steps", 0) is None:
            del options["log_every_n_steps"]
        self._given = options
        self._options = build_options(options)
        terms_of(self._options)  # what cannot be judged on is said now, and not when the training starts
        self._seen = Seen("this training")
        self._trainer: Any = None
        self._guard: _Guard | None = None
        self._writes = False

    # What the user reads ---------------------------------------------------------------------------------

    @property
    def findings(self) -> list[Finding]:
        """All findings of the last or running training, oldest first."""
        return self._seen.findings

    @property
    def snapshots(self) -> list[Snapshot]:
        """The last 64 recorded steps, oldest first."""
        return self._seen.snapshots

    @property
    def latest(self) -> Snapshot | None:
        """The last recorded step, or None before the first."""
        return self._seen.latest

    def report(self) -> str:
        """A table of the sites, worst first, and the findings, as plain text."""
        return self._seen.report()

    def close(self) -> None:
        """Leave the model as it was. Done by itself at the end of a training, and where a step raises."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.leave()
        self._trainer = None
        self._seen.end()

    @property
    def _observed(self) -> Observed | None:
        return self._seen.running

    # The Trainer's events --------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Everything is wrapped, compiled and loaded; what an interrupted training has left is taken off."""
        self.close()
        try:
            self._begin(args, state, given)
        except ConfigError:
            raise
        except Exception as error:
            logger.warning("actdiag: could not start (%s); the training goes on", error, exc_info=error)

    def _begin(self, args: Any, state: Any, given: Mapping[str, Any]) -> None:
        self._trainer, checkpoint = _running_trainer()
        options = self._fitted(args, state)
        model = getattr(self._trainer, "model_wrapped", given["model"])
        observed = driven(model, given_optimizers(given["optimizer"]), options, told=True)
        observed.session.scaler.scaler = options.grad_scaler or getattr(given["optimizer"], "scaler", None)
        self._seen.running, self._writes = observed, options.distributed == "off" or state.is_world_process_zero
        if state.global_step:
            self._load(Path(checkpoint or _folder(args, state)))

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The first micro-batch of an optimizer step comes next."""
        if self._observed is None:
            return
        session = self._observed.session
        if self._writes:  # not earlier: the Trainer's TensorBoardCallback may have been added after this one
            self._writes = False
            session.guarded(self._open, args, state, control)
        session.epoch = int(state.epoch or 0)
        session.guarded(self._observed.driver.begin_at, state.global_step + 1)
        if self._trainer is not None and self._guard is None and not session.closed:
            self._guard = _Guard(self._trainer, self.close)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Nothing is run forward or backward any more: the model is as it was again, whatever the optimizer does."""
        if self._guard is not None:
            self._guard.leave()
            self._guard = None
        if self._observed is not None:
            self._observed.session.guarded(self._observed.session.rest)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> Any:
        """The step is over; a finding may ask for the end."""
        if self._observed is not None and self._observed.should_stop:
            control.should_training_stop = True
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """What an evaluation took is no step's time."""
        if self._observed is not None:
            self._observed.session.guarded(self._observed.session.schedule.budget.restart)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The Trainer has saved a checkpoint: lay what a resumed training must know beside it."""
        self.on_evaluate(args, state, control)
        if self._observed is not None and args.should_save and not self._observed.session.closed:
            self._save(_folder(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Leave the model as it was."""
        self.close()

    # ---------------------------------------------------------------------------------------------------

    def _fitted(self, args: Any, state: Any) -> Options:
        """The options of this training: the Trainer's own logging interval where none was given."""
        steps = state.logging_steps  # of a share of all steps, the Trainer has made a number
        by_steps = getattr(args.logging_strategy, "value", args.logging_strategy) == "steps"
        if "log_every_n_steps" in self._given or not by_steps or not steps or steps != int(steps):
            return self._options
        return build_options({**self._given, "log_every_n_steps": int(steps)})

    def _open(self, args: Any, state: Any, control: Any) -> None:
        assert self._observed is not None
        session = self._observed.session
        session.outlet = Outlet(session.options, self._writers(args, state, control))
        session.outlet.carry(session.ledger.open_findings())  # of a checkpoint

    def _writers(self, args: Any, state: Any, control: Any) -> list[Writer]:
        callbacks = getattr(getattr(self._trainer, "callback_handler", None), "callbacks", ())
        sinks = [
            Sink(type(one).__name__, getattr(one, "tb_writer", None), integration(one, args, state, control))
            for one in callbacks
        ]
        trackers = [name for name in args.report_to if name != "none"]
        if not trackers and not any(sink.experiment or sink.metrics for sink in sinks):
            _say("", "report_to names no tracker: findings are told here, and nothing is written to disk")
            return []
        assert self._observed is not None
        where = Path(getattr(args, "logging_dir", None) or args.output_dir) / "actdiag"
        return sink_writers(sinks, self._observed.session.options, where, _say)

    def _file(self, folder: Path) -> Path:
        return folder / f"actdiag{'-' if self._options.prefix else ''}{self._options.prefix}.pt"

    def _save(self, folder: Path) -> None:
        """Whole or not at all: a run may be killed meanwhile."""
        assert self._observed is not None
        path = self._file(folder)
        try:
            if folder.is_dir():
                torch.save(self._observed.state_dict(), path.with_suffix(".part"))
                os.replace(path.with_suffix(".part"), path)
        except Exception as error:
            logger.warning("actdiag: the state cannot be saved (%s); the training goes on", error, exc_info=error)

    def _load(self, folder: Path) -> None:
        assert self._observed is not None
        path = self._file(folder)
        if not path.exists():
            logger.info("actdiag: the checkpoint holds no %s; evidence and findings start anew", path.name)
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a file may hold anything
            logger.warning("actdiag: %s cannot be read (%s); starting afresh", path, error)
            return
        self._observed.load_state_dict(state)

    def __getstate__(self) -> dict[str, Any]:
        """A callback is copied and travels to other processes without hooks, writers or a model."""
        return {**self.__dict__, "_trainer": None, "_guard": None}


class _Guard:
    """In place of `trainer.training_step` while a step runs: what it raises ends the observation, and goes on.

    The Trainer tells no callback of an exception or of Ctrl-C.
    """

    def __init__(self, trainer: Any, close: Callable[[], None]) -> None:
        self._own = vars(trainer).get("training_step")
        self._step = trainer.training_step
        self._trainer, self._close, self._left = trainer, close, False
        trainer.training_step = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._step(*args, **kwargs)
        except BaseException:
            if not self._left:
                self._close()
            raise

    def leave(self) -> None:
        """Give the Trainer back what it had; several callbacks leave in the order in which they came."""
        self._left = True
        mine = vars(self._trainer)
        top = mine.pop("training_step", None)
        while isinstance(top, _Guard) and top._left:
            top = top._own
        if top is not None:
            mine["training_step"] = top


def _running_trainer() -> tuple[Any, Any]:
    """The Trainer whose training begins, and the checkpoint it resumes; None for what cannot be found.

    A callback is given neither. Both are read where the call comes from, as the loss scaler of a plain loop is.
    """
    for caller in _callers():
        owner = caller.get("self")
        if hasattr(owner, "training_step") and hasattr(owner, "callback_handler"):
            return owner, caller.get("resume_from_checkpoint")
    return None, None


def _callers() -> Iterator[Mapping[str, Any]]:
    for frame in frames(sys._getframe(1)):
        yield frame.f_locals


def _folder(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _say(key: str, message: str) -> None:
    logger.warning("actdiag: %s", message)
