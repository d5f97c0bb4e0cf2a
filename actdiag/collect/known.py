"""Which module classes are activations, and the facts about each."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from actdiag.collect.activations import (
    GELU,
    GELU_TANH,
    HARDSIGMOID,
    HARDSWISH,
    LOGSIGMOID,
    MISH,
    QUICK_GELU,
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


def _prelu(module: weakref.ref[nn.PReLU]) -> ActivationFacts:
    """Reads the slopes when they are used: they are learned, and move with the module. Positive slopes assumed."""

    def gate(a: Tensor) -> Tensor:
        alive = module()
        slope = alive.weight.detach() if alive is not None else 1.0
        found = leaky_facts("PReLU", slope, default=0.01).gate
        assert found is not None
        return found(a)

    return replace(leaky_facts("PReLU", 0.5, default=0.01), gate=gate)


def _gelu_for(approximate: str) -> ActivationFacts:
    return GELU_TANH if approximate == "tanh" else GELU


_MODULES: dict[type[nn.Module], Callable[[Any], ActivationFacts]] = {
    nn.ReLU: lambda m: RELU,
    nn.ReLU6: lambda m: RELU6,
    nn.LeakyReLU: lambda m: leaky_facts("LeakyReLU", float(m.negative_slope), default=0.01),
    nn.PReLU: lambda m: _prelu(weakref.ref(m)),
    nn.ELU: lambda m: elu_facts("ELU", float(m.alpha)),
    nn.CELU: lambda m: elu_facts("CELU", float(m.alpha), celu=True),
    nn.SELU: lambda m: SELU,
    nn.GELU: lambda m: _gelu_for(m.approximate),
    nn.SiLU: lambda m: SILU,
    nn.Mish: lambda m: MISH,
    nn.Hardswish: lambda m: HARDSWISH,
    nn.Hardsigmoid: lambda m: HARDSIGMOID,
    nn.Hardtanh: lambda m: hardtanh_facts(float(m.min_val), float(m.max_val)),
    nn.Sigmoid: lambda m: SIGMOID,
    nn.Tanh: lambda m: TANH,
    nn.Softplus: lambda m: softplus_facts(float(m.beta)),
    nn.Softsign: lambda m: SOFTSIGN,
    nn.LogSigmoid: lambda m: LOGSIGMOID,
}

_WRITTEN_OUT = {
    "GELUActivation": GELU,
    "NewGELU": GELU_TANH,
    "NewGELUActivation": GELU_TANH,
    "GELUTanh": GELU_TANH,
    "PytorchGELUTanh": GELU_TANH,
    "FastGELUActivation": GELU_TANH,
    "AccurateGELUActivation": GELU_TANH,
    "QuickGELU": QUICK_GELU,
    "QuickGELUActivation": QUICK_GELU,
    "SiLUActivation": SILU,
    "MishActivation": MISH,
}
"""Activations that others have written as classes of their own, by their name: minGPT, CLIP, transformers. The tanh or
sigmoid inside of them is not an activation of the network."""


def module_facts(module: nn.Module, own: dict[Any, ActivationFacts]) -> ActivationFacts | None:
    """What is known about a module; None if it is no known activation. The user's entries come first."""
    kind = type(module)
    if kind in own:
        return own[kind]
    build = _MODULES.get(kind)
    if build is not None:
        return build(module)
    return _WRITTEN_OUT.get(kind.__name__) if next(module.parameters(), None) is None else None
