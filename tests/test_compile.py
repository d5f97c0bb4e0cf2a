"""torch.compile: the numbers of eager training, one more graph, no break, the same training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actdiag import Monitor
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
from tests.conftest import assert_untouched
from tests.regimes import regime

pytestmark = COMPILER_WARNS


class Modules(nn.Module):
    """A shared in-place ReLU, an in-place SiLU, a gate, a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.relu, self.act, self.gate = nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Sigmoid()
        self.mid, self.norm, self.head = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.relu(layer(x))
        x = self.norm(self.act(self.mid(x)))
        return self.head(x * self.gate(x))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.value(x)) * torch.sigmoid(self.gate(x))


class Functions(nn.Module):
    """Activations called as functions, at the root and below, in place, with arguments, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = (nn.Linear(8, n) for n in (8, 8, 8, 3))
        self.first, self.second = Gated(), Gated()

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.b(F.relu(self.a(x))), 0.2)
        x = F.silu(self.second(self.first(x)) + 1, inplace=True)
        return self.head(self.c(x.tanh()).relu_())


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3))


@regime(
    "torch.compile",
    "`torch.compile(model)`, `model.compile()`, `fullgraph=True`",
    exact="all numbers equal eager's, one added graph, no break, no recompile; functions (F.relu) too",
    not_observed="torch.relu_, torch.sigmoid_ and F.prelu called as functions",
    proves=("R7", "R8", "C30"),
)
@pytest.mark.parametrize("build", [Modules, Functions, sequential])
@pytest.mark.parametrize("given", [inner, pytest.param(outer, marks=pytest.mark.slow)])
def test_R07_R08_a_compiled_model_gives_eager_numbers_and_one_more_graph(
    build: Callable[[], nn.Module], given: Any
) -> None:
    truth = train(build, eager, observe=inner)
    plain = train(build, compiled(fullgraph=True))
    watched = train(build, compiled(fullgraph=True), observe=given)
    assert_same_numbers(watched.snapshot, truth.snapshot)
    assert_same_training(watched, plain)
    assert (watched.graphs, watched.breaks) == (plain.graphs + 1, 0)


@pytest.mark.parametrize("build", [Modules, Functions])
def test_R07_R08_a_model_compiled_in_place_gives_eager_numbers(build: Callable[[], nn.Module]) -> None:
    truth, plain = train(build, eager, observe=inner), train(build, in_place)
    watched = train(build, in_place, observe=inner)
    assert_same_numbers(watched.snapshot, truth.snapshot)
    assert_same_training(watched, plain)
    assert (watched.graphs, watched.breaks) == (plain.graphs + 1, 0)


@pytest.mark.parametrize("build", [Modules, Functions])
def test_R08_a_graph_that_runs_as_python_is_not_heard_twice(build: Callable[[], nn.Module]) -> None:
    truth = train(build, eager, observe=inner)
    assert_same_numbers(train(build, compiled("eager"), observe=outer).snapshot, truth.snapshot)


@regime(
    "torch.compile",
    "the default backend (inductor)",
    exact="all numbers to 1e-5; training bit-identical in float32 to training compiled without actdiag",
    proves=("R8", "R51"),
)
@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"mode": "reduce-overhead"}, {"dynamic": True}])
def test_R08_the_default_backend_gives_eager_numbers(options: dict[str, Any]) -> None:
    truth = train(Functions, eager, observe=inner)
    plain = train(Functions, compiled("inductor", **options))
    watched = train(Functions, compiled("inductor", **options), observe=outer)
    assert_same_numbers(watched.snapshot, truth.snapshot)
    assert_same_training(watched, plain)
    assert (watched.graphs, watched.breaks) == (plain.graphs + 1, 0)


def test_R07_fifty_steps_recompile_nothing() -> None:
    short = train(Modules, compiled(fullgraph=True), observe=outer, steps=7)
    long = train(Modules, compiled(fullgraph=True), observe=outer, steps=50)
    assert (short.graphs, long.graphs, long.breaks) == (2, 2, 0)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc, self.act = nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.act(self.fc(self.norm(x)))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(12))
        self.mid, self.gate, self.head = nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.mid(x))
        return self.head(x * self.gate(x))


def each_block_in_place(model: nn.Module) -> nn.Module:
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    return model


def each_block_wrapped(model: nn.Module) -> nn.Module:
    for index in range(12):
        model.blocks[index] = torch.compile(model.blocks[index], backend="aot_eager", fullgraph=True)
    return model


@regime(
    "torch.compile",
    "twelve blocks of one class, each compiled",
    exact="all numbers of every block; the blocks still share their graphs; names as without compile",
    not_observed="functions inside the compiled blocks",
    proves=("R7", "R8", "R71"),
)
@pytest.mark.parametrize("wrap", [each_block_in_place, each_block_wrapped])
def test_R08_R71_blocks_that_share_a_graph_keep_their_own_numbers(wrap: Any) -> None:
    truth, plain = train(Stack, eager, observe=inner), train(Stack, wrap)
    watched = train(Stack, wrap, observe=inner)
    assert_same_numbers(watched.snapshot, truth.snapshot)
    assert_same_training(watched, plain)
    assert (watched.graphs, watched.breaks) == (2 * plain.graphs, 0)


class Broken(nn.Module):
    """Two graph breaks of the user's own, each in the middle of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.part, self.head = nn.Linear(8, 8), nn.ReLU(), HalfBroken(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part(self.act(self.fc(x))))


class HalfBroken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(8, 8), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        torch._dynamo.graph_break()
        return self.act(x)


@regime(
    "torch.compile",
    "graph breaks of the user's own",
    exact="all numbers of modules",
    not_observed="functions called in a module after a break in the middle of it",
    proves=("R8",),
)
def test_R08_a_model_with_graph_breaks_gives_eager_numbers() -> None:
    truth, plain = train(Broken, eager, observe=inner), train(Broken, compiled())
    watched = train(Broken, compiled(), observe=outer)
    assert_same_numbers(watched.snapshot, truth.snapshot)
    assert_same_training(watched, plain)


def test_evaluation_is_not_compiled_twice_and_not_recorded() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def run(observe: bool) -> tuple[int, Monitor | None]:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = build()
        call = torch.compile(model, backend="aot_eager", fullgraph=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = Monitor(call, optimizer, log_every_n_steps=2, watch_every_n_steps=2, max_overhead=None)
        if not observe:
            monitor.close()
        for _ in range(5):
            call(torch.randn(5, 8)).sum().backward()
            optimizer.step()
            model.eval()
            with torch.no_grad():
                call(torch.randn(50, 8))
            model.train()
        monitor.close()
        assert_untouched(model)
        return int(torch._dynamo.utils.counters["stats"]["unique_graphs"]), monitor

    (plain, _), (watched, monitor) = run(False), run(True)
    assert monitor is not None and monitor.latest is not None
    assert {site.samples for site in monitor.latest.sites.values()} == {5}
    assert (plain, watched) == (2, 3)


def test_a_failing_probe_in_compiled_code_is_switched_off_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from actdiag.collect.site import Site

    original = Site.add_forward

    def failing(self: Site, *args: Any, **options: Any) -> bool:
        if self.name == "mid":
            raise RuntimeError("planted")
        return original(self, *args, **options)

    monkeypatch.setattr(Site, "add_forward", failing)
    plain, watched = train(Modules, compiled(fullgraph=True)), train(Modules, compiled(fullgraph=True), observe=outer)
    assert_same_training(watched, plain)
    assert "mid" not in watched.snapshot.sites and "head" in watched.snapshot.sites
    assert caplog.text.count("observing mid failed") == 1


def test_a_twin_of_a_compiled_model_is_not_taken_for_it() -> None:
    torch._dynamo.reset()
    model, twin = Modules(), Modules()
    calls = [torch.compile(one, backend="aot_eager") for one in (model, twin)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(calls[0], optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        calls[0](torch.ones(5, 8)).sum().backward()
        calls[1](torch.full((7, 8), 9.0)).sum().backward()
        optimizer.step()
    assert monitor.latest is not None
    assert {site.samples for site in monitor.latest.sites.values()} == {5}


EAGER = """
import sys, torch, actdiag
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
with actdiag.Monitor(model, log_every_n_steps=1, max_overhead=None) as monitor:
    for _ in range(2):
        torch.nn.functional.relu(model(torch.randn(3, 4))).sum().backward()
        monitor.step()
assert set(monitor.latest.sites) == {"0:in", "0", "1"}
from actdiag.collect.operators import define
print("torch._dynamo" in sys.modules, define.cache_info().misses)
define()
print("torch._dynamo" in sys.modules or "torch._higher_order_ops.effects" in sys.modules)
"""


def test_an_eager_training_does_not_load_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", EAGER], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "0", "True"], "the last word shows that the check can fail"
