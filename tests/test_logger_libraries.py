"""Real stores of metrics, on this machine alone: Weights & Biases offline, MLflow in files, Trackio in a database.

Each is asked, by its own reader, for what it was given: by a plain loop and by the doors whose trainers log with it.
"""

from __future__ import annotations

import json
import math
import struct
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from actdiag.report.read import read_runs
from tests.logging_to import STEPS, train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_lightning

    from actdiag.lightning import ActivationMonitor
    from actdiag.transformers import ActivationMonitorCallback
    from tests.test_lightning import fit
    from tests.trainers import trainer

pytestmark = pytest.mark.filterwarnings("ignore")

needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="pip install wandb")
needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="pip install mlflow-skinny")
needs_trackio = pytest.mark.skipif(find_spec("trackio") is None, reason="pip install trackio")
CURVE = "actdiag_rms/relu_1"
BLOCK = 32768


@pytest.fixture(autouse=True)
def nothing_leaves_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": tmp_path, "WANDB_ERROR_REPORTING": "false",
        "WANDB_CACHE_DIR": tmp_path, "WANDB_CONFIG_DIR": tmp_path, "WANDB_DATA_DIR": tmp_path, "DO_NOT_TRACK": "true",
        "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "TRACKIO_DIR": tmp_path,
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)


# MLflow -------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[Any]:
    found = pytest.importorskip("mlflow")
    found.set_tracking_uri((tmp_path / "mlruns").as_uri())
    yield found
    if found.active_run() is not None:
        found.end_run()


def kept(mlflow: Any, name: str) -> list[tuple[int, float]]:
    """The history of a metric in the only run of the store, by step: it may be written from a pool of threads."""
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name))


def test_mlflow_itself_is_such_a_logger(mlflow: Any) -> None:
    with mlflow.start_run():
        monitor = train(mlflow, infinite_at=4)
    assert kept(mlflow, CURVE) == [(s.step, s.sites["relu#1"].rms) for s in monitor.snapshots]
    assert [step for step, _ in kept(mlflow, CURVE)] == list(STEPS)
    norms = [value for _, value in kept(mlflow, "actdiag/grad_norm_total")]
    assert [math.isinf(value) for value in norms] == [False, False, True]


@needs_mlflow
def test_lightnings_mlflow_logger_has_the_curves_beside_the_loss(mlflow: Any, tmp_path: Path) -> None:
    callback = ActivationMonitor(max_overhead=None)
    fit(pytorch_lightning, tmp_path, callback, logger=pytorch_lightning.loggers.MLFlowLogger("runs"))
    assert kept(mlflow, "actdiag_rms/net.1") == [(s.step, s.sites["net.1"].rms) for s in callback.snapshots]
    assert kept(mlflow, "loss_step") or kept(mlflow, "loss")


@needs_mlflow
def test_the_trainers_mlflow_has_the_curves_at_the_steps_of_the_loss(mlflow: Any, tmp_path: Path) -> None:
    callback = ActivationMonitorCallback(max_overhead=None)
    trainer(tmp_path / "out", callback, report_to="mlflow", logging_steps=2).train()
    curve = kept(mlflow, "actdiag_rms/net.1")
    assert curve == [(s.step, s.sites["net.1"].rms) for s in callback.snapshots]
    assert {step for step, _ in kept(mlflow, "loss")} <= {step for step, _ in curve}


@needs_mlflow
def test_ignites_mlflow_logger_is_such_a_logger(mlflow: Any) -> None:
    from ignite.handlers.mlflow_logger import MLflowLogger

    logger = MLflowLogger()
    train(logger)
    logger.close()
    assert [step for step, _ in kept(mlflow, CURVE)] == list(STEPS)


@needs_mlflow
def test_accelerates_mlflow_tracker_is_such_a_logger(mlflow: Any, tmp_path: Path) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(log_with="mlflow", cpu=True)
    accelerator.init_trackers("run", init_kwargs={"mlflow": {"logging_dir": str(tmp_path / "mlruns")}})
    train(*accelerator.trackers)
    accelerator.end_training()
    assert [step for step, _ in kept(mlflow, CURVE)] == list(STEPS)


# Weights & Biases ---------------------------------------------------------------------------------------


def records(path: Path) -> Iterator[bytes]:
    """The records of a file of Weights & Biases, which is a log of LevelDB's form behind 7 bytes of its own."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = BLOCK - at % BLOCK
        if room < 7:
            at += room  # no header fits any more
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part of one
            yield parts
            parts = b""


def history(run: Any) -> list[dict[str, Any]]:
    """The rows of a run that was logged offline."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    run.finish()
    wandb.teardown()  # what was logged is in the file when its process has ended
    (path,) = Path(run.dir).parent.glob("*.wandb")
    rows = []
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


@needs_wandb
def test_the_log_of_a_run_is_such_a_function(tmp_path: Path) -> None:
    import wandb

    run = wandb.init(project="p", dir=str(tmp_path))
    monitor = train(run.log)
    rows = [row for row in history(run) if CURVE in row]
    assert [(row["_step"], row[CURVE]) for row in rows] == [(s.step, s.sites["relu#1"].rms) for s in monitor.snapshots]


@needs_wandb
def test_the_log_of_ignites_wandb_logger_is_such_a_function(tmp_path: Path) -> None:
    import wandb
    from ignite.handlers.wandb_logger import WandBLogger

    logger = WandBLogger(project="p", dir=str(tmp_path))
    train(logger.log)
    assert [row["_step"] for row in history(wandb.run) if CURVE in row] == list(STEPS)


@needs_wandb
def test_lightnings_wandb_logger_has_the_curves_at_the_trainers_steps(tmp_path: Path) -> None:
    callback = ActivationMonitor(max_overhead=None)
    logger = pytorch_lightning.loggers.WandbLogger(save_dir=str(tmp_path), project="p", offline=True)
    fit(pytorch_lightning, tmp_path, callback, logger=logger)
    rows = [row for row in history(logger.experiment) if "actdiag_rms/net.1" in row]
    assert [row["trainer/global_step"] for row in rows] == [s.step for s in callback.snapshots]


@needs_wandb
def test_the_trainers_wandb_has_the_curves_among_the_trainers_own(tmp_path: Path) -> None:
    import wandb

    callback = ActivationMonitorCallback(max_overhead=None)
    trainer(tmp_path / "out", callback, report_to="wandb", logging_steps=2).train()
    rows = [row for row in history(wandb.run) if "train/actdiag_rms/net.1" in row]
    assert [row["train/global_step"] for row in rows] == [s.step for s in callback.snapshots] == [1, 2, 4, 6]
    assert [s.step for s in read_runs(tmp_path / "out")[0].snapshots] == [1, 2, 4, 6]


# Trackio ------------------------------------------------------------------------------------------------


@needs_trackio
def test_the_log_of_trackio_is_such_a_function(tmp_path: Path) -> None:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    trackio.init(project="p", name="r")
    monitor = train(trackio.log)
    trackio.finish()
    rows = [row for row in SQLiteStorage.get_logs("p", "r") if CURVE in row]
    assert [(row["step"], row[CURVE]) for row in rows] == [(s.step, s.sites["relu#1"].rms) for s in monitor.snapshots]


@needs_trackio
def test_the_trainers_trackio_has_the_curves_among_the_trainers_own(tmp_path: Path) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    callback = ActivationMonitorCallback(max_overhead=None)
    trainer(tmp_path / "out", callback, report_to="trackio", project="q", run_name="r", logging_steps=2).train()
    rows = [row for row in SQLiteStorage.get_logs("q", "r") if "train/actdiag_rms/net.1" in row]
    assert [row["train/global_step"] for row in rows] == [s.step for s in callback.snapshots]
