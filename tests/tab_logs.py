"""Event files for the tests of the tab: written fast, with wall times and resumes of one's own choice."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from actdiag.diagnose.finding import Change
from actdiag.snapshot import Snapshot
from actdiag.write.event_file import framed
from actdiag.write.tensorboard import TensorBoardWriter


class Events:
    """Takes what a TensorBoardWriter writes into a SummaryWriter, as events with a clock of the test's."""

    def __init__(self, start: float = 1000.0, *, detail: str = "summary", prefix: str = "") -> None:
        self.events: list[Event] = []
        self.clock = start
        self.writer = TensorBoardWriter.into(self, detail=detail, prefix=prefix)

    def _get_file_writer(self) -> Events:
        return self

    def flush(self) -> None:
        """Nothing to do."""

    def add_summary(self, summary: Summary, step: int) -> None:
        self.events.append(Event(wall_time=self.clock, step=step, summary=summary))
        self.clock += 1.0

    def write(self, snapshots: Iterable[Snapshot], changes: dict[int, list[Change]] | None = None) -> Events:
        for snapshot in snapshots:
            self.writer.write(snapshot, (changes or {}).get(snapshot.step, []))
        return self


def save(folder: Path, *parts: Sequence[Event]) -> Path:
    """One event file a part, in the order in which TensorBoard reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, events in enumerate(parts):
        with (folder / f"events.out.tfevents.{1_700_000_000 + i:010d}.host").open("wb") as file:
            file.writelines(records([Event(wall_time=1.0, file_version="brain.Event:2"), *events]))
    return folder


def records(events: Sequence[Event]) -> Iterator[bytes]:
    """As event files have them."""
    return (framed(event.SerializeToString()) for event in events)


def decode_frame(data: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Header and arrays of a frame, by the letter of the contract."""
    import json

    (length,) = struct.unpack("<I", data[:4])
    assert (4 + length) % 8 == 0
    header = json.loads(data[4 : 4 + length])
    arrays, end = {}, 0
    for spec in header["arrays"]:
        assert spec["offset"] % 8 == 0 and spec["offset"] == end
        size = int(np.prod(spec["shape"], dtype=np.int64)) * np.dtype(spec["dtype"]).itemsize
        start = 4 + length + spec["offset"]
        arrays[spec["name"]] = np.frombuffer(data[start : start + size], f"<{spec['dtype']}").reshape(spec["shape"])
        end = spec["offset"] + size + -size % 8
    assert 4 + length + end == len(data)
    return header, arrays
