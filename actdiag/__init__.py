"""actdiag: training diagnostics for PyTorch.

`import actdiag` loads neither torch nor Lightning: TensorBoard and `actdiag report` run where there is no
torch. Public names are resolved at first use (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actdiag.checkup import check
    from actdiag.collect.activations import ActivationFacts
    from actdiag.config import ConfigError, Options, build_options
    from actdiag.diagnose.finding import Finding, Verdict
    from actdiag.diagnose.limits import Limits
    from actdiag.monitor import Monitor
    from actdiag.outlet import FindingError
    from actdiag.snapshot import Histogram, ParameterStats, SiteStats, Snapshot
    from actdiag.write.jsonl import JsonlWriter
    from actdiag.write.memory import MemoryWriter
    from actdiag.write.scalars import ScalarWriter
    from actdiag.write.tensorboard import TensorBoardWriter

__version__ = "0.1.0"

__all__ = [
    "ActivationFacts",
    "ConfigError",
    "Finding",
    "FindingError",
    "Histogram",
    "JsonlWriter",
    "Limits",
    "MemoryWriter",
    "Monitor",
    "Options",
    "ParameterStats",
    "ScalarWriter",
    "SiteStats",
    "Snapshot",
    "TensorBoardWriter",
    "Verdict",
    "build_options",
    "check",
]

_HOME = {
    "ActivationFacts": "actdiag.collect.activations",
    "ConfigError": "actdiag.config",
    "Finding": "actdiag.diagnose.finding",
    "FindingError": "actdiag.outlet",
    "Histogram": "actdiag.snapshot",
    "JsonlWriter": "actdiag.write.jsonl",
    "Limits": "actdiag.diagnose.limits",
    "MemoryWriter": "actdiag.write.memory",
    "Monitor": "actdiag.monitor",
    "Options": "actdiag.config",
    "ParameterStats": "actdiag.snapshot",
    "ScalarWriter": "actdiag.write.scalars",
    "SiteStats": "actdiag.snapshot",
    "Snapshot": "actdiag.snapshot",
    "TensorBoardWriter": "actdiag.write.tensorboard",
    "Verdict": "actdiag.diagnose.finding",
    "build_options": "actdiag.config",
    "check": "actdiag.checkup",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'actdiag' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__ + ["__version__"])
