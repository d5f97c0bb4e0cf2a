"""Loggers of the caller's: a SummaryWriter, a store of metrics, or all loggers of a trainer, and their steps."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

from actdiag.claims import LOGGERS
from actdiag.config import ConfigError, Options
from actdiag.write.protocol import Writer
from actdiag.write.scalars import ScalarWriter, log_call
from actdiag.write.tensorboard import TensorBoardWriter, refuse_foreign, tensorboard_like

logger = logging.getLogger("actdiag")


class AlreadyTaken(Exception):
    """A logger is written to by another monitor with the same prefix. The message says so, and the cure."""


class Sink(NamedTuple):
    """Something that a trainer logs with. `experiment`: its SummaryWriter, if it has one. `metrics`: what takes
    (metrics, step) otherwise; None where nothing does."""

    name: str
    experiment: Any
    metrics: Any


def writer_into(thing: Any, options: Options, *, name: str = "") -> TensorBoardWriter | ScalarWriter:
    """A writer that adds to what a caller logs with: a SummaryWriter or its owner, or anything that takes metrics.

    `name`: what the log calls it. Raises TypeError for an object of another make, and AlreadyTaken where two monitors
    would mix their curves.
    """
    writer: TensorBoardWriter | ScalarWriter
    target = summary_writer_of(thing)
    if target is None:
        target = thing
        writer = ScalarWriter(thing, detail=options.loggers, prefix=options.prefix, name=name)
    else:
        writer = TensorBoardWriter.into(target, detail=options.detail, prefix=options.prefix)
    with contextlib.suppress(TypeError):  # what cannot be held weakly, as a slotted object, is not looked after
        if LOGGERS.holders(target, options.prefix, type(writer)):
            raise AlreadyTaken(
                f"another monitor writes to the same logger with prefix={options.prefix!r}; this one writes nothing. "
                "Give one of them a prefix of its own, as prefix='gan_d'"
            )
        LOGGERS.take(target, options.prefix, writer)
    return writer


def summary_writer_of(thing: Any) -> Any:
    """The SummaryWriter that an object is, or has, as loggers of Lightning, Accelerate and Ignite do; or None."""
    for owned in ("experiment", "tracker", "writer", ""):  # Ignite's forwards what it has not to its writer
        with contextlib.suppress(Exception):  # a logger that cannot begin says so when it is written to
            found = getattr(thing, owned) if owned else thing
            if tensorboard_like(found):
                return found
    return None


class Targets(NamedTuple):
    """Where the caller wants what is recorded: a run directory, and writers or loggers of his own."""

    log_dir: str | PathLike[str] | None
    given: Sequence[Any]

    @staticmethod
    def of(log_dir: Any, given: Any) -> Targets:
        """From what a caller gave. Raises ConfigError for what is no path, and no list."""
        if not (log_dir is None or isinstance(log_dir, (str, PathLike))):
            raise ConfigError(f"log_dir must be a path such as 'runs/one', or None; got {log_dir!r}")
        if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
            raise ConfigError(f"writers must be a list such as [run.log]; got {type(given).__name__}")
        return Targets(log_dir, list(given))

    def check(self, options: Options) -> None:
        """Raise ConfigError for what is no writer, before anything is opened."""
        for thing in self.given:
            if not isinstance(thing, Writer):
                _check(thing, options)


def _check(thing: Any, options: Options) -> None:
    try:
        target = summary_writer_of(thing)
        if target is not None:
            refuse_foreign(target)
            return
        log_call(thing)
    except TypeError as error:
        raise ConfigError(f"writers: {error}") from None
    if options.loggers == "off":
        name = type(thing).__name__
        raise ConfigError(f"loggers must be 'summary', 'full' or 'model' where writers= holds {name}; got 'off'")


def given_writers(log_dir: str | PathLike[str] | None, given: Iterable[Any], options: Options) -> list[Writer]:
    """The writers of a plain loop: those it gives, and one of our own for `log_dir`. Raises ConfigError."""
    found: list[Writer] = []
    for thing in given:
        if isinstance(thing, Writer):
            found.append(thing)
            continue
        _check(thing, options)
        try:
            found.append(writer_into(thing, options))
        except AlreadyTaken as error:
            logger.warning("actdiag: %s", error)
    if log_dir is not None:
        try:
            found.append(TensorBoardWriter(fspath(log_dir), detail=options.detail, prefix=options.prefix))
        except OSError as error:
            raise ConfigError(
                f"log_dir must be a directory that can be written, got {str(log_dir)!r}: {error}"
            ) from None
    return found


def trainer_writers(trainer: Any, options: Options, where: Path, say: Callable[[str, str], None]) -> list[Writer]:
    """A writer for every logger of Lightning's trainer; without one for TensorBoard, an event file of our own.

    `say` is told, under a key, what is left out and why.
    """
    if getattr(trainer, "fast_dev_run", False):
        return []  # the trainer itself logs nothing then
    sinks = [Sink(type(one).__name__, summary_writer_of(one), one) for one in trainer.loggers]
    return sink_writers(sinks, options, where / "actdiag", say)


def sink_writers(sinks: Iterable[Sink], options: Options, where: Path, say: Callable[[str, str], None]) -> list[Writer]:
    """A writer for everything a trainer logs with; without a SummaryWriter among it, an event file in `where` besides.

    `say` is told, under a key, what is left out and why.
    """
    found: list[Writer] = []
    events = False
    for sink in sinks:
        of_events = tensorboard_like(sink.experiment)
        if not of_events and (sink.metrics is None or options.loggers == "off"):
            continue
        try:
            found.append(writer_into(sink.experiment if of_events else sink.metrics, options, name=sink.name))
            events = events or of_events
        except TypeError as error:
            say(f"foreign {sink.name}", f"logger {sink.name} is left out: {error}")
        except AlreadyTaken as error:
            events = events or of_events
            say("taken", str(error))
    return found if events else found + _own_writer(where, options, say)


def integration(callback: Any, args: Any, state: Any, control: Any) -> Callable[[dict[str, float], int], None] | None:
    """What hands metrics to an integration of Hugging Face's Trainer (`report_to`); None for callbacks of other kinds.

    It is the integration's own `on_log`, which alone knows its store, called for it alone: `Trainer.log` would put
    every number into the history and onto the console. DVCLive's ends a step of its own each time, and is left out.
    """
    kinds = type(callback).__mro__
    if not any(kind.__module__.startswith("transformers.integrations") for kind in kinds):
        return None
    if hasattr(callback, "tb_writer") or any("DVCLive" in kind.__name__ for kind in kinds):
        return None

    def log(metrics: dict[str, float], step: int) -> None:
        then = copy(state)
        then.global_step = step  # the Trainer counts a step after its update, when ours has been told
        callback.on_log(args, then, copy(control), logs=metrics)

    return log


def _own_writer(where: Path, options: Options, say: Callable[[str, str], None]) -> list[Writer]:
    try:
        writer = TensorBoardWriter(where, detail=options.detail, prefix=options.prefix)
    except OSError as error:
        say("own", f"nothing is written: {where} cannot be made ({error})")
        return []
    say("own", f"the trainer has no TensorBoard logger; writing to {where}")
    return [writer]


def logged_step(trainer: Any) -> int:
    """The x-axis of the trainer's own loggers: batches that stepped; global_step where Lightning hides it.

    Private in Lightning 2.x; `global_step` counts every optimizer of a batch and would not overlay the loss.
    """
    loop = getattr(getattr(trainer, "fit_loop", None), "epoch_loop", None)
    batches = getattr(loop, "_batches_that_stepped", None)
    return int(trainer.global_step if batches is None else batches)
