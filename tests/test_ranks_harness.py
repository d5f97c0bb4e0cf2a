"""The harness of the tests that need several processes: what it says of ranks that fail, hang or die."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from tests.ranks import RankFailed, RanksTimeout, run_ranks


def children() -> set[str]:
    """Processes forked by this worker's server: ranks, if any are left. Zombies, which only wait to be read, too."""
    from multiprocessing.forkserver import _forkserver

    server = getattr(_forkserver, "_forkserver_pid", None)
    listed = Path(f"/proc/{server}/task/{server}/children")
    return set(listed.read_text().split()) if server else set()


@pytest.fixture(autouse=True)
def nobody_stays() -> Any:
    yield
    for pid in children():  # one that has ended is read by the server in its own time; one that runs would stay
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z", f"process {pid} is left"


def add(rank: int, world: int, *, value: int) -> tuple[torch.Tensor, int, int]:
    total = torch.tensor([value + rank])
    distributed.all_reduce(total)
    return total, world, torch.get_num_threads()


def test_each_rank_answers_with_its_value() -> None:
    outcomes = run_ranks(add, 3, value=5)
    assert [int(outcome.value[0]) for outcome in outcomes] == [18, 18, 18]
    assert {outcome.value[1:] for outcome in outcomes} == {(3, 1)}
    assert not any(outcome.log or outcome.stderr or outcome.died for outcome in outcomes)


def speak(rank: int, world: int) -> None:
    logging.getLogger("actdiag").info("rank %d of %d", rank, world)
    logging.getLogger("other").error("not ours")
    print("printed", rank)
    os.write(2, b"from C\n")


def test_what_a_rank_logs_and_prints_is_its_own() -> None:
    for rank, outcome in enumerate(run_ranks(speak)):
        assert outcome.log == [f"INFO: rank {rank} of 2"]
        assert outcome.stderr.count("printed") == 1 and f"printed {rank}" in outcome.stderr
        assert "from C" in outcome.stderr


def refuse(rank: int, world: int) -> None:
    if rank == 1:
        raise KeyError("the reason")
    distributed.barrier()


def test_an_exception_names_its_rank_and_does_not_wait_for_those_that_wait() -> None:
    start = time.monotonic()
    with pytest.raises(RankFailed, match="rank 1 raised") as caught:
        run_ranks(refuse, timeout_s=50)
    assert time.monotonic() - start < 25
    message = str(caught.value)
    assert caught.value.ranks == [1]
    assert "KeyError: 'the reason'" in message and "in refuse" in message
    assert "rank 0 hung" in message and "in barrier" in message, "the stack of the other"


def warn(rank: int, world: int) -> None:
    if rank == 0:
        warnings.warn("not tolerated", UserWarning, stacklevel=1)


def unpicklable(rank: int, world: int) -> Any:
    return (lambda: rank) if rank == 0 else rank


@pytest.mark.parametrize(("function", "said"), [(warn, "UserWarning: not tolerated"), (unpicklable, "pickle")])
def test_a_warning_is_an_error_and_so_is_a_value_that_cannot_be_sent(function: Any, said: str) -> None:
    with pytest.raises(RankFailed, match=said) as caught:
        run_ranks(function)
    assert caught.value.ranks == [0]


def hang(rank: int, world: int, *, who: tuple[int, ...], how: str) -> int:
    if rank in who and how == "wait":
        signal.pause()
    elif rank in who:
        os.kill(os.getpid(), signal.SIGSTOP)
        signal.pause()  # the threads of a process stop one after the other, and this one may go on a little
    return rank


@pytest.mark.parametrize(("who", "how"), [((1,), "wait"), ((0, 2), "wait"), ((0,), "stop")])
def test_a_hang_is_told_in_time_with_the_ranks_and_their_stacks(who: tuple[int, ...], how: str) -> None:
    start = time.monotonic()
    with pytest.raises(RanksTimeout, match=r"in hang") as caught:
        run_ranks(hang, 3, timeout_s=2, who=who, how=how)
    assert time.monotonic() - start < 20
    assert caught.value.ranks == list(who)
    for rank in range(3):
        assert (f"rank {rank} hung" in str(caught.value)) == (rank in who)


def die(rank: int, world: int, *, how: int) -> str:
    if rank == 1:
        os.kill(os.getpid(), how)
    try:
        distributed.barrier()
    except RuntimeError as error:
        return type(error).__name__
    return "no error"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGABRT])
def test_a_rank_may_die_and_the_others_answer(how: int) -> None:
    work: Callable[..., str | None] = die
    there, gone = run_ranks(work, may_die={1}, how=int(how))
    assert (there.value, there.died) == ("RuntimeError", False)
    assert gone.died and gone.value is None
    assert ("in die" in gone.stderr) == (how == signal.SIGABRT), "a crash prints its stack"


def test_a_death_that_was_not_allowed_is_a_failure() -> None:
    with pytest.raises(RankFailed, match=r"rank 1 died \(exit code -9\)") as caught:
        run_ranks(die, how=int(signal.SIGKILL))
    assert caught.value.ranks == [1]


def leave(rank: int, world: int) -> None:
    sys.exit(3)


def test_leaving_is_an_exception_too() -> None:
    with pytest.raises(RankFailed, match="SystemExit: 3") as caught:
        run_ranks(leave)
    assert caught.value.ranks == [0, 1]
