"""The list of deliberate wrong edits keeps up with the code; `make mutants` runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def test_every_wrong_edit_still_has_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    from mutants import MUTANTS

    texts = {m.file: (FOLDER.parent / "actdiag" / m.file).read_text(encoding="utf-8") for m in MUTANTS}
    assert [m.what for m in MUTANTS if m.old not in texts[m.file]] == []
    assert [m.what for m in MUTANTS if m.old == m.new] == []
    tests = {name for m in MUTANTS for name in m.tests.split()}
    assert [name for name in sorted(tests) if not (FOLDER / f"{name}.py").exists()] == []
    assert len({m.what for m in MUTANTS}) == len(MUTANTS) >= 130
