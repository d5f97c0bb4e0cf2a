"""Run a step and leave no trace of it: what a forward and a backward change is put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def unchanged(roots: Sequence[nn.Module]) -> Iterator[None]:
    """Whatever happens inside, also an exception: gradients, buffers, training flags and random numbers come back.

    Buffers come back as the same tensors with the same values, also where a forward put another tensor in their place.
    Gradients are None inside. Random numbers are torch's on every device, Python's, and NumPy's if it is loaded.
    Attributes that are neither parameters nor buffers are not known and stay as the forward left them. Costs a copy
    of all buffers.
    """
    modules = [module for root in roots for module in root.modules()]
    grads = [(p, p.grad) for root in roots for p in root.parameters()]
    buffers = [(module, dict(module._buffers)) for module in modules]
    values = [(b, b.detach().clone()) for root in roots for b in root.buffers()]
    flags = [(module, module.training) for module in modules]
    drawn = _random_state()
    for p, _ in grads:
        p.grad = None
    try:
        yield
    finally:
        for p, grad in grads:
            p.grad = grad
        _put_back(buffers, values)
        for module, training in flags:
            module.training = training
        _set_random_state(*drawn)


def _put_back(
    buffers: Sequence[tuple[nn.Module, dict[str, Tensor | None]]], values: Sequence[tuple[Tensor, Tensor]]
) -> None:
    for module, held in buffers:
        module._buffers.clear()
        module._buffers.update(held)
    with torch.no_grad():
        for buffer, was in values:
            buffer.copy_(was)


def _random_state() -> tuple[Tensor, list[Tensor], Any, Any]:
    numpy = sys.modules.get("numpy")
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), devices, random.getstate(), None if numpy is None else numpy.random.get_state()


def _set_random_state(host: Tensor, devices: list[Tensor], python: Any, numpy: Any) -> None:
    torch.set_rng_state(host)
    if devices:
        torch.cuda.set_rng_state_all(devices)
    random.setstate(python)
    if numpy is not None:
        sys.modules["numpy"].random.set_state(numpy)
