"""The tab in a real `tensorboard`, with both of its loaders: every route, and nothing on its error output."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter

from actdiag import TensorBoardWriter
from actdiag.diagnose.finding import Change
from actdiag.snapshot import SiteStats, Snapshot
from actdiag.tensorboard.metrics import METRICS
from actdiag.tensorboard.plugin import STATIC, static_files
from tests.tab_logs import Events, decode_frame, records, save
from tests.test_tab_answers import HOSTILE, finding, snapshot, wanted

ROOT = Path(__file__).resolve().parent.parent
LONGEST_S = 120.0
STEPS = 1200
RUN = "<img src=x onerror=alert(1)> & ü"
LOADERS = {"fast": ("--load_fast", "true"), "legacy": ("--load_fast", "false")}

FIRST = [snapshot(step) for step in range(8)]
LATER = [snapshot(step, scale=100.0) for step in range(5, 11)]
LONG = [snapshot(step, sites=("a", "b")) for step in range(STEPS)]


class Board:
    """A running TensorBoard."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Path, prefix: str = "") -> None:
        self.process, self.errors, self._prefix = process, errors, prefix
        self.port = int(self.until(lambda: re.search(r"http://[^/:]+:(\d+)/", self.said()))[1])

    def said(self) -> str:
        return self.errors.read_text()

    def until(self, found: Callable[[], Any]) -> Any:
        """What `found` gives once it gives something; fails if TensorBoard ends before, or takes too long."""
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline:
            value = found()
            if value:
                return value
            try:
                code = self.process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"tensorboard ended with {code}: {self.said()}")
        raise AssertionError(f"tensorboard did not get there: {self.said()}")

    def open(self, path: str, method: str = "GET") -> SimpleNamespace:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, f"{self._prefix}{path}")
            response = connection.getresponse()
            return SimpleNamespace(status=response.status, headers=response.headers, body=response.read())
        finally:
            connection.close()

    def ask(self, route: str, **query: Any) -> Any:
        response = self.open(f"/data/plugin/actdiag/{route}?{urlencode({k.rstrip('_'): v for k, v in query.items()})}")
        assert response.status == 200, (route, query, response.status, response.body[:500])
        return decode_frame(response.body) if "octet" in response.headers["Content-Type"] else json.loads(response.body)

    def has(self, counts: dict[str, int]) -> bool:
        """Whether these runs are there with so many steps."""
        told = {run["name"]: run["count"] for run in self.ask("runs")["runs"]}
        return all(told.get(name) == count for name, count in counts.items())


@contextmanager
def tensorboard(log_dir: Path, errors: Path, *options: str, prefix: str = "", path: Path = ROOT) -> Iterator[Board]:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir), "--port", "0", *options]
    if prefix:
        command += ["--path_prefix", prefix]
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONUNBUFFERED": "1"}
    with errors.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=log_dir)
    try:
        yield Board(process, errors, prefix)
    finally:
        process.terminate()
        process.wait(timeout=60)


def quiet(board: Board) -> bool:
    return not re.search(r"Traceback|3\.0|Exception|Warning", board.said())


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    save(root / "long", Events().write(LONG).events)
    resumed = Events(90_000.0).write(LATER, {9: [Change("new", finding(9, layer=HOSTILE))]})
    save(root / "resumed", Events(50_000.0).write(FIRST, {6: [Change("new", finding(6))]}).events, resumed.events)
    save(root / RUN, Events(prefix="gan_d").write(snapshot(s, sites=[HOSTILE, "a"]) for s in range(3)).events)
    with SummaryWriter(str(root / "foreign")) as writer:
        writer.add_scalar("loss", 1.0, 0)
        own = TensorBoardWriter.into(writer)
        for shot in FIRST[:2]:
            own.write(shot, [])
    return root


COUNTS = {"long": STEPS, "resumed": 11, f"{RUN} (gan_d)": 3, "foreign": 2}


@pytest.fixture(scope="module", params=LOADERS)
def board(request: pytest.FixtureRequest, logs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    errors = tmp_path_factory.mktemp("board") / "errors.txt"
    with tensorboard(logs, errors, "--reload_interval", "1", *LOADERS[request.param]) as board:
        board.until(lambda: board.has(COUNTS))
        yield board
        assert quiet(board), board.said()


def test_the_tab_is_listed_with_its_module(board: Board) -> None:
    listed = json.loads(board.open("/data/plugins_listing").body)["actdiag"]
    assert listed["enabled"] is True
    assert listed["loading_mechanism"]["module_path"].endswith("/data/plugin/actdiag/static/index.js")
    entry = board.open("/data/plugin_entry.html?name=actdiag").body.decode()
    assert "static/index.js" in entry


def test_every_file_of_the_screen_is_served_as_it_is(board: Board) -> None:
    files = static_files(STATIC)
    assert "index.js" in files
    for name, path in files.items():
        response = board.open(f"/data/plugin/actdiag/static/{name}")
        assert (response.status, response.body) == (200, path.read_bytes())
        assert response.headers["Content-Type"].startswith("text/css" if name.endswith(".css") else "text/javascript")


def test_runs_of_all_kinds_are_listed(board: Board) -> None:
    told = board.ask("runs")
    assert {run["name"]: run["count"] for run in told["runs"]} == COUNTS
    assert told["problem"] is None
    assert [run["name"] for run in told["runs"]] == sorted(COUNTS)
    assert {run["last_step"] for run in told["runs"]} == {STEPS - 1, 10, 2, 1}


def test_every_step_of_a_long_run_is_there_with_the_number_that_was_logged(board: Board) -> None:
    for metric in ("mean", "rms", "dead_units", "grad_norm"):
        header, arrays = board.ask("stat", run="long", monitor="", metric=metric, columns=4000)
        assert (header["count"], header["exact"]) == (STEPS, True)
        assert arrays["first"].tolist() == list(range(STEPS))
        np.testing.assert_array_equal(arrays["low"], wanted(LONG, metric, header["rows"]))
    header, arrays = board.ask("stat", run="long", metric="mean", columns=7, from_=100, to=1099)
    assert (header["count"], arrays["low"].shape) == (1000, (2, 7))
    assert (arrays["first"][0], arrays["last"][-1]) == (100, 1099)
    np.testing.assert_array_equal(arrays["high"].max(1), wanted(LONG, "mean", header["rows"])[:, 100:1100].max(1))


def test_a_resumed_run_is_the_same_in_both_loaders(board: Board) -> None:
    shown = FIRST[:5] + LATER
    for metric in METRICS:
        if any(m["name"] == metric for m in board.ask("run", run="resumed")["metrics"]):
            header, arrays = board.ask("stat", run="resumed", metric=metric)
            assert arrays["first"].tolist() == list(range(11))
            np.testing.assert_array_equal(arrays["low"], wanted(shown, metric, header["rows"]))
    told = board.ask("run", run="resumed")
    assert [(f["step"], f["layer"]) for f in told["findings"]] == [(9, HOSTILE)]
    assert told["problems"] == []


def test_every_detail_of_a_layer_is_answered(board: Board) -> None:
    header, arrays = board.ask("layer", run="resumed", site="a", columns=4)
    assert arrays["low"].shape == arrays["high"].shape == (len(header["curves"]), 4)
    assert ("parameter_grad_zero_fraction", "a.weight") in {(c["metric"], c["name"]) for c in header["curves"]}
    header, arrays = board.ask("histogram", run="resumed", site="a", kind="activation")
    assert arrays["step"].tolist() == [0, 2, 4, 6, 8, 10]
    np.testing.assert_allclose(arrays["share"].sum(0), 1, rtol=1e-6)
    header, arrays = board.ask("units", run="resumed", site="a")
    assert arrays["died"].tolist() == [3, -1, -1, -1]
    assert arrays["states"][0].tolist() == [1] * 3 + [4] * 8


def test_hostile_names_are_text_in_every_answer(board: Board) -> None:
    told = board.ask("run", run=RUN, monitor="gan_d")
    assert told["name"] == f"{RUN} (gan_d)"
    assert [s["name"] for s in told["sites"]] == [HOSTILE, "a"]
    header, _ = board.ask("layer", run=RUN, monitor="gan_d", site=HOSTILE)
    assert header["site"] == HOSTILE
    response = board.open(f"/data/plugin/actdiag/layer?run=resumed&site={quote(HOSTILE)}")
    assert (response.status, response.headers["Content-Type"].partition(";")[0]) == (404, "application/json")
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("stat?run=long", "GET", 400),
        ("stat?run=long&metric=rms&columns=1e3", "GET", 400),
        ("stat?run=long&metric=rms&from=3&to=2", "GET", 400),
        ("stat?run=long&metric=nothing", "GET", 404),
        ("run?run=../../etc", "GET", 404),
        ("run?run=long&monitor=other", "GET", 404),
        ("units?run=long&site=b.c", "GET", 404),
        ("histogram?run=long&site=a&kind=x", "GET", 400),
        ("runs", "POST", 405),
        ("run?run=long", "DELETE", 405),
        ("static/../plugin.py", "GET", 404),
        ("static/..%2fplugin.py", "GET", 404),
        ("static/nothing.js", "GET", 404),
    ],
)
def test_bad_requests_have_their_status_and_no_traceback(board: Board, path: str, method: str, status: int) -> None:
    response = board.open(f"/data/plugin/actdiag/{path}", method)
    assert response.status == status
    assert b"Traceback" not in response.body


def test_a_live_run_grows(board: Board, logs: Path) -> None:
    folder = logs / f"live-{board.port}"
    events = Events(time.time()).write(snapshot(step) for step in range(6)).events
    file = save(folder, events[:3]) / next(iter(os.listdir(folder)))
    board.until(lambda: board.has({folder.name: 3}))
    version = {run["name"]: run["version"] for run in board.ask("runs")["runs"]}
    with file.open("ab") as more:
        more.writelines(records(events[3:]))
    board.until(lambda: board.has({folder.name: 6}))
    now = {run["name"]: run["version"] for run in board.ask("runs")["runs"]}
    assert {name for name in version if version[name] != now[name]} == {folder.name}
    assert board.ask("stat", run=folder.name, metric="mean")[1]["last"].tolist() == list(range(6))
    shutil.rmtree(folder)


def test_the_users_own_number_of_samples_wins_and_is_told_also_under_a_path_prefix(logs: Path, tmp_path: Path) -> None:
    errors = tmp_path / "errors.txt"
    with tensorboard(logs, errors, "--samples_per_plugin", "actdiag=40", prefix="/a/b") as board:
        board.until(lambda: board.has({"foreign": 2}) and any(r["name"] == "long" for r in board.ask("runs")["runs"]))
        board.until(lambda: board.ask("stat", run="long", metric="mean")[1]["last"][-1] == STEPS - 1)
        told = board.ask("runs")
        assert {run["name"]: run["count"] for run in told["runs"]}["long"] <= 41
        assert "actdiag=40" in told["problem"]
        steps = board.ask("stat", run="long", metric="mean")[1]["first"]
        assert (np.diff(steps) > 0).all()
        assert board.open("/data/plugin/actdiag/static/index.js").status == 200
        assert quiet(board), board.said()


def test_a_plugin_that_is_broken_does_not_stop_tensorboard(logs: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "actdiag", tmp_path / "actdiag", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "actdiag" / "tensorboard" / "plugin.py").write_text("raise RuntimeError('broken')\n")
    with tensorboard(logs, tmp_path / "errors.txt", path=tmp_path) as board:
        listing = board.until(lambda: json.loads(board.open("/data/plugins_listing").body))
        assert "scalars" in listing
        assert "actdiag" not in listing
        assert "its tab cannot be loaded" in board.said()


# Size ---------------------------------------------------------------------------------------------------


def layers(step: int, sites: int) -> Snapshot:
    rng = np.random.default_rng(step)
    means, shares = rng.normal(size=sites).tolist(), rng.random(sites).tolist()
    told = {
        f"layers.{i}": SiteStats(kind="ReLU", role="activation", order=i, n=64, mean=means[i], dead_fraction=shares[i])
        for i in range(sites)
    }
    return Snapshot(step=step, sites=told, sites_selected=sites)


def repeated(events: Sequence[Event], steps: int) -> list[Event]:
    """A long log from a few events: the first once, the others again and again."""
    found = []
    for step in range(steps):
        event = Event()
        event.CopyFrom(events[step if step < len(events) else 1 + step % (len(events) - 1)])
        event.step, event.wall_time = step, 1000.0 + step
        found.append(event)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADERS)
def test_200_layers_at_10_000_steps_are_answered_in_time(loader: str, tmp_path: Path) -> None:
    few = Events().write(layers(step, 200) for step in range(20)).events
    save(tmp_path / "large", repeated(few, 10_000))
    with tensorboard(tmp_path, tmp_path / "errors.txt", *LOADERS[loader]) as board:
        board.until(lambda: board.has({"large": 10_000}))
        took = []
        for _ in range(4):
            begin = time.perf_counter()
            header, arrays = board.ask("stat", run="large", metric="dead_fraction", columns=1200)
            took.append(time.perf_counter() - begin)
        assert (header["count"], arrays["low"].shape) == (10_000, (200, 1200))
        assert took[0] < 2, took
        assert min(took[1:]) < 0.2, took


@pytest.mark.slow
def test_a_series_beyond_what_the_data_server_sends_is_told_and_no_error_of_the_server(tmp_path: Path) -> None:
    counts = [SiteStats(kind="ReLU", role="activation", order=i, n=100_000) for i in range(20_000)]
    few = Events().write(Snapshot(step=s, sites={f"{i}": c for i, c in enumerate(counts)}) for s in range(2)).events
    save(tmp_path / "huge", repeated(few, 3_400))
    save(tmp_path / "small", Events().write(layers(step, 2) for step in range(3)).events)
    with tensorboard(tmp_path, tmp_path / "errors.txt", *LOADERS["fast"]) as board:
        board.until(lambda: board.has({"small": 3}) and "huge" in (board.ask("runs")["problem"] or ""))
        assert "too large to be read at once" in board.ask("runs")["problem"]
        response = board.open("/data/plugin/actdiag/stat?run=huge&metric=n")
        assert response.status == 413
        assert b"log_every_n_steps" in response.body
        assert board.ask("stat", run="small", metric="mean")[0]["count"] == 3
