"""Training in several processes: bit for bit the same with and without a monitor, on every rank.

All combinations of one kind of parallelism run in one launch of the ranks, which the test workers share; each has a
test of its own. A launch that breaks as a whole (a rank hangs or crashes) is repeated, one combination at a time.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from actdiag import Monitor
from tests.observing import bits
from tests.ranks import RankFailed, RanksTimeout, listening, run_ranks
from tests.regimes import regime

MERGING: dict[str, Any] = {}
"""How the monitors of the ranks work together; empty: the default."""

STEPS = 3
Case = tuple[str, ...]
"""Kind of parallelism, how it is run, what is special about the training."""

DDP_OPTIONS: dict[str, dict[str, Any]] = {
    "static_graph": {"static_graph": True},
    "find_unused": {"find_unused_parameters": True},
    "uneven": {"find_unused_parameters": True},
    "bucket_view": {"gradient_as_bucket_view": True},
}
USES = ("plain", "checkpoint", "accumulate")
HOW = ("eager", "aot_eager")
WORLD = {"ddp": 2, "fsdp": 2, "tp": 2, "hsdp": 4}
CASES: list[Case] = [
    (kind, how, use) for kind in WORLD for how in HOW for use in ((*USES, *DDP_OPTIONS) if kind == "ddp" else USES)
]


def slow(case: Case) -> bool:
    """What is compiled, but for the plainest; and most of what needs four processes."""
    kind, how, use = case
    return (how != "eager" and (kind, use) != ("ddp", "plain")) or (kind == "hsdp" and use != "plain")


NOT_RUNNABLE: dict[Case, str] = {
    ("tp", "aot_eager", "checkpoint"): "expected all tensors_saved_with_vc_check to be Tensors, got types: [",
}
"""Combinations that fail without a monitor too, with a part of what torch says."""


class Net(nn.Sequential):
    """An MLP whose layers are called "0", "1" and so on, with Dropout, buffers, and a branch that may rest.

    Its last layer is so narrow that sharding leaves some ranks none of it; a tensor-parallel one has something on all.
    """

    def __init__(self, kind: str, use: str) -> None:
        middle, width = (nn.Tanh(), 4) if kind == "tp" else (nn.BatchNorm1d(8), 1)
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), middle, nn.Dropout(0.3), nn.Linear(8, width))
        if use in ("find_unused", "uneven"):
            self.branch = nn.Linear(6, width)
        self.checkpointed = use == "checkpoint"

    def forward(self, x: Tensor, branch: bool = False) -> Tensor:
        out = checkpoint(self._inner, x, use_reentrant=False) if self.checkpointed else self._inner(x)
        out = cast(Tensor, self.get_submodule("5")(out))
        return out + self.branch(x) if branch else out

    def _inner(self, x: Tensor) -> Tensor:
        for layer in list(self.children())[:5]:
            x = layer(x)
        return x


@dataclass
class Trained:
    """What a training has left on one rank, and what a monitor saw of it."""

    bytes: dict[str, Tensor]
    hooks: Counter[str]
    steps: list[int] = field(default_factory=list)
    sites: list[set[str]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


@dataclass
class Result:
    """One combination on one rank. `error`: where a training raised; "bare" or "observed" in front."""

    error: str = ""
    different: list[str] = field(default_factory=list)
    unsteady: list[str] = field(default_factory=list)
    """What differs between two bare trainings: then nothing can be said of the observed one."""
    steps: list[int] = field(default_factory=list)
    sites: list[set[str]] = field(default_factory=list)
    plain: list[set[str]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def build(case: Case, world: int) -> nn.Module:
    """The model of a combination, as wide as its kind of parallelism makes it."""
    kind, how, use = case
    torch.manual_seed(0)
    model: Any = Net(kind, use)
    if kind == "ddp":
        model = DistributedDataParallel(model, **DDP_OPTIONS.get(use, {}))
    elif kind in ("fsdp", "hsdp"):
        shape, names = ((world,), ("shard",)) if kind == "fsdp" else ((2, world // 2), ("replicate", "shard"))
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        for number in ("0", "2", "5"):
            fully_shard(model.get_submodule(number), mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif kind == "tp":
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "5": ColwiseParallel()}
        parallelize_module(model, init_device_mesh("cpu", (world,)), plan)
    return cast(nn.Module, torch.compile(model, backend=how)) if how != "eager" else model


@contextmanager
def unsynchronized(model: Any, *, last: bool) -> Iterator[None]:
    """One of the backwards of an accumulated step; the gradients are averaged in the last, where that can be said."""
    inner = getattr(model, "_orig_mod", model)
    if isinstance(inner, DistributedDataParallel) and not last:
        with inner.no_sync():
            yield
        return
    if hasattr(inner, "set_requires_gradient_sync"):
        inner.set_requires_gradient_sync(last)
    yield


def train(case: Case, rank: int, model: Any, options: dict[str, Any] | None) -> Trained:
    """Three steps from one seed, on data of the rank's own (of all ranks, where a tensor is what is parallel)."""
    kind, _, use = case
    data = torch.Generator().manual_seed(7 if kind == "tp" else rank)
    torch.manual_seed(1 if kind == "tp" else 100 + rank)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01) if use != "plain" else sgd(model)
    losses, micro = [], 2 if use == "accumulate" else 1
    with listening() as log:
        monitor = None if options is None else Monitor(model, optimizer, **options)
        for step in range(STEPS):
            optimizer.zero_grad()
            for number in range(micro):
                x = torch.randn(5, 6, generator=data)
                with unsynchronized(model, last=number == micro - 1):
                    out = model(x, branch=True) if branches(use, step, rank) else model(x)
                    loss = out.square().mean()
                    loss.backward()
                losses.append(loss.detach())
            optimizer.step()
        seen = [] if monitor is None else monitor.snapshots
        if monitor is not None:
            monitor.close()
    found = Trained(fingerprint(model, optimizer), hooks(model), log=log)
    found.bytes["losses"] = bits(torch.stack(losses))
    found.steps, found.sites = [one.step for one in seen], [set(one.sites) for one in seen]
    return found


def branches(use: str, step: int, rank: int) -> bool:
    """Whether a rank's forward takes the branch: all of them at step 1, or (uneven) rank 1 alone at steps 0 and 2."""
    return (use == "find_unused" and step == 1) or (use == "uneven" and rank == 1 and step != 1)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def fingerprint(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The bytes of everything that a training changes, of this rank's own part."""
    found = {"random numbers": torch.get_rng_state()}
    for name, parameter in model.named_parameters():
        found[f"weight {name}"] = local(parameter)
        if parameter.grad is not None:
            found[f"gradient {name}"] = local(parameter.grad)
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"optimizer {key} {name}"] = local(value) if isinstance(value, Tensor) else torch.tensor(value)
    return found | {f"buffer {name}": local(buffer) for name, buffer in model.named_buffers()}


def local(x: Tensor) -> Tensor:
    part: Any = x.detach()
    return bits(part.to_local() if isinstance(x, DTensor) else part)


def hooks(model: nn.Module) -> Counter[str]:
    """How many hooks there are of each kind; DDP, FSDP and tensor parallelism have their own."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found: Counter[str] = Counter()
    for name, module in model.named_modules():
        found.update({f"{kind} {name}": len(getattr(module, kind)) for kind in kinds})
    for name, parameter in model.named_parameters():
        found[f"tensor hooks {name}"] += len(parameter._backward_hooks or ())
        found[f"accumulation hooks {name}"] += len(getattr(parameter, "_post_accumulate_grad_hooks", None) or ())
    return found


def compare(case: Case, rank: int, world: int) -> Result:
    """Train bare, observed and bare again: the third time shows what the monitor has left behind in the process.

    Compiled, which is slow, only to tell a training that is not reproducible by itself from one that is disturbed.
    """
    options = {"log_every_n_steps": 1, "max_overhead": None}
    result = Result()

    def attempt(name: str, given: dict[str, Any] | None) -> Trained:
        result.error = f"{name}: "
        torch._dynamo.reset()
        return train(case, rank, build(case, world), given)

    try:
        bare, seen = attempt("bare", None), attempt("observed", {**options, **MERGING})
        result.different = differences(bare, seen)
        if case[1] == "eager" or anywhere(bool(result.different)):
            result.unsteady = differences(bare, attempt("bare again", None))
    except Exception:
        result.error += traceback.format_exc()
        return result
    result.error = ""
    result.steps, result.sites, result.log = seen.steps, seen.sites, seen.log
    torch.manual_seed(0)
    alone = ("alone", "eager", case[2])
    result.plain = train(alone, rank, Net(case[0], case[2]), {**options, "distributed": "off"}).sites
    return result


def anywhere(here: bool) -> bool:
    """Whether something is so on any rank."""
    flag = torch.tensor([here], dtype=torch.int32)
    distributed.all_reduce(flag)
    return bool(flag)


def differences(one: Trained, other: Trained) -> list[str]:
    names = one.bytes.keys() | other.bytes.keys()
    empty = torch.zeros(0)
    found = [n for n in names if not torch.equal(one.bytes.get(n, empty), other.bytes.get(n, empty))]
    return sorted(found) + ([f"hooks: {other.hooks - one.hooks}"] if one.hooks != other.hooks else [])


def compare_all(rank: int, world: int, *, cases: list[Case]) -> list[Result]:
    return [compare(case, rank, world) for case in cases]


Results = dict[Case, "list[Result] | str"]
"""Of each combination a result a rank, or why its processes gave none."""
Find = Callable[[Case], list[Result]]


def launch(cases: list[Case]) -> Results:
    """Run combinations of one kind together; each by itself where one of them brings the processes down."""
    try:
        outcomes = run_ranks(compare_all, WORLD[cases[0][0]], timeout_s=120, cases=cases)
    except (RankFailed, RanksTimeout):
        return {case: alone(case) for case in cases}
    return {case: [outcome.value[index] for outcome in outcomes] for index, case in enumerate(cases)}


def alone(case: Case) -> list[Result] | str:
    try:
        return [outcome.value[0] for outcome in run_ranks(compare_all, WORLD[case[0]], timeout_s=40, cases=[case])]
    except (RankFailed, RanksTimeout) as error:
        return str(error)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Find:
    """What a combination gave; launched by the test worker that asks first, while others wait for its file."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def find(case: Case) -> list[Result]:
        beside = [other for other in CASES if other[:2] == case[:2] and slow(other) == slow(case)]
        found = once(folder / f"{'-'.join(beside[0])}.pickle", lambda: launch(beside))[case]
        assert not isinstance(found, str), found
        return found

    return find


def once(path: Path, work: Callable[[], Results]) -> Results:
    """The value in a file, made by the first process that comes; it holds the lock meanwhile."""
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            path.write_bytes(pickle.dumps(work()))
    found: Results = pickle.loads(path.read_bytes())
    return found


def parameters(*kinds: str) -> list[Any]:
    """The runnable combinations of some kinds, as (how, use), or of all, as (kind, how, use)."""
    chosen = [case for case in CASES if case not in NOT_RUNNABLE and (not kinds or case[0] in kinds)]
    return [
        pytest.param(*case[len(kinds) :], marks=[pytest.mark.slow] * (slow(case)), id="-".join(case[len(kinds) :]))
        for case in chosen
    ]


def assert_same(ranks: list[Result]) -> None:
    """On every rank the training is the same, and the monitor did not fail."""
    for rank, result in enumerate(ranks):
        assert not result.error, f"rank {rank}, {result.error}"
        assert not result.unsteady, f"rank {rank}: two bare trainings differ: {result.unsteady}"
        assert not result.different, f"rank {rank}: the training is not the same: {result.different}"
        complaints = [line for line in result.log if line.startswith(("WARNING", "ERROR"))]
        assert not complaints, f"rank {rank}: " + "\n".join(complaints)


@regime(
    "processes",
    "DistributedDataParallel on two ranks, as it is and with `static_graph`, `find_unused_parameters` (a branch that "
    "rests on some steps, on all ranks or on one), `gradient_as_bucket_view`, `no_sync`, checkpoints; eager, compiled",
    exact="the training of every rank, bit for bit; the names of the model without wrappers",
    proves=("C38",),
)
@pytest.mark.parametrize(("how", "use"), parameters("ddp"))
def test_training_with_ddp_is_the_same(how: str, use: str, results: Find) -> None:
    assert_same(results(("ddp", how, use)))


@regime(
    "processes",
    "FSDP2 (`fully_shard`) on two ranks, with checkpoints and `set_requires_gradient_sync`; eager and compiled",
    exact="the training of every rank, bit for bit; the names of the model without wrappers",
    proves=("C39",),
)
@pytest.mark.parametrize(("how", "use"), parameters("fsdp"))
def test_training_with_fsdp2_is_the_same(how: str, use: str, results: Find) -> None:
    assert_same(results(("fsdp", how, use)))


@regime(
    "processes",
    "tensor parallelism (`ColwiseParallel`, `RowwiseParallel`) on two ranks; eager and compiled",
    exact="the training of every rank, bit for bit; the names of the model without wrappers",
    not_observed="a checkpoint inside of compiled code: torch 2.13 cannot trace it, with or without a monitor",
    proves=("C39",),
)
@pytest.mark.parametrize(("how", "use"), parameters("tp"))
def test_training_with_tensor_parallelism_is_the_same(how: str, use: str, results: Find) -> None:
    assert_same(results(("tp", how, use)))


@regime(
    "processes",
    "HSDP (`fully_shard` on a mesh of 2 x 2): replicated and sharded; eager and compiled",
    exact="the training of every rank, bit for bit; the names of the model without wrappers",
    proves=("C39",),
)
@pytest.mark.parametrize(("how", "use"), parameters("hsdp"))
def test_training_with_hsdp_is_the_same(how: str, use: str, results: Find) -> None:
    assert_same(results(("hsdp", how, use)))


@pytest.mark.parametrize("case", [pytest.param(p.values, marks=p.marks, id=p.id) for p in parameters()])
def test_every_step_is_seen_under_the_names_of_the_model_without_wrappers(case: Case, results: Find) -> None:
    """The sites of rank 0 are those of a plain model in one process, fed with its data, or with that of some rank."""
    ranks = results(case)
    first = ranks[0]
    assert first.steps == list(range(STEPS)), first.log
    for step in range(STEPS):
        anywhere = set().union(*(result.plain[step] for result in ranks))
        own, seen = first.plain[step], first.sites[step]
        assert {"0", "1", "2", "3", "5"} <= own
        assert seen >= own, f"step {step}, not seen: {own - seen}; {first.log}"
        assert seen <= anywhere, f"step {step}: {seen - anywhere}"


@pytest.mark.slow
def test_what_cannot_run_without_a_monitor_still_cannot(results: Find) -> None:
    """Delete its line from NOT_RUNNABLE where this fails: torch has learned it."""
    for case, reason in NOT_RUNNABLE.items():
        for rank, result in enumerate(results(case)):
            said = result.error if result.error else f"not reproducible: {result.unsteady}" * bool(result.unsteady)
            assert said.startswith(("bare:", "not reproducible")) and reason in said, f"{case}, rank {rank}: {said}"
