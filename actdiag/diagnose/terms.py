"""On what terms verdicts become findings: limits, what is ignored, severities and rules of one's own."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from numbers import Integral, Real
from typing import Any, NamedTuple

from actdiag.diagnose.finding import SEVERITIES, Verdict
from actdiag.diagnose.limits import SHARES, Limits
from actdiag.snapshot import Snapshot

Rule = Callable[[Sequence[Snapshot], Limits], Iterable[Verdict]]
"""History, oldest first and never empty, the last one to be judged; thresholds. What it yields is wrong now."""


class Terms(NamedTuple):
    """Thresholds; findings to drop, and severities, by 'rule' or 'rule:layer pattern'; a user's rules by slug."""

    limits: Limits = Limits()
    ignore: Sequence[str] = ()
    severities: Mapping[str, str] = {}
    rules: Mapping[str, Rule] = {}

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
    known: Iterable[str],
    *,
    ignore: Sequence[str] = (),
    limits: Mapping[str, float] | None = None,
    severities: Mapping[str, str] | None = None,
    rules: Mapping[str, Rule | str] | None = None,
) -> Terms:
    """Terms of options. `known`: the slugs of the rules there are without those of the user, `rules`.

    Raises ValueError that names the option, the value, what is allowed, and the nearest name.
    """
    limits, severities, own = limits or {}, severities or {}, _rules(rules or {}, set(known))
    known = [*known, *own]
    for option, selectors in (("ignore", ignore), ("severities", severities)):
        for selector in selectors:
            rule = selector.partition(":")[0]
            if rule not in known:
                raise ValueError(f"{option} names no rule {rule!r}{_near(rule, known)}")
    for selector, severity in severities.items():
        if severity not in (*SEVERITIES, "off"):
            raise ValueError(f"severities[{selector!r}] must be info, warning, error or off; got {severity!r}")
    return Terms(_limits(limits), ignore, severities, own)


def _rules(given: Mapping[str, Rule | str], known: Iterable[str]) -> dict[str, Rule]:
    for slug in given:
        if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug) is None:
            raise ValueError(f"rules names a rule {slug!r}; a slug is of lower-case words and '-', such as 'my-rule'")
        if slug in known:
            raise ValueError(f"rules names {slug!r}, which is one of actdiag's; give yours another name")
    return {slug: _imported(slug, rule) if isinstance(rule, str) else rule for slug, rule in given.items()}


def _imported(slug: str, path: str) -> Rule:
    """The function that 'package.module:function' names, for configurations in text."""
    module, _, name = path.partition(":")
    allowed = f"rules[{slug!r}] must be a function or 'package.module:function'"
    if not module or not name:
        raise ValueError(f"{allowed}; {path!r} names no function")
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # importing runs a user's code
        raise ValueError(f"{allowed}; {path!r}: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise ValueError(f"{allowed}; {path!r} is {type(found).__name__}")
    rule: Rule = found
    return rule


def _limits(given: Mapping[str, Any]) -> Limits:
    plain = Limits()
    names = [spec.name for spec in fields(Limits)]
    for name, value in given.items():
        if name not in names:
            raise ValueError(f"limits names no limit {name!r}{_near(name, names)}")
        default = getattr(plain, name)
        kind, low, high = _span(name, default)
        fits = isinstance(value, Integral if isinstance(default, int) else Real) and not isinstance(value, bool)
        if not fits or not low <= value <= high:
            span = f"from {low} to {high}" if high < _MOST else f"of at least {low}"
            raise ValueError(f"limits[{name!r}] must be {kind} {span}, such as {default}; got {value!r:.40}")
    return replace(plain, **{name: type(getattr(plain, name))(value) for name, value in given.items()})


_MOST = 1e300
_FP32_SMALLEST = -149


def _span(name: str, default: float) -> tuple[str, float, float]:
    """In words, and from where to where: shares, exponents, counts and other numbers."""
    if name in SHARES:
        return "a number", 0, 1
    if isinstance(default, int):
        return ("a whole number", 1, _MOST) if default > 0 else ("a whole number", _FP32_SMALLEST, -1)
    return "a number", 0, _MOST


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
