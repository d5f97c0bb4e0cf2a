"""no-gradient: trainable parameters that no gradient reaches, or no optimizer updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from actdiag.diagnose.finding import Severity, Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.reading import Why, in_order, module_of
from actdiag.diagnose.rules.unwired import ZERO_AT_LOSS, why_nothing_trains
from actdiag.snapshot import ParameterStats, Snapshot

SOURCE = "PyTorch autograd: a detached tensor passes no gradient; thresholds measured on healthy and faulty runs."
_TOLD_MODULES = 8

Course = Sequence[ParameterStats]
"""One parameter over the snapshots."""


class Wiring(NamedTuple):
    """Modules that execute, in order, by what became of their parameters so far. `rest` has not been executed."""

    trained: list[str]
    detached: list[str]
    forgotten: list[str]
    idle: list[str]
    executed: list[str]


def no_gradient(history: Sequence[Snapshot], limits: Limits) -> Iterator[Verdict]:
    """Trainable parameters that no gradient has reached so far, or that no optimizer holds.

    What: over 100 steps and three snapshots, from the first on, all parameters of an executed layer have had no
    gradient (or are not in the optimizer although they get one) and their norm has not moved, while others train.
    A warning, an error after six snapshots. If nothing trains at all (no gradient, or exactly 0 everywhere, or
    nothing in the optimizer) it is an error at once. Layers are told together, at the first of them.
    Why: these layers stay what they were at initialization; the others train on random features.
    Not a problem when: requires_grad is False (nothing is said); a layer did not run or its output is not used yet
    (idle experts, heads for later, stochastic depth: told as info); the optimizer holds only a new head or adapters
    (info); weights that others move (the second network of a GAN, an averaged teacher) or copies of trained ones
    (target networks); zero gradients at the start (zero-initialized branches, LoRA), biases before normalization.
    What to try: remove detach(), no_grad(), .data or .item() between these layers and the loss; pass
    model.parameters() to the optimizer after the model is complete; set requires_grad to False if it is meant.
    Source: PyTorch autograd semantics; healthy and faulty runs.
    """
    if len(history) < limits.unreached_snapshots or history[-1].step - history[0].step < limits.unreached_steps:
        return
    if all(p.state in ("trained", "frozen") for p in history[-1].parameters.values()):
        return  # as in most snapshots: nothing is unwired, and what came before need not be looked through
    courses = {name: _course(history, name) for name in history[-1].parameters}
    courses = {name: course for name, course in courses.items() if len(course) >= limits.unreached_snapshots}
    trainable = {name: course for name, course in courses.items() if course[-1].state != "frozen"}
    if trainable and not any(p.state == "trained" for course in trainable.values() for p in course):
        yield from _nothing_trains(history, trainable)
        return
    yield from _parts(_wiring(history[-1], courses), len(history), limits)


def _course(history: Sequence[Snapshot], name: str) -> Course:
    return [p for snapshot in history if (p := snapshot.parameters.get(name)) is not None]


def _stands_still(course: Course) -> bool:
    """Whether nobody has moved these weights: an optimizer that is not known to us, or an average, would."""
    norms = {p.weight_norm for p in course}
    return len(norms) == 1 and None not in norms and not any(p.update_ratio for p in course)


def _is_copy(name: str, courses: dict[str, Course]) -> bool:
    """Whether it began as a copy of another parameter, as target networks do."""
    norm = courses[name][0].weight_norm
    return bool(norm) and any(other != name and course[0].weight_norm == norm for other, course in courses.items())


def _nothing_trains(history: Sequence[Snapshot], trainable: dict[str, Course]) -> Iterator[Verdict]:
    states = {p.state for course in trainable.values() for p in course}
    if states != {"zero_grad"} and not all(_stands_still(course) for course in trainable.values()):
        return
    message, why = why_nothing_trains(history, states)
    severity: Severity = "warning" if why is ZERO_AT_LOSS else "error"
    yield _verdict(severity, "", message.format(n=len(trainable), steps=history[-1].step - history[0].step), why)


def _wiring(now: Snapshot, courses: dict[str, Course]) -> Wiring:
    own: dict[str, list[str]] = {}
    for name in courses:
        own.setdefault(_module(name), []).append(name)
    order = list(dict.fromkeys(module_of(name) for name, site in in_order(now) if site.n))
    executed = [module for module in order if module in own]
    trained = [m for m in executed if any(p.state == "trained" for name in own[m] for p in courses[name])]
    first = executed.index(trained[0]) if trained else len(executed)
    unwired = [m for m in own if all(_is_unwired(name, courses) for name in own[m])]
    detached = [m for m in executed[:first] if m in unwired and _all(own[m], courses, "no_grad")]
    outside = [m for m in executed[first:] if m in unwired and _all(own[m], courses, "not_in_optimizer")]
    forgotten = [m for m in outside if all(p.grad_norm for name in own[m] for p in courses[name])]
    told = {*detached, *forgotten}
    return Wiring(trained, detached, forgotten, [m for m in unwired if m not in told], executed)


def _module(parameter: str) -> str:
    """The module it is of; a parametrization (weight norm) belongs to the module that it is for."""
    owner, _, parametrized = parameter.partition(".parametrizations.")
    return owner if parametrized else parameter.rpartition(".")[0]


def _is_unwired(name: str, courses: dict[str, Course]) -> bool:
    course = courses[name]
    states = {p.state for p in course}
    return states <= {"no_grad", "not_in_optimizer"} and _stands_still(course) and not _is_copy(name, courses)


def _all(names: Sequence[str], courses: dict[str, Course], state: str) -> bool:
    return all(p.state == state for name in names for p in courses[name])


def _parts(wiring: Wiring, snapshots: int, limits: Limits) -> Iterator[Verdict]:
    severity: Severity = "error" if snapshots >= limits.unreached_error_snapshots else "warning"
    if wiring.detached:
        message = "no gradient reaches {}, although what follows is trained"
        yield _verdict(severity, wiring.detached[0], message.format(_listed(wiring.detached)), _DETACHED)
    forgotten = wiring.forgotten
    if forgotten and len(forgotten) <= limits.unreached_share * len(wiring.executed):
        message = "the optimizer does not hold {}, although layers before it are trained"
        yield _verdict("warning", forgotten[0], message.format(_listed(forgotten)), _FORGOTTEN)
    elif forgotten:
        yield _verdict("info", "", f"the optimizer does not hold {_listed(forgotten)}", _CHOSEN)
    elif wiring.idle:
        message = f"no gradient has come to {_listed(wiring.idle)} so far, or no optimizer holds it"
        yield _verdict("info", "", message, _IDLE)


def _listed(modules: Sequence[str]) -> str:
    names = ", ".join(modules[:_TOLD_MODULES])
    more = f" and {len(modules) - _TOLD_MODULES} more" if len(modules) > _TOLD_MODULES else ""
    return names + more if len(modules) == 1 else f"{len(modules)} layers ({names}{more})"


_DETACHED: Why = (
    "the graph is cut between these layers and the loss: detach(), no_grad(), .data, or a conversion to numbers",
    (
        "remove detach() and no_grad() from the forward, between these layers and the loss",
        "look for .item(), .numpy(), argmax or rounding on the way: they pass no gradient",
        "set requires_grad to False and leave them out of the optimizer if they are meant to stay as they are",
    ),
)
_FORGOTTEN: Why = (
    "the optimizer was made before this part of the model was added or replaced, or was given other parameters",
    (
        "put all parameters into the optimizer: model.parameters(), after the model is complete",
        "set requires_grad to False if these layers are meant to stay as they are",
    ),
)
_CHOSEN: Why = (
    "the optimizer was given a part of the model",
    ("leave it as it is if that was meant, with requires_grad False to save the backward",),
)
_IDLE: Why = (
    "it did not run (or only under no_grad), its output is not part of the loss, or the optimizer was not given it",
    (
        "leave it as it is if it is for later or used only sometimes",
        "remove it, or set requires_grad to False, if it is not used",
        "check that the loss depends on it",
    ),
)


def _verdict(severity: Severity, layer: str, message: str, why: Why) -> Verdict:
    return Verdict(
        rule="no-gradient",
        severity=severity,
        layer=layer,
        message=f"{layer}: {message}" if layer else message,
        evidence={"healthy": "a gradient in every step in which a layer is used"},
        cause=why[0],
        advice=why[1],
        source=SOURCE,
    )
