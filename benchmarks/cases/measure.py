"""Which labels are true of a program, measured over its whole training set, without actdiag.

    python benchmarks/cases/measure.py FOLDER [NAME ...] [--seeds 0 1 ...] [--write | --check]

`--write` keeps what was measured in FOLDER/labels.json; `--check` measures again and fails where a program's `meta`
says something else than what is measured. The definitions are those of `labels_of` and the functions under it.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cases.truth import CLOSED, DEAD_SHARE, Layout, dead_share, evaluating

CASES = Path(__file__).resolve().parent
TIMES = 21
SATURATED_SHARE = 0.5
FACTOR = 1e3
LARGE_GRADIENT, LARGE_OUTPUT = 1.0, 100.0
STUCK = 0.97
UNCENTRED_ENERGY = 0.9
LEARNED = 0.8
_HIDDEN = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Softplus, nn.Hardtanh)


@dataclass
class Call:
    """One call of a leaf module: root mean squares of output and gradient (nan: none came), closed and flat shares."""

    name: str
    hidden: bool
    gate: bool
    rms: float
    dead: float | None = None
    saturated: float | None = None
    gradient: float = math.nan


@dataclass
class Look:
    """The training set through the network once: loss, calls in order, root mean square of each weight's gradient."""

    step: int
    loss: float
    calls: list[Call]
    gradients: dict[str, float]
    finite: bool


@dataclass(frozen=True)
class Truth:
    """What is true of one run. `where`: label -> modules where it is measured; losses over the training set."""

    first_loss: float
    final_loss: float
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)


def build(folder: Path, name: str, **options: bool) -> Any:
    """Model, optimizer, loss, batches and meta of a program."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name).build(**options)
    finally:
        sys.path.remove(str(folder))


def rms(t: Tensor) -> float:
    """Root mean square in float64; 0 for no elements."""
    return float(t.detach().double().square().mean().sqrt()) if t.numel() else 0.0


def saturated_share(module: nn.Module, out: Tensor) -> float | None:
    """Share of elements within 3 % of an end of the range, of an nn.Tanh or nn.Sigmoid."""
    if isinstance(module, nn.Tanh):
        return float((out.detach().abs() > 0.97).double().mean())
    return float(((2 * out.detach() - 1).abs() > 0.97).double().mean()) if isinstance(module, nn.Sigmoid) else None


def look(model: nn.Module, loss_fn: Callable[..., Tensor], x: Tensor, y: Tensor, step: int) -> Look:
    """Measure once, in eval mode; gradients, flags and random numbers come back as they were."""
    calls: list[Call] = []
    layout, handles = Layout(), []

    def note(module: nn.Module, given: tuple[Any, ...], out: Any, name: str) -> None:
        layout.see(module)
        out = out[0] if isinstance(out, tuple) else out
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return
        hidden, gate = isinstance(module, _HIDDEN), isinstance(module, nn.Sigmoid)
        call = Call(name, hidden, gate, rms(out), saturated=saturated_share(module, out))
        if type(module) in CLOSED:
            call.dead = dead_share(given[0], CLOSED[type(module)], channels_first=layout.of(given[0]))
        calls.append(call)
        if out.requires_grad:
            out.register_hook(lambda g: setattr(call, "gradient", rms(g)))

    for name, module in model.named_modules():
        if not any(module.children()):
            hook = lambda m, given, out, name=name: note(m, given, out, name)  # noqa: E731
            handles.append(module.register_forward_hook(hook))
    kept = {n: p.grad for n, p in model.named_parameters()}
    random = torch.get_rng_state()
    with evaluating(model), torch.enable_grad():
        model.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
    gradients = {n: math.nan if p.grad is None else rms(p.grad) for n, p in model.named_parameters() if p.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.grad = kept[name]
    torch.set_rng_state(random)
    for handle in handles:
        handle.remove()
    whole = all(bool(torch.isfinite(p).all()) for p in model.parameters()) and all(math.isfinite(c.rms) for c in calls)
    return Look(step, float(loss.detach()), calls, gradients, whole and math.isfinite(loss.item()))


def train(folder: Path, name: str, **options: bool) -> tuple[list[Look], Any, dict[str, bool], Tensor]:
    """Train a program; looks from before the first step to after the last, meta, unmoved weights, the training set."""
    model, optimizer, loss_fn, batches, meta = build(folder, name, **options)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    steps, looks = len(batches), []
    times = {round(i * (steps - 1) / (TIMES - 1)) for i in range(TIMES - 1)}
    for step, (x, y) in enumerate(batches):
        if step in times:
            looks.append(look(model, loss_fn, batches.X, batches.Y, step))
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    looks.append(look(model, loss_fn, batches.X, batches.Y, steps))
    unmoved = {n: torch.equal(p.detach(), before[n]) for n, p in model.named_parameters() if n in before}
    return looks, meta, unmoved, batches.X


def late(looks: Sequence[Look]) -> list[Look]:
    """Those of the last quarter of the steps."""
    return [one for one in looks if one.step >= 0.75 * looks[-1].step]


def steadily(looks: Sequence[Look], attribute: str, share: float) -> list[str]:
    """Modules of which every call of every late look has at least this share."""
    least: dict[str, float] = {}
    for call in (call for one in late(looks) for call in one.calls):
        value = getattr(call, attribute)
        if value is not None:
            least[call.name] = min(value, least.get(call.name, 1.0))
    return [name for name, value in least.items() if value >= share]


def ratios(one: Look) -> dict[str, float]:
    """Gradient at the first hidden activation over that at the last; in a loop, at a module's first call and last."""
    hidden = [call for call in one.calls if call.hidden and not math.isnan(call.gradient)]
    names = list(dict.fromkeys(call.name for call in hidden))
    of = {name: [call.gradient for call in hidden if call.name == name] for name in names}
    gates = {call.name for call in hidden if call.gate}
    pairs = {name: (calls[0], calls[-1]) for name, calls in of.items() if len(calls) >= 4 and name not in gates}
    if len(names) > 1:
        pairs.setdefault(names[0], (of[names[0]][-1], of[names[-1]][-1]))
    return {name: 1.0 if a == b else a / b if b else math.inf for name, (a, b) in pairs.items()}


def median_ratios(looks: Sequence[Look]) -> dict[str, float]:
    """The median of each ratio over some looks."""
    seen: dict[str, list[float]] = {}
    for one in looks:
        for name, value in ratios(one).items():
            seen.setdefault(name, []).append(value)
    return {name: sorted(values)[len(values) // 2] for name, values in seen.items()}


def vanishing(looks: Sequence[Look]) -> list[str]:
    """Where the gradient is a thousandth of what came in, in the first or last quarter; or zero half of the time."""
    early = [one for one in looks if one.step <= 0.25 * looks[-1].step]
    low = [n for part in (early, late(looks)) for n, r in median_ratios(part).items() if r <= 1 / FACTOR]
    zeros = [n for n in looks[0].gradients if 2 * sum(one.gradients.get(n) == 0.0 for one in looks) >= len(looks)]
    return list(dict.fromkeys([*low, *(n.rpartition(".")[0] for n in zeros)]))


def exploding_gradient(looks: Sequence[Look]) -> list[str]:
    """Where the gradient is a thousand times what came in, or a weight's a thousand times its first, and above 1."""
    early = [one for one in looks if one.step <= 0.25 * looks[-1].step]
    high = [n for part in (early, late(looks)) for n, r in median_ratios(part).items() if r >= FACTOR]
    grown = [
        n
        for n, value in looks[0].gradients.items()
        if any(value > 0 and one.gradients.get(n, 0.0) >= max(FACTOR * value, LARGE_GRADIENT) for one in looks)
    ]
    return list(dict.fromkeys([*high, *(n.rpartition(".")[0] for n in grown)]))


def exploding_activation(looks: Sequence[Look]) -> list[str]:
    """Outputs of a thousand times their first size and 100; or the last hidden one's is as many times the first's."""
    first = {call.name: call.rms for call in looks[0].calls if call.rms > 0}
    calls = [call for one in looks for call in one.calls if call.name in first]
    grown = [call.name for call in calls if call.rms >= max(FACTOR * first[call.name], LARGE_OUTPUT)]
    hidden = [call for call in looks[0].calls if call.hidden]
    if hidden and 0 < FACTOR * hidden[0].rms <= hidden[-1].rms:
        grown.append(hidden[-1].name)
    return list(dict.fromkeys(grown))


def energy_of_means(x: Tensor) -> float:
    """Share of the input's energy that is in the means of its units; 0 where it is no float or all zero."""
    if not x.is_floating_point():
        return 0.0
    flat = x.double().transpose(1, -1).flatten(0, -2) if x.ndim > 2 else x.double()
    whole = flat.square().mean(0).sum()
    return float(flat.mean(0).square().sum() / whole) if whole > 0 else 0.0


def labels_of(looks: Sequence[Look], unmoved: Mapping[str, bool], x: Tensor, repaired_loss: float) -> Truth:
    """Every label that is true of a run, and where. `repaired_loss`: final loss of the cured program, nan without."""
    first, final = looks[0].loss, looks[-1].loss
    fixed = [n.rpartition(".")[0] for n, same in unmoved.items() if same]
    stuck = [n for n in fixed if any(n + "." + kind in unmoved for kind in ("weight", "bias"))] or fixed
    where: dict[str, list[str]] = {
        "dead_units": steadily(looks, "dead", DEAD_SHARE),
        "saturation": steadily(looks, "saturated", SATURATED_SHARE),
        "vanishing_gradient": vanishing(looks),
        "exploding_gradient": exploding_gradient(looks),
        "exploding_activation": exploding_activation(looks),
    }
    if not all(one.finite for one in looks):
        where["nan"] = [next(one for one in looks if not one.finite).calls[0].name]
    if not final < STUCK * first or stuck:
        where["not_learning"] = list(dict.fromkeys(stuck))
    found = {label: names for label, names in where.items() if names or label == "not_learning"}
    if energy_of_means(x) >= UNCENTRED_ENERGY and repaired_loss <= 0.8 * final:
        found["uncentred"] = [looks[0].calls[0].name]
    return Truth(first, final, found)


def truth_of(folder: Path, name: str) -> dict[str, Any]:
    """Everything measured of one program under this process's seed, and what its meta claims that is not so."""
    looks, meta, unmoved, x = train(folder, name)
    repaired = math.nan
    if "repaired" in inspect.signature(importlib.import_module(name).build).parameters:
        repaired = train(folder, name, repaired=True)[0][-1].loss
    truth = labels_of(looks, unmoved, x, repaired)
    found = {"label": meta["label"], **asdict(truth), "repaired_loss": repaired, "wrong": complaints(meta, truth)}
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in found.items()}


def complaints(meta: Mapping[str, Any], truth: Truth) -> list[str]:
    """Where a program's meta and the measured truth disagree."""
    claimed, true = {meta["label"], *meta.get("also", [])} - {"healthy"}, set(truth.where)
    if meta["label"] != "healthy":
        missing, silent = sorted(claimed - true), sorted(true - claimed)
        wrong = [f"{label} is claimed and not measured" for label in missing if label == meta["label"]]
        return wrong + [f"{label} is measured at {truth.where[label]} and not claimed" for label in silent]
    allowed = set(meta.get("tolerate", {}).items())
    wrong = [
        f"{label} is measured at {n}" for label, at in truth.where.items() for n in at if (n, label) not in allowed
    ]
    if not truth.final_loss <= LEARNED * truth.first_loss:
        wrong.append(f"the loss only came from {truth.first_loss:.4g} to {truth.final_loss:.4g}")
    return wrong


def run(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """`truth_of` in a process of its own."""
    environment = {**os.environ, "CASE_SEED": str(seed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, folder.name, name, "--here"]
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def main() -> int:
    """Measure, print, and keep or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("names", nargs="*", help="programs; all of the folder by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = CASES / given.folder
    if given.here:
        warnings.simplefilter("ignore")
        print(json.dumps(truth_of(folder, given.names[0])))
        return 0
    names = given.names or [path.stem for path in sorted(folder.glob("[fh][0-9]*.py"))]
    jobs = [(name, seed) for name in names for seed in given.seeds]
    with ThreadPoolExecutor(2) as pool:
        truths = pool.map(lambda job: run(folder, *job), jobs)
        found = {f"{name} seed {seed}": truth for (name, seed), truth in zip(jobs, truths, strict=True)}
    for key, truth in found.items():
        print(key, json.dumps(truth, indent=None))
    if given.write:
        path = folder / "labels.json"
        held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps({**held, **found}, indent=1) + "\n", encoding="utf-8")
    return int(given.check and any(truth["wrong"] for truth in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
