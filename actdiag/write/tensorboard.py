"""TensorBoard: one event a recorded step, into a directory of our own or into the caller's writer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_TENSOR,
    HistogramProto,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_INT16, DT_INT32, DT_INT64, DT_STRING, DT_UINT8

from actdiag.diagnose.finding import Change
from actdiag.snapshot import Histogram, SiteStats, Snapshot
from actdiag.write import tags
from actdiag.write.event_file import EventFile
from actdiag.write.layout import add_layout
from actdiag.write.markdown import findings_markdown
from actdiag.write.pack import Outline, outline_of, pack, schema_of
from actdiag.write.plain import plain, strict_json
from actdiag.write.stock import Curves

_DTYPES = {
    np.dtype(np.float32): DT_FLOAT,
    np.dtype(np.int16): DT_INT16,
    np.dtype(np.int32): DT_INT32,
    np.dtype(np.int64): DT_INT64,
    np.dtype(np.uint8): DT_UINT8,
}
_STOCK_HISTOGRAM_EVERY = 10
_FINDINGS_IN_REPORT = 20
_FLUSH_SECONDS = 20


class TensorBoardWriter:
    """Writes to TensorBoard.

    `TensorBoardWriter(log_dir)` opens an event file and closes it; `TensorBoardWriter.into(writer)` adds to a
    SummaryWriter that stays the caller's: it is flushed and never closed. `prefix` keeps the tags of several monitors
    in one run apart.
    """

    def __init__(self, log_dir: str | Path, *, detail: str = "summary", prefix: str = "") -> None:
        self._begin(*_opened(log_dir), detail)
        self._front = tags.front(prefix)
        self._own = True

    @classmethod
    def into(cls, writer: Any, *, detail: str = "summary", prefix: str = "") -> TensorBoardWriter:
        """Add to a caller's SummaryWriter. Raises TypeError, with the remedy, for a writer of another make."""
        refuse_foreign(writer)
        own_kind = _kind_of(writer)

        def send(summary: Summary, step: int) -> None:
            writer._get_file_writer().add_summary(own_kind(summary), step)

        self = cls.__new__(cls)
        self._begin(send, writer.flush, writer.flush, detail)
        self._front = tags.front(prefix)
        self._own = False  # a run has one layout: that of a caller's writer is the caller's
        return self

    def _begin(
        self,
        send: Callable[[Summary, int], None],
        flush: Callable[[], object],
        close: Callable[[], object],
        detail: str,
    ) -> None:
        self._send, self._flush, self._close = send, flush, close
        self.closed = False
        self._curves = Curves(detail)
        self._session = secrets.token_hex(4)
        self._outline: Outline | None = None
        self._described: set[str] = set()
        self._written = 0

    def write(self, snapshot: Snapshot, changes: Sequence[Change]) -> None:
        """Write one recorded step as one event; flush when a finding is new."""
        self._curves.note(changes)
        summary = Summary()
        for tag, number in self._curves.scalars(snapshot).items():
            scalar = summary.value.add()  # fields set one by one take a third of the time that keywords take
            scalar.tag, scalar.simple_value = tag, number
        self._add_packed(summary, snapshot)
        if self._written % _STOCK_HISTOGRAM_EVERY == 0:
            for name in self._curves.layers.histograms(snapshot):
                _add_histograms(summary, name, snapshot.sites[name])
        if changes or not self._written:
            self._add_findings(summary, changes)
        for value in summary.value if self._front else ():
            value.tag = self._front + value.tag
        if self._own and not self._written:
            add_layout(summary, self._front)
        self._send(summary, snapshot.step)
        self._written += 1
        if any(change.kind != "resolved" for change in changes):
            self._flush()

    def flush(self) -> None:
        """Give what waits to the operating system; else that is done about once a second, and with a new finding."""
        self._flush()

    def close(self) -> None:
        """Flush; close the file if it was opened here."""
        self.closed = True
        self._close()

    def _add_packed(self, summary: Summary, snapshot: Snapshot) -> None:
        outline = outline_of(snapshot)
        if outline != self._outline:
            self._outline = outline
            self._add_text(summary, tags.SCHEMA, schema_of(snapshot, self._session), plugin=tags.PLUGIN)
        for tag, array in pack(snapshot).items():
            value = summary.value.add()
            value.tag, metadata = tag, self._metadata(tag, tags.PLUGIN)
            if metadata is not None:
                value.metadata.CopyFrom(metadata)
            tensor = value.tensor
            tensor.dtype = _DTYPES[array.dtype]
            tensor.tensor_shape.dim.add().size = array.size
            tensor.tensor_content = array.tobytes()

    def _add_findings(self, summary: Summary, changes: Sequence[Change]) -> None:
        if changes:
            told = strict_json([{"change": c.kind, "finding": c.finding.to_dict()} for c in changes])
            self._add_text(summary, tags.FINDINGS, told, plugin=tags.PLUGIN)
        text = findings_markdown(list(self._curves.open.values()), most=_FINDINGS_IN_REPORT)
        self._add_text(summary, tags.REPORT, text, plugin="text")

    def _add_text(self, summary: Summary, tag: str, text: str, *, plugin: str) -> None:
        tensor = TensorProto(dtype=DT_STRING, tensor_shape=_shape((1,)), string_val=[text.encode()])
        summary.value.add(tag=tag, tensor=tensor, metadata=self._metadata(tag, plugin))

    def _metadata(self, tag: str, plugin: str) -> SummaryMetadata | None:
        """Needed on a tag's first event only."""
        if tag in self._described:
            return None
        self._described.add(tag)
        return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=plugin), data_class=DATA_CLASS_TENSOR)


def refuse_foreign(writer: Any) -> None:
    """Raise TypeError for an object that cannot take our events, saying what can."""
    if not callable(getattr(writer, "_get_file_writer", None)) or not callable(getattr(writer, "flush", None)):
        raise TypeError(
            f"{type(writer).__name__} has not the interface of torch.utils.tensorboard.SummaryWriter: "
            "_get_file_writer() and flush()"
        )


def _kind_of(writer: Any) -> Callable[[Summary], Any]:
    """What makes of our Summary the writer's own: tensorboardX has classes of its own for the same bytes."""
    if type(writer).__module__.partition(".")[0] != "tensorboardX":
        return lambda summary: summary
    theirs = import_module("tensorboardX.proto.summary_pb2").Summary
    return lambda summary: theirs.FromString(summary.SerializeToString())


def _opened(log_dir: str | Path) -> tuple[Callable[[Summary, int], None], Callable[[], None], Callable[[], None]]:
    """How to send, flush and close: a file of our own on a local disk, TensorBoard's writer where it has to ask."""
    add: Callable[[Event], None]
    if "://" in str(log_dir):
        # 0.2 s of imports that nobody else needs
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        remote = EventFileWriter(str(log_dir), flush_secs=_FLUSH_SECONDS)
        add, flush, close = remote.add_event, remote.flush, remote.close
    else:
        own = EventFile(log_dir)
        add, flush, close = own.add, own.flush, own.close
    return lambda summary, step: add(Event(wall_time=time.time(), step=step, summary=summary)), flush, close


def _shape(shape: Sequence[int]) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in shape])


def _add_histograms(summary: Summary, name: str, site: SiteStats) -> None:
    if site.histogram is not None:
        proto = histogram_proto(site.histogram, site.low, site.high)
        summary.value.add(tag=f"actdiag_histogram_activation/{plain(name)}", histo=proto)
    if site.grad_histogram is not None:
        proto = histogram_proto(site.grad_histogram)
        summary.value.add(tag=f"actdiag_histogram_gradient/{plain(name)}", histo=proto)


def histogram_proto(histogram: Histogram, low: float | None = None, high: float | None = None) -> HistogramProto:
    """TensorBoard's histogram of our octaves, from the first used to the last; empty runs in between are joined.

    A reader takes the first bucket to begin at `min` and the last to end at `max`: `low` and `high`, the extremes
    of the values counted, narrow those two.
    """
    edges, counts = histogram.edges(), histogram.counts
    used = [i for i, count in enumerate(counts) if count] or [len(counts) // 2]
    first, last = used[0], used[-1]
    limits: list[float] = []
    kept: list[int] = []
    for i in range(first, last + 1):
        if kept and kept[-1] == counts[i] == 0:
            limits[-1] = edges[i + 1]
        else:
            limits.append(edges[i + 1])
            kept.append(counts[i])
    centers = [(a + b) / 2 for a, b in pairwise(edges)]
    return HistogramProto(
        min=edges[first] if low is None else min(max(low, edges[first]), edges[first + 1]),
        max=edges[last + 1] if high is None else max(min(high, edges[last + 1]), edges[last]),
        num=histogram.n,
        sum=sum(c * n for c, n in zip(centers, counts, strict=True)),
        sum_squares=sum(c * c * n for c, n in zip(centers, counts, strict=True)),
        bucket_limit=limits,
        bucket=kept,
    )


def tensorboard_like(writer: Any) -> bool:
    """Whether an object looks like a SummaryWriter of torch's make."""
    return callable(getattr(writer, "add_scalar", None)) and callable(getattr(writer, "_get_file_writer", None))
