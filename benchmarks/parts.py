"""Where the time of a recorded step goes: thread CPU time of its parts, beside a bare step.

A bare and an observed copy train side by side; every step of the observed one is recorded. The parts do not overlap:
what a part calls of another is counted there. *Elsewhere* is what the observed step takes beyond the bare one and the
parts: torch's dispatch of hooks, and its own operators, which find less of their data in the cache. The stopwatch
itself costs about a microsecond a call, and its table is one process: no evidence for a few percent.

Of a compiled model the operators that observe are among *elsewhere*.

    python benchmarks/parts.py [--models mlp,cnn,gpt] [--steps 30] [--compiled] [--append docs/cost.md]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from overhead import EVERY_STEP, WARM_UP, keep
from workloads import MODELS, stepper

from actdiag import Monitor, TensorBoardWriter
from actdiag.collect import fused, hooks, memory, parameters
from actdiag.collect.collector import Collector
from actdiag.diagnose import judge
from actdiag.outlet import Outlet

PLACES: list[tuple[Any, str, str]] = [
    (hooks.Probe, "after", "forward hooks"),
    (hooks.Probe, "before", "forward hooks"),
    (hooks.GradientHook, "__call__", "gradient hooks"),
    *(
        (fused.Fused, name, "C kernel, its call included")
        for name in ("reduce", "gradient", "_norms", "keep", "updates")
    ),
    *(
        (parameters.ParameterWatch, name, "parameters")
        for name in ("watch", "before_update", "after_update", "release")
    ),
    (parameters.ParameterWatch, "_read_accumulated", "parameters"),
    (Collector, "arm", "hooks on and off"),
    (Collector, "disarm", "hooks on and off"),
    ("actdiag.collect.recorder", "gather", "counted on the host"),
    ("actdiag.collect.recorder", "count", "counted on the host"),
    (memory.Memory, "absorb", "evidence about units"),
    ("actdiag.collect.recorder", "build", "snapshot"),
    (judge.Ledger, "judge", "rules"),
    (Outlet, "publish", "written"),
]
"""Owner, its function, the part that it belongs to."""
KINDS = list(dict.fromkeys(part for _, _, part in PLACES))


class Stopwatch:
    """Seconds of thread CPU time by part; while one part runs, the one that called it does not."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def _switch(self) -> None:
        now = time.thread_time()
        if self._running:
            self.spent[self._running[-1]] += now - self._since
        self._since = now

    def watching(self, work: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._switch()
            self._running.append(part)
            try:
                return work(*args, **kwargs)
            finally:
                self._switch()
                self._running.pop()

        return timed


@contextmanager
def instrumented(watch: Stopwatch) -> Iterator[None]:
    """Every place is timed meanwhile."""
    places = [(sys.modules[owner] if isinstance(owner, str) else owner, name, part) for owner, name, part in PLACES]
    before = [(place, name, getattr(place, name)) for place, name, _ in places]
    for place, name, part in places:
        setattr(place, name, watch.watching(getattr(place, name), part))
    try:
        yield
    finally:
        for place, name, work in before:
            setattr(place, name, work)


def profile(name: str, steps: int, *, compiled: bool = False) -> dict[str, float]:
    """Milliseconds of a bare step, of the observed one, and of each part of it; medians of steps."""
    torch.set_num_threads(1)
    bare = stepper(MODELS[name], compiled=compiled)[2]
    model, optimizer, seen = stepper(MODELS[name], compiled=compiled)
    watch, told = Stopwatch(), defaultdict[str, list[float]](list)
    writer = TensorBoardWriter(tempfile.mkdtemp())
    with instrumented(watch), Monitor(model, optimizer, writers=[writer], **EVERY_STEP) as monitor:
        for step in range(WARM_UP + steps):
            watch.spent.clear()
            times = [time.thread_time()]
            for one in (bare, seen):
                one()
                times.append(time.thread_time())
            if step < WARM_UP:
                continue
            bare_s, seen_s = times[1] - times[0], times[2] - times[1]
            told["bare"].append(bare_s)
            told["recorded"].append(seen_s)
            for part in KINDS:
                told[part].append(watch.spent[part])
            told["elsewhere"].append(seen_s - bare_s - sum(watch.spent.values()))
    assert monitor.latest is not None and monitor.latest.sites
    return {part: statistics.median(seconds) * 1e3 for part, seconds in told.items()}


def main() -> None:
    """Each model in this process, one after the other; a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mlp,cnn,gpt")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--compiled", action="store_true", help="by torch.compile")
    parser.add_argument("--append", type=Path, help="append the table to this page")
    given = parser.parse_args()
    names = given.models.split(",")
    steps = {name: given.steps * (10 if name == "mlp" else 1) for name in names}
    found = [profile(name, steps[name], compiled=given.compiled) for name in names]
    lines = [
        f"`{' '.join(['python benchmarks/parts.py', *sys.argv[1:]])}`: torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs, one thread, one process.",
        "",
        f"| ms of thread time | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
    ]
    lines += [f"| {part} | {' | '.join(f'{told[part]:.2f}' for told in found)} |" for part in found[0]]
    keep(given.append, ["", *lines])


if __name__ == "__main__":
    main()
