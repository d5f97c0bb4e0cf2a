"""docs/rules: a page for each finding, from the manual that is its rule's docstring.

python -m tests.rule_pages [--write]      prints what differs, or writes the pages
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

from actdiag.diagnose import limits
from actdiag.diagnose.judge import RULES

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "rules"
_HEADING = re.compile(r"^(What|Why|Not a problem when|What to try|Source): ", re.MULTILINE)


def pages() -> dict[str, str]:
    """File name -> text."""
    return {"README.md": index(), "limits.md": limits_page(), **{f"{slug}.md": page(slug) for slug in RULES}}


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
    table = ["| finding | what it says |", "|---|---|", *rows, ""]
    return "\n".join([*head, *table, *_OWN.strip().format(rule=OWN_RULE.strip()).splitlines(), ""])


OWN_RULE = '''
from actdiag import Verdict


def cold_head(history, limits):
    """Told while the head's gradient is below a millionth."""
    site = history[-1].sites.get("head")
    if site is not None and site.grad_rms is not None and site.grad_rms < 1e-6:
        yield Verdict(
            rule="cold-head",
            severity="warning",
            layer="head",
            message=f"head: gradient {site.grad_rms:.2g}",
            evidence={"grad_rms": site.grad_rms},
            advice=("raise the weight of its loss",),
        )
'''

_OWN = """
The thresholds, by the names that `limits` takes, are in [limits.md](limits.md).

## A rule of your own

A rule is a function of the recorded snapshots, oldest first (the first two of the run and the last sixteen), and the
limits; it yields an `actdiag.Verdict` for as long as something is wrong. It is called once a recorded step, on plain
numbers (`actdiag.Snapshot`, None for what was not measured).

```python
{rule}
```

`Monitor(model, optimizer, rules={{"cold-head": cold_head}})` adds it, also as text, `"package.module:cold_head"`. It is
told once an episode, resolved when it has been quiet twice, and can be named in `ignore` and `severities` like the
others. A rule that raises, or gives something else than verdicts of its own name, is switched off with one warning.
To judge a finished run: `actdiag report LOGDIR --rules cold-head=package.module:cold_head`.
"""


def limits_page() -> str:
    """Every threshold: name, default, and what its value rests on."""
    rows, names = [], list[str]()
    for node in next(n for n in ast.parse(inspect.getsource(limits)).body if isinstance(n, ast.ClassDef)).body:
        if isinstance(node, ast.AnnAssign):
            names.append(f"`{ast.unparse(node.target)}` {ast.unparse(node.value or ast.Constant(None))}")
        elif isinstance(node, ast.Expr) and names:
            family = names[-1].partition("_")[0]
            others = [name for name in names if not name.startswith(family)]
            rows += [([name], "") for name in others]
            rows.append(([name for name in names if name not in others], _joined(ast.literal_eval(node.value))))
            names = []
    rows += [([name], "") for name in names]
    head = ["# Limits", "", _joined((inspect.getdoc(limits) or "").partition("\n\n")[2]), ""]
    how = (
        'Another value for all of a training: `Monitor(model, optimizer, limits={"dead_warning": 0.6})`. A rule may '
        "have several that have to be moved together: of dead units `half_window_warning` and `silent_warning` "
        "warn earlier."
    )
    table = ["| limit, default | on what it rests |", "|---|---|", *(f"| {', '.join(n)} | {why} |" for n, why in rows)]
    return "\n".join([*head, how, "", *table, ""])


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
