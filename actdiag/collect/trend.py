"""Where the firing rate of each unit is heading, and when it will hardly fire any more if that goes on.

For pre-activations that are spread normally a unit that opens on a share p of the samples has its mean at ndtri(p) of
its own spreads from the threshold, and the largest of n samples some sqrt(2 ln n) spreads further out. So ndtri of the
firing rate is the distance to death in units of the unit's own spread, known from counts that are there already: no
further pass over a tensor. A unit has arrived where it fires on fewer than 3 samples in a window; it is called dead
later, when it has fired on none for a whole window.

The rates are those of bins, each of some hundreds of samples; a line is fitted to each unit's distances by weighted
least squares, weighted by how well a rate is known from its bin. Bins add up: in two halves they are the same.

Legend: C units, B bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from actdiag.collect.recent import Openings
from actdiag.collect.saved import items, mapping, number, saved_tensor

Floats = NDArray[np.float64]

KEPT_BINS = 8
LEAST_BINS = 4
BIN_SAMPLES = 256
"""A rate of 1 % is known to a half then."""
BIN_STEPS = 16
FURTHEST = 1.0
"""How far beyond its last bin a line is followed, in spans of the bins it was fitted to."""
SURE = 3.0
"""By how many standard errors a line must fall: of a thousand units without a trend about one does by chance."""
_MISSED = 3.0


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Openings of some steps. `moment`: the sum of step times samples; `first`, `last`: its steps."""

    opens_C: Floats
    samples: float
    moment: float
    first: int
    last: int

    def add(self, seen: Openings) -> Bin:
        """With what has been observed since."""
        return Bin(
            opens_C=self.opens_C + seen.opens_C,
            samples=self.samples + seen.samples,
            moment=self.moment + float(np.add.reduce(seen.steps_T * seen.samples_T)),
            first=self.first,
            last=seen.span[1],
        )

    @property
    def full(self) -> bool:
        """Whether it tells a rate."""
        return self.samples >= BIN_SAMPLES and self.last - self.first + 1 >= BIN_STEPS

    def state(self) -> dict[str, Any]:
        """Plain values and a tensor of the host."""
        own: dict[str, Any] = {name: getattr(self, name) for name in ("samples", "moment", "first", "last")}
        return own | {"opens": torch.tensor(self.opens_C)}

    @staticmethod
    def restored(state: Mapping[str, Any], units: int) -> Bin:
        """The inverse of `state`. Raises ValueError for other values."""
        samples = number(state, "samples")
        if samples <= 0:
            raise ValueError(f"samples cannot be {samples}")
        return Bin(
            opens_C=saved_tensor(state, "opens", torch.float64, shape=(units,)).numpy(),
            samples=samples,
            moment=number(state, "moment"),
            first=int(number(state, "first")),
            last=int(number(state, "last")),
        )


class Forecast(NamedTuple):
    """Units on their way to death, and the step at which half of them will open for fewer than 3 samples in a window.

    No step lies before the next one, and earliest <= step <= latest.
    """

    units: int
    step: int | None = None
    earliest_step: int | None = None
    latest_step: int | None = None


@dataclass(frozen=True)
class Trend:
    """The last full bins of one site, and the one that is being filled."""

    bins: tuple[Bin, ...] = ()
    filling: Bin | None = None
    fitted: Fitted | None = field(default=None, repr=False, compare=False)
    """What follows from the full bins alone; made with the bins, and kept while the next one fills."""

    def __post_init__(self) -> None:
        if self.fitted is None and len(self.bins) >= LEAST_BINS:
            object.__setattr__(self, "fitted", _fit_bins(self.bins))

    @property
    def last_step(self) -> int:
        """The last that was observed; -1 if none was."""
        known = self.bins if self.filling is None else (self.filling,)
        return known[-1].last if known else -1

    def add(self, seen: Openings) -> Trend:
        """With what has been observed since; a bin is not closed by it."""
        if not len(seen.stamps_T):
            return self
        filling = self.filling
        if filling is None:
            first = seen.span[0]
            filling = Bin(opens_C=np.zeros_like(seen.opens_C), samples=0.0, moment=0.0, first=first, last=first)
        return Trend(self.bins, filling.add(seen), self.fitted)

    def close(self) -> Trend:
        """At a recorded step: a full bin is kept, and the next one begun."""
        if self.filling is None or not self.filling.full:
            return self
        return Trend((*self.bins, self.filling)[-KEPT_BINS:])

    def forecast(self, alive_C: NDArray[np.bool_], window: int) -> Forecast | None:
        """Which of these units will hardly open before long; None while there are fewer than four bins.

        `window`: of so many samples fewer than 3 open a unit then. Units whose line has crossed that already, and that
        are not silent yet, are on their way still: their step is the next one.
        """
        if self.fitted is None:
            return None
        line, step_B, falling_C = self.fitted
        falling_C = alive_C & falling_C
        if not np.count_nonzero(falling_C):
            return Forecast(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ahead_3C = (_goal(window) - line.now_C) / (line.slope_C + line.error_C * np.array([[0.0], [-1.0], [1.0]]))
        dying_C = falling_C & (ahead_3C[0] <= FURTHEST * (step_B[-1] - step_B[0]))
        if not dying_C.any():
            return Forecast(0)
        steps_3 = np.median((step_B[-1] + ahead_3C[:, dying_C]).clip(min=self.last_step + 1), axis=1)
        return Forecast(int(dying_C.sum()), *(round(float(step)) for step in steps_3))

    def state(self) -> dict[str, Any]:
        """Everything known, as plain values and tensors of the host."""
        filling = None if self.filling is None else self.filling.state()
        return {"bins": [one.state() for one in self.bins], "filling": filling}

    @staticmethod
    def restored(state: Mapping[str, Any], units: int) -> Trend:
        """The inverse of `state`. Raises ValueError for other values."""
        bins = tuple(Bin.restored(one, units) for one in items(state, "bins"))
        filling = None if state.get("filling") is None else Bin.restored(mapping(state, "filling"), units)
        return Trend(bins[-KEPT_BINS:], filling)


class Line(NamedTuple):
    """A line a unit: its height at the last bin, its slope a step, and the standard error of the slope."""

    now_C: Floats
    slope_C: Floats
    error_C: Floats


class Fitted(NamedTuple):
    """The line of each unit, the steps of the bins, and whether it surely falls: its last distance is below all before
    it, and so is the slope below its error."""

    line: Line
    step_B: Floats
    falling_C: NDArray[np.bool_]


def _fit_bins(bins: tuple[Bin, ...]) -> Fitted:
    step_B = np.array([one.moment / one.samples for one in bins])
    z_BC, weight_BC = _distances(np.stack([one.opens_C for one in bins]), np.array([one.samples for one in bins]))
    line = _fit(step_B, z_BC, weight_BC)
    lowest_C = z_BC[-1] < z_BC[:-1].min(axis=0)
    return Fitted(line, step_B, lowest_C & (line.slope_C < -SURE * line.error_C))


@cache
def _goal(window: int) -> float:
    """The distance at which a unit opens for fewer than 3 samples in a window."""
    return float(torch.special.ndtri(torch.tensor(_MISSED / window, dtype=torch.float64)))


def _distances(opens_BC: Floats, n_B: Floats) -> tuple[Floats, Floats]:
    """ndtri of the rates, and the weights, one over the variance (delta method); half an opening is added for a 0."""
    n_B1 = n_B[:, None]
    rate_BC = (opens_BC.clip(max=n_B1) + 0.5) / (n_B1 + 1)
    z_BC = torch.special.ndtri(torch.from_numpy(rate_BC)).numpy()
    density_BC = np.exp(-0.5 * z_BC**2) / np.sqrt(2 * np.pi)
    return z_BC, n_B1 * density_BC**2 / (rate_BC * (1 - rate_BC))


def _fit(step_B: Floats, z_BC: Floats, weight_BC: Floats) -> Line:
    """Weighted least squares. Scatter beyond that of counting makes the error larger; less does not make it smaller."""
    step_B1 = step_B[:, None]
    total_C = weight_BC.sum(axis=0)
    middle_C = (weight_BC * step_B1).sum(axis=0) / total_C
    height_C = (weight_BC * z_BC).sum(axis=0) / total_C
    spread_C = (weight_BC * (step_B1 - middle_C) ** 2).sum(axis=0)
    slope_C = (weight_BC * (step_B1 - middle_C) * (z_BC - height_C)).sum(axis=0) / spread_C
    left_BC = z_BC - height_C - slope_C * (step_B1 - middle_C)
    scatter_C = (weight_BC * left_BC**2).sum(axis=0) / (len(step_B) - 2)
    error_C = np.sqrt(scatter_C.clip(min=1.0) / spread_C)
    return Line(height_C + slope_C * (step_B[-1] - middle_C), slope_C, error_C)
