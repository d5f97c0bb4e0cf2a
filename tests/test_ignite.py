"""The door for PyTorch Ignite: it tells of a run what a plain Monitor tells, and leaves the model as it was."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver, TensorboardLogger
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from actdiag import ConfigError, FindingError, MemoryWriter, Monitor, Snapshot
from actdiag.ignite import Attached, attach
from actdiag.report.read import read_runs
from tests.conftest import assert_untouched
from tests.regimes import regime
from tests.trainers import EVERY_STEP, numbers

ROWS = 8
LOSS = nn.CrossEntropyLoss()


def model(*, poison: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    if poison:
        with torch.no_grad():
            net[2].weight[0, 0] = float("nan")
    return net


def batches(n: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n * ROWS, 6, generator=generator)
    return list(zip(x.split(ROWS), (x[:, 0] > 0).long().split(ROWS), strict=True))


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)


def engine(net: nn.Module, *, accumulate: int = 1) -> tuple[Engine, torch.optim.Optimizer]:
    optimizer = sgd(net)
    return create_supervised_trainer(net, optimizer, LOSS, gradient_accumulation_steps=accumulate), optimizer


def attached(*, poison: bool = False, accumulate: int = 1, **options: Any) -> tuple[Engine, nn.Module, Attached]:
    net = model(poison=poison)
    trainer, optimizer = engine(net, accumulate=accumulate)
    return trainer, net, attach(trainer, net, optimizer, **{**EVERY_STEP, **options})


def steps(handle: Attached) -> list[int]:
    return [snapshot.step for snapshot in handle.snapshots]


def plain(n: int = 6, *, accumulate: int = 1) -> list[Snapshot]:
    net = model()
    optimizer = sgd(net)
    with Monitor(net, optimizer, **EVERY_STEP) as monitor:
        for index, (x, y) in enumerate(batches(n)):
            (LOSS(net(x), y) / accumulate).backward()
            if (index + 1) % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
    return monitor.snapshots


def theirs(handle: Attached) -> list[dict[str, Any]]:
    return numbers(handle.snapshots)


@regime(
    "trainers",
    "PyTorch Ignite: `attach`, with `gradient_accumulation_steps`",
    exact="the numbers of a Monitor around the same plain loop, at the iterations in which the optimizer steps",
    proves=("R13",),
)
@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_an_engine_is_told_of_as_a_plain_loop_is(accumulate: int) -> None:
    trainer, net, handle = attached(accumulate=accumulate)
    trainer.run(batches(), max_epochs=1)
    assert theirs(handle) == numbers(plain(accumulate=accumulate))
    assert steps(handle) == list(range(accumulate, 7, accumulate))
    assert {snapshot.epoch for snapshot in handle.snapshots} == {1}
    assert_untouched(net)
    assert "Tanh" in handle.report() and handle.latest is handle.snapshots[-1] and handle.findings == []


def test_R51_the_training_is_the_same_with_and_without() -> None:
    found = []
    for observed in (False, True):
        net = model()
        trainer, optimizer = engine(net)
        if observed:
            attach(trainer, net, optimizer, **EVERY_STEP)
        losses: list[float] = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e, told=losses: told.append(e.state.output))
        trainer.run(batches(), max_epochs=2)
        found.append((losses, net.state_dict(), torch.get_rng_state()))
    assert found[0][0] == found[1][0] and len(found[0][0]) == 12
    assert all(torch.equal(a, b) for a, b in zip(found[0][1].values(), found[1][1].values(), strict=True))
    assert torch.equal(found[0][2], found[1][2])


@pytest.mark.parametrize("kind", ["tensorboardX", "torch"])
def test_R13_R63_it_writes_into_ignites_own_run_on_the_points_of_the_loss(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if kind == "torch":
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
    logger = TensorboardLogger(str(tmp_path))
    assert isinstance(logger.writer, SummaryWriter) == (kind == "torch")
    trainer, _, handle = attached(writers=[logger.writer])
    logger.attach_output_handler(
        trainer, Events.ITERATION_COMPLETED, tag="training", output_transform=lambda loss: {"loss": loss}
    )
    trainer.run(batches(), max_epochs=1)
    logger.close()
    assert len(list(tmp_path.glob("*tfevents*"))) == 1
    (run,) = read_runs(tmp_path)
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert list(run.snapshots) == handle.snapshots
    assert [one.step for one in run.snapshots] == [event.step for event in accumulator.Scalars("training/loss")]


def test_a_run_directory_and_writers_are_written_to_and_closed(tmp_path: Path) -> None:
    memory = MemoryWriter()
    trainer, _, handle = attached(log_dir=tmp_path, writers=[memory], log_every_n_steps=4)
    trainer.run(batches(), max_epochs=2)
    assert [one.step for one in memory.snapshots] == [1, 4, 8, 12] == steps(handle) and memory.closed
    assert [one.step for one in read_runs(tmp_path)[0].snapshots] == [1, 4, 8, 12]


@regime("trainers", "an Ignite evaluator between iterations", exact="no hook is on the model, the numbers are the same")
def test_R65_nothing_is_on_the_model_in_evaluation_nor_between_two_steps() -> None:
    trainer, net, handle = attached()
    evaluator = create_supervised_evaluator(net)
    seen: list[int] = []

    def look(*_: Any) -> None:
        assert_untouched(net)
        seen.append(1)

    evaluator.add_event_handler(Events.ITERATION_STARTED, look)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: evaluator.run(batches(1)))
    trainer.run(batches(), max_epochs=1)
    assert len(seen) == 6 and theirs(handle) == numbers(plain())


def test_R43_stop_on_terminates_the_run_after_the_iteration() -> None:
    trainer, net, handle = attached(poison=True, stop_on="error")
    trainer.run(batches(), max_epochs=3)
    assert trainer.state.iteration == 1 and steps(handle) == [1]
    assert_untouched(net)


def test_raise_on_raises_out_of_the_run() -> None:
    trainer, net, _ = attached(poison=True, raise_on="error")
    with pytest.raises(FindingError):
        trainer.run(batches(), max_epochs=1)
    assert_untouched(net)


class Mine(Exception):
    """Raised by a training step."""


def failing(error: BaseException) -> tuple[Engine, nn.Module, torch.optim.Optimizer]:
    """An engine that fails in its third iteration, between the forward and the update."""
    net = model()
    optimizer = sgd(net)

    def step(trainer: Engine, batch: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        loss = LOSS(net(batch[0]), batch[1])
        if trainer.state.iteration == 3:
            raise error
        loss.backward()
        optimizer.step()

    return Engine(step), net, optimizer


@pytest.mark.parametrize("error", [Mine(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("handles", [1, 2])
def test_R60_R61_an_error_or_ctrl_c_leaves_the_model_as_it_was_and_is_raised(
    error: BaseException, handles: int
) -> None:
    trainer, net, optimizer = failing(error)
    several = [attach(trainer, net, optimizer, **EVERY_STEP, prefix=f"p{i}") for i in range(handles)]
    with pytest.raises(type(error)):
        trainer.run(batches(), max_epochs=1)
    assert_untouched(net)
    assert [steps(handle) for handle in several] == [[1, 2]] * handles


def test_an_error_is_raised_as_ever_after_the_handle_was_closed() -> None:
    trainer, net, optimizer = failing(Mine())
    attach(trainer, net, optimizer).close()
    with pytest.raises(Mine):
        trainer.run(batches(), max_epochs=1)


@pytest.mark.parametrize("first", [False, True])
def test_an_exception_handler_of_the_users_decides_as_it_does_without_us(first: bool) -> None:
    trainer, net, optimizer = failing(Mine())
    caught: list[BaseException] = []
    if first:
        trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda e, error: caught.append(error))
    attach(trainer, net, optimizer, **EVERY_STEP)
    if not first:
        trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda e, error: caught.append(error))
    trainer.run(batches(), max_epochs=1)
    assert len(caught) == 1
    assert_untouched(net)


def ends(trainer: Engine, how: str) -> Callable[[], None]:
    return {
        "completed": lambda: None,
        "terminated": trainer.terminate,
        "terminated without completing": lambda: trainer.terminate(skip_completed=True),
    }[how]


KNOWS_SKIP = "skip_completed" in inspect.signature(Engine.terminate).parameters
WITHOUT = pytest.param("terminated without completing", marks=pytest.mark.skipif(not KNOWS_SKIP, reason="Ignite 0.5.0"))


@pytest.mark.parametrize("how", ["completed", "terminated", WITHOUT])
def test_however_the_run_ends_it_is_closed_and_the_engine_can_run_once_more(how: str) -> None:
    memory = MemoryWriter()
    trainer, net, handle = attached(writers=[memory])
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), ends(trainer, how))
    trainer.run(batches(), max_epochs=1)
    assert memory.closed and steps(handle) == ([1, 2, 3, 4, 5, 6] if how == "completed" else [1, 2, 3, 4])
    assert_untouched(net)
    trainer.run(batches(), max_epochs=3)
    assert len(handle.snapshots) == len(memory.snapshots)


def test_an_interrupted_run_leaves_nothing_on_the_model_and_goes_on_later() -> None:
    trainer, net, handle = attached(accumulate=2)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), trainer.interrupt)
    trainer.run(batches(), max_epochs=1)
    assert trainer.state.iteration == 3
    assert_untouched(net)
    trainer.run(batches(), max_epochs=1)
    assert trainer.state.iteration == 6 and steps(handle) == [2, 6], "the step that was cut in two is left out"
    assert_untouched(net)


@regime(
    "trainers",
    "an Ignite run resumed by `Checkpoint`, with the handle among what it saves",
    exact="evidence, findings and schedule go on; the numbers of a run that was not interrupted",
    proves=("R59",),
)
def test_R59_a_resumed_run_tells_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole, _, expected = attached()
    whole.run(batches(), max_epochs=2)
    trainer, net, handle = attached()
    optimizer = handle._observed.driver._alive()[0]
    saved = {"model": net, "optimizer": optimizer, "trainer": trainer, "actdiag": handle}
    trainer.add_event_handler(Events.EPOCH_COMPLETED, Checkpoint(saved, DiskSaver(str(tmp_path))))
    trainer.run(batches(), max_epochs=1)
    (path,) = tmp_path.glob("*.pt")
    trainer, net, again = attached()
    optimizer = again._observed.driver._alive()[0]
    loaded = {"model": net, "optimizer": optimizer, "trainer": trainer, "actdiag": again}
    Checkpoint.load_objects(loaded, checkpoint=torch.load(path, weights_only=True))
    trainer.run(batches(), max_epochs=2)
    assert steps(again) == [7, 8, 9, 10, 11, 12]
    assert theirs(again) == numbers(expected.snapshots[6:])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"log_every": 3}, "did you mean"),
        ({"optimizer": None}, "got none"),
        ({"optimizer": 3}, "got int"),
        ({"writers": [3]}, "int is no writer"),
        ({"include": ["no.such.*"]}, "include"),
    ],
    ids=str,
)
def test_wrong_values_are_refused_at_once_and_nothing_is_attached(given: dict[str, Any], match: str) -> None:
    net = model()
    trainer, optimizer = engine(net)
    with pytest.raises(ConfigError, match=match):
        attach(trainer, net, **{"optimizer": optimizer, **given})
    assert_untouched(net)
    trainer.run(batches(), max_epochs=1)


def test_without_ignite_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ignite.engine", None)
    monkeypatch.delitem(sys.modules, "actdiag.ignite")
    with pytest.raises(ImportError, match=r"pip install pytorch-ignite"):
        importlib.import_module("actdiag.ignite")
