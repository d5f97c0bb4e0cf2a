"""Code in the README and the documentation: found, and run as it stands.

    <!-- given: a loop -->         the next block uses names that the page does not define; GIVEN has them
    <!-- no-run: the reason -->    the next block is not run; test_doc_blocks.py counts these
    <!-- printed -->               the next block is what the blocks above have printed, but for its numbers

Blocks of a page run in their order, in one folder and with one set of names, as a reader would type them. A Python
block with a title is written to a file of that name, for a command below it. Indented lines are commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ("python", "text", "commands", "yaml", "json")
_FENCE = re.compile(r"^( *)```(\w*)(.*)$")
_MARK = re.compile(r"<!-- (given|no-run|printed)(?:: (.+?))? -->")
_SPOKEN = re.compile(r"(actdiag|python|make|torchrun|tensorboard) [\w./-]|pip install [\w -]*\./")


@dataclass(frozen=True)
class Block:
    """One block. `line` is the number of its first line of code; `given` and `unrun` are "" where nothing says so."""

    page: Path
    line: int
    language: str
    code: str
    title: str = ""
    given: str = ""
    unrun: str = ""
    printed: bool = False

    @property
    def where(self) -> str:
        """`docs/tab.md:6`, for messages."""
        return f"{self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page.name}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Of commands: the lines, without comments."""
        lines = (line.partition("  # ")[0].strip() for line in self.code.splitlines())
        return [line for line in lines if line]


def pages() -> list[Path]:
    """Every page that a reader may follow."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path, text: str | None = None) -> list[Block]:
    """The blocks of a page, in order. Raises ValueError for a mark without a block, or a block in another language."""
    lines = (page.read_text(encoding="utf-8") if text is None else text).splitlines()
    found: list[Block] = []
    marks: dict[str, str] = {}
    for start, language, title, code in _pieces(lines):
        if language == "prose":
            if mark := _MARK.fullmatch(code):
                marks[mark[1]] = mark[2] or ""
            else:
                _unused(marks, page, start)
            continue
        if language not in LANGUAGES:
            raise ValueError(f"{page.name}:{start}: a block in {language!r}; known are {', '.join(LANGUAGES)}")
        printed = marks.pop("printed", None) is not None
        given, unrun = marks.pop("given", ""), marks.pop("no-run", "")
        found.append(Block(page, start, language, code, title, given, unrun, printed))
    _unused(marks, page, len(lines))
    return found


def _unused(marks: dict[str, str], page: Path, line: int) -> None:
    if marks:
        raise ValueError(f"{page.name}:{line}: a mark {marks} with no block right below it")


def _pieces(lines: list[str]) -> Iterator[tuple[int, str, str, str]]:
    """(first line, language or "prose", title, text) of paragraphs and blocks."""
    i = 0
    while i < len(lines):
        line, start = lines[i], i
        if not line.strip():
            i += 1
        elif fence := _FENCE.match(line):
            i = next(k for k in range(i + 1, len(lines)) if lines[k].strip() == "```") + 1
            title = re.search(r'title="([^"]+)"', fence[3])
            code = "\n".join(row.removeprefix(fence[1]) for row in lines[start + 1 : i - 1])
            yield start + 2, fence[2], title[1] if title else "", code + "\n"
        elif line.startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            while i < len(lines) and (lines[i].startswith("    ") or not lines[i].strip()):
                i += 1
            yield start + 1, "commands", "", "\n".join(row[4:] for row in lines[start:i]).rstrip() + "\n"
        else:
            while i < len(lines) and lines[i].strip() and not (i > start and _FENCE.match(lines[i])):
                i += 1
                if _MARK.fullmatch(lines[start]):
                    break
            yield start + 1, "prose", "", "\n".join(lines[start:i])


def spoken(page: Path) -> list[str]:
    """Commands inside of sentences: code spans that begin with a program that we have."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    spans = (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text))
    return [span for span in spans if _SPOKEN.match(span)]
