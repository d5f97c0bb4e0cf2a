"""A sweep over other people's models: is their training untouched, and is every module of them accounted for?

Every architecture that the installed `transformers` builds from a tiny configuration (random weights, no network)
trains two steps without and with a Monitor. Asked for: outputs, gradients, weights and random state of the same bits;
nothing of ours raised or switched off; no hook left; each leaf that ran a site, or named as not observed with a true
reason. What runs is told by counting hooks on a third copy. `timm`'s models too, where timm imports: it needs the
torchvision that was built for the installed torch.

    python benchmarks/sweep_models.py [--families bert gpt2] [--limit N] [--timm N] [--seconds S] [--write PATH]
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sweep_trial import accepted, judge
from tiny_models import B, build, families
from torch import nn

import actdiag

PACKAGE = Path(actdiag.__file__).parent
MEMORY = 8 << 30
MARK = "sweep result "


class Result(NamedTuple):
    """What became of one family. `verdict`: passed, or one that LEGEND explains."""

    family: str
    verdict: str = "passed"
    note: str = ""
    model: str = ""
    parameters: int = 0
    sites: int = 0
    unseen: dict[str, int] = {}  # noqa: RUF012
    left_out: int = 0
    seconds: float = 0.0


class TimeIsUp(BaseException):
    """Not an Exception: nobody's guard, ours or theirs, may swallow it."""


# Many of them ------------------------------------------------------------------------------------------------


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Ends what takes longer; 0: no limit."""

    def ring(*args: Any) -> None:
        raise TimeIsUp(f"took more than {seconds} s")

    if not seconds:
        yield
        return
    previous = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def attempt(family: str, seconds: int = 0) -> Result:
    """Build, find a batch, train, compare. Never raises: what went wrong is in the result, with whose fault it is."""
    result, blamed, begun = Result(family), "not built", time.perf_counter()
    try:
        with limited(seconds):
            model, batch = timm_case(family) if family.startswith("timm/") else (build(family), None)
            size = sum(p.numel() for p in model.parameters())
            result = result._replace(model=type(model).__name__, parameters=size)
            blamed = "no batch"
            batch = accepted(model) if batch is None else batch
            result = result._replace(**judge(model, batch))
    except (Exception, TimeIsUp) as error:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        blamed = "ours" if any(PACKAGE in Path(file).parents for file in files) else blamed
        text = " ".join(f"{type(error).__name__}: {error}".split())
        result = result._replace(verdict=blamed, note=text if len(text) < 160 else f"{text[:157]}...")
    return result._replace(seconds=round(time.perf_counter() - begun, 1))


def timm_names(most: int) -> tuple[list[str], str]:
    """Models of timm, evenly over its list without the largest, and why there are none."""
    try:
        import timm
    except Exception as error:
        return [], f"timm does not import ({type(error).__name__}: {error})"
    large = re.compile(r"large|huge|giant|so400m|so150m|_xl|xxl|enormous|300m|\db")
    names = [name for name in timm.list_models() if not large.search(name)]
    return [f"timm/{name}" for name in names[:: max(1, len(names) // most)][:most]] if most else [], ""


def timm_case(family: str) -> tuple[nn.Module, dict[str, Any]]:
    """A model of timm with random weights and a batch for it."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(family.partition("/")[2], pretrained=False, num_classes=10)
    return model, {"x": torch.randn(B, *model.default_cfg["input_size"])}


def work(names: list[str], seconds: int) -> None:
    """The worker: one line a result."""
    import transformers

    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    torch.set_num_threads(1)
    for name in names:
        print(MARK + json.dumps(attempt(name, seconds)), flush=True)


def sweep(names: list[str], seconds: int) -> Iterator[Result]:
    """All results. One process takes the import once; if a model brings it down, the next one goes on behind it."""
    left, environment = list(names), os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    while left:
        command = [sys.executable, __file__, "--worker", "--seconds", str(seconds), "--families", *left]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
            assert worker.stdout is not None
            for line in worker.stdout:
                if line.startswith(MARK):
                    yield Result(*json.loads(line.removeprefix(MARK)))
                    del left[0]
        if left:
            yield Result(left.pop(0), "process died", f"exit status {worker.returncode}")


# The report --------------------------------------------------------------------------------------------------


def table(head: str, rows: Iterable[Iterable[Any]]) -> list[str]:
    lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    columns = head.split()
    return [f"| {' | '.join(columns)} |".replace("_", " "), "|---" * len(columns) + "|", *lines, ""]


def unseen_text(unseen: dict[str, int]) -> str:
    return "; ".join(f"{count} {reason.removeprefix('it was ')}" for reason, count in unseen.items())


def totals(results: list[Result]) -> list[str]:
    verdicts = collections.Counter(result.verdict for result in results)
    unseen: collections.Counter[str] = collections.Counter()
    for result in results:
        unseen.update(result.unseen)
    rows: list[tuple[str, Any]] = [("families tried", len(results))]
    rows += [("built", sum(result.parameters > 0 for result in results)), *verdicts.most_common()]
    rows += [("sites recorded in the first step", sum(result.sites for result in results))]
    rows += [(f"leaves not observed: {reason}", count) for reason, count in unseen.most_common()]
    rows += [("leaves left out by design", sum(result.left_out for result in results))]
    return table("what number", rows)


def versions() -> str:
    found = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    found.append(f"transformers {importlib.import_module('transformers').__version__}")
    return f"{platform.machine()}, {os.cpu_count()} cores, one torch thread, {', '.join(found)}"


LEGEND = (
    "*ours*: a promise is broken. *not built*: the family takes no configuration of the sweep's, or needs a library",
    "that is not there. *no batch*: it trains on no input of the sweep's, without a monitor. *not reproducible*: two",
    "trainings without a monitor differ. *process died*: it took its process down. Leaves left out by design repeat or",
    "thin out their input (dropout, identity, pooling), or are inside attention that never calls them.",
)


def report(results: list[Result], command: str, notes: list[str]) -> str:
    """Markdown: totals, who failed and why, who passed."""
    passed = [result for result in results if result.verdict == "passed"]
    failed = sorted((r for r in results if r.verdict != "passed"), key=lambda result: result.verdict)
    seconds = sum(result.seconds for result in results)
    lines = ["# Sweep over other people's models", "", *__doc__.split("\n")[2:7], "", *LEGEND, ""]
    lines += [f"`{command}`, {seconds / 60:.0f} minutes; {versions()}.", ""]
    lines += [*(line for note in notes for line in (note, "")), *totals(results)]
    lines += ["## Did not pass", ""] if failed else []
    lines += table("family verdict reason", ((r.family, r.verdict, r.note) for r in failed)) if failed else []
    rows = ((r.family, r.model, r.parameters, r.sites, unseen_text(r.unseen), r.left_out) for r in passed)
    return "\n".join([*lines, "## Passed", "", *table("family model parameters sites not_observed left_out", rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", help="names of transformers' families, or timm/NAME")
    parser.add_argument("--limit", type=int, help="the first N families only")
    parser.add_argument("--timm", type=int, default=100, help="how many models of timm, where it imports")
    parser.add_argument("--seconds", type=int, default=60, help="time for each")
    parser.add_argument("--write", type=Path, help="write the report there too")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.families, options.seconds)
        return
    others, missing = ([], "") if options.families else timm_names(options.timm)
    names = (options.families or families())[: options.limit] + others
    results = []
    for result in sweep(names, options.seconds):
        results.append(result)
        print(
            f"{len(results)}/{len(names)} {result.family}: {result.verdict} {result.note}", file=sys.stderr, flush=True
        )
    text = report(results, " ".join(["python benchmarks/sweep_models.py", *sys.argv[1:]]), [missing] if missing else [])
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
