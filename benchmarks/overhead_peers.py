"""What others do to a training step, for benchmarks/overhead.py: each as its documentation recommends."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
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
    run = _wandb_run(folder)
    import wandb

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


def composer_monitor(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Callable[[], None]:
    """`ActivationMonitor(interval="1ba")`: norm, mean, kurtosis, maximum of inputs and outputs, no gradients.

    Its Trainer does not run single steps, so the callback's own functions are called as it would, with a State and a
    Logger of Composer's. The destination keeps what it is told of the last step, and writes nothing.
    """
    from composer.callbacks import ActivationMonitor
    from composer.core import State
    from composer.devices import DeviceCPU
    from composer.loggers import Logger, LoggerDestination

    class Kept(LoggerDestination):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            told.update(metrics)

    told: dict[str, float] = {}
    state = State(model=model, rank_zero_seed=0, run_name="overhead", device=DeviceCPU(), optimizers=optimizer)
    logger, monitor = Logger(state, destinations=[Kept()]), ActivationMonitor(interval="1ba")

    def after() -> None:
        monitor.after_forward(state, logger)
        state.timestamp = state.timestamp.to_next_batch()
        told.clear()
        monitor.before_forward(state, logger)

    monitor.before_forward(state, logger)
    return after


def delve_saturation(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Callable[[], None]:
    """`CheckLayerSat(save_to="tensorboard")`, its own statistics: saturation of Linear, Conv2d and LSTM.

    Covariances of the outputs in float64, and their eigenvalues after each step. No gradients.
    """
    from delve import torchcallback

    tracker = torchcallback.CheckLayerSat(folder, save_to="tensorboard", modules=model, device="cpu")
    return lambda: tracker.add_saturations()


def graphyco_diagnostics(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Callable[[], None]:
    """`LiveTrainingDiagnostics`: zeros and RMS of the outputs of leaves, RMS of their gradients, alerts.

    It keeps a hundred steps in memory and writes nothing. An LSTM shows it gradients alone. It fails on
    the CNN (in-place ReLU under its backward hooks) and on the GPT (outputs that are not contiguous).
    """
    from graphyco import LiveTrainingDiagnostics

    return _around(LiveTrainingDiagnostics(model).observe_step)


def nansense_statistics(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Callable[[], None]:
    """A session that never pauses and collects for all layers: histograms, extremes and patches, gradients too.

    The sums stay in memory for its web page, which is not served here, so nothing is read back or written.
    """
    import nansense

    session = nansense.start(model, optimizer=optimizer)
    session.detach()
    session.set_stats_scope("all")
    return _around(lambda step: session.batch(phase="train", epoch=0))


def ormas_monitor(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Callable[[], None]:
    """`Monitor(check_every=1)` with its TensorBoard sink: gradient norms of layers, channels that are silent or dead.

    It looks for dead channels in Conv or Linear, BatchNorm, ReLU. It is not told the loss. It writes a diary too.
    """
    from ormas_monitor import Monitor
    from ormas_monitor.integrations.sinks import TensorBoardSink

    sink = TensorBoardSink(f"{folder}/events")
    monitor = Monitor(model, optimizer, out=f"{folder}/run", check_every=1, sinks=[sink], verbose=False)
    optimizer.register_step_pre_hook(lambda *_: monitor.step())
    return lambda: None


def torchexplorer_watch(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Callable[[], None]:
    """`watch(log_freq=1, disable_inplace=True)` into wandb, offline: histograms of 1000 elements of each tensor.

    Of inputs, outputs, their gradients, parameters and parameter gradients. It runs graphviz's `dot`, and writes its
    whole history again each time, so its ratio grows with the number of steps. It fails on outputs that are nested
    tuples, as the LSTM's.
    """
    run = _wandb_run(folder)
    import torchexplorer

    torchexplorer.watch(model, log_freq=1, disable_inplace=True)
    return lambda: run.log({"step": 1})


def _wandb_run(folder: str) -> Any:
    """A run that needs no network, and leaves everything below the folder."""
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    os.environ |= {f"WANDB_{what}": folder for what in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR")}
    import wandb

    return wandb.init(project="overhead", dir=folder)


def _around(context: Callable[[int], AbstractContextManager[Any]]) -> Callable[[], None]:
    """For tools whose context is put around a step: leaves that of this step, enters that of the next."""
    now = [0, context(0)]
    now[1].__enter__()

    def after() -> None:
        now[1].__exit__(None, None, None)
        now[:] = now[0] + 1, context(now[0] + 1)
        now[1].__enter__()

    return after


PEERS: dict[str, Watch] = {
    "hand-written hooks, every step": hand_written,
    "wandb.watch (all, offline), every step": wandb_watch,
    "fastai ActivationStats, every step": fastai_stats,
    "composer ActivationMonitor, every step": composer_monitor,
    "delve CheckLayerSat, every step": delve_saturation,
    "graphyco LiveTrainingDiagnostics, every step": graphyco_diagnostics,
    "nansense, all layers, every step": nansense_statistics,
    "ormas-monitor, every step": ormas_monitor,
    "torchexplorer.watch (offline), every step": torchexplorer_watch,
}

MOST_PAIRS = {"torchexplorer.watch (offline), every step": 30}
"""Steps after which a tool that writes its whole history at each is stopped."""
