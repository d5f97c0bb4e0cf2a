"""A report as plain text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from actdiag.diagnose.finding import Finding
from actdiag.report.run import Run, worst_first
from actdiag.report.table import COLUMNS
from actdiag.write.markdown import by_weight, escape, evidence_line, findings_markdown

_ROWS = 40


def render_text(runs: Sequence[Run]) -> str:
    """A headline, a table of the sites (worst first) and the findings of each run."""
    return "\n\n".join(_run_text(run) for run in runs) + "\n"


def headline(run: Run) -> str:
    """One line: what the run is, how far it is, how it is."""
    if not run.snapshots:
        return f"{run.name}: no recorded step"
    last = run.snapshots[-1]
    found = len(run.open_findings)
    verdict = "no open finding" if not found else f"{found} open finding{'s' if found > 1 else ''}"
    return (
        f"{run.name}: {len(run.snapshots)} recorded steps, the last at step {last.step}; "
        f"{len(last.sites)} sites; {verdict}"
    )


def _rows(run: Run) -> list[list[str]]:
    sites = worst_first(run)
    rows = [["site", *(column.title for column in COLUMNS)]]
    rows += [[name, *(column.fill(site) for column in COLUMNS)] for name, site in sites[:_ROWS]]
    return rows


def _left_out(run: Run) -> str | None:
    more = len(run.snapshots[-1].sites) - _ROWS if run.snapshots else 0
    return f"({more} more sites; --format json has all)" if more > 0 else None


def _run_text(run: Run) -> str:
    lines = [headline(run)]
    if run.snapshots:
        rows = _rows(run)
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines += ["", *(_line(row, widths) for row in rows)]
        lines += [note] if (note := _left_out(run)) else []
    for finding in by_weight(run.findings):
        lines += ["", *_finding_lines(finding)]
    lines += [f"note: {problem}" for problem in run.problems]
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
    cells += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join(cells).rstrip()


def _finding_lines(f: Finding) -> list[str]:
    over = "" if f.resolved_step is None else f", resolved at step {f.resolved_step}"
    lines = [f"{f.severity.upper()} {f.rule} (step {f.step}{over}): {f.message}"]
    if f.cause:
        lines.append(f"  likely cause: {f.cause}")
    lines += [f"  {'try:  ' if i == 0 else 'then: '}{advice}" for i, advice in enumerate(f.advice)]
    lines.append(f"  evidence: {evidence_line(f.evidence)}")
    return lines


def render_markdown(runs: Sequence[Run]) -> str:
    """The same as Markdown; names and messages are escaped."""
    return "\n\n".join(_run_markdown(run) for run in runs) + "\n"


def _run_markdown(run: Run) -> str:
    lines = [f"## {escape(headline(run))}"]
    if run.snapshots:
        rows = _rows(run)
        lines += ["", _pipe(rows[0]), _pipe(["---"] * 2 + ["---:"] * (len(rows[0]) - 2))]
        lines += [_pipe([escape(cell) for cell in row]) for row in rows[1:]]
        lines += ["", note] if (note := _left_out(run)) else []
    lines += ["", findings_markdown(run.open_findings)]
    resolved = [f for f in run.findings if f.resolved_step is not None]
    if resolved:
        lines += ["", "Resolved:", ""]
        lines += [f"- step {f.step} to {f.resolved_step}: {escape(f.message)}" for f in resolved]
    lines += [f"\n> {escape(problem)}" for problem in run.problems]
    return "\n".join(lines)


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
