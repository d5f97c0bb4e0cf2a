"""What imports what, read from the sources and tried in fresh interpreters; and the size of files and functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import actdiag

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "actdiag"

LEAVES = {"snapshot", "names", "config"}
ROOMS = {"collect", "diagnose", "write", "report"}
DOORS = {"monitor", "lightning", "transformers", "ignite", "checkup"}

ALLOWED = {
    "rounding": set(),
    "snapshot": {"rounding"},
    "names": set(),
    "config": set(),
    "collect": {"collect"} | LEAVES,
    "diagnose": {"diagnose", "snapshot"},
    "write": {"write", "diagnose", "snapshot"},
    "report": {"report", "write", "diagnose", "snapshot"},
    "tensorboard": {"tensorboard", "report", "write", "diagnose", "snapshot"},
    "claims": set(),
    "coverage": {"collect"} | LEAVES,
    "state": {"collect", "diagnose"} | LEAVES,
    "outlet": {"diagnose", "write"} | LEAVES,
    "loggers": {"claims", "write"} | LEAVES,
    "session": {"claims", "coverage", "state", "outlet", "collect", "diagnose"} | LEAVES,
    "stepping": {"session"} | ROOMS | LEAVES,
    "optimizers": LEAVES,
    "observed": {"session", "stepping", "outlet", "loggers"} | ROOMS | LEAVES,
    "monitor": {"observed", "stepping", "optimizers", "loggers"} | ROOMS | LEAVES,
    "checkup": {"session", "claims"} | ROOMS | LEAVES,
    "lightning": {"session", "state", "outlet", "loggers"} | ROOMS | LEAVES,
    "transformers": {"observed", "optimizers", "state", "outlet", "loggers"} | ROOMS | LEAVES,
    "ignite": {"observed", "optimizers", "loggers"} | ROOMS | LEAVES,
    "demo": DOORS | ROOMS | LEAVES,
    "cli": {"", "demo", "tensorboard"} | (ROOMS - {"collect"}) | LEAVES,
    "__main__": {"cli"},
}
"""Room or file at the root -> where it may import from; "" is the package itself, with its version.

The package's `__init__` has no row: it names everything and imports nothing until it is asked.
"""

TORCH = {"collect", "coverage", "state", "session", "stepping", "optimizers", "observed", "checkup", "demo"}
TORCH |= {"monitor", "lightning", "transformers", "ignite"}
SPEAKS = {"cli", "demo"}
LONGEST_FILE, LONGEST_FUNCTION = 300, 50

HEAVY = ("torch", "pytorch_lightning", "lightning", "lightning_fabric", "tensorflow")
LIGHT_MODULES = (
    "actdiag",
    "actdiag.snapshot",
    "actdiag.config",
    "actdiag.report.read",
    "actdiag.report.text",
    "actdiag.report.document",
    "actdiag.report.compare",
    "actdiag.report.choose",
    "actdiag.report.side_by_side",
    "actdiag.diagnose.judge",
    "actdiag.cli",
    "actdiag.write.tensorboard",
    "actdiag.write.jsonl",
    "actdiag.tensorboard.loader",
    "actdiag.tensorboard.plugin",
    "actdiag.tensorboard.page",
)


# Fresh interpreters -------------------------------------------------------------------------------------


def heavy_after(statement: str) -> list[str]:
    """Which of the heavy packages a statement loads, in an interpreter of its own."""
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    found: list[str] = ast.literal_eval(done.stdout)
    return found


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_what_reads_logs_loads_neither_torch_nor_lightning(module: str) -> None:
    assert heavy_after(f"import {module}") == []


def test_public_names_that_need_no_torch_do_not_load_it() -> None:
    names = "Finding, Snapshot, SiteStats, ParameterStats, Histogram, TensorBoardWriter, JsonlWriter, ConfigError"
    assert heavy_after(f"from actdiag import {names}") == []


def test_the_check_of_fresh_interpreters_can_fail() -> None:
    assert heavy_after("from actdiag import Monitor") == ["torch"]


# The public names ---------------------------------------------------------------------------------------


def test_all_is_sorted_complete_and_every_name_resolves() -> None:
    assert actdiag.__all__ == sorted(actdiag.__all__)
    assert set(actdiag.__all__) == set(actdiag._HOME), "every public name has a home"
    for name in actdiag.__all__:
        assert getattr(actdiag, name).__name__ == name
        assert getattr(actdiag, name).__module__ == actdiag._HOME[name]
    assert set(actdiag.__all__) <= set(dir(actdiag))


def test_type_checkers_see_every_public_name() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("actdiag.")
        for alias in node.names
    }
    assert seen == actdiag._HOME


def test_a_name_that_does_not_exist_is_answered_with_those_that_do() -> None:
    with pytest.raises(AttributeError, match="no attribute 'monitor_'; it has ActivationFacts, ConfigError"):
        _ = actdiag.monitor_  # type: ignore[attr-defined]


# The sources --------------------------------------------------------------------------------------------


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sources()}


def room(module: str) -> str:
    """`collect` of `actdiag.collect.site`, `cli` of `actdiag.cli`, "" of `actdiag`."""
    return module.partition(".")[2].partition(".")[0]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module imported anywhere in a file, inside of functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES else base


def forbidden(module: str, tree: ast.Module) -> list[str]:
    """The imports of a file that its row of the table does not allow."""
    inside = [name for name in imports(tree) if name.partition(".")[0] == "actdiag"]
    return [name for name in inside if room(name) not in ALLOWED[room(module)]]


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"actdiag"}))
def test_every_file_imports_only_what_its_room_may(module: str) -> None:
    assert room(module) in ALLOWED, f"{module} has no row in the table of import directions"
    assert forbidden(module, tree_of(MODULES[module])) == []


def test_the_table_itself_keeps_the_rooms_apart() -> None:
    for name, allowed in ALLOWED.items():
        assert not allowed & {"cli", "__main__"} or name == "__main__", "nothing imports the command"
        assert not allowed & DOORS or name == "demo", "nothing imports a door, and no door another"
    assert not ALLOWED["collect"] & {"diagnose", "write", "report", "tensorboard"}


@pytest.mark.parametrize(
    "line", ["import actdiag.report.read", "from actdiag.write import tags", "def f():\n    from actdiag import cli"]
)
def test_the_check_of_import_directions_can_fail(line: str) -> None:
    assert len(forbidden("actdiag.collect.site", ast.parse(line))) == 1


def cycle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_there_is_no_import_cycle() -> None:
    graph = {
        module: {name for name in imports(tree_of(path)) if name in MODULES and name != "actdiag"}
        for module, path in MODULES.items()
        if module != "actdiag"
    }
    assert sum(map(len, graph.values())) > 50, "the edges were seen"
    assert cycle(graph) == []


def test_the_check_of_cycles_can_fail() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


@pytest.mark.parametrize("module", sorted(MODULES))
def test_torch_is_imported_only_left_of_the_snapshot(module: str) -> None:
    if any(name.partition(".")[0] in HEAVY for name in imports(tree_of(MODULES[module]))):
        assert room(module) in TORCH


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_the_command_prints(module: str) -> None:
    printed = [
        node.lineno
        for node in ast.walk(tree_of(MODULES[module]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printed or room(module) in SPEAKS, f"print in lines {printed}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_files_and_functions_stay_short(module: str) -> None:
    path = MODULES[module]
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < LONGEST_FILE
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name
