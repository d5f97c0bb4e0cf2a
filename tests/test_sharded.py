"""Parameters and layers that are divided among ranks: numbers of the whole, each part counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module

from actdiag import Monitor, Snapshot
from tests.ranks import run_ranks
from tests.regimes import regime
from tests.test_ranks import OPTIONS, STEPS, alone, assert_same, check, clip, loss_of, net, sgd, shard, update

Answer = tuple[list[Snapshot], int, list[str]]


def clip_divided(model: nn.Module) -> None:
    """torch's own clipping takes no parameters of different meshes."""
    grads: list[Any] = [p.grad for p in model.parameters()]
    whole = [grad.full_tensor() if hasattr(grad, "full_tensor") else grad for grad in grads]
    norm = torch.stack([grad.square().sum() for grad in whole]).sum().sqrt()
    for grad in grads:
        grad.mul_((0.5 / (norm + 1e-6)).clamp(max=1))


def train(
    monitored: nn.Module,
    data: Callable[[int], list[Tensor]],
    *,
    sync: Any = None,
    clip: Callable[[nn.Module], None] = clip,
) -> Answer:
    """Train with a monitor: one micro-batch for each input of a step; `sync` is told which one is the last."""
    optimizer = sgd(monitored)

    def losses(step: int) -> Iterator[Callable[[], Tensor]]:
        inputs = data(step)
        for i, x in enumerate(inputs):
            if sync is not None:
                sync(i == len(inputs) - 1)
            yield lambda x=x: loss_of(monitored(x))

    with Monitor(monitored, optimizer, **OPTIONS) as monitor:
        for step in range(STEPS):
            update(monitored, optimizer, losses(step), clip)
        collectives = monitor._session.ranks.collectives
    return monitor.snapshots, collectives, [str(finding) for finding in monitor.findings]


# fully_shard ----------------------------------------------------------------------------------------------


def sharded(rank: int, world: int, *, micros: int = 1, mesh: tuple[int, ...] = (), after: bool = False) -> Answer:
    model = net()
    grid = init_device_mesh("cpu", mesh, mesh_dim_names=("copies", "shards")) if mesh else None
    for part in (model.first, model.twice):
        fully_shard(part, mesh=grid)
    fully_shard(model, mesh=grid)
    assert type(model.first).__name__ == "FSDPLinear"
    sync = model.set_requires_gradient_sync if micros > 1 else None  # type: ignore[attr-defined]
    return train(model, lambda step: [shard(rank, step, micro) for micro in range(micros)], sync=sync)


@regime(
    "processes",
    "`fully_shard` (FSDP2): uneven and empty shards, accumulation without synchronization; HSDP on a 2-D mesh",
    exact="as one process: norms, zeros and update ratios of the full parameters, each shard counted once; names and "
    "kinds of the plain model",
    proves=("R46", "C39"),
)
@pytest.mark.parametrize(
    ("world", "options"),
    [
        pytest.param(2, {}, id="two"),
        pytest.param(2, {"micros": 2}, id="two, accumulated", marks=pytest.mark.slow),
        pytest.param(4, {}, id="four, empty shards"),
        pytest.param(4, {"mesh": (2, 2)}, id="hybrid", marks=pytest.mark.slow),
    ],
)
def test_R46_sharded_parameters_are_told_as_whole_ones(world: int, options: dict[str, Any]) -> None:
    check(run_ranks(sharded, world, **options), alone(world, micros=options.get("micros", 1)))


def sharded_alone(rank: int, world: int) -> list[Snapshot]:
    model = net()
    fully_shard(model)
    optimizer = sgd(model)
    with Monitor(model, optimizer, **{**OPTIONS, "distributed": "rank0"}) as monitor:
        for step in range(4):
            update(model, optimizer, iter([lambda step=step: loss_of(model(shard(rank, step)))]))
    return monitor.snapshots


def test_R46_a_rank_that_speaks_for_itself_tells_no_norms_of_parts() -> None:
    outcomes = run_ranks(sharded_alone, 2)
    snapshot = outcomes[0].value[-1]
    assert outcomes[1].value == []
    assert (snapshot.ranks, snapshot.world_size) == (1, 2)
    assert snapshot.grad_norm_total is snapshot.clip_coefficient is None
    for parameter in snapshot.parameters.values():
        assert parameter.state == "trained"
        assert parameter.weight_norm is parameter.grad_norm is parameter.update_ratio is None
    assert snapshot.sites["head"].mean is not None, "activations are whole"


# FSDP1 ----------------------------------------------------------------------------------------------------


def clip_shards(model: nn.Module, limit: float, ranks: int) -> None:
    """FSDP1's own clipping cannot take norms in float64."""
    grads = [p.grad for p in model.parameters() if p.grad is not None and p.grad.numel()]
    total = torch.stack([grad.square().sum() for grad in grads]).sum()
    distributed.all_reduce(total)
    for grad in grads:
        grad.mul_((limit / ((total / ranks).sqrt() + 1e-6)).clamp(max=1))


def flat(rank: int, world: int, *, original: bool, strategy: str) -> Answer:
    hybrid = strategy.startswith("HYBRID")
    model = FullyShardedDataParallel(
        net(),
        device_mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "shards")) if hybrid else None,
        use_orig_params=original,
        device_id=torch.device("cpu"),
        sharding_strategy=ShardingStrategy[strategy],
        auto_wrap_policy=lambda module, recurse, nonwrapped_numel: recurse or isinstance(module, nn.LayerNorm),
    )
    optimizer = sgd(model)
    with Monitor(model, optimizer, **OPTIONS) as monitor:
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model(shard(rank, step))).backward()  # type: ignore[no-untyped-call]
            clip_shards(model, 0.5, 2 if hybrid else 1)
            optimizer.step()
        collectives = monitor._session.ranks.collectives
    return monitor.snapshots, collectives, [str(finding) for finding in monitor.findings]


@regime(
    "processes",
    "FullyShardedDataParallel (FSDP1)",
    exact="activations and totals as one process; with use_orig_params each parameter as well; without, each flat "
    "parameter as one, under `<module>._flat_param`",
    proves=("R46", "C39"),
)
@pytest.mark.parametrize("original", [True, False], ids=["original parameters", "flat parameters"])
@pytest.mark.parametrize(
    "strategy", ["FULL_SHARD", *(pytest.param(s, marks=pytest.mark.slow) for s in ("SHARD_GRAD_OP", "HYBRID_SHARD"))]
)
def test_R46_flat_parameters_are_summed_over_their_shards(original: bool, strategy: str) -> None:
    world = 4 if strategy == "HYBRID_SHARD" else 2
    outcomes, truth = run_ranks(flat, world, original=original, strategy=strategy), alone(world)
    if original:
        check(outcomes, truth)
        return
    check(outcomes, truth, without=("/parameters/",))
    for found, one in zip(outcomes[0].value[0], truth, strict=True):
        assert list(found.parameters) == ["_flat_param", "norm._flat_param"]
        norms = [one.parameters[name].grad_norm or 0 for name in ("norm.weight", "norm.bias")]
        assert found.parameters["norm._flat_param"].grad_norm == pytest.approx(sum(x**2 for x in norms) ** 0.5, 1e-6)


# Tensor and sequence parallelism --------------------------------------------------------------------------


class Blocks(nn.Module):
    """Tokens through two blocks that can be divided, with units dead by construction: 1, 6 and 7 of `up`'s 10."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.up = nn.Linear(8, 10)
        self.act = nn.ReLU()
        self.down = nn.Linear(10, 8)
        self.norm = nn.LayerNorm(8)
        self.wide = nn.Linear(8, 12)
        self.head = nn.Linear(12, 8)
        with torch.no_grad():
            self.up.bias[[1, 6, 7]] = -1e4

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.down(self.act(self.up(x)))
        x = torch.tanh(self.wide(self.norm(x)))
        return torch.as_tensor(self.head(x) + 0)


def blocks() -> Blocks:
    torch.manual_seed(3)
    return Blocks().double()


PLANS: dict[str, dict[str, Any]] = {
    "tensor": {
        "up": ColwiseParallel(),
        "down": RowwiseParallel(),
        "wide": ColwiseParallel(),
        "head": RowwiseParallel(),
    },
    "tensor, gathered": {
        "up": ColwiseParallel(output_layouts=Replicate()),
        "wide": ColwiseParallel(),
        "head": RowwiseParallel(),
    },
    "sequence": {
        "up": ColwiseParallel(),
        "down": RowwiseParallel(output_layouts=Shard(1)),
        "norm": SequenceParallel(),
        "wide": ColwiseParallel(input_layouts=Shard(1)),
        "head": RowwiseParallel(),
    },
}


def tokens(data: int, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step + 77 * data)
    return torch.randn(2 + data + step % 3, 4, 6, generator=generator).double() * (1 + data) + data


def divided(rank: int, world: int, *, plan: str, shards: int = 1, compiled: bool = False) -> Answer:
    model: Any = blocks()
    if shards == 1:
        parallelize_module(model, init_device_mesh("cpu", (world,), mesh_dim_names=("tp",)), PLANS[plan])
        if compiled:
            model = torch.compile(model, backend="aot_eager")
        return train(model, lambda step: [tokens(0, step)], clip=clip_divided)
    mesh = init_device_mesh("cpu", (shards, world // shards), mesh_dim_names=("dp", "tp"))
    parallelize_module(model, mesh["tp"], PLANS[plan])
    fully_shard(model, mesh=mesh["dp"])
    return train(model, lambda step: [tokens(rank // (world // shards), step)], clip=clip_divided)


def undivided(data: int) -> list[Snapshot]:
    model = blocks()
    optimizer = sgd(model)

    def loss(step: int) -> Tensor:
        parts = [tokens(i, step) for i in range(data)]
        outs = model(torch.cat(parts)).split([len(part) for part in parts])
        return torch.stack([loss_of(out) for out in outs]).mean()

    with Monitor(model, optimizer, **OPTIONS) as monitor:
        for step in range(STEPS):
            update(model, optimizer, iter([lambda step=step: loss(step)]))
    return monitor.snapshots


@regime(
    "processes",
    "tensor and sequence parallelism (`parallelize_module`), alone and with `fully_shard` on a 2-D mesh",
    exact="units of all slices by their index in the whole layer, copies counted once, tokens of all ranks; norms of "
    "the full parameters, also of those whose gradient is a sum over ranks (norms beside a divided sequence)",
    not_observed="an output that is a partial sum; a module without weights of another shape than the layer before "
    "(a softmax over local heads); more than one dimension of layers divided at once",
    proves=("R46", "C39"),
)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("world", "shards"), [pytest.param(2, 1, id="2"), pytest.param(4, 2, id="2 x 2", marks=pytest.mark.slow)]
)
def test_C39_divided_layers_are_told_as_whole_ones(plan: str, world: int, shards: int) -> None:
    outcomes = run_ranks(divided, world, plan=plan, shards=shards)
    check(outcomes, undivided(shards))
    assert outcomes[0].value[0][-1].sites["act"].units_in("dead") == [1, 6, 7]


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
def test_C39_divided_layers_that_are_compiled_are_told_as_whole_ones(plan: str) -> None:
    """But for gradients at what is a DTensor in the compiled code."""
    outcomes = run_ranks(divided, 2, plan=plan, compiled=True)
    check(outcomes, undivided(1), without=("norm/grad_",) if plan == "sequence" else ())


# What real plans hold beside layers -----------------------------------------------------------------------


class Words(nn.Module):
    """A sharded embedding, attention split by heads, a gated block, experts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.q, self.o = nn.Linear(8, 8), nn.Linear(8, 8)
        self.heads = nn.Softmax(-1)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q = self.q(x)
        q = q.unflatten(-1, (-1, 2)).transpose(1, 2)
        weights = self.heads(q @ q.transpose(-1, -2))
        x = self.o((weights @ q).transpose(1, 2).flatten(2))
        x = x + self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return torch.as_tensor(self.norm(x + 0))


WORDS = {
    "embed": RowwiseParallel(input_layouts=Replicate()),
    "q": ColwiseParallel(),
    "o": RowwiseParallel(),
    "gate": ColwiseParallel(),
    "up": ColwiseParallel(),
    "down": RowwiseParallel(),
}


def words(step: int) -> Tensor:
    return torch.randint(0, 20, (3, 5), generator=torch.Generator().manual_seed(step))


def read(rank: int, world: int) -> Answer:
    torch.manual_seed(0)
    model = Words().double()
    if world > 1:
        parallelize_module(model, init_device_mesh("cpu", (world,), mesh_dim_names=("tp",)), WORDS)
    return train(model, lambda step: [words(step)], clip=clip_divided)


@pytest.mark.filterwarnings("ignore")
def test_C39_a_sharded_embedding_is_whole_and_a_softmax_over_local_heads_is_not_told() -> None:
    """torch leaves the gradient of a row-wise embedding whole on each rank, beside weights that are divided."""
    (one,), outcomes = run_ranks(read, 1), run_ranks(read, 2)
    truth = [replace(s, sites={n: x for n, x in s.sites.items() if n != "heads"}) for s in one.value[0]]
    told = [replace(s, sites_selected=t.sites_selected) for s, t in zip(outcomes[0].value[0], truth, strict=True)]
    for found, expected in zip(told, truth, strict=True):
        assert list(found.sites) == list(expected.sites)
        assert_same(found, expected, without=("/order", "embed:in"))
    assert any("heads: which part of a layer this rank has" in line for line in outcomes[0].log)


def experts(rank: int, world: int) -> Answer:
    """A stack of experts is divided among ranks that have other samples."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("ep",))
    stack = nn.Parameter(distribute_tensor(torch.ones(4, 3, 3).double(), mesh, [Shard(0)]))
    model.register_parameter("experts", stack)
    return train(model, lambda step: [shard(rank, step)], clip=lambda model: None)


def test_experts_that_are_divided_do_not_make_layers_divided() -> None:
    outcomes = run_ranks(experts, 2)
    last = outcomes[0].value[0][-1]
    assert last.sites["0"].samples == sum(len(shard(rank, 24)) for rank in range(2))
    assert last.parameters["experts"].weight_norm == pytest.approx(6)


def flattened(rank: int, world: int) -> Answer:
    """torchtitan shards over a mesh dimension that is two flattened into one."""
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("shards", "context"))
    model = net()
    fully_shard(model, mesh=mesh["shards", "context"]._flatten("both"))
    return train(model, lambda step: [shard(rank, step)])


def test_R46_shards_of_a_flattened_mesh_are_no_copies() -> None:
    check(run_ranks(flattened, 2), alone(2))


def undivided_loss(rank: int, world: int) -> Answer:
    """torchtitan divides the loss itself, and has gradients added."""
    model = net()
    fully_shard(model)
    model.set_gradient_divide_factor(1.0)  # type: ignore[attr-defined]
    optimizer = sgd(model)
    with Monitor(model, optimizer, **OPTIONS) as monitor:
        for step in range(STEPS):
            update(model, optimizer, iter([lambda step=step: loss_of(model(shard(rank, step))) / world]))
        collectives = monitor._session.ranks.collectives
    return monitor.snapshots, collectives, []


def test_gradients_that_are_added_and_not_averaged_are_those_of_the_loss() -> None:
    check(run_ranks(undivided_loss, 2), alone(2))


def apart(rank: int, world: int) -> list[Snapshot]:
    model = net()
    fully_shard(model)
    optimizer = sgd(model)
    with Monitor(model, optimizer, **{**OPTIONS, "distributed": "off"}) as monitor:
        update(model, optimizer, iter([lambda: loss_of(model(shard(rank, 0)))]))
    return monitor.snapshots


def test_R46_with_processes_apart_no_norm_of_a_part_is_told_either() -> None:
    for outcome in run_ranks(apart, 2):
        (snapshot,) = outcome.value
        assert snapshot.grad_norm_total is None
        assert all(parameter.weight_norm is None for parameter in snapshot.parameters.values())
        assert snapshot.ranks is None
