"""The optimizers that a door is given, and those inside of the wrappers that libraries put around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from actdiag.config import ConfigError


def given_optimizers(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    """The optimizers that step, of what a caller has given. Raises ConfigError for anything else."""
    found: list[Any] = [optimizer]
    if optimizer is None or isinstance(optimizer, Sequence):
        found = list(optimizer or ())
    for one in found:
        if not isinstance(one, Optimizer):
            raise ConfigError(
                f"optimizer must be a torch.optim.Optimizer, a list of them, or None; got {type(one).__name__}"
            )
    return [inner_optimizer(one) for one in found]


def inner_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer that steps, inside a wrapper of Accelerate, Fabric or Lightning, which has no hooks of its own."""
    while "_optimizer_step_pre_hooks" not in vars(optimizer):
        inner = getattr(optimizer, "optimizer", None) or getattr(optimizer, "optim", None)
        if not isinstance(inner, Optimizer):
            break
        optimizer = inner
    return optimizer
