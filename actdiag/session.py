"""The driver: the one file that knows both sides. Doors tell it where steps begin and end.

    begin_step -> (forward, backward, any number of times) -> before_update -> after_update -> end_step

Everything it does for the user's loop is guarded: it warns once and goes on, it does not raise. The exception
is `raise_on`, which asks for an exception.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from actdiag.claims import MODELS
from actdiag.collect.budget import Mode
from actdiag.collect.collector import Collector
from actdiag.collect.glance import Glance
from actdiag.collect.parameters import ParameterWatch, ids_of
from actdiag.collect.ranks import Ranks
from actdiag.collect.recorder import Now, Recorder
from actdiag.collect.scaler import ScaleWatch
from actdiag.collect.schedule import Schedule
from actdiag.collect.sites import named_models, unwrap
from actdiag.config import Options
from actdiag.coverage import Coverage
from actdiag.diagnose.judge import Ledger
from actdiag.outlet import FindingError, Outlet
from actdiag.snapshot import Snapshot
from actdiag.state import restore, save, terms_of

logger = logging.getLogger("actdiag")

__all__ = ["FindingError", "Session"]

_KEPT_SNAPSHOTS = 64
_REPLACED = "actdiag: a new monitor observes this model; the earlier one is closed (another prefix would keep both)"


class Session:
    """Observes one run: decides, collects, judges, writes."""

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        options: Options,
        *,
        owner: object | None = None,
        guest: bool = False,
    ) -> None:
        """`owner`: whose sessions observe one model side by side. `guest`: logs nothing, and takes nobody's place."""
        terms = terms_of(options)
        models = named_models(model)
        self.options = options
        self.ranks = Ranks(options, models.values())
        self.outlet = Outlet(options, (), speaks=self.ranks.leads and not guest)
        self.collector = Collector(models, options)
        self._parameters = ParameterWatch(
            [(name, unwrap(module)) for name, module in models.items()],
            self.collector.fail,
            several=self.ranks.several,
            reducer=self.collector.reducer,
        )
        if self.ranks.several:
            self.collector.on_gradient = self._parameters.saw_gradient
        self.ranks.look_at(models.values(), self.collector.shared_by)
        self.schedule = Schedule(options)
        self._glance = Glance(options.window_samples, terms.limits.dead_earliest, terms.limits.dead_verges)
        self.ranks.agree(self.schedule, self.collector.memory)
        self._recorder = Recorder(self.collector, self._parameters, self.ranks, self._glance)
        self.ledger = Ledger(terms)
        self.scaler = ScaleWatch(options.grad_scaler)
        self.mode: Mode = "off"
        self._due = self._again = False
        self.latest: Snapshot | None = None
        self.snapshots: list[Snapshot] = []
        self.closed = False
        self.on_close: Callable[[], None] | None = None
        self.clip_known, self.joins, self._stepped = True, False, False
        self.epoch: int | None = None
        self.next_step = 0
        self._coverage = Coverage(self.collector, options, speaks=self.ranks.leads and not guest)
        self._owner = weakref.ref(owner) if owner is not None else None
        self._take(() if guest else models.values())

    def _take(self, models: Iterable[nn.Module]) -> None:
        """One monitor a model and prefix: an earlier one (of a notebook cell that is run again) is closed."""
        for model in map(unwrap, models):
            for earlier in MODELS.holders(model, self.options.prefix, Session):
                if earlier._owner is None or self._owner is None or earlier._owner() is not self._owner():
                    logger.warning(_REPLACED)
                    earlier.close()
            MODELS.take(model, self.options.prefix, self)

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
        self.scaler.forget()
        self.mode = "off" if self.ranks.idle else self.schedule.decide(step)
        self._due, self._again = self.mode == "record", False
        if self.mode != "off":
            self.collector.arm(step, recording=self._due)
        if self._due:
            self._parameters.watch()

    def begin_forward(self) -> None:
        """A forward of this step begins."""
        if self.mode == "record":
            self._parameters.renew()

    def restart_step(self, step: int) -> None:
        """The step that is being observed was skipped by a loss scaler: what was seen of it does not count.

        Unless so many were that nothing would be told at all of a run whose gradients are never finite.
        """
        if self.scaler.skipped_again() and self.mode == "record":
            self.scaler.note()
            self.end_step(step)
            return
        self.scaler.forget()
        self.start_over()

    def start_over(self) -> None:
        """What was seen of the running step does not count; it is observed from here on."""
        self.collector.restart()
        if self.mode == "record":
            self._parameters.watch()

    def postpone(self) -> None:
        """What was seen of this step cannot be told from steps skipped before: record the next one instead."""
        self._again = self._due
        self.abandon_step()

    def begin_again(self, step: int) -> None:
        """The running step does not end; it will begin once more, as `step`."""
        if self._due:
            self.schedule.record_at(step)
        self._due = False
        self.abandon_step()

    def abandon_step(self) -> None:
        """What was seen of this step is worth nothing: forget it, and take the hooks off."""
        self.mode = "off"
        self.scaler.forget()
        self.collector.disarm()
        self._parameters.release()

    def pause(self) -> bool:
        """Validation, or anything that is not training: no hook stays on; whether one was."""
        observed = self.collector.detach()
        self.schedule.budget.restart()
        return observed

    def resume(self) -> None:
        """Training goes on in the middle of a step."""
        if self.mode != "off":
            self.collector.attach()

    def rest(self) -> None:
        """No forward or backward of this step is to come: what others run before its end is not training."""
        self.collector.detach()
        self._parameters.rest()

    def fresh(self, optimizers: Iterable[Optimizer]) -> bool:
        """Whether one of these optimizers has a gradient of the recorded step that it has not yet used."""
        return self.mode == "record" and self._parameters.fresh(ids_of(optimizers))

    def before_update(
        self, optimizers: Sequence[Optimizer], stepping: Optimizer | None, *, fused: bool = False
    ) -> None:
        """Gradients are complete; the weights that `stepping` is about to update are still the old ones.

        `fused`: it will divide the gradients by the loss scale itself.
        """
        if self.mode == "record":
            every, mine = ids_of(optimizers), ids_of([] if stepping is None else [stepping])
            self._parameters.before_update(every if optimizers else None, mine, scaled=fused, scale=self.scaler.key)

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
        """The step is over: take the hooks off; on a recorded step read, join the ranks, judge and write.

        Collective on a recorded step, where ranks merge: whatever this rank has seen of it, it says so. None where its
        numbers are still on their way: they are told at the end of the next step, or when somebody asks.
        """
        self.finish()
        mode, self.mode, self._stepped = self.mode, "off", True
        due, self._due = self._due, False
        self.next_step = step + 1
        if mode != "off":  # nothing was put on; what every step runs is to be short
            self.collector.disarm()
        snapshot = self._recorder.record(step, self._now(), seen=mode == "record") if due else None
        if due:
            self._parameters.release()
            if self.collector.scope.stack:
                self.collector.scope.clear()
        elif mode == "watch" and self.schedule.attentive and not self.ranks.merging:
            self.schedule.heed(step, **self._glance.look(self.collector.sites, self.collector.memory)._asdict())
        if snapshot is not None:
            self._publish(snapshot)
        self.schedule.budget.lap(mode)  # after the writers: what a slow store takes is cost too
        return snapshot

    def finish(self) -> None:
        """Tell the recorded step whose numbers are on their way, if there is one. Waits for them."""
        if self._recorder.waits:
            snapshot = self._recorder.finish(self._now())
            if snapshot is not None:
                self._publish(snapshot)

    def _now(self) -> Now:
        return Now(self.scaler, self.schedule, self.epoch, self._again, self.joins, self.clip_known)

    def _publish(self, snapshot: Snapshot) -> None:
        self._coverage.report(snapshot)
        self.latest = snapshot
        self.snapshots.append(snapshot)
        del self.snapshots[:-_KEPT_SNAPSHOTS]
        changes = self.ledger.judge(snapshot)
        self.outlet.publish(snapshot, changes)
        unbearable = self.outlet.reached(changes, self.options.raise_on)
        if unbearable is not None:
            self.close()
            raise FindingError(unbearable)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run must know: str, int, float, bool, None, list, dict, tensors of the host."""
        return save(self.collector, self.schedule, self.ledger, self.scaler, self.next_step)

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Go on from a `state_dict`; whether that could be. What cannot be read costs one warning and nothing else."""
        found = restore(state, self.collector, self.options, self.scaler.scaler)
        if found is None:
            return False
        self.schedule, self.ledger, self.scaler, self.next_step = (
            found.schedule, found.ledger, found.scaler, found.next_step,
        )  # fmt: skip
        self.ranks.agree(self.schedule, self.collector.memory)
        self._coverage.resumed = found.sites
        self.outlet.carry(found.ledger.open_findings())
        return True

    def close(self) -> None:
        """Take everything off the model and close the writers. Safe to call twice; never raises."""
        with contextlib.suppress(FindingError):
            self.guarded(self.finish)
        if self.closed:
            return
        self.closed = True
        self._coverage.close(stepped=self._stepped)
        self.mode = "off"
        self.collector.close()
        self._parameters.release()
        self.outlet.close()
        self.ranks.close()
        # what holds the session itself would keep it until a garbage collection
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()
