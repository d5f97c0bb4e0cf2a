"""Train one program: with actdiag, within its budget and without one; then with the peers and the measure of deaths.

CASE_SEED=1 python benchmarks/cases/program.py FOLDER NAME      prints what score.Case holds, as one line of JSON
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from actdiag import Finding, Monitor
from actdiag.diagnose.finding import at_least
from cases.measure import build
from cases.peers import PEERS, Recorder, Tool, View
from cases.score import Said
from cases.truth import GRID_STEPS, Mortality

CASES = Path(__file__).resolve().parent


SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "actdiag": {},
    "actdiag, no budget": {"max_overhead": None, "attentive": True},
}
"""Defaults, whose intervals follow the clock; and the same intervals on any machine."""


def observe(folder: Path, name: str, **options: Any) -> tuple[list[Said], list[Said], dict[str, Any]]:
    """Train a program with actdiag; its warnings and errors, its forecasts, and what is true of the program.

    `Finding.step` is where an episode was first told, maybe as info: what counts is when it became a warning.
    """
    model, optimizer, loss_fn, batches, meta = build(folder, name)
    told: dict[tuple[str, str, int], Said] = {}

    def listen(finding: Finding) -> None:
        if at_least(finding.severity, "warning") and monitor.latest is not None:
            episode = finding.rule, finding.layer, finding.step
            told.setdefault(episode, Said(finding.rule, finding.layer, monitor.latest.step))

    with Monitor(model, optimizer, on_finding=listen, **options) as monitor:
        for x, y in batches:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    foretold = [Said(f.rule, f.layer, f.step) for f in monitor.findings if f.rule == "dying-units"]
    return list(told.values()), foretold, meta


def measure(folder: Path, name: str) -> dict[str, Any]:
    """Train a program without actdiag: what the peers say, when units died, the modules in order."""
    model, optimizer, loss_fn, batches, meta = build(folder, name)
    tools = {peer: Tool(rules) for peer, rules in PEERS.items()}

    def views(view: View) -> None:
        for tool in tools.values():
            tool.see(view)

    recorder, deaths = Recorder(model, views), Mortality(model)
    for step, (x, y) in enumerate(batches):
        if meta["label"] != "healthy" and step % GRID_STEPS == 0:
            deaths.measure(batches.X, step)
        recorder.begin(step, x)
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        recorder.end(step)
        optimizer.step()
        recorder.finish(step)
    leaves = [n for n, m in model.named_modules() if n and not any(m.children())]
    return {"said": {peer: tool.said for peer, tool in tools.items()}, "shares": deaths.shares(), "layers": leaves}


def case_of(folder: Path, name: str) -> dict[str, Any]:
    """Everything of one run, as plain values."""
    said: dict[str, list[Said]] = {}
    forecasts: dict[str, list[Said]] = {}
    for tool, options in SETTINGS.items():
        said[tool], forecasts[tool], meta = observe(folder, name, **options)
    rest = measure(folder, name)
    said |= rest["said"]
    return {
        "name": name,
        "seed": int(os.environ.get("CASE_SEED", "0")),
        "label": meta["label"],
        "also": list(meta.get("also", [])),
        "tolerate": dict(meta.get("tolerate", {})),
        "at_fault": list(meta.get("layers_at_fault", [])),
        "layers": rest["layers"],
        "shares": rest["shares"],
        "said": _plain(said),
        "forecasts": _plain(forecasts),
    }


def _plain(said: Mapping[str, Sequence[Said]]) -> dict[str, list[tuple[Any, ...]]]:
    return {tool: [astuple(one) for one in given] for tool, given in said.items()}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    print(json.dumps(case_of(CASES / sys.argv[1], sys.argv[2])))
