"""Which functions of torch are activations, and what is known of them when they are called with given arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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

PRODUCTS = (
    torch.mul,
    torch.multiply,
    Tensor.mul,
    Tensor.mul_,
    Tensor.__mul__,
    Tensor.__rmul__,
    Tensor.__imul__,
)
SUMS = (
    torch.add,
    torch.sub,
    Tensor.add,
    Tensor.sub,
    Tensor.__add__,
    Tensor.__radd__,
    Tensor.__sub__,
    Tensor.__rsub__,
)


def known(func: Any, own: dict[Any, ActivationFacts], args: Any, kwargs: Any) -> tuple[str, ActivationFacts]:
    """Name and facts of a known activation function called with these arguments."""
    if func in own:
        return getattr(func, "__name__", type(func).__name__), own[func]
    name, build = FUNCTIONS[func]
    return name, build(*args, **kwargs)


def in_place(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether a call overwrites its input."""
    named = getattr(func, "__name__", "").endswith("_") and not getattr(func, "__name__", "").endswith("__")
    return named or bool(kwargs.get("inplace")) or any(arg is True for arg in args[1:])
