"""How many faults the rules find, and how often they cry wolf, on a directory of training programs.

    python benchmarks/score_cases.py CASES_DIR [--seed N] [--only NAME]

Each program `fNN_*.py` (faulty) or `hNN_*.py` (healthy) has `build()`, which returns model, optimizer, loss_fn, batches
and meta; `meta` holds `label`, `also`, `tolerate`. A faulty run counts as detected when a finding of severity warning
or error matches its label or one of `also`; a healthy run as a false alarm when a finding is not covered by `tolerate`.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import Any

from actdiag import Finding, Monitor
from actdiag.diagnose.finding import at_least

LABELS = {
    "dead-units": {"dead_units"},
    "saturated-activation": {"saturation"},
    "off-center": {"uncentred"},
    "exploding-activation": {"exploding_activation"},
    "exploding-gradient": {"exploding_gradient"},
    "vanishing-gradient": {"vanishing_gradient"},
    "collapsed-activation": {"vanishing_gradient"},
    "gradient-underflow": {"vanishing_gradient"},
    "non-finite": {"nan"},
    "no-gradient": {"not_learning"},
    "stalled-update": {"not_learning"},
    "oversized-update": {"not_learning"},
    "poor-initialization": {"vanishing_gradient", "exploding_gradient", "exploding_activation", "saturation"},
}


def train(name: str) -> tuple[list[Finding], dict[str, Any]]:
    """Run one program to its end; its warnings and errors, and what is true of it."""
    model, optimizer, loss_fn, batches, meta = importlib.import_module(name).build()
    with Monitor(model, optimizer, max_overhead=None, attentive=True) as monitor:
        for x, y in batches:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    return [f for f in monitor.findings if at_least(f.severity, "warning")], meta


def judge(findings: list[Finding], meta: dict[str, Any]) -> str:
    """detected, missed, quiet or FALSE ALARM."""
    said = {label for f in findings for label in LABELS.get(f.rule, set())}
    if meta["label"] != "healthy":
        return "detected" if said & {meta["label"], *meta.get("also", [])} else "MISSED"
    tolerated = meta.get("tolerate", {})
    loud = [f for f in findings if tolerated.get(f.layer) not in LABELS.get(f.rule, set())]
    return "FALSE ALARM" if loud else "quiet"


def main() -> None:
    """A line for each program, and the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--seed", default=os.environ.get("CASE_SEED", "0"), help="default: CASE_SEED, else 0")
    parser.add_argument("--only", default="", metavar="NAME", help="programs whose name contains this")
    arguments = parser.parse_args()
    os.environ["CASE_SEED"] = arguments.seed
    logging.disable(logging.CRITICAL)
    sys.path.insert(0, str(arguments.cases))
    verdicts: list[str] = []
    for path in sorted(arguments.cases.glob("[fh][0-9]*.py")):
        if arguments.only not in path.stem:
            continue
        findings, meta = train(path.stem)
        verdicts.append(judge(findings, meta))
        told = "; ".join(f"{f.severity[0]}:{f.rule}@{f.layer}#{f.step}" for f in findings)
        truth = ",".join([meta["label"], *meta.get("also", [])])
        print(f"{verdicts[-1]:12} {path.stem:34} {truth:45} {told}", flush=True)
    faulty = verdicts.count("detected") + verdicts.count("MISSED")
    healthy = verdicts.count("quiet") + verdicts.count("FALSE ALARM")
    print(
        f"detected {verdicts.count('detected')} of {faulty}, false alarms {verdicts.count('FALSE ALARM')} of {healthy}"
    )


if __name__ == "__main__":
    main()
