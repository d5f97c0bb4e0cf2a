"""One buffer for the numbers of a recorded step, into which a GPU's kernels write: one copy takes all to the host."""

from __future__ import annotations

import math
from threading import Lock

import torch
from torch import Tensor

MOST = 1 << 23
"""Numbers a buffer may have, 64 MB; what does not fit is allocated by itself."""
_SLACK = 1.25


class Arena:
    """Tensors of 8-byte numbers on one device, one after the other in one buffer.

    How large it has to be is learned from the step before: the first one allocates each tensor by itself, and so does
    what comes beyond the end. Two buffers take turns, so that one is written to while the other is on its way to the
    host, on whatever streams that happens. While a CUDA graph is captured nothing is taken from them: what a graph
    writes to is its own.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[Tensor | None] = [None, None]
        self._now: Tensor | None = None
        self._lock = Lock()
        self._used = self._wanted = 0

    def begin(self) -> None:
        """A recorded step begins: what the one before the last has written is given up."""
        self._buffers.reverse()
        if not capturing(self._device):
            least, held = min(self._wanted, MOST), self._buffers[0]
            if least and (held is None or held.numel() < least):
                size = min(math.ceil(least * _SLACK), MOST)
                self._buffers[0] = torch.empty(size, dtype=torch.float64, device=self._device)
        self._now = self._buffers[0]
        self.restart()

    def restart(self) -> None:
        """What was taken in this step is given up."""
        self._used = self._wanted = 0

    def take(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """An uninitialized tensor: of float64 or int64, contiguous, in the buffer if there is room."""
        size, buffer = math.prod(shape), self._now
        with self._lock:  # forwards in two threads
            at = self._used
            has_room = buffer is not None and at + size <= buffer.numel() and not capturing(self._device)
            self._wanted += size
            self._used += size * has_room
        if buffer is None or not has_room:
            return torch.empty(shape, dtype=dtype, device=self._device)
        return buffer[at : at + size].view(dtype).view(shape)

    def place(self, x: Tensor) -> int | None:
        """Where in the buffer a tensor begins that lies in it as it was taken, or a part of it; None for all others."""
        buffer = self._now
        if buffer is None or x.device != buffer.device or x.element_size() != 8 or not x.is_contiguous():
            return None
        at = (x.data_ptr() - buffer.data_ptr()) // 8
        return at if at >= 0 and at + x.numel() <= self._used else None

    @property
    def used(self) -> Tensor:
        """The part of the buffer that has been taken in this step."""
        assert self._now is not None
        return self._now[: self._used]


class Arenas:
    """The arena of each device that has one."""

    def __init__(self) -> None:
        self._arenas: dict[torch.device, Arena] = {}

    def of(self, device: torch.device) -> Arena:
        """The one of a device, made when it is first asked for."""
        return self._arenas.setdefault(device, Arena(device))

    def begin(self) -> None:
        """A recorded step begins."""
        for arena in self._arenas.values():
            arena.begin()

    def restart(self) -> None:
        """What was taken in this step is given up."""
        for arena in self._arenas.values():
            arena.restart()

    def find(self, device: torch.device) -> Arena | None:
        """The one of a device, if something was taken from it."""
        return self._arenas.get(device)


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is captured now on the stream of a device."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return bool(torch.cuda.is_current_stream_capturing())
