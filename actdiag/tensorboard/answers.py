"""What each route answers, made from logs: the same for TensorBoard and for the HTML report.

A route takes the query as text and gives a JSON value or the bytes of a frame; what cannot be answered is a Refusal.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from actdiag.diagnose.finding import Finding
from actdiag.diagnose.judge import RULES
from actdiag.diagnose.rules.reading import module_of
from actdiag.report.read import natural
from actdiag.tensorboard.details import histogram_answer, units_answer
from actdiag.tensorboard.frame import encode_frame
from actdiag.tensorboard.log import Log, Logs, name_of
from actdiag.tensorboard.metrics import METRICS, Metric, metrics_of
from actdiag.tensorboard.query import columns_of, text_of
from actdiag.tensorboard.reduce import extremes, first_and_last, placed
from actdiag.tensorboard.refusal import NOT_THERE, Refusal
from actdiag.tensorboard.view import View, site_row, view_of
from actdiag.write import tags

Answer = dict[str, Any] | bytes
Query = Mapping[str, str]


def answer(logs: Logs, route: str, query: Query) -> Answer:
    """A JSON value or the bytes of a frame. Raises Refusal."""
    if route == "runs":
        return _runs(logs)
    make = _OF_A_LOG.get(route)
    if make is None:
        raise Refusal(NOT_THERE, f"there is no {route!r:.80}")
    log = logs.one(text_of(query, "run"), text_of(query, "monitor", ""))
    if not len(log.timeline().steps_T):
        raise Refusal(NOT_THERE, f"run {name_of(log)!r:.200} has no recorded step")
    return make(log, query)


def _runs(logs: Logs) -> Answer:
    found, problem = logs.all()
    rows: list[dict[str, Any]] = []
    problems = [] if problem is None else [problem]
    for log in sorted(found, key=lambda log: natural(name_of(log))):
        try:
            steps = log.timeline().steps_T
        except Refusal as refusal:
            problems.append(f"{name_of(log)}: {refusal}")
            continue
        if len(steps):
            rows.append({**_head(log), "count": len(steps), "last_step": int(steps[-1])})
    return {"runs": rows, "problem": "; ".join(problems) or None}


def _head(log: Log) -> dict[str, Any]:
    return {"run": log.run, "monitor": log.monitor, "name": name_of(log), "version": log.version}


def _run(log: Log, query: Query) -> Answer:
    timeline = log.timeline()
    findings, problems = log.findings()
    steps = timeline.steps_T
    sites = [{"name": name, **timeline.described[name]} for name in timeline.sites.names]
    return {
        **_head(log),
        "first_step": int(steps[0]),
        "last_step": int(steps[-1]),
        "count": len(steps),
        "sites": sites,
        "parameters": [
            {"name": name, "site": site} for name, site in owners(timeline.parameters.names, timeline.sites.names)
        ],
        "metrics": [metric.to_dict() for metric in metrics_of(log.tags)],
        "histograms": [kind for kind in tags.HISTOGRAM_KINDS if tags.HISTOGRAM + kind in log.tags],
        "units": tags.UNITS in log.tags,
        "findings": [_finding(finding) for finding in findings],
        "problems": [*timeline.problems, *problems],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    rule = RULES.get(finding.rule)
    title = (inspect.getdoc(rule) or "").partition("\n")[0] if rule is not None else ""
    return {**finding.to_dict(), "rule_title": title or finding.rule}


def owners(parameters: Sequence[str], sites: Sequence[str]) -> list[tuple[str, str | None]]:
    """Each parameter, and the site of its module: the first call of that module, its output before its input."""
    at: dict[str, str] = {}
    for name in sorted(sites, key=lambda name: name.endswith(":in")):
        at.setdefault(module_of(name), name)
    return [(name, at.get(name.rpartition(".")[0])) for name in parameters]


def _stat(log: Log, query: Query) -> Answer:
    metric = _metric(log, text_of(query, "metric"))
    timeline = log.timeline()
    names = (timeline.sites if metric.of == "site" else timeline.parameters).names
    view = view_of(timeline.steps_T, query, columns_of(query, 1200), rows=2 * len(names))
    grid = log.grid(metric)
    low, high = extremes(grid.values_TR[view.span], view.edges)
    return encode_frame(
        {
            "run": log.run,
            "monitor": log.monitor,
            "metric": metric.name,
            "of": metric.of,
            "rows": list(names),
            "count": view.count,
            "exact": view.exact,
            "problems": list(grid.problems),
        },
        {
            **first_and_last(view.steps, view.edges),
            "low": placed(low, grid.rows, len(names)),
            "high": placed(high, grid.rows, len(names)),
        },
    )


def _metric(log: Log, name: str) -> Metric:
    metric = METRICS.get(name)
    if metric is None or metric.tag not in log.tags:
        raise Refusal(NOT_THERE, f"run {name_of(log)!r:.200} has no metric {name!r:.80}")
    return metric


def _layer(log: Log, query: Query) -> Answer:
    timeline = log.timeline()
    site = text_of(query, "site")
    row = site_row(log, site)
    own = [i for i, (_, owner) in enumerate(owners(timeline.parameters.names, timeline.sites.names)) if owner == site]
    rows = {"site": [(row, site)], "parameter": [(i, timeline.parameters.names[i]) for i in own]}
    view = view_of(timeline.steps_T, query, columns_of(query, 600), rows=2 * len(METRICS) * (1 + len(own)))
    curves: list[dict[str, str]] = []
    pairs = []
    for metric in metrics_of(log.tags):
        for index, name in rows[metric.of]:
            found = _curve(log, metric, index, view)
            if found is not None:
                curves.append({"metric": metric.name, "of": metric.of, "name": name})
                pairs.append(found)
    order = sorted(range(len(curves)), key=lambda i: curves[i]["of"] == "parameter")
    empty = np.zeros((0, view.columns), np.float32)
    low, high = (np.stack([pairs[i][side] for i in order]) if pairs else empty for side in (0, 1))
    return encode_frame(
        {"site": site, "curves": [curves[i] for i in order], "count": view.count, "exact": view.exact},
        {**first_and_last(view.steps, view.edges), "low": low, "high": high},
    )


def _curve(log: Log, metric: Metric, index: int, view: View) -> tuple[Any, Any] | None:
    """Smallest and largest value a column, f4[C] each; None for what is NaN at all steps of the view."""
    grid = log.grid(metric)
    (column,) = np.nonzero(grid.rows == index)
    values = grid.values_TR[view.span][:, column]
    if not column.size or np.isnan(values).all():
        return None
    low, high = extremes(values, view.edges)
    return low[0], high[0]


_OF_A_LOG: dict[str, Callable[[Log, Query], Answer]] = {
    "run": _run,
    "stat": _stat,
    "layer": _layer,
    "histogram": histogram_answer,
    "units": units_answer,
}
ROUTES = ("runs", *_OF_A_LOG)
