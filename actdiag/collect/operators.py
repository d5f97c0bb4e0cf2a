"""The operators through which compiled code tells its hooks what they ask for.

An operator is given tensors and numbers only. Which hook a call belongs to is the value of a CPU tensor, so that
blocks of the same class, which differ in nothing else, go on sharing one graph; a function call, which belongs to
no module, has a plain number. The operators return nothing and are marked as having an effect: that keeps them in
the graph, and keeps their order.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


class Listener(Protocol):
    """What an operator calls. None of these may raise."""

    def run(self, out: Tensor, given: Tensor | None, call: int) -> None: ...
    def run_early(self, x: Tensor, call: int) -> None: ...
    def run_gradient(self, g: Tensor, call: int) -> None: ...


# The way from a number back to its hook has to be global, as the operators themselves are. Hooks are held weakly; a
# number whose hook is gone does nothing.
_LISTENERS: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_NUMBERS = iter(range(1, 1 << 62))


def enter(listener: Listener) -> int:
    """The number under which operators find this hook, as long as it lives."""
    number = next(_NUMBERS)
    _LISTENERS[number] = listener
    return number


def _find(hook: Tensor | None, number: int) -> Listener | None:
    return _LISTENERS.get(number if hook is None else int(hook.numpy()[0]))


def _observe(out: Tensor, given: Tensor | None, hook: Tensor | None, number: int, call: int) -> None:
    listener = _find(hook, number)
    if listener is not None:
        listener.run(out, given, call)


def _observe_input(x: Tensor, hook: Tensor | None, number: int, call: int) -> None:
    listener = _find(hook, number)
    if listener is not None:
        listener.run_early(x, call)


def _observe_gradient(g: Tensor, hook: Tensor | None, number: int, call: int) -> None:
    listener = _find(hook, number)
    if listener is not None:
        listener.run_gradient(g, call)


def _define(name: str, function: Callable[..., None], tensors: str) -> None:
    """Register an operator that must not be captured in a CUDA graph: a replayed graph runs no Python."""
    from torch._higher_order_ops.effects import _EffectType, _register_effectful_op

    tag = getattr(torch.Tag, "cudagraph_unsafe", None)
    options: dict[str, Any] = {"tags": (tag,)} if tag is not None else {}
    schema = f"({tensors}, Tensor? hook, int number, int call) -> ()"
    operator: Any = torch.library.custom_op(f"actdiag::{name}", function, mutates_args=(), schema=schema, **options)
    operator.register_fake(lambda *args: None)
    _register_effectful_op(operator._opoverload, _EffectType.ORDERED)


@functools.cache
def define() -> bool:
    """Make the operators known to torch, once; whether this torch can trace our hooks with them.

    Not done at import: a training that compiles nothing does not load the compiler.
    """
    try:
        _define("observe", _observe, "Tensor out, Tensor? given")
        _define("observe_input", _observe_input, "Tensor x")
        _define("observe_gradient", _observe_gradient, "Tensor g")
    except Exception:
        return False
    return True
