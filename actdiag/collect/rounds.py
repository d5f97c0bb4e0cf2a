"""Which optimizers a GradScaler was asked to step, and which of them it did: told from the host's side of it.

`GradScaler.step` calls the optimizer, or leaves it be; either way it notes that this optimizer had its turn, and
`update()` begins a new round with new notes. So an optimizer that had its turn and was not seen to step was skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Any

from torch.optim import Optimizer

_DEEPEST_FRAME = 16


class Rounds:
    """The running rounds of the scalers of a training, as far as our optimizers are concerned."""

    def __init__(self) -> None:
        self._notes: dict[int, Mapping[int, Any]] = {}
        self._stepped: set[int] = set()
        self._over: list[Mapping[int, Any]] = []

    def restart(self, scalers: Iterable[Any]) -> None:
        """A step begins: rounds in which somebody had his turn already are of the step before."""
        self._notes.clear()
        self._stepped.clear()
        self._over = [notes for scaler in scalers if (notes := _notes(scaler))]

    def saw_step(self, optimizer: Optimizer, scaler: Any) -> None:
        """One of our optimizers steps now, called by this scaler, if any; one may show itself only here."""
        self._stepped.add(id(optimizer))
        notes = _notes(scaler)
        if notes is not None:
            self._notes.setdefault(id(scaler), notes)

    def skipped(self, scalers: Iterable[Any], ours: set[int]) -> bool:
        """Whether a round has ended since the last look, and an optimizer of `ours` (ids) was skipped in it."""
        before = self._notes
        running = {id(scaler): notes for scaler in scalers if (notes := _notes(scaler)) is not None}
        self._notes = {key: notes for key, notes in running.items() if all(notes is not one for one in self._over)}
        ended = [notes for key, notes in before.items() if running.get(key) is not notes]
        if not ended:
            self._notes = {**before, **self._notes}
            return False
        asked = {key for notes in ended for key, note in notes.items() if _had_its_turn(note)} & ours
        stepped, self._stepped = self._stepped, set()
        # An optimizer inside a wrapper of somebody else's is not noted as ours: then any step will do.
        return bool(asked - stepped) if asked else not stepped


def _notes(scaler: Any) -> Mapping[int, Any] | None:
    notes = getattr(scaler, "_per_optimizer_states", None)
    return notes if isinstance(notes, Mapping) else None


def _had_its_turn(note: Any) -> bool:
    stage = note.get("stage") if isinstance(note, Mapping) else None
    return getattr(stage, "name", None) == "STEPPED"


def has_unscaled(scaler: Any, optimizer: Optimizer) -> bool:
    """Whether a scaler that is not on the call stack scales an optimizer's gradients all the same.

    `unscale_` was called, or it is of another make, which cannot be asked.
    """
    notes = _notes(scaler)
    return notes is None or id(optimizer) in notes


def unscales_inside(optimizer: Optimizer, kwargs: Mapping[str, Any]) -> bool:
    """Whether a step that begins now divides by the loss scale itself (fused optimizers): the gradients are scaled."""
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        return False
    return getattr(optimizer, "grad_scale", None) is not None or "grad_scaler" in kwargs


def frames(frame: FrameType | None) -> Iterable[FrameType]:
    """A frame and those that called it."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def scaler_above(frame: FrameType | None) -> Any:
    """The GradScaler whose step() called the optimizer, if any: it tells the loss scale without being passed."""
    for depth, caller in enumerate(frames(frame)):
        if depth > _DEEPEST_FRAME:
            return None
        if caller.f_code.co_filename.endswith("grad_scaler.py"):
            return caller.f_locals.get("self")
    return None


def closure_of(args: Any, kwargs: Any) -> bool:
    """Whether a step was given a function that makes the gradients."""
    return kwargs.get("closure") is not None or any(callable(arg) and not isinstance(arg, Optimizer) for arg in args)


def runs_twice(optimizer: Optimizer) -> bool:
    """Whether this optimizer's step() is on the stack twice: then the hook belongs to the inner call.

    Looked at only while a step is believed to run, so that an exception in an earlier step() cannot fool it.
    """
    running = 0
    for frame in frames(sys._getframe(1)):
        if frame.f_code.co_name == "wrapper" and frame.f_code.co_filename.endswith("optimizer.py"):
            running += frame.f_locals.get("self") is optimizer
    return running > 1
