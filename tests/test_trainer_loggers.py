"""A trainer's other loggers get the curves without being named: Lightning's, those of `report_to`, and Ignite's."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ignite.handlers import TensorboardLogger

from actdiag import ConfigError, Monitor, loggers
from actdiag.ignite import attach
from actdiag.report.read import read_runs
from tests.logging_to import STEPS, Store, hands_on
from tests.ranks import run_ranks
from tests.regimes import regime
from tests.test_ignite import batches, engine, model
from tests.trainers import EVERY_STEP, TrainerCallback, trainer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers.integrations import TensorBoardCallback

    from actdiag.lightning import ActivationMonitor
    from actdiag.transformers import ActivationMonitorCallback
    from tests.test_lightning import NAMESPACES, fit

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(params=NAMESPACES)
def L(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield NAMESPACES[request.param]


def said(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if word in record.getMessage()]


# Lightning ----------------------------------------------------------------------------------------------


def table(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.rglob("metrics.csv")
    with path.open() as lines:
        return list(csv.DictReader(lines))


@regime(
    "Lightning",
    "loggers beside TensorBoard: CSV, Weights & Biases, MLflow, the user's own",
    exact="the curves of TensorBoard's Scalars page, one call a recorded step, at the trainer's own steps",
    not_observed="histograms, unit maps and the words of findings go into an event file of our own",
    proves=("R36",),
)
def test_the_csv_logger_has_a_row_of_curves_at_each_recorded_step_beside_the_loss(L: Any, tmp_path: Path) -> None:
    callback = ActivationMonitor(max_overhead=None)
    fit(L, tmp_path, callback, logger=L.loggers.CSVLogger(str(tmp_path / "csv")), log_every_n_steps=1)
    rows = table(tmp_path / "csv")
    ours = [row for row in rows if row["actdiag_rms/net.1"]]
    losses = (
        [row for row in rows if row["loss_step"]] if "loss_step" in rows[0] else [row for row in rows if row["loss"]]
    )
    assert [int(row["step"]) for row in ours] == [s.step for s in callback.snapshots] == list(range(12))
    assert {row["step"] for row in ours} <= {row["step"] for row in losses}, "steps are the trainer's own"
    for row, snapshot in zip(ours, callback.snapshots, strict=True):
        assert float(row["actdiag_rms/net.1"]) == snapshot.sites["net.1"].rms
        assert float(row["actdiag/findings_open"]) == len([f for f in callback.findings if f.step <= snapshot.step])
    assert [s.step for s in read_runs(tmp_path)[0].snapshots] == list(range(12)), "the whole goes into an event file"


def logger_of(L: Any, *, broken: bool = False) -> Any:
    class Logger(L.loggers.logger.Logger):  # type: ignore[misc]
        """A logger of the user's own."""

        name, version = "mine", "0"

        def __init__(self) -> None:
            super().__init__()
            self.store, self.calls = Store(), 0

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if any("actdiag" in name for name in metrics):
                self.calls += 1
                if broken:
                    raise OSError("no route to host")
                assert step is not None
                self.store(metrics, step)

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    return Logger()


def test_every_logger_is_called_once_a_recorded_step_with_or_without_tensorboard(L: Any, tmp_path: Path) -> None:
    first, second = logger_of(L), logger_of(L)
    board = L.loggers.TensorBoardLogger(str(tmp_path))
    callback = ActivationMonitor(max_overhead=None)
    fit(L, tmp_path, callback, logger=[first, board, second])
    assert first.store.calls == second.store.calls and first.store.steps == (0, 4, 8)
    assert [s.step for s in read_runs(tmp_path)[0].snapshots] == [0, 4, 8]
    assert not (tmp_path / "actdiag").exists(), "no file of our own beside the TensorBoard logger's"


def test_loggers_off_leaves_them_alone_and_the_event_file_whole(L: Any, tmp_path: Path) -> None:
    mine = logger_of(L)
    fit(L, tmp_path, ActivationMonitor(loggers="off"), logger=mine)
    assert mine.calls == 0 and read_runs(tmp_path)[0].snapshots


def test_a_dry_run_logs_nothing(L: Any, tmp_path: Path) -> None:
    mine = logger_of(L)
    fit(L, tmp_path, ActivationMonitor(), logger=mine, fast_dev_run=2)
    assert mine.calls == 0


def test_a_logger_that_fails_costs_one_warning_and_the_fit_goes_on(
    L: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = logger_of(L, broken=True), logger_of(L)
    done = fit(L, tmp_path, ActivationMonitor(max_overhead=None), logger=[broken, sound])
    assert said(caplog, "failed") == ["actdiag: writer Logger failed and is switched off (no route to host)"]
    assert done.global_step == 12 and broken.calls == 1 and sound.store.steps == (0, 4, 8)


def test_two_callbacks_with_prefixes_share_a_logger(L: Any, tmp_path: Path) -> None:
    mine = logger_of(L)
    callbacks = [ActivationMonitor(max_overhead=None, prefix=prefix) for prefix in ("", "b")]
    fit(L, tmp_path, *callbacks, logger=mine)
    assert mine.store.steps == (0, 0, 4, 4, 8, 8)
    assert {name.partition("actdiag")[0] for name in mine.store.names} == {"", "b."}


# Hugging Face's Trainer ---------------------------------------------------------------------------------


class Listening(TrainerCallback):  # type: ignore[misc]
    """Any other callback, as a progress bar is: it must not hear of our numbers."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.heard.append(logs)


def integration(*, broken: bool = False, name: str = "StoreCallback") -> Any:
    """What stands in `transformers.integrations` for a tracker of `report_to`."""

    def on_log(self: Any, args: Any, state: Any, control: Any, model: Any = None, logs: Any = None, **_: Any) -> None:
        if any(key.startswith("actdiag") for key in logs):
            control.should_training_stop = True  # of a copy
            if broken:
                raise OSError("quota exceeded")
            self.store(logs, state.global_step)
        else:
            self.losses.append(state.global_step)

    kind = type(name, (TrainerCallback,), {"on_log": on_log, "__module__": "transformers.integrations.store"})
    found = kind()
    found.store, found.losses = Store(), []
    return found


@regime(
    "trainers",
    "other trackers of report_to: Weights & Biases, MLflow, Trackio",
    exact="the same curves by their callbacks' own on_log, at the Trainer's own steps; nothing in its history",
    not_observed="DVCLive, whose on_log ends a step of its own",
)
def test_the_trackers_of_a_trainer_are_told_and_its_history_and_console_are_not(tmp_path: Path) -> None:
    tracker, other = integration(), Listening()
    callback = ActivationMonitorCallback(max_overhead=None)
    done = trainer(tmp_path, callback, tracker, other, logging_steps=2)
    done.train()
    assert tracker.store.steps == (1, 2, 4, 6) and set(tracker.losses) == {2, 4, 6}
    assert tracker.store.calls[1][1]["actdiag_rms/net.1"] == callback.snapshots[1].sites["net.1"].rms
    assert done.state.global_step == 6
    told = [*done.state.log_history, *other.heard]
    assert told and not [name for entry in told for name in entry if name.startswith("actdiag")]
    (run,) = read_runs(tmp_path)
    assert [s.step for s in run.snapshots] == [1, 2, 4, 6], "the whole goes into an event file"


def test_a_tracker_whose_log_ends_a_step_of_its_own_is_left_alone(tmp_path: Path) -> None:
    tracker = integration(name="DVCLiveCallback")
    trainer(tmp_path, ActivationMonitorCallback(**EVERY_STEP), tracker, report_to="tensorboard").train()
    assert tracker.store.calls == []


def test_a_tracker_that_fails_costs_one_warning_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = integration(broken=True)
    done = trainer(tmp_path, ActivationMonitorCallback(**EVERY_STEP), broken)
    done.train()
    assert said(caplog, "failed") == ["actdiag: writer StoreCallback failed and is switched off (quota exceeded)"]
    assert done.state.global_step == 6 and len(broken.losses) > 0


def test_loggers_off_leaves_trackers_alone(tmp_path: Path) -> None:
    tracker = integration()
    trainer(tmp_path, ActivationMonitorCallback(**EVERY_STEP, loggers="off"), tracker).train()
    assert tracker.store.calls == [] and tracker.losses


def test_tensorboards_own_callback_is_not_told_twice(tmp_path: Path) -> None:
    trainer(tmp_path, ActivationMonitorCallback(**EVERY_STEP), report_to="tensorboard").train()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (path,) = tmp_path.rglob("*tfevents*")
    events = EventAccumulator(str(path))
    events.Reload()
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("train/actdiag")]
    assert loggers.integration(TensorBoardCallback(), None, None, None) is None, "nor before it has a writer"


# Ignite -------------------------------------------------------------------------------------------------


class Forwarding:
    """Ignite's loggers of other stores: whatever they do not have is asked of the store's module."""

    def __init__(self) -> None:
        self.store = Store()

    def close(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        if name == "log_metrics":
            return lambda metrics, step=None: self.store(metrics, step)
        raise AttributeError(name)


def test_the_loggers_of_ignite_are_given_as_they_are(tmp_path: Path) -> None:
    net, mine, board = model(), Forwarding(), TensorboardLogger(str(tmp_path))
    running, optimizer = engine(net)
    handle = attach(running, net, optimizer, writers=[mine, board], **EVERY_STEP)
    running.run(batches())
    board.close()
    assert mine.store.steps == tuple(range(1, 7))
    assert list(read_runs(tmp_path)[0].snapshots) == handle.snapshots


def test_every_door_refuses_a_value_of_the_option_that_there_is_not() -> None:
    net = model()
    running, optimizer = engine(net)
    for door in (
        lambda: Monitor(net, optimizer, loggers="on"),
        lambda: ActivationMonitor(loggers="on"),
        lambda: ActivationMonitorCallback(loggers="on"),
        lambda: attach(running, net, optimizer, loggers="on"),
    ):
        with pytest.raises(ConfigError, match="loggers must be one of"):
            door()


# Several processes --------------------------------------------------------------------------------------


def test_only_rank_zero_hands_its_numbers_to_a_store() -> None:
    assert [outcome.value for outcome in run_ranks(hands_on, 2)] == [STEPS, ()]
