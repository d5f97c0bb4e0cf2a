"""Several processes that train together: what is told equals what one process with all the data tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from actdiag import Monitor, Snapshot
from tests.ranks import run_ranks
from tests.regimes import regime

OPTIONS: dict[str, Any] = {
    "log_every_n_steps": 3, "watch_every_n_steps": 1, "max_overhead": None, "window_samples": 96, "merge_timeout_s": 15,
}  # fmt: skip
STEPS = 25
_OWN = ("ranks", "world_size", "overhead_ms", "overhead_percent")


class Net(nn.Module):
    """Convolution, batch of tokens, a layer called twice, a branch, and units that are dead by construction.

    Of the 12 units of `first`: three closed for everybody, two only for what rank 0 sees (its inputs are negative).
    """

    def __init__(self, *, branch: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3, padding=1)
        self.first = nn.Linear(24, 12)
        self.relu = nn.ReLU()
        self.twice = nn.Linear(12, 12)
        self.tanh = nn.Tanh()
        self.norm = nn.LayerNorm(12)
        self.branch = nn.Linear(12, 12) if branch else nn.Identity()
        self.head = nn.Linear(12, 3)
        with torch.no_grad():
            self.first.bias[:3] = -1e4
            self.first.weight[3:5] = 0.02
            self.first.bias[3:5] = -0.5
            self.conv.weight.fill_(0.3)
            self.conv.bias.zero_()

    def forward(self, x: Tensor, *, take: int = 0) -> Tensor:
        """The first `take` samples go through the branch."""
        x = self.conv(x.unsqueeze(1)).flatten(1)
        x = self.relu(self.first(x))
        x = self.tanh(self.twice(x))
        x = self.tanh(self.twice(x))
        if take:
            x = torch.cat([x[:take] + self.branch(x[:take]), x[take:]])
        return torch.as_tensor(self.head(self.norm(x)))


def net(*, branch: bool = False) -> Net:
    torch.manual_seed(0)
    return Net(branch=branch).double()


def shard(rank: int, step: int, micro: int = 0) -> Tensor:
    """Inputs of one rank: ranks differ in mean, spread and number, and so do steps."""
    generator = torch.Generator().manual_seed(1000 * micro + 10 * step + rank)
    n = 3 + 4 * rank + (step + rank) % 3
    return torch.randn(n, 6, generator=generator).double() * (1 + rank) + (-9 if rank == 0 else 2 * rank)


def loss_of(out: Tensor) -> Tensor:
    return (out - 1).square().mean()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5)


def clip(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)


def update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Iterator[Callable[[], Tensor]],
    clip: Callable[[nn.Module], None] = clip,
) -> None:
    """One step: the losses of its micro-batches, clipped gradients."""
    optimizer.zero_grad()
    for loss in losses:
        loss().backward()  # type: ignore[no-untyped-call]
    clip(model)
    optimizer.step()


# The reference ------------------------------------------------------------------------------------------


def alone(world: int, *, micros: int = 1, branch: bool = False) -> list[Snapshot]:
    """One process with the data of all; its loss is what data-parallel ranks optimize, the mean of their losses."""
    model = net(branch=branch)
    optimizer = sgd(model)

    def losses(step: int) -> Iterator[Callable[[], Tensor]]:
        for micro in range(micros):
            parts = [shard(rank, step, micro) for rank in range(world)]

            def loss(parts: list[Tensor] = parts) -> Tensor:
                take = len(parts[0]) if branch and step % 2 == 0 else 0
                outs = model(torch.cat(parts), take=take).split([len(part) for part in parts])
                return torch.stack([loss_of(out) for out in outs]).mean()

            yield loss

    with Monitor(model, optimizer, **OPTIONS) as monitor:
        for step in range(STEPS):
            update(model, optimizer, losses(step))
    return monitor.snapshots


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{i}")
    else:
        yield path, value


def assert_same(found: Snapshot, truth: Snapshot, *, without: tuple[str, ...] = ()) -> None:
    """Every number within 1e-6, everything else exactly."""
    mine, theirs = dict(leaves(asdict(found))), dict(leaves(asdict(truth)))
    assert list(found.sites) == list(truth.sites)
    differing = {
        path: (mine.get(path), value)
        for path, value in theirs.items()
        if path.rpartition("/")[2] not in _OWN
        and not any(name in path for name in without)
        and not same(mine.get(path), value)
    }
    assert differing == {}


def same(mine: Any, truth: Any) -> bool:
    if isinstance(mine, float) and isinstance(truth, float):
        return math.isclose(mine, truth, rel_tol=1e-6, abs_tol=1e-12)
    return bool(mine == truth)


# Data-parallel training -----------------------------------------------------------------------------------


def data_parallel(
    rank: int,
    world: int,
    *,
    micros: int = 1,
    branch: bool = False,
    inner: bool = False,
    compiled: bool = False,
    **wrapped: Any,
) -> tuple[list[Snapshot], int, list[str]]:
    """Train under DDP; snapshots, collectives of ours, and findings."""
    model = net(branch=branch)
    ddp = DistributedDataParallel(model, find_unused_parameters=branch, **wrapped)
    optimizer = sgd(model)
    called: Any = torch.compile(ddp, backend="aot_eager") if compiled else ddp

    def losses(step: int) -> Iterator[Callable[[], Tensor]]:
        for micro in range(micros):
            x = shard(rank, step, micro)
            take = len(x) if branch and rank == 0 and step % 2 == 0 else 0
            if micro < micros - 1:
                with ddp.no_sync():
                    yield lambda x=x, take=take: loss_of(called(x, take=take))
            else:
                yield lambda x=x, take=take: loss_of(called(x, take=take))

    with Monitor(model if inner else called, optimizer, **OPTIONS) as monitor:
        for step in range(STEPS):
            update(model, optimizer, losses(step))
        collectives = monitor._session.ranks.collectives
    return monitor.snapshots, collectives, [str(finding) for finding in monitor.findings]


def check(outcomes: list[Any], truth: list[Snapshot], *, without: tuple[str, ...] = ()) -> None:
    """All ranks say the same, with one collective a recorded step, and it is the truth."""
    world = len(outcomes)
    assert [line for outcome in outcomes for line in outcome.log if "WARNING" in line or "no longer" in line] == []
    snapshots, collectives, findings = outcomes[0].value
    assert len(snapshots) == len(truth) == -(-STEPS // 3)
    assert collectives == len(snapshots)
    for found, expected in zip(snapshots, truth, strict=True):
        assert_same(found, expected, without=without)
        assert (found.ranks, found.world_size) == (world, world)
    assert all(outcome.value[2] == findings for outcome in outcomes)
    for outcome in outcomes[1:]:
        for mine, theirs in zip(outcome.value[0], snapshots, strict=True):
            assert_same(mine, theirs)


@regime(
    "processes",
    "DistributedDataParallel, ranks whose batches differ in mean, spread and size",
    exact="every number within 1e-6 of one process that sees all batches joined, unit states and dead units exactly; "
    "one collective a recorded step and none on others",
    approximate="gradient histograms are shifted to the nearest octave where the number of ranks is no power of two",
    proves=("R46", "R47", "C38"),
)
@pytest.mark.parametrize("world", [2, 4])
def test_R47_ranks_tell_what_one_process_with_all_the_data_tells(world: int) -> None:
    outcomes = run_ranks(data_parallel, world)
    truth = alone(world)
    check(outcomes, truth)
    last = outcomes[0].value[0][-1].sites["relu"]
    assert last.units_in("dead") == [0, 1, 2], "and not the two that only rank 0 never opens"


def rank_zero_alone(rank: int, world: int) -> list[int]:
    model = net()
    ddp, optimizer = DistributedDataParallel(model), sgd(model)
    with Monitor(ddp, optimizer, **{**OPTIONS, "distributed": "rank0"}) as monitor:
        for step in range(STEPS):
            update(model, optimizer, iter([lambda step=step: loss_of(ddp(shard(rank, step)))]))
        assert monitor._session.ranks.collectives == 0
    return monitor.snapshots[-1].sites["relu"].units_in("dead") if monitor.snapshots else []


@regime(
    "processes",
    '`distributed="rank0"`',
    exact="what rank 0 sees, said in `ranks` and `world_size`; no collective",
    not_observed="the other ranks; parameters that are divided among ranks",
    proves=("R47", "R48"),
)
def test_R47_rank_zero_alone_calls_units_dead_that_live_elsewhere() -> None:
    outcomes = run_ranks(rank_zero_alone, 2)
    assert set(outcomes[0].value) >= {0, 1, 2, 3, 4} and outcomes[1].value == []


@regime(
    "processes",
    "DDP: no_sync over micro-batches, gradient_as_bucket_view, static_graph, the inner model given, torch.compile",
    exact="as one process; gradients are read when the ranks have averaged them, before clipping",
    proves=("C38",),
)
@pytest.mark.parametrize(
    "options",
    [
        {"micros": 3},
        {"gradient_as_bucket_view": True, "inner": True},
        {"static_graph": True},
        {"bucket_cap_mb": 0.0001, "micros": 2},
        pytest.param({"compiled": True}, marks=pytest.mark.slow),
    ],
    ids=lambda options: "-".join(options) if isinstance(options, dict) else None,
)
def test_C38_however_gradients_are_synchronized_they_are_those_of_all_ranks(options: dict[str, Any]) -> None:
    check(run_ranks(data_parallel, 2, **options), alone(2, micros=options.get("micros", 1)))


@regime(
    "processes",
    "a branch that one rank takes (find_unused_parameters)",
    exact="as one process; the branch counts what ran through it; no deadlock",
    proves=("R48", "C38"),
)
def test_R48_a_branch_that_only_one_rank_takes_is_told_by_all() -> None:
    truth = alone(2, branch=True)
    outcomes = run_ranks(data_parallel, 2, timeout_s=60, branch=True)
    check(outcomes, truth)
    assert "branch" in outcomes[1].value[0][0].sites and "branch" not in outcomes[0].value[0][1].sites


def uneven(rank: int, world: int) -> tuple[list[Snapshot], int]:
    model = net()
    ddp, optimizer = DistributedDataParallel(model), torch.optim.SGD(model.parameters(), lr=0.02)
    with Monitor(ddp, optimizer, **OPTIONS) as monitor:
        for epoch in range(2):
            with Join([ddp, monitor]):
                for step in range(7 + 4 * rank):
                    x = shard(rank, step + 100 * epoch)
                    update(model, optimizer, iter([lambda x=x: loss_of(ddp(x))]))
        return monitor.snapshots, monitor._session.ranks.collectives


@regime(
    "processes",
    "uneven inputs: `Join([ddp_model, monitor])`",
    exact="the ranks that have inputs left, in the running numbers of all; `ranks` says how many",
    approximate="`ddp_model.join()` alone: merging ends with one warning, rank 0 tells what it sees",
    proves=("R48",),
)
def test_ranks_that_run_out_of_inputs_say_that_they_have_seen_nothing() -> None:
    for outcome in run_ranks(uneven, 2):
        snapshots, collectives = outcome.value
        assert outcome.log == []
        assert collectives == len(snapshots)
        assert [(s.step, s.ranks) for s in snapshots] == [
            (0, 2), (3, 2), (6, 2), (9, 1), (12, 2), (15, 2), (18, 1), (21, 1),
        ]  # fmt: skip
        assert snapshots[3].sites["head"].samples == len(shard(1, 9)), "rank 1 alone"
        assert snapshots[4].sites["head"].samples == sum(len(shard(rank, 101)) for rank in range(2))


class Nested(nn.Module):
    """Wrappers inside of a model, one of them around a part whose author has called a child `module`."""

    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.body = wrap(nn.Sequential(nn.Linear(6, 6), checkpoint_wrapper(nn.Sequential(nn.ReLU(), nn.Linear(6, 6)))))
        self.head = nn.ModuleDict({"module": wrap(nn.Linear(6, 3))})

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head["module"](self.body(x)))


def nested(rank: int, world: int, *, wrapped: bool) -> tuple[list[str], list[str]]:
    model = Nested(DistributedDataParallel if wrapped else lambda module: module).double()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **OPTIONS) as monitor:
        update(model, optimizer, iter([lambda: loss_of(model(shard(rank, 0)))]))
    return list(monitor.snapshots[0].sites), list(monitor.snapshots[0].parameters)


def test_C38_names_are_the_authors_with_wrappers_at_any_depth() -> None:
    (plain, _), (found, _) = (run_ranks(nested, 2, wrapped=wrapped) for wrapped in (False, True))
    assert found.value == plain.value
    assert found.value[0] == ["body.0:in", "body.0", "body.1.0", "body.1.1", "head.module"]
    assert "head.module.weight" in found.value[1]


# Pipelines ----------------------------------------------------------------------------------------------------


def stage(number: int) -> nn.Module:
    torch.manual_seed(number)
    return nn.Sequential(nn.Linear(6, 6), nn.ReLU()).double()


def pipeline(rank: int, world: int) -> tuple[list[Snapshot], int, list[str]]:
    """Each rank has one stage; activations go on to the next, gradients back."""
    own = stage(rank)
    optimizer = sgd(own)
    with Monitor({f"stage{rank}": own}, optimizer, **OPTIONS) as monitor:
        for step in range(STEPS):
            optimizer.zero_grad()
            x = shard(0, step) if rank == 0 else torch.empty_like(shard(0, step)).requires_grad_()
            if rank == 1:
                distributed.recv(x.data, 0)
                loss_of(own(x)).backward()  # type: ignore[no-untyped-call]
                distributed.send(x.grad, 0)
            else:
                out = own(x)
                distributed.send(out.detach(), 1)
                back = torch.empty_like(out)
                distributed.recv(back, 1)
                out.backward(back)  # type: ignore[no-untyped-call]
            optimizer.step()
        collectives = monitor._session.ranks.collectives
    return monitor.snapshots, collectives, [str(finding) for finding in monitor.findings]


def one_pipeline() -> list[Snapshot]:
    stages = [stage(number) for number in range(2)]
    optimizer = sgd(nn.ModuleList(stages))
    with Monitor({f"stage{n}": module for n, module in enumerate(stages)}, optimizer, **OPTIONS) as monitor:
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(stages[1](stages[0](shard(0, step)))).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return monitor.snapshots


@regime(
    "processes",
    "stages of a pipeline, each under a name of its own",
    exact="all stages in one snapshot, each with its own statistics and parameters; totals over all of them",
    approximate="gradients at sites are divided by the number of ranks, as if they were data-parallel",
    proves=("R48",),
)
def test_R48_stages_of_a_pipeline_are_told_together() -> None:
    outcomes, truth = run_ranks(pipeline, 2), one_pipeline()
    check(outcomes, truth, without=("/grad_rms", "/grad_histogram"))
    assert list(outcomes[0].value[0][0].sites) == [
        "stage0.0:in", "stage1.0:in", "stage0.0", "stage0.1", "stage1.0", "stage1.1",
    ]  # fmt: skip


# What ranks agree on ---------------------------------------------------------------------------------------


def budgeted(rank: int, world: int) -> list[tuple[int, int | None]]:
    """Every rank's clock asks for another interval; they take the longest."""
    model = net()
    ddp, optimizer = DistributedDataParallel(model), sgd(model)
    with Monitor(ddp, optimizer, **{**OPTIONS, "log_every_n_steps": 1, "max_overhead": 0.02}) as monitor:
        budget = monitor._session.schedule.budget
        budget.interval = lambda mode, configured: 3 + 2 * rank  # type: ignore[method-assign]
        for step in range(STEPS):
            update(model, optimizer, iter([lambda step=step: loss_of(ddp(shard(rank, step)))]))
    return [(snapshot.step, snapshot.ranks) for snapshot in monitor.snapshots]


def test_ranks_with_different_clocks_record_the_same_steps() -> None:
    first, second = run_ranks(budgeted, 2)
    assert first.log == second.log == []
    assert first.value == second.value == [(step, 2) for step in (0, 2, 5, 10, 15, 20)]


def resumed(rank: int, world: int, *, stop: int) -> list[Snapshot]:
    """Train in two parts; the second monitor goes on from what rank 0 has saved."""
    model = net()
    ddp, optimizer = DistributedDataParallel(model), sgd(model)
    saved: list[Any] = [None]
    for steps in (range(stop), range(stop, STEPS)):
        with Monitor(ddp, optimizer, **OPTIONS) as monitor:
            if saved[0] is not None:
                monitor.load_state_dict(saved[0])
            for step in steps:
                update(model, optimizer, iter([lambda step=step: loss_of(ddp(shard(rank, step)))]))
            saved = [monitor.state_dict() if rank == 0 else None]
        distributed.broadcast_object_list(saved, 0)
    return monitor.snapshots


def test_R59_all_ranks_go_on_from_what_one_has_saved() -> None:
    truth = alone(2)
    for outcome in run_ranks(resumed, 2, stop=13):
        assert not [line for line in outcome.log if "WARNING" in line]
        assert [snapshot.step for snapshot in outcome.value] == [15, 18, 21, 24]
        for found, expected in zip(outcome.value, truth[-4:], strict=True):
            assert_same(found, expected)


def samples_saved(rank: int, world: int) -> int:
    model = net()
    ddp, optimizer = DistributedDataParallel(model), sgd(model)
    with Monitor(ddp, optimizer, **OPTIONS) as monitor:
        for step in range(6):  # recorded at 0 and 3
            update(model, optimizer, iter([lambda step=step: loss_of(ddp(shard(rank, step)))]))
        sites = monitor.state_dict()["collector"]["sites"]
    return int(next(site for site in sites if site["key"] == "relu")["evidence"]["samples"])


def test_R59_what_one_rank_has_seen_since_the_last_recorded_step_is_not_saved_as_all_have() -> None:
    outcomes = run_ranks(samples_saved, 2)
    assert {outcome.value for outcome in outcomes} == {sum(len(shard(r, step)) for r in range(2) for step in range(4))}


def overflowing(rank: int, world: int) -> tuple[list[int], list[int | None]]:
    """At step 6 the loss of one rank overflows: DDP spreads it, the scaler skips the step on all."""
    ddp: Any = DistributedDataParallel(net()) if world > 1 else net()
    optimizer, scaler = sgd(ddp), torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Monitor(ddp, optimizer, grad_scaler=scaler, **OPTIONS) as monitor:
        for step in range(12):
            optimizer.zero_grad()
            loss = loss_of(ddp(shard(rank, step))) * (math.inf if step == 6 and rank == world - 1 else 1)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(optimizer)
            scaler.update()
    return [snapshot.step for snapshot in monitor.snapshots], [snapshot.skipped_steps for snapshot in monitor.snapshots]


def test_R12_a_step_that_the_scaler_skips_is_left_out_on_all_ranks() -> None:
    (one,), both = run_ranks(overflowing, 1), run_ranks(overflowing, 2)
    assert one.value[1] == [0, 0, 1, 1]
    for outcome in both:
        assert not [line for line in outcome.log if "WARNING" in line]
        assert outcome.value == one.value
