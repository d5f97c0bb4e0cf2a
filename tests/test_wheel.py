"""What is installed: wheel and sdist are built, looked into, and used from another folder.

The quick environment has the wheel installed and the core dependencies linked from where the tests run. The slow ones
are installed by pip as a user's would be, and an extra is tried by the blocks of docs/get-started.md.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import actdiag
from tests.browser import environment
from tests.doc_blocks import blocks_of
from tests.package import EXTRAS, META, ROOT, USERS_EXTRAS, name_of

pytestmark = pytest.mark.xdist_group("wheel")
CORE = [name_of(one) for one in META["dependencies"]]
GONE = {"lightning": "pip install pytorch-lightning", "transformers": "pip install transformers accelerate"}
GONE |= {"ignite": "pip install pytorch-ignite"}
"""Module of a door -> what is said where its trainer is missing."""


def run(*command: str | Path, cwd: Path = ROOT, expect: int = 0) -> str:
    """What a command printed, with both streams, and nothing of this checkout on its path."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHONPATH", "COV"))}
    environ |= {"OMP_NUM_THREADS": "1", "PIP_NO_INPUT": "1", "HF_HUB_OFFLINE": "1"}
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environ, timeout=900)
    assert done.returncode == expect, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def shared(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all test workers of a session have in common."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this checkout, and the wheel that the sdist builds."""
    folder = shared(tmp_path_factory, "dist")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(folder.glob("*.whl")):
            run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


# What is in them ----------------------------------------------------------------------------------------


def tracked(under: str = "") -> set[str]:
    """Files that belong to the repository."""
    return set(run("git", "ls-files", "--cached", "--others", "--exclude-standard", under or ".").split())


needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")


@needs_git
def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"actdiag-{actdiag.__version__}.dist-info"
    assert {name for name in names if not name.startswith(info)} == tracked("actdiag")
    assert {name.removeprefix(f"{info}/") for name in names if name.startswith(info)} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip
    assert {"actdiag/py.typed", "actdiag/collect/kernel.c", "actdiag/tensorboard/static/index.js"} <= names


def test_the_metadata_of_the_wheel_say_what_pyproject_says(wheel: Path) -> None:
    (name,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("METADATA")]
    told = Parser().parsestr(zipfile.ZipFile(wheel).read(name).decode())
    assert (told["Name"], told["Version"]) == ("actdiag", META["version"]) and META["version"] == actdiag.__version__
    assert told["License-Expression"] == "Apache-2.0" and told["License-File"] == "LICENSE"
    assert told["Requires-Python"] == META["requires-python"]
    assert set(told.get_all("Provides-Extra", [])) == set(EXTRAS)
    needs = [one for one in told.get_all("Requires-Dist", []) if "extra ==" not in one]
    assert [name_of(one) for one in sorted(needs)] == sorted(CORE)
    assert "# actdiag" in str(told.get_payload())


@needs_git
def test_the_sdist_is_the_repository(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert names - {"PKG-INFO"} == tracked()


@needs_git
@pytest.mark.slow
def test_the_sdist_builds_the_same_wheel_as_the_checkout(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (direct,) = tmp_path.glob("*.whl")
    assert contents(direct) == contents(wheel)


def contents(wheel: Path) -> dict[str, bytes]:
    archive = zipfile.ZipFile(wheel)
    return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.slow
def test_the_tests_of_the_sdist_run_in_it(built: Path, tmp_path: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    names = ("imports", "readme", "docs", "dependencies", "project_files", "mutants", "rule_pages", "moments", "cases")
    files = [f"tests/test_{name}.py" for name in names]
    told = run(sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *files, cwd=folder)
    assert re.search(r"\d+ passed", told) and "failed" not in told


# With the core dependencies alone -----------------------------------------------------------------------

TRIAL = f"""
import importlib, torch, actdiag
from torch import nn
print(*[getattr(actdiag, name).__name__ for name in actdiag.__all__])
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with actdiag.Monitor(model, optimizer, log_dir="runs/core", log_every_n_steps=5) as monitor:
    for _ in range(20):
        x = torch.randn(16, 8)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
        optimizer.step()
print(monitor.report())
for door in {list(GONE)}:
    try:
        importlib.import_module("actdiag." + door)
    except ImportError as error:
        print(error)
print(actdiag.__file__)
"""


def try_core(python: Path, folder: Path) -> None:
    """Names, training, doors, command and report of an actdiag that has its core dependencies and no more."""
    told = run(python, "-I", "-c", TRIAL, cwd=folder)
    assert told.splitlines()[0].split() == actdiag.__all__
    assert told.splitlines()[-1].startswith(str(python.parent.parent)), "the wheel, and not this checkout"
    assert "ReLU" in told and [cure for cure in GONE.values() if cure not in told] == []
    script = python.with_name("actdiag")
    assert "report" in run(script, "--help", cwd=folder) and "dead-units" in run(script, "explain", cwd=folder)
    assert actdiag.__version__ in run(script, "--version", cwd=folder)
    assert "core" in run(script, "report", "runs", "--fail-on", "error", cwd=folder)
    assert "<html" in run(script, "report", "runs", "--format", "html", cwd=folder)


def test_a_core_install_trains_and_reports_and_says_what_a_door_needs(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    try_core(environment(shared(tmp_path_factory, "core"), *CORE), tmp_path)


# Installed by pip ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment into which pip has put the wheel and what it asks for."""
    folder = shared(tmp_path_factory, "installed")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            run(sys.executable, "-m", "venv", folder / "venv")
            install(folder / "venv" / "bin" / "python", str(wheel))
            (folder / "ready").touch()
    return folder / "venv" / "bin" / "python"


def install(python: Path, what: str) -> None:
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", what, cwd=python.parent)


@pytest.fixture
def copy(core: Path, tmp_path: Path) -> Path:
    """The Python of another environment of the same files: torch is not installed five times."""
    folder = tmp_path / "venv"
    shutil.copytree(core.parent.parent, folder, symlinks=True, copy_function=os.link)
    return folder / "bin" / "python"


@pytest.mark.slow
def test_pip_installs_what_a_core_install_needs(core: Path, tmp_path: Path) -> None:
    try_core(core, tmp_path)
    told = run(core.with_name("actdiag"), "demo", cwd=tmp_path, expect=2)
    assert "pip install pytorch-lightning scikit-learn rich" in told and "Traceback" not in told
    run(core, "-m", "pip", "check")


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["lightning", "transformers", "ignite"])
def test_with_its_extra_a_door_trains(extra: str, copy: Path, wheel: Path, tmp_path: Path) -> None:
    install(copy, f"{wheel}[{extra}]")
    page = [block.code for block in blocks_of(ROOT / "docs" / "get-started.md") if block.language == "python"]
    (block,) = [code for code in page if f"from actdiag.{extra} import" in code]
    (tmp_path / "train.py").write_text(page[0] + block)
    told = run(copy, "-I", tmp_path / "train.py", cwd=tmp_path)
    assert "ReLU" in told and list((tmp_path / "runs").rglob("*tfevents*"))
    assert "Traceback" not in told
    assert "ReLU" in run(copy.with_name("python"), "-m", "actdiag", "report", "runs", cwd=tmp_path)


@pytest.mark.slow
def test_with_its_extra_the_demo_finds_what_is_wrong(copy: Path, wheel: Path, tmp_path: Path) -> None:
    install(copy, f"{wheel}[demo]")
    told = run(copy, "-m", "actdiag", "demo", "--epochs", "2", cwd=tmp_path)
    assert "uncentered-inputs" in told and "off-center" in told


@pytest.mark.slow
def test_with_their_extra_the_examples_run_outside_of_the_repository(copy: Path, wheel: Path, tmp_path: Path) -> None:
    install(copy, f"{wheel}[examples]")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for name in ("plain_loop", "lightning_callback", "fabric_loop", "accelerate_loop", "ignite_engine"):
        assert "ReLU" in run(copy, tmp_path / "examples" / f"{name}.py", cwd=tmp_path), name
    told = run(copy, tmp_path / "examples" / "why_relu_works.py", "--only", "sparsity", cwd=tmp_path)
    assert "sparsity" in told
    run(copy, "-m", "pip", "check")


def test_every_extra_is_tried() -> None:
    tried = Path(__file__).read_text()
    assert [name for name in USERS_EXTRAS if f'"{name}"' not in tried and f"[{name}]" not in tried] == []
