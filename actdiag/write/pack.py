"""A Snapshot as a few tensors, exactly: what the tab and `actdiag report` read back.

Per statistic one vector over the sites, float32 with NaN for None, or int64 with -1 for None. Unit states and
histograms are zlib-compressed bytes: most of them repeat.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actdiag.snapshot import (
    SCHEMA_VERSION,
    Histogram,
    ParameterStats,
    SiteStats,
    Snapshot,
    stat_fields,
)
from actdiag.write import tags

Packed = dict[str, "NDArray[Any]"]


def schema_of(snapshot: Snapshot) -> str:
    """What must be known to unpack the vectors: names, kinds, roles. JSON; written when it changes."""
    sites = [
        {"name": name, "kind": site.kind, "role": site.role, "order": site.order}
        for name, site in snapshot.sites.items()
    ]
    stats = {name: {"doc": m["doc"], "unit": m["unit"]} for name, m in stat_fields(SiteStats).items()}
    return json.dumps(
        {
            "version": SCHEMA_VERSION,
            "sites": sites,
            "parameters": list(snapshot.parameters),
            "sites_selected": snapshot.sites_selected,
            "stats": stats,
        }
    )


def pack(snapshot: Snapshot) -> Packed:
    """Tag -> array of everything but the schema and the step's own scalars."""
    sites, parameters = list(snapshot.sites.values()), list(snapshot.parameters.values())
    packed = {tags.STAT + name: _vector(sites, name, m) for name, m in stat_fields(SiteStats).items()}
    for name, m in stat_fields(ParameterStats).items():
        packed[tags.PARAMETER + name] = _vector(parameters, name, m)
    packed[tags.PARAMETER + "state"] = _compress("\n".join(p.state for p in parameters).encode())
    packed[tags.UNITS] = _compress("\n".join(site.unit_states or "" for site in sites).encode())
    for kind, attribute in tags.HISTOGRAM_KINDS.items():
        packed[tags.HISTOGRAM + kind] = _histograms([getattr(site, attribute) for site in sites])
    return {tag: array for tag, array in packed.items() if array.size}


def _vector(items: Sequence[Any], name: str, metadata: Mapping[str, Any]) -> NDArray[Any]:
    values = [getattr(item, name) for item in items]
    if all(value is None for value in values):
        return np.zeros(0)
    if metadata["kind"] == "int":
        return np.array([tags.NO_INT if v is None else v for v in values], dtype=np.int64)
    return np.array([np.nan if v is None else v for v in values], dtype=np.float32)


def _compress(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(text, 6), dtype=np.uint8) if text.strip() else np.zeros(0, np.uint8)


def _histograms(histograms: Sequence[Histogram | None]) -> NDArray[np.uint8]:
    known = [h for h in histograms if h is not None]
    if not known:
        return np.zeros(0, np.uint8)
    width = len(known[0].counts)
    rows = [[tags.NO_TOP] + [0] * width if h is None else [h.top, *h.counts] for h in histograms]
    return _compress(np.array(rows, dtype="<i4").tobytes())


def unpack(schema: Mapping[str, Any], packed: Mapping[str, NDArray[Any]], scalars: Mapping[str, float], step: int) -> Snapshot:
    """The inverse of `schema_of` and `pack`. Raises ValueError for vectors that do not fit the schema."""
    if schema.get("version") != SCHEMA_VERSION:
        raise ValueError(f"the log has schema version {schema.get('version')}, this actdiag reads {SCHEMA_VERSION}")
    names = [site["name"] for site in schema["sites"]]
    site_values = _columns(packed, tags.STAT, SiteStats, len(names))
    extra = _site_extras(packed, len(names))
    sites = {}
    for i, site in enumerate(schema["sites"]):
        own = {key: site[key] for key in ("kind", "role", "order")}
        sites[site["name"]] = SiteStats(**own, **site_values[i], **extra[i])
    states = _decompress(packed.get(tags.PARAMETER + "state")).decode().split("\n")
    values = _columns(packed, tags.PARAMETER, ParameterStats, len(schema["parameters"]))
    parameters = {
        name: ParameterStats(state=states[i], **values[i])  # type: ignore[arg-type]
        for i, name in enumerate(schema["parameters"])
    }
    step_values: dict[str, Any] = {k: scalars[k] for k in tags.STEP_STATS if k in scalars}
    if "skipped_steps" in step_values:
        step_values["skipped_steps"] = int(step_values["skipped_steps"])
    return Snapshot(
        step=step, sites=sites, parameters=parameters, sites_selected=schema["sites_selected"], **step_values
    )


def _columns(packed: Mapping[str, NDArray[Any]], prefix: str, kind: type, n: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    for name, metadata in stat_fields(kind).items():
        column = packed.get(prefix + name)
        if column is None:
            continue
        if len(column) != n:
            raise ValueError(f"{prefix}{name} has {len(column)} entries for {n} names in the schema")
        for row, value in zip(rows, column.tolist(), strict=True):
            missing = value == tags.NO_INT if metadata["kind"] == "int" else value != value
            row[name] = None if missing else value
    return rows


def _site_extras(packed: Mapping[str, NDArray[Any]], n: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    if tags.UNITS in packed:
        for row, states in zip(rows, _decompress(packed[tags.UNITS]).decode().split("\n"), strict=True):
            row["unit_states"] = states or None
    for kind, attribute in tags.HISTOGRAM_KINDS.items():
        if tags.HISTOGRAM + kind not in packed:
            continue
        grid = np.frombuffer(_decompress(packed[tags.HISTOGRAM + kind]), dtype="<i4").reshape(n, -1)
        for row, (top, *counts) in zip(rows, grid.tolist(), strict=True):
            row[attribute] = None if top == tags.NO_TOP else Histogram(top, tuple(counts))
    return rows


# A site's states or histograms are small; a log that claims more is damaged or hostile.
_LARGEST_BYTES = 1 << 28


def _decompress(array: NDArray[Any] | None) -> bytes:
    if array is None:
        return b""
    unzip = zlib.decompressobj()
    data = unzip.decompress(array.tobytes(), _LARGEST_BYTES)
    if unzip.unconsumed_tail or not unzip.eof:
        raise ValueError("compressed data are damaged or larger than 256 MiB")
    return data
