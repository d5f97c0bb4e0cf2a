"""What single pieces cost: the statistics of one large tensor, in reads of it; a scalar and a histogram written.

A read is `x.sum()` of the same tensor. All statistics are those of a recorded step: moments and extremes of each unit,
zeros, what is not finite, gates, openings and the histogram. *By hand* is what people write in a hook: mean, spread,
smallest, largest, share of zeros and `torch.histc`. Written is a snapshot of the CNN of `overhead.py`, as often as a
training would, into a file; by hand with `SummaryWriter.add_scalar` and `add_histogram`. Medians of thread CPU time,
one thread, one process.

    python benchmarks/pieces.py [--elements 16777216] [--repetitions 21] [--append docs/cost.md]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from overhead import EVERY_STEP, keep
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from workloads import MODELS, stepper

from actdiag import Monitor, TensorBoardWriter
from actdiag.collect.activations import GELU, RELU, ActivationFacts
from actdiag.collect.fused import Fused
from actdiag.collect.layout import arrange
from actdiag.collect.lean import Lean
from actdiag.collect.reducing import Asked, Eager, Reducer
from actdiag.snapshot import Snapshot

EVERYTHING = Asked(moments=True, octaves=True, gate=True, open=True)
SHAPES = {"rows of 1,024 units": (-1, 1024), "32 x 64 channels of pixels": (32, 64, -1)}
GATES = {"ReLU": RELU, "GELU": GELU}
INTO: dict[str, Callable[[Tensor], Tensor]] = {"ReLU": torch.relu, "GELU": lambda x: x}
"""What the facts of an activation read: the output of a ReLU, the input of a GELU."""
_WIDTH = 64


def median_s(work: Callable[[], object], repetitions: int) -> float:
    """Seconds of thread time; the first run only warms up."""
    work()
    spent = []
    for _ in range(repetitions):
        begun = time.thread_time()
        work()
        spent.append(time.thread_time() - begun)
    return statistics.median(spent)


def by_hand(x: Tensor) -> None:
    """What a hook written by hand computes."""
    x.mean().item(), x.std().item(), x.min().item(), x.max().item()
    (x == 0).float().mean().item()
    torch.histc(x, _WIDTH)


def reads(x: Tensor, facts: ActivationFacts, repetitions: int) -> dict[str, float]:
    """Time of the statistics over that of one `x.sum()`."""
    units = arrange(x, 1)
    reducers: dict[str, Reducer] = {"C kernel": Fused(), "NumPy, without a compiler": Lean(), "torch alone": Eager()}
    work: dict[str, Callable[[], object]] = {
        name: partial(made.reduce, units, facts, EVERYTHING) for name, made in reducers.items()
    }
    work["C kernel, moments alone"] = partial(Fused().reduce, units, facts, Asked(moments=True))
    work["by hand"] = partial(by_hand, x)
    once = median_s(x.sum, repetitions)
    return {name: median_s(one, repetitions) / once for name, one in work.items()}


def recorded(model_name: str) -> Snapshot:
    """A snapshot of a training's fourth step."""
    model, optimizer, step = stepper(MODELS[model_name])
    with Monitor(model, optimizer, writers=[], **EVERY_STEP) as monitor:
        for _ in range(4):
            step()
        found = monitor.latest
    assert found is not None
    return found


def bare_of(snapshot: Snapshot) -> Snapshot:
    """The same without histograms."""
    sites = {name: replace(site, histogram=None, grad_histogram=None) for name, site in snapshot.sites.items()}
    return replace(snapshot, sites=sites)


def written(snapshot: Snapshot, repetitions: int) -> dict[str, float]:
    """How many, and microseconds: of an event, of a curve and a histogram in it, and of both by hand."""
    writer, theirs = TensorBoardWriter(tempfile.mkdtemp()), SummaryWriter(tempfile.mkdtemp())
    without = bare_of(snapshot)
    writer.write(snapshot, ())  # the first one has texts and the layout as well
    curves = len(writer._curves.scalars(snapshot))
    histograms = sum((s.histogram is not None) + (s.grad_histogram is not None) for s in snapshot.sites.values())
    event = median_s(lambda: writer.write(snapshot, ()), repetitions) * 1e6
    numbers = median_s(lambda: writer.write(without, ()), repetitions) * 1e6
    values = torch.randn(16384)
    scalar = median_s(lambda: [theirs.add_scalar(f"tag/{i}", 1.0, 0) for i in range(100)], repetitions) * 1e4
    histogram = median_s(lambda: theirs.add_histogram("tag", values, 0), repetitions) * 1e6
    writer.close()
    theirs.close()
    return {
        "curves": curves,
        "histograms": histograms,
        "sites": len(snapshot.sites),
        "parameters": len(snapshot.parameters),
        "event": event,
        "numbers": numbers,
        "one": (event - numbers) / histograms,
        "scalar": scalar,
        "histogram": histogram,
    }


def table(elements: int, repetitions: int) -> list[str]:
    """Markdown."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    columns = {
        f"{gate}, {shape}": reads(INTO[gate](torch.randn(elements)).view(sizes), facts, repetitions)
        for gate, facts in GATES.items()
        for shape, sizes in SHAPES.items()
    }
    told = written(recorded("cnn"), repetitions)
    return [
        f"| reads of {elements:,} float32 | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
        *(
            f"| {name} | {' | '.join(f'{column[name]:.1f}' for column in columns.values())} |"
            for name in next(iter(columns.values()))
        ),
        "",
        f"An event of {told['sites']:.0f} sites and {told['parameters']:.0f} parameters takes {told['event']:.0f} us: "
        f"{told['numbers']:.0f} us for {told['curves']:.0f} curves and all other numbers, and {told['one']:.1f} us for "
        f"each of {told['histograms']:.0f} histograms. By hand a scalar takes {told['scalar']:.1f} us, and a histogram "
        f"of 16,384 values {told['histogram']:.0f} us.",
    ]


def main() -> None:
    """All in this process; a Markdown table and a sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=1 << 24)
    parser.add_argument("--repetitions", type=int, default=21)
    parser.add_argument("--append", type=Path, help="append the table to this page")
    given: Any = parser.parse_args()
    head = (
        f"`{' '.join(['python benchmarks/pieces.py', *sys.argv[1:]])}`: torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs, one thread, one process, "
        f"medians of {given.repetitions}."
    )
    keep(given.append, ["", head, "", *table(given.elements, given.repetitions)])


if __name__ == "__main__":
    main()
