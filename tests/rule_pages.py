"""docs/rules: a page for each finding, from the manual that is its rule's docstring.

python -m tests.rule_pages [--write]      prints what differs, or writes the pages
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from actdiag.diagnose.judge import RULES

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "rules"
_HEADING = re.compile(r"^(What|Why|Not a problem when|What to try|Source): ", re.MULTILINE)


def pages() -> dict[str, str]:
    """File name -> text."""
    return {"README.md": index(), **{f"{slug}.md": page(slug) for slug in RULES}}


def manual(slug: str) -> tuple[str, dict[str, str]]:
    """The first sentence of a rule's docstring, and its parts by heading."""
    summary, *parts = _HEADING.split(inspect.getdoc(RULES[slug]) or "")
    return _joined(summary), {name: _joined(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def page(slug: str) -> str:
    """The page of one rule."""
    summary, parts = manual(slug)
    lines = [f"# {slug}", "", summary]
    for name, text in parts.items():
        lines += ["", f"## {name}", "", text[:1].upper() + text[1:]]
    lines += [
        "",
        f'In a terminal: `actdiag explain {slug}`. To drop it: `ignore=["{slug}"]`, or `"{slug}:layer.*"` for some',
    ]
    return "\n".join([*lines, 'layers; for another severity: `severities={"' + slug + '": "info"}`.', ""])


def index() -> str:
    """The table of all rules."""
    rows = [f"| [{slug}]({slug}.md) | {manual(slug)[0]} |" for slug in RULES]
    head = [
        "# Findings",
        "",
        "What actdiag can tell; a slug is the same in code, in TensorBoard and on the command line.",
        "",
    ]
    return "\n".join([*head, "| finding | what it says |", "|---|---|", *rows, ""])


def _joined(text: str) -> str:
    return " ".join(text.split())


def stale() -> list[str]:
    """Pages that are missing, differ, or speak of no rule."""
    wanted = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        FOLDER.mkdir(exist_ok=True)
        for name in stale():
            (FOLDER / name).unlink(missing_ok=True)
        for name, text in pages().items():
            (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"{len(stale())} pages differ from the rules: {', '.join(stale())}")
    raise SystemExit(bool(stale()))
