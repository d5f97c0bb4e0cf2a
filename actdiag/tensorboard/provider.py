"""Logs as TensorBoard has read them, by either of its loaders; what was read is kept in a cache.

A series is read whole, since a data provider has no filter by step, and read again when its last event has changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray
from tensorboard import errors
from tensorboard.data.provider import RunTagFilter

from actdiag.diagnose.finding import Finding
from actdiag.report.episodes import findings_of
from actdiag.report.steps import LoggedStep, changes_of
from actdiag.tensorboard.cache import Cache
from actdiag.tensorboard.grid import Grid, check_size, grid_of, too_large
from actdiag.tensorboard.log import Log
from actdiag.tensorboard.metrics import Metric
from actdiag.tensorboard.refusal import NOT_THERE, UNREADABLE, Refusal
from actdiag.tensorboard.timeline import Key, Timeline, timeline_of
from actdiag.write import tags

Value = TypeVar("Value")
Stamp = tuple[int, float]
"""The largest step and the last wall time of a series."""
Stamps = Mapping[str, Stamp]

_EVERY = (1 << 31) - 1
"""More than any series has: a provider wants to be told how many points of it to give."""
_SCHEMA = re.compile(rf"((?:[A-Za-z0-9_.-]*\.)?){re.escape(tags.SCHEMA)}")
_AT_EVERY_STEP = (tags.STAT + "n", tags.PARAMETER + "state")
"""A recorded step with sites has the first, one without sites may have the second."""
_LARGEST_TEXT = 1 << 24


@dataclass(frozen=True)
class Experiment:
    """A data provider, and what it must be told with every question."""

    provider: Any
    context: Any
    identity: str

    def stamps(self, run: str | None = None) -> dict[str, dict[str, Stamp]]:
        """Run -> tag -> stamp of all of our series, or of those of one run."""
        told = _translated(
            self.provider.list_tensors,
            self.context,
            experiment_id=self.identity,
            plugin_name=tags.PLUGIN,
            run_tag_filter=RunTagFilter(runs=None if run is None else [run]),
        )
        return {
            name: {tag: (int(s.max_step or 0), float(s.max_wall_time or 0.0)) for tag, s in series.items()}
            for name, series in told.items()
        }

    def read(self, run: str, tag: str) -> list[tuple[Key, NDArray[Any]]]:
        """All events of a series in the order of the log. Raises Refusal beyond what the data server can send."""
        told = _translated(
            self.provider.read_tensors,
            self.context,
            experiment_id=self.identity,
            plugin_name=tags.PLUGIN,
            downsample=_EVERY,
            run_tag_filter=RunTagFilter(runs=[run], tags=[tag]),
        )
        data = told.get(run, {}).get(tag, ())
        return [((int(datum.step), float(datum.wall_time)), datum.numpy) for datum in data]


class ProviderLogs:
    """All runs of an experiment."""

    def __init__(self, experiment: Experiment, cache: Cache) -> None:
        self._experiment, self._cache = experiment, cache

    def all(self) -> tuple[Sequence[Log], str | None]:
        """Every monitor that has a schema."""
        found = self._experiment.stamps()
        return [log for run, stamps in found.items() for log in self._monitors(run, stamps)], None

    def one(self, run: str, monitor: str) -> Log:
        """Raises Refusal where there is none."""
        stamps = self._experiment.stamps(run).get(run, {})
        for log in self._monitors(run, stamps):
            if log.monitor == monitor:
                return log
        raise Refusal(NOT_THERE, f"there is no run {run!r:.200} with a monitor {monitor!r:.80}")

    def _monitors(self, run: str, stamps: Stamps) -> list[ProviderLog]:
        fronts = [match[1] for tag in stamps if (match := _SCHEMA.fullmatch(tag)) is not None]
        return [ProviderLog(self._experiment, self._cache, run, front, stamps) for front in sorted(fronts)]


class ProviderLog:
    """One monitor of one run, as it was when it was asked for."""

    def __init__(self, experiment: Experiment, cache: Cache, run: str, front: str, stamps: Stamps) -> None:
        ours = front + tags.PLUGIN + "/"
        self._experiment, self._cache = experiment, cache
        self.run, self.monitor, self._front = run, front[:-1], front
        self._stamps = {tag[len(front) :]: stamp for tag, stamp in stamps.items() if tag.startswith(ours)}
        self.tags = frozenset(self._stamps)
        self._timeline: Timeline | None = None

    @property
    def version(self) -> str:
        """Largest step, last wall time and number of series."""
        step = max(step for step, _ in self._stamps.values())
        wall = max(wall for _, wall in self._stamps.values())
        return f"{step}-{wall!r}-{len(self._stamps)}"

    def timeline(self) -> Timeline:
        """From the series that has an event at every recorded step; always the same one."""
        if self._timeline is None:
            stamp = tuple(self._stamps.get(tag) for tag in (*_AT_EVERY_STEP, tags.SCHEMA))
            self._timeline = self._kept("timeline", stamp, self._read_timeline, lambda timeline: timeline.nbytes)
        return self._timeline

    def grid(self, metric: Metric) -> Grid:
        """A statistic over all recorded steps."""
        return self._kept(
            metric.tag, self._stamp(metric.tag), lambda: self._read_grid(metric), lambda grid: grid.nbytes
        )

    def blobs(self, tag: str) -> Sequence[NDArray[Any] | None]:
        """One packed vector a recorded step."""
        return self._kept(tag, self._stamp(tag), lambda: self._aligned(tag, self.timeline()), _bytes_of)

    def findings(self) -> tuple[Sequence[Finding], Sequence[str]]:
        """From the changes of findings at the steps that hold."""
        return self._kept(
            "findings", self._stamp(tags.FINDINGS), self._read_findings, lambda found: 2000 * len(found[0])
        )

    def _kept(self, what: str, stamp: Any, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        return self._cache.get((self._experiment.identity, self.run, self._front, what), stamp, make, size)

    def _stamp(self, tag: str) -> Hashable:
        """What is aligned with a timeline is good for that timeline only: a live log grows between two questions."""
        return self.timeline().mark, self._stamps.get(tag)

    def _read_timeline(self) -> Timeline:
        tag = next((tag for tag in _AT_EVERY_STEP if tag in self._stamps), None)
        keys = [] if tag is None else [key for key, _ in self._read(tag)]
        return timeline_of(keys, [(key, _text(array)) for key, array in self._read(tags.SCHEMA)])

    def _read_grid(self, metric: Metric) -> Grid:
        timeline = self.timeline()
        names = timeline.sites if metric.of == "site" else timeline.parameters
        check_size(timeline, names)
        return grid_of(timeline, names, self._aligned(metric.tag, timeline), metric.metadata)

    def _read_findings(self) -> tuple[Sequence[Finding], Sequence[str]]:
        timeline, problems = self.timeline(), list[str]()
        texts = self._aligned(tags.FINDINGS, timeline) if tags.FINDINGS in self._stamps else ()
        steps = [
            LoggedStep(step, timeline.schemas[schema] if schema >= 0 else None)
            for step, schema in zip(timeline.steps_T.tolist(), timeline.schema_T.tolist(), strict=True)
        ]
        for logged, text in zip(steps, texts, strict=False):
            logged.changes = [] if text is None else changes_of(_text(text))
        return findings_of(steps, problems), problems

    def _aligned(self, tag: str, timeline: Timeline) -> list[NDArray[Any] | None]:
        """One vector a step that holds; events that were superseded are left out."""
        found: list[NDArray[Any] | None] = [None] * len(timeline.steps_T)
        for key, array in self._read(tag):
            place = timeline.places.get(key)
            if place is not None:
                found[place] = array
        return found

    def _read(self, tag: str) -> list[tuple[Key, NDArray[Any]]]:
        return self._experiment.read(self.run, self._front + tag)


def _bytes_of(blobs: Sequence[NDArray[Any] | None]) -> int:
    return sum(100 + blob.nbytes for blob in blobs if blob is not None) + 8 * len(blobs)


def _text(array: NDArray[Any]) -> str:
    """The text of a string tensor; "" for what is none, or larger than any of ours."""
    value = array.reshape(-1)[0] if array.size else b""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) and len(value) <= _LARGEST_TEXT else ""


def _translated(ask: Callable[..., Any], *args: Any, **words: Any) -> Any:
    """What a provider answers; its errors as refusals."""
    try:
        return ask(*args, **words)
    except errors.NotFoundError as error:
        raise Refusal(NOT_THERE, str(error)) from None
    except Exception as error:
        # the data server's errors are those of grpc, which is not always installed
        code = getattr(error, "code", None)
        name = getattr(code(), "name", "") if callable(code) else ""
        if name == "RESOURCE_EXHAUSTED":
            raise too_large("TensorBoard's data server cannot send it") from None
        raise Refusal(UNREADABLE, f"TensorBoard could not read its data ({name or type(error).__name__})") from error
