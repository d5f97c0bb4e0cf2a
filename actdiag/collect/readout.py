"""From what sites and parameters have added up to the Tally of this rank: what is sent, and what is made of it.

Legend: S sites, K sums, C units of all sites in a row, W watched units in a row, P parameters, V values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.records import ParameterRecord, pack_record
from actdiag.collect.sending import Fetched, Numbers, Readout
from actdiag.collect.site import Site
from actdiag.collect.tally import SUMS, VALUES, Layout, ParameterRow, Piece, SiteRow, Tally, Times
from actdiag.snapshot import Role

Groups = Mapping[str, Mapping[str, Numbers]]

_SUMS_OF = {
    "counts": ("zeros", "nonfinite"),
    "gate": ("gate_n", "gate", "gate_low", "gate_high"),
    "gradient": ("grad_n", "grad_squares", "grad_zeros", "grad_nonfinite"),
}
"""Group of the device sums -> names of its numbers among the sums of a Tally, where they follow each other."""
_COUNTED_IN = {"counts": "ran", "gate": "gates", "gradient": "gradients"}
_PLACES = {
    group: (SUMS.index(_COUNTED_IN[group]), slice(SUMS.index(names[0]), SUMS.index(names[-1]) + 1))
    for group, names in _SUMS_OF.items()
}
_NUMBERS = "#numbers"
"""Under which the numbers of all parameters travel; no site or parameter has this name."""
_ELEMENTS = slice(SUMS.index("elements"), SUMS.index("samples") + 1)


def owner_of(key: str, index: int) -> str:
    """Under which the numbers of a site travel."""
    return f"{key}#{index}"


class SeenSite(NamedTuple):
    """What the host knows of a site in one step."""

    key: str
    call: int
    kind: str
    role: Role
    ends: str
    elements: int
    samples: int
    times: Times | None


def seen_of(key: str, index: int, site: Site) -> SeenSite:
    """As it is now."""
    times = site.recent.times() if site.recent is not None else None
    return SeenSite(key, index, site.kind, site.role, _ends(site.facts), site.elements, site.samples, times)


def queue_site(out: Readout, owner: str, site: Site) -> None:
    """Queue everything a site has added up."""
    groups = {"columns": site.columns_5C, "counts": site.counts_2, "gate": site.gate_4, "gradient": site.gradient_4}
    for group, sums in groups.items():
        if sums is not None:
            out.add(owner, group, "sums", sums)
    for name, octaves in (("activation", site.octaves), ("gradient", site.gradient_octaves)):
        if octaves is not None:
            out.add(owner, "octaves", name, octaves)
    if site.recent is not None and site.recent.times()[0].size:
        out.add(owner, "recent", "opens", site.recent.opens_C)
        out.add(owner, "recent", "last", site.recent.last_C)


def queue_records(out: Readout, records: Iterable[ParameterRecord]) -> None:
    """Queue the sums of all parameters."""
    queued: set[int] = set()
    for record in records:
        for number in pack_record(record).values():
            if id(number.of) not in queued:  # many parameters have theirs in one tensor
                queued.add(id(number.of))
                out.add(_NUMBERS, "", str(id(number.of)), number.of)
        for name, tensor in record.pieces.items():
            out.add(record.name, "piece", name, tensor)


def count_up(
    sites: Sequence[SeenSite],
    records: Sequence[ParameterRecord],
    fetched: Fetched,
    *,
    site_scales: Sequence[float | None],
    record_scales: Sequence[float | None],
) -> Tally:
    """The Tally of this rank, from what was copied. Scales: of the gradients; None if that cannot be told."""
    layout = Layout(
        tuple(_site_row(site, fetched) for site in sites),
        tuple(ParameterRow(record.name, record.part) for record in records),
    )
    given = [fetched.get(owner_of(site.key, site.call), {}) for site in sites]
    numbers = {name: array.tolist() for name, array in fetched.get(_NUMBERS, {}).get("", {}).items()}
    tally = Tally.empty(layout)
    times: list[Times | None] = []
    for i, (groups, site, scale) in enumerate(zip(given, sites, site_scales, strict=True)):
        _add_site(tally, i, groups, site)
        tally.scale_S[i] = (np.nan if scale is None else scale) if "gradient" in groups else 0.0
        times.append(site.times if "recent" in groups else None)
    pieces: dict[Piece, Numbers] = {}
    for i, (record, scale) in enumerate(zip(records, record_scales, strict=True)):
        own = {name: numbers[str(id(number.of))][number.at] for name, number in pack_record(record).items()}
        _add_record(tally, i, record, own, scale)
        if record.pieces:
            pieces |= _pieces(record, fetched[record.name]["piece"], scale)
    return _with_units(replace(tally, times=tuple(times), pieces=pieces), given)


def _with_units(tally: Tally, given: Sequence[Groups]) -> Tally:
    """With the columns of all units, and the extremes of the sites."""
    moments = [groups["columns"]["sums"] for groups in given if "columns" in groups]
    if moments:
        n_C, mean_C, m2_C, low_C, high_C = np.concatenate(moments, 1).astype(np.float64, copy=False)
        used_S = np.diff(tally.units_at) > 0
        first = np.array(tally.units_at[:-1])[used_S]
        tally = replace(tally, n_C=n_C, mean_C=mean_C, m2_C=m2_C)
        tally.low_S[used_S], tally.high_S[used_S] = (
            np.minimum.reduceat(low_C, first),
            np.maximum.reduceat(high_C, first),
        )
    watched = [groups["recent"] for groups in given if "recent" in groups]
    if watched:
        opens_W = np.concatenate([own["opens"] for own in watched]).astype(np.float64, copy=False)
        last_W = np.concatenate([own["last"] for own in watched]).astype(np.int64, copy=False)
        tally = replace(tally, opens_W=opens_W, last_W=last_W)
    return tally


def _pieces(record: ParameterRecord, own: Mapping[str, Numbers], scale: float | None) -> dict[Piece, Numbers]:
    """Gradients to which other ranks will add theirs, without the loss scale."""
    if not record.has_grad:  # of a loss whose update is not this one
        return {}
    scales = {"grad": scale if record.scaled else 1.0, "clipped": scale if record.clipped_scaled else 1.0}
    shard = record.term.shard if record.term is not None else ""
    return {
        Piece(value, record.name, shard): values / over
        for value, values in own.items()
        if (over := scales[value]) is not None
    }


def _site_row(site: SeenSite, fetched: Fetched) -> SiteRow:
    groups = fetched.get(owner_of(site.key, site.call), {})
    units = groups["columns"]["sums"].shape[1] if "columns" in groups else 0
    watched = groups["recent"]["last"].size if "recent" in groups else 0
    return SiteRow(site.key, site.call, site.kind, site.role, units, watched, site.ends)


def _ends(facts: ActivationFacts | None) -> str:
    if facts is None:
        return ""
    told = (facts.gate, facts.bounded or None, facts.saturated_low, facts.saturated_high)
    return "".join(letter for letter, fact in zip("gblh", told, strict=True) if fact is not None)


def _add_site(tally: Tally, i: int, groups: Groups, site: SeenSite) -> None:
    row_K = tally.sums_SK[i]
    for group, (counted, numbers) in _PLACES.items():
        if group in groups:
            row_K[counted], row_K[numbers] = 1, groups[group]["sums"]
    row_K[_ELEMENTS] = site.elements, site.samples
    octaves = groups.get("octaves", {})
    for side, name in enumerate(("activation", "gradient")):
        if name in octaves:
            tally.octaves_S2U[i, side] = octaves[name]


def _add_record(tally: Tally, i: int, record: ParameterRecord, own: Mapping[str, float], scale: float | None) -> None:
    tally.flags_PF[i] = record.requires_grad, record.in_optimizer, record.has_grad, False
    if record.copied:  # another rank has the same part, and tells of it
        return
    values: dict[str, float | None] = {
        "weight": own.get("weight_squares"),
        "clipped": _unscaled(own.get("clipped_squares"), scale if record.clipped_scaled else 1.0),
        "update": own.get("update_squares"),
        "base": own.get("base_squares"),
    }
    values["grad"] = (
        _unscaled(own["grad_squares"], scale if record.scaled else 1.0) if "grad_squares" in own else values["clipped"]
    )
    if "grad_zeros" in own:
        values |= {"zeros": own["grad_zeros"] + record.absent, "elements": record.elements}
    told = [values.get(name) if record.has_grad or name not in _OF_GRADIENTS else None for name in VALUES]
    tally.values_PV[i] = [0.0 if value is None else value for value in told]
    tally.known_PV[i] = [value is not None for value in told]


_OF_GRADIENTS = ("grad", "clipped", "zeros", "elements")


def _unscaled(squares: float | None, scale: float | None) -> float | None:
    if squares is None or scale is None or scale == 1.0:
        return None if scale is None else squares
    return float(np.float64(squares) / np.float64(scale) ** 2)  # a scale may have come down to 0
