"""The example that answers why ReLU works: its numbers come from logs, its verdicts hold, other seeds agree."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import why_relu_works
from why_relu.nets import ACTIVATIONS, PROPER, Net
from why_relu.page import EXPECTED, chance_of, reproduced
from why_relu.results import Result, Table, chance_outside, inside, number, say, written

from actdiag.report.read import read_runs
from actdiag.snapshot import Snapshot

PAGE = Path(__file__).resolve().parent.parent / "docs" / "why-relu-works.md"


def first_snapshot(folder: Path) -> Snapshot:
    (run,) = read_runs(folder)
    return run.snapshots[0]


def test_two_claims_give_their_verdicts_and_every_number_comes_from_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(why_relu_works, "available", lambda: False)
    logs = tmp_path / "logs"
    results = why_relu_works.main(["--only", "scale", "normalization", "--seeds", "0", "--log-dir", str(logs)])
    assert {name: result.word for name, result in results.items()} == {n: EXPECTED[n] for n in results}

    (scale,) = results["scale"].tables
    assert len(scale.rows) == len(list((logs / "start").glob("*mlp10*")))
    for label, cells in scale.rows.items():
        phi, _, init = label.partition(", ")
        sites = first_snapshot(logs / "start" / Net(phi, 10, 256, init).slug).sites
        told = [(sites["act10"].std, sites["act1"].std), (sites["act1"].grad_rms, sites["act10"].grad_rms)]
        assert [cell[0] for cell in cells[:2]] == [pytest.approx(a / b) for a, b in told if a and b], label

    entering, leaving, _ = results["normalization"].tables
    sites = first_snapshot(logs / "start" / Net("ReLU", 20, 256, norm="batch").slug).sites
    assert [cell[0] for cell in leaving.rows["batch norm, ReLU"]] == [
        sites[f"act{i}"].mean_energy for i in (1, 2, 5, 10, 20)
    ]
    assert entering.rows["batch norm, ReLU"][0][0] == sites["norm1"].mean_energy

    out = capsys.readouterr().out
    assert "CONFIRMED" in out and "HALF TRUE" in out
    assert out.count("matplotlib is not installed") == 1 and not list(tmp_path.rglob("*.svg"))


def test_a_directory_that_holds_something_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(SystemExit):
        why_relu_works.main(["--log-dir", str(tmp_path)])
    assert "is not empty" in capsys.readouterr().err


def test_a_network_is_the_same_for_the_same_seed_and_every_activation_has_its_initialization() -> None:
    for phi in ACTIVATIONS:
        one, two, other = (Net(phi, 2, 8).build(seed).state_dict()["linear1.weight"] for seed in (0, 0, 1))
        assert one.equal(two) and not one.equal(other), phi
    assert PROPER.keys() == ACTIVATIONS.keys()


def test_a_median_outside_the_range_of_the_first_seeds_is_told() -> None:
    first = {"speed": Result("", "", "", [Table("t", ["c", "d"], {"r": [(1.0, 2.0, 3.0), (5.0, 6.0, math.inf)]})], [])}
    second = {"speed": {"t | r | c": 4.0, "t | r | d": math.inf}}
    outside, compared = reproduced(first, second)
    assert compared == 2
    assert outside == ["speed: t | r | c: 4 is not in 1 to 3"]
    assert inside(2.0, (2.0, 2.0)) and not inside(math.inf, (2.0, 3.0))


def test_the_chance_to_leave_the_range_is_that_of_counting_orders() -> None:
    assert chance_outside(1, 1) == 1.0
    assert chance_outside(2, 1) == pytest.approx(2 / 3), "of three numbers in any order, the new one is an extreme"
    assert chance_of(9) == pytest.approx(0.029, abs=0.001)


def test_numbers_are_written_with_three_digits_and_their_range() -> None:
    assert [number(v) for v in (0.0, 2.9e-9, 0.0042, 0.288, 22.5, 262.5, 1.6e4, math.inf)] == [
        "0", "2.9e-09", "0.0042", "0.288", "22.5", "262", "1.6e+04", "never",
    ]  # fmt: skip
    assert written((1.0, 2.0, 3.0)) == "2 [1, 3]" and written((2.0, 2.0)) == "2"
    assert say("a {x}\nof {y:%}, {z:%}", x=(1.0, 2.0, 3.0), y=0.5, z=5e-4) == "a 2 of 50 %, 0.05 %"


@pytest.mark.slow
def test_figures_are_drawn_with_units_and_are_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        why_relu_works.main(["--only", "inputs", "--seeds", "0", "--write", str(tmp_path / name / "page.md")])
        texts.append((tmp_path / name / "images" / "why" / "inputs.svg").read_text())
    assert "offset (standard deviations)" in texts[0] and "steps to 97 % accuracy" in texts[0]
    assert texts[0] == texts[1]
    assert "![Uncentered inputs" in (tmp_path / "one" / "page.md").read_text()


@pytest.mark.slow
def test_medians_of_other_seeds_lie_within_the_error_bars(tmp_path: Path) -> None:
    claims = ["--only", "scale", "center-alone", "sparsity"]
    kept = tmp_path / "second.json"
    why_relu_works.main([*claims, "--seeds", "9-17", "--save", str(kept)])
    first = why_relu_works.main([*claims, "--seeds", "0-8", "--against", str(kept)])
    outside, compared = reproduced(first, json.loads(kept.read_text())["medians"])
    assert compared > 35
    assert len(outside) <= 3 * chance_of(9) * compared, outside


def test_the_page_was_written_by_the_script_with_the_verdicts_that_its_answer_is_about() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| .+ \| ([a-z ]+) \|$", page, re.MULTILINE)
    assert rows == list(EXPECTED.values())
    assert "why_relu_works.py --full" in page and "verdicts differ" not in page
    assert not re.search(r"\{[a-z-]+\.[a-z_]+\}", page), "a number of the short answer was not filled in"
    for image in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page):
        assert 2_000 < (PAGE.parent / image).stat().st_size < 400_000, image
    assert page.count("![") == len(EXPECTED)
