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
from torch.utils.hooks import RemovableHandle

from actdiag.names import clean_name

UPDATE_SAMPLE = 1 << 18
"""Elements of a parameter from which its update ratio is taken; larger ones are sampled at an odd stride, which
bounds the copy at 1 MB a parameter (relative standard error about 0.2 %)."""


class ParameterRecord:
    """What one parameter went through in the running step.

    `sums` are device numbers, 0-d float64: weight_squares, clipped_squares (the gradient as the optimizer sees
    it), grad_zeros, grad_elements, update_squares and base_squares (of the sampled elements). `accumulated` is
    the squared norm of the gradient before clipping, still multiplied by the loss scale where `scaled`.
    """

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        self.name = name
        self.in_optimizer = True
        self.scaled = False
        self.requires_grad = parameter.requires_grad
        self.has_grad = False
        self.updated = False
        self.accumulated: Tensor | None = None
        self.before: Tensor | None = None
        self.sums: dict[str, Tensor] = {}


def squares(x: Tensor) -> Tensor:
    """Sum of squares in float64, 0-d; float32 norms of gradients below 1e-23 are exactly 0."""
    dense = _dense(x)
    out = torch.float32 if dense.device.type == "mps" else torch.float64
    if dense.numel() == 0:
        return torch.zeros((), dtype=out, device=dense.device)
    return torch.linalg.vector_norm(dense, dtype=out).square()


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

    def watch(self) -> None:
        """Begin a recorded step: note every gradient's norm when it has been accumulated."""
        self.release()
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
            self._handles.append(parameter.register_post_accumulate_grad_hook(hook))

    def before_update(self, optimized: set[int] | None) -> None:
        """Take weights and gradients; `optimized` are the ids of the optimizer's parameters, None if unknown."""
        for ref, record in self._own:
            parameter = ref()
            if parameter is None or record.updated:
                continue
            record.in_optimizer = optimized is None or id(parameter) in optimized
            record.requires_grad = parameter.requires_grad
            record.sums["weight_squares"] = squares(parameter)
            if parameter.grad is not None:
                self.read_gradient(record, parameter.grad)
            if parameter.requires_grad and record.in_optimizer:
                record.before = _sample(parameter).clone()

    def read_gradient(self, record: ParameterRecord, grad: Tensor) -> None:
        """Norm, zeros and size of a gradient as the optimizer will see it."""
        record.has_grad = True
        dense = _dense(grad)
        record.sums["clipped_squares"] = squares(dense)
        record.sums["grad_zeros"] = (dense == 0).sum(dtype=record.sums["clipped_squares"].dtype)
        record.sums["grad_elements"] = torch.full_like(record.sums["grad_zeros"], grad.numel())
        if grad.layout == torch.sparse_coo:
            missing = grad.numel() - dense.numel()
            record.sums["grad_zeros"] = record.sums["grad_zeros"] + missing

    def after_update(self, *, read_gradients: bool) -> None:
        """Take the update that was applied; `read_gradients` for steps whose closure made the gradients."""
        for ref, record in self._own:
            parameter = ref()
            if parameter is None or record.updated:
                continue
            if read_gradients and parameter.grad is not None:
                self.read_gradient(record, parameter.grad)
            if record.before is None or record.before.device != parameter.device:
                continue
            after = _sample(parameter)
            if after.shape == record.before.shape:
                record.sums["update_squares"] = squares(after - record.before)
                record.sums["base_squares"] = squares(record.before)
            record.before = None
            record.updated = record.has_grad

    def read_clipped(self) -> None:
        """Take the gradients once more, after clipping (where the first reading came before it)."""
        for ref, record in self._own:
            parameter = ref()
            if parameter is not None and parameter.grad is not None and record.has_grad:
                record.sums["clipped_squares"] = squares(parameter.grad)

    def keep_as_unclipped(self) -> None:
        """The gradients read last are unscaled and unclipped: take them for what they are."""
        for _, record in self._own:
            record.accumulated = record.sums.get("clipped_squares")
            record.scaled = False

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
        if self._record is None or parameter.grad is None:
            return
        try:
            with torch.no_grad():
                self._record.accumulated = squares(parameter.grad)
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
