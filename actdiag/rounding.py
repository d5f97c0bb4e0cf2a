"""Floats of a new value as float32, which is what an event file can keep."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

_FLOAT32 = struct.Struct("<f")


def round_floats(value: Any, names: tuple[str, ...]) -> None:
    """Round these fields (two or more) of a frozen dataclass that is being made; NaN becomes None, which stays None.

    What is too large for a float32 becomes infinite. Raises TypeError for what is no number.
    """
    read, packed = _layout(names)
    given = read(value)
    try:
        rounded: tuple[float | None, ...] = packed.unpack(packed.pack(*[0.0 if v is None else v for v in given]))
    except (OverflowError, struct.error):
        rounded = tuple(None if v is None else _rounded(name, v) for name, v in zip(names, given, strict=True))
    held = vars(value)  # of what has no slots; object.__setattr__ takes three times as long, for thousands of fields
    for name, before, after in zip(names, given, rounded, strict=True):
        if before is not None:
            held[name] = after if after == after else None


@cache
def _layout(names: tuple[str, ...]) -> tuple[Callable[[Any], tuple[Any, ...]], struct.Struct]:
    return attrgetter(*names), struct.Struct(f"<{len(names)}f")


def _rounded(name: str, value: Any) -> float:
    try:
        number: float = _FLOAT32.unpack(_FLOAT32.pack(value))[0]
    except (OverflowError, struct.error):
        if isinstance(value, (int, float)):
            return math.inf if value > 0 else -math.inf
        raise TypeError(f"{name} must be a number or None, got {value!r}") from None
    return number
