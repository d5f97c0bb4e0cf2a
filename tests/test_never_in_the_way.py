"""The user's own hooks, schedulers and memory formats work as before, and nothing of ours reaches the loop."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag import MemoryWriter, Monitor
from actdiag.collect.reducing import Eager
from tests.conftest import assert_untouched
from tests.observing import assert_told, last, on, run
from tests.regimes import regime

ROOT = Path(__file__).resolve().parent.parent


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


@regime(
    "never in the way",
    "a forward hook of the user's that replaces an output, a pre-hook that replaces an input",
    exact="what the network goes on with: the replaced tensors",
    proves=("C43",),
)
def test_hooks_of_the_user_that_replace_tensors_are_seen_through() -> None:
    def build() -> nn.Module:
        model = net()
        model[0].register_forward_hook(lambda module, args, out: out * 3)
        model[2].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        return model

    torch.manual_seed(0)
    model = build()
    handles = [*model[0]._forward_hooks.values(), *model[2]._forward_pre_hooks.values()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Monitor(model, optimizer, max_overhead=None) as monitor:
        on(data(9, 4))(model, optimizer)
    assert [*model[0]._forward_hooks.values(), *model[2]._forward_pre_hooks.values()] == handles
    out = model[0](data(9, 4))
    out.retain_grad()
    model[2](model[1](out)).square().mean().backward()
    assert_told(last(monitor).sites["0"], out, grad=out.grad)


@regime(
    "never in the way",
    "tensor hooks and full backward hooks of the user's that replace gradients",
    exact="the gradient at a site as it arrives there, before the user's hook; parameters after it",
    proves=("C43", "R51"),
)
@pytest.mark.parametrize("kind", ["tensor hook", "full backward hook", "parameter hook"])
def test_hooks_of_the_user_that_replace_gradients_keep_working(kind: str) -> None:
    class Hooked(nn.Module):
        def __init__(self, replace: bool) -> None:
            super().__init__()
            self.body, self.head, self.replace = nn.Linear(4, 6), nn.Linear(6, 2), replace
            if replace and kind == "full backward hook":
                self.body.register_full_backward_hook(lambda module, gin, gout: (gin[0],))
            if replace and kind == "parameter hook":
                self.body.weight.register_hook(lambda g: 2 * g)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x)
            if self.replace and kind == "tensor hook":
                h.register_hook(lambda g: 2 * g)
            return self.head(h)

    def once(replace: bool, observed: bool) -> tuple[Any, Tensor]:
        torch.manual_seed(0)
        model = Hooked(replace)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = data(9, 4).requires_grad_()
        monitor = Monitor(model, optimizer, max_overhead=None) if observed else None
        model(x).square().mean().backward()
        optimizer.step()
        if monitor is None:
            return None, model.body.weight.detach()
        monitor.close()
        return last(monitor), model.body.weight.detach()

    (told, weight), (plain, _) = once(True, True), once(False, True)
    assert torch.equal(weight, once(True, False)[1]), "the training is that with the user's hook"
    assert told.sites["body"].grad_rms == pytest.approx(plain.sites["body"].grad_rms, rel=1e-6)
    factor = 1 if kind == "full backward hook" else 2
    ratio = told.parameters["body.weight"].grad_norm / plain.parameters["body.weight"].grad_norm
    assert ratio == pytest.approx(factor, rel=1e-6)


@regime(
    "never in the way",
    "channels_last model and input",
    exact="all numbers of contiguous memory; the memory format of every tensor stays",
    proves=("R44", "R51", "C50"),
)
def test_R44_channels_last_stays_channels_last() -> None:
    def build(memory: torch.memory_format) -> Callable[[], nn.Module]:
        return lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 1)
        ).to(memory_format=memory)

    formats: list[bool] = []

    def loss(out: Tensor) -> Tensor:
        formats.append(out.is_contiguous(memory_format=torch.channels_last))
        return out.square().mean()

    x = data(4, 2, 6, 6)
    there = run(build(torch.channels_last), on(x.to(memory_format=torch.channels_last), loss=loss), steps=2)
    assert all(formats)
    twin = run(build(torch.contiguous_format), on(x), steps=2)
    for name, site in twin.snapshots[0].sites.items():
        told = there.snapshots[0].sites[name]
        assert (told.n, told.samples, told.units) == (site.n, site.samples, site.units)
        for field in ("mean", "std", "mean_energy", "grad_rms"):
            truth = getattr(site, field)
            assert getattr(told, field) == (truth and pytest.approx(truth, rel=1e-4, abs=1e-7)), f"{name}.{field}"


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20, cycle_momentum=False),
    "warm-up, then cosine": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.LinearLR(o, total_iters=3), torch.optim.lr_scheduler.CosineAnnealingLR(o, 10)],
        milestones=[3],
    ),
    "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@regime(
    "accumulation, clipping and optimizers",
    "learning-rate schedulers, made before or after the monitor",
    exact="the update ratio follows the rate; no warning about the order of steps",
    proves=("R51",),
)
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("before", [True, False])
def test_R51_schedulers_notice_nothing(kind: str, before: bool) -> None:
    def rates(observed: bool) -> tuple[list[float], list[float]]:
        torch.manual_seed(0)
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = SCHEDULES[kind](optimizer) if before else None
        options = {"log_every_n_steps": 1, "max_overhead": None}
        monitor = Monitor(model, optimizer, **options) if observed else None
        schedule = schedule or SCHEDULES[kind](optimizer)
        told, ratios = [], []
        for _ in range(8):
            told.append(optimizer.param_groups[0]["lr"])
            on(data(9, 4))(model, optimizer)
            if monitor is not None:
                parameter = last(monitor).parameters["0.weight"]
                assert parameter.update_ratio is not None and parameter.grad_norm and parameter.weight_norm
                ratios.append(parameter.update_ratio * parameter.weight_norm / parameter.grad_norm)
            schedule.step(*((1.0,) if kind == "plateau" else ()))
        if monitor is not None:
            monitor.close()
        return told, ratios

    bare, (seen, ratios) = rates(False)[0], rates(True)
    assert seen == bare and len(set(bare)) > 1
    assert ratios == pytest.approx(bare, rel=1e-2)


BREAKS = {
    "forward": ("actdiag.collect.reducing", "measure"),
    "gate": ("actdiag.collect.reducing", "measure_gate"),
    "gradient": ("actdiag.collect.reducing", "measure_gradient"),
    "histogram": ("actdiag.collect.reducing", "count_octaves"),
    "evidence": ("actdiag.collect.reducing", "count_open"),
}


@regime(
    "never in the way",
    "a statistic that raises in a forward or gradient hook; a writer or callback that raises; warnings as errors",
    exact="the training, bit for bit; every other number",
    not_observed="what failed, after one warning with its traceback",
    proves=("R50", "R51", "C36", "C48"),
)
@pytest.mark.parametrize("what", BREAKS)
def test_R50_a_statistic_that_raises_costs_its_number_and_one_warning(
    what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import importlib

    home, name = BREAKS[what]
    real = getattr(importlib.import_module(home), name)

    def broken(x: Any, *args: Any, **kwargs: Any) -> Any:
        size = x.x.shape[-1] if hasattr(x, "x") else x.shape[-1]
        if size == 7:
            raise RuntimeError("mine")
        return real(x, *args, **kwargs)

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 2))

    monkeypatch.setattr("actdiag.collect.collector.reducer", lambda arenas: Eager())
    monkeypatch.setattr(f"{home}.{name}", broken)
    monitor = run(build, on(data(9, 4)), steps=3)
    assert [s.step for s in monitor.snapshots] == [0, 1, 2]
    for name in ("0", "1", "4"):
        site = last(monitor).sites[name]
        assert site.n and site.grad_rms and site.histogram and site.grad_histogram
    said = [r for r in caplog.records if r.levelno >= logging.WARNING and "actdiag" in r.name]
    names = [r.getMessage().partition("observing ")[2].partition(" ")[0] for r in said]
    assert names and len(names) == len(set(names)) and set(names) <= {"2", "3"} and all(r.exc_info for r in said)


@regime(
    "interruptions",
    "KeyboardInterrupt in one of our hooks, forward or backward",
    exact="it passes at once; after close nothing is left",
    proves=("R60", "C36", "C37"),
)
@pytest.mark.parametrize("what", ["measure", "measure_gradient"])
def test_R60_ctrl_c_inside_a_hook_of_ours_passes(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monkeypatch.setattr("actdiag.collect.collector.reducer", lambda arenas: Eager())
    monkeypatch.setattr(f"actdiag.collect.reducing.{what}", pressed)
    with pytest.raises(KeyboardInterrupt), Monitor(model, optimizer, max_overhead=None):
        on(data(9, 4))(model, optimizer)
    assert_untouched(model)
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    on(data(9, 4))(model, optimizer)


@pytest.mark.slow
@regime(
    "never in the way",
    "2,000 observed steps",
    exact="memory stays flat: no tensor, no megabyte more from step 200 on",
    proves=("R25", "R27", "C33"),
)
def test_R25_memory_is_flat_over_two_thousand_steps() -> None:
    """In a process of its own: one that has run other tests gives and takes memory for their reasons."""
    code = "import json; from tests.test_never_in_the_way import long_run; print(json.dumps(long_run()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    sizes, counts = json.loads(done.stdout.splitlines()[-1])
    assert counts[1] <= counts[0]
    assert sizes[1] - sizes[0] < 8, f"{sizes} MB: keeping one activation a step would be 29 MB"


def long_run() -> tuple[list[float], list[int]]:
    """Megabytes in use and tensors alive, after 200 and after 2,000 steps."""

    def resident() -> float:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 1e6

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    writer = MemoryWriter()
    sizes, counts = [], []
    with Monitor(model, optimizer, writers=[writer], log_every_n_steps=20, watch_every_n_steps=1, max_overhead=None):
        for step in range(2001):
            on(data(64, 16))(model, optimizer)
            writer.snapshots.clear()
            if step in (200, 2000):
                gc.collect()
                sizes.append(resident())
                counts.append(sum(type(o) is Tensor for o in gc.get_objects()))
    return sizes, counts
