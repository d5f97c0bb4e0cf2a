"""Every dependency is used, every import belongs to one, and docs/dependencies.md says what pyproject.toml does."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package import EXTRAS, META, ROOT, USERS_EXTRAS, name_of

IMPORTED_AS = {"pytorch-ignite": "ignite", "pytorch-lightning": "pytorch_lightning", "scikit-learn": "sklearn"}
IMPORTED_AS |= {"hydra-core": "hydra", "mlflow-skinny": "mlflow", "pyyaml": "yaml", "markdown-it-py": "markdown_it"}
"""Where the name of a distribution is not the one it is imported by."""

COMES_WITH = {
    "werkzeug": ("tensorboard", "requests and answers of a plugin are of its kind"),
    "triton": ("torch", "its wheels for CUDA bring it; without it torch does the kernels' work"),
    "tensorboardX": ("", "only where the caller has given a writer of its kind"),
}
"""What the package imports and nobody asks for: (distribution that brings it, why)."""

NEEDED_BY = {"accelerate": "the Trainer of transformers imports it"}
"""What an extra asks for and the package does not import itself."""


def third_party(*folders: str) -> dict[str, set[str]]:
    """Name of each package that is imported below the folders -> the files that do."""
    found: dict[str, set[str]] = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for name in set(imports(ast.parse(path.read_text(encoding="utf-8")))) - sys.stdlib_module_names:
            found.setdefault(name, set()).add(path.name)
    return {name: files for name, files in found.items() if name not in ("actdiag", "why_relu")}


def imports(tree: ast.Module) -> Iterator[str]:
    """Top-level names, those of `import_module("a.b")` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value).partition(".")[0]
        elif isinstance(node, ast.Constant) and node.value in ("pytorch_lightning", "lightning.pytorch"):
            yield str(node.value).partition(".")[0]  # the names that the Lightning door and the demo look for


def imported_as(requirement: str) -> str:
    name = name_of(requirement)
    return IMPORTED_AS.get(name, name)


CORE = {imported_as(one) for one in META["dependencies"]}
OF_EXTRAS = {imported_as(one) for name in USERS_EXTRAS for one in EXTRAS[name]}


def test_every_import_of_the_package_belongs_to_a_dependency() -> None:
    known = CORE | OF_EXTRAS | COMES_WITH.keys()
    assert {name: files for name, files in third_party("actdiag").items() if name not in known} == {}


def test_every_dependency_is_imported() -> None:
    used = third_party("actdiag")
    assert CORE - used.keys() == set()
    of_package = {name for name in USERS_EXTRAS if name != "examples"}
    asked = {imported_as(one) for name in of_package for one in EXTRAS[name]}
    assert asked - used.keys() == NEEDED_BY.keys()
    assert COMES_WITH.keys() <= used.keys()


def test_the_extra_of_the_examples_is_what_the_examples_import() -> None:
    assert third_party("examples").keys() - CORE == {imported_as(one) for one in EXTRAS["examples"]}


def test_what_only_an_extra_brings_is_imported_by_its_door_alone() -> None:
    used = third_party("actdiag")
    doors = {"ignite": {"ignite.py"}, "transformers": {"transformers.py"}, "sklearn": {"demo.py"}, "rich": {"demo.py"}}
    doors |= {"pytorch_lightning": {"lightning.py", "demo.py"}}
    assert {name: used[name] for name in OF_EXTRAS & used.keys() - {"lightning"}} == doors


def test_the_developers_extra_brings_what_tests_documentation_and_benchmarks_import() -> None:
    ours = {path.stem for folder in ("tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")}
    ours |= {"tests", "cases"} | {path.stem for path in (ROOT / "examples").glob("*.py")}
    brought = CORE | COMES_WITH.keys() | {imported_as(one).replace("-", "_") for one in EXTRAS["dev"]}
    by_others = {"markdown", "_pytest", "tomli", "omegaconf"}  # of tensorboard, pytest and hydra
    optional = {"wandb", "fastai", "timm", "trackio"}  # of benchmarks and tests that say so
    optional |= {"composer", "delve", "graphyco", "nansense", "ormas_monitor", "torchexplorer"}
    used = third_party("tests", "docs", "benchmarks").keys() - ours - by_others - optional
    assert {name for name in used if name not in brought} == set()
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    assert [one for one in EXTRAS["dev"] if f"{name_of(one)}==" not in pinned] == []


def test_the_check_of_imports_can_fail() -> None:
    tree = ast.parse("import a.b\nfrom c.d import e\ndef f():\n    x = import_module('g.h')\n    import os\n")
    assert set(imports(tree)) == {"a", "c", "g", "os"}


# The page -----------------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "dependencies.md"


def rows() -> dict[str, list[str]]:
    """Distribution -> the other cells of its row."""
    lines = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in lines}


def floors() -> dict[str, tuple[set[str], str]]:
    """Distribution -> who asks for it, and the lowest release."""
    found: dict[str, tuple[set[str], str]] = {}
    for who, needs in {"core": META["dependencies"], **{name: EXTRAS[name] for name in USERS_EXTRAS}}.items():
        for one in needs:
            asking, floor = found.setdefault(name_of(one), (set(), one.partition(">=")[2]))
            asking.add(who)
            assert floor == one.partition(">=")[2], f"{one}: another floor elsewhere"
    return found


def test_the_page_names_each_dependency_with_who_asks_for_it_its_floor_and_why() -> None:
    told = {name: (set(re.findall(r"[a-z]+", cells[0])), cells[1]) for name, cells in rows().items()}
    assert told == floors()
    assert all(len(cells) == 4 and len(cells[2]) > 10 for cells in rows().values())


def test_the_oldest_releases_that_are_tested_are_the_floors_or_the_page_says_that_they_are_not() -> None:
    text = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    pins = dict(line.split("==") for line in text.splitlines() if "==" in line and not line.startswith("#"))
    for name, (_, floor) in floors().items():
        tested = rows()[name][3]
        assert tested == pins[name], f"{name}: the page says {tested}"
        same = pins[name] == floor or re.fullmatch(re.escape(floor) + r"(\.0)*(\.post\d+)?", pins[name])
        assert same or name in UNTESTED, f"{name}: {floor} is the floor, {pins[name]} is tested"


UNTESTED = {"torch"}
"""Floors that no test has reached; the page says so."""


def test_floors_that_are_not_tested_are_called_so() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(re.search(rf"{name} [\d.]+ to [\d.]+ (is|are) untested", page) for name in UNTESTED)


@pytest.mark.parametrize("path", ["README.md", "docs/get-started.md"])
def test_lowest_releases_named_elsewhere_are_those_of_the_page(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    for floor in re.findall(r"torch (\d\.\d+) or newer", text):
        assert floor == floors()["torch"][1]


def test_python_is_the_one_that_is_asked_for() -> None:
    assert f"Python {META['requires-python'].removeprefix('>=')}" in PAGE.read_text(encoding="utf-8")
    assert Path(ROOT / "docs" / "get-started.md").read_text().count("Python 3.10") == 1
