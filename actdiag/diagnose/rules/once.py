"""Values that follow from one snapshot alone, worked out once: rules look back on the same snapshots at every step."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from actdiag.snapshot import Snapshot

Value = TypeVar("Value")


def once(work: Callable[[Snapshot], Value]) -> Callable[[Snapshot], Value]:
    """`work`, done once for each snapshot, which never changes; what came out is forgotten with the snapshot."""
    known: dict[int, tuple[weakref.ref[Snapshot], Value]] = {}

    @wraps(work)
    def found(snapshot: Snapshot) -> Value:
        key = id(snapshot)
        held = known.get(key)
        if held is None or held[0]() is not snapshot:
            # A snapshot cannot be hashed, and an equal one would have to be compared in full: its identity is enough.
            held = known[key] = weakref.ref(snapshot, lambda gone: _forget(known, key, gone)), work(snapshot)
        return held[1]

    return found


def _forget(known: dict[int, tuple[weakref.ref[Snapshot], Value]], key: int, gone: weakref.ref[Snapshot]) -> None:
    """Unless another snapshot has taken the place of the one that is gone."""
    if key in known and known[key][0] is gone:
        del known[key]
