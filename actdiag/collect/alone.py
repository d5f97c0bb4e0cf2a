"""Steps that are left alone: of each only the end is counted, with as few calls as that takes.

A call that costs 0.1 us in a loop costs ten times as much between the operators of a training, which have driven its
code and data out of the caches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from actdiag.collect.scope import Silent
from actdiag.collect.witness import Witness

TIMED = 2
"""Of steps in a row that are not observed the first two are timed one by one; of those that are left alone then, the
last, and all before it together."""


class Alone:
    """How many steps are left alone from here on, and where in one the optimizer is.

    `steps`: that many; `passed`: ended since this was asked last. `inside`: its step() runs; `nested`: so many calls
    of it inside another. `witness`: is told of each step.
    """

    __slots__ = ("inside", "nested", "passed", "steps", "witness")

    def __init__(self) -> None:
        self.steps = self.passed = self.nested = 0
        self.inside = False
        self.witness: Witness | None = None

    def take_passed(self) -> int:
        """Steps that have ended since this was last called."""
        passed, self.passed = self.passed, 0
        return passed


class Before:
    """Pre-hook of an optimizer's step. Copies and pickles as a Silent does."""

    __deepcopy__, __reduce__ = Silent.__deepcopy__, Silent.__reduce__

    def __init__(self, alone: Alone, call: Callable[[Optimizer, Any, Any], None]) -> None:
        """`call`: is called where the step is not left alone."""
        self._alone, self._call = alone, call

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        alone = self._alone
        if alone.steps and not alone.inside:
            alone.inside = True
        else:
            self._call(optimizer, args, kwargs)


class After:
    """Post-hook of an optimizer's step. Copies and pickles as a Silent does."""

    __deepcopy__, __reduce__ = Silent.__deepcopy__, Silent.__reduce__

    def __init__(self, alone: Alone, call: Callable[[Optimizer, Any, Any], None], *, timed: Callable[[], None]) -> None:
        """`call`: is called where the step is not left alone; `timed`: where it is, at the last and the one before."""
        self._alone, self._call, self._timed = alone, call, timed

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        alone = self._alone
        witness = alone.witness
        if not alone.steps or not alone.inside or alone.nested or witness is None:
            self._call(optimizer, args, kwargs)
            return
        alone.inside = False
        alone.steps -= 1
        alone.passed += 1
        witness.note()
        if alone.steps < TIMED:
            self._timed()
