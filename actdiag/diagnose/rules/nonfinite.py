"""non-finite: NaN or infinity in activations or gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from actdiag.diagnose.finding import Verdict
from actdiag.diagnose.limits import Limits
from actdiag.snapshot import SiteStats, Snapshot

SOURCE = "Definition; naming the producer: Hugging Face DebugUnderflowOverflow, pytorch/pytorch#182156."


def non_finite(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """NaN or infinity in a tensor of the training.

    What: the first site in execution order whose output holds NaN or infinity is named, not those that pass it
    on. If all outputs are finite, the site nearest to the loss whose gradient is not.
    Why: one NaN reaches every weight with the next update; from then on nothing is learned.
    Not a problem when: the loss scaler of fp16 skips the step (reported as info while a loss scale is known).
    What to try: look at the input of that step; lower the learning rate or warm it up; clip gradients; guard
    log, sqrt and division with an epsilon; compute the loss in float32.
    Source: definition; producers instead of propagators: pytorch/pytorch#182156.
    """
    now = history[-1]
    ordered = sorted(now.sites.items(), key=lambda item: item[1].order)
    for name, site in ordered:
        if site.nonfinite:
            yield _forward(name, site, now)
            return
    for name, site in reversed(ordered):
        if site.grad_nonfinite:
            yield _backward(name, site, now)
            return


def _broken_weights(layer: str, now: Snapshot) -> str | None:
    for name, parameter in now.parameters.items():
        norm = parameter.weight_norm
        if name.rpartition(".")[0] == layer and norm is not None and not math.isfinite(norm):
            return name
    return None


def _forward(name: str, site: SiteStats, now: Snapshot) -> Verdict:
    layer = name.removesuffix(":in").partition("#")[0]
    broken = _broken_weights(layer, now)
    if site.role == "input":
        cause = "the data that enter the network already hold NaN or infinity"
        advice: tuple[str, ...] = ("check the input pipeline for missing values, division by a zero std and bad files",)
    elif broken:
        cause = f"the weights {broken} are not finite: an update at or before this step broke them"
        advice = ("go back to a checkpoint before this step, lower the learning rate, clip gradients",)
    else:
        cause = f"{site.kind} turned finite values into non-finite ones: overflow, log of 0, or division by 0"
        advice = (
            "guard log, sqrt and division with an epsilon",
            "under autocast compute this layer in float32",
            "lower the learning rate or clip gradients",
        )
    return Verdict(
        rule="non-finite",
        severity="error",
        layer=layer,
        message=f"{name}: {site.nonfinite} of {site.n} values are NaN or infinite; it is the first such tensor",
        evidence={"nonfinite": site.nonfinite, "n": site.n, "healthy": 0},
        cause=cause,
        advice=advice,
        source=SOURCE,
    )


def _backward(name: str, site: SiteStats, now: Snapshot) -> Verdict:
    scaled = now.loss_scale is not None
    return Verdict(
        rule="non-finite",
        severity="info" if scaled else "error",
        layer=name.partition("#")[0],
        message=f"{name}: {site.grad_nonfinite} of {site.n} gradient values are NaN or infinite, "
        "while every activation is finite",
        evidence={
            "grad_nonfinite": site.grad_nonfinite,
            "n": site.n,
            "loss_scale": now.loss_scale,
            "healthy": 0,
        },
        cause="the loss scaler probes the limit of fp16 and will skip this step"
        if scaled
        else "the backward pass of this layer, or of the loss after it, overflowed or divided by 0",
        advice=()
        if scaled
        else (
            "look for sqrt, norm or log at exactly 0 after this layer",
            "clip gradients",
            "use float32 here",
        ),
        source=SOURCE,
    )
