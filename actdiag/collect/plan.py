"""What kernels read of an activation's facts: bounds as the eager functions compare with them, and tabulated gates."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.slopes import Over

FORMS = {None: 0, "open": 1, "square": 2, "table": 3}
TABLE = (-20.0, 20.0, 8192)
"""Range and steps of tabulated gates: linear between entries 1/205 apart, which is right to 5e-6 (Softsign: 8e-6);
flat beyond."""
PACKED = (4, 500_000)
"""The form of a table in words, and the parts of 1 in them: rounding adds 1e-6 to the 5e-6 above."""
_BITS = 12


class Plan(NamedTuple):
    """`form`: of FORMS; 0 where there is no gate or kernels do not know it. NaN: no such bound."""

    form: int
    closed: tuple[float, float]
    ends: tuple[float, float]
    square: tuple[float, float, float]


def plan_of(facts: ActivationFacts, dtype: torch.dtype) -> Plan:
    """Bounds as the eager functions compare with them: closed ones, and those of what clips, in the tensor's own dtype.

    Other saturated ends are compared in float64, which is the same as with the next float32 inside.
    """

    def rounded(bound: float) -> float:
        # By way of numpy: a plan is made inside a hook, where no operation of torch may read a value.
        return float(torch.tensor(bound, dtype=torch.float64, device="cpu").to(dtype).double().numpy())

    low_end, high_end = facts.saturated_low, facts.saturated_high
    if facts.clips:
        low, high = (math.nan if end is None else rounded(end) for end in (low_end, high_end))
    else:
        low, high = inward(low_end, -math.inf), inward(high_end, math.inf)
    shut, full = (rounded(end) if math.isfinite(end) else math.nan for end in (facts.closed_low, facts.closed_high))
    form = FORMS[facts.form] if facts.gate is not None else 0
    return Plan(form, (shut, full), (low, high), facts.square)


def inward(bound: float | None, towards: float) -> float:
    """The nearest float32 that lies at the bound or beyond it; NaN for no bound."""
    if bound is None:
        return math.nan
    near = np.float32(bound)
    beyond = float(near) > bound if towards < 0 else float(near) < bound
    return float(np.nextafter(near, np.float32(towards)) if beyond else near)


def table_of(facts: ActivationFacts, device: torch.device) -> Tensor | None:
    """Entries of a tabulated gate, float32, computed on the device; None where the form is another one."""
    if facts.gate is None or facts.form != "table":
        return None
    gate = facts.gate.signed if isinstance(facts.gate, Over) else facts.gate
    low, high, steps = TABLE
    return gate(torch.linspace(low, high, steps + 1, dtype=torch.float64, device=device)).float().contiguous()


def packed(table: Tensor) -> Tensor | None:
    """Each entry and its distance to the next in one word, int32: 20 bits and 12, so that a kernel reads once.

    None where one does not fit: gates of outputs grow beyond 1 where no output can be.
    """
    entries = np.rint(table.numpy().astype(np.float64) * PACKED[1])
    steps = np.diff(entries, append=entries[-1:])
    if np.abs(entries).max() >= 2 ** (31 - _BITS) or np.abs(steps).max() >= 2 ** (_BITS - 1):
        return None
    words = entries.astype(np.int64) * 2**_BITS + (steps.astype(np.int64) & (2**_BITS - 1))
    return torch.from_numpy(words.astype(np.int32))
