"""From any tensor in a forward pass to one shape: which elements belong to which unit and which sample.

Legend: N batch, C units, H, W space, T positions of a sequence, P positions within a sample, S samples.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LocalResponseNorm,
)


_FEATURES_LAST = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)
_MEASURED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Units(NamedTuple):
    """A tensor seen as samples x positions x units.

    `x` has three dimensions; dimension 0 counts samples, `unit_dim` (1 or 2) the units, the other one the
    positions within a sample. A sample is an image or a volume, whose positions are not independent of each
    other, but one token of a sequence.
    """

    x: Tensor
    unit_dim: int

    @property
    def samples(self) -> int:
        return self.x.shape[0]

    @property
    def units(self) -> int:
        return self.x.shape[self.unit_dim]

    @property
    def reduced(self) -> tuple[int, int]:
        """The two dimensions to reduce over to be left with one number a unit."""
        return 0, 3 - self.unit_dim

    def units_last(self) -> Tensor:
        """The same elements with the units as last dimension (a view)."""
        return self.x.movedim(self.unit_dim, -1)


def arrange(x: Tensor, unit_dim: int) -> Units:
    """View a tensor by samples, positions and units; copies only where memory order forces it.

    - last dimension (N,F), (N,T,F), (T,N,F): every row is a sample.
    - dimension 1 of (N,C,H,W): a sample is an image; channels_last memory is read in its own order.
    - 0-d and 1-d tensors are one unit.
    """
    if x.ndim <= 1:
        return Units(x.reshape(-1, 1, 1), 2)
    dim = unit_dim % x.ndim
    if dim == x.ndim - 1:
        return Units(x.reshape(-1, 1, x.shape[-1]), 2)
    if dim != 1:
        return arrange(x.movedim(dim, 1), 1)
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        return Units(x.permute(0, 2, 3, 1).flatten(1, 2), 2)
    return Units(x.flatten(2), 1)


def unit_dim_of(module: nn.Module, x: Tensor) -> int | None:
    """Which dimension of its output counts the units of a layer; None for a module that does not fix it."""
    if isinstance(module, _CHANNELS_FIRST):
        return 1 if x.ndim > 1 else 0
    return max(x.ndim - 1, 0) if isinstance(module, _FEATURES_LAST) else None


def default_unit_dim(x: Tensor) -> int:
    """Without knowledge of the layer before: channels of images and volumes, features of everything else."""
    return 1 if x.ndim >= 4 else x.ndim - 1


def first_tensor(value: Any) -> Tensor | None:
    """The primary tensor of a module's output: of a tuple, list, dict, dataclass or PackedSequence the first one
    that can be measured, in order; else the first tensor, for its reason; None if there is none."""
    if isinstance(value, Tensor):
        return value
    found = find_tensor(value, _can_be_measured)
    return find_tensor(value, lambda x: True) if found is None else found


def _can_be_measured(x: Tensor) -> bool:
    return refusal(x) is None


def find_tensor(value: Any, fits: Callable[[Tensor], bool]) -> Tensor | None:
    """The first tensor that fits, in order. torch.compile traces this: no generators, no state."""
    if isinstance(value, Tensor):
        return value if fits(value) else None
    for item in children_of(value):
        found = find_tensor(item, fits)
        if found is not None:
            return found
    return None


def children_of(value: Any) -> Iterable[Any]:
    """What is directly inside a container that models give or take: mappings, sequences, dataclasses, packed ones."""
    if type(value) is tuple or type(value) is list:  # what most of them are; to be a Mapping takes longer to deny
        return value
    if isinstance(value, nn.utils.rnn.PackedSequence):
        return [value.data]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, (tuple, list)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, spec.name) for spec in dataclasses.fields(value)]
    return ()


def refusal(x: Tensor) -> str | None:
    """Why a tensor cannot be measured, or None if it can be.

    Measured are strided tensors of 16, 32 or 64 bit floating point with data. Complex, integer, bool, float8,
    sparse, nested, quantized, meta and empty ones are reported as not observed, with this reason.
    """
    if type(x) not in (Tensor, nn.Parameter):
        return f"a tensor subclass, {type(x).__name__}"
    if x.is_nested:
        return "a nested tensor"
    if x.layout != torch.strided:
        return f"{x.layout} layout"
    if x.is_quantized:
        return "a quantized tensor"
    if x.dtype not in _MEASURED:
        return f"dtype {str(x.dtype).removeprefix('torch.')}"
    if x.is_meta:
        return "a meta tensor"
    return "an empty tensor" if x.numel() == 0 else None
