"""Loggers of the caller's: a SummaryWriter, or all TensorBoard loggers of a trainer, and their steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from actdiag.claims import LOGGERS
from actdiag.config import ConfigError, Options
from actdiag.write.protocol import Writer
from actdiag.write.tensorboard import TensorBoardWriter, tensorboard_like

logger = logging.getLogger("actdiag")


class AlreadyTaken(Exception):
    """A logger is written to by another monitor with the same prefix. The message says so, and the cure."""


def writer_into(experiment: Any, options: Options) -> TensorBoardWriter:
    """A writer that adds to a caller's SummaryWriter.

    Raises TypeError for an object of another make, and AlreadyTaken where two monitors would mix their curves.
    """
    if tensorboard_like(experiment) and LOGGERS.holders(experiment, options.prefix, TensorBoardWriter):
        raise AlreadyTaken(
            f"another monitor writes to the same logger with prefix={options.prefix!r}; this one writes nothing. Give "
            "one of them a prefix of its own, as prefix='gan_d'"
        )
    writer = TensorBoardWriter.into(experiment, detail=options.detail, prefix=options.prefix)
    LOGGERS.take(experiment, options.prefix, writer)
    return writer


class Targets(NamedTuple):
    """Where the caller wants what is recorded: a run directory, and writers or SummaryWriters of his own."""

    log_dir: str | Path | None
    given: Sequence[Any]

    def check(self, options: Options) -> None:
        """Raise ConfigError for what is no writer, before anything is opened."""
        for writer in self.given:
            if not isinstance(writer, Writer):
                try:
                    TensorBoardWriter.into(writer, detail=options.detail, prefix=options.prefix)
                except TypeError as error:
                    raise ConfigError(f"writers: {error}") from None


def given_writers(log_dir: str | Path | None, given: Iterable[Any], options: Options) -> list[Writer]:
    """The writers of a plain loop: those it gives, and one of our own for `log_dir`. Raises ConfigError."""
    found: list[Writer] = []
    for writer in given:
        if isinstance(writer, Writer):
            found.append(writer)
        else:
            try:
                found.append(writer_into(writer, options))
            except TypeError as error:
                raise ConfigError(f"writers: {error}") from None
            except AlreadyTaken as error:
                logger.warning("actdiag: %s", error)
    if log_dir is not None:
        try:
            found.append(TensorBoardWriter(log_dir, detail=options.detail, prefix=options.prefix))
        except OSError as error:
            raise ConfigError(
                f"log_dir must be a directory that can be written, got {str(log_dir)!r}: {error}"
            ) from None
    return found


def trainer_writers(trainer: Any, options: Options, where: Path, say: Callable[[str, str], None]) -> list[Writer]:
    """A writer for every TensorBoard logger of a trainer; without one, an event file in a directory of our own.

    `say` is told, under a key, what is left out and why.
    """
    if getattr(trainer, "fast_dev_run", False):
        return []  # the trainer itself logs nothing then
    named = [(f"logger {type(one).__name__}", getattr(one, "experiment", None)) for one in trainer.loggers]
    return experiment_writers(named, options, where / "actdiag", say)


def experiment_writers(
    named: Iterable[tuple[str, Any]], options: Options, where: Path, say: Callable[[str, str], None]
) -> list[Writer]:
    """A writer for every SummaryWriter among what a trainer logs with, by name; without one, an event file in `where`.

    `say` is told, under a key, what is left out and why.
    """
    found: list[Writer] = []
    taken = False
    for name, experiment in named:
        if not tensorboard_like(experiment):
            continue
        try:
            found.append(writer_into(experiment, options))
        except TypeError as error:
            say("foreign", f"{name} is left out: {error}")
        except AlreadyTaken as error:
            taken = True
            say("taken", str(error))
    return found if found or taken else _own_writer(where, options, say)


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
