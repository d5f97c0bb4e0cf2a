"""How the ranks' parcels travel: one all-gather on a process group of our own, with a timeout.

The group is made beside torch.distributed's own (`new_group` would wait for ranks that have no monitor, and would
number the user's next groups differently on different ranks): ranks meet at keys of their own in the default store,
and who finds somebody missing goes on alone. Tensors are bytes of the host, so that nothing waits for a device, and
all are of one size, since gloo ends the process where sizes differ.

Up to 16 ranks gather at once. More of them gather in groups of 16; the first rank of each joins what it was told,
gathers with 15 others of its kind, and so on, and shares the result with its group. docs/scaling.md has the table that
asks for it: what one rank receives would else grow with their number.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

FAN = 16
"""Ranks that gather at once: one collective up to here, and a level more for every 16 times as many."""
_SLACK = 1.25
"""Room for what the parcels grow later; a parcel that does not fit costs a second collective."""
_LENGTH_BYTES = 8
_PATIENCE_S = 2.0
T = TypeVar("T")


class Missing(RuntimeError):
    """Somebody did not come."""


class Group:
    """Ranks that gather. Everything here is collective among them."""

    def __init__(self, store: Any, ranks: Sequence[int], rank: int, timeout_s: float) -> None:
        self._store, self._ranks, self._timeout_s = store, list(ranks), timeout_s
        self._rank = rank
        self._me = self._ranks.index(rank)
        self._group: Any = None
        self._room = 0
        self.collectives = 0

    def gather(self, parcel: bytes, terms: str, step: int) -> list[memoryview]:
        """The parcels of all, in the order of their ranks.

        `terms`: what all must have agreed on. Raises Missing if somebody does not come in time or the connection
        breaks, and ValueError for other terms.
        """
        if self._group is None:
            self._meet(len(parcel), terms, step)
        try:
            self._say("at", str(step))
            sizes, parcels = self._gather_once(parcel)
            if max(sizes) > self._room:
                self._room = int(max(sizes) * _SLACK)
                sizes, parcels = self._gather_once(parcel)
        except RuntimeError as error:
            raise Missing(f"{self._who(step)}{str(error).splitlines()[0]:.160}") from error
        return [memoryview(p)[:size] for p, size in zip(parcels, sizes, strict=True)]

    def share(self, parcel: bytes | None) -> bytes:
        """What the first rank of the group has, for all of them."""
        first = self._me == 0
        size = torch.tensor([len(parcel) if parcel is not None else 0], device="cpu")
        self._broadcast(size)
        body = torch.empty(int(size), dtype=torch.uint8, device="cpu")
        if first and parcel is not None:
            body = torch.frombuffer(bytearray(parcel), dtype=torch.uint8)
        self._broadcast(body)
        return body.numpy().tobytes()

    def close(self) -> None:
        """Leave: whoever waits for this rank, or comes later, hears of it at once."""
        met, self._group = self._group is not None, None
        if not met:  # else the others see that the connection is closed; the store may have ended by now
            self._say("left", "")

    def _gather_once(self, parcel: bytes) -> tuple[list[int], list[Any]]:
        own = torch.zeros(_LENGTH_BYTES + self._room, dtype=torch.uint8, device="cpu")
        told = np.frombuffer(np.array([len(parcel)], np.uint64).tobytes() + parcel[: self._room], np.uint8)
        own[: len(told)] = torch.from_numpy(told.copy())
        found = [torch.empty_like(own) for _ in self._ranks]
        self.collectives += 1
        self._group.allgather([found], [own]).wait()
        arrays = [one.numpy() for one in found]
        sizes = [int(np.frombuffer(one[:_LENGTH_BYTES].tobytes(), np.uint64)[0]) for one in arrays]
        return sizes, [one[_LENGTH_BYTES:].data for one in arrays]

    def _broadcast(self, tensor: Any) -> None:
        options = distributed.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        self.collectives += 1
        self._group.broadcast([tensor], options).wait()

    def _meet(self, size: int, terms: str, step: int) -> None:
        """Find the others, agree on the room, and connect."""
        self._say("terms", json.dumps([size, terms]))
        keys = [f"terms/{rank}" for rank in self._ranks]
        deadline, pause = time.monotonic() + self._timeout_s, 0.001
        while not soon(partial(self._store.check, keys), otherwise=False):
            if gone := self._gone():
                raise Missing(f"{_named(gone)} has left")
            if time.monotonic() > deadline:
                absent = soon(lambda: [r for r in self._ranks if not self._store.check([f"terms/{r}"])], self._ranks)
                raise Missing(
                    f"{_named(absent)} had no monitor that merges, or had not come to step {step}; make the monitor on "
                    "every rank, or use distributed='rank0' or 'off'"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.25)
        found = [json.loads(value) for value in self._store.multi_get(keys)]
        for rank, (_, theirs) in zip(self._ranks, found, strict=True):
            if theirs != terms:
                raise ValueError(f"rank {self._rank} has {terms}, rank {rank} has {theirs}; all must have the same")
        if gone := self._gone():
            raise Missing(f"{_named(gone)} has left")
        self._room = int(max(size for size, _ in found) * _SLACK)
        inner = within("gloo", self._store)
        timeout = timedelta(seconds=self._timeout_s)
        self._group = distributed.ProcessGroupGloo(inner, self._me, len(self._ranks), timeout=timeout)

    def _gone(self) -> list[int]:
        return soon(lambda: [r for r in self._ranks if self._store.check([f"left/{r}"])], [])

    def _say(self, what: str, value: str) -> None:
        """Tell the others something of this rank, if the store is still there."""
        soon(lambda: self._store.set(f"{what}/{self._rank}", value), None)

    def _who(self, step: int) -> str:
        """Who has not come to this step, as far as the store tells."""
        nobody: list[int] = []
        late = soon(lambda: self._late(step), nobody)
        return f"{_named(late)} had not come to step {step}: " if late else ""

    def _late(self, step: int) -> list[int]:
        at = [int(self._store.get(f"at/{r}")) if self._store.check([f"at/{r}"]) else None for r in self._ranks]
        return [r for r, reached in zip(self._ranks, at, strict=True) if reached is None or reached < step]


def within(name: str, store: Any) -> Any:
    """A part of a store with keys of its own."""
    return distributed.PrefixStore(name, store)  # type: ignore[attr-defined]


def soon(work: Callable[[], T], otherwise: T, seconds: float = _PATIENCE_S) -> T:
    """The answer of a store, if it comes: whoever asks one whose host is frozen waits for good, timeout or not."""
    found: list[T] = []

    def ask() -> None:
        with contextlib.suppress(Exception):
            found.append(work())

    thread = threading.Thread(target=ask, name="actdiag-store", daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else otherwise


def _named(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"


class Exchange:
    """All ranks: in one group, or in groups at several levels. One `join` a recorded step, on every rank."""

    def __init__(self, store: Any, rank: int, ranks: Sequence[int], *, timeout_s: float, fan: int = FAN) -> None:
        """`ranks`: the numbers of all that take part, `rank` among them."""
        self._groups: list[Group] = []
        at, step = ranks.index(rank), 1  # every so many of them are in a group of this level
        while step == 1 or (at % step == 0 and step < len(ranks)):
            first = at // (step * fan) * step * fan
            place = within(f"level{step}/group{first}", store)
            self._groups.append(Group(place, ranks[first : first + step * fan : step], rank, timeout_s))
            self._at_top = step * fan >= len(ranks)
            step *= fan

    @property
    def collectives(self) -> int:
        """How many this rank has taken part in."""
        return sum(group.collectives for group in self._groups)

    def join(
        self, parcel: bytes, combine: Callable[[Sequence[bytes | memoryview]], bytes], *, terms: str, step: int
    ) -> Sequence[bytes | memoryview]:
        """The parcels of all, some of them combined already; the same ones in the same order on every rank."""
        told: Sequence[bytes | memoryview] = [parcel]
        for group in self._groups:
            told = group.gather(parcel if group is self._groups[0] else combine(told), terms, step)
        if len(self._groups) == 1 and self._at_top:
            return told
        joined = combine(told) if self._at_top else None
        for group in reversed(self._groups[:-1] if self._at_top else self._groups):
            joined = group.share(joined)
        return [] if joined is None else [joined]

    def close(self) -> None:
        """Leave all groups."""
        for group in self._groups:
            group.close()
