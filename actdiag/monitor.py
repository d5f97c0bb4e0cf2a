"""The plain-PyTorch door: `Monitor`, a hook manager around a training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import distributed, nn
from torch.optim import Optimizer

from actdiag.config import build_options
from actdiag.diagnose.finding import Finding
from actdiag.loggers import Targets
from actdiag.observed import observe
from actdiag.optimizers import given_optimizers
from actdiag.snapshot import Snapshot
from actdiag.stepping import Driver
from actdiag.write.protocol import Writer


class Monitor:
    """Observes the training of a model.

        with actdiag.Monitor(model, optimizer, log_dir="runs/relu") as monitor:
            for x, y in loader:
                ...                       # the loop stays as it was

    - `model`: a module, or a dict of named modules.
    - `optimizer`: one or a list; the first one's steps are the steps that are counted, from 0. A step holds the
      updates of all others since the step before, and of those that follow it before the next forward. Without an
      optimizer the loop calls `monitor.step()` after each update.
    - `log_dir`: a run directory for TensorBoard. `writers`: objects with `write` and `close`; or what the caller logs
      with, which is written to at the same steps and never closed: SummaryWriters, loggers with
      `log_metrics(metrics, step)`, trackers of Accelerate, functions of (metrics, step). See `actdiag.ScalarWriter`.
    - options: see `actdiag.config.Options`; all keyword-only, the same through every door.

    Of several processes, build it on each, at the same place of the program: at a recorded step all of them take part
    in one collective (`distributed="merge"`), and only rank 0 writes. With uneven inputs: `Join([ddp_model, monitor])`.

    To resume, save `monitor.state_dict()` with the checkpoint and load it before the loop goes on; see there. A
    second monitor on the same model takes the place of the first, unless it has another `prefix`.

    Raises ConfigError at construction for values that cannot work. During training it raises nothing of its own
    (except FindingError if `raise_on` asks for it), and synchronizes with the device once a recorded step,
    nowhere else.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        *,
        log_dir: str | Path | None = None,
        writers: Iterable[Writer | Any] = (),
        **options: Any,
    ) -> None:
        checked = build_options(options)
        self._observed = observe(model, given_optimizers(optimizer), checked, Targets.of(log_dir, writers))
        self._session, self._driver = self._observed.session, self._observed.driver
        self._session.guarded(self._driver.begin)

    @property
    def findings(self) -> list[Finding]:
        """All findings of the run so far, oldest first; `resolved_step` tells those that are over."""
        return self._observed.findings

    @property
    def latest(self) -> Snapshot | None:
        """The last recorded step, or None before the first."""
        return self._observed.latest

    @property
    def should_stop(self) -> bool:
        """Whether a finding of the severity `stop_on` has been told; the same on all ranks that merge."""
        return self._observed.should_stop

    @property
    def snapshots(self) -> list[Snapshot]:
        """The last 64 recorded steps, oldest first."""
        return self._observed.snapshots

    def step(self, step: int | None = None) -> None:
        """One update has been made. For loops without an optimizer to watch; with one it does nothing.

        `step`: its number on the x-axis, for loops that count otherwise than from 0 by 1. A number that is not above
        the last one is not recorded: the first such is warned of.
        """
        self._driver.manual_step(step)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know, to be saved with the checkpoint.

            torch.save({"model": model.state_dict(), ..., "actdiag": monitor.state_dict()}, path)

        Evidence about units, deaths, findings, the schedule, the number of steps and the loss scaler's skips, as
        str, int, float, bool, None, list, dict and tensors of the host, so that `torch.load` reads it with
        `weights_only=True`. Copies from the device to the host; call it between two steps.
        """
        return self._observed.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`: steps continue, units keep their evidence, findings are not told again.

        Call it before the first step, after the model has been built. What does not fit (another model, another
        width, another release) is left out with one line in the log; of something else nothing is loaded, with one
        warning. It raises nothing.
        """
        self._observed.load_state_dict(state)

    def report(self) -> str:
        """A table of the sites, worst first, and the findings, as plain text."""
        return self._observed.report()

    # torch.distributed.algorithms.Join([ddp_model, monitor]): ranks that have inputs left, and ranks that have not ----

    def join_hook(self, **options: Any) -> _Shadow:
        """What a rank does that is out of inputs, while others still train: it says at each recorded step that it has
        seen nothing. Used by `torch.distributed.algorithms.Join`, whose options are not ours."""
        self._session.joins = True
        return _Shadow(self._driver)

    @property
    def join_device(self) -> torch.device:
        """Where `Join` would put tensors for the first of its objects: the host."""
        return torch.device("cpu")

    @property
    def join_process_group(self) -> Any:
        """The ranks that train together."""
        return distributed.group.WORLD

    def close(self) -> None:
        """Leave the model as it was found, close what was opened here. Safe to call twice."""
        self._observed.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Shadow:
    """A rank without inputs, in the steps of the others: the hook that `torch.distributed.algorithms.Join` asks for."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def main_hook(self) -> None:
        """The others have made a step."""
        self._driver.shadow()

    def post_hook(self, is_last_joiner: bool) -> None:
        """All ranks are out of inputs."""
