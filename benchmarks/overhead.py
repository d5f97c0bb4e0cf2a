"""What observing costs, as ratios to the bare training.

A bare and an observed copy of a model train side by side in one process, single steps alternating A B B A, so that a
busy machine slows both alike. The clock of the budget runs in the steps of the observed copy alone. Every variant runs
in fresh processes; shown are medians over them, and the range of the wall ratio. The A/A control compares two bare
copies, and tells how far ratios can be trusted. That every step that should have been recorded was is asserted.
Operators are counted over one more step by a dispatch mode, page faults over the measured ones (median of a step), and
the bytes that malloc has given out at the end of a forward pass are compared (`live`).

glibc gives memory at the end of its heap back to the system, and takes it anew, which costs a page fault each 4 KB.
How much lies there is luck: of one and the same bare training some processes have no fault a step, and some 14,000.
`--keep-pages` has it give nothing back.

    python benchmarks/overhead.py [--models mlp,lstm,cnn,gpt] [--variants NAME ...] [--keep-pages]
                                  [--append docs/cost.md]

Peers that are not installed fail: `pip install -r ./benchmarks/requirements-peers.txt`, and what is said at the top of
benchmarks/requirements-peers-composer.txt. torchexplorer needs `apt-get install graphviz` too.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from overhead_peers import MOST_PAIRS, PEERS
from torch.utils._python_dispatch import TorchDispatchMode
from workloads import MODELS, PAIRS, stepper

from actdiag import Monitor, TensorBoardWriter
from actdiag.collect import budget
from actdiag.collect.budget import FREE_SECONDS

EVERY_STEP = {"log_every_n_steps": 1, "watch_every_n_steps": 1, "max_overhead": None}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "A/A control": None,
    "defaults": {},
    "defaults, later": {},
    "observed at no step": {"start_step": 10**9, "max_overhead": None},
    "every 50 steps, watched every 4": {"max_overhead": None, "attentive": False},
    "every 10 steps": {"log_every_n_steps": 10, "watch_every_n_steps": 10, "max_overhead": None},
    "every step": EVERY_STEP,
    "every step, without the kernel": EVERY_STEP,
    **{f"budget of {percent} %": {"max_overhead": percent / 100} for percent in (1, 2, 5)},
    "compiled, A/A control": None,
    "compiled, observed at no step": {"start_step": 10**9, "max_overhead": None},
    "compiled, defaults, later": {},
    "compiled, every step": EVERY_STEP,
}
WARM_UP = 10
SETTLED, LATER = 0.25, 0.5
"""Of a budget what follows the first quarter of the steps is measured, without the second that is free otherwise; of
the defaults what follows the first half."""
KEEP_PAGES = {"MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
_MALLINFO = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]


class Clock:
    """Seconds spent in the steps of one copy."""

    def __init__(self) -> None:
        self._spent, self._since = 0.0, 0.0

    def __call__(self) -> float:
        return self._spent + (time.perf_counter() - self._since if self._since else 0.0)

    def timed(self, step: Callable[[], None]) -> Callable[[], None]:
        """The step, during which this runs."""

        def run() -> None:
            self._since = time.perf_counter()
            step()
            self._spent, self._since = self(), 0.0

        return run


class Counted(TorchDispatchMode):
    """Counts operators that do work, and those among them that read a value back to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        self.operators += not func.is_view
        return func(*args, **(kwargs or {}))


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _MALLINFO]


def allocated_mb() -> float:
    """What glibc's malloc has given out; nan elsewhere."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return float("nan")
    mallinfo2.restype = _Mallinfo
    told = mallinfo2()
    return float(told.uordblks + told.hblkhd) / 2**20


def after_forward(model: torch.nn.Module, step: Callable[[], None]) -> float:
    """`allocated_mb` when the forward of a step is over, and its activations are kept for the backward."""
    seen: list[float] = []
    handle = model.register_forward_hook(lambda *_: seen.append(allocated_mb()))
    step()
    handle.remove()
    return seen[0]


def faults() -> int:
    """Pages that this process was given so far, without reading from a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def operators(step: Callable[[], None]) -> tuple[int, int]:
    """Operators of one step, and values read back."""
    with Counted() as mode:
        step()
    return mode.operators, mode.reads


def observed(variant: str, folder: str, parts: tuple[Any, Any, Callable[[], None]]) -> tuple[Callable[[], None], Any]:
    """The step of a copy with a variant put on it, and its monitor."""
    model, optimizer, step = parts
    if variant in PEERS:
        after = PEERS[variant](model, optimizer, folder)
        return (lambda: (step(), after())[0]), None
    options = VARIANTS[variant]
    if options is None:
        return step, None
    monitor = Monitor(model, optimizer, writers=[TensorBoardWriter(folder)], **options)
    clock = monitor._session.schedule.budget.timeline.clock = Clock()
    return clock.timed(step), monitor


def measure(name: str, variant: str, pairs: int) -> dict[str, float]:
    """Ratios and counts of one variant, in this process."""
    torch.set_num_threads(1)
    budgeted = variant.startswith("budget")
    settled = SETTLED if budgeted else LATER if variant.endswith("later") else 0.0
    budget.FREE_SECONDS = 0.0 if budgeted else FREE_SECONDS
    compiled, folder = variant.startswith("compiled"), tempfile.mkdtemp()
    model, _, bare = stepper(MODELS[name], compiled=compiled)
    parts = stepper(MODELS[name], compiled=compiled)
    live = [] if compiled else [(parts[2](), after_forward(model, bare))[1]]
    seen, monitor = observed(variant, folder, parts)
    for _ in range(WARM_UP):
        bare()
        seen()
    wall, cpu, faulted = _timed(bare, seen, pairs)
    wall, cpu = (tuple(side[round(settled * pairs) :] for side in both) for both in (wall, cpu))
    result = {
        "cpu": statistics.fmean(cpu[1]) / statistics.fmean(cpu[0]),
        "wall": statistics.fmean(wall[1]) / statistics.fmean(wall[0]),
        "median_step": statistics.median(wall[1]) / statistics.median(wall[0]),
        "bare_ms": statistics.median(wall[0]) * 1e3,
        "bare_faults": statistics.median(faulted[0]),
        "faults": statistics.median(faulted[1]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if monitor is not None and VARIANTS[variant] == EVERY_STEP:
        assert [s.step for s in monitor.snapshots] == list(range(WARM_UP + pairs))[-len(monitor.snapshots) :]
        found = hidden(monitor.latest)
        assert found and all(site.rms is not None and site.grad_rms is not None for site in found)
    if not compiled:
        live.append(after_forward(parts[0], seen))
        (most, reads), (least, _) = operators(seen), operators(bare)
        result |= {"operators": most - least, "reads": reads, "live_mb": live[1] - live[0]}
    if monitor is not None:
        monitor.close()
    written = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return result | {"kb": written / 1024 / (WARM_UP + pairs)}


def _timed(
    bare: Callable[[], None], seen: Callable[[], None], pairs: int
) -> tuple[tuple[list[float], ...], tuple[list[float], ...], tuple[list[int], ...]]:
    """Wall seconds, seconds of thread time and page faults of the steps of both copies, A B B A."""
    wall: tuple[list[float], ...] = ([], [])
    cpu: tuple[list[float], ...] = ([], [])
    faulted: tuple[list[int], ...] = ([], [])
    for pair in range(pairs):
        for which in ((0, 1), (1, 0))[pair % 2]:
            f, t, c = faults(), time.perf_counter(), time.thread_time()
            (bare, seen)[which]()
            wall[which].append(time.perf_counter() - t)
            cpu[which].append(time.thread_time() - c)
            faulted[which].append(faults() - f)
    return wall, cpu, faulted


def hidden(snapshot: Any) -> list[Any]:
    """The sites that must have a gradient."""
    return [site for site in snapshot.sites.values() if site.role in ("layer", "activation")]


def main() -> None:
    """Each variant in processes of its own; a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=0, help="steps of each copy; default: by model")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, *PEERS], help="only these")
    parser.add_argument("--processes", type=int, default=3, help="repetitions; the median is shown")
    parser.add_argument("--keep-pages", action="store_true", help="malloc gives no memory back to the system")
    parser.add_argument("--append", type=Path, help="append the table to this page")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "VARIANT", "PAIRS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, variant, pairs = given.one
        print(json.dumps(measure(name, variant, int(pairs))))
        return
    lines = [
        f"`{' '.join(['python benchmarks/overhead.py', *sys.argv[1:]])}`: torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs, one torch thread, median of "
        f"{given.processes} processes.",
        "",
        "| model, steps, bare step | variant | CPU ratio | wall ratio (range) | median step | operators added | values "
        "read | page faults, bare and observed | KB a step | live MB added | peak MB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    keep(given.append, ["", *lines])
    wanted = given.variants or [*VARIANTS, *PEERS]
    os.environ.update(KEEP_PAGES if given.keep_pages else {})
    for name in given.models.split(","):
        pairs = given.pairs or PAIRS[name]
        for variant in wanted:
            keep(given.append, [_row(name, variant, min(pairs, MOST_PAIRS.get(variant, pairs)), given.processes)])


def keep(page: Path | None, lines: list[str]) -> None:
    """Print lines, and append them to the page at once: a run that is cut off leaves what it has measured."""
    print("\n".join(lines), flush=True)
    if page is not None:
        with page.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def _row(name: str, variant: str, pairs: int, processes: int) -> str:
    command = [sys.executable, __file__, "--one", name, variant, str(pairs)]
    environment = {**os.environ, "ACTDIAG_FUSED": "0" if variant.endswith("without the kernel") else "1"}
    try:
        outs = [subprocess.check_output(command, text=True, env=environment) for _ in range(processes)]
    except subprocess.CalledProcessError as error:
        return f"| {name} | {variant} | failed ({error.returncode}) | | | | | | | | |"
    return _told(name, variant, pairs, [json.loads(out.splitlines()[-1]) for out in outs])


def _told(name: str, variant: str, pairs: int, runs: list[Mapping[str, float]]) -> str:
    row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    walls = [run["wall"] for run in runs]
    counts = [f"{row[key]:.0f}" if key in row else "-" for key in ("operators", "reads", "live_mb")]
    return (
        f"| {name}, {pairs}, {row['bare_ms']:.2f} ms | {variant} | {row['cpu']:.3f} | {row['wall']:.3f} "
        f"({min(walls):.3f}-{max(walls):.3f}) | {row['median_step']:.3f} | {counts[0]} | {counts[1]} "
        f"| {row['bare_faults']:.0f}, {row['faults']:.0f} | {row['kb']:.1f} | {counts[2]} | {row['peak_mb']:.0f} |"
    )


if __name__ == "__main__":
    main()
