"""What TensorBoard imports at its start, whether or not its user wants the tab.

An exception here would end the whole `tensorboard` command, and an import of torch would make it slow: nothing is
imported but TensorBoard's own interface, and nothing is raised.
"""

from __future__ import annotations

import logging
from typing import Any

from tensorboard.plugins import base_plugin

logger = logging.getLogger("actdiag")

PLUGIN = "actdiag"


class Loader(base_plugin.TBLoader):  # type: ignore[misc] # TensorBoard asks for a subclass, and is untyped
    """The entry point. `load` gives None, and TensorBoard goes on without the tab, where the tab cannot be made."""

    def fix_flags(self, flags: Any) -> None:
        """Ask for every recorded step, unless the user has said how many: TensorBoard keeps 10 or 100 by itself."""
        try:
            flags.samples_per_plugin.setdefault(PLUGIN, 0)
        except Exception as error:
            logger.warning("actdiag: TensorBoard may show a sample of the recorded steps only (%r)", error)

    def load(self, context: Any) -> Any:
        """The plugin, or None."""
        try:
            from actdiag.tensorboard.plugin import make_plugin

            return make_plugin(context)
        except Exception as error:
            logger.warning("actdiag: its tab cannot be loaded (%r)", error, exc_info=error)
            return None
