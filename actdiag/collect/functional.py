"""Activations called as functions: F.relu(x), torch.tanh(x), x.sigmoid(). Module hooks do not see them.

On observed steps a TorchFunctionMode sees them while a module of the model runs and attributes them to that
module: `encoder.layers.0/relu`. A call made by an activation module that is observed itself is left out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from actdiag.collect.activations import (
    GELU,
    GELU_TANH,
    HARDSIGMOID,
    HARDSWISH,
    LOGSIGMOID,
    MISH,
    RELU,
    RELU6,
    SELU,
    SIGMOID,
    SILU,
    SOFTSIGN,
    TANH,
    ActivationFacts,
    elu_facts,
    hardtanh_facts,
    leaky_facts,
    softplus_facts,
)
from actdiag.collect.layout import refusal
from actdiag.collect.scope import Scope, untraceable

Build = Callable[..., ActivationFacts]


def _fixed(facts: ActivationFacts) -> Build:
    return lambda *args, **kwargs: facts


def _gelu(x: Any, *, approximate: str = "none") -> ActivationFacts:
    return GELU_TANH if approximate == "tanh" else GELU


def _leaky(x: Any, negative_slope: float = 0.01, inplace: bool = False) -> ActivationFacts:
    return leaky_facts("LeakyReLU", float(negative_slope), default=0.01)


def _prelu(x: Any, weight: Tensor) -> ActivationFacts:
    return leaky_facts("PReLU", weight.detach(), default=0.01)


def _elu(x: Any, alpha: float = 1.0, inplace: bool = False, **kwargs: Any) -> ActivationFacts:
    return elu_facts("ELU", float(alpha))


def _celu(x: Any, alpha: float = 1.0, inplace: bool = False) -> ActivationFacts:
    return elu_facts("CELU", float(alpha), celu=True)


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> ActivationFacts:
    return softplus_facts(float(beta))


def _hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> ActivationFacts:
    return hardtanh_facts(float(min_val), float(max_val))


_BY_NAME: dict[str, tuple[Build, list[Any]]] = {
    "relu": (_fixed(RELU), [F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_]),
    "relu6": (_fixed(RELU6), [F.relu6]),
    "leaky_relu": (_leaky, [F.leaky_relu, F.leaky_relu_]),
    "prelu": (_prelu, [F.prelu, torch.prelu, Tensor.prelu]),
    "elu": (_elu, [F.elu, F.elu_]),
    "celu": (_celu, [F.celu, F.celu_, torch.celu, torch.celu_]),
    "selu": (_fixed(SELU), [F.selu, F.selu_, torch.selu, torch.selu_]),
    "gelu": (_gelu, [F.gelu]),
    "silu": (_fixed(SILU), [F.silu]),
    "mish": (_fixed(MISH), [F.mish]),
    "hardswish": (_fixed(HARDSWISH), [F.hardswish]),
    "hardsigmoid": (_fixed(HARDSIGMOID), [F.hardsigmoid]),
    "hardtanh": (_hardtanh, [F.hardtanh, F.hardtanh_]),
    "sigmoid": (
        _fixed(SIGMOID),
        [F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, torch.special.expit],
    ),
    "tanh": (_fixed(TANH), [F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_]),
    "softplus": (_softplus, [F.softplus]),
    "softsign": (_fixed(SOFTSIGN), [F.softsign]),
    "logsigmoid": (_fixed(LOGSIGMOID), [F.logsigmoid]),
}
FUNCTIONS: dict[Any, tuple[str, Build]] = {
    function: (name, build) for name, (build, functions) in _BY_NAME.items() for function in functions
}

_PRODUCTS = (
    torch.mul,
    torch.multiply,
    Tensor.mul,
    Tensor.mul_,
    Tensor.__mul__,
    Tensor.__rmul__,
    Tensor.__imul__,
)


class Listener(Protocol):
    """Who is told about function calls."""

    def wants(self, name: str) -> bool:
        """Whether a forward of this module that happens now is a training forward."""

    def saw_function(self, scope: str, name: str, facts: ActivationFacts, x: Tensor, out: Tensor) -> None:
        """An activation function was called while the module `scope` ran."""

    def saw_product(self, factors: tuple[Any, ...]) -> None:
        """Tensors were multiplied elementwise."""


class FunctionalMode(TorchFunctionMode):
    """Reports known activation functions called while a module runs. Never raises, never changes a result.

    `alive` is cleared when it is taken off: where it cannot be (another thread entered it) it stays and does nothing.
    """

    def __init__(
        self, scope: Scope, observed: set[str], own: dict[Any, ActivationFacts], *, listener: Listener
    ) -> None:
        super().__init__()
        self._scope, self._observed, self._own = scope, observed, own
        self._listener = listener
        self._thread = threading.get_ident()
        self.alive = True

    def leave(self) -> None:
        """Take it off this thread's stack of modes, also from under modes of the user's; elsewhere it stays, inert."""
        self.alive = False
        if self._thread != threading.get_ident():
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
        told = self._before(func, args, kwargs) if self.alive and not untraceable() else None
        out = func(*args, **kwargs)
        if told is not None and isinstance(out, Tensor) and refusal(out) is None:
            name, facts, x = told
            self._listener.saw_function(self._scope.stack[-1], name, facts, x, out)
        return out

    def _before(self, func: Any, args: Any, kwargs: Any) -> tuple[str, ActivationFacts, Tensor] | None:
        """Name, facts and input of an activation that is about to be called; None for everything else."""
        try:
            if func in _PRODUCTS:
                self._listener.saw_product(args)
                return None
            if not self._hears(func):
                return None
            name, facts = self._known(func, args, kwargs)
            x = args[0] if args else kwargs.get("input")
            if not isinstance(x, Tensor):
                return None
            in_place = getattr(func, "__name__", "").endswith("_") or kwargs.get("inplace")
            # An in-place call overwrites what the gate is read from.
            return name, facts, x.detach().clone() if facts.reads == "input" and in_place else x
        except Exception:
            return None  # the call itself will tell the user what is wrong with its arguments

    def _hears(self, func: Any) -> bool:
        if not self._scope.stack or self._scope.stack[-1] in self._observed:
            return False
        return (func in FUNCTIONS or func in self._own) and self._listener.wants(self._scope.stack[-1])

    def _known(self, func: Any, args: Any, kwargs: Any) -> tuple[str, ActivationFacts]:
        if func in self._own:
            return getattr(func, "__name__", type(func).__name__), self._own[func]
        name, build = FUNCTIONS[func]
        return name, build(*args, **kwargs)
