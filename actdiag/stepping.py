"""When a step begins and ends in a plain loop: told by the hooks of its optimizers.

The first optimizer's steps are counted. A recorded step ends with it, unless another optimizer still has a gradient of
this step to use: then with that one's step, and at the latest when the next forward begins. So optimizers that step
together are in one step, in whatever order, and one that steps rarely stops nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from actdiag.collect.alone import TIMED, After, Alone, Before
from actdiag.collect.hooks import in_backward
from actdiag.collect.rounds import (
    Rounds,
    closure_of,
    has_unscaled,
    runs_twice,
    scaler_above,
    unscales_inside,
)
from actdiag.collect.witness import Witness
from actdiag.session import FindingError, Session

logger = logging.getLogger("actdiag")


class Driver:
    """Counts the steps of the first optimizer, and tells the session before and after each update."""

    def __init__(self, session: Session, optimizers: list[Optimizer], *, told: bool = False) -> None:
        """`told`: the loop says by `begin_at` when a step begins, and with what number; else it follows the last."""
        self._session = session
        self._is_told, self.running = told, False
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]
        self._alone = Alone()
        self._step = self._since = self._bare = 0
        self._closure = self._went_back = self._due = self._ran = False
        self._backward = -1
        self._rounds = Rounds()
        self._scalers: list[Any] = []
        session.collector.on_forward = self._forward_begins
        session.on_close = self._let_go
        self._handles: list[RemovableHandle] = []
        for optimizer in optimizers:
            self._handles.append(optimizer.register_step_pre_hook(Before(self._alone, self._before)))
            self._handles.append(
                optimizer.register_step_post_hook(After(self._alone, self._after, timed=self._end_alone))
            )

    def _alive(self) -> list[Optimizer]:
        return [optimizer for ref in self._optimizers if (optimizer := ref()) is not None]

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._session.closed:
            return
        if self._alone.inside and runs_twice(optimizer):
            self._alone.nested += 1  # a subclass whose step() calls super().step() fires the hooks once more
            return
        self._alone.inside, self._alone.nested = True, 0
        self._closure = closure_of(args, kwargs)
        self._session.collector.single = self._closure
        if self._session.mode == "record":
            self._session.guarded(self._read, optimizer, kwargs)
        elif self._session.scaler.scaler is not None:
            self._session.guarded(self._session.scaler.stepping)

    def _read(self, optimizer: Optimizer, kwargs: Mapping[str, Any]) -> None:
        scaler, above = self._session.scaler, scaler_above(sys._getframe(1))
        if above is not None and not above.is_enabled():
            above = None
        if above is not None and scaler.scaler is None and scaler.found(above, self._since):
            self._session.postpone()  # it has skipped steps that were taken for this one
            return
        if scaler.active:
            scaler.stepping()
        if self._is_late(optimizer):
            return
        self._note_scale(optimizer, above)
        self._session.before_update(self._alive(), optimizer, fused=unscales_inside(optimizer, kwargs))

    def _is_late(self, optimizer: Optimizer) -> bool:
        """Whether its gradients are of the step before, which was over when the first optimizer had stepped.

        A step that is recorded waits for the others; one that is not has no hooks that could tell whether to wait.
        """
        if optimizer is self._optimizers[0]() or self._closure:
            return False
        if self._backward != -1 and self._backward == torch._C._current_graph_task_id():
            return True
        return not self._ran and not self._session.fresh([optimizer])

    def _note_scale(self, optimizer: Optimizer, above: Any) -> None:
        """Remember which scaler, if any, has scaled the gradients that this optimizer is about to use."""
        scaler = self._session.scaler
        scaled_by = above
        if above is None and scaler.active and has_unscaled(scaler.scaler, optimizer):
            scaled_by = scaler.scaler
        if scaled_by is not None and all(scaled_by is not known for known in self._scalers):
            self._scalers.append(scaled_by)
        self._rounds.saw_step(optimizer, scaled_by)
        if scaled_by is None:
            scaler.key = None
        else:
            scaler.note(optimizer, scaled_by)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        alone = self._alone
        if self._session.closed or not alone.inside:
            return
        if alone.nested:
            alone.nested -= 1
            return
        alone.inside = False
        self._session.collector.single = False
        self._session.guarded(self._has_stepped, optimizer)

    def _end_alone(self) -> None:
        """One of the last two steps has ended that are left alone."""
        self._catch_up()
        self._session.guarded(self._session.schedule.budget.pass_over, last=not self._alone.steps)

    def _catch_up(self) -> None:
        """Count the steps that were left alone."""
        passed = self._alone.take_passed()
        if passed:
            self._step += passed
            self._since += passed
            self._session.next_step = self._step

    def _left_alone(self) -> int:
        """At the ends of how many steps, from this one on, there is nothing to do but to count.

        The first two of a run are timed. A loss scaler has to be followed, and of several optimizers each one.
        """
        self._bare = self._bare + 1 if self._session.mode == "off" else 0
        one = len(self._optimizers) == 1 and self._alone.witness is not None and not self._known()
        quiet = one and self._bare > TIMED and not self._is_told and not self._session.closed
        return self._session.schedule.left_alone(self._step) if quiet else 0

    def _has_stepped(self, optimizer: Optimizer) -> None:
        self._session.after_update(closure=self._closure)
        if optimizer is self._optimizers[0]():
            self._due = True
            self._alone.witness = self._alone.witness or Witness(optimizer)
            self._alone.witness.note()
        if self._due and not self._waits():
            self._turn()

    def _waits(self) -> bool:
        """Whether another optimizer is still to step before the step is over."""
        if len(self._optimizers) == 1 or self._session.mode != "record":
            return False
        return in_backward() or self._session.fresh(self._alive())

    def _forward_begins(self) -> None:
        """No optimizer can follow any more: a step that waited is over, and what a scaler has skipped is known."""
        if not self._alone.inside and not in_backward():  # else a closure's forward, or a checkpoint's second pass
            self._session.guarded(self._begin_forward)

    def _is_replaced(self) -> bool:
        """Whether another optimizer trains the model now; tells it once."""
        self._catch_up()
        return self._alone.witness is not None and self._alone.witness.tell(self._step - 1)

    def _begin_forward(self) -> None:
        self._look_back()
        if not self._ran:
            self._skipped()  # the round that runs now is the one to compare the next with
        self._ran = True
        self._session.begin_forward()
        if self._is_replaced():
            self._session.abandon_step()

    def _look_back(self) -> None:
        skipped = self._skipped()
        if self._due:
            self._turn()
        elif skipped:
            self._session.restart_step(self._step)

    def _skipped(self) -> bool:
        """Whether a scaler's round has ended in which it has skipped one of our optimizers."""
        if not self._rounds.skipped(self._known(), {id(optimizer) for optimizer in self._alive()}):
            return False
        self._session.scaler.partly_skipped()
        return True

    def _known(self) -> list[Any]:
        main = self._session.scaler.scaler
        return self._scalers if main is None or any(main is one for one in self._scalers) else [main, *self._scalers]

    def settle(self) -> None:
        """Somebody asks what is known: a step that waits for optimizers waits no longer.

        Where ranks merge it waits on: its end is collective, and only one rank may have been asked.
        """
        self._catch_up()
        if self._due and not self._session.closed and not self._session.ranks.merging:
            self._session.guarded(self._look_back)

    def manual_step(self, step: int | None) -> None:
        """The loop says that an update has been made."""
        if self._optimizers or self._session.closed:
            return
        if step is not None and not self._go_to(step):
            self._session.guarded(self._session.start_over)
            self._session.guarded(self._session.remember_weights)
            return
        self._session.guarded(self._session.before_update, (), None)
        self._session.guarded(self._session.after_update)
        self._session.guarded(self._turn)

    def shadow(self) -> None:
        """The other ranks have made a step that this one, out of inputs, had no part in."""
        if not self._session.closed:
            self._session.guarded(self._session.abandon_step)
            self._session.guarded(self._turn)

    def _go_to(self, step: int) -> bool:
        """Number the running step; whether it is later than all before."""
        if step >= self._step:
            self._step = step
            return True
        if not self._went_back:
            self._went_back = True
            logger.warning(
                "actdiag: step %s comes after step %s; steps that go back are left out", step, self._step - 1
            )
        return False

    def _turn(self) -> None:
        self._due = False
        self._session.end_step(self._step)
        self._step += 1
        self._since += 1
        self.running = False
        if not self._is_told:
            self.begin()

    def resume(self, state: Mapping[str, Any]) -> None:
        """Begin the running step again, as the one that a saved state was before."""
        self._catch_up()
        if not self._session.load_state_dict(state):
            return
        self._session.abandon_step()
        self._step = self._session.next_step
        if not self._is_told:
            self.begin()

    def begin_at(self, step: int) -> None:
        """A loop that counts by itself begins a step. One that still runs has not ended: a loss scaler skipped it."""
        if self.running:
            if self._skipped():
                self._session.restart_step(self._step)
            self._session.begin_again(step)
        self.number(step)
        self.begin()

    def number(self, step: int) -> None:
        """The running step has this number, if it is not below what it was."""
        self._step = max(self._step, step)

    def begin(self) -> None:
        """The next step begins."""
        self.running = True
        self._due = self._ran = False
        self._backward = torch._C._current_graph_task_id()
        self._rounds.restart(self._known())
        self._session.begin_step(self._step)
        self._alone.steps = self._left_alone()
        if not self._optimizers:
            self._session.remember_weights()

    def close(self) -> None:
        """Close the session, which lets go of the optimizers. Never raises: a finding is told, and nothing goes on."""
        with contextlib.suppress(FindingError):
            self.settle()
        if not self._session.closed:
            self._is_replaced()
        self._session.close()

    def _let_go(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
