"""Files around the code: versions agree, the changelog has its form, forms and citation are what their readers take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import actdiag
from tests.package import META, ROOT

yaml = pytest.importorskip("yaml")
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
NEEDS = {"textarea": {"label"}, "input": {"label"}, "checkboxes": {"label", "options"}, "markdown": {"value"}}


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_version_is_the_same_everywhere() -> None:
    assert actdiag.__version__ == META["version"] == str(load(ROOT / "CITATION.cff")["version"])
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", META["version"])


def test_the_citation_has_what_its_format_asks_for() -> None:
    told = load(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= told.keys()
    assert told["cff-version"] == "1.2.0" and told["type"] == "software" and told["license"] == META["license"]
    assert all(set(author) <= {"name", "website"} and author["name"] for author in told["authors"])
    known = {"version", "abstract", "keywords", "date-released", "doi", "url", "repository-code"}
    assert told.keys() - known == {"cff-version", "message", "title", "authors", "type", "license"}


@pytest.mark.parametrize("path", [path for path in FORMS if path.stem != "config"], ids=lambda path: path.stem)
def test_a_form_for_issues_is_one_that_github_takes(path: Path) -> None:
    form = load(path)
    assert form.keys() <= {"name", "description", "title", "labels", "assignees", "body"}
    assert form["name"] and form["description"] and any(item["type"] != "markdown" for item in form["body"])
    ids = [item["id"] for item in form["body"] if "id" in item]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[\w-]+", str(name)) for name in ids)
    for item in form["body"]:
        assert NEEDS[item["type"]] <= item["attributes"].keys(), item
        assert item["attributes"].keys() <= {"label", "description", "placeholder", "render", "options", "value"}
        assert item.get("validations", {}).keys() <= {"required"}


def test_there_are_forms_and_an_empty_issue_is_possible() -> None:
    assert len(FORMS) == 4 and load(FORMS[0].with_name("config.yml"))["blank_issues_enabled"] is True


CHANGES = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def changelog(text: str) -> list[tuple[str, list[str]]]:
    """(heading of a release, headings of its parts), as Keep a Changelog has them. Raises AssertionError."""
    title, *rest = re.split(r"^## ", text, flags=re.MULTILINE)
    assert title.startswith("# Changelog") and "keepachangelog.com" in title and "semver.org" in title
    found = []
    for release in rest:
        heading, *parts = re.split(r"^### ", release, flags=re.MULTILINE)
        name = heading.splitlines()[0].strip()
        assert name == "Unreleased" or re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", name), name
        names = [part.splitlines()[0].strip() for part in parts]
        assert set(names) <= set(CHANGES) and len(set(names)) == len(names), names
        for part in parts:
            lines = [line for line in part.splitlines()[1:] if line.strip()]
            assert lines and all(re.match(r"- |  ", line) for line in lines), lines
        found.append((name, names))
    assert [name for name, _ in found].count("Unreleased") == 1 and found[0][0] == "Unreleased"
    return found


def test_the_changelog_has_the_form_it_names() -> None:
    assert changelog((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))[0][1]


@pytest.mark.parametrize(
    "rest",
    [
        "## 1.0\n",
        "## [1.0.0] - 2026-01-01\n",
        "## Unreleased\n\n### News\n\n- x\n",
        "## Unreleased\n\n### Added\n\nx\n",
    ],
)
def test_the_check_of_the_changelog_can_fail(rest: str) -> None:
    with pytest.raises(AssertionError):
        changelog("# Changelog\n\nhttps://keepachangelog.com https://semver.org\n\n" + rest)


def test_the_list_before_a_release_names_the_files_it_speaks_of_and_the_name_that_is_taken() -> None:
    text = (ROOT / "RELEASING.md").read_text(encoding="utf-8")
    assert "another name" in text and "belongs to another project" in text
    for path in re.findall(r"`([\w./-]+\.(?:py|md|toml|cff))`", text):
        assert (ROOT / path).exists(), path


def test_nobody_is_told_to_install_what_belongs_to_another_project() -> None:
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + list((ROOT / "docs").rglob("*.md"))
    assert [page.name for page in pages if re.search(r"pip install (-\S+ )*actdiag", page.read_text("utf-8"))] == []


def test_contributing_names_targets_of_make_and_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`([\w./-]+\.(?:py|md))`", text):
        assert (ROOT / path).exists() or (ROOT / "actdiag" / path).exists(), path


def test_the_oldest_environment_runs_tests_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (names,) = re.findall(r"^OLDEST := (.*)$", makefile, re.MULTILINE)
    assert [name for name in names.split() if not (ROOT / "tests" / f"test_{name}.py").exists()] == []
