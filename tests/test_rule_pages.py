"""Every finding has a page that says what its rule's manual says."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from actdiag.diagnose.judge import RULES
from actdiag.diagnose.limits import Limits
from tests import rule_pages


def test_the_pages_are_those_of_the_rules() -> None:
    assert rule_pages.stale() == [], "run: python -m tests.rule_pages --write"
    assert len(rule_pages.pages()) == len(RULES) + 2, "an index, and the limits"


def test_the_page_of_limits_names_each_with_its_default() -> None:
    page = rule_pages.limits_page()
    assert all(f"`{spec.name}` {spec.default!r}" in page for spec in fields(Limits))


@pytest.mark.parametrize("slug", RULES)
def test_a_page_holds_every_part_of_the_manual(slug: str) -> None:
    summary, parts = rule_pages.manual(slug)
    assert summary and list(parts) == ["What", "Why", "Not a problem when", "What to try", "Source"]
    assert all(text for text in parts.values())
    text = rule_pages.page(slug)
    assert text.count("\n## ") == 5 and f"actdiag explain {slug}" in text


def test_a_page_that_is_stale_missing_or_of_no_rule_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_pages, "FOLDER", tmp_path)
    for name, text in rule_pages.pages().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert rule_pages.stale() == []
    (tmp_path / "dead-units.md").write_text("old", encoding="utf-8")
    (tmp_path / "README.md").unlink()
    (tmp_path / "gone.md").write_text("old", encoding="utf-8")
    assert rule_pages.stale() == ["README.md", "dead-units.md", "gone.md"]
