"""Every block of code in the README and in the documentation runs, and prints what it is said to print."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from actdiag import Monitor
from actdiag.cli import _parser
from tests import screen_runs
from tests.browser import until
from tests.doc_blocks import ROOT, Block, blocks_of, pages, spoken
from tests.package import EXTRAS

UNRUN: dict[str, int] = {}
"""How many blocks of a page are marked not to be run: a block more wants its line here."""

ELSEWHERE = {"docs/configuration.md": "test_configuration.py"}
"""Pages about files that a reader has, and the test that lays them out and runs the page."""

LEAVES = {
    "README.md": ["relu", "ignite"],
    "docs/get-started.md": ["first", "lightning", "trainer", "ignite", "accelerate", "fabric"],
}
"""Runs with event files that are there when the Python of a page has run."""

PRINTS = {
    "README.md": ["the outputs are probabilities already"],
    "docs/get-started.md": ["net.1 ", "ReLU", "Tanh"],
}

Names = dict[str, Any]


# Names that a page takes from its reader ----------------------------------------------------------------


def a_loop(*layers: nn.Module) -> Names:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), *layers)
    x, y = torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
    names = {"model": model, "loss_fn": nn.CrossEntropyLoss(), "loader": [(x, y)] * 3, "x": x, "y": y}
    return {**names, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}


def lightnings_trainer() -> Names:
    import pytorch_lightning

    return {"Trainer": pytorch_lightning.Trainer}


def hugging_faces_trainer() -> Names:
    from tests.trainers import Net, Trainer, TrainerCallback, TrainingArguments, dataset

    class Trained(Trainer):  # type: ignore[misc]
        """Trains at once, and one step: the block ends with making it."""

        def __init__(self, model: nn.Module, args: TrainingArguments, callbacks: list[TrainerCallback]) -> None:
            super().__init__(model=model, args=args, callbacks=callbacks, train_dataset=dataset())
            self.train()
            assert [snapshot.step for snapshot in callbacks[0].snapshots] == [1]

    given = {"output_dir": "trained", "use_cpu": True, "max_steps": 1, "report_to": "none", "disable_tqdm": True}
    args = TrainingArguments(**given, dataloader_pin_memory=False, save_strategy="no")
    return {"Trainer": Trained, "model": Net(), "args": args}


def an_engine() -> Names:
    from ignite.engine import create_supervised_trainer

    names = a_loop()
    return {**names, "trainer": create_supervised_trainer(names["model"], names["optimizer"], names["loss_fn"])}


def stores_of_metrics() -> Names:
    def log(metrics: dict[str, float], step: int) -> None: ...

    store = SimpleNamespace(log=log, log_metrics=log)
    return {"Monitor": Monitor, "run": store, "mlflow": store, "fabric": SimpleNamespace(loggers=[store])}


GIVEN: dict[str, Callable[[], Names]] = {
    "a loop": a_loop,
    "a loop with a head that does not fit": lambda: a_loop(nn.Softmax(1)),
    "Lightning's Trainer": lightnings_trainer,
    "Hugging Face's Trainer": hugging_faces_trainer,
    "an engine of Ignite": an_engine,
    "stores of metrics": stores_of_metrics,
}


# Running a page -----------------------------------------------------------------------------------------


class Reader:
    """Types the blocks of a page, in a folder of its own. Keeps what was printed."""

    def __init__(self, folder: Path, *, commands: bool) -> None:
        self.folder = folder
        self.printed = ""
        self._names: Names = {"__name__": "__main__"}
        self._commands = commands

    def read(self, block: Block) -> None:
        """Do what a block says, or compare it with what was printed."""
        if block.unrun:
            return
        if block.title:
            (self.folder / block.title).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            self._names |= GIVEN[block.given]() if block.given else {}
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), self._names)
            self.printed += out.getvalue()
        elif block.language == "commands" and self._commands:
            for line in block.commands:
                self.printed += command(line, self.folder)
        elif block.printed and self._commands:
            missing = [line for line in map(masked, block.code.splitlines()) if line not in masked(self.printed)]
            assert missing == [], f"{block.where} is not what was printed:\n{self.printed}"


def masked(text: str) -> str:
    """Without numbers, and with single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", "0", text)).strip()


def command(line: str, folder: Path) -> str:
    """Run a line of a shell, or check it where another test runs it; what it printed."""
    words = shlex.split(line)
    if words[0] in ("make", "pip"):
        check(line)
        return ""
    words = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if words[0].endswith("tensorboard"):
        return served(words, folder, environ)
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environ, timeout=300)
    assert done.returncode == (1 if "--fail-on" in words else 0), f"{line}\n{done.stdout}\n{done.stderr}"
    assert done.stdout, f"{line} printed nothing"
    return done.stdout


def served(words: list[str], folder: Path, environ: dict[str, str]) -> str:
    """Start TensorBoard, and end it when it has said where it is."""
    log = folder / "tensorboard.txt"
    with log.open("w") as file:
        board = subprocess.Popen([*words, "--port", "0"], stdout=file, stderr=file, cwd=folder, env=environ)
    try:
        until(f"TensorBoard's address in {log}", lambda: "http://" in log.read_text() or board.poll() is not None)
        assert board.poll() is None, log.read_text()
        assert list((folder / words[words.index("--logdir") + 1]).rglob("*tfevents*")), "there is something to show"
    finally:
        board.terminate()
        board.wait()
    return ""


# Commands that another test runs, or that take hours: they are there, with their options ----------------


def targets() -> dict[str, str]:
    """Name -> what it is said to do."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z-]+):.*?## (.*)$", text, flags=re.MULTILINE))


def check(line: str) -> None:
    """That a command could be run: program, file, options, target and extras exist. Raises AssertionError."""
    words = shlex.split(line.partition(" > ")[0])
    if words[0] == "make":
        assert all(word in targets() for word in words[1:]), line
    elif words[0] == "actdiag":
        with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()) as wrong:
            _parser().parse_args(words[1:])
        needs = "required" in wrong.getvalue() and len(words) == 2  # a command that is only named
        assert not wrong.getvalue() or needs, f"{line}: {wrong.getvalue()}"
    elif words[0] == "pip":
        named = [name for word in words for names in re.findall(r"\./\[(.+)\]", word) for name in names.split(",")]
        assert any(word.startswith("./") for word in words) and set(named) <= EXTRAS.keys(), line
    elif words[0] == "python":
        if words[1] == "-m" and not words[2].startswith("tests."):
            assert find_spec(words[2]), line
            return
        file = ROOT / (words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1])
        source = file.read_text(encoding="utf-8")
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == [], line
    else:
        assert words[0] in ("tensorboard", "torchrun"), f"{line}: no program of ours, nor one that comes with them"


# The tests ----------------------------------------------------------------------------------------------


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


PAGES = [page for page in pages() if named(page) not in ELSEWHERE]


def having(language: str) -> list[Any]:
    return [pytest.param(page, id=named(page)) for page in PAGES if language in {b.language for b in blocks_of(page)}]


def read(page: Path, folder: Path, *, commands: bool) -> Reader:
    blocks = blocks_of(page)
    if not any(block.language == "python" for block in blocks):
        screen_runs.healthy(folder / "runs" / "healthy")  # what a page about reading takes for there
    reader = Reader(folder, commands=commands)
    for block in blocks:
        reader.read(block)
    return reader


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", having("python"))
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = read(page, tmp_path, commands=False).printed
    assert [text for text in PRINTS.get(named(page), []) if text not in printed] == []
    assert [run for run in LEAVES.get(named(page), []) if not list((tmp_path / "runs" / run).rglob("*tfevents*"))] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", having("commands"))
def test_a_page_runs_with_its_commands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read(page, tmp_path, commands=True)


def test_a_page_that_is_run_elsewhere_is_named_by_the_test_that_does_it() -> None:
    for page in pages():
        if test := ELSEWHERE.get(named(page)):
            assert page.name in (ROOT / "tests" / test).read_text(encoding="utf-8")


def test_what_is_not_run_is_counted() -> None:
    unrun = Counter(named(block.page) for page in PAGES for block in blocks_of(page) if block.unrun)
    assert dict(unrun) == UNRUN, "say in UNRUN that a block is not run"


def test_what_is_given_is_known_and_a_titled_block_is_run_by_a_command() -> None:
    for page in PAGES:
        blocks = blocks_of(page)
        assert [block.where for block in blocks if block.given and block.given not in GIVEN] == []
        run = " ".join(line for block in blocks for line in block.commands if block.language == "commands")
        assert [block.where for block in blocks if block.title and block.title not in run] == []


@pytest.mark.parametrize("page", [pytest.param(page, id=named(page)) for page in [*PAGES, ROOT / "RELEASING.md"]])
def test_every_command_on_a_page_could_be_run(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "commands":
            for line in block.commands:
                check(line)
    for line in spoken(page):
        check(line)


# The reader itself --------------------------------------------------------------------------------------

PAGE = """\
Some words.

<!-- given: a loop -->
```python
with torch.no_grad():
    print(model(x).shape)
```

<!-- printed -->
```text
torch.Size([6, 3])
```

    actdiag explain    # all slugs

```python title="mine.py"
print(1)
```

<!-- no-run: it takes an hour -->
```python
1 / 0
```
"""


def test_blocks_are_found_with_their_lines_marks_and_titles() -> None:
    first, text, commands, titled, last = blocks_of(Path("page.md"), PAGE)
    assert (first.language, first.given, first.line, first.where) == ("python", "a loop", 5, "page.md:5")
    assert text.printed and text.language == "text" and not first.printed
    assert commands.commands == ["actdiag explain"] and titled.title == "mine.py"
    assert last.unrun == "it takes an hour" and last.code == "1 / 0\n"


def test_what_differs_from_what_was_printed_is_told(tmp_path: Path) -> None:
    reader = Reader(tmp_path, commands=True)
    for block in blocks_of(Path("page.md"), "```python\nprint('7 ok')\n```\n<!-- printed -->\n```text\n8  ok\n```\n"):
        reader.read(block)
    (wrong,) = blocks_of(Path("page.md"), "<!-- printed -->\n```text\nnot ok\n```\n")
    with pytest.raises(AssertionError, match=r"page.md:3 is not what was printed"):
        reader.read(wrong)


def test_an_error_in_a_block_names_page_and_line(tmp_path: Path) -> None:
    (block,) = blocks_of(ROOT / "README.md", "\n\n```python\nx = 1\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        Reader(tmp_path, commands=False).read(block)
    assert str(error.traceback[-1].path).endswith("README.md") and error.traceback[-1].lineno + 1 == 5


@pytest.mark.parametrize(
    "text, words",
    [
        ("<!-- given: a loop -->\nwords\n", "a mark"),
        ("<!-- no-run: x -->\n", "a mark"),
        ("```fortran\nx\n```\n", "a block in 'fortran'"),
    ],
)
def test_a_mark_without_a_block_and_an_unknown_language_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        blocks_of(Path("page.md"), text)


@pytest.mark.parametrize(
    "line",
    [
        "make nothing",
        "actdiag report runs --formats html",
        "actdiag reports",
        "pip install './[none]'",
        "python benchmarks/growth.py --no-such",
        "python -m no_such",
        "rm -rf x",
    ],
)
def test_the_check_of_commands_can_fail(line: str) -> None:
    with pytest.raises(AssertionError):
        check(line)


@pytest.mark.slow
def test_a_command_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no rule"):
        command("actdiag explain no-such-rule", tmp_path)
