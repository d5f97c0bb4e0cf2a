"""What observing costs, as ratios to the bare training.

A bare and an observed copy of a model train side by side in one process, single steps alternating A B B A, so that a
busy machine slows both alike. Every variant runs in a fresh process. Ratios of medians of thread CPU time and of wall
time; an A/A control tells how far they can be trusted. The number of recorded steps is asserted.

    python benchmarks/overhead.py [--pairs N] [--models mlp,cnn,gpt] [--variants TEXT] [--append docs/cost.md]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from actdiag import Monitor, TensorBoardWriter

Built = tuple[nn.Module, tuple[Tensor, Tensor]]


def mlp() -> Built:
    """64-256-256-256-128-10 on batches of 64: the worst case, a step of 1 to 2 ms."""
    sizes = [64, 256, 256, 256, 128]
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, 10)), (torch.randn(64, 64), torch.randint(0, 10, (64,)))


def cnn() -> Built:
    """Eight 3 x 3 convolutions of width 16 to 64 with batch norm, on 64 x 3 x 32 x 32."""
    layers: list[nn.Module] = []
    widths = [3, 16, 16, 32, 32, 32, 64, 64, 64]
    for i, (a, b) in enumerate(pairwise(widths)):
        stride = 2 if i in (2, 5) else 1
        layers += [nn.Conv2d(a, b, 3, padding=1, stride=stride, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return net, (torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,)))


class Gpt(nn.Module):
    """Two pre-norm blocks, d = 256, T = 128."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 4, 1024, 0.0, nn.GELU(), batch_first=True, norm_first=True)
        self.words = nn.Embedding(512, 256)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(256, 512)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.words(ids)))
        return out.flatten(0, 1)


def gpt() -> Built:
    """A small language model on 8 x 128 tokens."""
    return Gpt(), (torch.randint(0, 512, (8, 128)), torch.randint(0, 512, (8 * 128,)))


MODELS: dict[str, Callable[[], Built]] = {"mlp": mlp, "cnn": cnn, "gpt": gpt}
VARIANTS: dict[str, dict[str, Any] | str | None] = {
    "A/A control": None,
    "defaults": {},
    "every 50 steps, watched every 4": {"max_overhead": None},
    "every 10 steps": {"log_every_n_steps": 10, "watch_every_n_steps": 10, "max_overhead": None},
    "every step": {"log_every_n_steps": 1, "watch_every_n_steps": 1, "max_overhead": None},
    "hand-written hooks, every step": "peer",
}


class HandWritten:
    """The peer that everybody writes: forward hooks with .item(), gradient norms, add_scalar. No histograms."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer, self.step, self.model = SummaryWriter(folder), 0, model
        for name, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(self.hook(name))
        optimizer.register_step_pre_hook(self.gradients)

    def hook(self, name: str) -> Callable[..., None]:
        """mean, std and share of zeros of a module's output."""

        def record(module: nn.Module, args: Any, out: Any) -> None:
            x = out[0] if isinstance(out, tuple) else out
            values = {"mean": x.mean().item(), "std": x.std().item(), "zeros": (x == 0).float().mean().item()}
            for stat, value in values.items():
                self.writer.add_scalar(f"{stat}/{name}", value, self.step)

        return record

    def gradients(self, *args: Any) -> None:
        """Norm of each parameter's gradient."""
        for name, p in self.model.named_parameters():
            if p.grad is not None:
                self.writer.add_scalar(f"grad/{name}", p.grad.norm().item(), self.step)
        self.step += 1


def stepper(build: Callable[[], Built]) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], None]]:
    """A model, its optimizer, and a function that makes one training step."""
    torch.manual_seed(0)
    model, (x, y) = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return model, optimizer, step


def measure(name: str, variant: str, pairs: int) -> dict[str, float]:
    """Ratios of one variant, in this process."""
    torch.set_num_threads(1)
    options = VARIANTS[variant]
    _, _, bare = stepper(MODELS[name])
    model, optimizer, observed = stepper(MODELS[name])
    folder = tempfile.mkdtemp()
    monitor = None
    if options == "peer":
        HandWritten(model, optimizer, folder)
    elif isinstance(options, dict):
        monitor = Monitor(model, optimizer, writers=[TensorBoardWriter(folder)], **options)
    for _ in range(10):
        bare()
        observed()
    wall: tuple[list[float], list[float]] = ([], [])
    cpu: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for which in ((0, 1), (1, 0))[pair % 2]:
            t, c = time.perf_counter(), time.thread_time()
            (bare, observed)[which]()
            wall[which].append(time.perf_counter() - t)
            cpu[which].append(time.thread_time() - c)
    result = {
        "cpu": statistics.fmean(cpu[1]) / statistics.fmean(cpu[0]),
        "wall": statistics.fmean(wall[1]) / statistics.fmean(wall[0]),
        "median_step": statistics.median(wall[1]) / statistics.median(wall[0]),
        "bare_ms": statistics.median(wall[0]) * 1e3,
    }
    if monitor is not None and options == VARIANTS["every step"]:
        assert monitor.latest is not None and monitor.latest.step == pairs + 9, "every step must have been recorded"
        assert all(site.rms is not None for site in monitor.snapshots[-1].sites.values())
    return result


def main() -> None:
    """Each variant in processes of its own; a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=0, help="steps of each copy; default: by model")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--variants", default="", help="only variants that hold this text")
    parser.add_argument("--processes", type=int, default=3, help="repetitions; the median is shown")
    parser.add_argument("--append", type=Path, help="append the table to this page")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "VARIANT", "PAIRS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, variant, pairs = arguments.one
        print(json.dumps(measure(name, variant, int(pairs))))
        return
    lines = [
        f"`{' '.join(['python benchmarks/overhead.py', *sys.argv[1:]])}`: torch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs, one torch thread, median of "
        f"{arguments.processes} processes.",
        "",
        "| model | bare step | variant | CPU ratio | wall ratio | median step |",
        "|---|---:|---|---:|---:|---:|",
    ]
    print("\n".join(lines))
    for name in arguments.models.split(","):
        pairs = arguments.pairs or {"mlp": 1500, "cnn": 60, "gpt": 60}[name]
        for variant in (v for v in VARIANTS if arguments.variants in v):
            lines.append(_row(name, variant, pairs, arguments.processes))
            print(lines[-1], flush=True)
    if arguments.append:
        with arguments.append.open("a", encoding="utf-8") as page:
            page.write("\n" + "\n".join(lines) + "\n")


def _row(name: str, variant: str, pairs: int, processes: int) -> str:
    command = [sys.executable, __file__, "--one", name, variant, str(pairs)]
    runs = [json.loads(subprocess.check_output(command, text=True)) for _ in range(processes)]
    row = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return (
        f"| {name}, {pairs} steps | {row['bare_ms']:.2f} ms | {variant} | {row['cpu']:.3f} | {row['wall']:.3f} "
        f"| {row['median_step']:.3f} |"
    )


if __name__ == "__main__":
    main()
