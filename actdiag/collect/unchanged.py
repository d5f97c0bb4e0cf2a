"""Run a step and leave no trace of it: what a forward and a backward change is put back."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from actdiag.collect.layout import children_of

_TABLES = ("_buffers", "_parameters", "_modules")


@contextmanager
def unchanged(roots: Sequence[nn.Module], tensors: Iterable[Tensor] = ()) -> Iterator[None]:
    """Whatever happens inside, also an exception: the roots, gradients of `tensors` and random numbers come back.

    Of the roots: parameters, gradients, buffers (the same tensors with the same values), training flags, and attributes
    that a forward sets on a module of the user's, as a cache and its length belong together. What it changes inside a
    list or another object of one's own stays. Inside, gradients are None, and hooks that run after a gradient has been
    accumulated (an optimizer in the backward) are off. Random numbers are torch's on every device, Python's, and
    NumPy's if it is loaded. Costs a copy of all parameters and buffers.
    """
    modules = [m for root in roots for m in root.modules() if not isinstance(m, torch.jit.ScriptModule)]
    held = [*(p for root in roots for p in root.parameters()), *(b for root in roots for b in root.buffers())]
    with ExitStack() as after:  # each of these is done, whatever becomes of the others; the last one first
        after.callback(_set_random_state, *_random_state())
        for leaf in (*held, *tensors):
            if leaf.is_leaf and leaf.requires_grad:
                after.callback(setattr, leaf, "grad", leaf.grad)
                leaf.grad = None
                _silence(leaf, after)
        for module in modules:
            tables = {name: dict(getattr(module, name)) for name in _TABLES}
            after.callback(_put_attributes_back, module, dict(vars(module)), tables, module.training)
        for tensor in held:
            if tensor.untyped_storage().nbytes():  # FSDP1 frees them between the steps
                after.callback(_put_value_back, tensor, tensor.data, tensor.detach().clone())
        yield


def _silence(leaf: Tensor, after: ExitStack) -> None:
    hooks: dict[int, Callable[..., None]] | None = getattr(leaf, "_post_accumulate_grad_hooks", None)
    if hooks:
        after.callback(hooks.update, dict(hooks))
        hooks.clear()


def _put_value_back(tensor: Tensor, data: Tensor, was: Tensor) -> None:
    with torch.no_grad():
        tensor.data = data
        tensor.data.copy_(was)


def _put_attributes_back(
    module: nn.Module, held: dict[str, Any], tables: dict[str, dict[str, Any]], training: bool
) -> None:
    """Attributes of torch's own modules stay: a wrapper that has set itself up at its first call remains so."""
    if type(module).__module__.partition(".")[0] != "torch":
        vars(module).clear()
        vars(module).update(held)
    for name, table in tables.items():
        getattr(module, name).clear()
        getattr(module, name).update(table)
    module.training = training


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


def modules_in(function: Any) -> list[nn.Module]:
    """The modules that a function may run, as far as they can be seen.

    Itself; what it is bound to, its closure and bound arguments, and attributes of these that are modules.
    """
    parts = [function, *_behind(function)]
    parts += [value for part in parts if not isinstance(part, nn.Module) for value in _attributes(part)]
    return list({id(part): part for part in parts if isinstance(part, nn.Module)}.values())


def _behind(function: Any) -> list[Any]:
    if isinstance(function, functools.partial):
        return [function.func, *_behind(function.func), *function.args, *function.keywords.values()]
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_filled(cell)]
    return [getattr(function, "__self__", None), *cells]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _attributes(value: Any) -> Iterable[Any]:
    return list(getattr(value, "__dict__", {}).values())


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    for item in children_of(value):
        yield from tensors_in(item)
