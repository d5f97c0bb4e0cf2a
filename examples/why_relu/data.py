"""Real data that ships in scikit-learn, standardized feature by feature."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor

Data = tuple[Tensor, Tensor]
"""Inputs [N, F] and labels [N]."""


def standardized(x: Tensor) -> Tensor:
    """Every feature with mean 0 and standard deviation 1; constant ones are 0. [N, F] -> [N, F]"""
    return (x - x.mean(0)) / (x.std(0) + 1e-8)


@cache
def digits() -> Data:
    """1,797 images of handwritten digits: inputs [1797, 64], labels [1797] in 0..9."""
    read = load_digits()
    return standardized(torch.as_tensor(read.data, dtype=torch.float32)), torch.as_tensor(read.target)


@cache
def parity() -> Data:
    """The same images, asked whether the digit is odd: a question that no plane through the inputs answers."""
    x, y = digits()
    return x, y % 2


@cache
def cancer(offset: float = 0.0) -> Data:
    """569 tumors, inputs [569, 30], labels [569] in 0..1; `offset` is added to every standardized feature."""
    read = load_breast_cancer()
    return standardized(torch.as_tensor(read.data, dtype=torch.float32)) + offset, torch.as_tensor(read.target)
