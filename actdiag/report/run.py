"""One run as the report sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actdiag.diagnose.finding import SEVERITIES, Finding
from actdiag.snapshot import SiteStats, Snapshot
from actdiag.write.stock import layers_of


@dataclass(frozen=True)
class Run:
    """Snapshots in order of steps and the findings of a run; `problems` say what could not be read.

    `folder` and `prefix` say where it was read, and of which monitor; a run that was not read has no folder.
    """

    name: str
    snapshots: Sequence[Snapshot]
    findings: Sequence[Finding]
    problems: Sequence[str] = field(default_factory=tuple)
    folder: Path | None = None
    prefix: str = ""

    @property
    def steps(self) -> list[int]:
        """The number of each recorded step; the snapshots of a log know it without being unpacked."""
        known: list[int] | None = getattr(self.snapshots, "steps", None)
        return [snapshot.step for snapshot in self.snapshots] if known is None else known

    @property
    def open_findings(self) -> list[Finding]:
        """Findings that are not resolved."""
        return [finding for finding in self.findings if finding.resolved_step is None]

    @property
    def worst(self) -> str | None:
        """The highest severity among the open findings; None without any."""
        severities = [finding.severity for finding in self.open_findings]
        return max(severities, key=SEVERITIES.index) if severities else None


def worst_first(run: Run) -> list[tuple[str, SiteStats]]:
    """The sites of the last snapshot: those with open findings first, by severity, the others in order."""
    if not run.snapshots:
        return []
    weight: dict[str, int] = {}
    for finding in run.open_findings:
        weight[finding.layer] = max(weight.get(finding.layer, 0), 1 + SEVERITIES.index(finding.severity))
    sites = run.snapshots[-1].sites.items()
    return sorted(sites, key=lambda item: (-max(weight.get(n, 0) for n in layers_of(item[0])), item[1].order))
