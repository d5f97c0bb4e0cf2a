"""Tensors of a CUDA device on their way to the host: a copy into pinned memory that nothing waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Coming:
    """Copies of tensors of one CUDA device. What the tensors hold later does not matter: the device copies in order."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._hosts = [
            torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in tensors
        ]
        self._done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._done.record(torch.cuda.current_stream(tensors[0].device))

    def arrived(self) -> bool:
        """Whether they can be read. Does not wait."""
        return self._done.query() is True

    def read(self) -> list[Tensor]:
        """The copies, on the host. Waits for them."""
        self._done.synchronize()
        return self._hosts
