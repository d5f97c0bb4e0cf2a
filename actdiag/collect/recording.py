"""A recorded step from its sums to its Snapshot: what this rank has counted, then what is known of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actdiag.collect.collector import Collector
from actdiag.collect.finish import finish_sites
from actdiag.collect.finish_parameters import finish_parameters, total_norms
from actdiag.collect.memory import Memory
from actdiag.collect.parallel import Place
from actdiag.collect.parcel import Word
from actdiag.collect.ranks import Ranks
from actdiag.collect.readout import SeenSite, count_up, owner_of, queue_records, queue_site, seen_of
from actdiag.collect.records import ParameterRecord
from actdiag.collect.roles import settle_roles
from actdiag.collect.scaler import ScaleWatch
from actdiag.collect.scales import Divisors
from actdiag.collect.sending import Readout, Sent
from actdiag.collect.tally import SUMS, Layout, Tally
from actdiag.snapshot import Snapshot

NOTHING = Tally.empty(Layout())
"""What is counted of a step that was not observed."""


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What this rank has counted in one step, on its way to the host.

    `late`: of a CUDA device, to be read when the next step has been enqueued; no loss scaler has a say in it.
    """

    step: int
    epoch: int | None
    sent: Sent
    sites: Sequence[SeenSite]
    records: Sequence[ParameterRecord]
    places: list[Place | None]
    late: bool


def gather(
    collector: Collector,
    records: Sequence[ParameterRecord],
    scaler: ScaleWatch,
    *,
    step: tuple[int, int | None],
    may_wait: bool,
) -> Gathered:
    """Send what was counted in the step that ends to the host. `step`: its number, and the epoch.

    `may_wait`: the numbers may be read after the next step, if they come from a device that works by itself.
    """
    found, out = collector.seen(), Readout(collector.arenas)
    for key, index, site in found:
        queue_site(out, owner_of(key, index), site)
    queue_records(out, records)
    scaler.queue(out)
    late = may_wait and out.is_late
    sites, places = [seen_of(*each) for each in found], [site.place for _, _, site in found]
    sent = out.send(late=late)
    if late:
        collector.told()
    number, epoch = step
    return Gathered(step=number, epoch=epoch, sent=sent, sites=sites, records=records, places=places, late=late)


def count(gathered: Gathered, collector: Collector, scaler: ScaleWatch) -> Tally:
    """The numbers that were sent. Waits for them: the one synchronization of a recorded step."""
    fetched, scales = gathered.sent.read(), list[float]()
    if not gathered.late:
        scaler.settle(fetched)
        scales = scaler.scales.read
    over = Divisors(scales, gathered.records)
    tally = count_up(
        gathered.sites,
        gathered.records,
        fetched,
        site_scales=[over.at(site.key) for site in gathered.sites],
        record_scales=[over.of(record) for record in gathered.records],
    )
    if not gathered.late:
        collector.told()
    return tally


def step_facts(collector: Collector, scaler: ScaleWatch, ranks: Ranks, word: Word, tally: Tally) -> dict[str, Any]:
    """What is known of a step as a whole."""
    targets = {target.name for target in collector.targets}
    elsewhere = {row.key for row in tally.layout.sites} - {key for key, _ in collector.sites}
    modules = targets | {key for key in elsewhere if "/" not in key and not key.endswith(":in")}
    several = ranks.world > 1
    return {
        "step": word.step,
        "sites_selected": len(modules),
        "loss_scale": scaler.loss_scale,
        "skipped_steps": scaler.skipped,
        "ranks": word.ranks if several else None,
        "world_size": ranks.world if several else None,
    }


def build(tally: Tally, memory: Memory, ranks: Ranks, facts: Mapping[str, Any]) -> Snapshot:
    """The Snapshot of a step. `facts`: what is known of the step as a whole."""
    memory.settle_names(tally)
    ran_S = tally.sums_SK[:, SUMS.index("ran")].tolist()
    rows = zip(tally.layout.sites, ran_S, strict=True)
    known = [memory.of(row.key, row.call) if ran else None for row, ran in rows]
    sites = finish_sites(tally, known, facts["step"], replicas=ranks.replicas)
    stats = {own.name: site for own, site in zip(known, sites, strict=True) if own is not None and site is not None}
    complete = ranks.complete
    total, clip = total_norms(tally, complete=complete)
    parameters = finish_parameters(tally, complete=complete)
    return Snapshot(
        sites=settle_roles(stats),
        parameters={row.name: own for row, own in zip(tally.layout.parameters, parameters, strict=True)},
        grad_norm_total=total,
        clip_coefficient=clip,
        **facts,
    )
