"""Reading back what was saved with a checkpoint: every value is checked, since a checkpoint may hold anything.

What is saved are str, int, float, bool, None, list, dict and tensors of the host: PyTorch loads these with
`weights_only=True`, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def saved_tensor(state: Mapping[str, Any], name: str, dtype: torch.dtype, shape: Sequence[int] | None = None) -> Tensor:
    """A tensor of a saved state, copied to the host. Raises ValueError for anything else, and for another shape."""
    value = state.get(name)
    if not isinstance(value, Tensor) or value.is_complex() or value.layout != torch.strided:
        raise ValueError(f"{name} is no tensor")
    if shape is not None and tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name} has the shape {tuple(value.shape)} instead of {tuple(shape)}")
    return value.detach().to("cpu", dtype, copy=True)


def whole(state: Mapping[str, Any], name: str, *, none: bool = False) -> Any:
    """A whole number from 0, or None where that is allowed. Raises ValueError for anything else."""
    value = state.get(name)
    if value is None and none:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} cannot be {value!r:.40}")
    return value


def number(state: Mapping[str, Any], name: str, *, none: bool = False) -> Any:
    """A finite number, or None where that is allowed. Raises ValueError for anything else."""
    value = state.get(name)
    if value is None and none:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} cannot be {value!r:.40}")
    return float(value)


def mapping(state: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a saved state. Raises ValueError if it is missing."""
    value = state.get(name)
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is missing")
    return value


def items(state: Mapping[str, Any], name: str) -> list[Any]:
    """A list. Raises ValueError for anything else."""
    value = state.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value
