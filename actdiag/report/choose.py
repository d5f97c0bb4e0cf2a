"""Which run is meant by a place on the command line."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from actdiag.report.read import ReadError, read_runs
from actdiag.report.run import Run

_SHOWN = 20


class SeveralRuns(ReadError):
    """The place holds several runs; the message names each as it can be given instead."""


def read_run(where: str) -> Run:
    """The one run at or below a directory, under the name by which it can be given again.

    `DIR:PREFIX` is the monitor of that prefix in DIR itself, `DIR:` the one without a prefix. Raises ReadError where
    there is no such run, and SeveralRuns. What cannot be read beside the run is told among its problems.
    """
    root, prefix = _place(where)
    runs = read_runs(root)
    found = [run for run in runs if run.snapshots]
    if prefix is not None:
        found = [run for run in found if (run.folder, run.prefix) == (root, prefix)]
    if not found:
        raise ReadError(_not_there(root, prefix or "", runs))
    if len(found) > 1:
        raise SeveralRuns(_several(where, found))
    (run,) = found
    beside = [f"{other.name}: {problem}" for other in runs if not other.snapshots for problem in other.problems]
    return replace(
        run, name=_spelled(run, [other for other in runs if other.snapshots]), problems=[*run.problems, *beside]
    )


def _place(where: str) -> tuple[Path, str | None]:
    """The directory, and the prefix if one is told. A directory whose own name has a colon is that directory."""
    front, colon, prefix = where.rpartition(":")
    if not colon or Path(where).exists() or not Path(front).is_dir():
        return Path(where), None
    return Path(front), prefix


def _spelled(run: Run, among: Sequence[Run]) -> str:
    """The shortest name by which one run of several can be given."""
    folder = run.folder
    assert folder is not None, "it was read"
    alone = all(other is run or other.folder is None or not other.folder.is_relative_to(folder) for other in among)
    return str(folder) if alone else f"{folder}:{run.prefix}"


def _several(where: str, runs: Sequence[Run]) -> str:
    names = [shlex.quote(_spelled(run, runs)) for run in runs[:_SHOWN]]
    more = [f"… and {len(runs) - _SHOWN} more"] if len(runs) > _SHOWN else []
    return "\n  ".join([f"{where} holds {len(runs)} runs; give one of them:", *names, *more])


def _not_there(root: Path, prefix: str, runs: Sequence[Run]) -> str:
    known = [run.prefix for run in runs if run.folder == root and run.snapshots]
    has = ", ".join(f"{name!r}" for name in known[:_SHOWN]) or "none"
    return f"{root} itself holds no steps of a monitor with the prefix {prefix!r}; it has: {has}"
