"""What MkDocs cannot know by itself: options from the table in config.py, links that lead out of the documentation."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from typing import Any

from actdiag.config import Options

_OUTSIDE = re.compile(r"\[(`?[^\]]*?`?)\]\(((?:\.\./)+(?!images/)[^)]*)\)")


def options() -> str:
    """The table of options: name, default, unit and meaning, as config.py has them."""
    rows = ["| option | default | what it is |", "|---|---|---|"]
    for spec in fields(Options):
        default = spec.default if spec.default is not MISSING else getattr(Options(), spec.name)
        unit = f" ({spec.metadata['unit']})" if spec.metadata["unit"] else ""
        rows.append(f"| `{spec.name}` | `{default!r}` | {spec.metadata['doc'].replace('|', '&#124;')}{unit} |")
    return "\n".join(rows)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called by MkDocs for each page: a file that is no page of the site is named instead of linked to."""
    depth = page.file.src_uri.count("/")

    def outside(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        return found[0] if target.count("../") <= depth else f"{text} ({target.replace('../', '')})"

    plain = markdown.replace("][", "]&#91;")  # an index in a message of Python's, which MkDocs takes for a link
    return _OUTSIDE.sub(outside, plain.replace("<!-- options -->", options()))
