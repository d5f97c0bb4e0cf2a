"""On what terms verdicts become findings: limits, what is ignored, severities of one's own."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from actdiag.diagnose.finding import SEVERITIES, Verdict
from actdiag.diagnose.limits import Limits


class Terms(NamedTuple):
    """Thresholds; findings to drop, and severities, by 'rule' or 'rule:layer pattern'."""

    limits: Limits = Limits()
    ignore: Sequence[str] = ()
    severities: Mapping[str, str] = {}

    def apply(self, verdict: Verdict) -> Verdict | None:
        """A verdict with the severity that is asked for; None for one that is dropped."""
        if any(_covers(one, verdict) for one in self.ignore):
            return None
        wanted = [one for one in self.severities if _covers(one, verdict)]
        if not wanted:
            return verdict
        severity = self.severities[max(wanted, key=lambda one: ":" in one)]
        return replace(verdict, severity=severity) if severity in SEVERITIES else None


def _covers(selector: str, verdict: Verdict) -> bool:
    rule, colon, pattern = selector.partition(":")
    return rule == verdict.rule and (not colon or fnmatchcase(verdict.layer, pattern))


def parse_terms(
    rules: Iterable[str], *, ignore: Sequence[str], limits: Mapping[str, float], severities: Mapping[str, str]
) -> Terms:
    """Terms of options. `rules`: the slugs there are.

    Raises ValueError that names the option, the value, what is allowed, and the nearest name.
    """
    known = list(rules)
    for option, selectors in (("ignore", ignore), ("severities", severities)):
        for selector in selectors:
            rule = selector.partition(":")[0]
            if rule not in known:
                raise ValueError(f"{option} names no rule {rule!r}{_near(rule, known)}")
    for selector, severity in severities.items():
        if severity not in (*SEVERITIES, "off"):
            raise ValueError(f"severities[{selector!r}] must be info, warning, error or off; got {severity!r}")
    return Terms(_limits(limits), ignore, severities)


def _limits(given: Mapping[str, Any]) -> Limits:
    plain = Limits()
    names = [spec.name for spec in fields(Limits)]
    for name, value in given.items():
        if name not in names:
            raise ValueError(f"limits names no limit {name!r}{_near(name, names)}")
        whole = isinstance(getattr(plain, name), int)
        fits = isinstance(value, int) if whole else isinstance(value, (int, float))
        if isinstance(value, bool) or not fits or not 0 <= value < math.inf:
            kind = "a whole number" if whole else "a number"
            raise ValueError(
                f"limits[{name!r}] must be {kind} of at least 0, such as {getattr(plain, name)}; got {value!r}"
            )
    return replace(plain, **given)


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
