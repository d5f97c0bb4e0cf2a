"""Weights, gradients and the update really applied, per parameter, around one optimizer step.

Order of a recorded step: `watch` (before the forward) -> gradients accumulate, and all norms are taken at the end of
the backward, before any clipping -> `before_update` (weights, gradients after clipping) -> `after_update` (weights
again). Everything stays on the device; nothing here synchronizes or is collective. Sparse gradients are coalesced.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from itertools import compress

import torch
from torch import nn
from torch.optim import Optimizer

from actdiag.collect.gradients import UPDATE_SAMPLE, Accumulated, Hooks, dense, has_norm, queue_callback, sample
from actdiag.collect.records import ParameterRecord
from actdiag.collect.reducing import Eager, Reducer
from actdiag.collect.sites import clean_names
from actdiag.collect.spread import as_parameter, flat_shares, local, share_of, term_of


class ParameterWatch:
    """Records the parameters of named models over one optimizer step. Holds the parameters weakly."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Module]],
        fail: Callable[[str, Exception], None],
        *,
        several: bool = False,
        reducer: Reducer | None = None,
    ) -> None:
        """`several`: processes train together, and what a backward leaves is not final before its very end."""
        self._reducer = reducer or Eager()
        self._models: list[tuple[str, weakref.ref[nn.Module], Hooks]] = []
        for name, module in named:
            hooks = Hooks(lasting=several)
            self._models.append((name, weakref.ref(module, hooks.remove), hooks))
        self._fail = fail
        self._several = several
        self._asked: set[int] = set()
        self._pending: list[tuple[weakref.ref[nn.Parameter], ParameterRecord]] = []
        self._own: list[tuple[weakref.ref[nn.Parameter], ParameterRecord]] = []
        self._always_updates = False

    def watch(self) -> None:
        """Begin a recorded step: note every gradient's norm when it has been accumulated."""
        self.release()
        self._always_updates = False
        self._asked.clear()
        seen: set[int] = set()
        alive = [(prefix, module, hooks) for prefix, ref, hooks in self._models if (module := ref()) is not None]
        flat = flat_shares(module for _, module, _ in alive) if self._several else {}
        for prefix, module, hooks in alive:
            begin = len(self._own)
            for path, parameter in clean_names(module, module.named_parameters()):
                if id(parameter) in seen or isinstance(parameter, nn.parameter.UninitializedParameter):
                    continue
                seen.add(id(parameter))
                name = ".".join(part for part in (prefix, path) if part)
                share = flat.get(id(parameter)) or share_of(parameter)
                record = ParameterRecord(name, parameter, share)
                record.flat = id(parameter) in flat
                self._own.append((weakref.ref(parameter), record))
            hooks.put(
                [
                    (p, Accumulated(record, weakref.ref(p), self._fail, self._wait_for))
                    for p, record in _alive(self._own[begin:])
                    if p.requires_grad and p.is_leaf
                ]
            )

    def renew(self) -> None:
        """A forward begins: a model that was moved since `watch` is followed."""
        for *_, hooks in self._models:
            hooks.renew()

    def _alive(self) -> list[tuple[nn.Parameter, ParameterRecord]]:
        return _alive(self._own)

    def saw_gradient(self) -> None:
        """A backward has come to a site: it tells of parameters on which no hook fires, those that FSDP1 manages."""
        if self._several and self._own:
            self._ask()

    def _wait_for(self, parameter: nn.Parameter, record: ParameterRecord) -> None:
        """A gradient has been accumulated. Read one by one they would cost as many calls as there are parameters."""
        if not self._several:
            self._pending.append((weakref.ref(parameter), record))
        self._ask()

    def _ask(self) -> None:
        """Read the gradients when the backward is over: before that, ranks have not yet averaged them.

        What averages them is itself called at the end of the backward, in the order of asking: so ask once more then.
        """
        task = torch._C._current_graph_task_id()  # a backward that raised has never come to what it was asked for
        if task in self._asked:
            return
        self._asked.add(task)
        if self._several:
            queue_callback(lambda: queue_callback(lambda: self._read_accumulated(task)))
        else:
            queue_callback(lambda: self._read_accumulated(task))

    def _read_accumulated(self, task: int) -> None:
        self._asked.discard(task)
        pending, self._pending = self._pending, []
        try:
            with torch.no_grad():
                self._note_accumulated(self._all_accumulated() if self._several else _alive(pending))
        except Exception as error:
            self._fail("gradients", error)

    def _all_accumulated(self) -> list[tuple[nn.Parameter, ParameterRecord]]:
        """DDP gives a gradient to a parameter that only other ranks have used, and no hook fires for it here."""
        alive = self._alive()
        for p, record in alive:
            record.fresh = record.fresh or (record.flat and p.grad is not None)
        return alive

    def _note_accumulated(self, of: list[tuple[nn.Parameter, ParameterRecord]]) -> None:
        # An optimizer that steps in the backward may have taken, and cleared, what had been accumulated.
        seen = [(as_parameter(p.grad, p), r) for p, r in of if p.grad is not None and not r.taken]
        found = [dense(grad) for grad, _ in seen]
        for (grad, record), values, norm in zip(seen, found, self._reducer.squares(found), strict=True):
            record.scaled = True
            if not record.keep_piece("grad", term_of(grad), values):
                record.accumulated = norm

    def fresh(self, among: set[int]) -> bool:
        """Whether a parameter among these ids has a gradient of this step and was not yet updated by its optimizer."""
        return any(id(p) in among and record.fresh and not record.taken for p, record in self._alive())

    def before_update(
        self, optimized: set[int] | None, stepping: set[int], *, scaled: bool = False, scale: int | None = None
    ) -> None:
        """Take weights and gradients of what `stepping` updates, and of what no optimizer does.

        `optimized` are the ids of all optimizers' parameters, None if there is no optimizer to ask. `scaled`: the
        gradients still hold the loss scale, since this optimizer takes it out itself. `scale`: its number.
        """
        others = optimized or set()
        waiting = [(p, r) for p, r in self._alive() if not r.updated and (id(p) in stepping or id(p) not in others)]
        for p, record in waiting:
            record.in_optimizer = optimized is None or id(p) in optimized
            record.requires_grad = p.requires_grad
            mine = id(p) in stepping
            record.clipped_scaled = scaled if mine else scale is not None  # nobody unscales what has no optimizer
            if mine and not record.taken:
                record.taken, record.scale = True, scale
        waiting = [(p, record) for p, record in waiting if has_norm(p)]
        self._read_weights([(p, r, p.requires_grad and id(p) in stepping and r.before is None) for p, r in waiting])
        self._read_gradients(waiting)

    def _read_weights(self, waiting: list[tuple[nn.Parameter, ParameterRecord, bool]]) -> None:
        """Norms of weights, if none is known yet; copies of those about to be updated, of large ones a sample."""
        small = [kept and local(p).numel() <= UPDATE_SAMPLE for p, _, kept in waiting]
        whole = [(p, r) for p, r, _ in compress(waiting, small)]
        for (_, record), (copy, norm) in zip(whole, self._reducer.keep([sample(p) for p, _ in whole]), strict=True):
            record.sums.setdefault("weight_squares", norm)
            record.before = copy
        rest = [one for one, alone in zip(waiting, small, strict=True) if not alone]
        norms = self._reducer.squares([local(p.detach()) for p, _, _ in rest])
        for (p, record, kept), norm in zip(rest, norms, strict=True):
            record.sums.setdefault("weight_squares", norm)
            if kept:
                record.before = sample(p).clone()

    def remember_weights(self) -> None:
        """Keep the weights of everything trainable now: for loops that only say when an update has been made."""
        self._always_updates = True
        alive = [(p, record) for p, record in self._alive() if has_norm(p)]
        for _, record in alive:
            record.sums.pop("weight_squares", None)
        self._read_weights([(p, record, p.requires_grad) for p, record in alive])

    def _read_gradients(self, pairs: list[tuple[nn.Parameter, ParameterRecord]]) -> None:
        """Norms, zeros and sizes of the gradients as the optimizer will see them."""
        seen = [(as_parameter(p.grad, p), record) for p, record in pairs if p.grad is not None and has_norm(p)]
        found = [dense(grad) for grad, _ in seen]
        for (grad, record), values, (norm, zeros) in zip(seen, found, self._reducer.norms(found), strict=True):
            record.has_grad = True
            if record.keep_piece("clipped", term_of(grad), values):
                continue
            record.sums["clipped_squares"], record.sums["grad_zeros"] = norm, zeros
            record.elements = local(grad.detach()).numel()
            record.absent = record.elements - values.numel()

    def after_update(self, *, read_gradients: bool) -> None:
        """Take the update that was applied; `read_gradients` for steps whose closure made the gradients."""
        waiting = [(p, r) for p, r in self._alive() if r.before is not None]
        if read_gradients:
            self._read_gradients(waiting)
        # An optimizer leaves alone what has no gradient: that is no update, not one of size 0.
        moved = [(sample(p), record) for p, record in waiting if record.has_grad or self._always_updates]
        pairs = [(after, r.before, r) for after, r in moved if r.before is not None and after.shape == r.before.shape]
        sums = self._reducer.updates([(after, before) for after, before, _ in pairs])
        for (_, _, record), (update, base) in zip(pairs, sums, strict=True):
            record.sums["update_squares"], record.sums["base_squares"] = update, base
            record.updated = record.has_grad
        for _, record in waiting:
            record.before = None

    def read_clipped(self) -> None:
        """Take the gradients once more, after clipping (where the first reading came before it)."""
        seen = [
            (as_parameter(p.grad, p), record) for p, record in self._alive() if p.grad is not None and record.has_grad
        ]
        found = [dense(grad) for grad, _ in seen]
        for (grad, record), values, norm in zip(seen, found, self._reducer.squares(found), strict=True):
            if not record.keep_piece("clipped", term_of(grad), values):
                record.sums["clipped_squares"] = norm

    def keep_as_unclipped(self) -> None:
        """The gradients read last are not yet clipped: take them for what they are."""
        for _, record in self._own:
            record.accumulated = record.sums.get("clipped_squares")
            if "clipped" in record.pieces:
                record.pieces["grad"] = record.pieces["clipped"]
            record.scaled = record.clipped_scaled

    def records(self) -> list[ParameterRecord]:
        """What was recorded, in model order."""
        return [record for _, record in self._own]

    def rest(self) -> None:
        """Remove the gradient hooks: no backward of this step is to come."""
        for *_, hooks in self._models:
            hooks.remove()

    def release(self) -> None:
        """Remove the gradient hooks and forget the step."""
        self.rest()
        self._own.clear()
        self._pending.clear()


def _alive(
    held: Iterable[tuple[weakref.ref[nn.Parameter], ParameterRecord]],
) -> list[tuple[nn.Parameter, ParameterRecord]]:
    return [(p, record) for ref, record in held if (p := ref()) is not None]


def ids_of(optimizers: Iterable[Optimizer]) -> set[int]:
    """The ids of all parameters of some optimizers."""
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
