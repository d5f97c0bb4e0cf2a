"""Every number has a page that says what its manual says, and where it is in TensorBoard."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from actdiag.manual import ENTRIES
from actdiag.snapshot import SiteStats, stat_fields
from actdiag.write.pack import pack
from tests import metric_pages
from tests.test_manual import recorded


def test_the_pages_are_those_of_the_numbers() -> None:
    assert metric_pages.stale() == [], f"run: {metric_pages.COMMAND}"
    assert len(metric_pages.pages()) == len(ENTRIES) + 1


def test_every_tag_on_a_page_is_one_that_is_written() -> None:
    told = {tag for entry in ENTRIES.values() for tag in metric_pages.tags_of(entry)}
    curves = {tag for tag in metric_pages._model_curves() if tag != "actdiag/findings_open"}
    on_pages = {tag for tag in curves if any(metric_pages._belongs(tag, entry) for entry in ENTRIES.values())}
    assert on_pages == curves, "each curve of the model belongs to a number"
    assert {f"actdiag/stat/{name}" for name in stat_fields(SiteStats)} <= told
    assert set(pack(recorded(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))))) <= told


def test_a_page_that_is_stale_missing_or_of_no_number_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_pages, "DOCS", tmp_path)
    (tmp_path / "metrics").mkdir()
    for name, text in metric_pages.pages().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert metric_pages.stale() == []
    (tmp_path / "metrics" / "n.md").write_text("old", encoding="utf-8")
    (tmp_path / "metrics.md").unlink()
    (tmp_path / "metrics" / "gone.md").write_text("old", encoding="utf-8")
    assert metric_pages.stale() == ["metrics.md", "metrics/gone.md", "metrics/n.md"]
