"""torch.compile that nobody told of: after the monitor, around a function; and a torch without our operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

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
