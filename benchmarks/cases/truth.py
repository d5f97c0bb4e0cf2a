"""When units of a layer died, measured exactly: the whole training set through the network, every few steps.

Independent of actdiag: plain forward hooks, no window, no estimate. A unit is dead where its activation is closed for
every sample (and position) of the training set: at or below 0 for ReLU, below -3 for GELU and -6 for SiLU, whose slopes
are about 1 % of their largest there and less beyond. Units are channels after a convolution, else the last dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

GRID_STEPS = 2
DEAD_SHARE = 0.45
CLOSED: Mapping[type[nn.Module], float] = {nn.ReLU: 0.0, nn.GELU: -3.0, nn.SiLU: -6.0}
_CHANNELS_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FEATURES_LAST = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.RNNBase, nn.MultiheadAttention)


class Mortality:
    """Shares of dead units by step, of each activation module that is called once a forward."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._shares: dict[str, list[tuple[int, float]]] = {}

    def measure(self, x: Any, step: int) -> None:
        """Run the training set and note the shares. Leaves training flags as they were; draws no random number."""
        seen: dict[str, list[float]] = {}
        with _watched(self._model, seen), evaluating(self._model), torch.no_grad():
            self._model(x)
        for name, shares in seen.items():
            if len(shares) == 1:
                self._shares.setdefault(name, []).append((step, shares[0]))

    def shares(self) -> dict[str, list[tuple[int, float]]]:
        """Layer -> measured steps and shares, of the layers that are dead at the end: at least 45 % of their units."""
        return {name: shares for name, shares in self._shares.items() if onset(shares) is not None}


def onset(shares: Sequence[tuple[int, float]]) -> int | None:
    """First measured step from which at least 45 % stayed dead to the last one; None if they did not."""
    onset = None
    for step, share in shares:
        if share < DEAD_SHARE:
            onset = None
        elif onset is None:
            onset = step
    return onset


def dead_share(z: Tensor, threshold: float, *, channels_first: bool) -> float:
    """Share of units closed for every sample and position; units are dimension 1, or else the last."""
    closed = z <= threshold
    return float((closed.transpose(1, -1) if channels_first else closed).flatten(0, -2).all(0).float().mean())


class Layout:
    """Whether units are channels, by the last layer with weights that ran; to be told of every module that runs."""

    def __init__(self) -> None:
        self._channels_first = False

    def see(self, module: nn.Module) -> None:
        """A module has run."""
        if isinstance(module, _CHANNELS_FIRST):
            self._channels_first = True
        elif isinstance(module, _FEATURES_LAST):
            self._channels_first = False

    def of(self, z: Tensor) -> bool:
        """Whether dimension 1 of a tensor that came after it holds the units."""
        return self._channels_first and z.ndim >= 3


@contextmanager
def _watched(model: nn.Module, seen: dict[str, list[float]]) -> Iterator[None]:
    layout, handles = Layout(), []
    for name, module in model.named_modules():

        def note(module: nn.Module, given: tuple[Any, ...], _: object, name: str = name) -> None:
            layout.see(module)
            threshold = CLOSED.get(type(module))
            if threshold is not None:
                share = dead_share(given[0], threshold, channels_first=layout.of(given[0]))
                seen.setdefault(name, []).append(share)

        handles.append(module.register_forward_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; each module's flag comes back as it was."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
