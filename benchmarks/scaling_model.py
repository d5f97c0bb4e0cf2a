"""What merging costs: host times are measured, collectives are modelled. See scaling.py, which makes the page."""

from __future__ import annotations

import math
import multiprocessing
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed

from actdiag.collect.exchange import FAN
from actdiag.collect.parcel import Word, pack
from actdiag.collect.ranks import combine, parcels_joined
from actdiag.collect.tally import SUMS, VALUES, Layout, ParameterRow, SiteRow, Tally

RANKS, SITES, UNITS = (8, 64, 512, 4096), (10, 50, 200, 2000), (64, 1024, 4096)
BLOCKS, LEVELS = (8, 16, 32, 64, 128), (4, 8, 16, 32)
"""Ranks that gather at once: at two levels at most, and at as many as are needed."""
OURS = f"levels of {FAN}"
SHOWN = ((10, 64), (50, 1024), (200, 1024), (2000, 64), (2000, 1024))
"""Sites and units of the tables by ranks."""
WORD = Word(step=1000, drop=False, again=False, record_steps=50, watch_steps=4, ranks=1)
ROOM = 1.25
"""The exchange sends so many times the first parcel's size (exchange._SLACK)."""
_HELD = 6e8
"""Bytes of parcels that are joined at once here, unless three parcels are more."""
MESSAGES = (1_000, 30_000, 1_000_000, 8_000_000, 32_000_000)


class Line(NamedTuple):
    """base + each * k, for k parcels, or bytes of a message. `residual`: the largest relative error of the fit."""

    base: float
    each: float
    residual: float = 0.0

    def at(self, count: float) -> float:
        """Its value for so many."""
        return self.base + self.each * count


NETWORKS = {"10 Gbit/s TCP": Line(50e-6, 1 / 1.25e9), "100 Gbit/s": Line(20e-6, 1 / 12.5e9)}
"""Name -> seconds of a message: latency, and bytes over the bandwidth of one rank's link."""


class Host(NamedTuple):
    """What was measured of one size: bytes of a rank's parcel and of a joined one, seconds, bytes of `memory`."""

    sites: int
    units: int
    bytes: int
    joined: int
    pack_s: float
    join_s: Line
    memory: Line
    counts: tuple[int, ...]


class Cost(NamedTuple):
    """Of one recorded step, on the rank that has most to do: seconds, bytes received, peak of memory in bytes."""

    host_s: float
    wire_s: float
    received: float
    memory: float

    @property
    def total_s(self) -> float:
        """Host and network, one after the other."""
        return self.host_s + self.wire_s


def random_tally(seed: int, sites: int, units: int) -> Tally:
    """A rank's tally: means that differ, 13 observations, about 60 used octaves, two parameters a site."""
    rng = np.random.default_rng(seed)
    rows = [SiteRow(f"layers.{i}.linear", 0, "Linear", "layer", units, units, "") for i in range(sites)]
    names = [f"layers.{i}.linear.{kind}" for i in range(sites) for kind in ("weight", "bias")]
    tally = Tally.empty(Layout(tuple(rows), tuple(ParameterRow(name, part=False) for name in names)))
    c = sites * units
    tally.n_C[:] = 4096.0
    tally.mean_C[:] = rng.normal(rng.normal(), 1.0, c)
    tally.m2_C[:] = 4096.0 * rng.gamma(2.0, 1.0, c)
    tally.sums_SK[:] = rng.integers(1, 10_000, (sites, len(SUMS)))
    tally.sums_SK[:, SUMS.index("elements")] = 4096.0 * units
    tally.sums_SK[:, SUMS.index("nonfinite")] = 0.0
    tally.low_S[:], tally.high_S[:], tally.scale_S[:] = -rng.gamma(9.0, 1.0, sites), rng.gamma(9.0, 1.0, sites), 1.0
    stamps = 4096 * np.arange(951, 1002, 4, dtype=np.int64) + 1
    tally.opens_W[:], tally.last_W[:] = rng.integers(0, 416, c), rng.choice(stamps, c)
    used = (np.array([0, 256])[:, None] + np.arange(98, 128)).ravel()
    tally.octaves_S2U[:, :, used] = rng.integers(0, 5_000, (sites, 2, len(used)))
    tally.values_PV[:] = rng.gamma(2.0, 1.0, (2 * sites, len(VALUES)))
    tally.known_PV[:], tally.flags_PF[:] = True, True
    times = (stamps, np.full(len(stamps), 32.0))
    return replace(tally, times=(times,) * sites)


def line(counts: Sequence[int], values: Sequence[float]) -> Line:
    """Least squares of the relative errors; through the origin where the base would be negative."""
    k, y = np.array(counts, float), np.array(values)
    columns = np.stack([np.ones_like(k), k], 1) / y[:, None]
    base, each = (float(x) for x in np.linalg.lstsq(columns, np.ones_like(y), rcond=None)[0])
    if base < 0:
        base, each = 0.0, float((k / y).sum() / np.square(k / y).sum())
    return Line(base, each, float(np.abs((base + each * k) / y - 1).max()))


def spent(work: Callable[[], Any], repeat: int, clock: Callable[[], float] = time.thread_time) -> float:
    """Median seconds; of CPU time of this thread if nothing else is said, since others share the machine."""
    taken = []
    for _ in range(repeat):
        start = clock()
        work()
        taken.append(clock() - start)
    return statistics.median(taken)


def _peak(parcels: Sequence[bytes]) -> float:
    """Bytes that joining takes beyond the parcels."""
    tracemalloc.start()
    parcels_joined(parcels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(peak)


def measure(sites: int, units: int, repeat: int = 3, most: int = 64) -> Host:
    """Packs, unpacks and joins up to `most` parcels of this size."""
    tallies = [random_tally(seed, sites, units) for seed in range(2)]
    parcels = [pack(WORD, tally) for tally in tallies]
    size = len(parcels[0])
    most = max(4, min(most, int(_HELD / size)))
    counts = (max(2, most // 4), max(3, most // 2), most)
    # The numbers of a rank do not change what joining costs; that its bytes lie elsewhere in memory does.
    parcels += [bytes(bytearray(parcels[i % 2])) for i in range(most - 2)]
    joined = [spent(partial(parcels_joined, parcels[:k]), repeat) for k in counts]
    pack_s = spent(partial(pack, WORD, tallies[0]), repeat)
    memory = line(counts, [_peak(parcels[:k]) for k in counts])
    return Host(sites, units, size, len(combine(parcels[:2])), pack_s, line(counts, joined), memory, counts)


def fans(ranks: int, block: int, most: int = 2) -> tuple[int, ...]:
    """How many gather at each level, with at most so many levels; the last level takes all that are left."""
    found: list[int] = []
    while ranks > block and len(found) < most - 1:
        found.append(block)
        ranks = math.ceil(ranks / block)
    return (*found, ranks)


def cost(host: Host, network: Line, levels: Sequence[int], *, to_one: bool = False) -> Cost:
    """Of one recorded step. `to_one`: one rank gathers and joins, and shares it with all."""
    room = ROOM * host.bytes
    shared = list(levels) if to_one else list(levels[:-1])
    host_s = host.pack_s + sum(host.join_s.at(fan) for fan in levels)
    wire_s = sum((fan - 1) * network.at(room) for fan in levels)
    received = sum((fan - 1) * room for fan in levels)
    if shared:
        host_s += len(levels) * host.pack_s + host.join_s.at(1)
        wire_s += sum(math.ceil(math.log2(fan)) * (network.at(8) + network.at(host.joined)) for fan in shared)
        received += 0 if to_one else host.joined
    largest = max(levels)
    return Cost(host_s, wire_s, received, largest * room + host.memory.at(largest))


def designs(ranks: int) -> dict[str, tuple[Sequence[int], bool]]:
    """Name -> how many gather at each level, and whether at one rank only."""
    found: dict[str, tuple[Sequence[int], bool]] = {"flat": ((ranks,), False)}
    found |= {f"blocks of {block}": (fans(ranks, block), False) for block in BLOCKS}
    found |= {f"levels of {fan}": (fans(ranks, fan, 99), False) for fan in LEVELS}
    return found | {"to one rank": ((ranks,), True)}


def _peer(rank: int, world: int, folder: str, repeat: int) -> list[float]:
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", world)  # type: ignore[attr-defined]
    group: Any = distributed.ProcessGroupGloo(store, rank, world, timeout=timedelta(seconds=120))
    seconds = []
    for size in MESSAGES:
        own = torch.zeros(size, dtype=torch.uint8)
        found = [torch.zeros_like(own) for _ in range(world)]
        work = partial(lambda found, own: group.allgather([found], [own]).wait(), found, own)
        spent(work, 2)  # connects, and warms up
        seconds.append(spent(work, repeat, time.perf_counter))
    return seconds


def gathered(world: int, repeat: int) -> list[float]:
    """Seconds of gloo's all-gather over loopback, for each size of MESSAGES."""
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(world) as pool:
        return pool.starmap(_peer, [(rank, world, folder, repeat) for rank in range(world)], 1)[0]
