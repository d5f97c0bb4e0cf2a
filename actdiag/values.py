"""Values of options as files and other people's configurations hold them, and back in the types that files have.

No library is imported here: lists and mappings of OmegaConf, ruamel or Lightning are known by their interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def own(value: Any, *, off: bool = False) -> Any:
    """A value in Python's own lists, tuples and dicts. `off`: False stands for 'off', which YAML reads as False."""
    if isinstance(value, Mapping):
        return {key: own(item, off=off) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return tuple(map(own, value)) if isinstance(value, tuple) else list(map(own, value))
    return "off" if off and value is False else value


def number_in(value: Any) -> float | int | None:
    """The number that a text spells, as `1e-2` is a text to YAML; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if number.is_integer() else number


def for_files(value: Any) -> Any:
    """A value in the types that YAML and JSON have: None, bool, int, float, str, list, dict with names for keys.

    Raises TypeError for what has no such form.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [for_files(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: for_files(item) for key, item in value.items()}
    raise TypeError(f"{value!r} is of {type(value).__name__}")
