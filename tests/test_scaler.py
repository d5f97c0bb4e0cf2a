"""Under a loss scaler: unscaled numbers, skipped steps counted and left out, and nothing read that need not be."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor, Snapshot
from actdiag.collect.scaler import Law, Reading, count_skips
from tests.regimes import regime

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as unified
    import pytorch_lightning as classic

    from actdiag.lightning import ActivationMonitor

Scaler = torch.amp.GradScaler
EVERY: dict[str, Any] = {"log_every_n_steps": 1, "max_overhead": None}


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)


def batch(step: int) -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(step))


def adam(model: nn.Module, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01, **options)


def train(
    steps: int,
    *,
    overflow_at: Collection[int] = (),
    scaler: Any = None,
    given: bool = False,
    clip: float | None = None,
    fused: bool = False,
    unscale: bool = False,
    **options: Any,
) -> Monitor:
    """A loop with a scaler (None: without), whose loss is infinite at some iterations."""
    model = net()
    optimizer = adam(model, **({"fused": True} if fused else {}))
    scaler = Scaler("cpu", enabled=False) if scaler is None else scaler
    if given:
        options["grad_scaler"] = scaler
    with Monitor(model, optimizer, **{**EVERY, **options}) as monitor:
        for step in range(steps):
            optimizer.zero_grad()
            loss = model(batch(step)).square().mean()
            scaler.scale(loss * (float("inf") if step in overflow_at else 1.0)).backward()
            if clip is not None or unscale:
                scaler.unscale_(optimizer)
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
    return monitor


def assert_equal_numbers(scaled: Snapshot, plain: Snapshot) -> None:
    assert scaled.grad_norm_total == pytest.approx(plain.grad_norm_total, rel=1e-5)
    for name, site in plain.sites.items():
        assert scaled.sites[name].mean == pytest.approx(site.mean, rel=1e-5)
        assert scaled.sites[name].grad_rms == (site.grad_rms and pytest.approx(site.grad_rms, rel=1e-5))
        assert scaled.sites[name].grad_histogram == site.grad_histogram
    for name, parameter in plain.parameters.items():
        assert scaled.parameters[name].grad_norm == pytest.approx(parameter.grad_norm, rel=1e-5)
        assert scaled.parameters[name].update_ratio == pytest.approx(parameter.update_ratio, rel=1e-4)


@regime(
    "mixed precision",
    "GradScaler, found by itself or given, with and without unscale_ and clipping",
    exact="all numbers of the unscaled twin, the clip coefficient, the loss scale",
    proves=("R11", "R12", "C20"),
)
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("clip", [None, 0.01])
def test_R11_a_scaled_run_gives_the_numbers_of_its_unscaled_twin(given: bool, clip: float | None) -> None:
    scaled = train(4, scaler=Scaler("cpu", init_scale=65536.0), given=given, clip=clip)
    plain = train(4, clip=clip)
    assert len(scaled.snapshots) == len(plain.snapshots) == 4
    for ours, theirs in zip(scaled.snapshots, plain.snapshots, strict=True):
        assert_equal_numbers(ours, theirs)
        assert ours.clip_coefficient == pytest.approx(theirs.clip_coefficient, rel=1e-5)
        assert (ours.loss_scale, ours.skipped_steps) == (65536.0, 0)
        assert (theirs.loss_scale, theirs.skipped_steps) == (None, None), "no scaler is not a scaler that skipped none"


@regime(
    "mixed precision",
    "steps that the scaler skips",
    exact="counted in skipped_steps, their gradients and activations in no record; the update steps are numbered",
    approximate="skipped before the scaler is known (the very first step, scaler not given): that step is not recorded",
    proves=("R12", "C20"),
)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("overflow_at", [{0}, {0, 1, 2}, {3}, {4}, {3, 4}, {1, 5, 6, 7, 9}, set(range(0, 12, 2))])
def test_R12_skipped_steps_are_counted_and_in_no_record(overflow_at: set[int], given: bool, every: int) -> None:
    monitor = train(
        14, overflow_at=overflow_at, scaler=Scaler("cpu", init_scale=2.0**16), given=given, log_every_n_steps=every
    )
    good = [i for i in range(14) if i not in overflow_at]
    assert monitor.snapshots
    for snapshot in monitor.snapshots:
        iteration = good[snapshot.step]
        skipped = len([i for i in overflow_at if i < iteration])
        assert snapshot.skipped_steps == skipped
        assert snapshot.loss_scale == 2.0 ** (16 - skipped)
        assert snapshot.sites["0"].samples == 6, "one batch a step"
        assert all(site.nonfinite == 0 and not site.grad_nonfinite for site in snapshot.sites.values())
        assert snapshot.sites["0:in"].mean == pytest.approx(float(batch(iteration).mean()), rel=1e-5)
    expected = list(range(0, len(good), every))
    if 0 in overflow_at and not given:
        expected = sorted({1, *expected} - {0})
    assert [s.step for s in monitor.snapshots] == expected
    assert not [f for f in monitor.findings if f.rule == "non-finite"]


def test_R12_growth_of_the_scale_is_no_skip() -> None:
    monitor = train(20, overflow_at={7, 8}, scaler=Scaler("cpu", init_scale=4.0, growth_interval=3))
    assert [s.skipped_steps for s in monitor.snapshots] == [0] * 7 + [2] * 11
    assert monitor.snapshots[-1].loss_scale == 4.0 * 2**2 / 2**2 * 2**3


@pytest.mark.parametrize("seed", range(6))
def test_R12_skips_among_many_growths_are_counted_exactly(seed: int) -> None:
    bad = torch.rand(40, generator=torch.Generator().manual_seed(seed)) < 0.4
    overflow_at = {i for i in range(1, 40) if bad[i]}
    scaler = Scaler("cpu", init_scale=2.0**20, growth_interval=1 + seed % 2)
    monitor = train(40, overflow_at=overflow_at, scaler=scaler, given=True, log_every_n_steps=4)
    good = [i for i in range(40) if i not in overflow_at]
    assert len(monitor.snapshots) >= 5
    for snapshot in monitor.snapshots:
        assert snapshot.skipped_steps == len([i for i in overflow_at if i < good[snapshot.step]])


@regime(
    "mixed precision",
    "optimizers that unscale inside their step (Adam(fused=True))",
    exact="all numbers of the unscaled twin; skipped steps",
    proves=("R11", "C20"),
)
@pytest.mark.parametrize("unscale", [False, True])
def test_R11_a_fused_optimizer_gives_the_numbers_of_its_unscaled_twin(unscale: bool) -> None:
    scaled = train(3, scaler=Scaler("cpu", init_scale=65536.0), fused=True, unscale=unscale)
    plain = train(3, fused=True)
    for ours, theirs in zip(scaled.snapshots, plain.snapshots, strict=True):
        assert_equal_numbers(ours, theirs)
        assert ours.clip_coefficient in (None, 1.0)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("overflow_at", [{0}, {3}, {4}, {3, 4, 6}])
def test_R12_a_step_that_a_fused_optimizer_skips_is_in_no_record(overflow_at: set[int], every: int) -> None:
    monitor = train(
        12, overflow_at=overflow_at, scaler=Scaler("cpu", init_scale=1024.0), fused=True, log_every_n_steps=every
    )
    steps = [s.step for s in monitor.snapshots]
    assert not set(steps) & overflow_at and steps[-1] >= 9, "its step() is called all the same, so it is a step"
    for snapshot in monitor.snapshots:
        assert snapshot.skipped_steps == len([i for i in overflow_at if i < snapshot.step])
        assert all(not site.grad_nonfinite for site in snapshot.sites.values())


class Fake(torch.optim.Optimizer):
    """Unscales inside, and leaves the scaled gradients where they are."""

    _step_supports_amp_scaling = True

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group in self.param_groups if found is None or not found.item() else ():
            for p in group["params"]:
                p.sub_(group["lr"] * (p.grad if scale is None else p.grad / scale))


def test_R11_a_fake_that_leaves_its_gradients_scaled_gives_unscaled_numbers() -> None:
    def run(scaler: Any) -> Monitor:
        model = net()
        optimizer = Fake(model.parameters())
        with Monitor(model, optimizer, **EVERY) as monitor:
            for step in range(3):
                optimizer.zero_grad()
                scaler.scale(model(batch(step)).square().mean()).backward()
                scaler.step(optimizer)
                scaler.update()
        return monitor

    scaled, plain = run(Scaler("cpu", init_scale=4096.0)), run(Scaler("cpu", enabled=False))
    for ours, theirs in zip(scaled.snapshots, plain.snapshots, strict=True):
        assert_equal_numbers(ours, theirs)
        assert ours.clip_coefficient in (None, 1.0)


def test_R12_two_optimizers_that_share_a_scaler_with_an_update_each_skip_nothing() -> None:
    models = {"g": net(), "d": net()}
    g, d = (adam(models[name]) for name in "gd")
    scaler = Scaler("cpu", init_scale=1024.0)
    with Monitor(models, [d, g], **EVERY) as monitor:
        for step in range(6):
            for name, optimizer in (("d", d), ("g", g)):
                optimizer.zero_grad()
                factor = float("inf") if (step, name) == (3, "d") else 1.0
                scaler.scale(models[name](batch(step)).square().mean() * factor).backward()
                scaler.step(optimizer)
                scaler.update()
    assert [s.skipped_steps for s in monitor.snapshots] == [0, 0, 0, 1, 1]
    assert all(s.sites["d.0"].samples == 6 for s in monitor.snapshots)
    assert all(s.sites["g.0"].samples == 6 for s in monitor.snapshots[1:]), "a round of the other is no skip"
    assert all(not site.grad_nonfinite for s in monitor.snapshots for site in s.sites.values())


def test_R12_a_monitor_of_one_of_two_models_takes_the_others_updates_for_no_skips() -> None:
    ours, others = net(), net()
    optimizer, other = adam(ours), adam(others)
    scaler = Scaler("cpu", init_scale=1024.0)
    with Monitor(ours, optimizer, **{**EVERY, "log_every_n_steps": 4}) as monitor:
        for step in range(13):
            for model, one in ((ours, optimizer), (others, other)):
                one.zero_grad()
                scaler.scale(model(batch(step)).square().mean()).backward()
                scaler.step(one)
                scaler.update()
    assert [s.skipped_steps for s in monitor.snapshots] == [0, 0, 0, 0]


def test_a_run_that_never_has_a_finite_gradient_is_not_silent() -> None:
    monitor = train(20, overflow_at=range(20), scaler=Scaler("cpu", init_scale=2.0**16), given=True)
    assert [s.step for s in monitor.snapshots] == [0]
    assert [f.rule for f in monitor.findings] == ["non-finite"]
    assert monitor.latest is not None and monitor.latest.skipped_steps == 16


def test_R12_the_skips_before_a_resume_count_on() -> None:
    scaler = Scaler("cpu", init_scale=1024.0)
    state = train(6, overflow_at={1, 2}, scaler=scaler).state_dict()
    again = Scaler("cpu")
    again.load_state_dict(scaler.state_dict())
    model = net()
    optimizer = adam(model)
    with Monitor(model, optimizer, **EVERY) as monitor:
        monitor.load_state_dict(state)
        for step in range(5):
            optimizer.zero_grad()
            again.scale(model(batch(step)).square().mean() * (float("inf") if step == 2 else 1.0)).backward()
            again.step(optimizer)
            again.update()
    assert [(s.step, s.skipped_steps, s.loss_scale) for s in monitor.snapshots] == [
        (4, 2, 256.0), (5, 2, 256.0), (6, 3, 128.0), (7, 3, 128.0),
    ]  # fmt: skip


class Counting(Scaler):
    """Counts how often the scale is read to the host."""

    reads = 0

    def get_scale(self) -> float:
        self.reads += 1
        return float(super().get_scale())


@pytest.mark.parametrize("given", [False, True])
def test_the_scale_is_never_read_back_on_its_own(given: bool) -> None:
    scaler = Counting("cpu", init_scale=1024.0)
    monitor = train(8, overflow_at={3}, scaler=scaler, given=given)
    assert monitor.snapshots[-1].skipped_steps == 1 and scaler.reads == 0, "it travels with the other numbers"


def test_a_scaler_of_another_make_is_asked_for_its_scale() -> None:
    class Plain:
        scale = 8.0

        def get_scale(self) -> float:
            return self.scale

        def is_enabled(self) -> bool:
            return True

    model, scaler = net(), Plain()
    optimizer = adam(model)
    with Monitor(model, optimizer, grad_scaler=scaler, **EVERY) as monitor:
        (model(batch(0)).square().mean() * scaler.scale).backward()
        for p in model.parameters():
            p.grad /= scaler.scale  # type: ignore[operator]
        optimizer.step()
    snapshot = monitor.latest
    assert snapshot is not None and (snapshot.loss_scale, snapshot.skipped_steps) == (8.0, 0)
    assert snapshot.clip_coefficient == 1.0


def simulate(law: Law, start: Reading, bad: Sequence[bool]) -> Reading:
    scale, tracker = start.scale, start.tracker
    for is_bad in bad:
        if is_bad:
            scale, tracker = scale * law.backoff, 0
        elif tracker + 1 == law.interval:
            scale, tracker = scale * law.growth, 0
        else:
            tracker += 1
    return Reading(start.rounds + len(bad), scale, tracker)


@pytest.mark.parametrize("interval", [1, 2, 3, 20])
@pytest.mark.parametrize("tracker", [0, 1, 18])
def test_R12_skips_are_told_from_scale_and_tracker_and_exactly_where_our_steps_are_known(
    interval: int, tracker: int
) -> None:
    law, start = Law(2.0, 0.5, interval), Reading(5, 1024.0, min(tracker, interval - 1))
    for bad in itertools.product((False, True), repeat=7):
        now = simulate(law, start, bad)
        assert count_skips(start, now, law, sum(bad)) == sum(bad)
        if interval > 7 + start.tracker:  # no growth in between
            assert count_skips(start, now, law, 0) == sum(bad), "even where an optimizer steps in skipped rounds"


# Lightning ----------------------------------------------------------------------------------------------


@pytest.fixture(params=[classic, unified], ids=["pytorch_lightning", "lightning.pytorch"])
def L(request: pytest.FixtureRequest) -> Any:
    return request.param


def fit(
    L: Any, path: Path, precision: Any, *, overflow_at: Collection[int] = (), optimizer: Any = adam, **options: Any
) -> Any:
    class Module(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, given: Any, index: int) -> Tensor:
            loss = self.net(given[0]).float().square().mean()
            return loss * (float("inf") if index in overflow_at else 1.0)

        def configure_optimizers(self) -> Any:
            return optimizer(self)

    x = torch.cat([batch(step) for step in range(12)])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=6)
    callback = ActivationMonitor(**{**EVERY, **options.pop("monitor", {})})
    trainer = L.Trainer(
        max_epochs=options.pop("epochs", 1), accelerator="cpu", callbacks=[callback], default_root_dir=path,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, logger=False,
        plugins=precision, **options,
    )  # fmt: skip
    trainer.fit(Module(), loader)
    return callback


def cpu_scaler(L: Any, scale: float = 1024.0, **options: Any) -> Any:
    return L.plugins.MixedPrecision("16-mixed", "cpu", Scaler("cpu", init_scale=scale, **options))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("clip", [None, 0.01])
def test_R11_lightning_16_mixed_gives_the_numbers_of_its_unscaled_twin(L: Any, tmp_path: Path, clip: Any) -> None:
    scaled = fit(L, tmp_path, cpu_scaler(L), gradient_clip_val=clip)
    plain = fit(L, tmp_path, L.plugins.MixedPrecision("bf16-mixed", "cpu"), gradient_clip_val=clip)
    assert [s.step for s in scaled.snapshots] == list(range(12))
    ours, theirs = scaled.snapshots[0], plain.snapshots[0]
    assert (ours.loss_scale, ours.skipped_steps) == (1024.0, 0)
    assert (theirs.loss_scale, theirs.skipped_steps) == (None, None)
    assert ours.grad_norm_total == pytest.approx(theirs.grad_norm_total, rel=0.05), "fp16 and bf16 differ a little"
    assert ours.clip_coefficient == pytest.approx(theirs.clip_coefficient, rel=0.05)
    for name, site in theirs.sites.items():
        assert ours.sites[name].grad_rms == (site.grad_rms and pytest.approx(site.grad_rms, rel=0.05))


@regime(
    "Lightning",
    "16-mixed with steps that the scaler skips although global_step advances",
    exact="left out of the record and counted; the next step is recorded instead",
    proves=("R12", "C20"),
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("overflow_at", [{0}, {4}, {5}, {4, 5}, {1, 2, 8}])
@pytest.mark.parametrize("fused", [False, True])
def test_R12_an_overflow_in_lightning_is_left_out_and_counted(
    L: Any, tmp_path: Path, overflow_at: set[int], every: int, fused: bool
) -> None:
    callback = fit(
        L, tmp_path, cpu_scaler(L), overflow_at=overflow_at, monitor={"log_every_n_steps": every},
        optimizer=lambda m: adam(m, fused=True) if fused else adam(m),
    )  # fmt: skip
    steps = [s.step for s in callback.snapshots]
    assert not set(steps) & overflow_at
    assert steps[0] == next(i for i in range(12) if i not in overflow_at) and steps[-1] >= 8
    for snapshot in callback.snapshots:
        assert snapshot.skipped_steps == len([i for i in overflow_at if i < snapshot.step])
        assert all(not site.grad_nonfinite for site in snapshot.sites.values())
    assert callback.findings == [f for f in callback.findings if f.rule != "non-finite"]


@pytest.mark.filterwarnings("ignore")
def test_R11_a_fused_optimizer_in_lightning_gives_unscaled_numbers(L: Any, tmp_path: Path) -> None:
    scaled = fit(L, tmp_path, cpu_scaler(L, 65536.0), optimizer=lambda m: adam(m, fused=True))
    plain = fit(L, tmp_path, cpu_scaler(L, 65536.0))
    for ours, theirs in zip(scaled.snapshots[:1], plain.snapshots[:1], strict=True):
        assert_equal_numbers(ours, theirs)
        assert ours.clip_coefficient is None
    fake = fit(L, tmp_path, cpu_scaler(L, 65536.0), optimizer=lambda m: Fake(m.parameters()))
    assert fake.snapshots[0].grad_norm_total == pytest.approx(plain.snapshots[0].grad_norm_total, rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_R12_a_lightning_run_that_never_has_a_finite_gradient_is_not_silent(L: Any, tmp_path: Path) -> None:
    callback = fit(L, tmp_path, cpu_scaler(L), overflow_at=range(12), epochs=2)
    assert [s.step for s in callback.snapshots] == list(range(15, 24)), "fewer skips may still be the scaler's search"
    assert [(f.rule, f.severity) for f in callback.findings][-1] == ("non-finite", "error")
