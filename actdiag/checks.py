"""What the values of options may be: each check answers None, or what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

Check = Callable[[Any], str | None]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def at_least(low: int, cure: str) -> Check:
    """A whole number from `low` on; `cure` says what the lowest means."""

    def check(value: Any) -> str | None:
        return None if _is_int(value) and value >= low else f"a whole number of at least {low}; {cure}"

    return check


def step_or_none(value: Any) -> str | None:
    """None, or a step from 0."""
    return None if value is None or (_is_int(value) and value >= 0) else "None or a step number from 0"


def overhead(value: Any) -> str | None:
    """None, or a share of the training time between 0 and 1."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1):
        return None
    return "a share between 0 and 1 such as 0.02, or None to keep the intervals exactly as given"


def seconds(value: Any) -> str | None:
    """A time above 0, an hour at most."""
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 3600
    return None if ok else "a number of seconds above 0 and up to 3600 such as 20.0"


def findings(value: Any) -> str | None:
    """Rules, each for itself or at layers."""
    return None if globs(value) is None else "a list of rules, at layers or everywhere, such as ['off-center:head.*']"


def globs(value: Any) -> str | None:
    """Name patterns; one text alone is none."""
    ok = not isinstance(value, str) and isinstance(value, Sequence) and all(isinstance(v, str) for v in value)
    return None if ok else "a list of name patterns such as ['features.*']"


def selectors(value: Any) -> str | None:
    """Name patterns, module classes, or functions of (name, module)."""
    ok = (
        not isinstance(value, str)
        and isinstance(value, Sequence)
        and all(isinstance(v, str) or callable(v) for v in value)
    )
    return (
        None
        if ok
        else "a list of name patterns such as ['features.*'], of module classes, or of functions of (name, module)"
    )


def one_of(*allowed: Any) -> Check:
    """One of these values."""

    def check(value: Any) -> str | None:
        return None if value in allowed else "one of " + ", ".join(map(repr, allowed))

    return check


def only_train(value: Any) -> str | None:
    """The one phase that is recorded."""
    return None if list(value) == ["train"] else "('train',): validation passes are not recorded yet"


def callable_or_none(value: Any) -> str | None:
    """None, or something that is called with a Finding."""
    return None if value is None or callable(value) else "None or a function of one Finding"


def boolean(value: Any) -> str | None:
    """True or False; not 0 or 1."""
    return None if isinstance(value, bool) else "True or False"


def boolean_or_none(value: Any) -> str | None:
    """True, False or None."""
    return None if value is None else boolean(value)


def unit_dims(value: Any) -> str | None:
    """Name patterns, and the dimension that counts the units there."""
    ok = isinstance(value, Mapping) and all(isinstance(k, str) and _is_int(v) for k, v in value.items())
    return None if ok else "a mapping from name pattern to dimension such as {'encoder.*': 1}"


def names_to(kind: type) -> Check:
    """A mapping from names to values of a kind."""

    def check(value: Any) -> str | None:
        ok = isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, kind) for k, v in value.items())
        return None if ok else f"a mapping from names to {'numbers' if kind is Real else 'texts'}"

    return check


def rules(value: Any) -> str | None:
    """Rules of one's own: functions, or where they can be imported from."""
    ok = isinstance(value, Mapping) and all(
        isinstance(slug, str) and (callable(rule) or isinstance(rule, str)) for slug, rule in value.items()
    )
    return None if ok else "a mapping from names to functions such as {'cold-head': judge_head}"


def mapping(value: Any) -> str | None:
    """Facts about activation functions of one's own."""
    return None if isinstance(value, Mapping) else "a mapping from module class or function to ActivationFacts"


def scaler(value: Any) -> str | None:
    """None, or what tells a loss scale as GradScaler does."""
    ok = value is None or all(callable(getattr(value, name, None)) for name in ("get_scale", "is_enabled"))
    return None if ok else "None or a torch.amp.GradScaler"


def prefix(value: Any) -> str | None:
    """What may stand before a tag in TensorBoard; '' for none."""
    ok = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]*", value) is not None
    return None if ok else "letters, digits, '_', '-' and '.' such as 'gan_d', or '' for none"
