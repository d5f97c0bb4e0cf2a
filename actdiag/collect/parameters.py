"""Weights, gradients and the update really applied, per parameter, around one optimizer step.

Order of a recorded step: `watch` (before the forward) -> gradients accumulate, each norm taken as it does, before
any clipping -> `before_update` (weights, gradients after clipping) -> `after_update` (weights again). Everything
stays on the device; nothing here synchronizes or is collective. Sparse gradients are coalesced.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from actdiag.collect.moments import count
from actdiag.names import clean_name

UPDATE_SAMPLE = 1 << 18
"""Elements of a parameter from which its update ratio is taken; larger ones are sampled at an odd stride, which
bounds the copy at 1 MB a parameter (relative standard error about 0.2 %)."""


class ParameterRecord:
    """What one parameter went through in the running step.

    `sums` are device numbers, 0-d float64: weight_squares, clipped_squares (the gradient as the optimizer sees
    it), grad_zeros, update_squares and base_squares (of the sampled elements). `elements` is the size of the
    gradient, `absent` how many of them a sparse one leaves out. `accumulated` is the squared norm of the gradient
    before clipping, still multiplied by the loss scale where `scaled`; clipped_squares are so where
    `clipped_scaled` (the optimizer divides by the scale itself). `scale` is the number of that scale among those of the
    step, None for 1. `fresh`: it has a gradient of this step; `taken`: its optimizer has stepped; `mixed`: another
    loss came through it after that.
    """

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        self.name = name
        self.in_optimizer = True
        self.scaled = False
        self.clipped_scaled = False
        self.scale: int | None = None
        self.fresh = False
        self.mixed = False
        self.requires_grad = parameter.requires_grad
        self.has_grad = False
        self.elements = 0
        self.absent = 0
        self.updated = False
        self.taken = False
        self.accumulated: Tensor | None = None
        self.before: Tensor | None = None
        self.sums: dict[str, Tensor] = {}


def squares(tensors: list[Tensor]) -> list[Tensor]:
    """Sums of squares in float64, 0-d, of dense tensors; float32 norms of gradients below 1e-23 are exactly 0."""
    if not tensors:
        return []
    out = torch.float32 if any(x.device.type == "mps" for x in tensors) else torch.float64
    filled = [_real(x.detach()) if x.numel() else torch.zeros(1, device=x.device) for x in tensors]
    return [norm.square() for norm in torch._foreach_norm(filled, 2, dtype=out)]


def has_norm(x: Tensor) -> bool:
    """Whether a parameter has numbers to take a norm of: not integers, float8, quantized ones, or a shape on meta."""
    return (x.dtype in _WITH_NORM or x.is_complex()) and not x.is_quantized and x.device.type != "meta"


_WITH_NORM = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _dense(x: Tensor) -> Tensor:
    x = x.detach()
    if x.layout == torch.sparse_coo:
        return x.coalesce().values()
    return x


def _sample(x: Tensor) -> Tensor:
    flat = x.detach().reshape(-1)
    return flat if flat.numel() <= UPDATE_SAMPLE else flat[:: (flat.numel() // UPDATE_SAMPLE) | 1]


class ParameterWatch:
    """Records the parameters of named models over one optimizer step. Holds the parameters weakly."""

    def __init__(self, named: Iterable[tuple[str, nn.Module]], fail: Callable[[str, Exception], None]) -> None:
        self._models = [(name, weakref.ref(module)) for name, module in named]
        self._fail = fail
        self._handles: list[RemovableHandle] = []
        self._own: list[tuple[weakref.ref[nn.Parameter], ParameterRecord]] = []
        self._always_updates = False

    def watch(self) -> None:
        """Begin a recorded step: note every gradient's norm when it has been accumulated."""
        self.release()
        self._always_updates = False
        seen: set[int] = set()
        for prefix, ref in self._models:
            module = ref()
            for path, parameter in module.named_parameters() if module is not None else ():
                if id(parameter) in seen or isinstance(parameter, nn.parameter.UninitializedParameter):
                    continue
                seen.add(id(parameter))
                name = ".".join(part for part in (prefix, clean_name(path)) if part)
                self._watch_one(ParameterRecord(name, parameter), parameter)

    def _watch_one(self, record: ParameterRecord, parameter: nn.Parameter) -> None:
        self._own.append((weakref.ref(parameter), record))
        if parameter.requires_grad and parameter.is_leaf:
            hook = _Accumulated(record, self._fail)
            self._handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]

    def _alive(self) -> list[tuple[nn.Parameter, ParameterRecord]]:
        return [(p, record) for ref, record in self._own if (p := ref()) is not None]

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
        weights = squares([p for p, _ in waiting])
        for (p, record), weight in zip(waiting, weights, strict=True):
            record.sums.setdefault("weight_squares", weight)
            if p.requires_grad and id(p) in stepping and record.before is None:
                record.before = _sample(p).clone()
        self._read_gradients(waiting)

    def remember_weights(self) -> None:
        """Keep the weights of everything trainable now: for loops that only say when an update has been made."""
        self._always_updates = True
        alive = [(p, record) for p, record in self._alive() if has_norm(p)]
        for (p, record), weight in zip(alive, squares([p for p, _ in alive]), strict=True):
            record.sums["weight_squares"] = weight
            if p.requires_grad:
                record.before = _sample(p).clone()

    def _read_gradients(self, pairs: list[tuple[nn.Parameter, ParameterRecord]]) -> None:
        """Norms, zeros and sizes of the gradients as the optimizer will see them."""
        seen = [(p.grad, record) for p, record in pairs if p.grad is not None and has_norm(p)]
        dense = [_dense(grad) for grad, _ in seen]
        for (grad, record), values, norm in zip(seen, dense, squares(dense), strict=True):
            record.has_grad = True
            record.sums["clipped_squares"] = norm
            record.sums["grad_zeros"] = count(torch.eq, values.abs() if values.is_complex() else values, 0.0)
            record.elements = grad.numel()
            record.absent = grad.numel() - values.numel()

    def after_update(self, *, read_gradients: bool) -> None:
        """Take the update that was applied; `read_gradients` for steps whose closure made the gradients."""
        waiting = [(p, r) for p, r in self._alive() if r.before is not None]
        if read_gradients:
            self._read_gradients(waiting)
        # An optimizer leaves alone what has no gradient: that is no update, not one of size 0.
        moved = [(_sample(p), record) for p, record in waiting if record.has_grad or self._always_updates]
        pairs = [(after, r.before, r) for after, r in moved if r.before is not None and after.shape == r.before.shape]
        updates = squares([after - before for after, before, _ in pairs])
        bases = squares([before for _, before, _ in pairs])
        for (_, _, record), update, base in zip(pairs, updates, bases, strict=True):
            record.sums["update_squares"], record.sums["base_squares"] = update, base
            record.updated = record.has_grad
        for _, record in waiting:
            record.before = None

    def read_clipped(self) -> None:
        """Take the gradients once more, after clipping (where the first reading came before it)."""
        seen = [(_dense(p.grad), record) for p, record in self._alive() if p.grad is not None and record.has_grad]
        for (_, record), norm in zip(seen, squares([grad for grad, _ in seen]), strict=True):
            record.sums["clipped_squares"] = norm

    def keep_as_unclipped(self) -> None:
        """The gradients read last are not yet clipped: take them for what they are."""
        for _, record in self._own:
            record.accumulated = record.sums.get("clipped_squares")
            record.scaled = record.clipped_scaled

    def records(self) -> list[ParameterRecord]:
        """What was recorded, in model order."""
        return [record for _, record in self._own]

    def release(self) -> None:
        """Remove the gradient hooks and forget the step."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._own.clear()


class _Accumulated:
    """Post-accumulate hook of one parameter: the norm of its gradient so far. Copies are inert."""

    def __init__(self, record: ParameterRecord | None, fail: Callable[[str, Exception], None] | None) -> None:
        self._record, self._fail = record, fail

    def __call__(self, parameter: Tensor) -> None:
        # What another loss adds after the optimizer has stepped (a GAN's generator, to the discriminator) is not
        # of this update.
        if self._record is None or parameter.grad is None:
            return
        if self._record.taken:
            self._record.mixed = True
            return
        self._record.fresh = True
        try:
            with torch.no_grad():
                (self._record.accumulated,) = squares([_dense(parameter.grad)])
                self._record.scaled = True
        except Exception as error:
            if self._fail is not None:
                self._fail(self._record.name, error)

    def __deepcopy__(self, memo: object) -> _Accumulated:
        return _Accumulated(None, None)

    def __reduce__(self) -> tuple[type[_Accumulated], tuple[None, None]]:
        return _Accumulated, (None, None)


def pack_record(record: ParameterRecord) -> Mapping[str, Tensor]:
    """The device numbers of a record, the unclipped gradient norm beside the others."""
    sums = dict(record.sums)
    if record.accumulated is not None:
        sums["grad_squares"] = record.accumulated
    return sums


def ids_of(optimizers: Iterable[Optimizer]) -> set[int]:
    """The ids of all parameters of some optimizers."""
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
