"""A table as aligned plain text and as Markdown. What is in the cells is untrusted, the headings are ours."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from actdiag.report.text import pipe
from actdiag.write.markdown import escape
from actdiag.write.plain import plain

WIDTH = 100
_WIDEST = {"l": 30, "r": 30, "n": 100}
_NARROWEST_NAME = 20


@dataclass(frozen=True)
class Row:
    """Cells, and what heads the rows that stand together; "" if nothing does."""

    cells: tuple[str, ...]
    group: str = ""


@dataclass(frozen=True)
class Table:
    """A heading, rows and what is to be said of them.

    `align` has a letter a column: l or r, and n for names, which are cut in the middle where the text is too wide.
    `group` is the heading of the groups where they become a column.
    """

    title: str
    heads: tuple[str, ...] = ()
    align: str = ""
    rows: tuple[Row, ...] = ()
    group: str = ""
    note: str = ""


def table_text(table: Table) -> Iterator[str]:
    """Lines of at most 100 characters; two columns of numbers beside each other are from -> to."""
    yield table.title
    if table.rows:
        indent = "    " if table.group else "  "
        heads, *lines = _aligned(table, WIDTH - len(indent))
        yield indent + heads
        group = ""
        for row, line in zip(table.rows, lines, strict=True):
            if row.group != group:
                group = row.group
                yield fit(f"  {plain(group)}")
            yield indent + line
    if table.note:
        yield f"  {table.note}"


def _aligned(table: Table, room: int) -> list[str]:
    """The heads and the rows in columns; where they need too much room, names are cut first."""
    rows = [_bounded(cells, table.align) for cells in (table.heads, *(row.cells for row in table.rows))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    gaps = ["", *("  ->  " if pair == ("r", "r") else "  " for pair in pairwise(table.align))]
    over = sum(widths) + sum(map(len, gaps)) - room
    if "n" in table.align:
        name = table.align.index("n")
        widths[name] = min(widths[name], max(_NARROWEST_NAME, widths[name] - over))
    return [fit(_line(row, widths, gaps, table.align), room) for row in rows]


def _bounded(cells: Sequence[str], align: str) -> list[str]:
    return [fit(plain(cell), _WIDEST[how]) for cell, how in zip(cells, align, strict=True)]


def _line(row: Sequence[str], widths: Sequence[int], gaps: Sequence[str], align: str) -> str:
    padded = [
        gap + (cell.rjust(width) if how == "r" else fit(cell, width).ljust(width))
        for cell, width, gap, how in zip(row, widths, gaps, align, strict=True)
    ]
    return "".join(padded).rstrip()


def table_markdown(table: Table) -> Iterator[str]:
    """The lines below its heading, nothing cut."""
    if table.rows:
        front = [table.group] if table.group else []
        marks = ["---:" if how == "r" else "---" for how in table.align]
        yield from ("", pipe([*front, *table.heads]), pipe(["---"] * len(front) + marks))
        for row in table.rows:
            yield pipe([escape(cell) for cell in (*([row.group] if front else []), *row.cells)])
    if table.note:
        yield from ("", table.note)


def wrapped(text: str, indent: str) -> list[str]:
    """Text of any length as lines of at most 100 characters."""
    return textwrap.wrap(plain(text), WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")


def fit(text: str, room: int = WIDTH) -> str:
    """Text without its middle if it is too long: names differ at their ends."""
    tail = (room - 1) * 2 // 3
    return text if len(text) <= room else f"{text[: room - 1 - tail]}…{text[-tail:]}"
