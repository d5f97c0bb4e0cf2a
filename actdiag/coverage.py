"""Says after the first recorded step what is not observed, and why: a monitor that sees nothing must not be silent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from actdiag.collect.collector import Collector
from actdiag.collect.resume import SavedSite, other_widths
from actdiag.collect.sites import named_modules
from actdiag.config import Options
from actdiag.snapshot import Snapshot

logger = logging.getLogger("actdiag")

_LOST_AFTER = 3
_LISTED = 6
_NAMED = 3


class Coverage:
    """What of a model is observed. `resumed` are the sites whose evidence was loaded before the first step."""

    def __init__(self, collector: Collector, options: Options, *, speaks: bool = True) -> None:
        """`speaks`: this process says it; the others, which see the same, keep still."""
        self._collector, self._options = collector, options
        self._speaks = speaks
        self._told = False
        self._missing: dict[str, int] = {}
        self._ran: set[str] = set()
        self.resumed: Sequence[SavedSite] = ()

    def report(self, snapshot: Snapshot) -> None:
        """Say once, after the first recorded step, what was not observed and why; later what has fallen silent."""
        self._report_other_widths()
        ran = {name.partition("#")[0] for name in snapshot.sites}  # on another rank, maybe
        unseen = {name: why for name, why in self._collector.unseen().items() if name not in ran}
        if self._told:
            self._report_lost(snapshot, unseen)
            return
        self._told = True
        if len(unseen) == snapshot.sites_selected and self._collector.adopt_compiled():
            self._told = False
            self._say(
                logging.INFO,
                "actdiag: step %d: 0 of %d sites ran; they may be in code that was compiled before; it is compiled "
                "once more, to be observed", snapshot.step, len(unseen),
            )  # fmt: skip
            return
        self._ran = {target.name for target in self._collector.targets} - unseen.keys()
        self._report_first(snapshot, unseen)
        self._report_idle(snapshot)

    def close(self, *, stepped: bool) -> None:
        """Say at the end that the model ran and no step of its optimizer was seen, if it did."""
        if not stepped and any(site.forward_calls or site.elements for site in self._collector.sites.values()):
            self._say(
                logging.WARNING,
                "actdiag: the model ran, but no step of the optimizer was seen, so nothing was recorded. Is it the "
                "optimizer that trains this model? Without one, call monitor.step() after each update.",
            )

    def _report_first(self, snapshot: Snapshot, unseen: Mapping[str, str]) -> None:
        selected = snapshot.sites_selected
        if any("torch.compile" in why for why in unseen.values()):
            self._say(
                logging.WARNING,
                "actdiag: %d of %d sites are inside torch.compile and not observed by this release of torch, only "
                "their parameters are; train uncompiled for a while to see them", len(unseen), selected,
            )  # fmt: skip
        elif len(unseen) == selected:
            self._say(
                logging.WARNING,
                "actdiag: 0 of %d sites ran in step %d. Is the model that is trained the one that was given, is it "
                "in training mode, and are its modules called (not their forward(), not a compiled copy)?",
                selected, snapshot.step,
            )  # fmt: skip
        elif unseen:
            ran = selected - len(unseen)
            self._say(logging.INFO, "actdiag: %d of %d sites ran; not observed: %s", ran, selected, _listed(unseen))
        if self._collector.deaf:
            self._say(
                logging.INFO,
                "actdiag: in code that is compiled block by block, or after the monitor was made, modules are seen; "
                "activations called as functions (F.relu) are not",
            )

    def _report_idle(self, snapshot: Snapshot) -> None:
        """Say which name patterns match nothing: of a misspelled one nobody would see that it has no effect."""
        names = _names(self._collector) | snapshot.sites.keys()
        idle = {
            option: [one for one in patterns if not any(fnmatchcase(name, one.rpartition(":")[2]) for name in names)]
            for option, patterns in patterns_of(self._options).items()
        }
        for option, patterns in idle.items():
            if patterns:
                self._say(
                    logging.WARNING,
                    "actdiag: %s: no layer is called %s; layers have names like %s",
                    option, ", ".join(map(repr, patterns)), ", ".join(map(repr, sorted(names - {""})[:_NAMED])),
                )  # fmt: skip

    def _report_lost(self, snapshot: Snapshot, unseen: Mapping[str, str]) -> None:
        """Modules that ran once and have not for some recorded steps: swapped, idle, or the model is in eval()."""
        self._ran |= {target.name for target in self._collector.targets} - unseen.keys()
        self._missing = {name: self._missing.get(name, 0) + 1 for name in unseen if name in self._ran}
        lost = {name: unseen[name] for name, times in self._missing.items() if times == _LOST_AFTER}
        all_lost = bool(lost) and len(unseen) == snapshot.sites_selected
        trained = all_lost and any(told.grad_norm is not None for told in snapshot.parameters.values())
        if trained and self._collector.adopt_compiled(lost=True):
            self._missing.clear()
            self._say(
                logging.INFO,
                "actdiag: step %d: no site has run for %d recorded steps; code of another compiled model may be called "
                "for this one; it is compiled once more, to be observed", snapshot.step, _LOST_AFTER,
            )  # fmt: skip
        elif all_lost:
            self._say(
                logging.WARNING,
                "actdiag: no site has run in the last %d recorded steps (now step %d). Is the model still in training "
                "mode, and still the one that is trained?", _LOST_AFTER, snapshot.step,
            )  # fmt: skip
        elif lost:
            self._say(
                logging.INFO,
                "actdiag: step %d: no longer observed for %d recorded steps: %s",
                snapshot.step, _LOST_AFTER, _listed(lost),
            )  # fmt: skip

    def _report_other_widths(self) -> None:
        resumed, self.resumed = self.resumed, ()
        if changed := other_widths(self._collector, resumed):
            self._say(
                logging.INFO,
                "actdiag: another number of units than in the saved state, evidence starts anew: %s",
                ", ".join(changed),
            )

    def _say(self, level: int, message: str, *values: object) -> None:
        if self._speaks:
            logger.log(level, message, *values)


def patterns_of(options: Options) -> dict[str, list[str]]:
    """Option -> what it says about layers by name. Functions (`fc/relu`) are left out: nobody lists all of them."""
    given = {
        "include": [one for one in options.include if isinstance(one, str)],
        "exclude": [one for one in options.exclude if isinstance(one, str)],
        "unit_dims": list(options.unit_dims),
        "ignore": [one for one in options.ignore if ":" in one],
        "severities": [one for one in options.severities if ":" in one],
    }
    return {option: [one for one in patterns if "/" not in one] for option, patterns in given.items()}


def _names(collector: Collector) -> set[str]:
    """Of all modules, observed or not."""
    alive = {prefix: model for prefix, ref in collector.models.items() if (model := ref()) is not None}
    return {name for name, _ in named_modules(alive)}


def _listed(reasons: Mapping[str, str]) -> str:
    shown = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:_LISTED])
    return shown + (f" and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else "")
