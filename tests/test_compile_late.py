"""torch.compile that nobody told of: after the monitor, around a function; and a torch without our operators."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor
from actdiag.collect.compiled import HookGuards
from tests.compiling import (
    COMPILER_WARNS,
    assert_same_numbers,
    assert_same_training,
    compiled,
    eager,
    in_place,
    inner,
    outer,
    train,
)
from tests.regimes import regime
from tests.test_compile import Modules

pytestmark = COMPILER_WARNS


@regime(
    "torch.compile",
    "a monitor made after the first call of the compiled model",
    exact="all numbers: its code is compiled once more, with one line in the log where a record was lost by it",
    proves=("R9", "C30"),
)
@pytest.mark.parametrize("how", ["wrapper", "inner", pytest.param("in place", marks=pytest.mark.slow)])
def test_R09_a_monitor_that_comes_after_the_first_call_still_observes(how: str) -> None:
    def late(model: nn.Module) -> Any:
        call = in_place(model) if how == "in place" else compiled(fullgraph=True)(model)
        for _ in range(2):
            call(torch.randn(5, 8)).sum().backward()
        model.zero_grad()
        return call

    truth = train(Modules, eager, observe=inner)
    watched = train(Modules, late, observe=outer if how == "wrapper" else inner)
    assert_same_numbers(watched.snapshot, truth.snapshot)
    assert watched.graphs == 3, "before, and then with and without recording"


@regime(
    "torch.compile",
    "a second model of the same class, compiled and trained beside the one that is monitored",
    exact="all numbers, of the monitored one alone: torch calls code of the one that has no hooks for the other; it is "
    "compiled once more, with guards on hooks. A recorded step is lost by it, or three",
    proves=("R9",),
)
@pytest.mark.parametrize("since", [0, 3])
def test_R09_a_second_compiled_model_of_the_same_class_is_not_taken_for_the_first(
    since: int, caplog: pytest.LogCaptureFixture
) -> None:
    def twins(make: Any) -> Any:
        def wrap(model: nn.Module) -> Any:
            call, other, calls = make(model), make(Modules()), list[int]()

            def run(x: Tensor) -> Tensor:
                calls.append(1)
                if len(calls) > since:
                    other(torch.ones(5, 8)).sum().backward()
                found: Tensor = call(x)
                return found

            return run

        return wrap

    given: dict[str, Any] = {"observe": inner, "steps": 9, "log_every_n_steps": 1}
    truth = train(Modules, twins(eager), **given)
    caplog.set_level(logging.INFO, "actdiag")
    watched = train(Modules, twins(compiled()), **given)
    assert watched.monitor is not None and list(watched.snapshot.sites) == list(truth.snapshot.sites)
    for name, site in truth.snapshot.sites.items():  # evidence about units lacks the steps that were lost
        for value in ("mean", "std", "rms", "zero_fraction", "gate_mean", "grad_rms"):
            told, wanted = getattr(watched.snapshot.sites[name], value), getattr(site, value)
            assert told == (None if wanted is None else pytest.approx(wanted, rel=1e-5, abs=1e-7)), (name, value)
    assert_same_training(watched, truth)
    lost = [step for step, one in enumerate(watched.monitor.snapshots) if not one.sites]
    assert lost == ([0] if since == 0 else [3, 4, 5])
    told = [r.getMessage() for r in caplog.records if "compiled once more" in r.getMessage()]
    assert len(told) == 1 and not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert torch._dynamo.config.skip_nnmodule_hook_guards is True, "as it was"


def test_R09_guards_on_hooks_stay_while_one_monitor_needs_them() -> None:
    first, second = HookGuards(), HookGuards()
    for one in (first, second):
        one.open()
    first.close()
    assert torch._dynamo.config.skip_nnmodule_hook_guards is False
    second.close()
    assert torch._dynamo.config.skip_nnmodule_hook_guards is True


def test_R09_who_forbids_recompiling_is_obeyed_though_no_site_runs_any_more() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    call, idle = torch.compile(model, backend="aot_eager"), nn.Linear(8, 4)
    optimizer = torch.optim.SGD([*model.parameters(), *idle.parameters()], lr=0.1)
    try:
        with Monitor(call, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
            for step in range(12):
                if step == 3:
                    torch.compiler.set_stance("fail_on_recompile")
                found = call(torch.randn(5, 8)) if step < 3 or step > 8 else model[0].weight * 2
                found.square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            assert monitor.latest is not None and len(monitor.latest.sites) == 3
    finally:
        torch.compiler.set_stance("default")


def test_R09_guards_on_hooks_that_the_user_has_asked_for_stay() -> None:
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        guards = HookGuards()
        guards.open()
        guards.close()
        assert torch._dynamo.config.skip_nnmodule_hook_guards is False


@regime(
    "torch.compile",
    "a compiled function that calls the model; a monitor made before `torch.compile(model)`",
    exact="all numbers of modules",
    not_observed="functions (F.relu): nothing said that the model would be compiled",
    proves=("R9",),
)
@pytest.mark.parametrize("how", ["function", "later"])
def test_R09_a_model_that_nobody_said_would_be_compiled_is_observed(how: str) -> None:
    def wrap(model: nn.Module) -> Any:
        if how == "function":
            return torch.compile(lambda x: model(x), backend="aot_eager", fullgraph=True)
        made: list[Any] = []

        def call(x: Tensor) -> Tensor:
            if not made:
                made.append(torch.compile(model, backend="aot_eager", fullgraph=True))
            return made[0](x)

        return call

    truth, plain = train(Modules, eager, observe=inner), train(Modules, wrap)
    watched = train(Modules, wrap, observe=inner)
    assert_same_numbers(watched.snapshot, truth.snapshot)
    assert_same_training(watched, plain)
    assert (watched.graphs, watched.breaks) == (plain.graphs + 1, 0)


@regime(
    "torch.compile",
    "a function that calls the model, compiled and called before the monitor is made",
    exact="parameters",
    not_observed="the modules: the log warns that none of them ran, and asks about a compiled copy",
    proves=("R9",),
)
def test_R09_code_that_nobody_can_find_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def late(model: nn.Module) -> Any:
        call = torch.compile(lambda x: model(x), backend="aot_eager", fullgraph=True)
        call(torch.randn(5, 8)).sum().backward()
        model.zero_grad()
        return call

    watched = train(Modules, late, observe=inner)
    assert watched.snapshot.sites == {}
    assert caplog.text.count("0 of 9 sites ran in step 0") == 1 and "not a compiled copy" in caplog.text
    assert {p.state for p in watched.snapshot.parameters.values()} == {"trained"}


@regime(
    "torch.compile",
    "a release of torch that cannot trace our hooks",
    exact="parameters",
    not_observed="the compiled modules, each named with the reason in one warning",
    proves=("R10",),
)
@pytest.mark.parametrize("wrap", [compiled(fullgraph=True), in_place])
def test_R10_without_operators_parameters_are_observed_and_the_modules_named(
    wrap: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("actdiag.collect.attachment.define", lambda: False)
    watched = train(Modules, wrap, observe=inner)
    assert watched.snapshot.sites == {}
    assert {p.state for p in watched.snapshot.parameters.values()} == {"trained"}
    assert caplog.text.count("inside torch.compile and not observed") == 1
