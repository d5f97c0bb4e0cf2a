"""Ranks that die, stay away, differ or fail: nobody waits for long, one warning, and the training goes on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from actdiag import FindingError, Monitor, Snapshot
from actdiag.collect import exchange, ranks, recording
from actdiag.collect.budget import Budget
from actdiag.collect.exchange import Exchange, Group
from tests.ranks import RankFailed, run_ranks
from tests.regimes import regime
from tests.test_ranks import OPTIONS, STEPS, alone, assert_same, loss_of, net, sgd, shard, update

ROOT = Path(__file__).resolve().parent.parent
QUICK = {**OPTIONS, "merge_timeout_s": 1.0}


def steps_of(model: nn.Module, optimizer: Any, rank: int, steps: range) -> Iterator[int]:
    """Each rank trains its own model: no collective but ours could hold it up."""
    for step in steps:
        update(model, optimizer, iter([lambda step=step: loss_of(model(shard(rank, step)))]))
        yield step


def warnings_of(outcome: Any) -> list[str]:
    """But for the true one, that each rank trains its own."""
    return [line for line in outcome.log if line.startswith("WARNING") and "have different weights" not in line]


def merged(snapshots: list[Snapshot]) -> list[int | None]:
    return [snapshot.ranks for snapshot in snapshots]


# Who is gone ---------------------------------------------------------------------------------------------


def dies(rank: int, world: int) -> list[int | None]:
    model = net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **OPTIONS) as monitor:
        for step in steps_of(model, optimizer, rank, range(STEPS)):
            if rank == 1 and step == 7:
                os.kill(os.getpid(), signal.SIGKILL)
        return merged(monitor.snapshots)


@regime(
    "processes",
    "a rank that is killed in mid-run, that closes its monitor, fails inside of it, or has none",
    exact="the numbers until then; training goes on, or fails for its own reason",
    approximate="from then on each rank tells what it sees itself, with one warning on rank 0 and `ranks` = 1",
    proves=("R48", "C38"),
)
def test_R48_a_killed_rank_costs_one_warning_and_no_hang() -> None:
    begun = time.monotonic()
    outcomes = run_ranks(dies, 3, timeout_s=60, may_die={1})
    assert time.monotonic() - begun < 60
    assert outcomes[1].died
    for outcome in (outcomes[0], outcomes[2]):
        assert outcome.value == [3, 3, 3] + [1] * 6
    (told,) = [line for line in warnings_of(outcomes[0]) if "no longer merge" in line]
    assert re.search(r"step 9: .*ranks? (1|1, 2) had not come to step 9", told)
    assert warnings_of(outcomes[2]) == [], "one of them says it"


def dies_under_ddp(rank: int, world: int) -> None:
    ddp = DistributedDataParallel(net())
    optimizer = sgd(ddp)
    with Monitor(ddp, optimizer, **OPTIONS):
        for step in steps_of(ddp, optimizer, rank, range(STEPS)):
            if rank == 1 and step == 7:
                os.kill(os.getpid(), signal.SIGKILL)


def test_R48_under_ddp_the_training_fails_for_its_own_reason() -> None:
    with pytest.raises(RankFailed, match=r"in _engine_run_backward(?s:.)*RuntimeError") as caught:
        run_ranks(dies_under_ddp, 2, timeout_s=60, may_die={1})
    assert caught.value.ranks == [0]
    assert "actdiag/collect" not in str(caught.value)


def closes(rank: int, world: int) -> list[int | None]:
    model = net()
    optimizer = sgd(model)
    monitor = Monitor(model, optimizer, **OPTIONS)
    for step in steps_of(model, optimizer, rank, range(12)):
        if rank == 1 and step == 4:
            monitor.close()
    distributed.barrier()
    monitor.close()
    return merged(monitor.snapshots)


def test_a_rank_that_closes_its_monitor_is_not_waited_for() -> None:
    begun = time.monotonic()
    first, second = run_ranks(closes, 2)
    assert time.monotonic() - begun < OPTIONS["merge_timeout_s"]
    assert (first.value, second.value) == ([2, 2, 1, 1], [2, 2])
    assert len(warnings_of(first)) == 1 and warnings_of(second) == []


def fails_inside(rank: int, world: int) -> list[int | None]:
    model = net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **OPTIONS) as monitor:
        for step in steps_of(model, optimizer, rank, range(12)):
            if rank == 1 and step == 4:
                recording.queue_records = broken  # type: ignore[attr-defined]
        return merged(monitor.snapshots)


def broken(*args: Any) -> None:
    raise KeyError("an error of ours")


def test_an_internal_error_on_one_rank_leaves_the_others_alone() -> None:
    first, second = run_ranks(fails_inside, 2)
    assert (first.value, second.value) == ([2, 2, 1, 1], [2, 2])
    assert len(warnings_of(first)) == 1 and "no longer merge" in warnings_of(first)[0]
    assert len(warnings_of(second)) == 1 and "switched off by an internal error" in warnings_of(second)[0]


def only_first(rank: int, world: int) -> tuple[list[int | None], float]:
    model = net()
    optimizer = sgd(model)
    monitor = Monitor(model, optimizer, **QUICK) if rank == 0 else None
    list(steps_of(model, optimizer, rank, range(6)))
    told = [] if monitor is None else merged(monitor.snapshots)
    group = distributed.new_group()  # its name counts the groups of every rank: ours must not be among them
    total = torch.ones(1)
    distributed.all_reduce(total, group=group)
    if monitor is not None:
        monitor.close()
    return told, float(total)


def test_a_monitor_on_rank_zero_only_waits_once_and_disturbs_no_group_of_the_users() -> None:
    first, second = run_ranks(only_first, 2)
    assert first.value == ([1, 1], 2) and second.value == ([], 2)
    (told,) = warnings_of(first)
    assert "rank 1 had no monitor that merges" in told


def in_teams(rank: int, world: int) -> tuple[list[int | None], int | None]:
    """Ranks 0 and 1 train one model, 2 and 3 another one."""
    teams = [distributed.new_group([0, 1]), distributed.new_group([2, 3])]
    ddp = DistributedDataParallel(net(), process_group=teams[rank // 2])
    optimizer = sgd(ddp)
    with Monitor(ddp, optimizer, **OPTIONS) as monitor:
        list(steps_of(ddp, optimizer, rank, range(4)))
        return merged(monitor.snapshots), monitor.snapshots[-1].sites["head"].samples


def test_ranks_that_train_different_models_merge_with_those_of_their_own() -> None:
    outcomes = run_ranks(in_teams, 4)
    assert [line for outcome in outcomes for line in outcome.log if "no longer" in line] == []
    for rank, outcome in enumerate(outcomes):
        mates = (0, 1) if rank < 2 else (2, 3)
        assert outcome.value == ([2, 2], sum(len(shard(mate, 3)) for mate in mates))


# Who differs ---------------------------------------------------------------------------------------------


def other_options(rank: int, world: int) -> list[int | None]:
    model = net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **{**OPTIONS, "log_every_n_steps": 3 + rank}) as monitor:
        list(steps_of(model, optimizer, rank, range(8)))
    return merged(monitor.snapshots)


def test_ranks_with_other_intervals_do_not_merge_and_say_which() -> None:
    first, second = run_ranks(other_options, 2)
    assert (first.value, second.value) == ([1, 1, 1], [1, 1])
    (told,) = warnings_of(first)
    assert "log_every_n_steps=3" in told and "log_every_n_steps=4" in told


def other_steps(rank: int, world: int) -> list[tuple[int, int | None]]:
    model = net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **OPTIONS) as monitor:
        if rank == 1:
            monitor.load_state_dict({**monitor.state_dict(), "next_step": 11})
        list(steps_of(model, optimizer, rank, range(4)))
    return [(snapshot.step, snapshot.ranks) for snapshot in monitor.snapshots]


def test_ranks_at_different_steps_do_not_merge() -> None:
    first, second = run_ranks(other_steps, 2)
    assert first.value == [(0, 1), (3, 1)]
    assert all(ranks == 1 for _, ranks in second.value)
    assert "the ranks are at different steps: 0, 11" in warnings_of(first)[0]


class Fragile(nn.Module):
    """A layer whose output cannot be measured on one rank: its shape breaks the unit dimension that is asked for."""

    def __init__(self, *, flat: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(4, 3)
        self.flat = flat

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.double().unsqueeze(1) if not self.flat else x.double())
        return torch.as_tensor(self.last(x))


def fragile(rank: int, world: int) -> tuple[list[int | None], int | None, int]:
    model = Fragile(flat=rank == 1).double()
    optimizer = sgd(model)
    with Monitor(model, optimizer, unit_dims={"first": 2}, **OPTIONS) as monitor:
        list(steps_of(model, optimizer, rank, range(6)))
    return merged(monitor.snapshots), monitor.snapshots[-1].sites["first"].samples, len(shard(rank, 3))


def test_a_probe_that_fails_on_one_rank_is_off_there_and_the_ranks_merge_on() -> None:
    first, second = run_ranks(fragile, 2)
    assert first.value[0] == second.value[0] == [2, 2]
    assert first.value[1] == second.value[1] == first.value[2], "what rank 0 alone has seen"
    assert warnings_of(first) == [] and "observing first failed" in warnings_of(second)[0]


# What all do alike ---------------------------------------------------------------------------------------


def raises(rank: int, world: int) -> tuple[str, int]:
    ddp = DistributedDataParallel(net())
    optimizer = sgd(ddp)
    try:
        with Monitor(ddp, optimizer, raise_on="warning", **OPTIONS):
            for step in steps_of(ddp, optimizer, 0, range(STEPS)):  # inputs far from 0
                last = step
    except FindingError as error:
        return str(error), last
    raise AssertionError("no finding")


def test_raise_on_raises_on_every_rank_at_the_same_step() -> None:
    first, second = run_ranks(raises, 2)
    assert first.value == second.value
    assert "off-center" in first.value[0]
    assert any("off-center" in line for line in warnings_of(first))
    assert second.log == [], "one rank logs"


def writes(rank: int, world: int, *, folder: Path) -> None:
    ddp = DistributedDataParallel(net())
    optimizer = sgd(ddp)
    with Monitor(ddp, optimizer, log_dir=folder / f"of rank {rank}", **OPTIONS):
        list(steps_of(ddp, optimizer, rank, range(4)))


def test_R49_only_rank_zero_makes_files_and_folders(tmp_path: Path) -> None:
    run_ranks(writes, 2, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["of rank 0"]
    assert len(list((tmp_path / "of rank 0").iterdir())) == 1


def destroys(rank: int, world: int) -> list[int | None]:
    model = net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **OPTIONS) as monitor:
        list(steps_of(model, optimizer, rank, range(4)))
        distributed.barrier()
        distributed.destroy_process_group()
    return merged(monitor.snapshots)


def test_a_process_group_that_is_destroyed_before_the_monitor_closes_is_no_trouble() -> None:
    for outcome in run_ranks(destroys, 2):
        assert outcome.value == [2, 2] and warnings_of(outcome) == []


# Collectives ---------------------------------------------------------------------------------------------


class Counted:
    """A process group that notes what it is asked for."""

    calls: list[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._inner = _REAL(*args, **kwargs)
        Counted.calls = []

    def __getattr__(self, name: str) -> Any:
        Counted.calls.append(name)
        return getattr(self._inner, name)


_REAL = distributed.ProcessGroupGloo


def count_calls(rank: int, world: int) -> tuple[list[int], int]:
    exchange.distributed.ProcessGroupGloo = Counted  # type: ignore[misc, assignment]
    model = net()
    optimizer = sgd(model)
    default: Any = distributed.group.WORLD
    before, asked = default._get_sequence_number_for_group(), []
    with Monitor(model, optimizer, **OPTIONS) as monitor:
        seen = 0
        for _ in steps_of(model, optimizer, rank, range(10)):
            calls = getattr(Counted, "calls", [])
            assert set(calls) <= {"allgather"}
            asked.append(len(calls) - seen)
            seen = len(calls)
        monitor.state_dict()
        monitor.report()
    assert len(Counted.calls) == seen, "reading, saving and closing are no collectives"
    return asked, default._get_sequence_number_for_group() - before


def test_R48_a_recorded_step_is_one_collective_of_our_own_group_and_any_other_none() -> None:
    for outcome in run_ranks(count_calls, 2):
        assert outcome.value == ([1, 0, 0, 1, 0, 0, 1, 0, 0, 1], 0)


def in_levels(rank: int, world: int) -> tuple[list[Snapshot], int]:
    ranks.Exchange = small_groups  # type: ignore[misc, assignment]
    ddp = DistributedDataParallel(net())
    optimizer = sgd(ddp)
    with Monitor(ddp, optimizer, **OPTIONS) as monitor:
        list(steps_of(ddp, optimizer, rank, range(STEPS)))
        return monitor.snapshots, monitor._session.ranks.collectives


def small_groups(*args: Any, **kwargs: Any) -> Exchange:
    return Exchange(*args, **kwargs, fan=2)


def test_many_ranks_that_join_level_by_level_come_to_the_same_numbers() -> None:
    outcomes = run_ranks(in_levels, 5, timeout_s=120)
    truth = alone(5)
    for outcome in outcomes:
        assert [line for line in outcome.log if "inputs vary" not in line] == []
        for found, expected in zip(outcome.value[0], truth, strict=True):
            assert_same(found, expected, without=("grad_histogram",))  # octaves of a fifth of the gradient
            assert found.ranks == 5
    records = len(truth)
    assert [outcome.value[1] // records for outcome in outcomes] == [7, 3, 6, 3, 7], "up three levels, down two"


def grows(rank: int, world: int) -> list[list[int]]:
    store: Any = distributed.distributed_c10d._get_default_store()
    group = Group(store, range(world), rank, 10.0)
    found = []
    for step, size in enumerate((10, 10, 5000, 5000, 0)):
        parcels = group.gather(bytes([rank]) * (size if rank else 3), "", step)
        assert [bytes(parcel) for parcel in parcels] == [bytes([0]) * 3, bytes([1]) * size]
        found.append([len(parcel) for parcel in parcels])
    return [*found, [group.collectives]]


def test_a_parcel_that_outgrows_the_room_costs_a_second_collective_once() -> None:
    for outcome in run_ranks(grows, 2):
        assert outcome.value == [[3, 10], [3, 10], [3, 5000], [3, 5000], [3, 0], [6]]


# Odd habits ----------------------------------------------------------------------------------------------


def test_R48_a_store_that_does_not_answer_is_not_waited_for() -> None:
    """Its host is frozen: the call never comes back, whatever timeout the store has."""
    never = threading.Event()
    begun = time.monotonic()
    assert exchange.soon(never.wait, otherwise=False, seconds=0.2) is False
    assert time.monotonic() - begun < 5
    never.set()
    assert exchange.soon(lambda: 7, 0) == 7
    assert exchange.soon(lambda: 1 // 0, 3) == 3


def fails_once(rank: int, world: int) -> list[tuple[float | None, float | None]]:
    """The backward of a recorded step raises, is caught, and the batch is tried again."""
    ddp = DistributedDataParallel(net(), static_graph=False)
    optimizer = sgd(ddp)
    with Monitor(ddp, optimizer, **OPTIONS) as monitor:
        for step in range(7):
            if step == 3:
                out = ddp(shard(rank, step))
                out.register_hook(lambda g: 1 // 0)
                with contextlib.suppress(ZeroDivisionError), ddp.no_sync():
                    loss_of(out).backward()  # type: ignore[no-untyped-call]
            update(ddp, optimizer, iter([lambda step=step: loss_of(ddp(shard(rank, step)))]))
    return [(snapshot.grad_norm_total, snapshot.clip_coefficient) for snapshot in monitor.snapshots]


def test_a_backward_that_raised_does_not_hide_the_gradients_of_later_ones() -> None:
    truth = [(s.grad_norm_total, s.clip_coefficient) for s in alone(2)]
    for outcome in run_ranks(fails_once, 2):
        for found, expected in zip(outcome.value, truth, strict=False):
            assert found == pytest.approx(expected, rel=1e-6)


def elsewhere(rank: int, world: int) -> tuple[list[int | None], list[str]]:
    """While a step is read and ranks merge, new tensors are made elsewhere if nobody says where."""
    ddp = DistributedDataParallel(net())
    optimizer = sgd(ddp)
    devices: list[str] = []
    optimizer.register_step_post_hook(lambda *args: torch.set_default_device("meta"))  # before ours
    with Monitor(ddp, optimizer, **OPTIONS) as monitor:
        optimizer.register_step_post_hook(lambda *args: devices.append(str(torch.get_default_device())))
        optimizer.register_step_post_hook(lambda *args: torch.set_default_device("cpu"))
        list(steps_of(ddp, optimizer, rank, range(7)))
    return merged(monitor.snapshots), devices


def test_a_default_device_that_is_not_the_host_does_not_end_the_merging() -> None:
    for outcome in run_ranks(elsewhere, 2):
        assert outcome.value == ([2, 2, 2], ["meta"] * 7)
        assert outcome.log == []


def each_saves(rank: int, world: int) -> list[tuple[int, int | None]]:
    """Every rank goes on from the state that it has saved itself, with the costs that it has measured."""
    model = net()
    ddp, optimizer = DistributedDataParallel(model), sgd(model)
    options = {**OPTIONS, "log_every_n_steps": 1, "max_overhead": 0.02}
    told = []
    state: Any = None
    for steps in (range(8), range(8, 24)):
        with Monitor(ddp, optimizer, **options) as monitor:
            Budget.interval = lambda self, mode, configured: 3 + 2 * rank  # type: ignore[method-assign]
            if state is not None:
                monitor.load_state_dict(state)
            list(steps_of(ddp, optimizer, rank, steps))
            state = monitor.state_dict()
            told += [(snapshot.step, snapshot.ranks) for snapshot in monitor.snapshots]
    return told


def test_ranks_that_go_on_from_states_of_their_own_still_record_the_same_steps() -> None:
    first, second = run_ranks(each_saves, 2)
    assert warnings_of(first) == []
    assert first.value == second.value
    assert all(ranks == 2 for _, ranks in first.value) and len(first.value) > 4


def not_wrapped(rank: int, world: int) -> None:
    model = net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **OPTIONS):
        list(steps_of(model, optimizer, rank, range(7)))


def test_ranks_whose_weights_have_grown_apart_are_told_once() -> None:
    first, second = run_ranks(not_wrapped, 2)
    told = [line for line in first.log if "have different weights" in line]
    assert len(told) == 1 and "DistributedDataParallel" in told[0]
    assert second.log == []


def averages_by_hand(rank: int, world: int) -> list[tuple[float | None, float | None]]:
    model = net()
    optimizer = sgd(model)

    def average(module: nn.Module) -> None:
        for parameter in module.parameters():
            distributed.all_reduce(parameter.grad)
            parameter.grad.div_(world)  # type: ignore[union-attr]

    with Monitor(model, optimizer, **OPTIONS) as monitor:
        for step in range(4):
            update(model, optimizer, iter([lambda step=step: loss_of(model(shard(rank, step)))]), average)
    return [(snapshot.grad_norm_total, snapshot.clip_coefficient) for snapshot in monitor.snapshots]


def test_gradients_that_the_loop_averages_itself_are_told_as_the_update_uses_them() -> None:
    truth = alone(2)[0].grad_norm_total
    for outcome in run_ranks(averages_by_hand, 2):
        assert outcome.value[0] == (pytest.approx(truth, rel=1e-6), None), "and nothing of a clipping"
        assert warnings_of(outcome) == []


def too_early(rank: int, world: int) -> list[int | None]:
    """The monitor is made before init_process_group, and no launcher has said that there will be others."""
    os.environ.pop("RANK", None)
    distributed.destroy_process_group()
    model = net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **OPTIONS) as monitor:
        os.environ["RANK"] = str(rank)
        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        list(steps_of(model, optimizer, rank, range(1)))
        distributed.get_world_size = lambda group=None: 2  # type: ignore[assignment]
        list(steps_of(model, optimizer, rank, range(1, 7)))
    return merged(monitor.snapshots)


def test_a_monitor_that_was_made_too_early_says_so_once() -> None:
    (only,) = run_ranks(too_early, 1)
    assert only.value == [None, None, None]
    assert len([line for line in only.log if "init_process_group was called after" in line]) == 1


def comes_late(rank: int, world: int) -> float:
    """Rank 1 waits for the other in vain, and leaves; only then the other comes."""
    model = net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **{**OPTIONS, "merge_timeout_s": 15.0 if rank == 0 else 0.5}) as monitor:
        if rank == 0:
            distributed.barrier()
        begun = time.monotonic()
        list(steps_of(model, optimizer, rank, range(1)))
        took = time.monotonic() - begun
        if rank == 1:
            distributed.barrier()
        assert monitor.snapshots[0].ranks == 1
    return took


def test_a_rank_that_has_left_is_not_waited_for_by_one_that_comes_later() -> None:
    first, second = run_ranks(comes_late, 2)
    assert first.value < 7
    assert "rank 1 has left" in warnings_of(first)[0]
    assert "rank 0 had no monitor that merges" in "".join(second.log)


def never_met(rank: int, world: int) -> None:
    """No step was recorded; one process, the host of the store maybe, ends before the other closes its monitor."""
    model = net()
    optimizer = sgd(model)
    monitor = Monitor(model, optimizer, **OPTIONS)
    store: Any = distributed.distributed_c10d._get_default_store()
    type(store).clone = broken  # whoever connects now may wait for half an hour
    monitor.close()


def test_R48_closing_does_not_connect() -> None:
    for outcome in run_ranks(never_met, 2, timeout_s=30):
        assert outcome.log == []


def local_sgd(rank: int, world: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.distributed.optim scripts functions as it is imported
        from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
        from torch.distributed.optim import PostLocalSGDOptimizer

    ddp = DistributedDataParallel(net())
    optimizer = PostLocalSGDOptimizer(sgd(ddp), PeriodicModelAverager(period=2, warmup_steps=0))
    with Monitor(ddp, optimizer, **OPTIONS) as monitor:
        list(steps_of(ddp, optimizer, rank, range(4)))
    return len(monitor.snapshots)


def test_an_optimizer_inside_a_wrapper_of_torchs_own_is_found() -> None:
    assert [outcome.value for outcome in run_ranks(local_sgd, 2)] == [2, 2]


def test_a_torch_that_knows_of_no_processes_is_enough() -> None:
    code = (
        "import torch._C as c\n"
        "[delattr(c, name) for name in ('_c10d_init', '_rpc_init', '_distributed_c10d') if hasattr(c, name)]\n"
        "import torch.distributed as d\n"
        "assert not d.is_available()\n"
        "import torch, actdiag\n"
        "net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())\n"
        "sgd = torch.optim.SGD(net.parameters(), lr=0.1)\n"
        "with actdiag.Monitor(net, sgd) as monitor:\n"
        "    net(torch.ones(2, 2)).sum().backward(); sgd.step()\n"
        "print(len(monitor.snapshots))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.strip() == "1", done.stderr
