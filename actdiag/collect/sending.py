"""Numbers of a recorded step on their way from the devices to the host: one copy a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actdiag.collect.arena import Arena, Arenas
from actdiag.collect.coming import Coming

Numbers = NDArray[Any]
_Names = tuple[str, str, str]
Fetched = dict[str, dict[str, dict[str, Numbers]]]
"""Owner (site or parameter) -> group -> name -> numbers."""

LATE_DEVICES = frozenset({"cuda"})
"""Of these a copy is on its way while the host goes on."""


class Sent:
    """Numbers on their way to the host, one copy a device.

    `late`: they are read after more has been observed. Copies of CUDA tensors go into pinned memory then and are not
    waited for; what is on the host already is copied too. Else it still shares its memory with the tensors: it holds
    until they are written to again.
    """

    def __init__(
        self,
        waiting: Mapping[torch.device, Sequence[tuple[_Names, Tensor]]],
        arenas: Arenas,
        *,
        late: bool,
    ) -> None:
        self._parts = [
            ([(names, x.shape) for names, x in items], _reader([x for _, x in items], arenas.find(device), late))
            for device, items in waiting.items()
        ]

    def read(self) -> Fetched:
        """Arrays in the tensors' shapes. Waits for them: the one synchronization of a recorded step."""
        found: Fetched = {}
        for places, read in self._parts:
            for ((owner, group, name), shape), numbers in zip(places, read(), strict=True):
                found.setdefault(owner, {}).setdefault(group, {})[name] = numbers.reshape(tuple(shape))
        return found


def _reader(tensors: Sequence[Tensor], arena: Arena | None, late: bool) -> Callable[[], list[Numbers]]:
    """Sends the tensors of one device; what gives them, each flat or in its shape."""
    device = tensors[0].device
    comes = late and device.type in LATE_DEVICES
    if device.type == "cpu" and not comes:
        arrays = [tensor.numpy() for tensor in tensors]
        arrays = [array.copy() for array in arrays] if late else arrays
        return lambda: arrays
    flat, places = _in_a_row(tensors, arena)
    coming = Coming([flat]) if comes else None
    host = flat.cpu() if coming is None else None

    def read() -> list[Numbers]:
        arrived = host if coming is None else coming.read()[0]
        assert arrived is not None
        numbers = arrived.numpy().astype(np.float64, copy=False)
        return [(numbers.view(np.int64) if place.whole else numbers)[place.start : place.end] for place in places]

    return read


class _Place(NamedTuple):
    """Where in a row the numbers of a tensor are; `whole`: they are integers."""

    start: int
    end: int
    whole: bool


def _in_a_row(tensors: Sequence[Tensor], arena: Arena | None) -> tuple[Tensor, list[_Place]]:
    """One flat tensor with all numbers, and where each one's are."""
    found = _in_arena(tensors, arena) if arena is not None else None
    if found is not None:
        return found
    dtype = torch.float32 if tensors[0].device.type == "mps" else torch.float64
    ends = accumulate((x.numel() for x in tensors), initial=0)
    return torch.cat([_flat(x, dtype) for x in tensors]), [_Place(*both, False) for both in pairwise(ends)]


def _in_arena(tensors: Sequence[Tensor], arena: Arena) -> tuple[Tensor, list[_Place]] | None:
    """The arena, with a copy of what does not lie in it at its end; None if nothing does, or it has no room."""
    starts = [arena.place(x) for x in tensors]
    rest = [x for x, start in zip(tensors, starts, strict=True) if start is None]
    tail = arena.take(sum(x.numel() for x in rest))
    begin = arena.place(tail) if rest else 0
    if begin is None or len(rest) == len(tensors):
        return None
    if rest:
        torch.cat([_flat(x, torch.float64) for x in rest], out=tail)
    copied = accumulate((x.numel() for x in rest), initial=begin)
    places = []
    for x, start in zip(tensors, starts, strict=True):
        at = next(copied) if start is None else start
        places.append(_Place(at, at + x.numel(), start is not None and x.dtype == torch.int64))
    return arena.used, places


class Readout:
    """Tensors waiting to be sent to the host together."""

    def __init__(self, arenas: Arenas | None = None) -> None:
        """`arenas`: where some of them lie one after the other already."""
        self._arenas = arenas or Arenas()
        self._waiting: dict[torch.device, list[tuple[_Names, Tensor]]] = {}

    def add(self, owner: str, group: str, name: str, tensor: Tensor) -> None:
        """Queue a tensor under three names."""
        self._waiting.setdefault(tensor.device, []).append(((owner, group, name), tensor))

    @property
    def is_late(self) -> bool:
        """Whether the host need not wait for what is waiting."""
        return any(device.type in LATE_DEVICES for device in self._waiting)

    def send(self, *, late: bool = False) -> Sent:
        """Send everything that was queued."""
        waiting, self._waiting = self._waiting, {}
        return Sent(waiting, self._arenas, late=late)


def _flat(x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype != dtype:
        x = x.to(dtype)
    return x if x.ndim == 1 else x.reshape(-1)
