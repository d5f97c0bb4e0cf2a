"""Train in two processes: one table, of what both have seen.

You will see: the first process has only dark images, and some ReLU units never open there. Alone it would call them
dead. They open on the bright images of the second process, so the table, which is of both, counts no dead unit. Rank 0
prints it and writes it:

    torchrun --standalone --nproc-per-node 2 examples/ddp_torchrun.py
    tensorboard --logdir runs/ddp

Run by plain `python`, one process has all images, and tells the same.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

import actdiag

OPTIONS: dict[str, Any] = {"log_every_n_steps": 20, "watch_every_n_steps": 2, "window_samples": 512}


def shard(rank: int, world: int) -> tuple[Tensor, Tensor]:
    """The images [N, 64] and labels of one process. The first half of them all is dark."""
    digits = load_digits()
    x, y = torch.as_tensor(digits.data, dtype=torch.float32) / 16, torch.as_tensor(digits.target)
    x.chunk(2)[0].mul_(0.2)
    x -= x.mean(0)
    return x.chunk(world)[rank], y.chunk(world)[rank]


def main(log_dir: str = "runs/ddp") -> None:
    """Train, then compare what this process has seen with what all have."""
    torch.manual_seed(0)
    launched = "RANK" in os.environ
    if launched:
        distributed.init_process_group("gloo")
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if launched else (0, 1)
    x, y = shard(rank, world)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    model = DistributedDataParallel(net) if launched else net
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    # The second monitor is there for this comparison alone: it looks at its own process, and at no other.
    apart: dict[str, Any] = {"distributed": "off", "prefix": "own", "ignore": ["dead-units", "off-center"]}
    with (
        actdiag.Monitor(model, optimizer, log_dir=log_dir, **OPTIONS) as monitor,
        actdiag.Monitor(model, optimizer, **OPTIONS, **apart) as own,
    ):
        for _ in range(12):
            for index in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()

    dead = [dead_units(own)] * world
    if launched:
        distributed.all_gather_object(dead, dead[rank])
        distributed.destroy_process_group()
    if rank == 0:
        for number, count in enumerate(dead):
            print(f"process {number} alone would call {count} units dead")
        print(f"together: {dead_units(monitor)} dead units\n")
        print(monitor.report())


def dead_units(monitor: actdiag.Monitor) -> int:
    """Dead units of the ReLU in the last snapshot."""
    assert monitor.latest is not None
    return monitor.latest.sites["1"].dead_units or 0


if __name__ == "__main__":
    main(*sys.argv[1:])
