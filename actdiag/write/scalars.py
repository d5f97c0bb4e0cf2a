"""Curves for any store of metrics: Weights & Biases, MLflow, a CSV table, or a function of the caller's.

None of them is imported here. What is called is the store's own `log_metrics(metrics, step)`, once a recorded step.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

from actdiag.diagnose.finding import Change
from actdiag.snapshot import Snapshot
from actdiag.write import tags
from actdiag.write.stock import Curves

_REFUSED = re.compile(r"[^A-Za-z0-9_./-]")
"""MLflow takes no `#` and, on some systems, no `:`; a name is spelled alike in every store."""


class ScalarWriter:
    """Hands the curves of TensorBoard's Scalars page to anything that takes (metrics, step): one call a recorded step.

    - `target`: an object with `log_metrics(metrics, step)` (a logger of Lightning or Fabric, the module `mlflow`, an
      experiment of Comet), a tracker of Accelerate, or a function of (metrics, step) such as `run.log` of Weights &
      Biases. Metrics are {name: float}; `step` goes by name where there is a parameter of that name.
    - `detail`: 'summary' has at most 16 layers a metric, 'full' every layer, 'model' the curves of the model alone.
    - Names are TensorBoard's tags, with `_` for characters that some stores refuse: `actdiag_rms/relu#0` is
      `actdiag_rms/relu_0`. A number that does not apply is left out; there is no NaN, but there may be infinities.

    The target stays the caller's: it is never closed. Raises TypeError for what cannot be called so.
    """

    def __init__(self, target: Any, *, detail: str = "summary", prefix: str = "", name: str = "") -> None:
        """`name`: what the log calls the target when it fails; its class by default."""
        self._log = log_call(target)
        self.name = name or (target.__name__ if inspect.isroutine(target) else type(target).__name__)
        self._curves = Curves(detail)
        self._front = tags.front(prefix)
        self._names: dict[str, str] = {}
        self._taken: set[str] = set()
        self.closed = False

    def write(self, snapshot: Snapshot, changes: Sequence[Change]) -> None:
        """Hand on one recorded step. Raises what the target raises."""
        self._curves.note(changes)
        scalars = self._curves.scalars(snapshot)
        self._log({self._spelled(tag): value for tag, value in scalars.items()}, snapshot.step)

    def close(self) -> None:
        """No more will come."""
        self.closed = True

    def _spelled(self, tag: str) -> str:
        """The name of a curve; what would be the name of another one gets underscores until it is not."""
        if tag not in self._names:
            name = _REFUSED.sub("_", self._front + tag)
            while name in self._taken:
                name += "_"
            self._names[tag] = name
            self._taken.add(name)
        return self._names[tag]


def log_call(target: Any) -> Callable[[dict[str, float], int], object]:
    """What takes the metrics of a step. Raises TypeError for an object that has nothing of the kind."""
    if isinstance(target, type):
        raise TypeError(f"{target.__name__} is a class; give an object of it")
    call = getattr(target, "log_metrics", None)
    if not callable(call) and callable(getattr(target, "store_init_configuration", None)):
        call = getattr(target, "log", None)  # Accelerate's tracker
    if not callable(call):
        call = target
    if not callable(call):
        raise TypeError(
            f"{type(target).__name__} is no writer: it has neither write(snapshot, changes) and close(), nor "
            "log_metrics(metrics, step), nor the interface of torch.utils.tensorboard.SummaryWriter, and is no "
            "function of (metrics, step)"
        )
    return _by_name(call) if _names_step(call) else call


def _by_name(call: Callable[..., object]) -> Callable[[dict[str, float], int], object]:
    return lambda metrics, step: call(metrics, step=step)


def _names_step(call: Callable[..., object]) -> bool:
    """Whether there is a parameter `step`: second in most stores, third in Comet's."""
    try:
        return "step" in inspect.signature(call).parameters
    except (TypeError, ValueError):
        return False
