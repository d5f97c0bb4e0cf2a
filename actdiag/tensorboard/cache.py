"""What was read, kept while it is fresh and fits: a live screen asks for the same series every few seconds."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

Value = TypeVar("Value")

LARGEST_BYTES = 256 << 20


class _Held(NamedTuple):
    stamp: Hashable
    value: Any
    size: int


class Cache:
    """Values by key, each with a stamp that says of what it was made; the least recently used give way.

    Bounded in bytes; safe for threads. What is being made for one thread is waited for by the others that want it.
    """

    def __init__(self, most: int = LARGEST_BYTES) -> None:
        self._most = most
        self._held: OrderedDict[Hashable, _Held] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes held now."""
        return self._size

    def get(self, key: Hashable, stamp: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """The value of a key if it has the same stamp, else a new one. Whatever `make` raises is raised."""
        with self._lock:
            gate = self._making.setdefault(key, threading.Lock())
        with gate:
            held = self._look(key, stamp)
            if held is None:
                value = make()
                held = _Held(stamp, value, size(value))
                self._keep(key, held)
        found: Value = held.value
        return found

    def _look(self, key: Hashable, stamp: Hashable) -> _Held | None:
        with self._lock:
            held = self._held.get(key)
            if held is None or held.stamp != stamp:
                return None
            self._held.move_to_end(key)
            return held

    def _keep(self, key: Hashable, held: _Held) -> None:
        with self._lock:
            if key in self._held:
                self._drop(key)
            if held.size <= self._most:
                self._held[key] = held
                self._size += held.size
            while self._size > self._most:
                self._drop(next(iter(self._held)))

    def _drop(self, key: Hashable) -> None:
        self._size -= self._held.pop(key).size
        gate = self._making.get(key)
        if gate is not None and not gate.locked():
            del self._making[key]
