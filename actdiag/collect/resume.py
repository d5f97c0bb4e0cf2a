"""What a collector knows of its sites beyond one step, saved and restored: names, order, units, evidence.

A site is otherwise made when it first runs. After a resume the sites are made at once: the first step may be a
watched one, on which a shared module's calls could not be told apart, nor the unit dimension of a layer be known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from actdiag.collect.collector import Collector
from actdiag.collect.saved import items, mapping, whole
from actdiag.collect.site import Site
from actdiag.collect.sites import named_modules
from actdiag.collect.trend import Trend
from actdiag.collect.units import UnitEvidence, UnitLedger
from actdiag.snapshot import Role


@dataclass(frozen=True, kw_only=True)
class SavedSite:
    """A site of a saved state. `function`: an activation called as a function, no module of its own."""

    key: str
    index: int
    name: str
    kind: str
    role: Role
    function: bool
    evidence: UnitEvidence | None
    ledger: UnitLedger | None
    trend: Trend

    @property
    def units(self) -> int | None:
        """How many units there is evidence about."""
        return None if self.evidence is None else self.evidence.units


@dataclass(frozen=True, kw_only=True)
class SavedSites:
    """Everything a collector knew."""

    sites: tuple[SavedSite, ...]
    dims: Mapping[str, tuple[int, int]]
    scoped: bool
    frozen: bool


def collector_state(collector: Collector) -> dict[str, Any]:
    """What is known of the sites, as plain values and tensors of the host.

    With what was observed since the last recorded step, unless that is known of one rank of several only.
    """
    ordered = sorted(collector.sites.items(), key=lambda item: item[1].order)
    return {
        "sites": [_site_state(collector, key, index, site) for (key, index), site in ordered],
        "dims": [[key, ndim, dim] for key, (ndim, dim) in collector.dims.known.items()],
        "scoped": collector.needs_scope,
        "frozen": collector.memory.frozen,
    }


def _site_state(collector: Collector, key: str, index: int, site: Site) -> dict[str, Any]:
    known = collector.memory.of(key, index)
    seen = None if site.recent is None or collector.memory.shared else site.recent.openings()
    if seen is not None:
        known = collector.memory.with_seen(known, seen)
    return {
        "key": key,
        "index": index,
        "name": known.name,
        "kind": site.kind,
        "role": site.role,
        "function": key.removesuffix(":in") not in {target.name for target in collector.targets},
        "evidence": None if known.evidence is None else known.evidence.state(),
        "ledger": None if known.ledger is None else known.ledger.state(),
        "trend": known.trend.state(),
    }


def parse_sites(state: Mapping[str, Any], window: int) -> SavedSites:
    """A saved state, checked. Raises ValueError for anything else."""
    dims = {}
    for entry in items(state, "dims"):
        key, ndim, dim = entry
        dims[str(key)] = whole({"dims": ndim}, "dims"), int(dim)
    return SavedSites(
        sites=tuple(_site(raw, window) for raw in items(state, "sites")),
        dims=dims,
        scoped=state.get("scoped") is True,
        frozen=state.get("frozen") is True,
    )


def _site(raw: Mapping[str, Any], window: int) -> SavedSite:
    texts = {name: raw.get(name) for name in ("key", "name", "kind", "role")}
    if not all(isinstance(text, str) for text in texts.values()) or raw["role"] not in get_args(Role):
        raise ValueError(f"a site cannot be {texts!r:.80}")
    evidence = ledger = None
    trend = Trend()
    if raw.get("evidence") is not None:
        evidence = UnitEvidence.restored(mapping(raw, "evidence"), window)
        ledger = UnitLedger.restored(mapping(raw, "ledger"), evidence)
        trend = Trend.restored(mapping(raw, "trend"), evidence.units) if "trend" in raw else trend
    return SavedSite(
        key=raw["key"],
        index=whole(raw, "index"),
        name=raw["name"],
        kind=raw["kind"],
        role=raw["role"],
        function=raw.get("function") is True,
        evidence=evidence,
        ledger=ledger,
        trend=trend,
    )


def split_known(collector: Collector, saved: SavedSites) -> tuple[list[SavedSite], list[SavedSite]]:
    """The saved sites that this model can have, and those that it cannot: other names, other kinds."""
    kinds = {target.name: target.kind for target in collector.targets}
    alive = {name: model for name, ref in collector.models.items() if (model := ref()) is not None}
    scopes = {"", *alive, *(name for name, _ in named_modules(alive))}
    known: list[SavedSite] = []
    unknown: list[SavedSite] = []
    for site in saved.sites:
        if site.function:
            fits = site.key.rpartition("/")[0] in scopes
        else:
            fits = kinds.get(site.key.removesuffix(":in")) == site.kind
        (known if fits else unknown).append(site)
    return known, unknown


def resume_sites(collector: Collector, saved: SavedSites, known: Iterable[SavedSite]) -> None:
    """Make the sites, in the order in which they first ran, with the evidence that was saved.

    It replaces what was observed until now, as loading does for weights: a loop that goes back to a checkpoint has
    not seen what came after it.
    """
    known = list(known)
    collector.told()
    for old in collector.memory.known.values():
        old.evidence = old.ledger = None
        old.trend = Trend()
    for one in known:
        site = collector.site(one.key, one.index, kind=one.kind, role=one.role, facts=None)
        remembered = collector.memory.of(one.key, one.index)
        site.role, remembered.name = one.role, one.name
        if one.evidence is not None and one.ledger is not None:
            remembered.evidence, remembered.ledger, remembered.trend = one.evidence, one.ledger, one.trend
    collector.dims.known = {**saved.dims, **collector.dims.known}
    collector.needs_scope = collector.needs_scope or saved.scoped
    collector.memory.frozen = collector.memory.frozen or saved.frozen


def other_widths(collector: Collector, known: Iterable[SavedSite]) -> list[str]:
    """The sites that have run since and have another number of units than was saved: they begin anew."""
    changed = []
    for one in known:
        site, now = collector.sites.get((one.key, one.index)), collector.memory.of(one.key, one.index)
        if site is None or not site.ran or now.evidence is None or one.units is None:
            continue
        if now.evidence.units != one.units:
            changed.append(now.name)
    return changed
