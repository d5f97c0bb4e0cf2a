"""A report as plain text and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from actdiag.diagnose.finding import Finding
from actdiag.report.run import Run, worst_first
from actdiag.report.table import COLUMNS
from actdiag.snapshot import Snapshot
from actdiag.write.markdown import by_weight, escape, escape_line, evidence_line, findings_markdown
from actdiag.write.plain import plain

_ROWS = 40


def render_text(runs: Sequence[Run]) -> str:
    """A headline, a table of the sites (worst first) and the findings of each run."""
    return "\n\n".join(_run_text(run) for run in runs) + "\n"


def headline(run: Run) -> str:
    """One line: what the run is, how far it is, how it is."""
    return f"{run.name}: {state(run)}"


def state(run: Run) -> str:
    """How far a run is, and how it is."""
    if not run.snapshots:
        return "no recorded step"
    last, found = run.snapshots[-1], len(run.open_findings)
    how = f"{count(len(last.sites), 'site')}; {count(found, 'open finding') if found else 'no open finding'}"
    if not last.sites:
        how = f"0 of {count(last.sites_selected, 'site')} ran in training mode, so nothing is known of its health"
    steps = f"{count(len(run.snapshots), 'recorded step')}, the last at step {last.step}{_processes(last)}"
    return f"{steps}; {how}"


def _processes(last: Snapshot) -> str:
    """Of how many of the processes that train together the numbers are."""
    if last.ranks is None or last.world_size is None:
        return ""
    return f", {'all' if last.ranks == last.world_size else f'only {last.ranks}'} of {last.world_size} processes"


def count(n: int, what: str) -> str:
    """A number of things, in the singular where it is one."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _rows(run: Run) -> list[list[str]]:
    sites = worst_first(run)
    rows = [["site", *(column.title for column in COLUMNS)]]
    rows += [[name, *(column.fill(site) for column in COLUMNS)] for name, site in sites[:_ROWS]]
    return rows


def _left_out(run: Run) -> str | None:
    more = len(run.snapshots[-1].sites) - _ROWS if run.snapshots else 0
    return f"({count(more, 'more site')}; --format json has all)" if more > 0 else None


def _run_text(run: Run) -> str:
    lines = [plain(headline(run))]
    if run.snapshots:
        rows = [[plain(cell) for cell in row] for row in _rows(run)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["", *(_line(row, widths) for row in rows)]
        lines += [note] if (note := _left_out(run)) else []
    for finding in by_weight(run.findings):
        lines += ["", *map(plain, _finding_lines(finding))]
    if run.problems:
        lines += ["", *(plain(f"note: {problem}") for problem in run.problems)]
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1])]
    cells += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join(cells).rstrip()


def _finding_lines(f: Finding) -> list[str]:
    if f.resolved_step is not None:
        return [f"resolved {f.rule} (step {f.step} to {f.resolved_step}): {f.message}"]
    risen = "" if f.severity_step is None else f", {f.severity} since step {f.severity_step}"
    lines = [f"{f.severity.upper()} {f.rule} (step {f.step}{risen}): {f.message}"]
    if f.cause:
        lines.append(f"  likely cause: {f.cause}")
    lines += [f"  {'try:  ' if i == 0 else 'then: '}{advice}" for i, advice in enumerate(f.advice)]
    if f.evidence:
        lines.append(f"  evidence: {evidence_line(f.evidence)}")
    return lines


def render_markdown(runs: Sequence[Run]) -> str:
    """The same as Markdown; names and messages are escaped."""
    return "\n\n".join(_run_markdown(run) for run in runs) + "\n"


def _run_markdown(run: Run) -> str:
    lines = [f"## {escape(headline(run))}"]
    if run.snapshots:
        rows = _rows(run)
        lines += ["", pipe(rows[0]), pipe(["---"] * 2 + ["---:"] * (len(rows[0]) - 2))]
        lines += [pipe([escape(cell) for cell in row]) for row in rows[1:]]
        lines += ["", note] if (note := _left_out(run)) else []
        lines += ["", findings_markdown(run.open_findings)]
    resolved = [f for f in run.findings if f.resolved_step is not None]
    if resolved:
        lines += ["", "Resolved:", ""]
        lines += [f"- step {f.step} to {f.resolved_step}: {escape(f.message)}" for f in resolved]
    for problem in run.problems:
        lines += ["", f"> {escape_line(problem)}"]
    return "\n".join(lines)


def pipe(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"
