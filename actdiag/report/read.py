"""Event files -> runs. Reads without torch, tolerates what is damaged, and says what it could not read.

Everything in a log is untrusted: a record that does not fit is skipped with a note, sizes are bounded, names are
text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actdiag.diagnose.finding import Finding
from actdiag.report.run import Run
from actdiag.snapshot import Snapshot
from actdiag.write import tags
from actdiag.write.pack import unpack

_DTYPES = {1: np.float32, 4: np.uint8, 9: np.int64}
"""TensorFlow's enumeration: DT_FLOAT, DT_UINT8, DT_INT64."""


class ReadError(Exception):
    """There is nothing here to report on; the message says why and what to do."""


@dataclass
class _Step:
    """What the event files say of one step of one run."""

    wall_time: float
    packed: dict[str, NDArray[Any]] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    schema: str = ""
    changes: list[dict[str, Any]] = field(default_factory=list)


def read_runs(log_dir: str | Path) -> list[Run]:
    """Every run with actdiag data at or below a directory, by name.

    Raises ReadError for a path that is no directory, holds no event files, or only files without actdiag data.
    """
    root = Path(log_dir)
    if not root.exists():
        raise ReadError(f"{root} does not exist")
    if not root.is_dir():
        raise ReadError(f"{root} is a file; give the directory that holds it: {root.parent}")
    files: dict[Path, list[Path]] = {}
    for path in sorted(root.rglob("*tfevents*")):
        if path.is_file():
            files.setdefault(path.parent, []).append(path)
    if not files:
        raise ReadError(f"{root} holds no TensorBoard event file")
    runs = [run for folder, paths in files.items() if (run := _read_run(root, folder, paths)) is not None]
    found = [run for run in runs if run.snapshots]
    if not found:
        problems = [problem for run in runs for problem in run.problems]
        raise ReadError(_nothing(root, sum(map(len, files.values())), problems))
    return found


def _nothing(root: Path, files: int, problems: list[str]) -> str:
    text = f"{root} holds {files} event file{'s' if files > 1 else ''}, but no actdiag data in them"
    return text + "".join(f"\n  {problem}" for problem in problems[:5])


def _read_run(root: Path, folder: Path, paths: list[Path]) -> Run:
    name = str(folder.relative_to(root)) if folder != root else folder.resolve().name
    problems: list[str] = []
    steps: dict[int, _Step] = {}
    schema = ""
    for path in paths:
        own: dict[int, _Step] = {}
        for event in _events(path, problems):
            schema = _take(event, own, schema, problems, path)
        if own:  # a run resumed at an earlier step takes the place of what was there from that step on
            first = min(own)
            steps = {step: value for step, value in steps.items() if step < first} | own
    snapshots, findings = _assemble(steps, problems)
    return Run(name, snapshots, findings, problems)


def _events(path: Path, problems: list[str]) -> Iterator[Any]:
    """The events of a file up to its end or the first damaged record."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub import errors
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    reader = PyRecordReader_New(str(path))
    seen = 0
    while True:
        try:
            reader.GetNext()
            yield Event.FromString(reader.record())
            seen += 1
        except errors.OutOfRangeError:
            return
        except (errors.DataLossError, ValueError) as error:
            what = "is still being written or was cut off" if "truncated" in str(error) else "is damaged"
            problems.append(f"{path.name} {what} after {seen} records; the rest was not read")
            return
        except Exception as error:
            problems.append(f"{path.name} is no event file ({type(error).__name__}) after {seen} records")
            return


def _take(event: Any, steps: dict[int, _Step], schema: str, problems: list[str], path: Path) -> str:
    """Add what an event says of its step; the schema that holds from here on."""
    ours = [v for v in event.summary.value if v.tag.startswith("actdiag/")]
    if not ours:
        return schema
    step = _Step(event.wall_time)
    for value in ours:
        try:
            schema = _take_value(value, step, schema)
        except (ValueError, KeyError) as error:
            problems.append(f"{path.name}: {value.tag} at step {event.step} does not fit ({error})")
    step.schema = schema
    held = steps.get(event.step)
    if held is None or held.wall_time <= event.wall_time:
        steps[event.step] = step
    return schema


def _take_value(value: Any, step: _Step, schema: str) -> str:
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        step.scalars[value.tag.removeprefix(tags.STEP)] = float(value.simple_value)
    elif kind == "tensor" and value.tag == tags.SCHEMA:
        return str(value.tensor.string_val[0].decode())
    elif kind == "tensor" and value.tag == tags.FINDINGS:
        step.changes += json.loads(value.tensor.string_val[0].decode())
    elif kind == "tensor" and value.tensor.dtype in _DTYPES:
        step.packed[value.tag] = np.frombuffer(value.tensor.tensor_content, dtype=_DTYPES[value.tensor.dtype])
    return schema


def _assemble(steps: dict[int, _Step], problems: list[str]) -> tuple[list[Snapshot], list[Finding]]:
    snapshots: list[Snapshot] = []
    findings: dict[tuple[str, str, int], Finding] = {}
    for number, step in sorted(steps.items()):
        try:
            if step.schema:
                snapshots.append(unpack(json.loads(step.schema), step.packed, step.scalars, number))
            for change in step.changes:
                finding = Finding.from_dict(change["finding"])
                findings[finding.rule, finding.layer, finding.step] = finding
        except Exception as error:  # a log may hold anything
            problems.append(f"step {number} does not fit its schema ({type(error).__name__}: {error})")
    return snapshots, list(findings.values())
