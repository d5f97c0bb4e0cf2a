"""The tab as one HTML file that needs no server: the screen, and every answer it may ask for.

The file loads nothing: modules are data: URLs of an import map, answers are JSON or base64 in a script element, and its
own policy forbids every request. It is pure ASCII.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from actdiag.report.run import Run
from actdiag.tensorboard.answers import answer
from actdiag.tensorboard.directory import DirectoryLogs
from actdiag.tensorboard.refusal import Refusal
from actdiag.write.plain import strict_json

STATIC = Path(__file__).parent / "static"
LARGEST_BYTES = 32 << 20
"""Of all answers together. Beyond, columns get coarser, and then the last answers are left out."""

_COLUMNS = {"stat": 300, "layer": 300, "histogram": 100, "units": 150}
_COARSER = (1, 2, 4, 8)
_USUAL_BINS, _USUAL_UNITS = 50, 128
_ENCODE_URI_COMPONENT = "!*'()"
"""What JavaScript's function of this name leaves as it is, beside letters, digits and -._~"""
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_IMPORT = re.compile(r"""(\b(?:from|import)\s*\(?\s*)(["'])\./([\w.-]+\.js)\2""")

Request = tuple[str, dict[str, str]]
Value = Mapping[str, Any] | str


def render_html(runs: Sequence[Run], *, static: Path = STATIC, most: int = LARGEST_BYTES) -> str:
    """The page. `static` is the folder of the screen's files, `most` the bytes that all answers may take."""
    answers = strict_json(all_answers(runs, most)).replace("<", "\\u003c")
    style = static / "style.css"
    parts = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<title>actdiag report</title>",
        f"<style>{_css(style.read_text(encoding='utf-8')) if style.is_file() else ''}</style>",
        f'<script type="importmap">{json.dumps({"imports": modules(static)})}</script>',
        f'<script type="application/json" id="actdiag-answers">{answers}</script>',
        "</head>\n<body>",
        '<script type="module">import {render} from "actdiag/index.js"; render();</script>',
        "</body>\n</html>\n",
    )
    return "\n".join(parts)


def key_of(route: str, query: Mapping[str, str]) -> str:
    """Under which an answer is found: the route and its query, names sorted, values as in a URL."""
    pairs = (f"{name}={quote(query[name], safe=_ENCODE_URI_COMPONENT, errors='replace')}" for name in sorted(query))
    return f"{route}?{'&'.join(pairs)}"


def modules(static: Path) -> dict[str, str]:
    """Name of each module -> data: URL of its text, in which the others go by these names."""
    found = {}
    for path in sorted(static.glob("*.js")):
        text = _IMPORT.sub(r"\1\2actdiag/\3\2", path.read_text(encoding="utf-8"))
        found[f"actdiag/{path.name}"] = f"data:text/javascript;base64,{_base64(text.encode())}"
    return found


def all_answers(runs: Sequence[Run], most: int) -> dict[str, Value]:
    """Key -> JSON value, or frame in base64, of everything that the screen may ask for.

    As fine as fits into about `most` bytes. If even the coarsest does not fit, the last ones are left out, which the
    list of runs tells.
    """
    logs = DirectoryLogs(runs)
    listed: Any = answer(logs, "runs", {})
    told = [(row, answer(logs, "run", _names(row))) for row in listed["runs"]]
    found: dict[str, Value] = {key_of("run", _names(row)): about for row, about in told if isinstance(about, dict)}
    coarser = next((c for c in _COARSER if sum(_expected(about, c) for _, about in told) <= most), _COARSER[-1])
    left, missing = most - len(strict_json(found)), 0
    for route, query in _views(told):
        value = _view(logs, route, query, _COLUMNS[route] // coarser) if left > 0 else None
        left -= len(value or "")
        if value is None or left < 0:
            missing += 1
        else:
            found[key_of(route, query)] = value
    if missing:
        note = f"the log is too large for one file: {missing} views are left out; TensorBoard shows all"
        listed["problem"] = "; ".join(filter(None, (listed["problem"], note)))
    return {key_of("runs", {}): listed, **found}


def _view(logs: DirectoryLogs, route: str, query: Mapping[str, str], columns: int) -> str | None:
    try:
        made = answer(logs, route, {**query, "columns": str(columns)})
    except Refusal:
        return None
    assert isinstance(made, bytes), "views are frames"
    return _base64(made)


def _expected(about: Any, coarser: int) -> int:
    """About how many bytes the frames of a run take in base64; bins and units are what is usual."""
    rows = {"site": len(about["sites"]), "parameter": len(about["parameters"])}
    columns = {route: min(most // coarser, int(about["count"])) for route, most in _COLUMNS.items()}
    curves = sum(8 * rows[metric["of"]] for metric in about["metrics"])
    bins = 4 * _USUAL_BINS * len(about["histograms"])
    size = curves * (columns["stat"] + columns["layer"]) + rows["site"] * bins * columns["histogram"]
    if about["units"]:
        size += rows["site"] * _USUAL_UNITS * columns["units"]
    return size * 4 // 3


def _views(told: Sequence[tuple[Any, Any]]) -> Iterator[Request]:
    """Every frame the screen may ask for, what matters most first."""
    for main in (True, False):
        for row, about in told:
            yield from (("stat", {**_names(row), "metric": m["name"]}) for m in about["metrics"] if m["main"] is main)
            for site in (site["name"] for site in about["sites"]) if main else ():
                of_site = {**_names(row), "site": site}
                yield "layer", of_site
                yield from (("histogram", {**of_site, "kind": kind}) for kind in about["histograms"])
                if about["units"]:
                    yield "units", of_site


def _names(row: Mapping[str, Any]) -> dict[str, str]:
    return {"run": row["run"], "monitor": row["monitor"]}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _css(text: str) -> str:
    """A style sheet that cannot end its element, in ASCII."""
    text = text.replace("</", "<\\/")
    return "".join(c if c.isascii() else f"\\{ord(c):x} " for c in text)
