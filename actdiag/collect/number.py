"""One number of a tensor: norms of many parameters come in one, and a tensor for each would cost more than they do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor


class Number(NamedTuple):
    """The number at a place of a flat float64 tensor, on its device."""

    of: Tensor
    at: int

    @property
    def value(self) -> Tensor:
        """The number alone, 0-d; a view."""
        return self.of[self.at]


def each(numbers: Iterable[Tensor]) -> list[Number]:
    """Tensors of one number each."""
    return [Number(number.reshape(1), 0) for number in numbers]


def rows_of(table: Tensor) -> list[list[Number]]:
    """The numbers of each row of a contiguous tensor [R, N]."""
    flat, (rows, count) = table.view(-1), table.shape
    return [[Number(flat, row * count + at) for at in range(count)] for row in range(rows)]
