"""The recorded steps of one monitor that hold, and the names that its vectors are about.

Shapes: T recorded steps. A key is the step and the wall time of an event: both, since a resumed run comes to a step a
second time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actdiag.write.pack import Schema, parse_schema

Key = tuple[int, float]
_SHOWN_PROBLEMS = 20


class Names(NamedTuple):
    """All names of a kind that the schemas hold, and for each schema where its own stand among them."""

    names: Sequence[str]
    rows: Sequence[NDArray[np.intp]]


@dataclass(frozen=True)
class Timeline:
    """`steps_T` increases strictly. `schema_T` says by which of the schemas a step is read; -1: by none.

    `places` tells where an event belongs; an event whose key it lacks has been superseded.
    """

    steps_T: NDArray[np.int64]
    places: dict[Key, int]
    schemas: Sequence[Schema]
    schema_T: NDArray[np.int64]
    sites: Names
    parameters: Names
    problems: Sequence[str]

    @property
    def mark(self) -> tuple[int, Key | None, int]:
        """Differs between two timelines of one log, which is only added to."""
        return len(self.places), next(reversed(self.places), None), len(self.schemas)

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return 300 * len(self.steps_T) + 300 * (len(self.sites.names) + len(self.parameters.names))

    @property
    def described(self) -> dict[str, Mapping[str, Any]]:
        """Name of each site -> kind, role and order, as they were told last."""
        return {name: told for schema in self.schemas for name, told in schema.sites.items()}


def timeline_of(keys: Sequence[Key], texts: Sequence[tuple[Key, str]]) -> Timeline:
    """The timeline of events in the order of the log, and of the schemas among them.

    A step that comes again, or an earlier one, supersedes everything from it on: the run was resumed there. The order
    of the log decides, as it does for `actdiag report` and for TensorBoard's fast loader; wall time cannot, since
    clocks are set back, and differ between machines. A schema holds from its event on.
    """
    kept: list[int] = []
    for i, (step, _) in enumerate(keys):
        while kept and keys[kept[-1]][0] >= step:
            kept.pop()
        kept.append(i)
    schemas, problems = _parsed([text for _, text in texts])
    begins = _beginnings(keys, [key for key, _ in texts])
    in_force = np.full(len(keys), -1)
    for begin, schema in sorted(zip(begins, range(len(schemas)), strict=True)):
        in_force[begin:] = schema
    return build([keys[i] for i in kept], [_or_none(schemas, in_force[i]) for i in kept], problems)


def build(keys: Sequence[Key], schema_T: Sequence[Schema | None], problems: Sequence[str] = ()) -> Timeline:
    """The timeline of steps that hold, each with the schema by which it is read (None: there is none)."""
    known: dict[int, int] = {}
    schemas: list[Schema] = []
    index = np.full(len(keys), -1, np.int64)
    for i, schema in enumerate(schema_T):
        if schema is None:
            continue
        if id(schema) not in known:
            known[id(schema)] = len(schemas)
            schemas.append(schema)
        index[i] = known[id(schema)]
    places = {key: i for i, key in enumerate(keys)}
    steps = np.array([step for step, _ in keys], dtype=np.int64)
    return Timeline(steps, places, schemas, index, _sites(schemas), _parameters(schemas), problems)


def _parsed(texts: Sequence[str]) -> tuple[list[Schema | None], list[str]]:
    """One schema a text, the same one for the same text; and what is wrong with the others."""
    parsed: dict[str, Schema | None] = {}
    problems: list[str] = []
    for text in texts:
        if text in parsed:
            continue
        parsed[text] = None
        try:
            parsed[text] = parse_schema(text)
        except ValueError as error:
            problems.append(str(error))
    return [parsed[text] for text in texts], problems[:_SHOWN_PROBLEMS]


def _beginnings(keys: Sequence[Key], schema_keys: Sequence[Key]) -> list[int]:
    """Where each schema begins to hold: at its own event, or at the first one after it where that is gone."""
    at = {key: i for i, key in enumerate(keys)}
    walls = np.array([wall for _, wall in keys])
    return [at[key] if key in at else int(np.searchsorted(walls, key[1])) for key in schema_keys]


def _or_none(schemas: Sequence[Schema | None], index: int) -> Schema | None:
    return schemas[index] if index >= 0 else None


def _sites(schemas: Sequence[Schema]) -> Names:
    """In the order of execution, as it was told last."""
    order = {name: told["order"] for schema in schemas for name, told in schema.sites.items()}
    return _rows(sorted(order, key=order.__getitem__), [list(schema.sites) for schema in schemas])


def _parameters(schemas: Sequence[Schema]) -> Names:
    """In the order in which they were told first."""
    names = dict.fromkeys(name for schema in schemas for name in schema.parameters)
    return _rows(list(names), [schema.parameters for schema in schemas])


def _rows(names: Sequence[str], owns: Sequence[Sequence[str]]) -> Names:
    place = {name: i for i, name in enumerate(names)}
    return Names(names, [np.array([place[name] for name in own], dtype=np.intp) for own in owns])
