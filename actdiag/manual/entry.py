"""What is said of a number of a snapshot.

In the texts `z` is what an activation function f reads, `a` what it returns; unit `i` is a channel or a feature, `mu_i`
its mean over samples; sums are over the finite elements. Healthy are 33 training programs that learn, two seeds each,
unless it says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Of = Literal["site", "parameter", "step"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Numbers that are explained together, under the name of the first.

    `none`: when they are None, what is told of 0 elements, and what NaN and infinities do to them.
    """

    names: tuple[str, ...]
    of: Of
    formula: str
    values: str
    healthy: str
    none: str
    source: str
    more: str = ""
    rules: tuple[str, ...] = ()
