"""Gradient checkpointing and other keepers of saved tensors: every forward is counted once, every gradient told."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    checkpoint_sequential,
    create_selective_checkpoint_contexts,
)

from tests.observing import last, on, run
from tests.regimes import regime

MODES = [True, False]


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Deep(nn.Module):
    """Three blocks, each behind `through`; a functional activation in each, in-place ones if asked for."""

    def __init__(self, through: Any, *, inplace: bool = False, drop: float = 0.0, used: int = 3) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=inplace), nn.Dropout(drop), nn.Linear(6, 6), Functional())
            for _ in range(3)
        )
        self.head, self.through, self.used = nn.Linear(6, 2), through, used

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            out = self.through(block, x)
            x = out if index < self.used else x
        return self.head(x)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.scale(x))


def plainly(block: nn.Module, x: Tensor) -> Tensor:
    return block(x)


def checkpointed(reentrant: bool) -> Any:
    return functools.partial(checkpoint, use_reentrant=reentrant)


@regime(
    "checkpointing",
    "`checkpoint(block, x)`, reentrant or not, with Dropout, in-place and functional activations inside",
    exact="all numbers of the network without checkpoints, on each of five recorded steps",
    proves=("R51", "R70", "C23"),
)
@pytest.mark.parametrize("reentrant", MODES)
@pytest.mark.parametrize("inplace", [False, True])
def test_R70_checkpointed_blocks_have_the_numbers_of_plain_ones(reentrant: bool, inplace: bool) -> None:
    def build(through: Any) -> nn.Module:
        return Deep(through, inplace=inplace, drop=0.3)

    there, twin = (
        run(lambda how=how: build(how), on(data(8, 4)), steps=5) for how in (checkpointed(reentrant), plainly)
    )
    for a, b in zip(there.snapshots, twin.snapshots, strict=True):
        assert a.sites == b.sites and a.parameters == b.parameters


@regime(
    "checkpointing",
    "recorded every second step, watched in between; accumulation over two micro-batches",
    exact="counted once a micro-batch in both modes",
    proves=("R70", "C23"),
)
@pytest.mark.parametrize("reentrant", MODES)
def test_R70_a_recorder_of_every_second_step_counts_each_forward_once(reentrant: bool) -> None:
    options = {"log_every_n_steps": 2, "watch_every_n_steps": 1, "window_samples": 64}
    parts = on(data(8, 4), data(3, 4, seed=2))
    there, twin = (
        run(lambda how=how: Deep(how), parts, steps=21, **options) for how in (checkpointed(reentrant), plainly)
    )
    assert [s.step for s in there.snapshots] == list(range(0, 21, 2))
    for name, site in last(twin).sites.items():
        told = last(there).sites[name]
        assert (told.n, told.samples, told.evidence_samples) == (site.n, site.samples, site.evidence_samples), name
        assert told.unit_states == site.unit_states, name


@regime(
    "checkpointing",
    "a checkpointed region whose output is not used",
    exact="not reentrant: its forward, counted once",
    not_observed="its gradients; reentrant: its forward too (it runs without gradients and is never repeated)",
    proves=("R70", "C12", "C23"),
)
@pytest.mark.parametrize("reentrant", MODES)
def test_R70_a_region_without_a_backward_has_no_gradients_and_no_zeros(reentrant: bool) -> None:
    sites = last(run(lambda: Deep(checkpointed(reentrant), used=2), on(data(8, 4)))).sites
    unused = [site for name, site in sites.items() if name.startswith("blocks.2")]
    assert len(unused) == (0 if reentrant else 5)
    assert all(site.samples == 8 and site.grad_rms is None for site in unused)
    assert all(site.grad_rms for name, site in sites.items() if name.startswith(("blocks.0", "blocks.1")))


@regime(
    "checkpointing",
    "`checkpoint_sequential`, nested checkpoints, selective activation checkpointing",
    exact="all numbers of the network without checkpoints",
    proves=("R70", "C23"),
)
@pytest.mark.parametrize("kind", ["sequential", "nested", "selective"])
def test_R70_other_forms_of_checkpointing(kind: str) -> None:
    def save_products(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        saved = op is torch.ops.aten.addmm.default
        return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

    throughs = {
        "sequential": lambda block, x: checkpoint_sequential(block, 2, x, use_reentrant=False),
        "nested": lambda block, x: checkpoint(
            lambda y: checkpoint(block, y, use_reentrant=False), x, use_reentrant=False
        ),
        "selective": lambda block, x: checkpoint(
            block, x, use_reentrant=False,
            context_fn=functools.partial(create_selective_checkpoint_contexts, save_products),
        ),
    }  # fmt: skip
    there, twin = (last(run(lambda how=how: Deep(how), on(data(8, 4)))) for how in (throughs[kind], plainly))
    assert there.sites == twin.sites and there.parameters == twin.parameters


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@regime(
    "never in the way",
    "`save_on_cpu`, `detect_anomaly`, `use_deterministic_algorithms`",
    exact="all numbers as without them",
    proves=("R51", "C47"),
)
@pytest.mark.parametrize("kind", ["save_on_cpu", "detect_anomaly", "both"])
def test_R51_keepers_of_saved_tensors_and_anomaly_detection_change_nothing(kind: str, deterministic: None) -> None:
    def step(model: Any, optimizer: Any) -> None:
        with torch.autograd.graph.save_on_cpu() if kind != "detect_anomaly" else torch.enable_grad():
            loss = model(data(8, 4)).square().mean()
        with torch.autograd.set_detect_anomaly(kind != "save_on_cpu"):
            loss.backward()
        optimizer.step()

    def build() -> nn.Module:
        return Deep(plainly, inplace=True)

    assert last(run(build, step)).sites == last(run(build, on(data(8, 4)))).sites


def test_R51_anomaly_detection_still_finds_the_users_own_nan() -> None:
    def step(model: Any, optimizer: Any) -> None:
        with pytest.warns(UserWarning), torch.autograd.detect_anomaly():
            loss = model(torch.zeros(3, 4)).sub(model(torch.zeros(3, 4))).abs().sqrt().mul(0).sum()
            with pytest.raises(RuntimeError, match="returned nan values"):
                loss.backward()
        optimizer.step()

    told = last(run(lambda: nn.Sequential(nn.Linear(4, 2)), step))
    assert told.sites["0"].n == 12 and told.sites["0"].grad_rms is None
