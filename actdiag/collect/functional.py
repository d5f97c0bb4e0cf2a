"""Activations called as functions: F.relu(x), torch.tanh(x), x.sigmoid(). Module hooks do not see them.

On observed steps a TorchFunctionMode sees them while a module of the model runs and attributes them to that
module: `encoder.layers.0/relu`. A call made by an activation module that is observed itself is left out.
"""

from __future__ import annotations

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
from actdiag.collect.scope import Scope

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

    def wants(self) -> bool:
        """Whether a forward that happens now is a training forward."""

    def saw_function(self, scope: str, name: str, facts: ActivationFacts, x: Tensor, out: Tensor) -> None:
        """An activation function was called while the module `scope` ran."""

    def saw_product(self, factors: tuple[Any, ...]) -> None:
        """Tensors were multiplied elementwise."""


class FunctionalMode(TorchFunctionMode):
    """Reports known activation functions called while a module runs. Never raises, never changes a result."""

    def __init__(
        self, scope: Scope, observed: set[str], own: dict[Any, ActivationFacts], *, listener: Listener
    ) -> None:
        super().__init__()
        self._scope, self._observed, self._own = scope, observed, own
        self._listener = listener

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS:
            self._listener.saw_product(args)
            return func(*args, **kwargs)
        known = self._known(func, args, kwargs) if self._hears(func) else None
        if known is None:
            return func(*args, **kwargs)
        name, facts = known
        x = args[0] if args else kwargs.get("input")
        early = x
        if facts.reads == "input" and isinstance(x, Tensor) and (func.__name__.endswith("_") or kwargs.get("inplace")):
            early = x.detach().clone()  # the call overwrites what the gate is read from
        out = func(*args, **kwargs)
        if isinstance(early, Tensor) and isinstance(out, Tensor) and refusal(out) is None:
            self._listener.saw_function(self._scope.stack[-1], name, facts, early, out)
        return out

    def _hears(self, func: Any) -> bool:
        if not self._scope.stack or self._scope.stack[-1] in self._observed:
            return False
        return (func in FUNCTIONS or func in self._own) and self._listener.wants()

    def _known(self, func: Any, args: Any, kwargs: Any) -> tuple[str, ActivationFacts] | None:
        if func in self._own:
            return getattr(func, "__name__", "function"), self._own[func]
        name, build = FUNCTIONS[func]
        try:
            return name, build(*args, **kwargs)
        except Exception:
            return None  # the call itself will tell the user what is wrong with its arguments
