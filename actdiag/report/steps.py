"""Records of event files -> recorded steps of a run, the resumed ones in place of those they supersede."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event

from actdiag.snapshot import Snapshot
from actdiag.write import tags
from actdiag.write.pack import Schema, parse_schema, unpack

_DTYPES = {1: np.float32, 3: np.int32, 4: np.uint8, 5: np.int16, 9: np.int64}
"""TensorFlow's enumeration: DT_FLOAT, DT_INT32, DT_UINT8, DT_INT16, DT_INT64."""

_OURS = re.compile(rf"((?:[A-Za-z0-9_.-]*\.)?){tags.PLUGIN}[/_]")
_ALWAYS = tags.STEP + "findings_open"
"""Every recorded step has it; an event without it is somebody else's, whatever its tags."""


@dataclass
class LoggedStep:
    """What an event says of one step. Its vectors stay packed: a long run's snapshots would fill the memory."""

    step: int
    schema: Schema | None
    problem: str = ""
    packed: dict[str, NDArray[Any]] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    changes: list[Any] = field(default_factory=list)

    def snapshot(self) -> Snapshot:
        """The snapshot, unpacked. Raises ValueError for vectors that do not fit the schema."""
        if self.schema is None:
            raise ValueError(self.problem)
        return unpack(self.schema, self.packed, self.scalars, self.step)

    @property
    def session(self) -> str:
        """Which writer it came from."""
        return self.schema.session if self.schema else ""


class LoggedSnapshots(Sequence[Snapshot]):
    """Snapshots that are unpacked when they are looked at."""

    def __init__(self, steps: Sequence[LoggedStep]) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def steps(self) -> list[int]:
        """The number of each, without unpacking it."""
        return [logged.step for logged in self._steps]

    @property
    def logged(self) -> Sequence[LoggedStep]:
        """What the events say, still packed."""
        return self._steps

    @overload
    def __getitem__(self, index: int) -> Snapshot: ...
    @overload
    def __getitem__(self, index: slice) -> LoggedSnapshots: ...
    def __getitem__(self, index: int | slice) -> Snapshot | LoggedSnapshots:
        if isinstance(index, slice):
            return LoggedSnapshots(self._steps[index])
        return self._steps[index].snapshot()

    def __repr__(self) -> str:
        return f"<{len(self)} snapshots of a log>"


class RunReader:
    """Takes events one after the other; each monitor of the run has a reader of its own, by prefix."""

    def __init__(self) -> None:
        self.monitors: dict[str, StepReader] = {}

    def take(self, record: bytes) -> None:
        """Add a record. Raises ValueError for one that is no event; an event of somebody else's is passed over."""
        try:
            event = Event.FromString(record)
        except Exception:  # protobuf's own kinds differ between its versions
            raise ValueError("a record is no event") from None
        found = next((ours for value in event.summary.value if (ours := _OURS.match(value.tag)) is not None), None)
        if found is None:
            return
        front = found[1]  # an event is of one monitor
        named = {v.tag[len(front) :]: v for v in event.summary.value if v.tag.startswith(front + tags.PLUGIN)}
        self.monitors.setdefault(front[:-1], StepReader()).take(event.step, named)


class StepReader:
    """The events of one monitor; `steps` are those that hold, by number and in order."""

    def __init__(self) -> None:
        self.steps: dict[int, LoggedStep] = {}
        self._schema: Schema | None = None
        self._problem = "the schema is missing"

    def take(self, step: int, values: Mapping[str, Any]) -> None:
        """Add what an event says of a step, as tag without a prefix -> value; somebody else's is passed over."""
        if _ALWAYS not in values:
            return
        if tags.SCHEMA in values:
            self._describe(_text(values[tags.SCHEMA]))
        self._supersede(step)
        self.steps[step] = logged = LoggedStep(step, self._schema, self._problem)
        for tag, value in values.items():
            _add(logged, tag, value)

    def _describe(self, text: str) -> None:
        """A schema holds until the next, one that cannot be read as well."""
        self._schema, self._problem = None, ""
        try:
            self._schema = parse_schema(text)
        except ValueError as error:
            self._problem = str(error)

    def _supersede(self, step: int) -> None:
        """A run that was resumed at an earlier step takes the place of what was there from that step on."""
        for later in reversed(list(self.steps)):
            if later < step:
                return
            del self.steps[later]


def _text(value: Any) -> str:
    return "".join(text.decode("utf-8", "replace") for text in value.tensor.string_val[:1])


def _add(logged: LoggedStep, tag: str, value: Any) -> None:
    if value.HasField("simple_value"):
        logged.scalars[tag.removeprefix(tags.STEP)] = float(value.simple_value)
    elif tag == tags.FINDINGS:
        logged.changes = changes_of(_text(value))
    elif tag.startswith(tags.STEP) and value.tensor.dtype in _DTYPES:
        logged.packed[tag] = _array(value.tensor.tensor_content, np.dtype(_DTYPES[value.tensor.dtype]))


def changes_of(text: str) -> list[Any]:
    """The changes of findings that an event tells; [None] for text that is none."""
    try:
        changes = json.loads(text)
    except (ValueError, RecursionError):
        return [None]  # one change that is damaged
    return changes if isinstance(changes, list) else [None]


def _array(content: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.frombuffer(content if len(content) % dtype.itemsize == 0 else b"", dtype=dtype)


def readable(steps: Iterable[LoggedStep], problems: list[str]) -> list[LoggedStep]:
    """The steps whose vectors fit their schema; of the others, one note a reason."""
    good: list[LoggedStep] = []
    bad: dict[str, list[int]] = {}
    for logged in steps:
        try:
            logged.snapshot()
            good.append(logged)
        except Exception as error:  # a log may hold anything
            bad.setdefault(f"{error}" if isinstance(error, ValueError) else repr(error), []).append(logged.step)
    problems += _notes(bad)
    return good


def _notes(reasons: Mapping[str, Sequence[int]]) -> list[str]:
    notes = []
    for reason, numbers in reasons.items():
        many = f"steps {numbers[0]} to {numbers[-1]} ({len(numbers)} of them)"
        notes.append(f"{many if len(numbers) > 1 else f'step {numbers[0]}'}: {reason}")
    return notes
