"""What is noted of one parameter over one optimizer step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from actdiag.collect.number import Number
from actdiag.collect.spread import Share, Term

LARGEST_PIECE = 1 << 18
"""Elements of a gradient that ranks may send each other; of a larger one nothing is told."""


class ParameterRecord:
    """What one parameter went through in the running step.

    `sums` are numbers on the device: weight_squares, clipped_squares (the gradient as the optimizer sees
    it), grad_zeros, update_squares and base_squares (of the sampled elements). `elements` is the size of the
    gradient, `absent` how many of them a sparse one leaves out. `accumulated` is the squared norm of the gradient
    before clipping, still multiplied by the loss scale where `scaled`; clipped_squares are so where
    `clipped_scaled` (the optimizer divides by the scale itself). `scale` is the number of that scale among those of the
    step, None for 1. `fresh`: it has a gradient of this step; `taken`: its optimizer has stepped; `mixed`: another
    loss came through it after that. `part`: this rank has a part of it; `copied`: another rank has the
    same part; `flat`: FSDP1 manages it, and no hook fires when its gradient is there.

    `pieces`: gradients to which other ranks have still to add theirs, whole, by the name of their value; `term`: which
    shard of the parameter they are of.
    """

    def __init__(self, name: str, parameter: nn.Parameter, share: Share) -> None:
        self.name = name
        self.in_optimizer = True
        self.scaled = False
        self.clipped_scaled = False
        self.scale: int | None = None
        self.fresh = False
        self.mixed = False
        self.flat = False
        self.part, self.copied = share
        self.requires_grad = parameter.requires_grad
        self.has_grad = False
        self.elements = 0
        self.absent = 0
        self.updated = False
        self.taken = False
        self.accumulated: Number | None = None
        self.before: Tensor | None = None
        self.sums: dict[str, Number] = {}
        self.pieces: dict[str, Tensor] = {}
        self.term: Term | None = None

    def keep_piece(self, value: str, term: Term | None, gradient: Tensor) -> bool:
        """Keep a gradient that is a term of a sum, if it is one; its norm alone would tell nothing of the sum's."""
        self.term = term
        if term is None:
            return False
        if not term.copied and gradient.numel() <= LARGEST_PIECE:
            self.pieces[value] = gradient.reshape(-1).to(torch.float64, copy=True) * term.weight
        return True


def pack_record(record: ParameterRecord) -> Mapping[str, Number]:
    """The device numbers of a record, the unclipped gradient norm beside the others."""
    sums = dict(record.sums)
    if record.accumulated is not None:
        sums["grad_squares"] = record.accumulated
    return sums
