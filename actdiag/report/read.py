"""Log directory -> runs. Reads without torch, tolerates what is damaged, and says what it could not read.

Everything in a log is untrusted: a record that does not fit is skipped with a note, sizes are bounded, names are
text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from actdiag.report.episodes import findings_of
from actdiag.report.records import our_records
from actdiag.report.run import Run
from actdiag.report.steps import LoggedSnapshots, RunReader, readable

_SHOWN_PROBLEMS = 5


class ReadError(Exception):
    """There is nothing here to report on; the message says why and what to do."""


def read_runs(log_dir: str | Path) -> list[Run]:
    """Every run with actdiag data at or below a directory, by name, and every run that could not be read.

    Raises ReadError for a path that is no directory, holds no event files, or none with actdiag data. Links to
    directories are not followed, as they would show a run twice.
    """
    root = Path(log_dir)
    if not root.exists():
        raise ReadError(f"{root} does not exist")
    if not root.is_dir():
        raise ReadError(f"{root} is a file; give the directory that holds it: {root.parent}")
    folders, closed = _event_files(root)
    if str(root) in closed:
        raise ReadError(f"{root} cannot be read ({closed[str(root)]})")
    runs = [run for folder, paths in folders.items() for run in _read_folder(_name(root, folder), folder, paths)]
    runs += [Run(_name(root, Path(path)), (), (), [f"cannot be read ({why})"]) for path, why in closed.items()]
    if not any(run.snapshots for run in runs):
        raise ReadError(_nothing(root, sum(map(len, folders.values())), runs))
    return sorted((run for run in runs if run.snapshots or run.problems), key=lambda run: natural(run.name))


def _event_files(root: Path) -> tuple[dict[Path, list[Path]], dict[str, str]]:
    """Folder -> its event files, in the order they were begun; and the folders that cannot be read, and why."""
    closed: dict[str, str] = {}

    def note(error: OSError) -> None:
        closed[str(error.filename)] = error.strerror or type(error).__name__

    found: dict[Path, list[Path]] = {}
    for folder, _, names in os.walk(root, onerror=note):
        # their names begin with the time; what follows is numbered
        for name in sorted((name for name in names if "tfevents" in name), key=natural):
            path = Path(folder, name)
            if path.is_file():
                found.setdefault(Path(folder), []).append(path)
    return found, closed


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which run 10 comes after run 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _name(root: Path, folder: Path) -> str:
    return str(folder.relative_to(root)) if folder != root else folder.resolve().name


def _nothing(root: Path, files: int, runs: Sequence[Run]) -> str:
    problems = [problem for run in runs for problem in run.problems]
    shown = "".join(f"\n  {problem}" for problem in problems[:_SHOWN_PROBLEMS])
    if not files:
        return f"{root} holds no TensorBoard event file{shown}"
    them = "it" if files == 1 else "them"
    what = "no actdiag data that can be read" if problems else "no actdiag data"
    return f"{root} holds {files} event file{'' if files == 1 else 's'}, but {what} in {them}{shown}"


def _read_folder(name: str, folder: Path, paths: Sequence[Path]) -> list[Run]:
    """One run for each monitor that wrote here, as `name (prefix)`; what could not be read is told with the first."""
    problems: list[str] = []
    reader = RunReader()
    for path in paths:
        _read_file(path, reader, problems)
    runs = []
    for prefix, monitor in reader.monitors.items():
        steps = readable(monitor.steps.values(), problems)
        findings = findings_of(steps, problems)
        called = f"{name} ({prefix})" if prefix else name
        runs.append(Run(called, LoggedSnapshots(steps), findings, problems, folder, prefix))
        problems = []
    return runs or [Run(name, (), (), problems, folder)]


def _read_file(path: Path, reader: RunReader, problems: list[str]) -> None:
    try:
        for record in our_records(path, problems):
            try:
                reader.take(record)
            except ValueError as error:
                problems.append(f"{path.name}: {error}")
    except OSError as error:
        problems.append(f"{path.name} cannot be read ({error.strerror or type(error).__name__})")
