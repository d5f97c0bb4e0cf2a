"""The event file of our own: TensorBoard's reader and TensorBoard's checksum are the judges."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as tensorboards_crc32c
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as tensorboards_masked

from actdiag import TensorBoardWriter
from actdiag.snapshot import Snapshot
from actdiag.write import event_file
from actdiag.write.crc import crc32c, masked_crc32c
from actdiag.write.event_file import EventFile


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def steps(folder: Path) -> list[int]:
    """The steps of the events that TensorBoard reads, without the one that states the version."""
    first, *events = (Event.FromString(raw) for raw in RawEventFileLoader(str(only(folder))).Load())
    assert first.file_version == "brain.Event:2"
    return [event.step for event in events]


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(event_file.time, "monotonic", lambda: self.now)


@given(st.integers(0, 3000), st.integers(0, 2**32 - 1))
def test_the_checksum_is_tensorboards(size: int, seed: int) -> None:
    data = bytes((seed * (i + 1) >> 7) & 0xFF for i in range(size))
    assert crc32c(data) == tensorboards_crc32c(data)
    assert masked_crc32c(data) == tensorboards_masked(data)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 63, 64, 1023, 1024, 1025, 1027, 1088, 2047, 2048, 2052, 5000])
def test_the_checksum_is_right_where_blocks_begin_and_end(size: int) -> None:
    for data in (bytes(size), b"\xff" * size, os.urandom(size)):
        assert crc32c(data) == tensorboards_crc32c(data)


def test_tensorboard_reads_what_was_added(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "new" / "run")
    for step in range(5):
        file.add(Event(step=step))
    file.close()
    file.close()
    assert steps(tmp_path / "new" / "run") == [0, 1, 2, 3, 4]


def test_two_files_of_one_process_and_second_have_names_of_their_own(tmp_path: Path) -> None:
    files = [EventFile(tmp_path) for _ in range(3)]
    for file in files:
        file.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(set(names)) == 3 and all(name.startswith("events.out.tfevents.") for name in names)


def test_events_are_on_the_disk_a_second_after_the_last_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    file = EventFile(tmp_path)
    file.add(Event(step=0))
    assert steps(tmp_path) == []
    clock.now += 1.0
    file.add(Event(step=1))
    assert steps(tmp_path) == [0, 1]
    file.add(Event(step=2))
    file.flush()
    assert steps(tmp_path) == [0, 1, 2]
    file.close()


def test_what_waits_does_not_grow_beyond_a_megabyte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    file = EventFile(tmp_path)
    for step in range(40):
        file.add(Event(step=step, file_version="x" * 60_000))
        assert len(file._waiting) < event_file._MOST_BYTES
    assert os.path.getsize(only(tmp_path)) > event_file._MOST_BYTES
    file.close()


class Full:
    """A disk that takes so many bytes, some at a time, and no more."""

    closed = False

    def __init__(self, room: int, taken: bytearray) -> None:
        self.room, self.taken = room, taken

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = bytes(data)[: min(self.room, 7)]
        self.taken += part
        self.room -= len(part)
        return len(part)

    def close(self) -> None:
        self.closed = True


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_them_all(tmp_path: Path) -> None:
    file, taken = EventFile(tmp_path), bytearray()
    file._file.close()
    file._file = Full(10**6, taken)  # type: ignore[assignment]
    file.add(Event(step=3))
    file.flush()
    assert bytes(taken) == event_file.framed(Event(step=3).SerializeToString())
    file.close()


def test_a_full_disk_is_told_to_whoever_adds_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    file = EventFile(tmp_path)
    file._file.close()
    file._file = Full(10, bytearray())  # type: ignore[assignment]
    clock.now += 2
    with pytest.raises(OSError, match="No space left"):
        file.add(Event(step=0))
    assert not file._waiting
    file.close()
    assert file._file.closed


def _add_in_a_child(file: EventFile) -> None:
    file.add(Event(step=99))
    file.close()


def test_a_forked_process_writes_nothing_into_the_file(tmp_path: Path) -> None:
    """A worker of a DataLoader has a copy of all that waits, and of the file."""
    file = EventFile(tmp_path)
    file.add(Event(step=0))
    child = multiprocessing.get_context("fork").Process(target=_add_in_a_child, args=(file,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert steps(tmp_path) == []
    file.close()
    assert steps(tmp_path) == [0]


def test_a_directory_that_is_not_local_is_left_to_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Remote:
        def __init__(self, log_dir: str, **options: Any) -> None:
            asked.append(log_dir)

        def add_event(self, event: Event) -> None:
            asked.append(f"step {event.step}")

        def flush(self) -> None:
            pass

        close = flush

    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.EventFileWriter", Remote)
    writer = TensorBoardWriter("s3://bucket/run")
    writer.write(Snapshot(step=4), [])
    writer.close()
    assert asked == ["s3://bucket/run", "step 4"]
