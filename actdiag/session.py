"""The driver: the one file that knows both sides. Doors tell it where steps begin and end.

    begin_step -> (forward, backward, any number of times) -> before_update -> after_update -> end_step

Everything it does for the user's loop is guarded: it warns once and goes on, it does not raise. The exception
is `raise_on`, which asks for an exception.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from actdiag.collect.collector import Collector
from actdiag.collect.parameters import ParameterWatch
from actdiag.collect.readout import (
    Readout,
    finish_parameter,
    finish_site,
    queue_records,
    queue_site,
    total_norms,
)
from actdiag.collect.roles import settle_roles
from actdiag.collect.schedule import Mode, Schedule
from actdiag.collect.sites import named_models, unwrap
from actdiag.config import ConfigError, Options
from actdiag.diagnose.finding import Change, Finding, at_least
from actdiag.diagnose.judge import RULES, Ledger
from actdiag.snapshot import Snapshot
from actdiag.write.protocol import Writer

logger = logging.getLogger("actdiag")

_KEPT_SNAPSHOTS = 64


class FindingError(RuntimeError):
    """Raised into the loop at a finding of the severity that `raise_on` names. Carries `.finding`."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


class Session:
    """Observes one run: decides, collects, judges, writes."""

    def __init__(self, model: nn.Module | Mapping[str, nn.Module], options: Options, writers: Sequence[Writer]) -> None:
        _check_ignore(options.ignore)
        models = named_models(model)
        self.options = options
        self.writers = list(writers)
        self.collector = Collector(models, options)
        self._parameters = ParameterWatch(
            [(name, unwrap(module)) for name, module in models.items()], self.collector.fail
        )
        self.schedule = Schedule(options)
        self.ledger = Ledger(ignore=options.ignore)
        self.mode: Mode = "off"
        self.latest: Snapshot | None = None
        self.snapshots: list[Snapshot] = []
        self.closed = False
        self.loss_scale: float | None = None
        self.clip_known = True
        self._covered = False
        self._stepped = False

    def guarded(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a piece of work; on an exception switch the session off with one warning. FindingError passes."""
        if self.closed:
            return None
        try:
            return work(*args, **kwargs)
        except FindingError:
            raise
        except Exception as error:
            logger.warning(
                "actdiag: switched off by an internal error (%s: %s); the training goes on",
                type(error).__name__, error, exc_info=error,
            )  # fmt: skip
            self.close()
            return None

    def begin_step(self, step: int) -> None:
        """An optimizer step begins: decide how to observe it, and put the hooks on."""
        self.mode = self.schedule.decide(step)
        if self.mode == "off":
            return
        self.collector.arm(step, recording=self.mode == "record")
        if self.mode == "record":
            self._parameters.watch()

    def restart_step(self) -> None:
        """The step that is being observed was skipped by a loss scaler: what was seen of it does not count."""
        self.collector.restart()
        if self.mode == "record":
            self._parameters.watch()

    def postpone(self, step: int) -> None:
        """What was seen of this step cannot be told from steps skipped before: record the next one instead."""
        self.mode = "off"
        self._parameters.release()
        self.schedule.record_at(step + 1)

    def pause(self) -> None:
        """Validation, or anything that is not training: no hook stays on."""
        self.collector.detach()
        self.schedule.budget.restart()

    def resume(self) -> None:
        """Training goes on in the middle of a step."""
        if self.mode != "off":
            self.collector.attach()

    def before_update(self, optimizers: Sequence[Optimizer], stepping: Optimizer | None) -> None:
        """Gradients are complete; the weights that `stepping` is about to update are still the old ones."""
        if self.mode == "record":
            self._parameters.before_update(
                _ids(optimizers) if optimizers else None, _ids([stepping]) if stepping is not None else set()
            )

    def remember_weights(self) -> None:
        """No optimizer will say when the weights are about to change: keep them from now on."""
        if self.mode == "record":
            self._parameters.remember_weights()

    def gradients_are_final(self) -> None:
        """The gradients just read are unscaled and not yet clipped."""
        self._parameters.keep_as_unclipped()

    def after_update(self, *, closure: bool = False, clipped_later: bool = False) -> None:
        """The weights have been updated. `closure`: inside the step that made the gradients."""
        if self.mode == "record":
            self._parameters.after_update(read_gradients=closure)
            if clipped_later:
                self._parameters.read_clipped()

    def end_step(self, step: int) -> Snapshot | None:
        """The step is over: take the hooks off; on a recorded step read, judge and write."""
        mode, self.mode, self._stepped = self.mode, "off", True
        self.collector.disarm()
        snapshot = None
        if mode == "record":
            snapshot = self._read(step)
            self._parameters.release()
            if self.collector.scope.stack:
                self.collector.scope.clear()
        self.schedule.budget.lap(mode)
        if snapshot is not None:
            self._publish(snapshot)
        return snapshot

    def _read(self, step: int) -> Snapshot:
        sites = self.collector.seen()
        records = self._parameters.records()
        out = Readout()
        for site in sites:
            queue_site(out, site)
        queue_records(out, records)
        fetched = out.fetch()
        scale = self.loss_scale or 1.0
        total, clip = total_norms(records, fetched, loss_scale=scale)
        stats = {s.name: finish_site(s, fetched, step=step, loss_scale=scale) for s in sites}
        self.collector.freeze_names()
        return Snapshot(
            step=step,
            sites=settle_roles(stats),
            parameters={r.name: finish_parameter(r, fetched, loss_scale=scale) for r in records},
            sites_selected=len(self.collector.targets),
            grad_norm_total=total,
            clip_coefficient=clip if self.clip_known else None,
            loss_scale=self.loss_scale,
            overhead_ms=self.schedule.budget.last_ms,
        )

    def _publish(self, snapshot: Snapshot) -> None:
        self._report_coverage(snapshot)
        self.latest = snapshot
        self.snapshots.append(snapshot)
        del self.snapshots[:-_KEPT_SNAPSHOTS]
        changes = self.ledger.judge(snapshot)
        for writer in list(self.writers):
            self._write(writer, snapshot, changes)
        self._tell(changes, snapshot.step)

    def _write(self, writer: Writer, snapshot: Snapshot, changes: list[Change]) -> None:
        try:
            writer.write(snapshot, changes)
        except Exception as error:
            self.writers.remove(writer)
            logger.warning(
                "actdiag: writer %s failed and is switched off (%s)",
                type(writer).__name__,
                error,
                exc_info=error,
            )

    def _tell(self, changes: list[Change], step: int) -> None:
        for change in changes:
            told = change.finding
            if change.kind == "resolved":
                logger.info("actdiag: step %s: resolved: %s", told.resolved_step, told.message)
                continue
            level = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}[told.severity]
            first = f"; try: {told.advice[0]}" if told.advice else ""
            since = f" (since step {told.step})" if told.step != step else ""
            logger.log(level, "actdiag: step %s%s: %s%s", step, since, told, first)
            if self.options.on_finding is not None:
                self._call_back(told)
        if self.options.raise_on is not None:
            for change in changes:
                if change.kind != "resolved" and at_least(change.finding.severity, self.options.raise_on):
                    self.close()
                    raise FindingError(change.finding)

    def _call_back(self, finding: Finding) -> None:
        assert self.options.on_finding is not None
        try:
            self.options.on_finding(finding)
        except Exception as error:
            logger.warning("actdiag: on_finding raised %s; the training goes on", error, exc_info=error)

    def _report_coverage(self, snapshot: Snapshot) -> None:
        """Say once, after the first recorded step, what was not observed and why."""
        if self._covered:
            return
        self._covered = True
        unseen = self.collector.unseen()
        selected = snapshot.sites_selected
        compiled = sum(target.barred is not None for target in self.collector.targets)
        if compiled:
            logger.warning(
                "actdiag: %d of %d sites are inside torch.compile and not observed, only their parameters are; "
                "train uncompiled for a while to see them", compiled, selected,
            )  # fmt: skip
        elif len(unseen) == selected:
            logger.warning(
                "actdiag: 0 of %d sites ran in step %d. Is the model that is trained the one that was given, is it "
                "in training mode, and are its modules called (not their forward(), not a compiled copy)?",
                selected, snapshot.step,
            )  # fmt: skip
        elif unseen:
            shown = "; ".join(f"{name}: {why}" for name, why in list(unseen.items())[:6])
            more = f" and {len(unseen) - 6} more" if len(unseen) > 6 else ""
            logger.info(
                "actdiag: %d of %d sites ran; not observed: %s%s",
                selected - len(unseen),
                selected,
                shown,
                more,
            )

    def close(self) -> None:
        """Take everything off the model and close the writers. Safe to call twice; never raises."""
        if self.closed:
            return
        self.closed = True
        if not self._stepped and self.collector.sites:
            logger.warning(
                "actdiag: the model ran, but no step of the optimizer was seen, so nothing was recorded. Is it the "
                "optimizer that trains this model? Without one, call monitor.step() after each update."
            )
        self.mode = "off"
        self.collector.disarm()
        self._parameters.release()
        for writer in self.writers:
            try:
                writer.close()
            except Exception as error:
                logger.warning("actdiag: closing %s failed (%s)", type(writer).__name__, error)


def _check_ignore(patterns: Sequence[str]) -> None:
    for pattern in patterns:
        rule = pattern.partition(":")[0]
        if rule not in RULES:
            raise ConfigError(f"ignore names no rule {rule!r}; rules are {', '.join(RULES)}")


def _ids(optimizers: Iterable[Optimizer]) -> set[int]:
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
