"""Every option once: name, unit, default, check. All doors and the documentation read this table."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from numbers import Real
from typing import Any, get_type_hints

from actdiag import checks
from actdiag.values import for_files, number_in, own

__all__ = ["ConfigError", "Options", "build_options", "changed_options"]

SEVERITIES = ("info", "warning", "error")
_HAVE_OFF = ("distributed", "loggers", "severities")


class ConfigError(ValueError):
    """An option has a value that cannot work. Raised at construction, never during training."""


def _option(default: Any, doc: str, check: checks.Check, *, unit: str = "") -> Any:
    metadata = {"doc": doc, "check": check, "unit": unit}
    if isinstance(default, (tuple, dict)):
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be set, the same through every door. Each field carries its unit, meaning and check."""

    log_every_n_steps: int = _option(
        50,
        "full statistics every so many optimizer steps",
        checks.at_least(1, "1 records every step"),
        unit="steps",
    )
    watch_every_n_steps: int = _option(
        4,
        "light observation of the units every so many optimizer steps; dead units are found by it",
        checks.at_least(1, "1 watches every step"),
        unit="steps",
    )
    attentive: bool | None = _option(
        None,
        "watch every step, as far as the budget allows, at the start and where units fall silent, and record a step "
        "where so many have that a verdict is due; None: where there is a budget",
        checks.boolean_or_none,
    )
    start_step: int = _option(0, "first step that may be recorded", checks.at_least(0, "0 is the first"), unit="steps")
    end_step: int | None = _option(
        None, "first step that is no longer recorded; None: no end", checks.step_or_none, unit="steps"
    )
    include: Sequence[Any] = _option(
        (), "modules to observe: name patterns, classes, or functions of (name, module); empty: all", checks.selectors
    )
    exclude: Sequence[Any] = _option(
        (), "modules to leave out: name patterns, classes, or functions of (name, module)", checks.selectors
    )
    max_overhead: float | None = _option(
        0.02,
        "share of the training time that observing may take, beyond the first second of cost; intervals grow to "
        "keep it, and one step of four is left alone until bare ones are timed; None: no budget",
        checks.overhead,
    )
    window_samples: int = _option(
        2048,
        "samples without one open gate after which a unit is called dead",
        checks.at_least(32, "fewer samples say nothing about a unit"),
        unit="samples",
    )
    phases: Sequence[str] = _option(("train",), "which passes are observed", checks.only_train)
    distributed: str = _option(
        "merge",
        "several processes: 'merge' tells what all of them saw, with one collective a recorded step; 'rank0' what rank "
        "0 saw, the others observe nothing; 'off' has every process observe and write for itself",
        checks.one_of("merge", "rank0", "off"),
    )
    merge_timeout_s: float = _option(
        20.0,
        "how long a process waits for the others' statistics before it goes on without them",
        checks.seconds,
        unit="seconds",
    )
    functional: bool = _option(
        True, "see activations called as functions (F.relu, x.relu()) on observed eager steps", checks.boolean
    )
    gradients: bool = _option(True, "record the gradient at each site", checks.boolean)
    histograms: bool = _option(True, "record histograms of activations and their gradients", checks.boolean)
    detail: str = _option(
        "summary",
        "stock TensorBoard scalars per layer: 'summary' at most 12 layers a metric, 'full' every layer",
        checks.one_of("summary", "full"),
    )
    loggers: str = _option(
        "summary",
        "what loggers beside TensorBoard get, in one call a recorded step: 'summary' at most 16 layers a metric, "
        "'full' every layer, 'model' curves of the whole model alone, 'off' nothing",
        checks.one_of("summary", "full", "model", "off"),
    )
    prefix: str = _option(
        "",
        "name of this monitor beside others of the same run, before its tags: '<prefix>.actdiag/...'; a model and a "
        "logger have one monitor a prefix",
        checks.prefix,
    )
    unit_dims: Mapping[str, int] = _option({}, "name pattern -> dimension that counts the units", checks.unit_dims)
    activations: Mapping[Any, Any] = _option(
        {}, "facts about your own activation classes and functions", checks.mapping
    )
    grad_scaler: Any = _option(None, "the GradScaler of the loop; found by itself inside scaler.step()", checks.scaler)
    ignore: Sequence[str] = _option((), "findings to drop: 'rule' or 'rule:layer pattern'", checks.findings)
    limits: Mapping[str, float] = _option(
        {},
        "thresholds of the rules, by their names in actdiag.diagnose.limits: {'dead_warning': 0.6}",
        checks.names_to(Real),
    )
    severities: Mapping[str, str] = _option(
        {}, "'rule' or 'rule:layer pattern' -> 'info', 'warning', 'error' or 'off'", checks.names_to(str)
    )
    rules: Mapping[str, Any] = _option(
        {},
        "rules of your own: name -> function of (history, limits) that yields Verdicts, or 'package.module:function'",
        checks.rules,
    )
    on_finding: Callable[[Any], object] | None = _option(
        None, "called once with each new Finding", checks.callable_or_none
    )
    raise_on: str | None = _option(
        None,
        "raise FindingError into the loop at a new or worse finding of this severity; None: never",
        checks.one_of(None, *SEVERITIES),
    )

    stop_on: str | None = _option(
        None,
        "ask for an end of the training at a new or worse finding of this severity: a Trainer stops after the batch, a "
        "plain loop asks monitor.should_stop; None: never",
        checks.one_of(None, *SEVERITIES),
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = own(getattr(self, spec.name), off=spec.name in _HAVE_OFF)
            _check_field(spec, value)
            object.__setattr__(self, spec.name, tuple(value) if isinstance(value, list) else value)
        if self.end_step is not None and self.end_step <= self.start_step:
            raise ConfigError(
                f"end_step must lie after start_step ({self.start_step}), got {self.end_step}; "
                "nothing would be recorded"
            )

    def to_mapping(self) -> dict[str, Any]:
        """What is not at its default, in the types that YAML and JSON have; `build_options` makes the same of it.

        Raises ConfigError for a value that a file cannot hold: a function, a class, a GradScaler.
        """
        found: dict[str, Any] = {}
        for name in changed_options(self, [spec.name for spec in fields(self)]):
            try:
                found[name] = for_files(getattr(self, name))
            except TypeError as error:
                raise ConfigError(f"{name} cannot be written to a file: {error}; give it in the program") from None
        return found


def _check_field(spec: Field[Any], value: Any) -> None:
    try:
        allowed = spec.metadata["check"](value)
    except TypeError:
        allowed = spec.metadata["doc"]
    if allowed is not None:
        number = number_in(value)
        text = "" if number is None or spec.metadata["check"](number) else f", which is a text; write {number}"
        raise ConfigError(f"{spec.name} must be {allowed}; got {value!r}{text}")


def build_options(given: Mapping[str, Any] | None) -> Options:
    """Options of a mapping: keywords, a section of YAML (None where it is empty), a DictConfig of OmegaConf's.

    Raises ConfigError that names the option, the value, what is allowed, and the nearest existing name.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"options must be a mapping from names to values; got {type(given).__name__}")
    known = {spec.name for spec in fields(Options)}
    values: dict[str, Any] = {}
    for name in given or ():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=2)
            hint = (
                f"; did you mean {' or '.join(map(repr, near))}?"
                if near
                else f"; options are {', '.join(sorted(known))}"
            )
            raise ConfigError(f"unknown option {name!r}{hint}")
        try:
            values[name] = own((given or {})[name])
        except Exception as error:  # an interpolation of OmegaConf's that leads nowhere, a value that is still missing
            raise ConfigError(f"{name} cannot be read: {str(error).partition(chr(10))[0]}") from None
    return Options(**values)


def parameters(**replaced: tuple[Any, Any]) -> list[inspect.Parameter]:
    """The options as keyword-only parameters of a signature. `replaced`: a default and a type that are a door's own."""
    plain, hints = Options(), get_type_hints(Options)
    hints |= {"distributed": str | bool, "loggers": str | bool, "severities": Mapping[str, str | bool]}  # off is False
    told = {spec.name: (getattr(plain, spec.name), hints[spec.name]) for spec in fields(Options)} | replaced
    kind = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(name, kind, default=default, annotation=hint) for name, (default, hint) in told.items()]


def described() -> str:
    """The options as a docstring has them, for IDEs and for the `--help` of LightningCLI."""
    units = {spec.name: f" ({unit})" if (unit := spec.metadata["unit"]) else "" for spec in fields(Options)}
    return "The options, all keyword-only.\n\nArgs:\n" + "\n".join(
        f"    {one.name}: {one.metadata['doc']}{units[one.name]}" for one in fields(Options)
    )


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
