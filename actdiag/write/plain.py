"""Text and JSON that no reader trips over: every character printable, every number legal."""

from __future__ import annotations

import json
from typing import Any

from actdiag.snapshot import spell_out


def strict_json(value: Any) -> str:
    """One line of strict JSON; NaN and infinities become the strings "nan", "inf", "-inf"."""
    return json.dumps(spell_out(value), allow_nan=False)


def plain(text: str) -> str:
    """Text on one line: line ends, terminal controls and invisible characters are spelled out, as in `a\\nb`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
