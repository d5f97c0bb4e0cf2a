"""Says after the first recorded step what is not observed, and why: a monitor that sees nothing must not be silent."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from actdiag.collect.collector import Collector
from actdiag.collect.resume import SavedSite, other_widths
from actdiag.snapshot import Snapshot

logger = logging.getLogger("actdiag")


class Coverage:
    """What of a model is observed. `resumed` are the sites whose evidence was loaded before the first step."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._told = False
        self.resumed: Sequence[SavedSite] = ()

    def report(self, snapshot: Snapshot) -> None:
        """Say once, after the first recorded step, what was not observed and why."""
        self._report_other_widths()
        if self._told:
            return
        self._told = True
        unseen = self._collector.unseen()
        selected = snapshot.sites_selected
        if len(unseen) == selected and self._collector.adopt_compiled():
            self._told = False
            logger.info(
                "actdiag: step %d: %d of %d sites ran; the others may be in code that was compiled before; it is "
                "compiled once more, to be observed", snapshot.step, selected - len(unseen), selected,
            )  # fmt: skip
        elif any("torch.compile" in why for why in unseen.values()):
            logger.warning(
                "actdiag: %d of %d sites are inside torch.compile and not observed by this release of torch, only "
                "their parameters are; train uncompiled for a while to see them", len(unseen), selected,
            )  # fmt: skip
        elif len(unseen) == selected:
            logger.warning(
                "actdiag: 0 of %d sites ran in step %d. Is the model that is trained the one that was given, is it "
                "in training mode, and are its modules called (not their forward(), not a compiled copy)?",
                selected, snapshot.step,
            )  # fmt: skip
        elif unseen:
            shown = "; ".join(f"{name}: {why}" for name, why in list(unseen.items())[:6])
            more = f" and {len(unseen) - 6} more" if len(unseen) > 6 else ""
            logger.info(
                "actdiag: %d of %d sites ran; not observed: %s%s",
                selected - len(unseen),
                selected,
                shown,
                more,
            )

    def _report_other_widths(self) -> None:
        resumed, self.resumed = self.resumed, ()
        if changed := other_widths(self._collector, resumed):
            logger.info(
                "actdiag: another number of units than in the saved state, evidence starts anew: %s", ", ".join(changed)
            )
