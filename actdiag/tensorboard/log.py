"""What the answers are made from, wherever it was read: by TensorBoard, or from a log directory.

Shapes: T recorded steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from actdiag.diagnose.finding import Finding
from actdiag.tensorboard.grid import Grid
from actdiag.tensorboard.metrics import Metric
from actdiag.tensorboard.timeline import Timeline


class Log(Protocol):
    """One monitor of one run. Methods raise Refusal for what is too large to be read."""

    @property
    def run(self) -> str:
        """The run's name."""

    @property
    def monitor(self) -> str:
        """The prefix of the monitor; "" for none."""

    @property
    def version(self) -> str:
        """Changes when there is something new."""

    @property
    def tags(self) -> frozenset[str]:
        """What there is, as tags without the prefix."""

    def timeline(self) -> Timeline:
        """The recorded steps that hold."""

    def grid(self, metric: Metric) -> Grid:
        """A statistic over all recorded steps; only for one whose tag is there."""

    def blobs(self, tag: str) -> Sequence[NDArray[Any] | None]:
        """One packed vector a recorded step, T of them; None where the step has none."""

    def findings(self) -> tuple[Sequence[Finding], Sequence[str]]:
        """All findings in the order they were told, and what could not be read of them."""


class Logs(Protocol):
    """All monitors of all runs."""

    def all(self) -> tuple[Sequence[Log], str | None]:
        """Every monitor that has a schema, and what is wrong with all of them, in plain words."""

    def one(self, run: str, monitor: str) -> Log:
        """Raises Refusal where there is none."""


def name_of(log: Log) -> str:
    """What people call it: the run, or `run (monitor)`."""
    return f"{log.run} ({log.monitor})" if log.monitor else log.run
