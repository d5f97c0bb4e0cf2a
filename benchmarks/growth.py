"""How the cost of observing grows: with layers, with width, with the size of a tensor, and with the length of a run.

A bare and an observed copy train side by side in one process, single steps alternating A B B A; times are medians of
thread CPU time. Of long runs it is the memory, the file and the time to read it back that are looked at.

    python benchmarks/growth.py [--parts layers width tensor steps] [--steps 100000] [--write docs/growth.md]
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

import actdiag
from actdiag import Monitor, TensorBoardWriter
from actdiag.report.read import read_runs

ROOT = Path(__file__).resolve().parent.parent
EVERY_STEP = {"log_every_n_steps": 1, "watch_every_n_steps": 1, "max_overhead": None}
WARM_UP = 3
LAYERS = (10, 30, 100, 300, 1000)
WIDTHS = (64, 256, 1024, 4096)
ROWS = (16, 128, 1024, 8192)
MARKS = 10

Step = Callable[[], None]


def network(layers: int, width: int, rows: int) -> tuple[nn.Module, torch.optim.Optimizer, Step]:
    """`layers` modules, every second one a ReLU, of one width; its optimizer, and a step on one batch."""
    torch.manual_seed(0)
    pairs = [(nn.Linear(width, width), nn.ReLU()) for _ in range(layers // 2)]
    for linear, _ in pairs:
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    model = nn.Sequential(*chain.from_iterable(pairs))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    x = torch.randn(rows, width)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return model, optimizer, step


def seconds_of(step: Step) -> float:
    """Thread CPU time of one step."""
    start = time.thread_time()
    step()
    return time.thread_time() - start


def recorded(layers: int, width: int, rows: int, pairs: int) -> dict[str, float]:
    """What a recorded step costs beyond a bare one, with everything recorded at every step."""
    bare = network(layers, width, rows)[2]
    model, optimizer, seen = network(layers, width, rows)
    with tempfile.TemporaryDirectory() as folder:
        monitor = Monitor(model, optimizer, writers=[TensorBoardWriter(folder)], **EVERY_STEP)
        for _ in range(WARM_UP):
            bare()
            seen()
        times: tuple[list[float], list[float]] = ([], [])
        for pair in range(pairs):
            for which in ((0, 1), (1, 0))[pair % 2]:
                times[which].append(seconds_of((bare, seen)[which]))
        assert monitor.latest is not None and monitor.latest.step == WARM_UP + pairs - 1
        sites = len(monitor.latest.sites)
        monitor.close()
        kb = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1024 / (WARM_UP + pairs)
    bare_s, seen_s = (statistics.median(one) for one in times)
    return {"sites": sites, "bare_ms": bare_s * 1e3, "extra_ms": (seen_s - bare_s) * 1e3, "kb": kb}


def resident_mb() -> float:
    """Memory of this process that is in use now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def long_run(steps: int, options: dict[str, Any]) -> list[dict[str, float]]:
    """Memory and file at ten marks of a run, and at the end the time to read it back."""
    model, optimizer, step = network(8, 64, 64)
    marks = []
    with tempfile.TemporaryDirectory() as folder:
        writer = TensorBoardWriter(folder)
        with Monitor(model, optimizer, writers=[writer], **options) as monitor:
            for count in range(1, steps + 1):
                step()
                if count % (steps // MARKS) == 0:
                    assert monitor.latest is not None  # a step that waits for its end is settled
                    writer.flush()
                    size = sum(path.stat().st_size for path in Path(folder).iterdir())
                    marks.append({"steps": count, "resident_mb": resident_mb(), "file_mb": size / 2**20})
        start = time.perf_counter()
        (run,) = read_runs(Path(folder))
        marks[-1] |= {"read_s": time.perf_counter() - start, "recorded": len(run.snapshots)}
        marks[-1]["file_mb"] = sum(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
    return marks


def apart(part: str, *numbers: int) -> Any:
    """A measurement in a process of its own, so that none sees another's memory."""
    command = [sys.executable, __file__, "--one", part, *map(str, numbers)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one(part: str, numbers: Sequence[int]) -> Any:
    """What `apart` asks for, in this process."""
    torch.set_num_threads(1)
    if part == "recorded":
        return recorded(*numbers)
    return long_run(numbers[0], EVERY_STEP if numbers[1] else {})


def size_lines(title: str, sizes: Sequence[tuple[str, tuple[int, int, int, int]]]) -> list[str]:
    """A table of one recorded step over a size."""
    lines = [
        f"| {title} | sites | bare step, ms | recorded step, extra ms | µs a site | KB a step |",
        "|---|" + "---:|" * 5,
    ]
    for called, numbers in sizes:
        found = apart("recorded", *numbers)
        sites, bare, extra = found["sites"], found["bare_ms"], found["extra_ms"]
        each = 1e3 * extra / sites
        lines.append(f"| {called} | {sites} | {bare:.2f} | {extra:.2f} | {each:.0f} | {found['kb']:.1f} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def layers_part(_: int) -> list[str]:
    """Cost against the number of layers."""
    sizes = [(f"{n}", (n, 64, 64, max(6, 600 // n))) for n in LAYERS]
    return ["## Layers", "", "Features of 64, batches of 64.", "", *size_lines("layers", sizes)]


def width_part(_: int) -> list[str]:
    """Cost against the width of layers."""
    sizes = [(f"{n}", (8, n, 64, 40 if n < 1000 else 8)) for n in WIDTHS]
    return ["## Width", "", "8 layers, batches of 64.", "", *size_lines("units a layer", sizes)]


def tensor_part(_: int) -> list[str]:
    """Cost against the size of a tensor."""
    sizes = [(f"{n * 256:,}", (8, 256, n, 40 if n < 1000 else 8)) for n in ROWS]
    return ["## Size of a tensor", "", "8 layers of 256 features.", "", *size_lines("elements a tensor", sizes)]


def steps_part(steps: int) -> list[str]:
    """Memory, file and reading against the length of a run."""
    lines = ["## Steps", "", "8 layers of 64 features.", ""]
    for every, count, called in ((0, steps, "defaults"), (1, max(steps // 10, MARKS), "every step recorded")):
        marks = apart("long", count, every)
        lines += [
            f"{called}, {count:,} steps:",
            "",
            "| steps | memory in use, MB | event file, MB |",
            "|---:|---:|---:|",
        ]
        lines += [f"| {m['steps']:,} | {m['resident_mb']:.1f} | {m['file_mb']:.2f} |" for m in marks]
        last = marks[-1]
        lines += ["", f"Read back in {last['read_s']:.2f} s: {last['recorded']:,} recorded steps.", ""]
        print("\n".join(lines[-16:]), flush=True)
    return lines


PARTS = {"layers": layers_part, "width": width_part, "tensor": tensor_part, "steps": steps_part}


def main() -> None:
    """Measure the parts asked for; a page of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--steps", type=int, default=100_000, help="length of the long run; a tenth of it with every step recorded"
    )
    parser.add_argument("--write", type=Path, help="the page to write")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one[0], [int(n) for n in given.one[1:]])))
        return
    command = " ".join(["python benchmarks/growth.py", *sys.argv[1:]])
    head = [
        "# How the cost grows", "",
        f"Written by `{command}` on {datetime.date.today().isoformat()}: {platform.machine()}, {os.cpu_count()} CPUs, "
        f"one torch thread, Python {platform.python_version()}, torch {torch.__version__}, actdiag "
        f"{actdiag.__version__}.", "",
        *(__doc__ or "").strip().splitlines()[:4], "",
    ]  # fmt: skip
    text = "\n".join(chain(head, *(PARTS[part](given.steps) for part in given.parts))).rstrip() + "\n"
    if given.write:
        given.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
