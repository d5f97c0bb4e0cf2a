"""How modules, sites and layers are named, with and without wrappers around the model."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

# Prefixes that DDP, torch.compile, FSDP1, checkpoint wrappers and Lightning Fabric put into module paths.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")


def clean_name(path: str) -> str:
    """The path of a module as its author wrote it: wrapper segments removed at any depth.

    `module.` is removed only in front, where DDP and DataParallel put it: inside, it may be the user's own name.
    """
    parts = [part for part in path.split(".") if part not in _WRAPPERS]
    return ".".join(parts)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name, or one of its parents, matches one of the glob patterns."""
    parts = name.split(".")
    parents = [".".join(parts[:k]) for k in range(1, len(parts) + 1)]
    return any(fnmatchcase(parent, pattern) for pattern in patterns for parent in parents)


def call_name(path: str, index: int, *, several: bool) -> str:
    """`relu` for a module called once in a forward, `relu#0`, `relu#1` for one called more often."""
    return f"{path}#{index}" if several else path
