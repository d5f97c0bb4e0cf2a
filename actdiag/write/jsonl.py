"""One JSON object a line: every snapshot, and every change of a finding. Readable while it grows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actdiag.diagnose.finding import Change
from actdiag.snapshot import Snapshot
from actdiag.write.plain import strict_json


class JsonlWriter:
    """Appends to a file; its directory is made. Lines: {"snapshot": {...}} and {"change": kind, "finding": {...}}."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, snapshot: Snapshot, changes: Sequence[Change]) -> None:
        """Append one recorded step and flush, so that a reader or a crash finds whole lines."""
        lines = [f'{{"snapshot": {snapshot.to_json()}}}']
        lines += [strict_json({"change": c.kind, "finding": c.finding.to_dict()}) for c in changes]
        self._file.write("\n".join(lines) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
