"""What others do to a training step, for benchmarks/overhead.py: each as its documentation recommends."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Watch = Callable[[nn.Module, torch.optim.Optimizer, str], Callable[[], None]]
"""Puts a tool on a model; returns what the loop has to call after each step."""


def hand_written(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Callable[[], None]:
    """Forward hooks with .item(), gradient norms, add_scalar. No histograms."""
    from torch.utils.tensorboard import SummaryWriter

    writer, now = SummaryWriter(folder), [0]

    def hook(name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, out: Any) -> None:
            x = out[0] if isinstance(out, tuple) else out
            values = {"mean": x.mean().item(), "std": x.std().item(), "zeros": (x == 0).float().mean().item()}
            for stat, value in values.items():
                writer.add_scalar(f"{stat}/{name}", value, now[0])

        return record

    def gradients(*args: Any) -> None:
        for name, p in model.named_parameters():
            if p.grad is not None:
                writer.add_scalar(f"grad/{name}", p.grad.norm().item(), now[0])
        now[0] += 1

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(hook(name))
    optimizer.register_step_pre_hook(gradients)
    return lambda: None


def wandb_watch(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Callable[[], None]:
    """`wandb.watch(model, log="all", log_freq=1)`, offline: histograms of parameters and their gradients."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": folder}
    import wandb

    run = wandb.init(project="overhead", dir=folder)
    wandb.watch(model, log="all", log_freq=1)
    return lambda: run.log({"step": 1})


def fastai_stats(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Callable[[], None]:
    """`ActivationStats(with_hist=True, every=1)` without its Learner: its hook on the layers that it takes, its rows.

    It records the outputs of layers that have parameters, no gradients, and writes nothing.
    """
    from fastai.callback.hook import ActivationStats, Hooks, flatten_model, has_params

    stats, rows = ActivationStats(with_hist=True, every=1), []
    hooks = Hooks([module for module in flatten_model(model) if has_params(module)], stats.hook)
    return lambda: rows.append(hooks.stored)


PEERS: dict[str, Watch] = {
    "hand-written hooks, every step": hand_written,
    "wandb.watch (all, offline), every step": wandb_watch,
    "fastai ActivationStats, every step": fastai_stats,
}
