"""Train every program of a set, and hold what actdiag and other tools' rules say against what is true of it.

    python benchmarks/score_cases.py [--sets first:0,1 second ...] [--only NAME] [--write docs/benchmark.md]
                                     [--keep runs/scores.jsonl]

A set is a folder of benchmarks/cases: `fNN_*.py` (faulty) and `hNN_*.py` (healthy), whose `build()` returns model,
optimizer, loss_fn, batches and meta. Each program runs in a process of its own, two at a time.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from cases.peers import EVERY, PEERS
from cases.program import SETTINGS
from cases.score import Case, Score, alarms, by_label, case_from, forecasts, in_place, latencies, matching, score
from cases.truth import DEAD_SHARE, GRID_STEPS

import actdiag

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "benchmarks" / "cases"
TOOLS = (*SETTINGS, *PEERS)
SEEDS: Mapping[str, str] = {
    "first:0,1": "The rules were made with these.",
    "second:8,9,10,11": "Held out until two words were premature; units that flicker were then looked for, on these.",
    "second:12,13,14,15": "Held out until a word was premature; the margin for few units was then set, on 4 to 15.",
    "second:16,17,18": "Held out, with a median of 28 steps; the margin for few units was then set anew.",
    "second:19,20,21": "Held out until two words were premature; what few units are spared was then set, on 4 to 21.",
    "second:22,23,24": "Held out until they were scored with the rules before; no rule was made with them.",
    "second:25,26,27": "Held out: nobody had looked at these before they were scored.",
}
"""What the seeds of a set were used for, by how they are chosen."""


_METHOD = """\
Training programs with a known fault, and healthy ones that look odd, run to their end. Only warnings and errors count.

- *Right kind*: a finding that stands for the run's label, or for another label that is true of it.
- *Right layer*: one of these names a layer at fault, or the module right before or after it.
- *False alarms*: healthy runs of which anything is told that is not benign there.
- *Dead layers*: layers of which 45 % of the units were closed for the whole training set from some step on to the end,
  measured every {grid} steps in a run without actdiag. Latency counts from when 45 % were last reached before the first
  word about that layer; *premature* is a word while fewer were closed, measured just before and after it: also where a
  layer had died, came back for a while, was told, and then died for good.

`actdiag` is with its defaults: its intervals follow the clock, so that a slower machine hears of some things later; `no
budget` (`max_overhead=None, attentive=True`) has the same intervals everywhere. The other tools' published rules are
re-implemented in `benchmarks/cases/peers.py` and asked every {every}th step, which is more often than those tools ask
by default; actdiag watches closer where units fall silent, and latencies are not of like with like. Deaths are measured
where an `nn.ReLU`, `nn.GELU` or `nn.SiLU` is called once a forward; activations called as functions have no onset.
Labels are measured too, by `benchmarks/cases/measure.py`, which does not know actdiag."""


def programs(folder: str, only: str) -> list[str]:
    """Names of the programs of a set."""
    return [path.stem for path in sorted((CASES / folder).glob("[fh][0-9]*.py")) if only in path.stem]


def code(folder: str, name: str) -> str:
    """A digest of everything that the result of a program depends on."""
    program = CASES / folder / f"{name}.py"
    paths = [*sorted((ROOT / "actdiag").rglob("*.py")), *sorted(CASES.glob("*.py")), *CASES.rglob("_*.py"), program]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


class Kept:
    """Results in a file, so that a run that was interrupted goes on; those of other code are not used."""

    def __init__(self, path: Path | None) -> None:
        self._path, self._known = path, dict[str, Any]()
        self._loads: dict[str, float] = {}
        if path is not None and path.exists():
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self._known = {line["run"]: line["case"] for line in lines}
            self._loads = {line["run"]: line["load"] for line in lines if "load" in line}

    def case(self, folder: str, name: str, seed: int) -> Case:
        """The case of a run; it is run if it is not known."""
        key = f"{folder}/{name}/{seed}/{code(folder, name)}"
        if key not in self._known:
            self._known[key] = run(folder, name, seed)
            self._loads[key] = os.getloadavg()[0]
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"run": key, "case": self._known[key], "load": self._loads[key]}) + "\n")
        case = case_from(self._known[key])
        print(line_of(case), flush=True)
        return case

    def busy(self, folder: str, cases: Sequence[Case]) -> str:
        """How busy the machine was while these ran, the two processes of the scorer included."""
        keys = [f"{folder}/{case.name}/{case.seed}/{code(folder, case.name)}" for case in cases]
        loads = [self._loads[key] for key in keys if key in self._loads]
        if not loads:
            return ""
        middle, most = statistics.median(loads), max(loads)
        return f"Load average of the {os.cpu_count()} CPUs meanwhile: {middle:.1f} (median), at most {most:.1f}. "


def measured(folder: str) -> dict[str, dict[str, Any]]:
    """What measure.py has found of the runs of a set: "NAME seed N" -> label, and where which labels are true."""
    path = CASES / folder / "labels.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def settle(cases: Sequence[Case], truths: Mapping[str, Mapping[str, Any]]) -> tuple[list[Case], list[str]]:
    """The cases with every label that was measured of them; and those left out, whose own label is not true of them."""
    kept, left = list[Case](), list[str]()
    for case in cases:
        truth = truths.get(f"{case.name} seed {case.seed}")
        if truth is None:
            kept.append(case)
        elif case.faulty and case.label not in truth["where"]:
            left.append(f"{case.name} (seed {case.seed})")
        else:
            also = sorted({*case.also, *(truth["where"] if case.faulty else ())} - {case.label})
            kept.append(replace(case, also=also))
    return kept, left


def run(folder: str, name: str, seed: int) -> dict[str, Any]:
    """Train one program in a process of its own; its case as plain values. Raises CalledProcessError if it fails."""
    environment = {**os.environ, "CASE_SEED": str(seed), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(CASES / "program.py"), folder, name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def line_of(case: Case) -> str:
    """What actdiag made of one run."""
    if case.faulty:
        right = matching(case, "actdiag")
        verdict = "MISSED" if not right else "detected" if any(in_place(case, s) for s in right) else "elsewhere"
    else:
        verdict = "FALSE ALARM" if alarms(case, "actdiag") else "quiet"
    told = "; ".join(f"{s.rule}@{s.layer}#{s.step}" for s in case.said["actdiag"])
    return f"{verdict:12} {case.name:34} seed {case.seed}  {case.label:22} {told}"


def row(tool: str, s: Score) -> str:
    """One line of the table of tools."""
    latency = "-" if s.median_latency is None else f"{s.median_latency:g}"
    return (
        f"| {tool} | {s.detected} of {s.faulty} | {s.placed} of {s.faulty} | {s.false_alarms} of {s.healthy} | "
        f"{s.told} of {s.onsets} | {latency} | {s.premature} |"
    )


def side_by_side(cases: Sequence[Case]) -> list[str]:
    """The table of the tools."""
    return [
        "| tool | right kind | right layer | false alarms | dead layers told | median latency, steps | premature |",
        "|---|---|---|---|---|---|---|",
        *(row(tool, score(cases, tool)) for tool in TOOLS),
    ]


def tables(cases: Sequence[Case]) -> list[str]:
    """The tools side by side, recall by kind, and what actdiag got wrong, in Markdown."""
    lines = [
        *side_by_side(cases),
        "",
        f"| kind of fault | {' | '.join(TOOLS)} |",
        "|---|" + "---|" * len(TOOLS),
    ]
    counts = {tool: by_label(cases, tool) for tool in TOOLS}
    lines += [
        f"| {label} | {' | '.join('{} of {}'.format(*counts[tool][label]) for tool in TOOLS)} |"
        for label in counts["actdiag"]
    ]
    return [*lines, "", *wrongs(cases)]


def wrongs(cases: Sequence[Case]) -> list[str]:
    """What actdiag missed, placed elsewhere, told of healthy runs, or told late or too early."""
    kinds = (
        "missed",
        "right kind, other layer",
        "false alarm",
        "dead units told after 25 steps",
        "dead units told before their onset",
    )
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    for case in cases:
        name, right = f"{case.name} (seed {case.seed})", matching(case, "actdiag")
        if case.faulty and not right:
            found["missed"].append(name)
        elif case.faulty and not any(in_place(case, s) for s in right):
            found["right kind, other layer"].append(name)
        if not case.faulty:
            found["false alarm"] += [f"{name}: {s.rule} at {s.layer}" for s in alarms(case, "actdiag")]
        late = latencies(case, "actdiag").items() if case.faulty else ()
        found["dead units told after 25 steps"] += [f"{name}, {layer}: {steps}" for layer, steps in late if steps > 25]
        early = [f"{name}, {at}: {n}{dead_before(case, at)}" for at, n in late if n < -GRID_STEPS]
        found["dead units told before their onset"] += early
    leads, wrong = forecasts(cases, "actdiag")
    lead = f", {statistics.median(leads):g} steps before (median)" if leads else ""
    foretold = f"{len(leads)} of {sum(len(case.onsets) for case in cases)} dead layers{lead}; false: {len(wrong)}"
    return [*(f"- {what}: {', '.join(names) or 'none'}" for what, names in found.items()), f"- foretold: {foretold}"]


def dead_before(case: Case, layer: str) -> str:
    """How long before the first word about it a layer had been dead that was not so then; empty if it never had."""
    told = min(said.step for said in case.said["actdiag"] if (said.rule, said.layer) == ("dead-units", layer))
    dead = [step for step, share in case.shares[layer] if step <= told and share >= DEAD_SHARE]
    return f" (it had been dead, last {told - dead[-1]} steps before)" if dead else ""


class Result(NamedTuple):
    """The cases of a set, those left out, and how busy the machine was."""

    cases: list[Case]
    left: list[str]
    busy: str


def page(results: Mapping[str, Result], command: str) -> str:
    """docs/benchmark.md."""
    lines = [
        "# Does it find what is wrong, and is it quiet when nothing is?", "",
        f"Written by `{command}` on {datetime.date.today().isoformat()}: {platform.machine()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, actdiag {actdiag.__version__}.", "",
        *_METHOD.format(grid=GRID_STEPS, every=EVERY).splitlines(), "",
    ]  # fmt: skip
    if len(results) > 1:
        every = [case for result in results.values() for case in result.cases]
        lines += ["## All of them together", "", "What each is good for is said below.", "", *side_by_side(every), ""]
    for chosen, (cases, left, busy) in results.items():
        name, seeds = chosen.partition(":")[0], sorted({case.seed for case in cases})
        text = (CASES / name / "README.md").read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        heading = f"## Set `{name}`, seeds {', '.join(map(str, seeds))}: {text}"
        told = busy + (f"{SEEDS[chosen]} " if chosen in SEEDS else "")
        lines += [
            heading,
            "",
            f"{told}[How they came about](../benchmarks/cases/{name}/README.md).",
            "",
            *tables(cases),
        ]
        lines += [f"- not scored, since the label does not hold with this seed: {', '.join(left)}"] if left else []
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Run, print, and write the page where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sets", nargs="+", default=["first"], help="folders of benchmarks/cases, NAME or NAME:SEED,SEED"
    )
    parser.add_argument("--only", default="", metavar="NAME", help="programs whose name contains this")
    parser.add_argument("--keep", type=Path, help="take known results from here, and add the others")
    parser.add_argument("--write", type=Path, help="write the page here")
    given = parser.parse_args()
    results, kept = {}, Kept(given.keep)
    with ThreadPoolExecutor(2) as pool:
        for chosen in given.sets:
            name, _, seeds = chosen.partition(":")
            jobs = [
                (name, case, int(seed)) for seed in (seeds or "0").split(",") for case in programs(name, given.only)
            ]
            cases, left = settle(list(pool.map(lambda job: kept.case(*job), jobs)), measured(name))
            results[chosen] = Result(cases, left, kept.busy(name, cases))
            print("\n".join(tables(cases)), flush=True)
    if given.write:
        given.write.write_text(
            page(results, "python benchmarks/score_cases.py " + " ".join(sys.argv[1:])), encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
