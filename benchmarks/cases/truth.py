"""When units of a layer died, measured exactly: the whole training set through the network, every few steps.

Independent of actdiag: plain forward hooks, no window, no estimate. A unit is dead where its activation is closed for
every sample (and position) of the training set: at or below 0 for ReLU, below -3 for GELU, whose slope is under 1 % of
its largest from there on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

GRID_STEPS = 2
DEAD_SHARE = 0.45
_CLOSED = {nn.ReLU: 0.0, nn.GELU: -3.0}


class Mortality:
    """Shares of dead units by step, of each activation module that is called once a forward."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._shares: dict[str, list[tuple[int, float]]] = {}

    def measure(self, x: Any, step: int) -> None:
        """Run the training set and note the shares. Leaves training flags as they were; draws no random number."""
        seen: dict[str, list[float]] = {}
        with _watched(self._model, seen), _evaluating(self._model), torch.no_grad():
            self._model(x)
        for name, shares in seen.items():
            if len(shares) == 1:
                self._shares.setdefault(name, []).append((step, shares[0]))

    def onsets(self) -> dict[str, int]:
        """Layer -> first measured step from which at least 45 % of its units stayed dead to the end."""
        found = {name: _onset(shares) for name, shares in self._shares.items()}
        return {name: step for name, step in found.items() if step is not None}


def _onset(shares: Sequence[tuple[int, float]]) -> int | None:
    onset = None
    for step, share in shares:
        if share < DEAD_SHARE:
            onset = None
        elif onset is None:
            onset = step
    return onset


def dead_share(z: Tensor, threshold: float) -> float:
    """Share of units closed for every sample; units are dimension 1 of N,C,... with space, else the last."""
    closed = z <= threshold
    return float((closed.transpose(1, -1) if z.ndim >= 4 else closed).flatten(0, -2).all(0).float().mean())


@contextmanager
def _watched(model: nn.Module, seen: dict[str, list[float]]) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        threshold = _CLOSED.get(type(module))
        if threshold is not None:

            def note(
                _: nn.Module, given: tuple[Tensor, ...], __: Tensor, name: str = name, at: float = threshold
            ) -> None:
                seen.setdefault(name, []).append(dead_share(given[0], at))

            handles.append(module.register_forward_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
