"""Where snapshots and findings leave a session: writers, the log, `on_finding`, and `raise_on`.

A writer or a callback that fails costs one warning and not the training.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from actdiag.config import Options
from actdiag.diagnose.finding import Change, Finding, at_least
from actdiag.snapshot import Snapshot
from actdiag.write.plain import plain
from actdiag.write.protocol import Writer
from actdiag.write.scalars import ScalarWriter

logger = logging.getLogger("actdiag")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class FindingError(RuntimeError):
    """Raised into the loop at a finding of the severity that `raise_on` names. Carries `.finding`."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


class Outlet:
    """Hands on what a recorded step has brought. `name` is how the log calls the monitor.

    `should_stop`: a finding of the severity `stop_on` was told. `speaks`: this process logs findings; of several that
    have come to the same verdicts, only one does.
    """

    def __init__(self, options: Options, writers: Sequence[Writer], *, speaks: bool = True) -> None:
        self._options = options
        self._speaks = speaks
        self._writers = list(writers)
        self.should_stop = False
        self._carried: list[Change] = []
        self.name = f"actdiag {options.prefix}" if options.prefix else "actdiag"

    def carry(self, findings: Sequence[Finding]) -> None:
        """Findings that were told before a resume and are not over: writers learn of them with the next snapshot."""
        self._carried = [Change("open", finding) for finding in findings]

    def publish(self, snapshot: Snapshot, changes: list[Change]) -> None:
        """Write, log and call back; first of all to the writers, so that what is told is on the disk."""
        carried, self._carried = self._carried, []
        for writer in list(self._writers):
            self._write(writer, snapshot, carried + changes)
        for change in changes:
            self._tell(change, snapshot.step)
        self._ask_to_stop(changes)

    def reached(self, changes: Sequence[Change], floor: str | None) -> Finding | None:
        """The first new or worse finding of at least this severity; None for no severity."""
        found = (c.finding for c in changes if c.kind != "resolved")
        return None if floor is None else next((f for f in found if at_least(f.severity, floor)), None)

    def _ask_to_stop(self, changes: Sequence[Change]) -> None:
        found = self.reached(changes, self._options.stop_on)
        if found is None or self.should_stop:
            return
        self.should_stop = True
        if self._speaks:
            logger.warning("%s: stop_on: asking the training to stop: %s", self.name, plain(str(found)))

    def _write(self, writer: Writer, snapshot: Snapshot, changes: list[Change]) -> None:
        try:
            writer.write(snapshot, changes)
        except Exception as error:
            self._writers.remove(writer)
            logger.warning(
                "actdiag: writer %s failed and is switched off (%s)", _name_of(writer), error, exc_info=error
            )

    def _tell(self, change: Change, step: int) -> None:
        told = change.finding
        if self._speaks:
            self._log(change, step)
        if change.kind != "resolved" and self._options.on_finding is not None:
            self._call_back(told)

    def _log(self, change: Change, step: int) -> None:
        told = change.finding
        if change.kind == "resolved":
            logger.info("%s: step %s: resolved: %s", self.name, told.resolved_step, plain(told.message))
            return
        first = f"; try: {told.advice[0]}" if told.advice else ""
        since = f" (since step {told.step})" if told.step != step else ""
        logger.log(_LEVELS[told.severity], "%s: step %s%s: %s%s", self.name, step, since, plain(str(told)), first)

    def _call_back(self, finding: Finding) -> None:
        assert self._options.on_finding is not None
        try:
            self._options.on_finding(finding)
        except Exception as error:
            logger.warning("actdiag: on_finding raised %s; the training goes on", error, exc_info=error)

    def close(self) -> None:
        """Close the writers."""
        for writer in self._writers:
            try:
                writer.close()
            except Exception as error:
                logger.warning("actdiag: closing %s failed (%s)", _name_of(writer), error)


def _name_of(writer: Writer) -> str:
    """A writer by its class; one of metrics by the logger that it hands them to."""
    return writer.name if isinstance(writer, ScalarWriter) else type(writer).__name__
