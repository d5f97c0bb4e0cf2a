"""Who observes a model, and who writes into a caller's logger: one monitor for each prefix.

This is state of the process: a notebook cell that is run again makes a new Monitor while the old
one is still alive, and neither can know of the other. Nothing can be kept on the user's module (it would be copied,
pickled and saved with it), so the table is here. It holds models and loggers weakly, by identity, and their holders
weakly as well: it keeps nothing alive, and what is gone or closed has no claim.
"""

from __future__ import annotations

import weakref
from typing import Protocol, TypeVar


class Holder(Protocol):
    """A session or a writer that holds a claim until it is closed."""

    closed: bool


H = TypeVar("H", bound=Holder)


class Claims:
    """Thing (model or logger) and prefix -> those who hold it."""

    def __init__(self) -> None:
        self._held: weakref.WeakKeyDictionary[object, dict[str, list[weakref.ref[Holder]]]] = (
            weakref.WeakKeyDictionary()
        )

    def holders(self, thing: object, prefix: str, kind: type[H]) -> list[H]:
        """The holders of a kind that are not closed, oldest first."""
        held = [ref() for ref in self._held.get(thing, {}).get(prefix, ())]
        return [holder for holder in held if isinstance(holder, kind) and not holder.closed]

    def all_of(self, kind: type[H]) -> list[H]:
        """Every holder of a kind that is not closed, of any thing and prefix."""
        held = [ref() for prefixes in self._held.values() for refs in prefixes.values() for ref in refs]
        return list({id(one): one for one in held if isinstance(one, kind) and not one.closed}.values())

    def take(self, thing: object, prefix: str, holder: Holder) -> None:
        """`holder` holds it from now on, beside those who still do."""
        held = self._held.setdefault(thing, {})
        open_ones = [ref for ref in held.get(prefix, ()) if (other := ref()) is not None and not other.closed]
        held[prefix] = [*open_ones, weakref.ref(holder)]


MODELS = Claims()
LOGGERS = Claims()
