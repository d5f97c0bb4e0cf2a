"""What becomes of a recorded step: it is counted, joined with what other ranks have seen, remembered, and told."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from actdiag.collect.collector import Collector
from actdiag.collect.glance import Glance
from actdiag.collect.parameters import ParameterWatch
from actdiag.collect.parcel import Word
from actdiag.collect.ranks import Ranks
from actdiag.collect.recording import NOTHING, Gathered, build, count, gather, step_facts
from actdiag.collect.scaler import ScaleWatch
from actdiag.collect.schedule import Schedule
from actdiag.collect.spread import uneven
from actdiag.snapshot import Snapshot


class Now(NamedTuple):
    """What else is known when a step ends.

    `again`: the step was given up, and the next one is to be recorded. `joins`: ranks that are out of inputs still take
    part. `clip_known`: gradients were seen before they were clipped.
    """

    scaler: ScaleWatch
    schedule: Schedule
    epoch: int | None
    again: bool
    joins: bool
    clip_known: bool


class Recorder:
    """Makes a snapshot of what was observed in a step; at most one is on its way from a device."""

    def __init__(self, collector: Collector, parameters: ParameterWatch, ranks: Ranks, glance: Glance) -> None:
        self._collector, self._parameters = collector, parameters
        self._ranks, self._glance = ranks, glance
        self._coming: Gathered | None = None

    def record(self, step: int, now: Now, *, seen: bool) -> Snapshot | None:
        """The numbers of the step that ends; None for one that the loss scaler has skipped, or that nobody saw.

        None too where they are on their way from a CUDA device, for `finish` to tell. What decides about this step or
        the next one, or is collective, is waited for. Collective where ranks merge.
        """
        if not seen:
            return self._tell(step, None, now)
        may_wait = not (self._ranks.merging or now.again or now.scaler.scaler is not None)
        at = (step, now.epoch)
        gathered = gather(self._collector, self._parameters.records(), now.scaler, step=at, may_wait=may_wait)
        if not gathered.late:
            return self._tell(step, gathered, now)
        self._coming = gathered
        return None

    @property
    def waits(self) -> bool:
        """Whether numbers are on their way."""
        return self._coming is not None

    def finish(self, now: Now) -> Snapshot | None:
        """The numbers that are on their way, if there are some. Waits for them."""
        coming, self._coming = self._coming, None
        return (
            None if coming is None else self._tell(coming.step, coming, now._replace(epoch=coming.epoch, again=False))
        )

    def _tell(self, step: int, gathered: Gathered | None, now: Now) -> Snapshot | None:
        scaler, ranks, memory = now.scaler, self._ranks, self._collector.memory
        tally = NOTHING if gathered is None else count(gathered, self._collector, scaler)
        places = () if gathered is None else gathered.places
        seen = gathered is not None
        overflowed = gathered is not None and not gathered.late and scaler.overflowed
        drop = overflowed and not scaler.skipped_again()
        wanted = now.schedule.wanted()
        if not now.joins and uneven(ref() for ref in self._collector.models.values()):
            ranks.leave(step, "inputs are uneven, under ddp.join(): use Join([ddp_model, monitor]) instead")
        own = Word(step, drop, now.again or overflowed, wanted["record"], wanted["watch"], int(seen))
        word, tally = ranks.join(own, tally, places)
        memory.absorb(tally)
        self._glance.settle(memory)
        ranks.agree(now.schedule, memory, word)
        if word.again:
            now.schedule.record_at(step + 1)
        if word.drop or not word.ranks:
            return None
        facts = step_facts(self._collector, scaler, ranks, word, tally)
        snapshot = build(tally, memory, ranks, facts | {"epoch": now.epoch, **now.schedule.budget.told()})
        return snapshot if now.clip_known else replace(snapshot, clip_coefficient=None)
