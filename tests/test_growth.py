"""`benchmarks/growth.py`: it measures what it says, and memory and file grow as they should."""

from __future__ import annotations

from pathlib import Path

import pytest
from growth import EVERY_STEP, long_run, network, recorded
from torch import nn

PAGE = Path(__file__).resolve().parent.parent / "docs" / "growth.md"


def test_every_layer_that_is_asked_for_is_recorded() -> None:
    model = network(6, 4, 2)[0]
    assert [type(m) for m in model.children()] == [nn.Linear, nn.ReLU] * 3
    found = recorded(6, 4, 2, 1)
    assert found["sites"] == 6 + 1, "and the input"
    assert found["kb"] > 0


@pytest.mark.slow
def test_memory_of_a_long_run_is_flat_and_its_file_grows_with_its_recorded_steps() -> None:
    marks = long_run(1200, EVERY_STEP)
    assert marks[-1]["recorded"] == 1200
    grown = marks[-1]["resident_mb"] - marks[2]["resident_mb"]
    assert grown < 2.0, "840 steps later; the snapshots of one step are 20 KB"
    first, last = marks[1]["file_mb"] / marks[1]["steps"], marks[-1]["file_mb"] / marks[-1]["steps"]
    assert last == pytest.approx(first, rel=0.1)


def test_the_page_says_how_it_was_made() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert "`python benchmarks/growth.py" in text
    assert all(f"## {part}" in text for part in ("Layers", "Width", "Size of a tensor", "Steps"))
