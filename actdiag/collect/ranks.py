"""The processes that train together: at each recorded step each tells the others what it has counted.

Every rank takes part at the same steps whatever it has seen, joins the same parcels in the same order, and so comes to
the same numbers. Where that ends (a rank is missing, late, killed, or at another step) it ends for good, with one
warning, and each rank goes on with its own numbers; the training is never held up longer than `merge_timeout_s`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from torch import distributed, nn

from actdiag.collect.exchange import Exchange, soon, within
from actdiag.collect.joining import join
from actdiag.collect.memory import Memory
from actdiag.collect.parallel import Place, gradient_divisor
from actdiag.collect.parcel import Word, pack, unpack
from actdiag.collect.placing import place
from actdiag.collect.schedule import Schedule
from actdiag.collect.tally import Tally
from actdiag.config import Options

logger = logging.getLogger("actdiag")

_NAMED = 6
_LATE = "late"
_OTHER_UNITS = "ranks have different numbers of units there, which cannot be merged; the first rank's count"
_OTHER_WEIGHTS = (
    "ranks have different weights there; the first rank's are told. Is it DistributedDataParallel's forward that is "
    "called, and do all ranks make the same updates?"
)
_TERMS = ("log_every_n_steps", "watch_every_n_steps", "start_step", "end_step", "max_overhead", "prefix")
"""Options that decide which steps are recorded: they must be the same on every rank."""


class Team(NamedTuple):
    """The processes that train a model together, by their global rank; `rank` is this one's."""

    rank: int
    ranks: tuple[int, ...]

    @property
    def leads(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == self.ranks[0]


def team_of(models: Iterable[Any]) -> Team:
    """Who trains these models with this process: the group of DistributedDataParallel, else all that there are.

    Before init_process_group the launcher's environment tells (torchrun and others set RANK and WORLD_SIZE).
    """
    if distributed.is_available() and distributed.is_initialized():
        groups = {_group_of(model) for model in models}
        group = (groups.pop() if len(groups) == 1 else None) or distributed.group.WORLD  # torch 2.4 takes no None
        return Team(distributed.get_rank(), tuple(distributed.get_process_group_ranks(group)))
    given = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")]
    if all(text.isdecimal() for text in given) and int(given[0]) < int(given[1]):
        return Team(int(given[0]), tuple(range(int(given[1]))))
    return Team(0, (0,))


def _group_of(model: Any) -> Any:
    while model is not None and type(model).__name__ != "DistributedDataParallel":
        model = getattr(model, "_orig_mod", None) or getattr(model, "_forward_module", None)
    return getattr(model, "process_group", None)


def parcels_joined(parcels: Sequence[bytes | memoryview]) -> tuple[Word, Tally]:
    """What several ranks say, as one. Raises ValueError where they speak of different steps."""
    words, tallies = zip(*map(unpack, parcels), strict=True)
    steps = [word.step for word in words]
    if len(set(steps)) > 1:
        raise ValueError(f"the ranks are at different steps: {', '.join(map(str, steps[:8]))}")
    word = Word(
        step=steps[0],
        drop=any(word.drop for word in words),
        again=any(word.again for word in words),
        record_steps=max(word.record_steps for word in words),
        watch_steps=max(word.watch_steps for word in words),
        ranks=sum(word.ranks for word in words),
    )
    return word, join(tallies)


def combine(parcels: Sequence[bytes | memoryview]) -> bytes:
    """Several parcels as one."""
    return pack(*parcels_joined(parcels))


class Ranks:
    """The ranks as one of them sees them. `merging`: they still tell each other; `leads`: this one speaks for them.

    `idle`: this one observes nothing. `several`: processes train together, whatever `distributed` says.
    """

    def __init__(self, options: Options, models: Iterable[Any]) -> None:
        team = team_of(models)
        self.several = len(team.ranks) > 1
        self._team = team if options.distributed != "off" else Team(0, (0,))
        self.leads, self.world = self._team.leads, len(self._team.ranks)
        self.merging = options.distributed == "merge" and self.world > 1
        self.idle = options.distributed == "rank0" and not self.leads
        self._shared_by = 1
        self._divisor: float | None = None
        self._options = options
        self._exchange: Exchange | None = None
        self._told: set[str] = set()

    def look_at(self, models: Iterable[nn.Module], shared_by: int) -> None:
        """How many ranks share samples, having parts of layers; by what fully_shard was told to divide gradients."""
        self._shared_by, self._divisor = shared_by, gradient_divisor(models)

    @property
    def complete(self) -> bool:
        """Whether what is divided among ranks is known as a whole."""
        return not self.several or self.merging

    @property
    def replicas(self) -> float:
        """Over so many ranks the loss is a mean: what data-parallel training divides the gradients by."""
        if self._options.distributed != "merge":
            return 1
        return self._divisor or self.world // self._shared_by

    @property
    def collectives(self) -> int:
        """How many collectives of ours this rank has taken part in."""
        return self._exchange.collectives if self._exchange is not None else 0

    def join(self, word: Word, tally: Tally, places: Sequence[Place | None]) -> tuple[Word, Tally]:
        """What all ranks have counted in this step; this rank's own if they no longer merge. Collective.

        `places`: which parts of layers its sites are, where layers are divided among ranks.
        """
        if not self.merging:
            self._tell_late()
            return word, tally
        try:
            if self._exchange is None:
                self._exchange = self._open()
            parcel = pack(word, place(tally, places) if any(places) else tally)
            found = parcels_joined(self._exchange.join(parcel, combine, terms=self._terms(), step=word.step))
        except Exception as error:
            self.leave(word.step, f"{type(error).__name__}: {error}")
            return word, tally
        self._tell(found[1])
        return found

    def agree(self, schedule: Schedule, memory: Memory, word: Word | None = None) -> None:
        """Have all ranks record and watch the same steps, by intervals that they have told each other in `word`."""
        memory.shared = self.merging
        if not self.merging:
            schedule.agree(None)
        elif word is None:
            schedule.agree(schedule.agreed or schedule.wanted())
        else:
            schedule.agree({"record": word.record_steps, "watch": word.watch_steps})

    def close(self) -> None:
        """Leave the others; whoever waits for this rank hears of it. One that has never met them has nobody to tell:
        to connect now, maybe to a store whose host has ended already, could take half an hour."""
        if self._exchange is not None:
            self._exchange.close()

    def _open(self) -> Exchange:
        """Our own place in the default store: the n-th monitor of a prefix meets the n-th of the other ranks."""
        timeout_s = self._options.merge_timeout_s
        host: Any = distributed.distributed_c10d._get_default_store()
        own: Any = soon(host.clone, None, timeout_s)
        if own is None:
            raise TimeoutError("the store of the process group does not answer")
        store = within(f"actdiag/{self._options.prefix}/{self._team.ranks[0]}+{self.world}", own)
        store.set_timeout(timedelta(seconds=timeout_s))
        number = soon(lambda: int(store.add(f"made/{self._team.rank}", 1)), 0)
        if not number:
            raise TimeoutError("the store of the process group does not answer")
        return Exchange(within(str(number), store), self._team.rank, self._team.ranks, timeout_s=timeout_s)

    def _terms(self) -> str:
        return ", ".join(f"{name}={getattr(self._options, name)!r}" for name in _TERMS)

    def leave(self, step: int, why: str) -> None:
        """Merge no more, with one line in the log. Not collective: the others hear of it when they next merge."""
        if not self.merging:
            return
        self.merging = False
        self.close()
        logger.log(
            logging.WARNING if self.leads else logging.INFO,
            "actdiag: step %s: the processes no longer merge their statistics (%s); from now on rank %s tells what it "
            "sees itself; the training goes on", step, why, self._team.rank,
        )  # fmt: skip

    def _tell_late(self) -> None:
        """Say once that processes have met after the monitor was made, which could not know of them."""
        if self.several or not distributed.is_available() or not distributed.is_initialized() or _LATE in self._told:
            return
        if distributed.get_world_size() > 1:
            self._told.add(_LATE)
            logger.warning(
                "actdiag: init_process_group was called after the monitor was made, so every process tells and writes "
                "what it sees itself; make the monitor after it"
            )

    def _tell(self, tally: Tally) -> None:
        """Say once what cannot be merged, and what should not differ."""
        for names, what in ((tally.conflicts, _OTHER_UNITS), (tally.unlike, _OTHER_WEIGHTS)):
            fresh = sorted(names - self._told)
            self._told |= names
            if fresh and self.leads:
                logger.warning("actdiag: %s: %s", ", ".join(fresh[:_NAMED]) + (", ..." if fresh[_NAMED:] else ""), what)
