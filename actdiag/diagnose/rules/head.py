"""Whether the last layer fits the loss: verdicts on facts that `actdiag.check` has read from one batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from actdiag.diagnose.finding import Severity, Verdict
from actdiag.diagnose.rules.reading import short

SOURCE = "Documentation of torch.nn's losses: what each expects of its input; Zhang et al. 2021 (AutoTrainer)."
_REACH = {"Sigmoid": (0.0, 1.0), "Hardsigmoid": (0.0, 1.0), "Softmax": (0.0, 1.0), "Tanh": (-1.0, 1.0)}
_REACH |= {"ReLU": (0.0, float("inf")), "Softplus": (0.0, float("inf"))}
_REGRESSION = frozenset({"MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"})


@dataclass(frozen=True, kw_only=True)
class Head:
    """Facts about one batch of outputs and targets.

    `loss`: class of the loss, "" if it is of another make. `layer`: the module whose output the loss was given, `kind`:
    the activation that it came out of; "" where something was computed after it. `rows_are`: "probabilities",
    "log-probabilities" or "" for each row. `compared`: elements of outputs and targets broadcast against each other, 0
    if they cannot be. Ends are None where there are no numbers.
    """

    loss: str
    layer: str
    kind: str
    output_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    rows_are: str
    compared: int
    output_low: float | None
    output_high: float | None
    target_low: float | None
    target_high: float | None


def judge_head(head: Head) -> Iterator[Verdict]:
    """What is wrong between the head and its loss; the first that explains the others."""
    for look in (_one_class, _softmax_twice, _sigmoid_twice, _raw_into_nll, _broadcast, _out_of_reach):
        verdict = look(head)
        if verdict is not None:
            yield verdict
            return


def _one_class(head: Head) -> Verdict | None:
    shape = head.output_shape
    always = head.kind == "Softmax" and head.output_low == head.output_high == 1
    if len(shape) < 2 or shape[1] != 1 or not (head.loss == "CrossEntropyLoss" or always):
        return None
    return _verdict(
        head,
        "error",
        f"a softmax over one output is always 1: {head.loss or 'the loss'} cannot teach it anything",
        "one output for a choice between two",
        ("use BCEWithLogitsLoss with one output", "or one output a class with CrossEntropyLoss"),
    )


def _softmax_twice(head: Head) -> Verdict | None:
    if head.loss != "CrossEntropyLoss" or head.rows_are != "probabilities":
        return None
    return _verdict(
        head,
        "warning",
        "the outputs are probabilities already, and CrossEntropyLoss takes their softmax once more",
        "a softmax before a loss that contains it: gradients are small, and the loss cannot come near 0",
        ("give CrossEntropyLoss the raw outputs (logits)", "apply softmax only to predict"),
    )


def _sigmoid_twice(head: Head) -> Verdict | None:
    inside = (
        head.output_low is not None and head.output_high is not None and head.output_low >= 0 and head.output_high <= 1
    )
    if head.loss != "BCEWithLogitsLoss" or head.kind not in ("Sigmoid", "Hardsigmoid") or not inside:
        return None
    return _verdict(
        head,
        "warning",
        "the outputs went through a sigmoid already, and BCEWithLogitsLoss takes it once more",
        "a sigmoid before a loss that contains it: probabilities stay between 0.5 and 0.73",
        ("give BCEWithLogitsLoss the raw outputs (logits)", "or use BCELoss"),
    )


def _raw_into_nll(head: Head) -> Verdict | None:
    if head.loss != "NLLLoss" or head.rows_are == "log-probabilities" or head.output_low is None:
        return None
    what = "probabilities" if head.rows_are == "probabilities" else "no log-probabilities"
    return _verdict(
        head,
        "warning",
        f"the outputs are {what}; NLLLoss takes log-probabilities, and has no lower bound for anything else",
        "log_softmax is missing before NLLLoss",
        ("put LogSoftmax behind the last layer", "or use CrossEntropyLoss with the raw outputs"),
    )


def _broadcast(head: Head) -> Verdict | None:
    if head.loss not in _REGRESSION or head.compared <= math.prod(head.output_shape):
        return None
    return _verdict(
        head,
        "warning",
        f"outputs of the shape {head.output_shape} and targets of {head.target_shape} are broadcast: every output is "
        "compared with every target",
        "shapes that differ are stretched to fit, silently",
        ("reshape the targets like the outputs, for example target.view_as(output)",),
    )


def _out_of_reach(head: Head) -> Verdict | None:
    ends = _REACH.get(head.kind)
    if ends is None or head.loss not in _REGRESSION or head.target_low is None or head.target_high is None:
        return None
    if ends[0] <= head.target_low and head.target_high <= ends[1]:
        return None
    return _verdict(
        head,
        "warning",
        f"targets lie between {short(head.target_low)} and {short(head.target_high)}, and {head.kind} gives "
        f"{short(ends[0])} to {short(ends[1])} only",
        "the activation of the output cannot reach the targets",
        ("use no activation at the output of a regression", "or scale the targets into its range"),
    )


def _verdict(head: Head, severity: Severity, message: str, cause: str, advice: tuple[str, ...]) -> Verdict:
    return Verdict(
        rule="poor-initialization",
        severity=severity,
        layer=head.layer,
        message=f"{head.layer or 'the output'}: {message}",
        evidence={
            "loss": head.loss,
            "output_shape": list(head.output_shape),
            "target_shape": list(head.target_shape),
            "output_low": head.output_low,
            "output_high": head.output_high,
            "target_low": head.target_low,
            "target_high": head.target_high,
            "healthy": "outputs of the kind and shape that the loss expects",
        },
        cause=cause,
        advice=advice,
        source=SOURCE,
    )
