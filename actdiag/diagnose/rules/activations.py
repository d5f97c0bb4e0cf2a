"""saturated-activation and off-center: where in its range an activation works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from actdiag.diagnose.finding import Severity, Verdict
from actdiag.diagnose.limits import Limits
from actdiag.snapshot import SiteStats, Snapshot


def saturated_activation(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """A hidden bounded activation that lies on its flat ends.

    What: share of elements with gate <= 0.0591 (|tanh| >= 0.97; |2 sigmoid - 1| >= 0.97; clipped for hard ones)
    at least 0.5 (warning) or 0.7 (error) in two snapshots in a row.
    Why: the slope there is below 6 % of its peak, so what lies before learns slowly. With large weights the
    gradient may even grow: saturation and vanishing are separate findings.
    Not a problem when: it is an output (sigmoid before a loss) or a gate (its output multiplies another
    tensor): those saturate when they have decided. Both are recognized and left alone.
    What to try: standardize the inputs; Xavier initialization (tanh gain 5/3); batch or layer normalization
    before the activation; a lower learning rate; ReLU or GELU.
    Source: measured, tanh 6 x 128 with eight gains: accuracy suffers from about 0.7 on; 0.97 after Karpathy,
    makemore part 3; Glorot & Bengio 2010.
    """
    recent = history[-limits.saturated_snapshots :]
    if len(recent) < limits.saturated_snapshots:
        return
    for name, site in recent[-1].sites.items():
        if site.role != "activation":
            continue
        shares = [snapshot.sites[name].saturated_fraction for snapshot in recent if name in snapshot.sites]
        known = [share for share in shares if share is not None]
        if len(known) == len(recent) and min(known) >= limits.saturated_warning:
            severity: Severity = "error" if min(known) >= limits.saturated_error else "warning"
            yield _saturated(name, site, severity, recent[-1])


def _saturated(name: str, site: SiteStats, severity: Severity, now: Snapshot) -> Verdict:
    first = next((s for s in now.sites.values() if s.role == "input"), None)
    unscaled = first is not None and first.rms is not None and first.rms > 5
    if unscaled and first is not None:
        cause = f"the inputs are not standardized (mean {first.mean:.3g}, std {first.std:.3g})"
    else:
        cause = "the weights before it are too large for its range: initialization gain or learning rate"
    fraction = site.saturated_fraction or 0.0
    return Verdict(
        rule="saturated-activation",
        severity=severity,
        layer=name,
        message=f"{name}: {fraction:.0%} of the {site.kind} outputs lie on a flat end "
        f"({site.saturated_low or 0:.0%} low, {site.saturated_high or 0:.0%} high)",
        evidence={
            "saturated_fraction": fraction,
            "saturated_low": site.saturated_low,
            "saturated_high": site.saturated_high,
            "gate_mean": site.gate_mean,
            "healthy": "at most 0.4",
        },
        cause=cause,
        advice=(
            "standardize the inputs",
            "use Xavier initialization (gain 5/3 for tanh)",
            "put batch or layer normalization before the activation",
            "lower the learning rate",
        ),
        source="Measured gain sweep; threshold after Karpathy, makemore part 3; Glorot & Bengio 2010.",
    )


def off_center(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """The network's input is mostly mean.

    What: the mean energy of the first layer's input, sum mu_u^2 / sum E[x_u^2], is above 0.9: more than 90 % of
    its second moment does not depend on the sample.
    Why: gradients of a unit's weights then all share one sign, the largest curvature grows with the offset (13
    to 763 for an offset of 5 std), learning slows down and ReLU units die at initialization.
    Not a problem when: hidden ReLU layers show it; their mean energy rises with depth (0.3 to 0.8) in nets that
    train well, so hidden layers are shown and never reported.
    What to try: subtract the mean of each feature (and divide by its std); then nothing else need change.
    Source: LeCun et al. 1998, "Efficient BackProp"; measured on breast cancer data shifted by 0 to 20 std.
    """
    now = history[-1]
    for name, site in now.sites.items():
        if site.role != "input" or site.mean_energy is None or site.mean_energy <= limits.input_mean_energy:
            continue
        yield Verdict(
            rule="off-center",
            severity="warning",
            layer=name.removesuffix(":in"),
            message=f"{name}: {site.mean_energy:.0%} of the input's energy is its mean "
            f"(mean {site.mean:.3g}, std {site.std:.3g}); the inputs are not centered",
            evidence={
                "mean_energy": site.mean_energy,
                "mean": site.mean,
                "std": site.std,
                "healthy": "0 when standardized, at most 0.7",
            },
            cause="the features were not standardized",
            advice=("subtract each feature's mean and divide by its std, computed on the training data",),
            source='LeCun et al. 1998, "Efficient BackProp"; measured with inputs shifted by 0 to 20 std.',
        )
