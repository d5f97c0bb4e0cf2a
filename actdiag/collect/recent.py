"""Which units of a site have opened since the last recorded step: on the device, with a merge law for ranks.

Every observation has a stamp, made of its step and its number within the step, so that ranks which observe the same
steps agree on what came before what: of two stamps the larger is the later one, whoever made it.

Legend: C units, T observations.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CALLS = 4096
"""Observations of one site in one step that are told apart."""


class Openings(NamedTuple):
    """What one rank, or several, have observed of the units of a site; plain numbers on the host.

    `stamps_T` increase, `samples_T` are the samples of each observation; `opens_C` counts the samples that opened a
    unit, `last_C` is the stamp of the observation in which it last opened, 0 for none.
    """

    stamps_T: NDArray[np.int64]
    samples_T: NDArray[np.float64]
    opens_C: NDArray[np.float64]
    last_C: NDArray[np.int64]

    @property
    def steps_T(self) -> NDArray[np.int64]:
        """The step of each observation."""
        return step_of(self.stamps_T)

    @property
    def samples(self) -> float:
        """The samples of all observations."""
        return float(np.add.reduce(self.samples_T))

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last step."""
        first, last = int(self.stamps_T[0]), int(self.stamps_T[-1])
        return (first - 1) // CALLS, (last - 1) // CALLS


def stamp(step: int, call: int) -> int:
    """The number of the call-th observation of a step; at least 1."""
    return step * CALLS + min(call, CALLS - 1) + 1


def step_of(stamps: NDArray[np.int64]) -> NDArray[np.int64]:
    """The steps of stamps."""
    return (stamps - 1) // CALLS


def join_times(
    tables: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """One table of stamps and samples from those of several ranks: what has one stamp is one observation."""
    if len(tables) == 1:
        return tables[0]
    stamps, where = np.unique(np.concatenate([stamps for stamps, _ in tables]), return_inverse=True)
    samples = np.bincount(where, np.concatenate([samples for _, samples in tables]), minlength=len(stamps))
    return stamps, samples.astype(np.float64)


class Recent:
    """Openings of the units of one site on this rank, on the device of its tensors; their times on the host."""

    def __init__(self, units: int, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.opens_C = torch.zeros(units, dtype=dtype, device=device)
        self.last_C = torch.zeros(units, dtype=torch.int64, device=device)
        self._stamps, self._totals = array("q"), array("d")  # samples until and with each observation
        self._step, self._calls = -1, 0

    @property
    def units(self) -> int:
        return self.last_C.shape[0]

    def observe(self, open_C: Tensor, samples: int, step: int) -> None:
        """Add one batch in which `open_C` of `samples` samples opened each unit. No synchronization."""
        if self.opens_C.device != open_C.device:
            self.opens_C, self.last_C = self.opens_C.to(open_C.device), self.last_C.to(open_C.device)
        self._calls = self._calls + 1 if step == self._step else 0
        self._step = step
        now = stamp(step, self._calls)
        self._add(open_C, now)
        total = samples + (self._totals[-1] if self._totals else 0)
        if self._stamps and self._stamps[-1] == now:  # more calls in one step than are told apart
            self._totals[-1] = total
        else:
            self._stamps.append(now)
            self._totals.append(total)

    def _add(self, open_C: Tensor, now: int) -> None:
        if open_C.is_cpu:  # NumPy has done both before torch has begun with one
            opens_C, last_C, new_C = self.opens_C.numpy(), self.last_C.numpy(), open_C.numpy()
            opens_C += new_C
            np.putmask(last_C, new_C, now)
        else:
            self.opens_C.add_(open_C)
            self.last_C.masked_fill_(open_C > 0, now)

    def times(
        self, *, samples: float = math.inf, observations: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Stamps and samples of the observations, in order.

        The latest of them suffice where nobody asks by how much more a unit has been silent than for so many samples
        and observations: all that came before are told as one, so that what it costs does not grow with them.
        """
        if not self._stamps:
            return np.zeros(0, np.int64), np.zeros(0)
        if len(self._stamps) == 1:  # as where every step is recorded
            return np.array(self._stamps), np.array(self._totals)
        enough = bisect_right(self._totals, self._totals[-1] - samples) - 1
        first = max(0, min(enough, len(self._stamps) - 1 - observations))
        stamps, totals = np.array(self._stamps[first:]), np.array(self._totals[first:])
        totals[1:] -= totals[:-1].copy()
        if (stamps[1:] > stamps[:-1]).all():
            return stamps, totals
        order = np.argsort(stamps)
        return stamps[order], totals[order]

    def openings(self, *, samples: float = math.inf, observations: int = 0) -> Openings | None:
        """A copy on the host, with such `times`; None if nothing was observed. Synchronizes."""
        if not self._stamps:
            return None
        times = self.times(samples=samples, observations=observations)
        opens_C, last_C = (x.to("cpu", copy=True) for x in (self.opens_C, self.last_C))
        return Openings(*times, opens_C.double().numpy(), last_C.numpy())

    def clear(self) -> None:
        """A recorded step has told them: begin anew."""
        self.opens_C.zero_()
        self.last_C.zero_()
        del self._stamps[:], self._totals[:]
