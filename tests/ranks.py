"""A function run as the ranks of a process group: N processes, torch.distributed with gloo, as under `torchrun`.

    def work(rank: int, world: int, *, size: int) -> float: ...        # at the top of a test module

    outcomes = run_ranks(work, 2, size=3)
    outcomes[1].value, outcomes[1].log, outcomes[1].stderr

Processes are forked from a server that has imported torch already, one server a test worker: the first run waits some
seconds for its imports, every other one costs a tenth of a second beyond the work. The ranks of a run have one hash
seed, for they are forks: orders of sets agree between them here, and need not under torchrun. A rank ends by os._exit:
what is registered with atexit does not run. Deterministic algorithms, one thread, warnings are errors.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import distributed

T = TypeVar("T")

PRELOADED = [
    "torch.distributed.fsdp", "torch.distributed.tensor.parallel", "torch._inductor.compile_fx", "pytest",
    "actdiag.monitor",
]  # fmt: skip
"""What the server imports once, for all ranks of all runs. None of it may start a thread, which a fork loses."""

TOLERATED = [(r"The \.grad attribute of a Tensor that is not a leaf", UserWarning)]
"""Warnings of torch's own internals: dynamo asks any tensor for .grad (safe_has_grad) where FSDP2 breaks the graph."""

_GRACE_S = 3.0  # in which the others may answer too, once one has failed: most of them wait for it, and never will

_NONE: tuple[bool, Any, list[str]] = (True, None, [])
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class RanksError(AssertionError):
    def __init__(self, ranks: Sequence[int], message: str) -> None:
        super().__init__(message)
        self.ranks = ranks


class RankFailed(RanksError):
    """`ranks` raised an exception or died unasked; the message has all tracebacks, and stacks of those that hung."""


class RanksTimeout(RanksError):
    """`ranks` neither answered nor died in time, and have been killed; the message has the stacks of their threads."""


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What a rank has left. Of one that died, as it was allowed to, `value` is None, and `log` is empty."""

    value: T
    log: list[str]
    """Records of the logger "actdiag" from DEBUG up, as "LEVEL: message", with the traceback if there is one."""
    stderr: str
    """All that the process printed, from Python or C++, on stderr and stdout."""
    died: bool = False


@dataclass
class _Rank:
    """A rank as the test sees it. `answer`: whether it went well, value or traceback, log; None until it answers."""

    number: int
    process: BaseProcess
    connection: Connection
    printed: Path
    answer: tuple[bool, Any, list[str]] | None = None

    @property
    def text(self) -> str:
        return self.printed.read_text(errors="replace")


def run_ranks(
    function: Callable[..., T], world: int = 2, *, timeout_s: float = 60, may_die: Collection[int] = (), **kwargs: Any
) -> list[Outcome[T]]:
    """Run `function(rank, world, **kwargs)` in `world` processes of one gloo process group; one Outcome a rank.

    `function` is found by module and name; arguments and results are pickled by value (no DTensors). No rank goes
    before all have answered. An exception in a rank is raised here as RankFailed, and so is a death of a rank that is
    not in `may_die`; where a rank has done neither, nor answered, after `timeout_s`, all are killed: RanksTimeout.
    """
    # The port belongs to this process before any rank asks for it, as it belongs to torchrun's agent.
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    job = pickle.dumps((function, kwargs))
    ranks: list[_Rank] = []
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        try:
            for number in range(world):  # one by one: those started are ended if the next cannot be
                ranks += [_start(number, world, store.port, job, Path(folder) / f"{number}.txt")]
            _gather(ranks, timeout_s, may_die)
            hung = [rank for rank in ranks if rank.answer is None and rank.process.is_alive()]
            _dump(hung)
            _raise_what_failed(ranks, hung, may_die)
            return [Outcome(*(rank.answer or _NONE)[1:], rank.text, rank.answer is None) for rank in ranks]
        finally:
            _end(ranks)


def _start(number: int, world: int, port: int, job: bytes, printed: Path) -> _Rank:
    here, there = _context.Pipe()
    process = _context.Process(target=_main, args=(number, world, port, job, there, str(printed)), daemon=True)
    printed.touch()
    process.start()
    there.close()  # the rank alone holds it: its death is an end of file here
    return _Rank(number, process, here, printed)


def _gather(ranks: Sequence[_Rank], timeout_s: float, may_die: Collection[int]) -> None:
    """Wait until every rank has answered or died, or the time is over; it is soon over once one has failed."""
    deadline = time.monotonic() + timeout_s
    waiting = {rank.connection: rank for rank in ranks}
    while waiting:
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            return
        for connection in ready:
            rank = waiting.pop(cast(Connection, connection))
            try:
                rank.answer = pickle.loads(rank.connection.recv_bytes())
            except (EOFError, OSError):
                rank.process.join()
            if rank.number not in may_die if rank.answer is None else not rank.answer[0]:
                deadline = min(deadline, time.monotonic() + _GRACE_S)


def _dump(hung: Sequence[_Rank]) -> None:
    """Have ranks that hang print the stacks of their threads and die (faulthandler does both, on SIGABRT)."""
    for rank in hung:
        assert rank.process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(rank.process.pid, signal.SIGABRT)
            os.kill(rank.process.pid, signal.SIGCONT)  # it may have been stopped
    for rank in hung:
        rank.process.join(5)


def _raise_what_failed(ranks: Sequence[_Rank], hung: Sequence[_Rank], may_die: Collection[int]) -> None:
    failed, parts = [], []
    for rank in ranks:
        if rank in hung:
            parts.append(f"rank {rank.number} hung, killed\n{rank.text}")
        elif rank.answer is not None and not rank.answer[0]:
            failed.append(rank.number)
            parts.append(f"rank {rank.number} raised\n{rank.answer[1]}")
        elif rank.answer is None and rank.number not in may_die:
            failed.append(rank.number)
            parts.append(f"rank {rank.number} died (exit code {rank.process.exitcode})\n{rank.text}")
    if failed:
        raise RankFailed(failed, "\n".join(parts))
    if hung:
        raise RanksTimeout([rank.number for rank in hung], "\n".join(parts))


def _end(ranks: Sequence[_Rank]) -> None:
    """Let those go that have answered, and leave no process behind."""
    for rank in ranks:
        rank.connection.close()
        if rank.answer is None:
            rank.process.kill()
    for rank in ranks:
        rank.process.join(5)
        rank.process.kill()
        rank.process.join()
        rank.process.close()


def _main(rank: int, world: int, port: int, job: bytes, connection: Connection, printed: str) -> None:
    """The process of a rank, from its start to its answer; it ends when the test lets go of the connection."""
    _settle(rank, world, port, printed)
    with listening() as log:
        try:
            distributed.init_process_group("gloo", init_method="env://")
            function, kwargs = pickle.loads(job)
            answer = pickle.dumps((True, function(rank, world, **kwargs), log))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc(), log))
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(EOFError, OSError):
        connection.send_bytes(answer)
        connection.recv_bytes()


def _settle(rank: int, world: int, port: int, printed: str) -> None:
    """The surroundings of a rank: torchrun's environment, its output in a file, stacks on SIGABRT, one thread."""
    file = os.open(printed, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    faulthandler.enable(2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("error")
    for message, category in TOLERATED:
        warnings.filterwarnings("ignore", message, category)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@contextmanager
def listening() -> Iterator[list[str]]:
    """The list that records of the logger "actdiag" are added to meanwhile, from DEBUG up; may be nested."""
    logger, handler = logging.getLogger("actdiag"), _Lines()
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
