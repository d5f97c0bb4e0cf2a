"""What a claim hands back: numbers over seeds in tables, lines for a figure, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

Sample = tuple[float, ...]
"""One number a seed; infinite where it was never reached or overflowed."""

Points = list[tuple[float | str, Sample]]
"""What is drawn: x, a number or the name of a category, and the sample there."""


@dataclass(frozen=True)
class Table:
    """Rows of samples. `never` is what an infinite number is called; `notes` are columns of text behind the label."""

    title: str
    columns: Sequence[str]
    rows: dict[str, list[Sample]]
    never: str = "never"
    notes: dict[str, str] = field(default_factory=dict)
    note_column: str = ""

    def markdown(self) -> str:
        """The table with aligned columns: median [lowest, highest]."""
        noted = [self.note_column] if self.notes else []
        lines = [["", *noted, *self.columns]]
        for label, cells in self.rows.items():
            notes = [self.notes.get(label, "")] if self.notes else []
            lines.append([label, *notes, *(written(cell, self.never) for cell in cells)])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        return "\n".join(f"| {' | '.join(map(str.ljust, line, widths))} |" for line in lines)


@dataclass(frozen=True)
class Panel:
    """One set of axes, and its lines by name; `log` names the logarithmic ones: "x", "y" or "xy".

    What is infinite, or above `top`, is drawn hollow at the upper edge, which is called `never`.
    """

    title: str
    x: str
    y: str
    lines: dict[str, Points]
    log: str = ""
    never: str = "never"
    top: float = math.inf


@dataclass(frozen=True)
class Result:
    """A claim with its verdict: "confirmed", "half true" or "refuted", and the sentences that say why."""

    said: str
    word: str
    why: str
    tables: list[Table]
    panels: list[Panel]
    told: dict[str, str] = field(default_factory=dict)

    def samples(self) -> dict[tuple[str, str, str], Sample]:
        """Every number of the tables, by table, row and column."""
        return {
            (table.title, label, column): cell
            for table in self.tables
            for label, cells in table.rows.items()
            for column, cell in zip(table.columns, cells, strict=True)
        }


def mid(sample: Sample) -> float:
    """The median over the seeds; infinite if half of them are."""
    return median(sample)


def ratio(over: Sample, under: Sample) -> Sample:
    """Quotients seed by seed."""
    return tuple(math.inf if math.isinf(a) or b == 0 else a / b for a, b in zip(over, under, strict=True))


def number(value: float, never: str = "never") -> str:
    """Three significant digits; powers of ten where the number is far from 1."""
    if not math.isfinite(value):
        return never if value > 0 else "nan"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e4 or size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.0f}" if size >= 100 else f"{value:.2g}" if size < 0.01 else f"{value:.3g}"


class _Told(float):
    """A number inside a sentence: `{x}` as in tables, `{x:%}` as percent."""

    def __format__(self, how: str) -> str:
        if how != "%":
            return number(float(self))
        return f"{100 * float(self):.0f} %" if float(self) >= 0.01 else f"{number(100 * float(self))} %"


def say(text: str, **values: float | str | Sample) -> str:
    """A text with numbers filled in; of a sample, its median. Line breaks of the source are not meant."""
    told = {
        name: value if isinstance(value, str) else _Told(mid(value) if isinstance(value, tuple) else value)
        for name, value in values.items()
    }
    return " ".join(text.split()).format(**told)


def written(sample: Sample, never: str = "never") -> str:
    """Median [lowest, highest], or the median alone where all seeds agree."""
    middle, low, high = (number(f(sample), never) for f in (mid, min, max))
    return middle if low == high else f"{middle} [{low}, {high}]"


def inside(value: float, first: Sample) -> bool:
    """Whether a median of other seeds lies within the error bar: from the lowest to the highest of the first seeds."""
    slack = 1e-6 * abs(min(first)) if math.isfinite(min(first)) else 0.0
    return min(first) - slack <= value <= max(first) + slack


def chance_outside(first: int, second: int) -> float:
    """How often the median of `second` further seeds leaves the range of the `first`, whatever the distribution.

    At least k = (second + 1) // 2 of them must lie beyond the extreme of all: the k largest of all are among them.
    """
    k = (second + 1) // 2
    return 2 * math.comb(second, k) / math.comb(first + second, k)
