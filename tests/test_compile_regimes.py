"""torch.compile together with what else trainings do: checkpoints, precision, accumulation, copies, Lightning."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from actdiag import Monitor
from actdiag.lightning import ActivationMonitor
from tests.compiling import (
    COMPILER_WARNS,
    assert_same_numbers,
    assert_same_training,
    compiled,
    eager,
    inner,
    outer,
    train,
)
from tests.conftest import assert_untouched
from tests.regimes import regime

pytestmark = COMPILER_WARNS


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc, self.act, self.drop = nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.act(self.fc(self.norm(x))))


class Checkpointed(nn.Module):
    """Two blocks, each behind a checkpoint."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.blocks, self.head, self.reentrant = nn.ModuleList([Block(), Block()]), nn.Linear(8, 3), reentrant

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x)


def leaves(step: int) -> list[Tensor]:
    """Two micro-batches whose gradient is asked for, as reentrant checkpoints need it."""
    return [torch.randn(5, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)]


def blocks_in_place(model: nn.Module) -> nn.Module:
    for block in model.blocks:
        block.compile(backend="aot_eager")
    return model


@regime(
    "checkpointing",
    "inside a compiled model, and compiled blocks inside a checkpoint; both modes, with accumulation",
    exact="all numbers: each forward counted once, no CheckpointError",
    approximate="compiled blocks in an eager non-reentrant checkpoint: two added graphs, not one",
    proves=("R70", "C23"),
)
@pytest.mark.parametrize(
    ("wrap", "reentrant"),
    [
        pytest.param(compiled(), False, id="whole"),
        pytest.param(compiled(), True, id="whole, reentrant", marks=pytest.mark.slow),
        pytest.param(blocks_in_place, False, id="blocks", marks=pytest.mark.slow),
        pytest.param(blocks_in_place, True, id="blocks, reentrant", marks=pytest.mark.slow),
    ],
)
def test_R70_a_compiled_checkpoint_is_counted_once(wrap: Any, reentrant: bool) -> None:
    def build() -> nn.Module:
        return Checkpointed(reentrant)

    truth, plain = train(build, eager, observe=inner, batches=leaves), train(build, wrap, batches=leaves)
    watched = train(build, wrap, observe=inner, batches=leaves)
    assert_same_numbers(watched.snapshot, truth.snapshot)
    assert_same_training(watched, plain)
    assert watched.breaks == plain.breaks == 0


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Linear(16, 3))


@regime(
    "torch.compile",
    "batches of changing size",
    exact="all numbers; dynamic shapes as without a monitor",
    proves=("R7", "R77"),
)
def test_R07_R77_batches_of_changing_size_give_eager_numbers() -> None:
    def ragged(step: int) -> list[Tensor]:
        return [torch.randn(4 + step % 3, 8), torch.randn(9, 8)]

    truth, plain = train(small, eager, observe=inner, batches=ragged), train(small, compiled(), batches=ragged)
    watched = train(small, compiled(), observe=outer, batches=ragged)
    assert_same_numbers(watched.snapshot, truth.snapshot)
    assert_same_training(watched, plain)
    assert watched.graphs <= 2 * plain.graphs


def under_autocast(wrap: Callable[[nn.Module], Any]) -> Callable[[nn.Module], Any]:
    def wrapped(model: nn.Module) -> Any:
        call = wrap(model)

        def cast(x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return call(x).float()

        return cast

    return wrapped


@regime(
    "mixed precision",
    "autocast around a compiled model",
    exact="all numbers, of the half-precision tensors as they are in memory",
    proves=("R8", "R35"),
)
def test_R08_R35_autocast_around_a_compiled_model() -> None:
    truth = train(small, under_autocast(eager), observe=inner)
    plain = train(small, under_autocast(compiled()))
    watched = train(small, under_autocast(compiled()), observe=inner)
    assert_same_numbers(watched.snapshot, truth.snapshot)
    assert_same_training(watched, plain)


@regime(
    "mixed precision",
    "bf16 or fp16 autocast under the default backend (inductor)",
    exact="with `torch._inductor.config.emulate_precision_casts = True`: everything, bit-identical training",
    approximate="without it fused intermediates stay in float32 and those that are observed are rounded: on recorded "
    "steps the training differs by the rounding of half precision",
    proves=("R51",),
)
@pytest.mark.slow
@pytest.mark.parametrize("emulated", [True, False])
def test_R51_half_precision_under_inductor_differs_by_its_rounding(emulated: bool) -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
        )

    with torch._inductor.config.patch(emulate_precision_casts=emulated):
        plain = train(build, under_autocast(compiled("inductor")))
        watched = train(build, under_autocast(compiled("inductor")), observe=inner)
    if emulated:
        assert_same_training(watched, plain)
    for name, weight in plain.weights.items():
        assert torch.allclose(weight, watched.weights[name], atol=2e-3), name


def test_a_normalization_kept_in_evaluation_mode_is_observed() -> None:
    def frozen() -> nn.Module:
        model = small()
        model[1].eval()
        return model

    truth, watched = train(frozen, eager, observe=inner), train(frozen, compiled(), observe=outer)
    assert "1" in watched.snapshot.sites
    assert_same_numbers(watched.snapshot, truth.snapshot)


@regime(
    "torch.compile",
    "a teacher's pass without gradients in the same step",
    exact="only the passes with gradients are counted",
    proves=("R68",),
)
def test_R68_a_compiled_pass_without_gradients_is_not_counted() -> None:
    model = small()
    call = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(call, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(2):
            with torch.no_grad():
                call(torch.randn(50, 8))
            call(torch.randn(5, 8)).sum().backward()
            optimizer.step()
    assert monitor.latest is not None
    assert {site.samples for site in monitor.latest.sites.values()} == {5}


@regime(
    "accumulation, clipping and optimizers",
    "LBFGS with a compiled model",
    exact="the first evaluation of each step, as in eager training",
    proves=("R70",),
)
def test_R70_lbfgs_with_a_compiled_model_counts_the_first_evaluation() -> None:
    def run(wrap: Any) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        call = wrap(model)
        optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
        x = torch.randn(6, 8)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = call(x).square().mean()
            loss.backward()
            return loss

        with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
            for _ in range(3):
                optimizer.step(closure)
        return monitor.latest

    assert_same_numbers(run(compiled()), run(eager))


@regime(
    "copies and checkpoints",
    "copies and pickles of a compiled model while it is observed",
    exact="copies record nothing and run",
    proves=("R21", "R22", "C34"),
)
def test_R21_R22_copies_of_an_observed_compiled_model_record_nothing() -> None:
    model = small()
    keys = set(model.state_dict())
    call = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(call, optimizer, log_every_n_steps=1, max_overhead=None)
    call(torch.randn(5, 8)).sum().backward()
    twin, loaded = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    for other in (twin, loaded, torch.compile(twin, backend="aot_eager")):
        other(torch.randn(70, 8)).sum().backward()
    optimizer.step()
    monitor.close()
    assert monitor.latest is not None
    assert {site.samples for site in monitor.latest.sites.values()} == {5}
    assert set(model.state_dict()) == keys
    assert_untouched(model)


class Lit(pytorch_lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        data = torch.utils.data.TensorDataset(torch.arange(64.0).reshape(8, 8) / 64)
        return torch.utils.data.DataLoader(data, batch_size=2)

    val_dataloader = train_dataloader


@regime(
    "Lightning",
    "a compiled LightningModule, or a compiled net inside one",
    exact="all numbers; sanity check and validation not counted",
    proves=("R7", "R8", "C30"),
)
@pytest.mark.parametrize("how", ["module", "net", "net in place"])
def test_R08_lightning_with_a_compiled_module_gives_eager_numbers(how: str, tmp_path: Path) -> None:
    def fit(compile_it: bool) -> Any:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model: Any = Lit()
        if compile_it and how == "module":
            model = torch.compile(model, backend="aot_eager")
        elif compile_it and how == "net":
            model.net = torch.compile(model.net, backend="aot_eager")
        elif compile_it:
            model.net.compile(backend="aot_eager")
        callback = ActivationMonitor(log_every_n_steps=3, watch_every_n_steps=3, max_overhead=None)
        trainer = pytorch_lightning.Trainer(
            max_epochs=2, logger=False, callbacks=[callback], enable_checkpointing=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(model)
        return callback.latest

    assert_same_numbers(fit(True), fit(False))
