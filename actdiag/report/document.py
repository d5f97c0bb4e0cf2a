"""A report, or a comparison, as JSON: everything there is, for other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from actdiag.report.compare import Comparison, Difference, FindingPair, Match, Pair
from actdiag.report.run import Run
from actdiag.snapshot import SCHEMA_VERSION
from actdiag.write.plain import strict_json


def render_json(runs: Sequence[Run]) -> str:
    """One JSON object, strict, on one line: version, runs with their last snapshot, steps, findings and problems."""
    return strict_json({"version": SCHEMA_VERSION, "runs": [_run(run) for run in runs]}) + "\n"


def _run(run: Run) -> dict[str, object]:
    return {
        "name": run.name,
        "steps": run.steps,
        "worst": run.worst,
        "findings": [finding.to_dict() for finding in run.findings],
        "last": json.loads(run.snapshots[-1].to_json()) if run.snapshots else None,
        "problems": list(run.problems),
    }


def render_comparison_json(c: Comparison) -> str:
    """One JSON object, strict, on one line. Nothing is left out.

    `difference` is null where only one run has a number; `measure` says how it is meant.
    """
    document = {
        "version": SCHEMA_VERSION,
        "a": _side(c.a, c.steps.a if c.steps else None),
        "b": _side(c.b, c.steps.b if c.steps else None),
        "common_steps": c.steps.common if c.steps else 0,
        "notes": list(c.notes),
        "findings": [_finding(pair) for pair in c.findings],
        "run": _numbers(c.run),
        "layers": _match(c.layers, "kind"),
        "parameters": _match(c.parameters, "state"),
    }
    return strict_json(document) + "\n"


def _side(run: Run, step: int | None) -> dict[str, object]:
    return {
        "name": run.name,
        "recorded_steps": len(run.snapshots),
        "last_step": run.snapshots[-1].step if run.snapshots else None,
        "compared_step": step,
        "open_findings": len(run.open_findings),
        "worst": run.worst,
        "problems": list(run.problems),
    }


def _finding(pair: FindingPair) -> dict[str, object]:
    told = {name: asdict(side) if side else None for name, side in (("a", pair.a), ("b", pair.b))}
    return {"rule": pair.rule, "layer": pair.layer, **told}


def _match(match: Match, kind: str) -> dict[str, object]:
    return {
        "both": [_pair(pair, kind) for pair in match.both],
        **{
            name: [{"name": called, kind: what} for called, what in only]
            for name, only in (("only_a", match.only_a), ("only_b", match.only_b))
        },
    }


def _pair(pair: Pair, kind: str) -> dict[str, object]:
    return {"name": pair.name, kind: {"a": pair.a, "b": pair.b}, "numbers": _numbers(pair.differences)}


_MEASURED = {"share": "b - a", "count": "b - a", "scale": "log2(b / a)"}


def _numbers(differences: Sequence[Difference]) -> dict[str, object]:
    return {
        d.measure.name: {"a": d.a, "b": d.b, "difference": d.change, "measure": _MEASURED[d.measure.kind]}
        for d in differences
    }
