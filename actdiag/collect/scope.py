"""Where in the model the forward pass is: a stack of module names, and how often each site was called.

A call of a module from outside any other (depth 0) starts a new forward of that part: the call numbers below it
start again, so that the micro-batches of one step meet at the same sites.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from actdiag.collect.tracing import Tracing, constant


def untraceable() -> bool:
    """Whether a compiler, an exporter or a functorch transform is looking at this call: hooks then keep still."""
    if torch.compiler.is_compiling() or torch._C._is_tracing():
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


class Scope:
    """The stack of module names of the forward that is running."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.following = False
        self._calls: dict[str, int] = {}

    def clear(self) -> None:
        """Nothing is running and nothing was called."""
        self.stack.clear()
        self._calls.clear()

    def next_call(self, key: str, traced: int | None = None) -> int:
        """The number of this call of `key` in the running forward, from 0.

        Called from outside any module, each call is a forward of its own; inside compiled code it has the number
        it had when the code was traced.
        """
        if not self.stack:
            return traced or 0
        index = self._calls.get(key, 0)
        self._calls[key] = index + 1
        return index

    def push(self, name: str) -> None:
        """A module's forward begins."""
        if not self.stack:
            self._restart(name)
        self.stack.append(name)

    def pop(self, name: str) -> None:
        """A module's forward ends, or was left by an exception."""
        if self.stack and self.stack[-1] == name:
            self.stack.pop()

    def _restart(self, name: str) -> None:
        if not name:
            self._calls.clear()
            return
        below = (f"{name}.", f"{name}/", f"{name}#")
        self._calls = {k: v for k, v in self._calls.items() if k != name and not k.startswith(below)}


class ScopeHook:
    """Pushes and pops one module's name. Copies of a hooked model carry an inert hook."""

    def __init__(self, name: str, scope: Scope, on_enter: Callable[[], None], on_leave: Callable[[], None]) -> None:
        self.name, self._scope = name, scope
        self._on_enter, self._on_leave = on_enter, on_leave
        self._tracing: Tracing | None = None

    @constant
    def trace_enter(self) -> int:
        """The trace goes into the module."""
        if self._tracing is not None:
            self._tracing.enter(self.name)
        return 0

    @constant
    def trace_leave(self) -> int:
        """The trace has left the module."""
        if self._tracing is not None:
            self._tracing.leave(self.name)
        return 0

    def enter(self, module: nn.Module, args: Any) -> None:
        """Forward pre-hook."""
        if torch.compiler.is_dynamo_compiling():
            self.trace_enter()
            return
        if untraceable():
            return
        if self._scope.following and not self._scope.stack:
            self._on_enter()  # it may end a step, and the next one may not be observed
        if self._scope.following:
            self._scope.push(self.name)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook, called on exceptions too."""
        if torch.compiler.is_dynamo_compiling():
            self.trace_leave()
            return
        if untraceable():
            return
        self._scope.pop(self.name)
        if not self._scope.stack:
            self._on_leave()

    def attach(self, module: nn.Module, tracing: Tracing) -> list[RemovableHandle]:
        """Both hooks, the pre-hook first in line."""
        self._tracing = tracing
        return [
            module.register_forward_pre_hook(Silent(self.enter), prepend=True),
            module.register_forward_hook(Silent(self.leave), always_call=True),
        ]


class Silent:
    """A hook that copies and pickles as a hook that does nothing.

    A closure or a bound method would be deep-copied with the model and go on recording from the copy, or keep the
    model from being saved. What it becomes is of the standard library, so that a saved model loads without actdiag.
    """

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._call(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return contextlib.nullcontext().__exit__

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return getattr, (contextlib.nullcontext(), "__exit__")
