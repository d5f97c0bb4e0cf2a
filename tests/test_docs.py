"""The documentation: every number and every option is explained, and the site is built without a warning."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest

import actdiag
from actdiag.config import Options
from actdiag.diagnose.judge import RULES
from actdiag.write.stock import model_scalars
from actdiag.write.tags import STEP_STATS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TARGET = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def test_every_rule_but_forecasts_is_found_by_a_symptom() -> None:
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    assert [slug for slug in RULES if f"rules/{slug}.md" not in text] == ["dying-units", "oversized-update"]


def test_the_reference_has_every_option_with_its_default() -> None:
    sys.path.insert(0, str(DOCS))
    try:
        from site_hooks import options
    finally:
        sys.path.remove(str(DOCS))
    table = options()
    for spec in fields(Options):
        assert f"| `{spec.name}` | `{getattr(Options(), spec.name)!r}` |" in table


def test_links_between_pages_lead_somewhere() -> None:
    targets = [(page, target) for page in DOCS.rglob("*.md") for target in TARGET.findall(page.read_text("utf-8"))]
    missing = [f"{page.name}: {target}" for page, target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_every_curve_of_the_whole_model_is_explained() -> None:
    text = (DOCS / "reading-charts.md").read_text(encoding="utf-8")
    made = re.findall(r'^        "(\w+)":', inspect.getsource(model_scalars), re.MULTILINE)
    assert len(made) == 9
    assert [name for name in (*made, *STEP_STATS) if f"`{name}`" not in text] == []


def test_every_chart_is_shown_healthy_beside_sick_and_every_picture_is_small() -> None:
    text = (DOCS / "reading-charts.md").read_text(encoding="utf-8")
    sys.path.insert(0, str(DOCS))
    try:
        from screenshot_charts import CHARTS
    finally:
        sys.path.remove(str(DOCS))
    shown = re.findall(r"images/charts/([\w-]+)\.png", text)
    assert shown == list(CHARTS) and text.count("**Left**") == text.count("**Right**") == len(CHARTS)
    sizes = {path.name: path.stat().st_size for path in (DOCS / "images").rglob("*.png")}
    assert len(sizes) > 10 and all(20_000 < size < 150_000 for size in sizes.values()), sizes


def test_the_reference_has_every_public_name_and_every_door() -> None:
    shown = re.findall(r"^::: (actdiag[\w.]*)$", (DOCS / "reference.md").read_text(encoding="utf-8"), re.MULTILINE)
    doors = {"actdiag.lightning.ActivationMonitor", "actdiag.transformers.ActivationMonitorCallback"}
    doors |= {"actdiag.ignite.attach", "actdiag.ignite.Attached"}
    assert len(shown) == len(set(shown))
    assert set(shown) == {f"actdiag.{name}" for name in actdiag.__all__} | doors


def test_every_public_thing_has_a_docstring_and_so_has_each_of_its_methods() -> None:
    for name in actdiag.__all__:
        thing = getattr(actdiag, name)
        assert (inspect.getdoc(thing) or "").strip(), name
        for method, value in vars(thing).items() if inspect.isclass(thing) else ():
            if not method.startswith("_") and (
                inspect.isfunction(value) or isinstance(value, (property, staticmethod))
            ):
                assert (inspect.getdoc(value) or "").strip(), f"{name}.{method}"


def test_every_other_tool_is_said_to_do_something_better() -> None:
    lines = (DOCS / "others.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][2:]
    tools = {re.sub(r"`.*?`|\W", " ", row[0]).split()[0] if row[0][0] != "`" else row[0].strip("`") for row in rows}
    assert {"fastai", "Composer", "wandb.watch", "SageMaker", "TransformerEngine", "ormas", "nansense"} <= tools
    assert all(len(row) == 9 and len(row[-1]) > 10 for row in rows)


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"([\w./-]+\.md)\b", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="pip install mkdocs-material 'mkdocstrings[python]'")
def test_the_site_is_built_without_a_warning_and_asks_nothing_of_other_hosts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "WARNING -" not in done.stderr
    page = (tmp_path / "reference.html").read_text(encoding="utf-8")
    assert "max_overhead" in page and "load_state_dict" in page
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page)
    assert loaded == []
