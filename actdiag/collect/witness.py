"""A parameter that tells whether somebody else than the known optimizer trains the model."""

from __future__ import annotations

import logging
import weakref

from torch.optim import Optimizer

logger = logging.getLogger("actdiag")

_OTHERS_UPDATES = 64
"""Changes of a weight since our optimizer's last step after which somebody else's must be training the model."""


class Witness:
    """A parameter of the first optimizer, which tells whether somebody else updates it: by its version, on the host.

    A notebook that makes a new optimizer leaves the old one, to which our hooks belong, standing still.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        trained = (p for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
        parameter = next(trained, None)
        self._parameter = weakref.ref(parameter) if parameter is not None else lambda: None
        self._version = 0
        self._told = False

    def note(self) -> None:
        """The optimizer has just stepped."""
        parameter = self._parameter()
        if parameter is not None:
            self._version = parameter._version

    def changes(self) -> int:
        """How often the parameter was changed since."""
        parameter = self._parameter()
        return parameter._version - self._version if parameter is not None else 0

    def tell(self, step: int) -> bool:
        """Warn once where somebody else trains the model, as our optimizer did until `step`; whether it was warned."""
        if self._told or self.changes() < _OTHERS_UPDATES:
            return False
        self._told = True
        logger.warning(
            "actdiag: the optimizer of this monitor no longer steps, but the weights go on changing, so nothing is "
            "recorded since step %s; make a new Monitor with the optimizer that trains the model", step
        )  # fmt: skip
        return True
