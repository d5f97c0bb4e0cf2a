"""docs/metrics.md and docs/metrics: a page for each number, from its manual and from where the writers put it.

python -m tests.metric_pages [--write]      prints what differs, or writes the pages
"""

from __future__ import annotations

import sys
from pathlib import Path

from actdiag.manual import ENTRIES, FIELDS, parts_of
from actdiag.manual.entry import Entry
from actdiag.snapshot import ParameterStats, SiteStats, Snapshot, stat_fields
from actdiag.tensorboard.metrics import METRICS
from actdiag.write import tags
from actdiag.write.stock import SITE_METRICS, model_scalars

DOCS = Path(__file__).resolve().parent.parent / "docs"
COMMAND = "python -m tests.metric_pages --write"
OF = {"site": "Of a site", "parameter": "Of a parameter", "step": "Of a step"}
_CURVES = {"gradient_ratio": "grad_rms"}
"""Curves of the model that do not begin with the number they are made of."""

_INTRODUCTION = """\
# What the numbers mean

A page for each: formula, range, what healthy trainings show, when it is `None`, where it is in TensorBoard, and where
the definition comes from. In a terminal: `actdiag explain mean_energy`. *Healthy* are 33 training programs that learn
(two seeds each); limits of the rules are in [rules/limits.md](rules/limits.md). A number that does not apply is `None`,
never 0.

`z` is what an activation function `f` reads, `a` what it returns; unit `i` is a channel or a feature, `mu_i` its mean
over samples. All of them merge exactly over calls, micro-batches and ranks: they are made of sums, extremes and counts.
"""


def pages() -> dict[str, str]:
    """Path below docs -> text."""
    return {"metrics.md": index(), **{f"metrics/{name}.md": page(entry) for name, entry in ENTRIES.items()}}


def index() -> str:
    """The table of all numbers."""
    parts = [_INTRODUCTION]
    for of, heading in OF.items():
        rows = [_row(entry, name) for entry in ENTRIES.values() if entry.of == of for name in entry.names]
        parts.append("\n".join([f"## {heading}\n", "| number | what it is | unit |", "|---|---|---|", *rows, ""]))
    return "\n".join([*parts, f"Written by `{COMMAND}`.", ""])


def _row(entry: Entry, name: str) -> str:
    told = FIELDS[entry.of][name]
    return f"| [`{name}`](metrics/{entry.names[0]}.md) | {_cell(told['doc'])} | {_cell(told['unit'])} |"


def page(entry: Entry) -> str:
    """The page of one entry."""
    lines = [f"# {', '.join(entry.names)}", "", f"{OF[entry.of]}.", ""]
    lines += [f"- `{name}`: {_text(FIELDS[entry.of][name]['doc'])}" for name in entry.names]
    for heading, text in parts_of(entry):
        words = "\n".join(f"- [{slug}](../rules/{slug}.md)" for slug in entry.rules) if heading == "Findings" else ""
        lines += ["", f"## {heading}", "", words or _text(_sentence(heading, text))]
    lines += ["", "## In TensorBoard", "", *where(entry)]
    return "\n".join([*lines, "", f"[All numbers](../metrics.md). Written by `{COMMAND}`.", ""])


def where(entry: Entry) -> list[str]:
    """Lines on the tab, the stock curves, and the log."""
    shown = [metric for metric in METRICS.values() if metric.of == entry.of and metric.field in entry.names]
    lines = [f"- tab: *{metric.title}*" + ("" if metric.main else ", under *More numbers*") for metric in shown]
    curves = [name for name in entry.names if name in (*SITE_METRICS, "update_ratio") and entry.of != "step"]
    lines += [f"- Scalars, of the layers that matter most: `actdiag_{name}/<layer>`" for name in curves]
    lines += [f"- Scalars, of the model: `{tag}`" for tag in _model_curves() if _belongs(tag, entry)]
    lines += [f"- log: `{tag}`" for tag in tags_of(entry)]
    return lines


def tags_of(entry: Entry) -> list[str]:
    """Tags of the tensors that the tab and the report read."""
    kinds = {field: tags.HISTOGRAM + kind for kind, field in tags.HISTOGRAM_KINDS.items()}
    special = {**kinds, "unit_states": tags.UNITS, "state": tags.PARAMETER + "state"}
    front = {"site": tags.STAT, "parameter": tags.PARAMETER, "step": tags.STEP}[entry.of]
    return [special.get(name, front + name) for name in entry.names]


def _model_curves() -> list[str]:
    numbers = {name: 1 for name in stat_fields(SiteStats)}
    sites = {name: SiteStats(kind="ReLU", role="activation", order=i, **numbers) for i, name in enumerate("abcdefgh")}
    weights = ParameterStats(state="trained", **{name: 1 for name in stat_fields(ParameterStats)})
    step = {name: 1 for name in tags.STEP_STATS}
    return list(model_scalars(Snapshot(step=0, sites=sites, parameters={"a.weight": weights}, **step), 0))


def _belongs(tag: str, entry: Entry) -> bool:
    """Whether a curve of the model is made of a number of this entry: the one with the longest name it begins with."""
    curve = tag.removeprefix(tags.STEP)
    named = [name for one in ENTRIES.values() for name in one.names if _CURVES.get(curve, curve).startswith(name)]
    if not named or max(named, key=len) not in entry.names:
        return False
    return (curve in tags.STEP_STATS) == (entry.of == "step")


def _sentence(heading: str, text: str) -> str:
    return text if heading == "Formula" else text[:1].upper() + text[1:].rstrip(".") + "."


def _text(text: str) -> str:
    """Words for Markdown: nothing in them is markup."""
    for sign in "*_<":
        text = text.replace(sign, "\\" + sign)
    return text


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def stale() -> list[str]:
    """Pages that are missing, differ, or speak of no number."""
    wanted = pages()
    paths = [DOCS / "metrics.md", *(DOCS / "metrics").glob("*.md")]
    there = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in paths if path.exists()}
    return sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name))


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        (DOCS / "metrics").mkdir(exist_ok=True)
        for name in stale():
            (DOCS / name).unlink(missing_ok=True)
        for name, text in pages().items():
            (DOCS / name).write_text(text, encoding="utf-8")
    print(f"{len(stale())} pages differ from the numbers: {', '.join(stale())}")
    raise SystemExit(bool(stale()))
