"""The networks: a specification that names everything, and how it is built."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Shifted(nn.Module):
    """scale * phi(z) - shift: the slope and the center of an activation can be set apart from each other."""

    def __init__(self, phi: Callable[[Tensor], Tensor], scale: float, shift: float) -> None:
        super().__init__()
        self.phi, self.scale, self.shift = phi, scale, shift

    def forward(self, z: Tensor) -> Tensor:
        """Elementwise, any shape."""
        return self.scale * self.phi(z) - self.shift


class SquaredReLU(nn.Module):
    """The square of the positive part: it bends and closes as ReLU does, but its slope grows with its input."""

    def forward(self, z: Tensor) -> Tensor:
        """Elementwise, any shape."""
        return torch.relu(z).square()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "ReLU - 0.4": lambda: Shifted(torch.relu, 1.0, 0.4),
    "leaky ReLU": lambda: nn.LeakyReLU(0.1),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "4 sigmoid": lambda: Shifted(torch.sigmoid, 4.0, 0.0),
    "4 (sigmoid - 1/2)": lambda: Shifted(torch.sigmoid, 4.0, 2.0),
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "squared ReLU": SquaredReLU,
    "identity": nn.Identity,
}

PROPER = {name: "he" for name in ACTIVATIONS} | {
    "tanh": "xavier",
    "sigmoid": "xavier",
    "4 sigmoid": "gain 1",
    "4 (sigmoid - 1/2)": "gain 1",
    "squared ReLU": "gain 0.8165",  # sqrt(2/3): E[relu(z)^4] = 3/2 for z ~ N(0, 1)
    "identity": "gain 1",
}
"""The initialization that keeps the scale, by activation; "gain k" is a standard deviation of k / sqrt(fan_in)."""


@dataclass(frozen=True)
class Net:
    """A network: hidden layers `linear1, norm1, act1, ...`, then `head`. `shape` is "mlp" or "cnn"."""

    phi: str = "ReLU"
    depth: int = 6
    width: int = 64
    init: str = ""
    norm: str = ""
    shape: str = "mlp"
    inputs: int = 64
    outputs: int = 10

    @property
    def label(self) -> str:
        """What distinguishes it, in words."""
        body = "cnn4" if self.shape == "cnn" else f"mlp{self.depth}"
        return ", ".join(part for part in (f"{self.phi} {body}", self.norm and f"{self.norm} norm", self.init) if part)

    @property
    def slug(self) -> str:
        """A directory name of its own."""
        text = f"{self.label} {self.width} {self.inputs}"
        return "-".join("".join(c if c.isalnum() or c == "." else " " for c in text).split())

    def build(self, seed: int) -> nn.Sequential:
        """The network with weights drawn from `seed`; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(_convolutional(self) if self.shape == "cnn" else _layers(self))
            for module in model.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d)):
                    initialize(module, self.init or PROPER[self.phi])
        return model


def _layers(net: Net) -> OrderedDict[str, nn.Module]:
    layers, width = OrderedDict[str, nn.Module](), net.inputs
    for i in range(1, net.depth + 1):
        layers[f"linear{i}"] = nn.Linear(width, net.width)
        width = net.width
        if net.norm:
            layers[f"norm{i}"] = nn.BatchNorm1d(width) if net.norm == "batch" else nn.LayerNorm(width)
        layers[f"act{i}"] = ACTIVATIONS[net.phi]()
    layers["head"] = nn.Linear(width, net.outputs)
    return layers


def _convolutional(net: Net) -> OrderedDict[str, nn.Module]:
    phi = ACTIVATIONS[net.phi]
    return OrderedDict[str, nn.Module](
        image=nn.Unflatten(1, (1, 8, 8)),
        conv1=nn.Conv2d(1, 16, 3, padding=1), act1=phi(),
        conv2=nn.Conv2d(16, 32, 3, padding=1), act2=phi(), pool2=nn.MaxPool2d(2),
        conv3=nn.Conv2d(32, 32, 3, padding=1), act3=phi(), pool3=nn.MaxPool2d(2),
        flat=nn.Flatten(), head=nn.Linear(128, net.outputs),
    )  # fmt: skip


def initialize(layer: nn.Linear | nn.Conv2d, how: str) -> None:
    """Draw the weights anew and set biases to 0; "default" leaves what torch's own constructor drew."""
    if how == "default":
        return
    fan_in = layer.weight[0].numel()
    if how == "xavier":
        nn.init.xavier_normal_(layer.weight)
    else:
        gain = {"he": 2**0.5}.get(how) or float(how.split()[1])
        nn.init.normal_(layer.weight, 0.0, gain if how.startswith("std") else gain / fan_in**0.5)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
