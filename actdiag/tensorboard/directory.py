"""Logs as `actdiag report` has read them from a directory, for the same answers in a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from actdiag.diagnose.finding import Finding
from actdiag.report.run import Run
from actdiag.report.steps import LoggedSnapshots, LoggedStep
from actdiag.tensorboard.grid import Grid, grid_of
from actdiag.tensorboard.log import Log
from actdiag.tensorboard.metrics import Metric
from actdiag.tensorboard.refusal import NOT_THERE, Refusal
from actdiag.tensorboard.timeline import Timeline, build
from actdiag.write import tags


class DirectoryLogs:
    """All runs of a directory; what could not be read is told."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._logs = [RunLog(run) for run in runs if run.snapshots]
        self._problems = [f"{run.name}: {problem}" for run in runs if not run.snapshots for problem in run.problems]

    def all(self) -> tuple[Sequence[Log], str | None]:
        """Every monitor with a recorded step."""
        return self._logs, "; ".join(self._problems) or None

    def one(self, run: str, monitor: str) -> Log:
        """Raises Refusal where there is none."""
        for log in self._logs:
            if (log.run, log.monitor) == (run, monitor):
                return log
        raise Refusal(NOT_THERE, f"there is no run {run!r:.200} with a monitor {monitor!r:.80}")


class RunLog:
    """One monitor of one run. What was put together once is kept: there is one file to write."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.monitor = run.prefix
        self.run = run.name.removesuffix(f" ({run.prefix})") if run.prefix else run.name
        self._steps: Sequence[LoggedStep] = run.snapshots.logged if isinstance(run.snapshots, LoggedSnapshots) else ()
        self.tags = frozenset({tags.SCHEMA}.union(*(logged.packed for logged in self._steps)))
        self._timeline = build(
            [(logged.step, 0.0) for logged in self._steps], [logged.schema for logged in self._steps]
        )
        self._grids: dict[str, Grid] = {}

    @property
    def version(self) -> str:
        """The same for the same file."""
        return f"{self._steps[-1].step if self._steps else -1}-{len(self._steps)}-{len(self.tags)}"

    def timeline(self) -> Timeline:
        """The reader has resolved what was superseded."""
        return self._timeline

    def grid(self, metric: Metric) -> Grid:
        """A statistic over all recorded steps."""
        if metric.name not in self._grids:
            names = self._timeline.sites if metric.of == "site" else self._timeline.parameters
            self._grids[metric.name] = grid_of(self._timeline, names, self.blobs(metric.tag), metric.metadata)
        return self._grids[metric.name]

    def blobs(self, tag: str) -> Sequence[NDArray[Any] | None]:
        """One packed vector a recorded step."""
        return [logged.packed.get(tag) for logged in self._steps]

    def findings(self) -> tuple[Sequence[Finding], Sequence[str]]:
        """As the report tells them."""
        return self._run.findings, self._run.problems
