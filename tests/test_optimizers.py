"""Accumulation, clipping, and how parameters are updated: by one, several or odd optimizers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor
from tests.observing import last, run
from tests.regimes import regime


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def gradients(build: Any, x: Tensor) -> list[Tensor]:
    """The gradients of the plain loss in an untouched network."""
    torch.manual_seed(0)
    model = build()
    model(x).square().mean().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


CLIPS: dict[str, Any] = {
    "by norm": lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3),
    "by the infinity norm": lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3, norm_type=math.inf),
    "by value": lambda model: torch.nn.utils.clip_grad_value_(model.parameters(), 1e-3),
    "by hand": lambda model: [p.grad.mul_(0.25) for p in model.parameters()],
    "never reached": lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9),
}


@regime(
    "accumulation, clipping and optimizers",
    "`clip_grad_norm_` (any p), `clip_grad_value_`, scaling by hand",
    exact="norms before clipping, per parameter and in all; `clip_coefficient` is norm after over before, 1 if none",
    proves=("R29", "R30", "C21"),
)
@pytest.mark.parametrize("how", CLIPS)
def test_R29_R30_norms_are_those_before_clipping_and_the_coefficient_is_what_clipping_did(how: str) -> None:
    after: list[float] = []

    def step(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        model(data(9, 4)).square().mean().backward()
        CLIPS[how](model)
        after.append(math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters())))
        optimizer.step()

    told = last(run(net, step))
    each = [float(grad.double().norm()) for grad in gradients(net, data(9, 4))]
    total = math.sqrt(sum(norm**2 for norm in each))
    assert [p.grad_norm for p in told.parameters.values()] == pytest.approx(each, rel=1e-6)
    assert told.grad_norm_total == pytest.approx(total, rel=1e-6)
    assert told.clip_coefficient == pytest.approx(after[-1] / total, rel=1e-5)
    assert (told.clip_coefficient == 1.0) == (how == "never reached")
    torch.manual_seed(0)
    model = net()
    model(data(9, 4)).square().mean().backward()
    assert told.grad_norm_total == pytest.approx(float(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)))


@regime(
    "accumulation, clipping and optimizers",
    "gradients accumulated over micro-batches, the loss divided or not",
    exact="activations, units, parameter gradients and total equal those of the full batch",
    approximate="a site's gradient is that of the losses as they were given: undivided, k times the full batch's",
    proves=("R14", "C22"),
)
@pytest.mark.parametrize("divided", [True, False])
def test_accumulated_micro_batches_are_the_full_batch(divided: bool) -> None:
    x, parts = data(24, 4), 3

    def accumulate(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        for part in x.split(24 // parts):
            (model(part).square().mean() / (parts if divided else 1)).backward()
        optimizer.step()

    def full(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        (model(x).square().mean() * (1 if divided else parts)).backward()
        optimizer.step()

    there, whole = run(net, accumulate, steps=2), run(net, full, steps=2)
    assert [s.step for s in there.snapshots] == [0, 1]
    for name, site in there.snapshots[0].sites.items():
        twin = whole.snapshots[0].sites[name]
        assert (site.n, site.samples) == (twin.n, twin.samples)
        assert (site.zero_fraction, site.histogram) == (twin.zero_fraction, twin.histogram)
        # Some processors round a product of 8 rows otherwise than one of 24.
        for field in ("low", "high", "mean", "std", "rms", "mean_energy", "grad_rms", "grad_zero_fraction"):
            truth = getattr(twin, field)
            assert getattr(site, field) == (truth and pytest.approx(truth, rel=1e-5)), f"{name}.{field}"
    for name, parameter in there.snapshots[0].parameters.items():
        assert parameter.grad_norm == pytest.approx(whole.snapshots[0].parameters[name].grad_norm, rel=1e-5)
    assert there.snapshots[0].grad_norm_total == pytest.approx(whole.snapshots[0].grad_norm_total, rel=1e-5)


@regime(
    "accumulation, clipping and optimizers",
    "`zero_grad` before or after the step, `set_to_none` or not",
    exact="the same gradients",
    proves=("R28", "R31"),
)
@pytest.mark.parametrize("to_none", [True, False])
def test_R28_the_order_of_zero_grad_and_step_does_not_matter(to_none: bool) -> None:
    def before(model: Any, optimizer: Any) -> None:
        optimizer.zero_grad(set_to_none=to_none)
        model(data(9, 4)).square().mean().backward()
        optimizer.step()

    def after(model: Any, optimizer: Any) -> None:
        model(data(9, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=to_none)

    runs = [run(net, step, steps=3).snapshots for step in (before, after)]
    assert [s.parameters for s in runs[0]] == [s.parameters for s in runs[1]]
    assert runs[0][-1].parameters["0.weight"].grad_norm


@regime(
    "accumulation, clipping and optimizers",
    "two optimizers that step in turn (GAN), one of them every third time",
    exact="both nets' parameters in the step in which they are updated; gradients that pile up are told as they are",
    proves=("R14", "R32", "C11"),
)
def test_R32_a_gan_attributes_gradients_and_updates_to_both_nets() -> None:
    def build() -> dict[str, nn.Module]:
        return {"d": nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(), nn.Linear(6, 1)), "g": nn.Linear(3, 4)}

    def optimizers(models: Any) -> Any:
        return [torch.optim.Adam(models[name].parameters(), lr=0.01) for name in ("d", "g")]

    turn = [0]

    def step(models: Any, chosen: Any) -> None:
        d, g = models["d"], models["g"]
        if turn[0] % 3 == 0:
            chosen[1].zero_grad()
            d.requires_grad_(False)
            d(g(data(5, 3))).mean().backward()
            d.requires_grad_(True)
            chosen[1].step()
        turn[0] += 1
        chosen[0].zero_grad()
        (d(data(5, 4)) - d(g(data(5, 3, seed=2)).detach())).mean().backward()
        chosen[0].step()

    monitor = run(build, step, steps=6, optimizer=optimizers)
    assert [s.step for s in monitor.snapshots] == list(range(6)), "one record for each step of the first optimizer"
    for index, told in enumerate(monitor.snapshots):
        assert told.parameters["d.0.weight"].state == "trained" and told.parameters["d.0.weight"].update_ratio
        assert bool(told.parameters["g.weight"].update_ratio) == (index % 3 == 0)
        assert {"d.0", "d.2", "g"} <= {name.partition("#")[0] for name in told.sites}
        assert (told.parameters["g.weight"].grad_norm is None) == (index % 3 != 0)


@regime(
    "accumulation, clipping and optimizers",
    "LBFGS: several evaluations of a closure a step",
    exact="the batch once, at its first evaluation; the update of the whole step",
    approximate="the parameter gradient is that of the last evaluation",
    proves=("R14", "R70", "C40"),
)
def test_R70_a_closure_that_runs_many_times_is_one_batch() -> None:
    calls: list[Tensor] = []

    def step(model: Any, optimizer: Any) -> None:
        def closure() -> Tensor:
            optimizer.zero_grad()
            out = model(data(9, 4))
            calls.append(out.detach())
            loss = (out - 1).square().mean()
            loss.backward()
            return loss

        calls.clear()
        optimizer.step(closure)

    def lbfgs(model: Any) -> Any:
        return torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=6)

    monitor = run(net, step, steps=3, optimizer=lbfgs)
    told = last(monitor)
    assert len(calls) > 1 and [s.step for s in monitor.snapshots] == [0, 1, 2]
    assert told.sites["2"].samples == 9
    assert told.sites["2"].mean == pytest.approx(float(calls[0].double().mean()), rel=1e-6)
    assert told.sites["2"].grad_rms and told.parameters["0.weight"].update_ratio


def stepping_in_backward(model: nn.Module) -> dict[Tensor, torch.optim.Optimizer]:
    """An optimizer for each parameter, which steps and clears its gradient as soon as it is accumulated."""
    each: dict[Tensor, torch.optim.Optimizer] = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def fused(parameter: Tensor) -> None:
        each[parameter].step()
        each[parameter].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(fused)
    return each


@regime(
    "accumulation, clipping and optimizers",
    "optimizer in backward (a post-accumulate hook steps and clears each gradient), with `monitor.step()`",
    exact="activations, gradients at sites, weights and their update",
    not_observed="parameter gradients and their total: `no_grad` and None, never 0",
    proves=("R31", "C42"),
)
def test_R31_an_optimizer_inside_the_backward_leaves_no_gradients_and_no_zeros() -> None:
    torch.manual_seed(0)
    model = net()
    stepping_in_backward(model)
    with Monitor(model, log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(2):
            before = model[0].weight.detach().clone()
            model(data(9, 4)).square().mean().backward()
            monitor.step()
    told = last(monitor)
    assert told.step == 1 and told.sites["0"].grad_rms and told.sites["0"].n == 54
    for parameter in told.parameters.values():
        assert (parameter.state, parameter.grad_norm, parameter.grad_zero_fraction) == ("no_grad", None, None)
    ratio = float((model[0].weight.detach() - before).norm() / before.norm())
    assert told.parameters["0.weight"].update_ratio == pytest.approx(ratio, rel=1e-5)
    assert told.grad_norm_total is None and told.clip_coefficient is None


@regime(
    "accumulation, clipping and optimizers",
    "a parameter without a gradient: optimizer in backward beside an optimizer that finds nothing to do",
    not_observed="its update: None, not 0",
    proves=("R31", "C42"),
)
def test_R31_what_had_no_gradient_has_no_update() -> None:
    torch.manual_seed(0)
    model = net()
    stepping_in_backward(model)
    outer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, outer, log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(2):
            model(data(9, 4)).square().mean().backward()
            outer.step()
    assert {(p.state, p.grad_norm, p.update_ratio) for p in last(monitor).parameters.values()} == {
        ("no_grad", None, None)
    }


@regime(
    "accumulation, clipping and optimizers",
    "optimizer in backward, all of its optimizers given to the monitor",
    exact="everything, once a step",
    proves=("R14", "R31", "C42"),
)
def test_R14_R31_optimizers_inside_the_backward_given_as_a_list_are_one_step() -> None:
    torch.manual_seed(0)
    model = net()
    each = stepping_in_backward(model)
    weights = {name: float(p.detach().norm()) for name, p in model.named_parameters()}
    with Monitor(model, list(each.values()), log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(3):
            model(data(9, 4)).square().mean().backward()
    first = monitor.snapshots[0]
    assert [s.step for s in monitor.snapshots] == [0, 1, 2]
    assert {site.samples for s in monitor.snapshots for site in s.sites.values()} == {9}
    norms = [float(grad.double().norm()) for grad in gradients(net, data(9, 4))]
    for (name, told), norm in zip(first.parameters.items(), norms, strict=True):
        assert told.state == "trained" and told.grad_norm == pytest.approx(norm, rel=1e-5)
        assert told.update_ratio == pytest.approx(0.1 * norm / weights[name], rel=1e-4)
    assert all(site.grad_rms for s in monitor.snapshots for site in s.sites.values() if site.role != "input")
