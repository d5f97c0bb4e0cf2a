"""Real trainings end to end: the right finding where something is wrong, silence where it only looks odd."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from cases.program import observe
from cases.score import Case, alarms, matching
from torch import nn

from actdiag import Finding, Monitor
from actdiag.diagnose.finding import at_least
from tests.nets import digits

ROOT = Path(__file__).resolve().parent.parent
FIRST = ROOT / "benchmarks" / "cases" / "first"


def deep(act: type[nn.Module], depth: int, *, seed: int, width: int = 64) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for i in range(depth):
        linear = nn.Linear(64 if i == 0 else width, width)
        init = nn.init.kaiming_normal_ if act is nn.ReLU else nn.init.xavier_normal_
        init(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, act()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def train(
    model: nn.Module, *, lr: float, epochs: int = 8, offset: float = 0.0, clip: float | None = None
) -> list[Finding]:
    """Plain SGD on standardized digits, batches of 32; the findings of warning or error."""
    x, y = digits()
    x = x + offset
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with Monitor(model, optimizer, max_overhead=None, log_every_n_steps=20) as monitor:
        for _ in range(epochs):
            for index in torch.randperm(len(x)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[index]), y[index]).backward()
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
    return [f for f in monitor.findings if at_least(f.severity, "warning")]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_healthy_network_is_left_alone(seed: int) -> None:
    assert train(deep(nn.ReLU, 4, seed=seed), lr=0.05) == []
    assert train(deep(nn.Tanh, 4, seed=seed), lr=0.05) == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_dying_relu_is_told_within_a_few_epochs(seed: int) -> None:
    told = [f for f in train(deep(nn.ReLU, 4, seed=seed), lr=4.0, clip=1.0) if f.rule == "dead-units"]
    assert told and min(f.step for f in told) <= 400
    assert "learning rate" in told[0].cause


def test_a_deep_sigmoid_has_no_gradient_at_its_first_layers() -> None:
    start, first, *others = train(deep(nn.Sigmoid, 8, seed=0), lr=0.1, epochs=3)
    assert (start.rule, start.step) == ("poor-initialization", 0)
    assert (first.rule, first.severity, first.layer) == ("vanishing-gradient", "error", "0")
    assert "Sigmoid" in first.cause
    assert [f.rule for f in others] == ["collapsed-activation"], "nor does the output tell samples apart"


def test_uncentered_inputs_are_told_at_the_first_step() -> None:
    told = train(deep(nn.ReLU, 2, seed=0), lr=0.01, epochs=2, offset=8.0)
    assert ("off-center", 0) in [(f.rule, f.step) for f in told]


def test_natural_sparsity_is_not_death() -> None:
    model = deep(nn.ReLU, 1, seed=0, width=256)
    with torch.no_grad():
        model[0].bias.fill_(-2.0)
    assert train(model, lr=0.05) == []


def test_weights_that_become_nan_name_their_layer_and_the_step() -> None:
    model = deep(nn.ReLU, 3, seed=0)
    x, y = digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with Monitor(model, optimizer, max_overhead=None, log_every_n_steps=5) as monitor:
        for step in range(30):
            if step == 15:
                with torch.no_grad():
                    model[2].weight[3, 4] = torch.nan
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[:64]), y[:64]).backward()
            optimizer.step()
    (finding,) = monitor.findings
    assert (finding.rule, finding.severity, finding.layer, finding.step) == ("non-finite", "error", "2", 15)
    assert finding.resolved_step is None


def test_a_diverging_training_names_the_weights_that_broke() -> None:
    told = train(deep(nn.ReLU, 2, seed=0), lr=1e4, epochs=1)
    (finding,) = [f for f in told if f.rule == "non-finite"]
    assert "are not finite" in finding.cause and "checkpoint" in finding.advice[0]


def test_tanh_with_large_weights_is_saturated_and_its_gradient_explodes() -> None:
    model = deep(nn.Tanh, 8, seed=0)
    with torch.no_grad():
        for layer in model[:-1:2]:
            layer.weight.mul_(10)
    told = {(f.rule, f.severity): f for f in train(model, lr=0.01, epochs=2)}
    assert ("saturated-activation", "error") in told and ("exploding-gradient", "warning") in told
    assert "initial weights" in told["saturated-activation", "error"].cause


def test_a_frozen_trunk_with_dead_units_is_not_alarmed() -> None:
    model = deep(nn.ReLU, 2, seed=0)
    with torch.no_grad():
        model[0].bias[:40] = -100
    model[:-1].requires_grad_(False)
    assert train(model, lr=0.05, epochs=3) == []


FAST = ("f03", "f06", "f13", "f18", "f22", "f25", "f29", "h01", "h02", "h05", "h07", "h32")


def programs() -> list[ParameterSet]:
    """The programs of the benchmark on which the rules were tuned: a few fast ones, the others slow."""
    found = []
    for path in sorted(FIRST.glob("[fh][0-9]*.py")):
        seeds = ("0",) if path.stem[:3] in FAST else ()
        found += [pytest.param(path.stem, seed, id=f"{path.stem}-{seed}") for seed in seeds]
        found += [
            pytest.param(path.stem, seed, id=f"{path.stem}-{seed}", marks=pytest.mark.slow)
            for seed in ("0", "1")
            if seed not in seeds
        ]
    return found


@pytest.mark.filterwarnings("ignore")  # the programs are not ours: some leave files open
@pytest.mark.parametrize("name,seed", programs())
def test_a_program_is_told_by_its_fault_or_left_alone(name: str, seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASE_SEED", seed)
    told, _, meta = observe(FIRST, name)
    case = Case(
        name=name, seed=int(seed), label=meta["label"], also=meta.get("also", ()), tolerate=meta.get("tolerate", {}),
        said={"actdiag": told},
    )  # fmt: skip
    assert bool(matching(case, "actdiag")) if case.faulty else not alarms(case, "actdiag"), told
