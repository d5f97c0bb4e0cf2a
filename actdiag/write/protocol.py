"""What a writer is: two methods. Any object that has them can be given as `writers=[...]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from actdiag.diagnose.finding import Change
from actdiag.snapshot import Snapshot


@runtime_checkable
class Writer(Protocol):
    """Receives every recorded step once, in order, on the training thread."""

    def write(self, snapshot: Snapshot, changes: Sequence[Change]) -> None:
        """Take one recorded step and what it changed among the findings."""

    def close(self) -> None:
        """No more will come. Close what you opened, nothing else."""
