"""What a request asks for, checked: everything in it may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from actdiag.tensorboard.refusal import BAD_QUERY, Refusal

MOST_COLUMNS = 4000
_LONGEST = 4096
_MOST_DIGITS = 18


class Span(NamedTuple):
    """The steps asked for, both ends among them; None: from the first, to the last."""

    begin: int | None
    end: int | None


def text_of(query: Mapping[str, str], name: str, default: str | None = None) -> str:
    """A name that must be told where it has no default. Raises Refusal."""
    value = query.get(name, default)
    if value is None:
        raise Refusal(BAD_QUERY, f"{name} is missing")
    if len(value) > _LONGEST:
        raise Refusal(BAD_QUERY, f"{name} is too long")
    return value


def columns_of(query: Mapping[str, str], default: int) -> int:
    """How many columns: 1 to 4000. Raises Refusal."""
    value = _whole(query, "columns")
    if value is None:
        return default
    if not 1 <= value <= MOST_COLUMNS:
        raise Refusal(BAD_QUERY, f"columns must be from 1 to {MOST_COLUMNS}, got {value}")
    return value


def span_of(query: Mapping[str, str]) -> Span:
    """The steps asked for. Raises Refusal."""
    span = Span(_whole(query, "from"), _whole(query, "to"))
    if span.begin is not None and span.end is not None and span.begin > span.end:
        raise Refusal(BAD_QUERY, f"from {span.begin} to {span.end} is no range of steps")
    return span


def _whole(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > _MOST_DIGITS:
        raise Refusal(BAD_QUERY, f"{name} must be a whole number, got {text!r:.40}")
    return int(text)
