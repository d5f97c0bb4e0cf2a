"""Findings as Markdown: TensorBoard's text dashboard and `actdiag report --format markdown` show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actdiag.diagnose.finding import SEVERITIES, Finding


def by_weight(findings: Sequence[Finding]) -> list[Finding]:
    """Worst first, then newest."""
    return sorted(findings, key=lambda f: (-SEVERITIES.index(f.severity), -f.step, f.layer))


def findings_markdown(findings: Sequence[Finding]) -> str:
    """A paragraph and a list for each finding; names and messages are escaped, so they never become markup."""
    if not findings:
        return "**No findings.** Nothing observed so far is out of its healthy range."
    return "\n\n".join(_finding(finding) for finding in by_weight(findings))


def _finding(f: Finding) -> str:
    lines = [f"**{f.severity}** · step {f.step} · `{f.rule}`", "", escape(f.message)]
    if f.cause:
        lines += ["", f"*Likely cause:* {escape(f.cause)}."]
    if f.advice:
        lines += ["", "*What to try:*", "", *(f"{i}. {escape(a)}" for i, a in enumerate(f.advice, 1))]
    lines += ["", f"*Evidence:* {escape(evidence_line(f.evidence))}"]
    return "\n".join(lines)


def evidence_line(evidence: Mapping[str, Any]) -> str:
    """`name value` pairs; long lists are cut."""
    return ", ".join(f"{name} {_value(value)}" for name, value in evidence.items() if value not in (None, []))


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        shown = " ".join(map(str, value[:8]))
        return f"{shown} …" if len(value) > 8 else shown
    return str(value)


def escape(text: str) -> str:
    """Text with the characters that Markdown and HTML give a meaning made plain."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in ("\\", "`", "*", "_", "[", "]", "|", "#"):
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", " ")
