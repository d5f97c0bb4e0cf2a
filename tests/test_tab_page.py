"""The HTML report: one file that loads nothing, with the answers that TensorBoard would give."""

from __future__ import annotations

import base64
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest

from actdiag.cli import main
from actdiag.diagnose.finding import Change
from actdiag.report.read import read_runs
from actdiag.tensorboard.answers import answer
from actdiag.tensorboard.directory import DirectoryLogs
from actdiag.tensorboard.page import STATIC, all_answers, key_of, modules, render_html
from tests.tab_logs import Events, decode_frame, save
from tests.test_tab_answers import HOSTILE, finding, snapshot

LARGE = 1 << 25


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """A screen of three modules and a style sheet that would do harm if it were pasted carelessly."""
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "index.js").write_text('import { a } from "./a.js";\nimport "./b.js";\nexport { c } from \'./b.js\';\n'
                                     'export const render = () => import("./a.js"); // </script> é\n')  # fmt: skip
    (folder / "a.js").write_text('import{b}from"./b.js";export const a = "from ./b.js";')
    (folder / "b.js").write_text("export const b = 1, c = 2;")
    (folder / "style.css").write_text('p::after { content: "</style><b>é"; }')
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with hostile names in every place that has one."""
    snapshots = [snapshot(step, sites=["a", "b", HOSTILE, "<!--<script>"]) for step in range(7)]
    changes = {3: [Change("new", finding(3, layer=HOSTILE, evidence={HOSTILE: math.inf}, advice=(HOSTILE,)))]}
    root = tmp_path / "runs"
    save(root / "one", Events().write(snapshots, changes).events)
    save(root / "<b>two", Events(prefix="gan_d").write(snapshots).events)
    return root


class Page(HTMLParser):
    """Elements with their attributes, and the texts of scripts and styles, as a browser splits them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data

    def text(self, **attributes: str) -> str:
        (found,) = [
            text
            for (_, attrs), text in zip(self.elements, self.texts, strict=True)
            if attributes.items() <= attrs.items()
        ]
        return found


def answers_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Page(text).text(id="actdiag-answers"))
    return found


def test_the_page_has_the_elements_it_means_to_have_whatever_the_names(folder: Path, static: Path) -> None:
    text = render_html(read_runs(folder), static=static)
    page = Page(text)
    assert [tag for tag, _ in page.elements] == [
        "html", "head", "meta", "meta", "meta", "title", "style", "script", "script", "body", "script",
    ]  # fmt: skip
    assert [attrs.get("type") for tag, attrs in page.elements if tag == "script"] == [
        "importmap", "application/json", "module",
    ]  # fmt: skip
    assert text.isascii()
    assert text.count("</script>") == 3
    assert "<!--" not in text
    assert text.count("</style>") == 1


def test_the_page_loads_nothing(folder: Path, static: Path) -> None:
    page = Page(render_html(read_runs(folder), static=static))
    for _, attributes in page.elements:
        assert not attributes.keys() & {"src", "href", "action", "srcset", "onload", "style"}
    (policy,) = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*|'self'|unsafe-eval", policy)


def test_modules_find_each_other_through_the_import_map(static: Path) -> None:
    found = modules(static)
    assert list(found) == ["actdiag/a.js", "actdiag/b.js", "actdiag/index.js"]
    texts = {
        name: base64.b64decode(url.removeprefix("data:text/javascript;base64,")).decode() for name, url in found.items()
    }
    assert texts["actdiag/a.js"] == 'import{b}from"actdiag/b.js";export const a = "from ./b.js";'
    assert texts["actdiag/index.js"].startswith('import { a } from "actdiag/a.js";\nimport "actdiag/b.js";\n')
    assert "from 'actdiag/b.js'" in texts["actdiag/index.js"]
    assert 'import("actdiag/a.js")' in texts["actdiag/index.js"]


def test_no_module_of_the_screen_is_left_behind() -> None:
    for name, url in modules(STATIC).items():
        text = base64.b64decode(url.partition(",")[2]).decode()
        assert not re.search(r"""(from|import)\s*\(?\s*["']\./""", text), name


def test_keys_are_what_the_screen_asks_for() -> None:
    assert key_of("runs", {}) == "runs?"
    assert key_of("stat", {"run": "a b/c&d=é", "monitor": "", "metric": "rms"}) == (
        "stat?metric=rms&monitor=&run=a%20b%2Fc%26d%3D%C3%A9"
    )
    assert key_of("run", {"run": "-_.!~*'()\ud800"}) == "run?run=-_.!~*'()%3F"


def test_every_answer_is_the_one_that_the_route_gives(folder: Path, static: Path) -> None:
    runs = read_runs(folder)
    logs, found = DirectoryLogs(runs), answers_of(render_html(runs, static=static))
    routes = [key.partition("?")[0] for key in found]
    assert {route: routes.count(route) for route in sorted(set(routes))} == {
        "histogram": 2 * 4, "layer": 2 * 4, "run": 2, "runs": 1, "stat": 2 * 8, "units": 2 * 4,
    }  # fmt: skip
    for key, value in found.items():
        route, _, text = key.partition("?")
        query = dict(parse_qsl(text, keep_blank_values=True))
        wanted = answer(logs, route, {**query, "columns": "300"})
        if not isinstance(value, str):
            assert value == json.loads(json.dumps(wanted).replace("Infinity", '"inf"'))
            continue
        assert isinstance(wanted, bytes)
        (header, arrays), (header_2, arrays_2) = decode_frame(base64.b64decode(value)), decode_frame(wanted)
        assert header == header_2
        for name in arrays:
            np.testing.assert_array_equal(arrays[name], arrays_2[name])


def test_a_log_too_large_for_one_file_gets_coarser_and_then_says_what_is_missing(tmp_path: Path) -> None:
    save(tmp_path / "run", Events().write(snapshot(step) for step in range(600)).events)
    runs = read_runs(tmp_path)

    def columns(most: int) -> tuple[int, int, str | None]:
        found = all_answers(runs, most)
        frame: Any = found[key_of("stat", {"run": "run", "monitor": "", "metric": "dead_fraction"})]
        size = sum(len(json.dumps(value)) for value in found.values())
        listed: Any = found["runs?"]
        return decode_frame(base64.b64decode(frame))[1]["first"].size, size, listed["problem"]

    fine, coarse = columns(LARGE), columns(200_000)
    assert fine[0] == 300
    assert fine[2] is None
    assert coarse[0] < 300
    assert coarse[1] <= 200_000
    least = columns(20_000)
    assert least[0] == 37
    for most in range(12_000, 24_000, 1_500):
        assert columns(most)[1] <= most + 400, "the list of runs is beside it"
    assert re.search(r"too large for one file: \d+ views are left out; TensorBoard shows all", least[2] or "")


def test_what_could_not_be_read_stands_in_the_page(folder: Path, static: Path) -> None:
    damaged = folder / "damaged"
    save(damaged, Events().write([snapshot(0)]).events)
    (file,) = damaged.iterdir()
    file.write_bytes(b"\xff" * 100)
    problem = answers_of(render_html(read_runs(folder), static=static))["runs?"]["problem"]
    assert problem.startswith("damaged: events.out.tfevents")


def test_the_command_writes_the_page_to_its_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder), "--format", "html"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("<!doctype html>\n")
    assert out.endswith("</html>\n")
    assert [run["name"] for run in answers_of(out)["runs?"]["runs"]] == ["<b>two (gan_d)", "one"]


def test_the_command_still_says_with_its_status_what_was_found(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(folder), "--format", "html", "--fail-on", "warning"]) == 1
    told = [key for key in answers_of(capsys.readouterr().out) if key.startswith("run?")]
    assert len(told) == 2
    assert main(["report", str(folder), "--format", "html", "--ignore", "dead-units"]) == 0
    (one,) = [v for k, v in answers_of(capsys.readouterr().out).items() if k == "run?monitor=&run=one"]
    assert one["findings"] == []
