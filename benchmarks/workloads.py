"""The trainings whose steps benchmarks/overhead.py measures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Tensor, Tensor]]


def mlp() -> Built:
    """64-256-256-256-128-10 on batches of 64: the worst case, a step of 1 to 2 ms."""
    sizes = [64, 256, 256, 256, 128]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 10)), (torch.randn(64, 64), torch.randint(0, 10, (64,)))


class _Block(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.act1, self.act2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.skip = nn.Sequential() if a == b else nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(out + self.skip(x))  # type: ignore[no-any-return]


def cnn() -> Built:
    """ResNet-18's layout at width 16, on 64 x 3 x 32 x 32."""
    widths = [16, 16, 16, 32, 32, 64, 64, 128, 128]
    blocks = [_Block(a, b, 1 if a == b else 2) for a, b in pairwise(widths)]
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    net = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return net, (torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,)))


class _Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 4, 1024, 0.0, nn.GELU(), batch_first=True, norm_first=True)
        self.words = nn.Embedding(512, 256)
        self.blocks = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
        self.head = nn.Linear(256, 512)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.words(ids)))
        return out.flatten(0, 1)


def gpt() -> Built:
    """Six pre-norm blocks, d = 256, on 8 x 128 tokens."""
    return _Gpt(), (torch.randint(0, 512, (8, 128)), torch.randint(0, 512, (8 * 128,)))


class _Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(512, 128)
        self.lstm = nn.LSTM(128, 256, 2, batch_first=True)
        self.head = nn.Linear(256, 512)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(self.words(ids))[0])
        return out.flatten(0, 1)


def lstm() -> Built:
    """Two layers of 256 on 16 x 64 tokens."""
    return _Lstm(), (torch.randint(0, 512, (16, 64)), torch.randint(0, 512, (16 * 64,)))


MODELS: dict[str, Callable[[], Built]] = {"mlp": mlp, "lstm": lstm, "cnn": cnn, "gpt": gpt}
PAIRS = {"mlp": 1500, "lstm": 150, "cnn": 100, "gpt": 100}
"""Steps of each copy."""


def stepper(
    build: Callable[[], Built], *, compiled: bool = False
) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], None]]:
    """A model, its optimizer, and a function that makes one training step."""
    torch.manual_seed(0)
    model, (x, y) = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    call = torch.compile(model) if compiled else model

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(call(x), y).backward()
        optimizer.step()

    return model, optimizer, step
