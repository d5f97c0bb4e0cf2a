"""Every option once: name, unit, default, check. All doors and the documentation read this table."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from numbers import Real
from typing import Any

__all__ = ["ConfigError", "Options", "build_options", "changed_options"]

SEVERITIES = ("info", "warning", "error")


class ConfigError(ValueError):
    """An option has a value that cannot work. Raised at construction, never during training."""


Check = Callable[[Any], str | None]


def _option(default: Any, doc: str, check: Check, *, unit: str = "") -> Any:
    metadata = {"doc": doc, "check": check, "unit": unit}
    if isinstance(default, (tuple, dict)):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _at_least(low: int, cure: str) -> Check:
    def check(value: Any) -> str | None:
        return None if _is_int(value) and value >= low else f"a whole number of at least {low}; {cure}"

    return check


def _step_or_none(value: Any) -> str | None:
    return None if value is None or (_is_int(value) and value >= 0) else "None or a step number from 0"


def _overhead(value: Any) -> str | None:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1):
        return None
    return "a share between 0 and 1 such as 0.02, or None to keep the intervals exactly as given"


def _seconds(value: Any) -> str | None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 3600
    return None if ok else "a number of seconds above 0 and up to 3600 such as 20.0"


def _globs(value: Any) -> str | None:
    ok = not isinstance(value, str) and isinstance(value, Sequence) and all(isinstance(v, str) for v in value)
    return None if ok else "a list of name patterns such as ['features.*']"


def _selectors(value: Any) -> str | None:
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


def _one_of(*allowed: Any) -> Check:
    def check(value: Any) -> str | None:
        return None if value in allowed else "one of " + ", ".join(map(repr, allowed))

    return check


def _only_train(value: Any) -> str | None:
    return None if list(value) == ["train"] else "('train',): validation passes are not recorded yet"


def _callable_or_none(value: Any) -> str | None:
    return None if value is None or callable(value) else "None or a function of one Finding"


def _bool(value: Any) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def _bool_or_none(value: Any) -> str | None:
    return None if value is None else _bool(value)


def _unit_dims(value: Any) -> str | None:
    ok = isinstance(value, Mapping) and all(isinstance(k, str) and _is_int(v) for k, v in value.items())
    return None if ok else "a mapping from name pattern to dimension such as {'encoder.*': 1}"


def _names_to(kind: type) -> Check:
    def check(value: Any) -> str | None:
        ok = isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, kind) for k, v in value.items())
        return None if ok else f"a mapping from names to {'numbers' if kind is Real else 'texts'}"

    return check


def _rules(value: Any) -> str | None:
    ok = isinstance(value, Mapping) and all(
        isinstance(slug, str) and (callable(rule) or isinstance(rule, str)) for slug, rule in value.items()
    )
    return None if ok else "a mapping from names to functions such as {'cold-head': judge_head}"


def _mapping(value: Any) -> str | None:
    return None if isinstance(value, Mapping) else "a mapping from module class or function to ActivationFacts"


def _scaler(value: Any) -> str | None:
    ok = value is None or all(callable(getattr(value, name, None)) for name in ("get_scale", "is_enabled"))
    return None if ok else "None or a torch.amp.GradScaler"


def _prefix(value: Any) -> str | None:
    ok = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.-]*", value) is not None
    return None if ok else "letters, digits, '_', '-' and '.' such as 'gan_d', or '' for none"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be set, the same through every door. Each field carries its unit, meaning and check."""

    log_every_n_steps: int = _option(
        50,
        "full statistics every so many optimizer steps",
        _at_least(1, "1 records every step"),
        unit="steps",
    )
    watch_every_n_steps: int = _option(
        4,
        "light observation of the units every so many optimizer steps; dead units are found by it",
        _at_least(1, "1 watches every step"),
        unit="steps",
    )
    attentive: bool | None = _option(
        None,
        "watch every step, as far as the budget allows, at the start and where units fall silent, and record a step "
        "where so many have that a verdict is due; None: where there is a budget",
        _bool_or_none,
    )
    start_step: int = _option(0, "first step that may be recorded", _at_least(0, "0 is the first"), unit="steps")
    end_step: int | None = _option(
        None, "first step that is no longer recorded; None: no end", _step_or_none, unit="steps"
    )
    include: Sequence[Any] = _option(
        (), "modules to observe: name patterns, classes, or functions of (name, module); empty: all", _selectors
    )
    exclude: Sequence[Any] = _option(
        (), "modules to leave out: name patterns, classes, or functions of (name, module)", _selectors
    )
    max_overhead: float | None = _option(
        0.02,
        "share of the training time that observing may take, beyond the first second of cost; intervals grow to "
        "keep it; None: no budget",
        _overhead,
    )
    window_samples: int = _option(
        2048,
        "samples without one open gate after which a unit is called dead",
        _at_least(32, "fewer samples say nothing about a unit"),
        unit="samples",
    )
    phases: Sequence[str] = _option(("train",), "which passes are observed", _only_train)
    distributed: str = _option(
        "merge",
        "several processes: 'merge' tells what all of them saw, with one collective a recorded step; 'rank0' what rank "
        "0 saw, the others observe nothing; 'off' has every process observe and write for itself",
        _one_of("merge", "rank0", "off"),
    )
    merge_timeout_s: float = _option(
        20.0,
        "how long a process waits for the others' statistics before it goes on without them",
        _seconds,
        unit="seconds",
    )
    functional: bool = _option(
        True, "see activations called as functions (F.relu, x.relu()) on observed eager steps", _bool
    )
    gradients: bool = _option(True, "record the gradient at each site", _bool)
    histograms: bool = _option(True, "record histograms of activations and their gradients", _bool)
    detail: str = _option(
        "summary",
        "stock TensorBoard scalars per layer: 'summary' at most 12 layers a metric, 'full' every layer",
        _one_of("summary", "full"),
    )
    loggers: str = _option(
        "summary",
        "what loggers beside TensorBoard get, in one call a recorded step: 'summary' at most 16 layers a metric, "
        "'full' every layer, 'model' curves of the whole model alone, 'off' nothing",
        _one_of("summary", "full", "model", "off"),
    )
    prefix: str = _option(
        "",
        "name of this monitor beside others of the same run, before its tags: '<prefix>.actdiag/...'; a model and a "
        "logger have one monitor a prefix",
        _prefix,
    )
    unit_dims: Mapping[str, int] = _option({}, "name pattern -> dimension that counts the units", _unit_dims)
    activations: Mapping[Any, Any] = _option({}, "facts about your own activation classes and functions", _mapping)
    grad_scaler: Any = _option(None, "the GradScaler of the loop; found by itself inside scaler.step()", _scaler)
    ignore: Sequence[str] = _option((), "findings to drop: 'rule' or 'rule:layer pattern'", _globs)
    limits: Mapping[str, float] = _option(
        {},
        "thresholds of the rules, by their names in actdiag.diagnose.limits: {'dead_warning': 0.6}",
        _names_to(Real),
    )
    severities: Mapping[str, str] = _option(
        {}, "'rule' or 'rule:layer pattern' -> 'info', 'warning', 'error' or 'off'", _names_to(str)
    )
    rules: Mapping[str, Any] = _option(
        {},
        "rules of your own: name -> function of (history, limits) that yields Verdicts, or 'package.module:function'",
        _rules,
    )
    on_finding: Callable[[Any], object] | None = _option(None, "called once with each new Finding", _callable_or_none)
    raise_on: str | None = _option(
        None,
        "raise FindingError into the loop at a new or worse finding of this severity; None: never",
        _one_of(None, *SEVERITIES),
    )

    stop_on: str | None = _option(
        None,
        "ask for an end of the training at a new or worse finding of this severity: a Trainer stops after the batch, a "
        "plain loop asks monitor.should_stop; None: never",
        _one_of(None, *SEVERITIES),
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            _check_field(spec, getattr(self, spec.name))
        if self.end_step is not None and self.end_step <= self.start_step:
            raise ConfigError(
                f"end_step must lie after start_step ({self.start_step}), got {self.end_step}; "
                "nothing would be recorded"
            )


def _check_field(spec: Field[Any], value: Any) -> None:
    try:
        allowed = spec.metadata["check"](value)
    except TypeError:
        allowed = spec.metadata["doc"]
    if allowed is not None:
        raise ConfigError(f"{spec.name} must be {allowed}; got {value!r}")


def build_options(given: Mapping[str, Any]) -> Options:
    """Check names and values of keyword options.

    Raises ConfigError that names the option, the value, what is allowed, and the nearest existing name.
    """
    known = {spec.name for spec in fields(Options)}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; options are {', '.join(sorted(known))}"
            raise ConfigError(f"unknown option {name!r}{hint}")
    return Options(**given)


def changed_options(options: Options, names: Sequence[str]) -> dict[str, Any]:
    """Those of the named options that are not at their defaults, spelled as in every process: functions by name."""
    plain = Options()
    values = {name: getattr(options, name) for name in names}
    return {name: _spelled(value) for name, value in values.items() if value != getattr(plain, name)}


def _spelled(value: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(_spelled(key)): _spelled(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_spelled(item) for item in value]
    return getattr(value, "__qualname__", type(value).__qualname__)
