"""Norms of parameters and gradients, and the hook that tells when a gradient has been accumulated.

Nothing here synchronizes or is collective. Sparse gradients are coalesced; of a tensor that is divided among ranks,
this rank's part is taken.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from actdiag.collect.records import ParameterRecord
from actdiag.collect.spread import local

UPDATE_SAMPLE = 1 << 18
"""Elements of a parameter from which its update ratio is taken; larger ones are sampled at an odd stride, which
bounds the copy at 1 MB a parameter (relative standard error about 0.2 %)."""


def squares(tensors: list[Tensor]) -> list[Tensor]:
    """Sums of squares in float64, 0-d, of dense tensors; float32 norms of gradients below 1e-23 are exactly 0."""
    if not tensors:
        return []
    out = torch.float32 if any(x.device.type == "mps" for x in tensors) else torch.float64
    filled = [_real(x.detach()) if x.numel() else torch.zeros(1, device=x.device) for x in tensors]
    return [norm.square() for norm in torch._foreach_norm(filled, 2, dtype=out)]


def has_norm(x: Tensor) -> bool:
    """Whether a parameter has numbers to take a norm of: not integers, float8, quantized ones, or a shape on meta."""
    return (x.dtype in _WITH_NORM or x.is_complex()) and not (x.is_quantized or x.is_meta)


_WITH_NORM = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def dense(x: Tensor) -> Tensor:
    """This rank's part of a gradient without its graph; of a sparse one, the values that it has."""
    x = local(x.detach())
    if x.layout == torch.sparse_coo:
        return x.coalesce().values()
    return x


def sample(x: Tensor) -> Tensor:
    """This rank's part of a parameter, flat; of a large one at most UPDATE_SAMPLE elements or a few more. A view."""
    flat = local(x.detach()).reshape(-1)
    return flat if flat.numel() <= UPDATE_SAMPLE else flat[:: (flat.numel() // UPDATE_SAMPLE) | 1]


class Accumulated:
    """Post-accumulate hook of one parameter: has its gradient read when the backward is over. Copies are inert."""

    def __init__(
        self,
        record: ParameterRecord | None,
        fail: Callable[[str, Exception], None] | None,
        ask: Callable[[torch.nn.Parameter, ParameterRecord], None] | None,
    ) -> None:
        self._record, self._fail, self._ask = record, fail, ask

    def __call__(self, parameter: torch.nn.Parameter) -> None:
        # What another loss adds after the optimizer has stepped (a GAN's generator, to the discriminator) is not
        # of this update.
        record = self._record
        if record is None or parameter.grad is None:
            return
        if record.taken:
            record.mixed = True
            return
        record.fresh = True
        try:
            if self._ask is not None:
                self._ask(parameter, record)
        except Exception as error:
            if self._fail is not None:
                self._fail(record.name, error)

    def __deepcopy__(self, memo: object) -> Accumulated:
        return Accumulated(None, None, None)

    def __reduce__(self) -> tuple[type[Accumulated], tuple[None, None, None]]:
        return Accumulated, (None, None, None)


def queue_callback(work: Callable[[], None]) -> None:
    """Have the running backward call this at its end, after what was asked before."""
    torch.autograd.Variable._execution_engine.queue_callback(work)
