"""A report as JSON: everything the log holds, for other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from actdiag.report.run import Run
from actdiag.snapshot import SCHEMA_VERSION
from actdiag.write.plain import strict_json


def render_json(runs: Sequence[Run]) -> str:
    """One JSON object, strict, on one line: version, runs with their last snapshot, steps, findings and problems."""
    return strict_json({"version": SCHEMA_VERSION, "runs": [_run(run) for run in runs]}) + "\n"


def _run(run: Run) -> dict[str, object]:
    return {
        "name": run.name,
        "steps": [snapshot.step for snapshot in run.snapshots],
        "worst": run.worst,
        "findings": [finding.to_dict() for finding in run.findings],
        "last": json.loads(run.snapshots[-1].to_json()) if run.snapshots else None,
        "problems": list(run.problems),
    }
