"""Keeps everything in lists: for notebooks and tests."""

from __future__ import annotations

from collections.abc import Sequence

from actdiag.diagnose.finding import Change
from actdiag.snapshot import Snapshot


class MemoryWriter:
    """`snapshots` and `changes` in the order they came. Grows with the number of recorded steps."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self.changes: list[Change] = []
        self.closed = False

    def write(self, snapshot: Snapshot, changes: Sequence[Change]) -> None:
        """Keep one recorded step."""
        self.snapshots.append(snapshot)
        self.changes.extend(changes)

    def close(self) -> None:
        """Remember that the run is over."""
        self.closed = True
