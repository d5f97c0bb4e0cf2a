"""What merging the ranks' statistics costs at sizes that cannot be run on one machine.

Host times are measured: parcels of random tallies are packed, unpacked and joined, as many at once as fit here, and a
line through at least three counts tells of more. The collectives are modelled: a message costs a latency and its bytes
over a bandwidth; gloo all-gathers of 2 processes over loopback set such a model, and those of 4 check it.

    python benchmarks/scaling.py [--write docs/scaling.md] [--repeat N]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scaling_model import (
    FAN,
    MESSAGES,
    NETWORKS,
    OURS,
    RANKS,
    SHOWN,
    SITES,
    UNITS,
    Host,
    Line,
    cost,
    designs,
    fans,
    gathered,
    line,
    measure,
)


def _amount(size: float) -> str:
    scale, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB")) if size >= s), (1e3, "kB"))
    return f"{size / scale:.3g} {unit}"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _table(head: str, rows: Sequence[Sequence[Any]]) -> list[str]:
    names = head.split(" | ")
    return ["", f"| {head} |", "|" + "---:|" * len(names), *(f"| {' | '.join(map(str, row))} |" for row in rows), ""]


def loopback(repeat: int) -> list[str]:
    """The model of a message against what gloo takes here."""
    two, four = gathered(2, repeat), gathered(4, repeat)
    model = line(MESSAGES, two)
    worst = max(b / 3 / model.at(size) for size, b in zip(MESSAGES, four, strict=True))
    sizes = zip(MESSAGES, two, four, strict=True)
    rows = [(_amount(s), *map(_time, (a, model.at(s), b)), f"{b / 3 / model.at(s):.2f}") for s, a, b in sizes]
    return [
        "An all-gather of k parcels takes k - 1 messages one after the other (gloo's ring). Over loopback 2",
        f"processes set the latency to {model.base * 1e6:.0f} us and the bandwidth to {1e-9 / model.each:.2f} GB/s,",
        f"with errors of up to {model.residual:.0%}. 4 processes check it, and share {os.cpu_count()} CPUs:",
        f"they take up to {worst:.1f} times what it says,",
        f"so it is {'not confirmed' if worst > 1.5 else 'confirmed'} here, and what is told of networks below rests on "
        "their assumed numbers.",
        *_table("bytes each | 2 processes | model | 4 processes | measured / model", rows),
    ]


def host_table(hosts: Sequence[Host]) -> list[str]:
    """What was measured here, of every size."""
    head = "sites | units | a parcel | pack | k parcels: base | and each | memory each | measured k | residual"
    rows = [
        (h.sites, h.units, _amount(h.bytes), *map(_time, (h.pack_s, *h.join_s[:2])))
        + (_amount(h.memory.each), ", ".join(map(str, h.counts)), f"{h.join_s.residual:.0%}")
        for h in hosts
    ]
    return _table(head, rows)


def design_table(hosts: Sequence[Host], network: Line) -> list[str]:
    """Seconds of a recorded step, by design; the best of each row is bold."""
    rows = []
    for ranks, host in product(RANKS, hosts):
        totals = [cost(host, network, levels, to_one=one).total_s for levels, one in designs(ranks).values()]
        told = [f"**{_time(t)}**" if t == min(totals) else _time(t) for t in totals]
        rows.append((ranks, host.sites, host.units, *told))
    return _table(f"ranks | sites | units | {' | '.join(designs(8))}", rows)


def split_table(hosts: Sequence[Host]) -> list[str]:
    """The design that is implemented, in its parts."""
    head = f"ranks | sites | units | host | {' | '.join(NETWORKS)} | received | memory | flat: memory | of 50 s"
    rows = []
    for ranks, host in product(RANKS, hosts):
        slow, fast = (cost(host, network, fans(ranks, FAN, 99)) for network in NETWORKS.values())
        times = map(_time, (fast.host_s, slow.wire_s, fast.wire_s))
        sizes = map(_amount, (fast.received, fast.memory, cost(host, Line(0, 0), (ranks,)).memory))
        rows.append((ranks, host.sites, host.units, *times, *sizes, f"{fast.total_s / 50:.2%}"))
    return _table(head, rows)


def excess(hosts: Sequence[Host], ranks: Sequence[int]) -> dict[str, tuple[float, float]]:
    """Design -> geometric mean, and largest, of its total over that of the best design."""
    found: dict[str, list[float]] = {}
    for n, host, network in product(ranks, hosts, NETWORKS.values()):
        totals = {name: cost(host, network, levels, to_one=one).total_s for name, (levels, one) in designs(n).items()}
        least = max(min(totals.values()), 1e-9)  # a clock may not have ticked
        for name, total in totals.items():
            found.setdefault(name, []).append(max(total, least) / least)
    return {name: (statistics.geometric_mean(ratios), max(ratios)) for name, ratios in found.items()}


def conclusion(hosts: Sequence[Host]) -> Iterator[str]:
    """What the numbers say; nothing here is typed but the words."""
    total, most = excess(hosts, RANKS), RANKS[-1]
    told = {name: f"{mean:.2f} ({worst:.1f} at worst)" for name, (mean, worst) in total.items()}
    best = min(total, key=lambda name: total[name])
    yield (
        f"All sizes, both networks, as multiples of the best design of each (geometric mean): {best} {told[best]}, the "
        f"least; {OURS}, as implemented, {told[OURS]}; flat {told['flat']}; to one rank {told['to one rank']}."
    )
    for ranks in RANKS:
        parts = {name: mean for name, (mean, _) in excess(hosts, (ranks,)).items()}
        first = min(parts, key=lambda name: parts[name])
        shown = ", ".join(f"{name} {parts[name]:.2f}" for name in dict.fromkeys((first, OURS, "flat")))
        yield f"{ranks} ranks, the best one first: {shown}; {OURS} gather {len(fans(ranks, FAN, 99))} times."
    for name, network in NETWORKS.items():
        costs = [cost(host, network, fans(n, FAN, 99)) for n, host in product(RANKS, hosts)]
        heavy = sum(one.host_s > one.wire_s for one in costs)
        yield f"{name}, {OURS}: host time is more than the network's in {heavy} of {len(costs)} cases."
    links = sum(fan - 1 for fan in fans(most, FAN, 99))
    yield f"Of {most} ranks, each connects to {most - 1} others if all gather flat, to {links} at most with {OURS}."


def page(hosts: Sequence[Host], repeat: int) -> list[str]:
    """The document."""
    shown = [host for host in hosts if (host.sites, host.units) in SHOWN]
    assumed = "; ".join(f"{name}: {n.base * 1e6:.0f} us, {1e-9 / n.each:.3g} GB/s" for name, n in NETWORKS.items())
    fast = list(NETWORKS)[-1]
    return [
        "# Merging over many ranks\n",
        f"`{' '.join(['python benchmarks/scaling.py', *sys.argv[1:]])}`: torch {torch.__version__}, numpy",
        f"{np.__version__}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} CPUs (others",
        f"use them too), one thread; medians of {repeat} repetitions, CPU time on the host. Units are per site.\n",
        *(f"- {text}" for text in conclusion(hosts)),
        "\n## Host: measured\n",
        "Unpacking and joining k parcels takes the base and so much for each; beyond the largest measured k this line",
        "is extrapolated. Memory: beyond the gathered bytes.",
        *host_table(hosts),
        "## Network: modelled\n",
        *loopback(5 * repeat),
        f"Assumed below: {assumed}; nothing overlaps, and a rank has its link for itself.\n",
        f"## A recorded step, by design, with {fast}",
        *design_table(shown, NETWORKS[fast]),
        f"## As implemented: {OURS}\n",
        "Parts of a recorded step, on the rank that has most to do. Last column: with the host and the second network,",
        "of 50 training steps of 1 s.",
        *split_table(shown),
    ]


def main() -> None:
    """Measures, prints the page, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write the page here")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hosts = []
    for sites, units in product(SITES, UNITS):
        hosts.append(measure(sites, units, arguments.repeat))
        print(hosts[-1], file=sys.stderr, flush=True)
    text = "\n".join(page(hosts, arguments.repeat)).rstrip() + "\n"
    print(text)
    if arguments.write is not None:
        arguments.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
