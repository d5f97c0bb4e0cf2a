"""The host plays a device whose numbers come later: its tensors are sent, and come when somebody waits for them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

happened: list[str] = []
"""What was sent and read, in order; others may add to it. Tests that look at it clear it first."""
copied: list[int] = []
"""Of each that was sent, how many tensors. The same holds."""


class Coming:
    """Stands in for `actdiag.collect.coming.Coming`."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        happened.append("sent")
        copied.append(len(tensors))
        self._hosts = [x.clone() for x in tensors]

    def read(self) -> list[Tensor]:
        """The copies."""
        happened.append("read")
        return self._hosts
