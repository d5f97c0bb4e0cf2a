"""An index: every requirement that users' bug reports gave rise to (R1 to R77) is proven by a test, or named as open.

A test proves a requirement by its name (`test_R05_...`, `test_R21_R22_...`) or by `proves=` of its `@regime`; tests of
other files that are named after what they show are listed in PROVEN_BY.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.regimes import COMMAND, PAGE, Proof, collect, regime, render

REQUIREMENTS = [*(f"R{number}" for number in range(1, 78)), "R4b"]

PROVEN_BY = {
    "R13": "test_one_added_line_writes_into_the_loggers_own_run_at_its_own_steps",
    "R18": "test_a_recorded_step_is_one_event",
    "R19": "test_the_budget_is_kept_in_the_long_run",
    "R36": "test_any_set_of_loggers_works",
    "R37": "test_any_set_of_loggers_works",
    "R38": "test_either_package_alone_is_enough",
    "R41": "test_closed_is_where_the_gate_is_below_one_hundredth",
    "R42": "test_nothing_is_said_after_one_batch_of_zeros",
    "R43": "test_an_episode_is_told_once_again_when_worse_and_resolved_after_two_quiet_snapshots",
    "R52": "test_two_hundred_layers_make_at_most_two_hundred_and_fifty_tags",
    "R61": "test_a_failing_training_step_leaves_nothing_behind",
    "R63": "test_one_added_line_writes_into_the_loggers_own_run_at_its_own_steps",
    "R64": "test_a_recorded_step_of_twenty_layers_takes_at_most_eight_kilobytes",
    "R69": "test_the_readme_names_every_number_and_every_finding",
    "R73": "test_the_callback_pickles_before_and_during_a_fit",
}

NOT_APPLICABLE: dict[str, str] = {
    "R53": "tags keep the name `actdiag_<metric>/<layer>`, which scripts read: an index by depth in it would change "
    "with every layer that is added; the order by depth is in the snapshot and in the report",
    "R67": "only observed steps are measured: there is nothing to aggregate between them; log_every_n_steps=1 sees all",
}

NOT_YET = {
    "R76": "padding cannot be masked out; padded tokens are counted",
}


def proven(proofs: list[Proof]) -> set[str]:
    """What tests prove that are not expected to fail."""
    sound = {proof.name for proof in proofs if proof.fails is None}
    missing = {number: name for number, name in PROVEN_BY.items() if name not in sound}
    assert not missing, f"PROVEN_BY names tests that do not exist or are expected to fail: {missing}"
    return {number for proof in proofs if proof.fails is None for number in proof.numbers} | PROVEN_BY.keys()


def test_every_requirement_is_proven_or_named_as_open() -> None:
    found = proven(collect())
    for number in REQUIREMENTS:
        said = [name for name, where in (("NOT_APPLICABLE", NOT_APPLICABLE), ("NOT_YET", NOT_YET)) if number in where]
        if number in found:
            assert not said, f"{number} is proven by a test: take it out of {said[0]}"
        else:
            assert len(said) == 1, f"{number} has neither a test nor a reason; name a test {number} or give the reason"


def test_no_name_or_list_speaks_of_a_requirement_that_does_not_exist() -> None:
    named = {number for proof in collect() for number in proof.numbers if number.startswith("R")}
    assert named | PROVEN_BY.keys() | NOT_APPLICABLE.keys() | NOT_YET.keys() <= set(REQUIREMENTS)
    wrong = [proof.name for proof in collect() if re.search(r"_R\d(_|b?_)", proof.name)]
    assert not wrong, f"requirements have two digits in the names of tests: {wrong}"
    assert all(reason and not reason.endswith(".") for reason in [*NOT_APPLICABLE.values(), *NOT_YET.values()])


def test_the_page_of_regimes_is_what_the_tests_say() -> None:
    written = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    assert written == render(collect()), f"docs/regimes.md is stale; write it anew: {COMMAND}"


SOURCE = """
import pytest
from tests.regimes import regime

@pytest.mark.parametrize("x", [1])
@regime("torch.compile", "a|b "
        "c", exact="all", proves=["R7", "C30"])
def test_R08_R21_one(x): ...

@regime("Lightning", "x", not_observed="it", proves=("R4b",))
@pytest.mark.xfail(strict=True, reason="it is wrong")
def test_R04b_two(): ...
"""


def test_rows_are_read_from_the_source_without_importing_it(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text("import nothing_of_this_name\n" + SOURCE)
    one, two = collect(tmp_path)
    assert (one.name, one.numbers, one.fails) == ("test_R08_R21_one", {"R7", "C30", "R8", "R21"}, None)
    assert (two.numbers, two.fails) == ({"R4b"}, "it is wrong")
    page = render([one, two])
    assert "| a\\|b c | all |  |  | [`test_R08_R21_one`](../tests/test_mine.py) |" in page
    assert "| x |  | wrong today: it is wrong |  |" in page, "a claim that fails is not made"
    assert page.index("## Torch.compile") < page.index("## Lightning")


@pytest.mark.parametrize(
    "line,words",
    [
        ('@regime("Lightning", "x")', "neither what is exact"),
        ('@regime("Lightening", "x", exact="all")', "no area 'Lightening'"),
        ('@regime("Lightning", "x", exact=TEXT)', "literal arguments"),
        ('@regime("Lightning", "x", exact="all", proves="R5")', "proves is a tuple"),
        ('@regime("Lightning", "x", exact="all", prove=("R5",))', "prove"),
    ],
)
def test_a_row_that_cannot_be_read_is_told_by_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "test_mine.py").write_text(f"{line}\ndef test_one(): ...\n")
    with pytest.raises(ValueError, match=r"test_mine\.py:1") as error:
        collect(tmp_path)
    assert words in str(error.value)


def test_the_decorator_leaves_the_test_as_it_is_and_refuses_a_wrong_row() -> None:
    def test() -> None: ...

    both = regime("Lightning", "a", exact="x")(regime("processes", "b", approximate="y", proves=("R48",))(test))
    assert both is test and [row.what for row in test.__dict__["__regimes__"]] == ["a", "b"]
    with pytest.raises(ValueError, match="no area"):
        regime("nowhere", "a", exact="x")
    with pytest.raises(ValueError, match="proves is a tuple"):
        regime("Lightning", "a", exact="x", proves="R5")
