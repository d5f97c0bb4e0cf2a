"""Compiled programs that reviewers broke: transforms, twins, threads, exporters, many shapes, recurrent layers."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actdiag import Monitor
from tests.compiling import (
    COMPILER_WARNS,
    Outcome,
    assert_same_numbers,
    assert_same_training,
    compiled,
    eager,
    inner,
    outer,
    train,
)
from tests.regimes import regime
from tests.test_compile import Functions, Modules

pytestmark = [*COMPILER_WARNS, pytest.mark.filterwarnings("ignore::FutureWarning:torch.*")]


def sites_of(outcome: Outcome) -> dict[str, Any]:
    return dict(outcome.snapshot.sites)


class Transformed(nn.Module):
    """A part inside vmap or cond, and an ordinary one."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.inside, self.act, self.head = how, nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)

    def part(self, x: Tensor) -> Tensor:
        return F.gelu(self.act(self.inside(x)))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "vmap":
            x = torch.func.vmap(self.part)(x)
        else:
            x = torch.cond(x.sum() > 0, self.part, lambda x: self.inside(x) * 0.5, (x,))
        return self.head(x)


@regime(
    "torch.compile",
    "torch.func.vmap and torch.cond inside a compiled model",
    exact="everything outside of them; the training",
    not_observed="what runs inside of them",
    proves=("R66", "C29"),
)
@pytest.mark.parametrize("how", ["vmap", "cond"])
def test_R66_transforms_inside_a_compiled_model_are_left_alone(how: str) -> None:
    def build() -> nn.Module:
        return Transformed(how)

    plain, watched = train(build, compiled(fullgraph=True)), train(build, compiled(fullgraph=True), observe=outer)
    assert_same_training(watched, plain)
    assert set(sites_of(watched)) == {"head:in", "head"}


class Twin(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.fc, self.head = function, nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.fc(x)))


def test_functions_of_two_compiled_models_of_one_class_keep_their_names() -> None:
    torch._dynamo.reset()
    models = {"g": Twin(F.relu), "d": Twin(torch.tanh)}
    calls = {name: torch.compile(model, backend="aot_eager") for name, model in models.items()}
    optimizer = torch.optim.SGD([p for model in models.values() for p in model.parameters()], lr=0.1)
    with Monitor(calls, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(2):
            (calls["g"](torch.randn(5, 8)) + calls["d"](torch.randn(5, 8))).sum().backward()
            optimizer.step()
    assert monitor.latest is not None
    assert {name for name in monitor.latest.sites if "/" in name} == {"g/relu", "d/tanh"}


@regime(
    "torch.compile",
    "many shapes, `dynamic=False`",
    exact="all numbers: torch's limit on graphs of one function is doubled while compiled code is observed",
    proves=("R7", "C30"),
)
@pytest.mark.slow
def test_R07_many_shapes_do_not_reach_the_limit_of_graphs() -> None:
    limit = torch._dynamo.config.recompile_limit

    def shapes(step: int) -> list[Tensor]:
        return [torch.randn(3 + step % 5, 8)]

    wrap = compiled(fullgraph=True, dynamic=False)
    plain = train(Modules, wrap, batches=shapes, steps=40)
    watched = train(Modules, wrap, observe=outer, batches=shapes, steps=40)
    assert_same_training(watched, plain)
    assert (plain.graphs, watched.graphs) == (5, 10)
    assert torch._dynamo.config.recompile_limit == limit


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_limit_of_graphs_is_put_back_after_several_monitors(order: tuple[int, int]) -> None:
    limit = torch._dynamo.config.recompile_limit
    models = [Modules(), Modules()]
    monitors = [Monitor(torch.compile(model, backend="aot_eager")) for model in models]
    assert torch._dynamo.config.recompile_limit == 4 * limit
    for index in order:
        monitors[index].close()
    assert torch._dynamo.config.recompile_limit == limit
    with Monitor(torch.compile(Modules(), backend="aot_eager")), torch._dynamo.config.patch(recompile_limit=11):
        pass
    assert torch._dynamo.config.recompile_limit == limit


def test_a_user_who_forbids_recompiling_is_obeyed(caplog: pytest.LogCaptureFixture) -> None:
    torch._dynamo.reset()
    model = Modules()
    call = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(call, optimizer, log_every_n_steps=5, watch_every_n_steps=5, max_overhead=None):
        for step in range(12):
            if step == 3:
                torch.compiler.set_stance("fail_on_recompile")
            call(torch.randn(5, 8)).sum().backward()
            optimizer.step()
        torch.compiler.set_stance("default")
    assert caplog.text.count("compiled code is observed no more from now on") == 1


@pytest.mark.parametrize("build", [Modules, Functions])
def test_R07_watched_and_recorded_steps_share_a_graph(build: Any) -> None:
    truth = train(build, eager, observe=inner, watch_every_n_steps=2)
    watched = train(build, compiled(fullgraph=True), observe=outer, watch_every_n_steps=2)
    assert watched.graphs == 2
    assert_same_numbers(watched.snapshot, truth.snapshot)


@dataclasses.dataclass
class Told:
    count: int
    hidden: Tensor


class Language(nn.Module):
    """An embedding first, whose input is of integers; a layer that gives a dataclass; a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first, self.lstm, self.head = nn.Embedding(9, 8), Wrapped(), nn.LSTM(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.first(self.words((x.abs() * 3).long() % 9)).hidden)[0])


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(8))

    def forward(self, x: Tensor) -> Told:
        return Told(len(x), x @ self.weight)


def test_R33_an_embedding_first_and_a_dataclass_in_compiled_code() -> None:
    truth, plain = train(Language, eager, observe=inner), train(Language, compiled())
    watched = train(Language, compiled(), observe=outer)
    assert_same_training(watched, plain)
    assert_same_numbers(watched.snapshot, truth.snapshot)
    assert "first:in" not in watched.snapshot.sites and watched.graphs <= 2 * plain.graphs


def test_a_forward_in_another_thread_leaves_no_function_mode_behind() -> None:
    torch._dynamo.reset()
    model = Twin(F.gelu)
    call = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None):
        for _ in range(5):
            worker = threading.Thread(target=lambda: call(torch.randn(5, 8)).sum().backward())
            worker.start()
            worker.join()
            optimizer.step()
    assert torch.overrides._get_current_function_mode_stack() == []


@regime(
    "copies and checkpoints",
    "torch.export and torch.jit.trace of a compiled model while it is observed",
    exact="the exported program computes what the model does",
    proves=("R72", "C28"),
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("export", ["export", "trace"])
def test_R72_an_observed_compiled_model_can_be_exported(export: str) -> None:
    torch._dynamo.reset()
    model = Functions()
    call = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(5, 8)
    with Monitor(call, optimizer, log_every_n_steps=1, max_overhead=None):
        call(x).sum().backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            program = torch.export.export(model, (x,)).module() if export == "export" else torch.jit.trace(model, x)
            assert torch.allclose(program(x), model(x))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Twin(F.gelu), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False))


@regime(
    "checkpointing",
    "activations called as functions inside a checkpoint within a compiled model",
    exact="the modules in it",
    not_observed="the functions: torch shows them to nobody while it traces a checkpoint",
    proves=("C23",),
)
def test_functions_in_a_compiled_checkpoint_are_not_observed_and_never_zero() -> None:
    plain, watched = train(Checkpointed, compiled()), train(Checkpointed, compiled(), observe=outer)
    assert_same_training(watched, plain)
    assert set(sites_of(watched)) == {"block.fc:in", "block.fc", "block.head", "head"}


@regime(
    "torch.compile",
    "compiled autograd (`torch._dynamo.compiled_autograd`)",
    exact="activations and parameters; the training",
    approximate="enabled for the backward alone, after the forward was traced, torch can fail: enable it before",
    not_observed="the gradient at sites: None, not 0",
    proves=("C30",),
)
@pytest.mark.slow
def test_compiled_autograd_leaves_the_gradient_at_sites_unknown() -> None:
    def run(observe: bool) -> Any:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = Modules()
        call = torch.compile(model, backend="aot_eager")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = Monitor(call, optimizer, log_every_n_steps=1, max_overhead=None) if observe else None
        for _ in range(3):
            with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
                call(torch.randn(5, 8)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        if monitor is not None:
            monitor.close()
        return model.state_dict(), monitor

    (plain, _), (same, monitor) = run(False), run(True)
    assert all(torch.equal(value, same[name]) for name, value in plain.items())
    assert {site.grad_rms for site in monitor.latest.sites.values()} == {None}
    assert all(p.grad_norm for p in monitor.latest.parameters.values())
    assert monitor.latest.sites["head"].rms is not None
