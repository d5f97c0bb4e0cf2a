"""The manual of the numbers: what each one of a snapshot is, what healthy trainings show, and when there is none.

`actdiag explain mean_energy` prints it, docs/metrics is written from it. What a number is, in one sentence, and its
unit stand beside its field in snapshot.py; where it is in TensorBoard follows from the writers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from actdiag.manual.entry import Entry
from actdiag.manual.site import SITE
from actdiag.manual.step import PARAMETER, STEP
from actdiag.snapshot import ParameterStats, SiteStats, Snapshot, stat_fields

_TEXTS = {
    "histogram": "counts of the elements by their size, with their sign",
    "grad_histogram": "the same of the loss gradient at this site",
    "unit_states": "what each unit is: alive, rare, suspect, dead or revived",
}

FIELDS: dict[str, dict[str, Mapping[str, str]]] = {
    "site": stat_fields(SiteStats) | {name: {"doc": doc, "unit": "", "kind": "text"} for name, doc in _TEXTS.items()},
    "parameter": {"state": {"doc": "whether it is trained, and if not, why", "unit": "", "kind": "text"}}
    | stat_fields(ParameterStats),
    "step": stat_fields(Snapshot),
}
"""What a number belongs to -> its name -> doc, unit and kind."""

ENTRIES = {entry.names[0]: entry for entry in (*SITE, *PARAMETER, *STEP)}
"""Name of each page -> its entry, in the order of a snapshot."""


def entry_of(name: str) -> Entry | None:
    """The entry that explains a number of a snapshot; None if there is none."""
    return next((entry for entry in ENTRIES.values() if name in entry.names), None)


def numbers() -> list[str]:
    """Every number that is explained."""
    return [name for entry in ENTRIES.values() for name in entry.names]


def manual_of(name: str) -> str | None:
    """A number's manual as plain text; None if there is no such number."""
    entry = entry_of(name)
    if entry is None:
        return None
    known = [(each, FIELDS[entry.of][each]) for each in entry.names]
    lines = [f"{each}: {spec['doc']}" + (f" [{spec['unit']}]" if spec["unit"] else "") for each, spec in known]
    for heading, text in parts_of(entry):
        lines += ["", textwrap.fill(f"{heading}: {text}", 100, break_long_words=False, break_on_hyphens=False)]
    return "\n".join([*lines, ""])


def parts_of(entry: Entry) -> list[tuple[str, str]]:
    """Heading and text of each part that an entry has."""
    told = [("Formula", entry.formula), ("Values", entry.values), ("Healthy", entry.healthy)]
    told += [("None and NaN", entry.none), ("Note", entry.more), ("Source", entry.source)]
    told.append(("Findings", ", ".join(entry.rules)))
    return [(heading, text) for heading, text in told if text]
