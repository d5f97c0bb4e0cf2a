"""Which dimension of each site's tensor counts its units."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from actdiag.collect.layout import default_unit_dim, unit_dim_of
from actdiag.names import matches


class UnitDims:
    """Finds the unit dimension: the user's word, the layer's own, that of the layer before, or a default."""

    def __init__(self, given: Mapping[str, int]) -> None:
        self._given = given
        self._last: tuple[int, int, int] | None = None
        self.known: dict[str, tuple[int, int]] = {}

    def restart(self) -> None:
        """The next tensor has no layer before it."""
        self._last = None

    def find(self, key: str, module: nn.Module | None, x: Tensor, *, recording: bool) -> int:
        """The dimension for one call. Raises ValueError if the user's word does not fit the tensor."""
        for pattern, dim in self._given.items():
            if matches(key, [pattern]):
                if not -x.ndim <= dim < x.ndim:
                    raise ValueError(f"unit_dims gives dimension {dim} to {key}, whose output has {x.ndim} dimensions")
                return dim
        own = unit_dim_of(module, x) if module is not None else None
        if own is not None:
            self._last = x.ndim, own, x.shape[own] if x.ndim else 1
            return own
        # A watch step observes only what can die: the layers before are known from the last recorded step.
        if not recording and self.known.get(key, (0, 0))[0] == x.ndim:
            return self.known[key][1]
        dim = self._after_last(x)
        self.known[key] = x.ndim, dim
        return dim

    def _after_last(self, x: Tensor) -> int:
        """What follows a layer without changing its number of units (pooling, dropout) has its unit dimension."""
        if self._last is not None and x.ndim == self._last[0] and x.ndim and x.shape[self._last[1]] == self._last[2]:
            return self._last[1]
        return default_unit_dim(x)
