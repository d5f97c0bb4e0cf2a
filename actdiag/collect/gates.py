"""Which squashing functions are gates: a sigmoid whose output is multiplied with another tensor, and a tanh that is
first shifted by a number, as in a GELU that is written out: 0.5 x (1 + tanh(...))."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from actdiag.collect.site import Site, is_tanh, squashes


class Gates:
    """Remembers the outputs in question, weakly, until one of them is a factor of a product."""

    def __init__(self) -> None:
        self._factors: dict[int, tuple[weakref.ref[Tensor], Site]] = {}
        self._terms: dict[int, tuple[weakref.ref[Tensor], Site]] = {}

    def note_output(self, out: Tensor, site: Site) -> None:
        """Remember the output of a hidden sigmoid or tanh."""
        if site.role != "activation":
            return
        if squashes(site.facts):
            self._factors[id(out)] = weakref.ref(out), site
        elif is_tanh(site.facts):
            self._terms[id(out)] = weakref.ref(out), site

    def saw_sum(self, terms: tuple[Any, ...], total: Any) -> None:
        """A sum or difference was taken: a tanh shifted by a number may be a factor next."""
        if self._terms and isinstance(total, Tensor) and sum(isinstance(term, Tensor) for term in terms) == 1:
            for site in _held(terms, self._terms):
                self._factors[id(total)] = weakref.ref(total), site

    def saw_product(self, factors: tuple[Any, ...]) -> None:
        """Tensors are multiplied elementwise: a sigmoid among them is a gate."""
        if self._factors and sum(isinstance(factor, Tensor) for factor in factors) >= 2:
            for site in _held(factors, self._factors):
                site.role = "gate"

    def clear(self) -> None:
        """The step is over."""
        self._factors.clear()
        self._terms.clear()


def _held(given: tuple[Any, ...], known: dict[int, tuple[weakref.ref[Tensor], Site]]) -> Iterator[Site]:
    for value in given:
        for tensor in (value, getattr(value, "_base", None)):
            held = known.get(id(tensor))
            if held is not None and held[0]() is tensor:
                yield held[1]
