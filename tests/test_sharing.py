"""Modules that are shared, reused, called seldom, without gradients, or not at all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor
from tests.observing import assert_told, last, on, run
from tests.regimes import regime


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Widths(nn.Module):
    """One ReLU for three widths, or three."""

    def __init__(self, shared: bool, inplace: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(4, 12), nn.Linear(12, 8), nn.Linear(8, 5), nn.Linear(5, 2)
        self.act = nn.ReLU(inplace=inplace)
        self.act2, self.act3 = (None, None) if shared else (nn.ReLU(inplace=inplace), nn.ReLU(inplace=inplace))

    def forward(self, x: Tensor) -> Tensor:
        act2, act3 = self.act2 or self.act, self.act3 or self.act
        return self.head(act3(self.c(act2(self.b(self.act(self.a(x)))))))


@regime(
    "shared, reused, uncalled modules",
    "one ReLU (in place or not) called at three widths",
    exact="a site for each call, equal to three modules of their own",
    proves=("R55", "C7"),
)
@pytest.mark.parametrize("inplace", [False, True])
def test_R55_one_relu_at_three_widths_is_three_sites(inplace: bool) -> None:
    shared, apart = (last(run(lambda flag=flag: Widths(flag, inplace), on(data(9, 4)))).sites for flag in (True, False))
    calls = {"act#0": "act", "act#1": "act2", "act#2": "act3"}
    assert {name: shared[name] for name in calls} == {name: apart[twin] for name, twin in calls.items()}
    assert [shared[name].units for name in calls] == [12, 8, 5]
    assert all(shared[name].grad_rms for name in calls)


class Aliased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Linear(4, 4), nn.ReLU()
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.act(self.first(x)))


@regime(
    "shared, reused, uncalled modules",
    "one module under two names; weights tied between two layers",
    exact="call sites under the first name; the parameter once, with the gradient of all its uses",
    proves=("R55", "R72", "C7"),
)
def test_R55_a_module_under_two_names_is_told_by_the_first_once_for_each_call() -> None:
    told = last(run(Aliased, on(data(6, 4))))
    assert set(told.sites) == {"first:in", "first#0", "act", "first#1"}
    assert set(told.parameters) == {"first.weight", "first.bias"}
    torch.manual_seed(0)
    model = Aliased()
    model(data(6, 4)).square().mean().backward()
    assert model.first.weight.grad is not None
    assert told.parameters["first.weight"].grad_norm == pytest.approx(float(model.first.weight.grad.norm()), rel=1e-5)
    assert told.sites_selected == 2


def test_R72_tied_weights_are_one_parameter() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.out.weight = self.words.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.words(ids))

    told = last(run(Tied, on(torch.tensor([1, 2, 2]))))
    assert set(told.parameters) == {"words.weight"} and {"words", "out"} <= set(told.sites)


@regime(
    "shared, reused, uncalled modules",
    "an output used three times in the loss (directly, squared, through the next layer)",
    exact="one gradient, the sum of all uses",
    proves=("C6",),
)
def test_an_output_that_is_used_three_times_has_the_sum_of_its_gradients() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.act, self.head = nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.act(self.body(x))
            return h, self.head(h)

    def loss(out: tuple[Tensor, Tensor]) -> Tensor:
        return out[0].sum() + 3 * out[0].square().mean() + out[1].square().sum()

    told = last(run(Reused, on(data(5, 4), loss=loss))).sites["act"]
    torch.manual_seed(0)
    hidden, head = Reused()(data(5, 4))
    hidden.retain_grad()
    loss((hidden, head)).backward()
    assert_told(told, hidden, grad=hidden.grad)


@regime(
    "shared, reused, uncalled modules",
    "a module that is never called; one whose `forward` is called directly",
    not_observed="no site; named in the log with the reason, its parameters are `no_grad` or `trained`",
    proves=("R57", "C12"),
)
def test_R57_modules_that_are_not_called_are_named_and_have_no_numbers(caplog: pytest.LogCaptureFixture) -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.direct = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.direct.forward(self.used(x))

    told = last(run(Around, on(data(3, 4))))
    assert set(told.sites) == {"used:in", "used"} and told.sites_selected == 3
    assert (told.parameters["idle.weight"].state, told.parameters["idle.weight"].grad_norm) == ("no_grad", None)
    assert told.parameters["direct.weight"].state == "trained" and told.parameters["direct.weight"].grad_norm
    assert "1 of 3 sites ran; not observed: idle: it was not called; direct: it was not called" in caplog.text


@regime(
    "shared, reused, uncalled modules",
    "a teacher or EMA copy that runs under `no_grad` in the same step; the model itself under `no_grad` first",
    exact="the pass with gradients only",
    not_observed="passes under no_grad, inference_mode and eval()",
    proves=("R68", "R62", "C24"),
)
@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_R68_passes_without_gradients_in_the_same_step_are_not_counted(off: Any) -> None:
    def build() -> dict[str, nn.Module]:
        student = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        return {"student": student, "ema": copy.deepcopy(student).requires_grad_(False)}

    def step(models: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        with off():
            target = models["ema"](data(50, 4, seed=2)).clone()
            models["student"](data(50, 4, seed=3))
        (models["student"](data(5, 4)) - target[:5]).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            for a, b in zip(models["ema"].parameters(), models["student"].parameters(), strict=True):
                a.lerp_(b, 0.1)

    def optimizer(models: Any) -> Any:
        return torch.optim.SGD(models["student"].parameters(), lr=0.1)

    monitor = run(build, step, steps=3, optimizer=optimizer)
    sites = {name: site.samples for name, site in last(monitor).sites.items()}
    assert sites == {"student.0:in": 5, "student.0": 5, "student.1": 5, "student.2": 5}
    assert {p.state for name, p in last(monitor).parameters.items() if name.startswith("ema")} == {"frozen"}


@regime(
    "shared, reused, uncalled modules",
    "a module called twice a step with batches of unequal size, one backward each or one for both",
    exact="weighted by elements; gradients of both",
    proves=("R77", "C8"),
)
@pytest.mark.parametrize("together", [False, True])
def test_R77_two_forwards_of_unequal_size_are_one_batch(together: bool) -> None:
    parts = data(32, 4), data(1, 4, seed=5) + 3

    def step(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        losses = [model(x).square().sum() for x in parts]
        for loss in [sum(losses)] if together else losses:
            loss.backward()
        optimizer.step()

    told = last(run(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU()), step)).sites["0"]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    out = model[0](torch.cat(parts))
    out.retain_grad()
    model[1](out).square().sum().backward()
    assert_told(told, out, grad=out.grad)
    assert told.samples == 33


@regime(
    "shared, reused, uncalled modules",
    "two backwards through one forward (`retain_graph=True`)",
    exact="the activation, once; parameter gradients",
    approximate="the gradient at a site is the root mean square over both backwards, not of their sum",
    proves=("C9",),
)
def test_two_backwards_through_one_forward_count_the_forward_once() -> None:
    def step(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        out = model(data(5, 4))
        out.sum().backward(retain_graph=True)
        (2 * out).sum().backward()
        optimizer.step()

    told = last(run(lambda: nn.Sequential(nn.Linear(4, 3)), step))
    assert told.sites["0"].n == 15
    assert told.sites["0"].grad_rms == pytest.approx(((1 + 4) / 2) ** 0.5)
    bias = told.parameters["0.bias"].grad_norm
    assert bias == pytest.approx((3 * 15**2) ** 0.5, rel=1e-5), "three gradients of 5 samples each"


@regime(
    "shared, reused, uncalled modules",
    "a WGAN gradient penalty: `autograd.grad(create_graph=True)`, its norm in the loss",
    exact="activations once; the gradient of the whole loss, penalty included; parameters",
    not_observed="the inner pass under create_graph",
    proves=("R70", "C10"),
)
def test_R70_a_gradient_penalty_is_told_as_a_part_of_the_loss() -> None:
    def whole(model: Any, out: Tensor, x: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return out.mean() + 10 * (slope.norm(dim=1) - 1).square().mean()

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

    def step(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        x = data(5, 4).requires_grad_()
        whole(model, model(x), x).backward()
        optimizer.step()

    told = last(run(build, step))
    torch.manual_seed(0)
    model, x = build(), data(5, 4).requires_grad_()
    hidden = [x]
    for module in model:
        hidden.append(module(hidden[-1]))
    grads = torch.autograd.grad(whole(model, hidden[-1], x), hidden[1:])
    for index, (out, grad) in enumerate(zip(hidden[1:], grads, strict=True)):
        assert_told(told.sites[str(index)], out, grad=grad)


@regime(
    "shared, reused, uncalled modules",
    "experts, of which a router executes some",
    exact="the experts that ran, with their samples",
    not_observed="idle experts: no site in that step, their evidence stands still; they are never dead for idling",
    proves=("R40", "R42"),
)
def test_an_idle_expert_is_not_a_dead_one() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU()) for _ in range(3))
            self.head, self.turn = nn.Linear(6, 2), 0

        def forward(self, x: Tensor) -> Tensor:
            self.turn += 1
            return self.head(self.experts[0 if self.turn <= 20 else 1](x))

    monitor = run(Routed, on(data(64, 4)), steps=60, window_samples=512)
    early, late = monitor.snapshots[15], last(monitor)
    assert "experts.0.1" in early.sites and not {"experts.1.1", "experts.2.1"} & set(early.sites)
    assert "experts.1.1" in late.sites and not {"experts.0.1", "experts.2.1"} & set(late.sites)
    assert {p.state for name, p in late.parameters.items() if name.startswith("experts.2")} == {"no_grad"}
    assert late.parameters["experts.0.0.weight"].grad_norm is None
    assert not [f for f in monitor.findings if f.layer.startswith(("experts.0", "experts.2"))]


@regime(
    "shared, reused, uncalled modules",
    "a module swapped for another after the monitor was attached",
    not_observed="the new module (and functions called in it); the old name is told as not called",
    proves=("R57", "C49"),
)
def test_R57_a_module_that_is_swapped_after_attaching_is_told_as_not_called(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=2, max_overhead=None) as monitor:
        old = model[1]
        model[1] = nn.Tanh()
        for _ in range(3):
            on(data(5, 4))(model, optimizer)
    assert set(last(monitor).sites) == {"0:in", "0", "2"}
    assert "1: it was not called" in caplog.text
    assert not old._forward_hooks and not model[1]._forward_hooks
