"""The plugin and its loader in one process: methods, files, errors, flags, and that nothing can stop TensorBoard."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.plugins import base_plugin
from werkzeug.test import Client

from actdiag.tensorboard.answers import ROUTES
from actdiag.tensorboard.loader import Loader
from actdiag.tensorboard.plugin import ActdiagPlugin, sampled, static_files
from tests.tab_logs import decode_frame
from tests.test_tab_answers import FakeProvider, plain_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    static = tmp_path / "static"
    (static / "deeper").mkdir(parents=True)
    for name in ("index.js", "style.css", "icon.svg", "notes.md", "page.html", ".hidden", "deeper/x.js"):
        (static / name).write_text(f"/* {name} */")
    (tmp_path / "secret.js").write_text("secret")
    return static


@pytest.fixture
def plugin(folder: Path) -> ActdiagPlugin:
    provider = FakeProvider({"run": plain_run()[1]}, fast=True)
    return ActdiagPlugin(SimpleNamespace(data_provider=provider, flags=None), folder)


def ask(plugin: ActdiagPlugin, path: str, *, method: str = "GET", app: str | None = None) -> Any:
    name = app or ("/static/*" if path.startswith("/static/") else path.partition("?")[0])
    return Client(plugin.get_plugin_apps()[name]).open(path, method=method)


def test_the_entry_point_is_the_loader() -> None:
    (entry,) = entry_points(group="tensorboard_plugins", name="actdiag")
    assert entry.load() is Loader
    assert issubclass(Loader, base_plugin.TBLoader)


def test_the_plugin_says_where_its_screen_begins(plugin: ActdiagPlugin) -> None:
    assert plugin.plugin_name == "actdiag"
    assert plugin.is_active() is False
    assert plugin.frontend_metadata().es_module_path == "/static/index.js"
    assert set(plugin.get_plugin_apps()) == {f"/{route}" for route in ROUTES} | {"/static/*"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", ["/runs", "/stat?run=run&metric=rms", "/static/index.js"])
def test_nothing_but_get_is_answered(plugin: ActdiagPlugin, path: str, method: str) -> None:
    response = ask(plugin, path, method=method)
    assert response.status_code == 405
    assert response.headers["Allow"] == "GET"
    if method != "HEAD":
        assert "error" in json.loads(response.data)


def test_answers_have_the_type_that_the_screen_expects(plugin: ActdiagPlugin) -> None:
    listed = ask(plugin, "/runs")
    assert listed.content_type.startswith("application/json")
    assert json.loads(listed.data)["runs"][0]["name"] == "run"
    frame = ask(plugin, "/stat?run=run&monitor=&metric=rms&columns=3")
    assert frame.content_type == "application/octet-stream"
    assert frame.headers["X-Content-Type-Options"] == "nosniff"
    assert decode_frame(frame.data)[1]["low"].shape == (3, 3)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/stat", 400),
        ("/stat?run=run", 400),
        ("/stat?run=run&metric=rms&columns=9999", 400),
        ("/stat?run=run&metric=rms&from=%00", 400),
        ("/stat?run=%ff%fe&metric=rms", 404),
        ("/stat?run=run&metric=%3Cimg%3E", 404),
        ("/layer?run=run&site=..%2F..%2Fetc%2Fpasswd", 404),
        ("/run?run=" + "x" * 5000, 400),
    ],
)
def test_bad_queries_are_told_as_json_without_a_traceback(plugin: ActdiagPlugin, path: str, status: int) -> None:
    response = ask(plugin, path)
    assert response.status_code == status
    assert list(json.loads(response.data)) == ["error"]
    assert b"Traceback" not in response.data


@pytest.mark.parametrize(("name", "mime"), [("index.js", "text/javascript"), ("style.css", "text/css")])
def test_files_of_the_screen_are_served_with_their_type(plugin: ActdiagPlugin, name: str, mime: str) -> None:
    response = ask(plugin, f"/static/{name}")
    assert response.status_code == 200
    assert response.content_type == f"{mime}; charset=utf-8"
    assert response.data == f"/* {name} */".encode()


@pytest.mark.parametrize(
    "name",
    ["../secret.js", "..%2fsecret.js", "%2e%2e/secret.js", "deeper/x.js", "notes.md", "page.html", ".hidden", "", "%00",
     "index.js/", "INDEX.JS", "//etc/passwd"],
)  # fmt: skip
def test_nothing_else_is_served(plugin: ActdiagPlugin, name: str) -> None:
    response = ask(plugin, f"/static/{name}", app="/static/*")
    assert response.status_code == 404
    assert b"secret" not in response.data.replace(b"secret.js", b"")


def test_files_are_listed_once_and_a_missing_folder_has_none(plugin: ActdiagPlugin, folder: Path) -> None:
    (folder / "late.js").write_text("late")
    assert ask(plugin, "/static/late.js").status_code == 404
    assert static_files(folder / "nowhere") == {}


def test_a_failure_of_our_own_is_told_and_logged(
    plugin: ActdiagPlugin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("actdiag.tensorboard.plugin.answer", lambda *_: 1 // 0)
    response = ask(plugin, "/runs")
    assert (response.status_code, json.loads(response.data)) == (
        503,
        {"error": "this could not be answered (ZeroDivisionError)"},
    )
    assert "a request of the tab failed" in caplog.text


def test_tensorboard_is_asked_for_every_step_unless_its_user_said_how_many() -> None:
    flags = SimpleNamespace(samples_per_plugin={"scalars": 5})
    Loader().fix_flags(flags)
    assert flags.samples_per_plugin == {"scalars": 5, "actdiag": 0}
    assert sampled(flags) is None
    own = SimpleNamespace(samples_per_plugin={"actdiag": 50})
    Loader().fix_flags(own)
    assert own.samples_per_plugin == {"actdiag": 50}
    assert "actdiag=50: of a longer run it holds a random sample of 50 steps" in (sampled(own) or "")


def test_a_sample_is_told_in_the_list_of_runs(folder: Path) -> None:
    flags = SimpleNamespace(samples_per_plugin={"actdiag": 50})
    provider = FakeProvider({"run": plain_run()[1]}, fast=True)
    plugin = ActdiagPlugin(SimpleNamespace(data_provider=provider, flags=flags), folder)
    assert "random sample of 50 steps" in json.loads(ask(plugin, "/runs").data)["problem"]


@pytest.mark.parametrize("flags", [None, SimpleNamespace(), SimpleNamespace(samples_per_plugin=None)], ids=str)
def test_flags_of_another_form_are_left_alone_with_a_warning(flags: Any, caplog: pytest.LogCaptureFixture) -> None:
    Loader().fix_flags(flags)
    assert "a sample of the recorded steps only" in caplog.text
    assert sampled(flags) is None


def test_a_plugin_that_cannot_be_imported_is_none_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "actdiag.tensorboard.plugin", None)
    assert Loader().load(SimpleNamespace()) is None
    assert "its tab cannot be loaded" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING


def test_a_plugin_that_cannot_be_made_is_none() -> None:
    assert Loader().load(None) is None


def test_the_loader_loads_nothing_but_what_it_must() -> None:
    code = (
        "import sys, tensorboard.plugins.base_plugin; before = set(sys.modules); import actdiag.tensorboard.loader; "
        "added = set(sys.modules) - before; "
        "print(sorted(name for name in added if name.partition('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['actdiag', 'actdiag.tensorboard', 'actdiag.tensorboard.loader']"
