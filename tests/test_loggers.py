"""Stores of metrics beside TensorBoard get the curves, by their own interface, through every door."""

from __future__ import annotations

import csv
import math
import re
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import actdiag
from actdiag import ConfigError, ScalarWriter
from actdiag.report.read import read_runs
from tests.logging_to import STEPS, Broken, Comet, Net, Store, train, wide

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker, on_main_process
    from lightning.fabric import Fabric
    from lightning.fabric.loggers import CSVLogger, TensorBoardLogger

PORTABLE = re.compile(r"[A-Za-z0-9_./-]+")


def scalars_of(folder: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def said(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if word in record.getMessage()]


# What a store is given ----------------------------------------------------------------------------------


def test_a_function_gets_the_curves_of_tensorboard_in_one_call_a_recorded_step(tmp_path: Path) -> None:
    store = Store()
    train(store, log_dir=tmp_path)
    assert store.steps == STEPS
    curves = scalars_of(tmp_path)
    for step, metrics in store.calls:
        there = {tag.replace("#", "_").replace(":", "_"): of[step] for tag, of in curves.items() if step in of}
        assert metrics.keys() == there.keys()
        assert all(metrics[name] == pytest.approx(value, rel=1e-6) for name, value in there.items())


def test_names_hold_no_character_that_a_store_refuses() -> None:
    store = Store()
    train(store, prefix="gan_d")
    assert all(PORTABLE.fullmatch(name) and name.startswith("gan_d.actdiag") for name in store.names)
    assert {"gan_d.actdiag_rms/relu_0", "gan_d.actdiag_rms/first_in", "gan_d.actdiag/findings_open"} <= store.names


def test_two_layers_whose_names_are_spelled_alike_keep_a_curve_each() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("a b", nn.Linear(4, 4))
            self.add_module("a_b", nn.Linear(4, 4))

        def forward(self, x: Any) -> Any:
            return self._modules["a_b"](self._modules["a b"](x))  # type: ignore[misc]

    store = Store()
    train(store, model=Named())
    assert {"actdiag_rms/a_b", "actdiag_rms/a_b_"} <= store.names
    assert all(metrics["actdiag_rms/a_b"] != metrics["actdiag_rms/a_b_"] for _, metrics in store.calls)


def test_what_does_not_apply_is_left_out_and_what_is_infinite_is_told() -> None:
    store = Store()
    train(store, infinite_at=4)
    values = [value for _, metrics in store.calls for value in metrics.values()]
    assert all(isinstance(value, float) and not math.isnan(value) for value in values)
    last = store.calls[-1][1]
    assert last["actdiag/grad_norm_total"] == math.inf and last["actdiag/findings_open"] == 1
    assert store.calls[0][1]["actdiag/findings_open"] == 0
    assert "actdiag/loss_scale" not in store.names, "there is no scaler"


@pytest.mark.parametrize(("detail", "layers"), [("summary", range(12, 17)), ("full", [61]), ("model", [0])])
def test_the_detail_of_other_loggers_is_an_option_of_its_own(detail: str, layers: Any, tmp_path: Path) -> None:
    store = Store()
    train(store, model=wide(30), log_dir=tmp_path, detail="full", loggers=detail, end_step=1)
    assert len([name for name in store.names if name.startswith("actdiag_zero_fraction/")]) in layers
    assert len([name for name in store.names if name.startswith("actdiag/")]) >= 8
    assert len([tag for tag in scalars_of(tmp_path) if tag.startswith("actdiag_zero_fraction/")]) == 61


def test_a_network_of_a_thousand_layers_is_120_curves_by_default() -> None:
    store = Store()
    train(store, model=wide(500), end_step=1)
    assert 60 < len(store.names) < 130


# What a store may be ------------------------------------------------------------------------------------


def test_the_step_is_named_where_a_store_names_it() -> None:
    comet, order = Comet(), Store()
    train(comet, lambda values, when: order(values, when))
    assert comet.steps == order.steps == STEPS


def test_a_writer_with_a_detail_of_its_own_stands_beside_another() -> None:
    small, large = Store(), Store()
    train(ScalarWriter(small, detail="model"), large, loggers="full")
    assert small.names < large.names and all(name.startswith("actdiag/") for name in small.names)


@pytest.mark.parametrize(
    ("thing", "why"),
    [
        (CSVLogger, "CSVLogger is a class; give an object of it"),
        (3, r"int is no writer: it has neither write\(snapshot, changes\) and close\(\), nor log_metrics"),
        (math, "module is no writer"),
    ],
)
def test_what_cannot_take_metrics_is_refused_before_anything_is_opened(thing: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=why):
        train(thing, log_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"writers": print}, r"writers must be a list such as \[run.log\]; got builtin_function_or_method"),
        ({"writers": "runs"}, r"writers must be a list such as \[run.log\]; got str"),
        ({"writers": {}}, r"writers must be a list such as \[run.log\]; got dict"),
        ({"log_dir": 5}, "log_dir must be a path such as 'runs/one', or None; got 5"),
    ],
)
def test_what_is_no_list_and_no_path_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        actdiag.Monitor(nn.Linear(2, 2), **given)


def test_a_store_given_by_hand_and_loggers_off_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="loggers must be 'summary', 'full' or 'model' where writers= holds Store"):
        train(Store(), loggers="off")
    with pytest.raises(ConfigError, match="loggers must be one of 'summary', 'full', 'model', 'off'; got 'none'"):
        train(Store(), loggers="none")


def test_a_store_that_fails_costs_one_warning_that_names_it_and_nothing_else(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    broken, sound = Broken(), Store()
    train(broken, sound, log_dir=tmp_path)
    assert said(caplog, "failed") == ["actdiag: writer Broken failed and is switched off (quota exceeded)"]
    assert broken.calls == 1 and sound.steps == STEPS
    assert [s.step for s in read_runs(tmp_path)[0].snapshots] == list(STEPS)


def test_a_second_monitor_of_a_prefix_leaves_a_store_to_the_first(caplog: pytest.LogCaptureFixture) -> None:
    store, models = Comet(), [wide(1), wide(1)]
    monitors = [actdiag.Monitor(model, writers=[store]) for model in models]
    assert len(said(caplog, "another monitor writes to the same logger with prefix=''")) == 1
    monitors[0].close()
    assert actdiag.Monitor(models[0], writers=[store]) and len(said(caplog, "another monitor writes")) == 1


def test_what_a_slow_store_takes_counts_as_cost_and_lengthens_the_interval() -> None:
    class Slow(Store):
        def __call__(self, metrics: Any, step: int) -> None:
            super().__call__(metrics, step)
            clock.now += 0.5

    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    clock, store, model = Clock(), Slow(), Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with actdiag.Monitor(model, optimizer, writers=[store], log_every_n_steps=10, attentive=False) as monitor:
        monitor._session.schedule.budget.timeline.clock = clock
        for _ in range(400):
            clock.now += 0.01
            optimizer.zero_grad()
            model(torch.ones(4, 4)).sum().backward()
            optimizer.step()
    gaps = [later - earlier for earlier, later in pairwise(store.steps)]
    assert len(store.steps) < 12 and gaps[0] == 10 and gaps[-1] > 40
    assert monitor.latest is not None and monitor.latest.overhead_ms == pytest.approx(500)


# Fabric and Accelerate ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_the_loggers_of_fabric_are_given_as_they_are(tmp_path: Path) -> None:
    loggers = [CSVLogger(str(tmp_path), name="csv"), TensorBoardLogger(str(tmp_path), name="tb")]
    fabric = Fabric(accelerator="cpu", devices=1, loggers=loggers)
    monitor = train(*fabric.loggers)
    for one in loggers:
        one.finalize("success")
    rows = list(csv.DictReader((tmp_path / "csv" / "version_0" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == list(STEPS)
    assert float(rows[0]["actdiag_rms/relu_1"]) == pytest.approx(monitor.snapshots[0].sites["relu#1"].rms)
    (run,) = read_runs(tmp_path)
    assert list(run.snapshots) == monitor.snapshots, "the TensorBoard logger has everything, in its own run"


@pytest.mark.filterwarnings("ignore")
def test_the_log_dict_of_fabric_is_such_a_function(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, loggers=CSVLogger(str(tmp_path), name="csv"))
    train(fabric.log_dict)
    fabric.logger.finalize("success")
    rows = list(csv.DictReader((tmp_path / "csv" / "version_0" / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == list(STEPS)


class Tracker(GeneralTracker):  # type: ignore[misc]
    """A tracker of Accelerate that remembers."""

    name, requires_logging_directory = "mine", False

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()

    @property
    def tracker(self) -> Store:
        return self.store

    @on_main_process  # type: ignore[untyped-decorator]
    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        assert step is not None
        self.store(values, step)


@pytest.mark.filterwarnings("ignore")
def test_the_trackers_of_accelerate_are_given_as_they_are(tmp_path: Path) -> None:
    accelerator = Accelerator(log_with=[Tracker(), "tensorboard"], project_dir=tmp_path, cpu=True)
    accelerator.init_trackers("run")
    monitor = train(*accelerator.trackers)
    accelerator.end_training()
    assert accelerator.get_tracker("mine", unwrap=True).steps == STEPS
    assert [list(run.snapshots) for run in read_runs(tmp_path) if run.snapshots] == [monitor.snapshots]


@pytest.mark.filterwarnings("ignore")
def test_the_log_of_accelerate_is_such_a_function() -> None:
    tracker = Tracker()
    accelerator = Accelerator(log_with=tracker, cpu=True)
    accelerator.init_trackers("run")
    train(accelerator.log)
    assert tracker.store.steps == STEPS
