"""What blocks a gradient on its way back: the causes that vanishing-gradient can tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.flow import flow, gives_probabilities, per_sample
from actdiag.diagnose.rules.reading import Why, bad_input, in_order, percent, silent_fraction
from actdiag.snapshot import SiteStats, Snapshot

_SLOPES = {"Sigmoid": "1/4", "Hardsigmoid": "1/6"}


def why_vanishing(now: Snapshot, limits: Limits, ratio: float) -> Why:
    """The likeliest cause, the most certain evidence first."""
    for look in (_zero_weights, _silent_units, _closed_gates, _flat_ends, _gentle_slopes):
        if (found := look(now, limits)) is not None:
            return found
    return _cut_off(now, limits) if ratio == 0 else _SMALL_WEIGHTS


def blocked_output(history: Sequence[Snapshot], limits: Limits) -> str | None:
    """A probability output that has passed no gradient at all since the first snapshot."""
    if len(history) < limits.vanishing_snapshots:
        return None
    name = _blocked(history[-1])
    return name if name is not None and all(_blocked(snapshot) == name for snapshot in history[:-1]) else None


def _blocked(snapshot: Snapshot) -> str | None:
    f = flow(snapshot)
    if f is None or f.largest > 0:
        return None
    outputs = [name for name, site in in_order(snapshot) if gives_probabilities(site) and (per_sample(site) or 0) > 0]
    return outputs[-1] if outputs else None


_SMALL_WEIGHTS: Why = (
    "each layer passes on less gradient than it receives: the weights are too small",
    (
        "use He initialization for ReLU, Xavier for tanh",
        "add residual connections",
        "add batch or layer normalization",
    ),
)


def _zero_weights(now: Snapshot, limits: Limits) -> Why | None:
    zero = [n for n, p in now.parameters.items() if p.weight_norm == 0 and n.rpartition(".")[2] == "weight"]
    if not zero:
        return None
    return (
        f"the weights {zero[0]} are exactly 0: nothing passes through them, forward or back",
        ("initialize weights at random (He for ReLU, Xavier for tanh), only biases with 0",),
    )


def _worst(now: Snapshot, value: Callable[[SiteStats], float]) -> tuple[str, float]:
    found = [(name, value(site)) for name, site in in_order(now) if site.role in ("activation", "output")]
    return max(found, key=lambda item: item[1], default=("", 0.0))


def _silent_units(now: Snapshot, limits: Limits) -> Why | None:
    name, share = _worst(now, silent_fraction)
    if share < limits.dead_error:
        return None
    scale = () if bad_input(now, limits) is None else ("standardize the inputs",)
    return (
        f"{percent(share)} of the units of {name} are dead or silent and pass no gradient",
        (
            f"cure the dead units first: see the finding dead-units of {name}",
            *scale,
            "lower the learning rate or warm it up",
            "restart from a checkpoint before they died",
        ),
    )


def _closed_gates(now: Snapshot, limits: Limits) -> Why | None:
    """Before there is evidence about units: what one step has seen of their gates."""
    name, share = _worst(now, _closed_share)
    if share < 1 - limits.initial_gate:
        return None
    return (
        f"the gates of {name} were closed for {percent(share)} of what this step has seen: its units die, or are dead",
        (
            "lower the learning rate or warm it up",
            *(() if bad_input(now, limits) is None else ("standardize the inputs",)),
            "restart from a checkpoint before this step",
        ),
    )


def _closed_share(site: SiteStats) -> float:
    """Of what has one flat end only; 0 where it is unknown."""
    return 0.0 if site.gate_mean is None or site.saturated_fraction is not None else 1 - site.gate_mean


def _flat_ends(now: Snapshot, limits: Limits) -> Why | None:
    name, share = _worst(now, lambda site: 0.0 if gives_probabilities(site) else site.saturated_fraction or 0.0)
    if share < limits.saturated_warning:
        return None
    return (
        f"{percent(share)} of {name} lies on its flat ends",
        ("cure the saturation first: standardize the inputs, use smaller weights", "lower the learning rate"),
    )


def _gentle_slopes(now: Snapshot, limits: Limits) -> Why | None:
    gentle = [site.kind for _, site in in_order(now) if site.role == "activation" and site.kind in _SLOPES]
    if not gentle:
        return None
    return (
        f"{gentle[0]} has a slope of at most {_SLOPES[gentle[0]]}, which is lost at every layer",
        ("use tanh, ReLU or GELU in hidden layers", "add residual connections or batch normalization"),
    )


def _cut_off(now: Snapshot, limits: Limits) -> Why:
    sizes = [site.grad_rms for _, site in in_order(now) if site.grad_rms and not gives_probabilities(site)]
    if sizes and min(sizes) < limits.underflow_rms:
        return (
            f"gradients of {min(sizes):.1e} are rounded to 0 on their way: fp16 holds nothing below 6e-8",
            ("use a loss scaler (torch.amp.GradScaler) or bf16", "keep the weights in float32"),
        )
    return (
        f"the gradient is lost at one place{_lost_at(now)}: something there outputs a constant, or is detached",
        ("look at what the forward does at this place", "remove detach() and no_grad() from the forward"),
    )


def _lost_at(now: Snapshot) -> str:
    """Between which sites the gradient, on its way back, becomes exactly 0."""
    known = [(name, norm) for name, site in in_order(now) if (norm := per_sample(site)) is not None]
    lost = [(a, b) for (a, below), (b, above) in pairwise(known) if below == 0 < above]
    return f", between {lost[-1][1]} and {lost[-1][0]}" if lost else ""
