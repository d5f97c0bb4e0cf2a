"""Activations called as functions: F.relu(x), torch.tanh(x), x.sigmoid(). Module hooks do not see them.

On observed steps a TorchFunctionMode sees them while a module of the model runs and attributes them to that
module: `encoder.layers.0/relu`. A call made by an activation module that is observed itself is left out.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.functions import FUNCTIONS, PRODUCTS, SUMS, in_place, known
from actdiag.collect.layout import refusal
from actdiag.collect.operators import enter
from actdiag.collect.scope import Scope, untraceable
from actdiag.collect.site import Site, is_tanh, squashes
from actdiag.collect.traced import Calls, traceable
from actdiag.collect.tracing import Tracing, constant, has_compiled_autograd, in_transform

_HEARD = frozenset((*FUNCTIONS, *PRODUCTS, *SUMS))
_DEEPEST = 8
"""Frames between a function of torch and what called it: the function, its handler, and ours."""


class Listener(Protocol):
    """Who is told about function calls."""

    own: dict[Any, ActivationFacts]

    def wants(self, name: str) -> bool:
        """Whether a forward of this module that happens now is a training forward."""

    def observes(self, name: str) -> bool:
        """Whether a module is observed itself, so that the functions it calls are not to be."""

    def saw_function(self, scope: str, name: str, facts: ActivationFacts, x: Tensor, out: Tensor) -> None:
        """An activation function was called while the module `scope` ran."""

    def function_hook(self, scope: str, name: str, facts: ActivationFacts) -> int:
        """The number of the hook for a function call in compiled code; 0 if it is not to be observed."""

    def saw_product(self, factors: tuple[Any, ...]) -> None:
        """Tensors were multiplied elementwise."""

    def saw_sum(self, terms: tuple[Any, ...], total: Any) -> None:
        """Something was added or subtracted."""


class FunctionalMode(TorchFunctionMode):
    """Reports known activation functions called while a module runs. Never raises, never changes a result.

    `alive` is cleared when it is taken off: where it cannot be (another thread entered it) it stays and does nothing.
    While torch.compile traces, it puts an operator into the graph instead; without `tracing` it keeps still then.
    """

    def __init__(self, scope: Scope, listener: Listener, tracing: Tracing | None) -> None:
        super().__init__()
        self._scope, self._listener, self._tracing = scope, listener, tracing
        self._thread = threading.get_ident()
        self.alive = True

    def is_here(self) -> bool:
        """Whether this thread has entered it."""
        return self._thread == threading.get_ident()

    def leave(self) -> None:
        """Take it off this thread's stack of modes, also from under modes of the user's; elsewhere it stays, inert."""
        self.alive = False
        if not self.is_here():
            return
        stack = torch.overrides._get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        if not any(mode is self for mode in stack):
            return
        above = []
        while (mode := torch.overrides._pop_mode()) is not self:  # type: ignore[no-untyped-call]
            above.append(mode)
        for mode in reversed(above):
            torch.overrides._push_mode(mode)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_dynamo_compiling():
            return self._trace(func, args, kwargs)
        if func not in _HEARD and func not in self._listener.own:  # of a model's calls, most
            return func(*args, **kwargs)
        told = self._before(func, args, kwargs) if self.alive and not untraceable() else None
        out = func(*args, **kwargs)
        if func in SUMS and self.alive:
            with contextlib.suppress(Exception):  # of tensors of the user's own make
                self._listener.saw_sum(args, out)
        if told is not None and isinstance(out, Tensor) and refusal(out) is None:
            name, facts, x = told
            self._listener.saw_function(self._scope.stack[-1], name, facts, x, out)
        return out

    def _before(self, func: Any, args: Any, kwargs: Any) -> tuple[str, ActivationFacts, Tensor] | None:
        """Name, facts and input of an activation that is about to be called; None for everything else."""
        try:
            if func in PRODUCTS:
                self._listener.saw_product(args)
                return None
            if not self._hears(func):
                return None
            name, facts = known(func, self._listener.own, args, kwargs)
            x = args[0] if args else kwargs.get("input")
            if not isinstance(x, Tensor):
                return None
            # An in-place call overwrites what the gate is read from.
            return name, facts, x.detach().clone() if facts.reads == "input" and in_place(func, args, kwargs) else x
        except Exception:
            return None  # the call itself will tell the user what is wrong with its arguments

    def _hears(self, func: Any) -> bool:
        if not (func in FUNCTIONS or func in self._listener.own):
            return False
        if not self._scope.stack or self._listener.observes(self._scope.stack[-1]) or _in_graph():
            return False
        return self._listener.wants(self._scope.stack[-1])

    # While torch.compile traces ---------------------------------------------------------------------------

    def _trace(self, func: Any, args: Any, kwargs: Any) -> Any:
        if self._tracing is None or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        extras = [arg for arg in args[1:] if isinstance(arg, (bool, int, float, str))]
        options = {key: value for key, value in kwargs.items() if isinstance(value, (bool, int, float, str))}
        number, call, given = self.plan(func, extras, options)
        if number == 0 or len(args) == 0 or traceable(args[0]) is None:
            return func(*args, **kwargs)
        x = None
        if given == 1:
            x = args[0].detach()
        elif given == 2:
            x = args[0].detach().clone()
        out = func(*args, **kwargs)
        torch.ops.actdiag.observe(out.detach(), x, None, number, call)
        if out.requires_grad and not has_compiled_autograd():
            out.register_hook(functools.partial(trace_gradient, number, call))
        return out

    @constant
    def plan(self, func: Any, extras: Any, options: Any) -> tuple[int, int, int]:
        """Hook, number of the call, and what to keep of the input: 0 nothing, 1 the tensor, 2 a copy."""
        own, tracing = self._listener.own, self._tracing
        scope = tracing.scope() if tracing is not None else None
        if tracing is None or scope is None or not (func in FUNCTIONS or func in own):
            return 0, 0, 0
        if in_transform():
            return 0, 0, 0
        if self._listener.observes(scope):
            return 0, 0, 0
        try:
            name, facts = known(func, own, (None, *extras), options)
        except Exception:
            return 0, 0, 0  # it takes a tensor (PReLU), whose values a trace does not have
        number = self._listener.function_hook(scope, name, facts)
        if squashes(facts) or is_tanh(facts):
            tracing.expect_gate()
        copied = 2 if in_place(func, (None, *extras), options) else 1
        return number, tracing.number(f"{scope}/{name}"), copied if facts.reads == "input" else 0


def trace_gradient(number: int, call: int, g: Tensor) -> None:
    """Tensor hook of a function's output in compiled code."""
    torch.ops.actdiag.observe_gradient(g.detach(), None, number, call)


def _in_graph() -> bool:
    """Whether the call comes from a graph that torch.compile has traced, run as Python (`backend="eager"`): what it
    calls was observed by the operators in it."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEEPEST):
        if frame is None:
            return False
        if frame.f_code.co_filename.startswith("<eval_with_key>") and "actdiag" in frame.f_code.co_names:
            return True
        frame = frame.f_back
    return False


class FunctionHook:
    """Hears of one function's calls in compiled code."""

    def __init__(self, recorder: FunctionRecorder, scope: str, key: str, facts: ActivationFacts) -> None:
        self._recorder = recorder
        self.scope, self.key, self.facts = scope, key, facts
        self._calls = Calls()
        self.number = enter(self)

    def run(self, out: Tensor, given: Tensor | None, call: int) -> None:
        """One call of the function."""
        site = self._recorder.saw_traced(self, given, out, call)
        if site is not None:
            self._calls.push(self._recorder.generation(), call, site)

    def run_early(self, x: Tensor, call: int) -> None:
        """Functions have no hook before the call."""

    def run_gradient(self, g: Tensor, call: int) -> None:
        """The gradient of one call's output."""
        site = self._calls.pop(self._recorder.generation(), call)
        if site is not None:
            self._recorder.saw_gradient(self, site, g)


class FunctionRecorder(Protocol):
    """Who is told about function calls in compiled code. None of these may raise."""

    def generation(self) -> int:
        """The armed step that is running."""

    def saw_traced(self, hook: FunctionHook, x: Tensor | None, out: Tensor, call: int) -> Site | None:
        """A function was called; its site, if the call counts."""

    def saw_gradient(self, hook: FunctionHook, site: Site, g: Tensor) -> None:
        """The gradient at a site."""
