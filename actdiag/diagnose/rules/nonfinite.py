"""non-finite: NaN or infinity in activations, gradients or weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from actdiag.diagnose.finding import Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.reading import Named, Why, in_order, module_of
from actdiag.snapshot import SiteStats, Snapshot

SOURCE = "Definition; naming the producer: Hugging Face DebugUnderflowOverflow, pytorch/pytorch#182156."
_LET_IT_BE = "let it be: the scaler lowers its scale by itself"
_NAMED = 32


def non_finite(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """NaN or infinity in a tensor of the training.

    What: the first site in execution order whose output holds NaN or infinity is named, not those that pass it
    on. If all outputs are finite, the layer whose backward turned a finite gradient into one that is not, or the
    last site if the loss did it; else the last parameter whose gradient or weight is not.
    Why: one NaN reaches every weight with the next update; from then on nothing is learned.
    Not a problem when: the loss scaler of fp16 skips the step (info while a loss scale is known, unless it happens
    in three snapshots in a row); a mask of -inf is passed through a module; an infinite slope (of sqrt at 0) meets
    a closed gate and reaches no parameter (warning).
    What to try: look at the input of that step; lower the learning rate or warm it up; clip gradients; guard
    log, sqrt and division with an epsilon; compute the loss in float32.
    Source: definition; producers instead of propagators: pytorch/pytorch#182156.
    """
    now = history[-1]
    ordered = in_order(now)
    for name, site in ordered:
        if site.nonfinite:
            yield _forward(name, site, history)
            return
    for index, named in reversed(list(enumerate(ordered))):
        if named[1].grad_nonfinite:
            yield _backward(named, _after(ordered, index), history, limits)
            return
    yield from _parameters(now)


def _forward(name: str, site: SiteStats, history: Sequence[Snapshot]) -> Verdict:
    cause, advice = _why_forward(name, site, history)
    return Verdict(
        rule="non-finite",
        severity="error",
        layer=module_of(name),
        message=f"{name}: {site.nonfinite} of {site.n} values are NaN or infinite; it is the first such tensor",
        evidence={"nonfinite": site.nonfinite, "n": site.n, "healthy": 0},
        cause=cause,
        advice=advice,
        source=SOURCE,
    )


def _why_forward(name: str, site: SiteStats, history: Sequence[Snapshot]) -> Why:
    if site.role == "input":
        return (
            "the data that enter the network already hold NaN or infinity",
            ("check the input pipeline for missing values, division by a zero std and bad files",),
        )
    if (broken := _broken_weights(history[-1])) and any(_module_of_parameter(p) == module_of(name) for p in broken):
        return _why_broken(broken, history)
    return (
        f"{site.kind} turned finite values into non-finite ones: overflow, log of 0, or division by 0",
        (
            "guard log, sqrt and division with an epsilon",
            "compute this layer in float32 under autocast",
            "lower the learning rate or clip gradients",
        ),
    )


def _broken_weights(now: Snapshot) -> list[str]:
    return [name for name, parameter in now.parameters.items() if _is_broken(parameter.weight_norm)]


def _module_of_parameter(name: str) -> str:
    return name.rpartition(".")[0]


def _why_broken(broken: list[str], history: Sequence[Snapshot]) -> Why:
    """One broken weight is where it began; of many, an update since the last healthy snapshot has spread it."""
    healthy = next((s.step for s in reversed(history) if not _broken_weights(s)), None)
    since = "" if healthy is None else f" after step {healthy}"
    which = broken[0] if len(broken) == 1 else f"{broken[0]} and {len(broken) - 1} other parameters"
    zoom = f"record every step (log_every_n_steps=1) from step {healthy or 0} on to see the layer where it begins"
    return (
        f"the weights {which} are not finite: an update{since} broke them",
        (
            f"go back to a checkpoint {'before this step' if healthy is None else f'of step {healthy} or before'}",
            *(() if len(broken) == 1 else (zoom,)),
            "look for a batch with NaN, infinite or huge values",
            "lower the learning rate or clip gradients",
        ),
    )


def _is_broken(norm: float | None) -> bool:
    return norm is not None and not math.isfinite(norm)


def _after(ordered: Sequence[Named], index: int) -> str | None:
    """The next site whose own gradient was seen, and is finite: the gradient broke on the way through it."""
    return next((name for name, site in ordered[index + 1 :] if site.grad_nonfinite == 0), None)


def _backward(named: Named, producer: str | None, history: Sequence[Snapshot], limits: Limits) -> Verdict:
    name, site = named
    now = history[-1]
    lost = f"{site.grad_nonfinite} of {site.n} gradient values"
    message = f"{name}: {lost} are NaN or infinite while every activation is finite"
    cause = "the loss, or what lies between this layer and it, overflowed or divided by 0 in its backward"
    if producer is not None:
        message = (
            f"{producer}: its backward makes {lost} at the output of {name} NaN or infinite while every activation "
            "is finite"
        )
        cause = "the backward of this layer, or of an operation just before it, overflowed or divided by 0"
    found = Verdict(
        rule="non-finite",
        severity="error",
        layer=module_of(producer or name),
        message=message,
        evidence={
            "grad_nonfinite": site.grad_nonfinite,
            "n": site.n,
            "loss_scale": now.loss_scale,
            "grad_norm_total": now.grad_norm_total,
            "healthy": 0,
        },
        cause=cause,
        advice=(
            "look for sqrt, norm, log or division at exactly 0 there",
            "clip gradients",
            "compute the loss in float32",
        ),
        source=SOURCE,
    )
    if now.loss_scale is not None:
        return _under_scaler(found, overflows=_keeps_overflowing(history, limits))
    if now.grad_norm_total is not None and math.isfinite(now.grad_norm_total):
        message = f"{found.message}; none of it reached a parameter in this step"
        return replace(found, severity="warning", message=message)
    return found


def _keeps_overflowing(history: Sequence[Snapshot], limits: Limits) -> bool:
    recent = history[-limits.overflowing_snapshots :]
    bad = [any(site.grad_nonfinite for site in snapshot.sites.values()) for snapshot in recent]
    return len(bad) == limits.overflowing_snapshots and all(bad)


def _under_scaler(found: Verdict, *, overflows: bool) -> Verdict:
    """The same under a loss scaler, which is expected to overflow now and then."""
    if not overflows:
        cause = "the loss scaler probes the limit of fp16 and skips this step"
        return replace(found, severity="info", cause=cause, advice=(_LET_IT_BE,))
    return replace(
        found,
        cause="the loss scaler does not find a scale without overflow: the gradients themselves are not finite",
        advice=(
            "look for sqrt, norm, log or division at exactly 0 in the model and the loss",
            "compute the loss in float32, or use bf16",
            "lower the learning rate",
        ),
    )


def _parameters(now: Snapshot) -> Iterator[Verdict]:
    """What no site has shown: gradients that overflow only at the weights, weights of modules left out."""
    for what, norm in (("gradient holds", "grad_norm"), ("weights hold", "weight_norm")):
        broken = [name for name, p in now.parameters.items() if _is_broken(getattr(p, norm))]
        if broken:
            yield _parameter(broken, what, now)
            return


def _parameter(broken: list[str], what: str, now: Snapshot) -> Verdict:
    others = f" (and of {len(broken) - 1} other parameters)" if len(broken) > 1 else ""
    found = Verdict(
        rule="non-finite",
        severity="error",
        layer=_module_of_parameter(broken[-1]),
        message=f"{broken[-1]}: its {what} NaN or infinity{others} while every observed activation is finite",
        evidence={"parameters": broken[-_NAMED:], "loss_scale": now.loss_scale, "healthy": 0},
        cause="a sum over the batch overflowed, or an earlier update was not finite",
        advice=("clip gradients", "lower the learning rate", "go back to a checkpoint before this step"),
        source=SOURCE,
    )
    if what.startswith("gradient") and now.loss_scale is not None:
        return _under_scaler(found, overflows=False)
    return found
