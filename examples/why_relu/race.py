"""Races: how many steps of SGD a network needs until it errs on so few of the training samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .data import Data, digits
from .nets import Net
from .observe import Lab, batches, error_of, loss_of
from .results import Sample, mid

TUNING_SEEDS = (1000, 1001, 1002)
"""None of them is measured: a rate is not chosen by the runs that are reported."""


@dataclass(frozen=True)
class Rules:
    """Errors to reach, steps allowed, how often the error is looked at; rates that are tried, and seeds to do so."""

    budget: int
    targets: tuple[float, ...] = (0.25, 0.05, 0.01)
    every: int = 5
    grid: tuple[float, ...] = (0.1, 0.3, 0.03, 1.0, 0.01)
    tuners: int = 3


@dataclass(frozen=True)
class Arm:
    """Steps to each target, one number a seed, and the rate chosen for each target."""

    rates: tuple[float, ...]
    steps: list[Sample]

    def told(self) -> str:
        """The rates, once if they agree."""
        return " ".join(f"{rate:g}" for rate in (self.rates if len(set(self.rates)) > 1 else self.rates[:1]))


TUNED: dict[str, tuple[float, ...]] = {
    "ReLU mlp6": (0.1, 0.1, 0.3),
    "tanh mlp6": (0.3, 0.3, 0.3),
    "sigmoid mlp6": (0.1, 0.1, 0.1),
    "ReLU mlp6, default": (0.3, 0.3, 0.3),
    "ReLU mlp6, batch norm": (0.3, 0.3, 0.3),
    "ReLU mlp6, layer norm": (0.1, 0.3, 0.3),
    "leaky ReLU mlp6": (0.1, 0.3, 0.1),
    "ReLU - 0.4 mlp6": (0.3, 0.3, 0.3),
    "4 sigmoid mlp6": (0.03, 0.03, 0.1),
    "4 (sigmoid - 1/2) mlp6": (0.3, 0.3, 0.3),
    "GELU mlp6": (0.1, 0.3, 0.3),
    "SiLU mlp6": (0.3, 0.3, 0.3),
    "identity mlp6": (0.1, 0.1, 0.1),
    "squared ReLU mlp6": (0.1, 0.1, 0.1),
    "squared ReLU mlp6, batch norm": (0.1, 0.1, 0.1),
    "ReLU mlp2odd": (1.0, 1.0),
    "identity mlp2odd": (0.1, 0.1),
    "squared ReLU mlp2odd": (0.1, 0.1),
    "GELU mlp2odd": (1.0, 1.0),
    "SiLU mlp2odd": (1.0, 1.0),
    "ReLU mlp1, default + 0": (1.0,),
    "ReLU mlp1, default + 2": (0.3,),
    "ReLU mlp1, default + 10": (0.3,),
}
"""Found by `--full`: the rate of the grid with the fewest steps in the median of three seeds that are not measured."""


def steps_to(net: Net, data: Data, seed: int, lr: float, rules: Rules) -> tuple[float, ...]:
    """Steps until the error on all samples is at or below each target; infinite where the budget did not do."""
    model = net.build(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    reached = [math.inf] * len(rules.targets)
    for step, index in zip(range(1, rules.budget + 1), batches(len(data[0]), seed), strict=False):
        optimizer.zero_grad()
        loss = loss_of(model(data[0][index]), data[1][index])
        loss.backward()
        optimizer.step()
        if step % rules.every == 0:
            if not math.isfinite(loss.item()):
                break
            error = error_of(model, data)
            reached = [min(s, step) if error <= t else s for s, t in zip(reached, rules.targets, strict=True)]
            if math.isfinite(reached[-1]):
                break
    return tuple(reached)


def tune(net: Net, data: Data, rules: Rules) -> tuple[float, ...]:
    """The best rate for each target; the first of the grid where none reaches it, or several are as good."""
    best = [(math.inf, rules.grid[0])] * len(rules.targets)
    budget = rules.budget
    for lr in rules.grid:
        allowed = Rules(budget, rules.targets, rules.every)
        runs = [steps_to(net, data, seed, lr, allowed) for seed in TUNING_SEEDS[: rules.tuners]]
        for i, steps in enumerate(zip(*runs, strict=True)):
            if mid(steps) < best[i][0]:
                best[i] = (mid(steps), lr)
        if math.isfinite(best[-1][0]):  # what takes longer by a quarter is lost already
            budget = min(budget, int(1.25 * best[-1][0]))
    return tuple(rate for _, rate in best)


def race(lab: Lab, net: Net, rules: Rules, data: Data | None = None, name: str = "") -> Arm:
    """The arm of a race, run once a lab. Without `--full` the rates are those of TUNED."""
    key = ("race", net, rules, name)
    if key not in lab.seen:
        data = digits() if data is None else data
        known = TUNED.get(net.label + name)
        rates = tune(net, data, rules) if lab.full or known is None else known
        steps: list[list[float]] = [[] for _ in rules.targets]
        for seed in lab.seeds:
            runs = {lr: steps_to(net, data, seed, lr, _until(rules, rates, lr)) for lr in dict.fromkeys(rates)}
            for i, lr in enumerate(rates):
                steps[i].append(runs[lr][i])
        lab.seen[key] = Arm(rates, [tuple(sample) for sample in steps])
    arm: Arm = lab.seen[key]
    return arm


def _until(rules: Rules, rates: tuple[float, ...], lr: float) -> Rules:
    """The race ends at the last target that this rate is responsible for."""
    last = max(i for i, rate in enumerate(rates) if rate == lr)
    return Rules(
        rules.budget, (*rules.targets[:last], *[rules.targets[last]] * (len(rules.targets) - last)), rules.every
    )
