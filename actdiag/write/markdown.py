"""Findings as Markdown: TensorBoard's text dashboard and `actdiag report --format markdown` show it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from actdiag.diagnose.finding import SEVERITIES, Finding
from actdiag.write.plain import plain

_LONGEST_LIST = 8


def by_weight(findings: Sequence[Finding]) -> list[Finding]:
    """Open ones before those that are over; then worst first, then newest."""
    return sorted(
        findings, key=lambda f: (f.resolved_step is not None, -SEVERITIES.index(f.severity), -f.step, f.layer)
    )


def findings_markdown(findings: Sequence[Finding], *, most: int | None = None) -> str:
    """A paragraph and a list for each finding, at most `most` of them; nothing in them becomes markup."""
    if not findings:
        return "**No open finding.** Nothing observed is out of its healthy range now."
    shown = by_weight(findings)[:most]
    parts = [_finding(finding) for finding in shown]
    if more := len(findings) - len(shown):
        parts.append(f"… and {more} more, less severe or older.")
    return "\n\n".join(parts)


def _finding(f: Finding) -> str:
    risen = "" if f.severity_step is None else f", {escape(f.severity)} since step {f.severity_step}"
    lines = [f"**{escape(f.severity)}** · step {f.step}{risen} · `{_code(f.rule)}`", "", escape_line(f.message)]
    if f.cause:
        lines += ["", f"*Likely cause:* {escape(f.cause)}."]
    if f.advice:
        lines += ["", "*What to try:*", "", *(f"{i}. {escape_line(a)}" for i, a in enumerate(f.advice, 1))]
    if f.evidence:
        lines += ["", f"*Evidence:* {escape(evidence_line(f.evidence))}"]
    return "\n".join(lines)


def evidence_line(evidence: Mapping[str, Any]) -> str:
    """`name value` pairs, then what would be healthy; long lists are cut."""
    pairs = [f"{k} {_value(v)}" for k, v in evidence.items() if v not in (None, []) and k != "healthy"]
    healthy = evidence.get("healthy")
    return "; ".join([*filter(None, [", ".join(pairs)]), *([] if healthy is None else [f"healthy: {_value(healthy)}"])])


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        shown = " ".join(map(_value, value[:_LONGEST_LIST]))
        return f"{shown} …" if len(value) > _LONGEST_LIST else shown
    return str(value)


_MARKS = re.compile(r"[\\`*_\[\]|#]")
_AUTOLINK = re.compile(r"[~@]|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
_BLOCK = re.compile(r"[-+=]|\d+(?=[.)])")


def escape(text: str) -> str:
    """Text on one line, with everything that Markdown and HTML give a meaning made plain.

    What no Markdown dialect lets a backslash escape everywhere becomes a character reference.
    """
    text = plain(text).strip().replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKS.sub(r"\\\g<0>", text)
    return _AUTOLINK.sub(lambda found: f"&#{ord(found[0])};", text)


def escape_line(text: str) -> str:
    """`escape` for text that opens a line or an item: it begins no list, rule or heading there."""
    text = escape(text)
    if found := _BLOCK.match(text):
        last = found.end() - 1
        text = f"{text[:last]}&#{ord(text[last])};{text[last + 1 :]}"
    return text


def _code(text: str) -> str:
    """Text inside a code span, where no escape holds."""
    return plain(text).replace("`", "'")
