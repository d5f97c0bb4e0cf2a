"""The loss scales of one step: optimizers may have a scaler each, or none, and a scale may grow between two of them.

A gradient is divided by the scale of the optimizer whose parameter it is of. What is not an optimizer's (the gradient
at a site) takes the scale of the parameters around it, where they have one; otherwise it is not told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from actdiag.collect.records import ParameterRecord
from actdiag.collect.sending import Fetched, Readout

_OWNER = "\0scales"
"""Under which the numbers travel; no site or parameter can be named so."""


class Scales:
    """The scales noted in the running step, by number.

    `read`: those of the last step, on the host. `fell`: they are all of one scaler, and it became smaller in the step.
    """

    def __init__(self) -> None:
        self.read: list[float] = []
        self.fell = False
        self._keys: dict[tuple[int, int], int] = {}
        self._noted: list[Tensor | float] = []

    def note(self, scaler: Any) -> int:
        """The number of a scaler's present scale. Copied on its device, once for each update of the scaler."""
        scale = getattr(scaler, "_scale", None)
        key = id(scaler), scale._version if isinstance(scale, Tensor) else -1
        if key not in self._keys:
            self._keys[key] = len(self._noted)
            self._noted.append(scale.clone() if isinstance(scale, Tensor) else float(scaler.get_scale()))
        return self._keys[key]

    def forget(self) -> None:
        """What was noted belongs to a step that does not count."""
        self._keys.clear()
        self._noted.clear()

    def queue(self, out: Readout) -> None:
        """Add what was noted to the numbers that are copied."""
        for number, scale in enumerate(self._noted):
            if isinstance(scale, Tensor):
                out.add(_OWNER, "", str(number), scale)

    def settle(self, fetched: Fetched) -> None:
        """Take the numbers that were noted."""
        own = fetched.get(_OWNER, {}).get("", {})
        self.read = [s if isinstance(s, float) else float(own[str(i)]) for i, s in enumerate(self._noted)]
        one = len({scaler for scaler, _ in self._keys}) == 1
        self.fell = one and any(after < before for before, after in zip(self.read, self.read[1:], strict=False))
        self.forget()


class Divisors:
    """By what the gradients of one recorded step are multiplied; None where nobody can tell."""

    def __init__(self, scales: Sequence[float], records: Iterable[ParameterRecord]) -> None:
        self._records = [record for record in records if record.taken]
        self._own = {r.name: 1.0 if r.scale is None else scales[r.scale] for r in self._records}
        self._all = set(self._own.values())

    def of(self, record: ParameterRecord) -> float | None:
        """Of a parameter's gradient; one that no optimizer has stepped is of the only scale that there is."""
        return self._own[record.name] if record.taken else self._common()

    def at(self, site: str) -> float | None:
        """Of the gradient at a site: that of the parameters of its module, or of the nearest one that has some.

        Where a second loss has come through them after their update, its scale is in the gradient as well.
        """
        if len(self._all) <= 1:
            return self._common()
        path = site.partition("#")[0].removesuffix(":in")
        while path and not self._below(path):
            path = re.sub(r"(^|[./])[^./]*$", "", path)
        around = self._below(path)
        found = {self._own[record.name] for record in around}
        return None if len(found) > 1 or any(record.mixed for record in around) else found.pop()

    def _below(self, path: str) -> list[ParameterRecord]:
        return [record for record in self._records if not path or record.name.startswith(f"{path}.")]

    def _common(self) -> float | None:
        return None if len(self._all) > 1 else next(iter(self._all), 1.0)
