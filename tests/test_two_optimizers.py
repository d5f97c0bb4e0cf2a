"""Several optimizers in one loop: whose gradient, whose update, whose loss scale."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor, Snapshot
from tests.regimes import regime


def data(*shape: int) -> Tensor:
    return torch.randn(shape)


@regime(
    "accumulation, clipping and optimizers",
    "a GAN whose generator's backward goes through the discriminator after its update",
    exact="the discriminator's gradient as its optimizer saw it; clip_coefficient 1",
    proves=("R29", "R32"),
)
def test_R29_R32_what_the_generators_loss_adds_is_not_the_discriminators_gradient() -> None:
    torch.manual_seed(0)
    models = {"g": nn.Linear(4, 4), "d": nn.Linear(4, 1)}
    d_opt, g_opt = (torch.optim.SGD(models[name].parameters(), lr=0.1) for name in "dg")
    truth = []
    with Monitor(models, [g_opt, d_opt], log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(3):
            real, fake = data(5, 4), models["g"](data(5, 4))
            d_opt.zero_grad()
            (models["d"](real).mean() - models["d"](fake.detach()).mean()).square().backward()
            truth.append(float(models["d"].weight.grad.norm()))
            d_opt.step()
            g_opt.zero_grad()
            models["d"](fake).square().mean().backward()
            g_opt.step()
    told = [snapshot.parameters["d.weight"].grad_norm for snapshot in monitor.snapshots]
    assert told == pytest.approx(truth, rel=1e-5)
    assert [snapshot.clip_coefficient for snapshot in monitor.snapshots] == [1.0] * 3


def norm(parameters: Iterable[Tensor], scale: float = 1.0) -> float:
    """Their gradient, by hand."""
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters if p.grad is not None)) / scale


def part(snapshot: Snapshot, prefix: str) -> float:
    """The gradient norm that was told of one model's parameters."""
    own = [p.grad_norm or 0.0 for name, p in snapshot.parameters.items() if name.startswith(f"{prefix}.")]
    return math.sqrt(sum(norm**2 for norm in own))


def pair() -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
    torch.manual_seed(0)
    models: dict[str, nn.Module] = {
        "enc": nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "dec": nn.Linear(2, 1)
    }  # fmt: skip
    return models, {name: torch.optim.SGD(model.parameters(), lr=0.002) for name, model in models.items()}


def joint_loss(models: Any, x: Tensor, step: int) -> Tensor:
    loss: Tensor = (models["dec"](models["enc"](x)) * (1 + step) - 3).square().mean()
    return loss


@regime(
    "accumulation, clipping and optimizers",
    "two optimizers that step together (encoder and decoder), in any order",
    exact="gradients, total, clip_coefficient and updates of both, in the step in which they are made",
    proves=("R14", "R29", "R32"),
)
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("given", ["enc dec", "dec enc"])
@pytest.mark.parametrize("order", ["enc dec", "dec enc"])
def test_R14_R29_R32_optimizers_that_step_together_are_in_one_step(
    order: str, given: str, every: int, clip: float | None
) -> None:
    models, optimizers = pair()
    parameters = [p for model in models.values() for p in model.parameters()]
    truth = []
    with Monitor(
        models, [optimizers[name] for name in given.split()], log_every_n_steps=every, max_overhead=None
    ) as monitor:
        for step in range(7):
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            joint_loss(models, data(6, 4), step).backward()
            total = norm(parameters)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            weights = {name: models[name].weight if name == "dec" else models[name][0].weight for name in models}
            before = {name: w.detach().clone() for name, w in weights.items()}
            clipped = norm(parameters) / total
            for name in order.split():
                optimizers[name].step()
            ratios = {
                name: float((w.detach() - before[name]).norm() / before[name].norm()) for name, w in weights.items()
            }
            truth.append((total, clipped, ratios))
            assert (monitor.latest.step if monitor.latest else None) == step // every * every, "it waits for nothing"
    assert [s.step for s in monitor.snapshots] == list(range(0, 7, every))
    for snapshot in monitor.snapshots:
        total, clipped, ratios = truth[snapshot.step]
        assert snapshot.grad_norm_total == pytest.approx(total, rel=1e-5)
        assert snapshot.clip_coefficient == pytest.approx(clipped, rel=1e-5)
        assert snapshot.parameters["dec.weight"].update_ratio == pytest.approx(ratios["dec"], rel=1e-4)
        assert snapshot.parameters["enc.0.weight"].update_ratio == pytest.approx(ratios["enc"], rel=1e-4)
        assert {p.state for p in snapshot.parameters.values()} == {"trained"}
        assert {site.samples for site in snapshot.sites.values()} == {6}


@regime(
    "accumulation, clipping and optimizers",
    "a second optimizer that steps rarely, or never, while its gradients pile up",
    exact="every step of the first; the step ends with the next forward at the latest",
    proves=("R14", "R32"),
)
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("rarely", [3, 1000])
def test_R14_R32_an_optimizer_that_steps_rarely_does_not_stop_the_counting(rarely: int, every: int) -> None:
    models, optimizers = pair()
    truth, inputs, kept = [], [], []
    options: Any = {"log_every_n_steps": every, "max_overhead": None}
    with Monitor(models, list(optimizers.values()), **options) as monitor:
        for step in range(9):
            optimizers["enc"].zero_grad()
            x = data(6, 4)
            joint_loss(models, x, step).backward()
            truth.append((norm(models["enc"].parameters()), norm(models["dec"].parameters())))
            inputs.append(float(x.double().mean()))
            optimizers["enc"].step()
            if step % rarely == rarely - 1:
                optimizers["dec"].step()
                optimizers["dec"].zero_grad()
            kept.append(monitor.state_dict()["next_step"])
    assert kept == list(range(1, 10)), "a checkpoint knows of the step that has just been made"
    assert [s.step for s in monitor.snapshots] == list(range(0, 9, every))
    for s in monitor.snapshots:
        updated = s.step % rarely == rarely - 1
        assert part(s, "enc") == pytest.approx(truth[s.step][0], rel=1e-5)
        assert part(s, "dec") == (pytest.approx(truth[s.step][1], rel=1e-5) if updated else 0.0)
        assert s.sites["enc.0:in"].mean == pytest.approx(inputs[s.step], rel=1e-5)
        assert {site.samples for site in s.sites.values()} == {6} and len(s.sites) == 6


def test_R14_R32_a_step_that_waits_ends_with_the_next_forward_and_its_hooks_go() -> None:
    models, optimizers = pair()
    options: Any = {"log_every_n_steps": 2, "watch_every_n_steps": 1000, "max_overhead": None}
    monitor = Monitor(models, list(optimizers.values()), **options)
    for step in range(4):
        optimizers["enc"].zero_grad()
        hidden = models["enc"](data(6, 4))
        waits = monitor._driver._due
        assert not waits, "the forward has ended the step before"
        (models["dec"](hidden) - step).square().mean().backward()
        optimizers["enc"].step()
        assert monitor._driver._due == (step % 2 == 0), "only a recorded step waits for the decoder's gradients"
    assert [s.step for s in monitor._session.snapshots] == [0, 2]
    monitor.close()
    assert not any(module._forward_hooks for model in models.values() for module in model.modules())
    assert torch.overrides._get_current_function_mode_stack() == []


@pytest.mark.parametrize("given", ["d g", "g d"])
def test_R32_both_nets_of_a_gan_are_told_as_their_optimizers_saw_them(given: str) -> None:
    torch.manual_seed(1)
    models = {"g": nn.Linear(4, 4), "d": nn.Linear(4, 1)}
    optimizers = {name: torch.optim.SGD(models[name].parameters(), lr=0.1) for name in models}
    truth: dict[str, list[float]] = {"d": [], "g": []}
    options: Any = {"log_every_n_steps": 1, "max_overhead": None}
    with Monitor(models, [optimizers[name] for name in given.split()], **options) as monitor:
        for _ in range(5):
            x = data(5, 4)
            for name, loss in (
                ("d", lambda x: (models["d"](x) - models["d"](models["g"](x).detach())).mean().square()),
                ("g", lambda x: models["d"](models["g"](x)).square().mean()),
            ):
                optimizers[name].zero_grad()
                loss(x).backward()
                truth[name].append(norm(models[name].parameters()))
                optimizers[name].step()
    # A step ends with the first one's update: with d first, it holds the update of g that came before.
    lag = int(given == "d g")
    assert [part(s, "d") for s in monitor.snapshots] == pytest.approx(truth["d"], rel=1e-5)
    assert [part(s, "g") for s in monitor.snapshots][lag:] == pytest.approx(truth["g"][: 5 - lag], rel=1e-5)


# One scaler for both ------------------------------------------------------------------------------------


def two(
    scalers: tuple[Any, Any],
    *,
    overflow: Collection[tuple[int, str]] = (),
    given: str = "ab",
    steps: int = 8,
    **more: Any,
) -> tuple[Monitor, list[dict[str, float]]]:
    """PyTorch's recipe: a loss and an optimizer for each model, one update() of each scaler at the end."""
    torch.manual_seed(0)
    models = {name: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for name in "ab"}
    optimizers = {name: torch.optim.SGD(models[name].parameters(), lr=0.01) for name in "ab"}
    by = dict(zip("ab", scalers, strict=True))
    truth = []
    options: Any = {"log_every_n_steps": 1, "max_overhead": None, **more}
    with Monitor(models, [optimizers[name] for name in given], **options) as monitor:
        for step in range(steps):
            for name in "ab":
                optimizers[name].zero_grad()
                loss = models[name](data(6, 4)).square().mean() * (math.inf if (step, name) in overflow else 1)
                (by[name].scale(loss) if by[name] else loss).backward()
            scale = {name: by[name].get_scale() if by[name] else 1.0 for name in "ab"}
            truth.append({name: norm(models[name].parameters(), scale[name]) for name in "ab"})
            for name in "ab":
                by[name].step(optimizers[name]) if by[name] else optimizers[name].step()
            for scaler in {id(s): s for s in scalers if s}.values():
                scaler.update()
    return monitor, truth


@regime(
    "mixed precision",
    "one scaler, several optimizers, one update(); one of them overflows",
    exact="the iteration is in no record, and counted in skipped_steps; one in which the first optimizer has stepped "
    "has its number all the same, as it is that one's steps that are counted",
    proves=("R12", "R14", "R32"),
)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("given", ["ab", "ba"])
@pytest.mark.parametrize(
    "overflow",
    [{(0, "a")}, {(0, "b")}, {(2, "a")}, {(2, "b")}, {(2, "a"), (3, "a")}, {(2, "b"), (3, "a")}, {(4, "a"), (4, "b")}],
)
def test_R12_R32_an_iteration_in_which_one_of_two_optimizers_is_skipped_is_in_no_record(
    overflow: set[tuple[int, str]], given: str, own: bool
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    monitor, truth = two((scaler, scaler), overflow=overflow, given=given, **({"grad_scaler": scaler} if own else {}))
    skipped = {step for step, _ in overflow}
    counted = [step for step in range(8) if (step, given[0]) not in overflow]  # iterations, by number of their step
    expected = [number for number, step in enumerate(counted) if step not in skipped]
    assert [s.step for s in monitor.snapshots] == expected, "even where the scaler has not shown itself before"
    for s in monitor.snapshots:
        iteration = counted[s.step]
        assert part(s, "a") == pytest.approx(truth[iteration]["a"], rel=1e-5)
        assert part(s, "b") == pytest.approx(truth[iteration]["b"], rel=1e-5)
        assert {site.samples for site in s.sites.values()} == {6}
        assert not any(site.grad_nonfinite for site in s.sites.values())
        assert s.skipped_steps == len([step for step in skipped if step < iteration])
    assert monitor.findings == []


@regime(
    "mixed precision",
    "two scalers, or one optimizer scaled and another not",
    exact="every gradient divided by the scale of its own optimizer, at sites by that of the parameters around it; "
    "`loss_scale` and `skipped_steps` are those of the scaler that is met first",
    not_observed="the gradient of a site whose parameters have several scales, or through which a second loss has come "
    "under another scale: None",
    proves=("R11", "R32"),
)
@pytest.mark.parametrize("scales", [(1024.0, 65536.0), (1024.0, None), (None, 1024.0), (65536.0, 8.0)])
@pytest.mark.parametrize("given", ["ab", "ba"])
def test_R11_R32_every_optimizer_has_its_own_loss_scale(scales: tuple[float | None, ...], given: str) -> None:
    a, b = (torch.amp.GradScaler("cpu", init_scale=scale) if scale else None for scale in scales)
    torch.manual_seed(5)
    monitor, truth = two((a, b), given=given)
    torch.manual_seed(5)
    plain, _ = two((None, None), given=given)
    assert [s.step for s in monitor.snapshots] == list(range(8))
    for s, twin in zip(monitor.snapshots, plain.snapshots, strict=True):
        assert part(s, "a") == pytest.approx(truth[s.step]["a"], rel=1e-5)
        assert part(s, "b") == pytest.approx(truth[s.step]["b"], rel=1e-5)
        assert s.grad_norm_total == pytest.approx(math.hypot(*truth[s.step].values()), rel=1e-5)
        assert s.clip_coefficient == 1.0 and s.loss_scale in scales
        for name, site in twin.sites.items():
            assert s.sites[name].grad_rms == (site.grad_rms and pytest.approx(site.grad_rms, rel=1e-5))
            assert s.sites[name].grad_histogram == site.grad_histogram
    assert monitor.findings == []


def test_R11_R32_a_second_loss_under_another_scale_leaves_no_gradient_at_the_sites_that_it_comes_through() -> None:
    torch.manual_seed(1)
    models = {"g": nn.Linear(4, 4), "d": nn.Linear(4, 1)}
    optimizers = {name: torch.optim.SGD(models[name].parameters(), lr=0.1) for name in models}
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1)  # grows after every update
    options: Any = {"log_every_n_steps": 1, "max_overhead": None}
    truth: dict[str, list[float]] = {"d": [], "g": []}
    with Monitor(models, [optimizers["g"], optimizers["d"]], **options) as monitor:
        for _ in range(4):
            for name in "dg":
                optimizers[name].zero_grad()
                fake = models["g"](data(5, 4))
                loss = models["d"](fake.detach() if name == "d" else fake).square().mean()
                scaler.scale(loss).backward()
                truth[name].append(norm(models[name].parameters(), scaler.get_scale()))
                scaler.step(optimizers[name])
                scaler.update()
    assert [part(s, "d") for s in monitor.snapshots] == pytest.approx(truth["d"], rel=1e-5)
    assert [part(s, "g") for s in monitor.snapshots] == pytest.approx(truth["g"], rel=1e-5)
    for s in monitor.snapshots:
        assert s.sites["d"].grad_rms is None and s.sites["d"].grad_histogram is None
        assert s.sites["g"].grad_rms and s.skipped_steps == 0
