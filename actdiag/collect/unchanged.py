"""Run a step and leave no trace of it: what a forward and a backward change is put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_TABLES = ("_buffers", "_parameters", "_modules")


@contextmanager
def unchanged(roots: Sequence[nn.Module]) -> Iterator[None]:
    """Whatever happens inside, also an exception: gradients, buffers, training flags and random numbers come back.

    Buffers come back as the same tensors with the same values, also where a forward put another tensor in their place;
    attributes that a forward sets on a module of the user's come back with them, as a cache and its length belong
    together. What it changes inside a list or another object of one's own stays. Gradients are None inside. Random
    numbers are torch's on every device, Python's, and NumPy's if it is loaded. Costs a copy of all buffers.
    """
    modules = [module for root in roots for module in root.modules()]
    grads = [(p, p.grad) for root in roots for p in root.parameters()]
    attributes = [(module, dict(vars(module)), _tables(module)) for module in modules]
    values = [(b, b.detach().clone()) for root in roots for b in root.buffers()]
    drawn = _random_state()
    for p, _ in grads:
        p.grad = None
    try:
        yield
    finally:
        for p, grad in grads:
            p.grad = grad
        for module, held, tables in attributes:
            _put_back(module, held, tables)
        with torch.no_grad():
            for buffer, was in values:
                buffer.copy_(was)
        _set_random_state(*drawn)


def _tables(module: nn.Module) -> dict[str, dict[str, Any]]:
    return {name: dict(getattr(module, name)) for name in _TABLES}


def _put_back(module: nn.Module, held: dict[str, Any], tables: dict[str, dict[str, Any]]) -> None:
    """Attributes of torch's own modules stay: a wrapper that has set itself up at its first call remains so."""
    if type(module).__module__.partition(".")[0] != "torch":
        vars(module).clear()
        vars(module).update(held)
    module.training = held["training"]
    for name, table in tables.items():
        getattr(module, name).clear()
        getattr(module, name).update(table)


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
