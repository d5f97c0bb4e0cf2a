"""A Snapshot as a few tensors, exactly: what the tab and `actdiag report` read back.

Per statistic one vector over the sites: float32 with NaN for None, or the smallest of int16, int32 and int64 that
fits, with -1 for None. A statistic that is None at every site is left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from actdiag.snapshot import (
    SCHEMA_VERSION,
    UNIT_STATES,
    ParameterState,
    ParameterStats,
    Role,
    SiteStats,
    Snapshot,
    stat_fields,
)
from actdiag.write import tags
from actdiag.write.codec import (
    decode_histograms,
    decode_lines,
    decode_states,
    encode_histograms,
    encode_lines,
    encode_states,
)
from actdiag.write.plain import strict_json

Packed = dict[str, "NDArray[Any]"]

_INTEGERS = tuple((dtype, int(np.iinfo(dtype).max)) for dtype in (np.int16, np.int32, np.int64))


Outline = tuple[Any, ...]


def outline_of(snapshot: Snapshot) -> Outline:
    """What a schema is made of: it is another one where this is."""
    sites = [(name, site.kind, site.role, site.order) for name, site in snapshot.sites.items()]
    return sites, list(snapshot.parameters), snapshot.sites_selected


def schema_of(snapshot: Snapshot, session: str = "") -> str:
    """What must be known to unpack the vectors: names, kinds, roles. JSON; written when it changes.

    `session` tells the writers of a resumed run apart: with each of them the judging of findings begins anew.
    """
    sites = [
        {"name": name, "kind": site.kind, "role": site.role, "order": site.order}
        for name, site in snapshot.sites.items()
    ]
    return strict_json(
        {
            "version": SCHEMA_VERSION,
            "session": session,
            "sites": sites,
            "parameters": list(snapshot.parameters),
            "sites_selected": snapshot.sites_selected,
        }
    )


@dataclass(frozen=True)
class Schema:
    """A schema that was read: what is said once of many steps."""

    sites: Mapping[str, Mapping[str, Any]]
    parameters: Sequence[str]
    sites_selected: int
    session: str


def parse_schema(text: str) -> Schema:
    """The inverse of `schema_of`. Raises ValueError for other text and for another schema version."""
    try:
        raw = json.loads(text)
        version = raw["version"]
        if version != SCHEMA_VERSION:
            raise ValueError(f"the log has schema version {version}, this actdiag reads {SCHEMA_VERSION}")
        sites = {str(site["name"]): _described(site) for site in raw["sites"]}
        parameters = [str(name) for name in raw["parameters"]]
        schema = Schema(sites, parameters, int(raw["sites_selected"]), str(raw.get("session", "")))
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"the schema is damaged ({type(error).__name__}: {error})") from None
    if len(sites) != len(raw["sites"]):
        raise ValueError("the schema names a site twice")
    return schema


def _described(site: Mapping[str, Any]) -> dict[str, Any]:
    if site["role"] not in get_args(Role):
        raise ValueError(f"a site cannot have the role {site['role']!r:.40}")
    return {"kind": str(site["kind"]), "role": site["role"], "order": int(site["order"])}


def pack(snapshot: Snapshot) -> Packed:
    """Tag -> array of everything but the schema and the step's own scalars."""
    sites, parameters = list(snapshot.sites.values()), list(snapshot.parameters.values())
    packed = _vectors(tags.STAT, SiteStats, sites) | _vectors(tags.PARAMETER, ParameterStats, parameters)
    packed[tags.PARAMETER + "state"] = encode_lines([p.state for p in parameters])
    packed[tags.UNITS] = encode_states([site.unit_states for site in sites])
    for kind, attribute in tags.HISTOGRAM_KINDS.items():
        packed[tags.HISTOGRAM + kind] = encode_histograms([getattr(site, attribute) for site in sites])
    return {tag: array for tag, array in packed.items() if array.size}


def _vectors(prefix: str, kind: type, items: Sequence[Any]) -> Packed:
    """Of each statistic that is known somewhere."""
    described = stat_fields(kind)
    rows = map(attrgetter(*described), items)
    named = zip(described.items(), zip(*rows, strict=True), strict=False)  # no columns where there are no rows
    return {
        prefix + name: _vector(values, metadata["kind"])
        for (name, metadata), values in named
        if values.count(None) < len(values)
    }


def _vector(values: tuple[Any, ...], kind: str) -> NDArray[Any]:
    if kind == "int":
        numbers = [tags.NO_INT if v is None else v for v in values]
        largest = max(max(numbers), -min(numbers))
        return np.array(numbers, next(dtype for dtype, most in _INTEGERS if largest <= most))
    return np.array([math.nan if v is None else v for v in values], dtype=np.float32)


def unpack(schema: Schema, packed: Mapping[str, NDArray[Any]], scalars: Mapping[str, float], step: int) -> Snapshot:
    """The inverse of `schema_of` and `pack`. Raises ValueError for vectors that do not fit the schema."""
    numbers = _columns(packed, tags.STAT, SiteStats, len(schema.sites))
    extra = _site_extras(packed, len(schema.sites))
    sites = {
        name: SiteStats(**described, **numbers[i], **extra[i])
        for i, (name, described) in enumerate(schema.sites.items())
    }
    step_values: dict[str, Any] = {k: scalars[k] for k in tags.STEP_STATS if k in scalars}
    for name in ("skipped_steps", "epoch", "ranks", "world_size"):
        if name in step_values:
            step_values[name] = int(step_values[name])
    return Snapshot(
        step=step,
        sites=sites,
        parameters=_parameters(schema, packed),
        sites_selected=schema.sites_selected,
        **step_values,
    )


def _parameters(schema: Schema, packed: Mapping[str, NDArray[Any]]) -> dict[str, ParameterStats]:
    states: list[Any] = decode_lines(packed.get(tags.PARAMETER + "state", np.zeros(0, np.uint8)))
    if len(states) != len(schema.parameters) or not set(states) <= set(get_args(ParameterState)):
        raise ValueError(f"{len(states)} states do not fit the {len(schema.parameters)} parameters in the schema")
    values = _columns(packed, tags.PARAMETER, ParameterStats, len(states))
    return {
        name: ParameterStats(state=state, **own)
        for name, state, own in zip(schema.parameters, states, values, strict=True)
    }


def _columns(packed: Mapping[str, NDArray[Any]], prefix: str, kind: type, n: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    for name, metadata in stat_fields(kind).items():
        column = packed.get(prefix + name)
        if column is None:
            continue
        if len(column) != n:
            raise ValueError(f"{prefix}{name} has {len(column)} entries for {n} names in the schema")
        if column.dtype.kind != metadata["kind"][0]:
            raise ValueError(f"{prefix}{name} holds {column.dtype} where {metadata['kind']} is expected")
        for row, value in zip(rows, column.tolist(), strict=True):
            missing = value == tags.NO_INT if metadata["kind"] == "int" else value != value
            row[name] = None if missing else value
    return rows


def _site_extras(packed: Mapping[str, NDArray[Any]], n: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    if tags.UNITS in packed:
        states = decode_states(packed[tags.UNITS])
        if len(states) != n or not all(set(line or "") <= set(UNIT_STATES) for line in states):
            raise ValueError(f"{len(states)} lines of unit states do not fit the {n} sites in the schema")
        for row, line in zip(rows, states, strict=True):
            row["unit_states"] = line
    for kind, attribute in tags.HISTOGRAM_KINDS.items():
        if tags.HISTOGRAM + kind in packed:
            histograms = decode_histograms(packed[tags.HISTOGRAM + kind], n)
            for row, histogram in zip(rows, histograms, strict=True):
                row[attribute] = histogram
    return rows
