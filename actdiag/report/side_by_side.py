"""A comparison of two runs as plain text and as Markdown: the same tables, built once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from actdiag.report.compare import (
    POINTS_AS_A_FACTOR_OF_TWO,
    Comparison,
    Difference,
    FindingPair,
    Match,
    Pair,
    Told,
)
from actdiag.report.grid import Row, Table, fit, table_markdown, table_text, wrapped
from actdiag.report.run import Run
from actdiag.report.table import number, share
from actdiag.report.text import count, headline, state
from actdiag.write.markdown import escape, escape_line
from actdiag.write.plain import plain

_WEIGHED = f"In the order, {POINTS_AS_A_FACTOR_OF_TWO} points weigh as much as a factor of two."
_LEGEND = f"x2: twice as much in B; /2: half. {_WEIGHED}"
_HEADS = ("A", "B", "difference")


# What is shown ------------------------------------------------------------------------------------------


def _tables(c: Comparison, limit: int) -> list[Table]:
    if c.steps is None:
        return [_findings(c.findings, limit)]
    differing = [_run_level(c), _layers(c.layers, limit), _parameters(c.parameters, limit)]
    return [_findings(c.findings, limit), *differing, *_only_in_one(c, limit)]


def _findings(findings: Sequence[FindingPair], limit: int) -> Table:
    if not findings:
        return Table("Findings: none in either")
    groups: dict[str, list[FindingPair]] = {"only in A": [], "only in B": [], "in both": []}
    for pair in findings:
        groups["only in A" if pair.b is None else "only in B" if pair.a is None else "in both"].append(pair)
    rows = [
        Row(_finding_cells(pair), _titled(group, pairs)) for group, pairs in groups.items() for pair in pairs[:limit]
    ]
    note = _left_out(sum(max(0, len(pairs) - limit) for pairs in groups.values()), "finding")
    heads = ("severity", "rule", "layer", "A", "B")
    title = f"Findings, by the step at which they were first told: {_only_open(findings)}"
    return Table(title, heads, "llnll", tuple(rows), "where", note)


def _only_open(findings: Sequence[FindingPair]) -> str:
    """What appeared from A to B, and what is no longer."""
    only = Counter((_is_open(pair.a), _is_open(pair.b)) for pair in findings)
    return f"{only[False, True]} open only in B, {only[True, False]} only in A"


def _is_open(told: Told | None) -> bool:
    return told is not None and told.resolved_step is None


def _titled(group: str, items: Sequence[object]) -> str:
    return f"{group} ({len(items)})"


def _finding_cells(pair: FindingPair) -> tuple[str, ...]:
    severities = dict.fromkeys(side.severity.upper() for side in (pair.a, pair.b) if side is not None)
    return " / ".join(severities), pair.rule, pair.layer, _when(pair.a), _when(pair.b)


def _when(told: Told | None) -> str:
    if told is None:
        return "-"
    return f"{told.step}, open" if told.resolved_step is None else f"{told.step}, resolved {told.resolved_step}"


def _run_level(c: Comparison) -> Table:
    rows = tuple(Row((d.measure.title, *_cells(d))) for d in c.run if d.known)
    return Table(_at(c), ("", *_HEADS), "lrrl", rows)


def _at(c: Comparison) -> str:
    assert c.steps is not None, "there is a table of it"
    if c.steps.a != c.steps.b:
        return f"Step {c.steps.a} of A and step {c.steps.b} of B"
    return f"Step {c.steps.a} of both, which have {count(c.steps.common, 'recorded step')} in common"


def _layers(layers: Match, limit: int) -> Table:
    shown = [pair for pair in layers.both if pair.differs]
    rows = tuple(Row((d.measure.title, *_cells(d)), _layer(pair)) for pair in shown[:limit] for d in _known(pair))
    title = _how_many("Layers", layers.both, shown)
    return Table(title, ("", *_HEADS), "lrrl", rows, "layer", _left_out(len(shown) - limit, "layer"))


def _known(pair: Pair) -> Sequence[Difference]:
    """The numbers that a run has, and at least one row, since the kind may differ too."""
    return [d for d in pair.differences if d.known] or pair.differences[:1]


def _layer(pair: Pair) -> str:
    return f"{pair.name}  ({_became(pair)})"


def _became(pair: Pair) -> str:
    return pair.a if pair.a == pair.b else f"{pair.a} -> {pair.b}"


def _parameters(parameters: Match, limit: int) -> Table:
    shown = [pair for pair in parameters.both if pair.differs]
    rows = tuple(Row((pair.name, *_parameter_cells(pair))) for pair in shown[:limit])
    title = _how_many("Update ratios of parameters", parameters.both, shown)
    note = _left_out(len(shown) - limit, "parameter")
    return Table(title, ("", *_HEADS), "nrrl", rows, note=note)


def _parameter_cells(pair: Pair) -> tuple[str, ...]:
    (ratio,) = pair.differences
    a, b, difference = _cells(ratio)
    return a, b, difference if pair.a == pair.b else f"{difference} ({_became(pair)})"


def _how_many(what: str, pairs: Sequence[Pair], shown: Sequence[Pair]) -> str:
    if not pairs:
        return f"{what}: none in both"
    differ = f"{len(shown)} of them differ, the most different first" if shown else "no difference"
    return f"{what}: {len(pairs)} in both, {differ}"


def _only_in_one(c: Comparison, limit: int) -> list[Table]:
    groups = {
        "layers only in A": c.layers.only_a,
        "layers only in B": c.layers.only_b,
        "parameters only in A": c.parameters.only_a,
        "parameters only in B": c.parameters.only_b,
    }
    rows = [Row(item, _titled(group, items)) for group, items in groups.items() for item in items[:limit]]
    note = _left_out(sum(max(0, len(items) - limit) for items in groups.values()), "name")
    return [Table("Only in one of them", ("", "kind"), "nl", tuple(rows), "where", note)] if rows else []


def _left_out(more: int, what: str) -> str:
    return f"({count(more, f'more {what}')}; --limit shows more, --format json all)" if more > 0 else ""


# Numbers ------------------------------------------------------------------------------------------------


def _cells(d: Difference) -> tuple[str, str, str]:
    show = {"share": share, "scale": number, "count": _whole}[d.measure.kind]
    return show(d.a), show(d.b), difference(d)


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value}"


def difference(d: Difference) -> str:
    """ "=" only if they are equal; points of a share; for scales "x2.00" for twice as much in B, "/2.00" for half."""
    if d.a == d.b:
        return "="
    if d.a is None or d.b is None:
        return f"only in {'A' if d.b is None else 'B'}"
    if d.measure.kind == "share":
        return f"{100 * (d.b - d.a):+.1f} points"
    return _factor(d) if d.measure.kind == "scale" else f"{d.b - d.a:+}"


def _factor(d: Difference) -> str:
    if d.change is None:
        return "not comparable"
    if math.isinf(d.change):
        return f"to {number(d.b)}" if d.a else "from 0"
    return f"{'x' if d.change > 0 else '/'}{_three_digits(2.0 ** abs(d.change))}"


def _three_digits(value: float) -> str:
    """A factor of at least 1; "1.00" is one that is barely more."""
    return f"{value:#.3g}" if value < 99.95 else f"{value:.3g}"


# Text ---------------------------------------------------------------------------------------------------


def render_comparison_text(c: Comparison, limit: int) -> str:
    """Lines of at most 100 characters; at most `limit` layers, parameters, and findings or names of each group."""
    lines: list[str] = []
    for name, run in (("A", c.a), ("B", c.b)):
        lines += [fit(f"{name}  {plain(run.name)}"), *wrapped(state(run), "   ")]
    for note in _remarks(c, limit):
        lines += wrapped(f"note: {note}", "")
    for table in _tables(c, limit):
        lines += ["", *table_text(table)]
    lines += ["", *wrapped(_LEGEND, "")] if _any_differs(c) else []
    return "\n".join(lines) + "\n"


def _any_differs(c: Comparison) -> bool:
    return any(pair.differs for pair in (*c.layers.both, *c.parameters.both))


def _remarks(c: Comparison, limit: int) -> list[str]:
    return [*c.notes, *_problems("A", c.a, limit), *_problems("B", c.b, limit)]


def _problems(name: str, run: Run, limit: int) -> list[str]:
    more = [f"{name}: {left_out}"] if (left_out := _left_out(len(run.problems) - limit, "note")) else []
    return [f"{name}: {problem}" for problem in run.problems[:limit]] + more


# Markdown -----------------------------------------------------------------------------------------------


def render_comparison_markdown(c: Comparison, limit: int) -> str:
    """The same as Markdown; names are whole, and escaped."""
    lines = ["## Two runs compared", ""]
    lines += [f"- **{name}** {escape(headline(run))}" for name, run in (("A", c.a), ("B", c.b))]
    for note in _remarks(c, limit):
        lines += ["", f"> {escape_line(note)}"]
    for table in _tables(c, limit):
        lines += ["", f"### {table.title}", *table_markdown(table)]
    lines += ["", _LEGEND] if _any_differs(c) else []
    return "\n".join(lines) + "\n"
