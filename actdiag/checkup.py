"""`actdiag.check`: one forward and backward before any training, and what is wrong already.

Not named `check`, which is the function: a module of that name in the package would take its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from actdiag.claims import MODELS
from actdiag.collect.head import Judged, Outputs, call_loss, has_gradient, kind_of, read_output, twin_layers
from actdiag.collect.parameters import ids_of
from actdiag.collect.sites import named_modules
from actdiag.collect.unchanged import modules_in, tensors_in, unchanged
from actdiag.config import ConfigError, build_options
from actdiag.diagnose.finding import SEVERITIES, Finding, Verdict, finding_of
from actdiag.diagnose.rules.head import Head, judge_head
from actdiag.session import Session

_OWN = (
    "log_every_n_steps",
    "watch_every_n_steps",
    "attentive",
    "max_overhead",
    "merge_timeout_s",
    "detail",
    "distributed",
    "prefix",
    "start_step",
    "end_step",
    "raise_on",
    "stop_on",
    "on_finding",
)
_Why = tuple[str, tuple[str, ...]]
"""Cause and advice."""
_SOURCE = "The chain rule: what receives no gradient, or the same as its neighbours, is not taught anything of its own."


def check(
    model: nn.Module,
    batch: Sequence[Any],
    loss_fn: Callable[[Any, Any], Tensor],
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    **options: Any,
) -> list[Finding]:
    """Run one batch forward and backward, and tell what training would suffer from: the findings, worst first.

    `batch` is (inputs, target). The model is called as training does: `model(inputs)`, or `model(*inputs)` for a
    tuple or list, `model(**inputs)` for a mapping; then `loss_fn(output, target)`, which must give a single number.
    With an `optimizer` (or several) it is also asked which parameters none holds. `options` are those of `Monitor` that
    say what to observe and what to ignore. A model in training mode is run as it is, so that frozen parts stay in
    theirs; another is put into it meanwhile.

    What it looks at: the signal and the gradient through the depth, flat ends and closed gates (poor-initialization);
    uncentered inputs; NaN; layers whose units all have the same weights; parameters that no gradient reaches; and
    whether the head's activation, shape and range fit the loss.

    The loss is recognized where it is one of torch's, also called inside a function of yours; of any other, and of
    several in one, nothing is said of how the head fits.

    It leaves the model and modules of the loss as they were, also when one of them raises: weights, gradients, buffers,
    attributes, training flags, hooks; and random numbers of torch, Python and NumPy. Not what a forward changes inside
    lists and objects of yours. Monitors of the process pause meanwhile, and optimizers that run inside the backward. It
    costs a copy of the weights, synchronizes with the device, and is not collective. Raises ConfigError for arguments
    that cannot work, and passes on what the model and the loss raise.
    """
    batch = _parts(batch)
    for name in options:
        if name in _OWN:
            raise ConfigError(f"{name} cannot be given to check, which records a single step; leave it out")
    checked = build_options({**options, "max_overhead": None, "distributed": "off"})
    optimizers = _optimizers(optimizer)
    _check_arguments(model, loss_fn)
    with unchanged([model, *modules_in(loss_fn)], tensors_in(batch)), _paused():
        session = Session(model, checked, guest=True)
        try:
            loss, head = _one_step(session, model, batch, loss_fn)
            verdicts = [*_wiring(model, optimizers), *_twins(model), *_head(loss.given, head)]
            if not loss.finite and not any(f.rule == "non-finite" for f in session.ledger.findings):
                verdicts.append(_loss_not_finite())
        finally:
            session.close()
    ledger = session.ledger
    told = [*ledger.findings, *(finding_of(kept, 0) for v in verdicts if (kept := ledger.terms.apply(v)) is not None)]
    return sorted(told, key=lambda finding: -SEVERITIES.index(finding.severity))


@contextmanager
def _paused() -> Iterator[None]:
    """No monitor of the process sees what is run inside."""
    paused = [session for session in MODELS.all_of(Session) if session.pause()]
    try:
        yield
    finally:
        for session in paused:
            session.resume()


def _check_arguments(model: Any, loss_fn: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model must be an nn.Module, got {type(model).__name__}; check several one after the other")
    if not callable(loss_fn):
        raise ConfigError(f"loss_fn must be a function of output and target, got {type(loss_fn).__name__}")
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ConfigError("model has lazy parameters without a shape; run one forward before check")
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("model has no parameter that requires a gradient; unfreeze what is to be trained")


def _optimizers(given: Any) -> list[Optimizer]:
    several = [] if given is None else list(given) if isinstance(given, (tuple, list)) else [given]
    for one in several:
        if not isinstance(one, Optimizer):
            raise ConfigError(f"optimizer must be a torch.optim.Optimizer or a list of them, got {type(one).__name__}")
    return several


def _parts(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ConfigError(f"batch must be (inputs, target), a pair; got {type(batch).__name__:.40}")
    return batch[0], batch[1]


class _Loss(NamedTuple):
    """What the loss was given, and whether it is a number."""

    given: Judged
    finite: bool


def _one_step(
    session: Session, model: nn.Module, batch: tuple[Any, Any], loss_fn: Callable[[Any, Any], Tensor]
) -> tuple[_Loss, tuple[str, str]]:
    """The loss; and the layer and the activation that the outputs came from."""
    if not model.training:
        model.train()
    session.begin_step(0)
    compiled = any(hasattr(module, "_orig_mod") for module in model.modules())  # whose hooks would be compiled too
    outputs = Outputs([] if compiled else named_modules({"": model}))
    try:
        with torch.enable_grad():
            loss, given = call_loss(loss_fn, _call(model, batch[0]), batch[1])
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise ConfigError(f"loss_fn must give a single number, got {shape}; reduce it with mean() or sum()")
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
    finally:
        outputs.close()
    session.before_update((), None)
    session.end_step(0)
    session.finish()
    head = outputs.layer_of(given.output), kind_of(given.output)
    return _Loss(given, bool(torch.isfinite(loss.detach()).all())), head


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def _wiring(model: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[Verdict]:
    """Parameters that no gradient reaches, or that no optimizer holds, by module."""
    if all(p.grad is None for p in model.parameters()):
        yield _no_gradient("", "the model: the loss is connected with none of its parameters", _UNREACHED)
        return
    held = ids_of(optimizers)
    for name, module in named_modules({"": model}):
        own = {n: p for n, p in module.named_parameters(recurse=False) if p.requires_grad}
        unreached = [n for n, p in own.items() if p.grad is None]
        unheld = [n for n, p in own.items() if id(p) not in held] if optimizers else []
        if unreached:
            yield _lost(name, unreached, own, "no gradient of the loss reaches {} in this batch", _UNREACHED)
        elif unheld:
            yield _lost(name, unheld, own, "no optimizer holds {}: nothing will change there", _UNHELD)


def _lost(module: str, lost: Sequence[str], own: Mapping[str, Any], what: str, why: _Why) -> Verdict:
    """Told of a module; of the root, which is the whole model, by its parameters."""
    names = ", ".join(lost)
    if not module:
        return _no_gradient(lost[0], f"{names}: {what.format('it' if len(lost) == 1 else 'them')}", why)
    return _no_gradient(module, f"{module}: {what.format('it' if len(lost) == len(own) else 'its ' + names)}", why)


_UNREACHED = (
    "it is not used, or its output is detached, rounded or turned into numbers on the way to the loss",
    ("look for detach(), no_grad(), argmax, .item() or NumPy between it and the loss", "remove it if it is not used"),
)
_UNHELD = (
    "the optimizer was made before the layer, or with a part of the parameters",
    ("make the optimizer from model.parameters() after the model is complete", "freeze it if that is meant"),
)


def _no_gradient(name: str, message: str, why: _Why) -> Verdict:
    return Verdict(
        rule="no-gradient", severity="warning", layer=name, message=message,
        evidence={"healthy": "every trainable parameter has a gradient and an optimizer"},
        cause=why[0], advice=why[1], source=_SOURCE,
    )  # fmt: skip


def _twins(model: nn.Module) -> Iterator[Verdict]:
    modules = dict(named_modules({"": model}))
    for name, units in twin_layers(modules.items()):
        if has_gradient(modules[name]):
            yield Verdict(
                rule="poor-initialization", severity="error", layer=name,
                message=f"{name}: all {units} units have the same weights and the same gradient, and will for ever",
                evidence={"twin_units": units, "units": units, "healthy": "units that differ"},
                cause="weights initialized with a constant: nothing breaks the symmetry",
                advice=("initialize weights at random (He for ReLU, Xavier for tanh), only biases with 0",),
                source="Goodfellow et al. 2016, Deep Learning, section 8.4",
            )  # fmt: skip


def _head(given: Judged, head: tuple[str, str]) -> Iterator[Verdict]:
    facts = read_output(given.output, given.target)
    if facts:
        yield from judge_head(Head(loss=given.loss, layer=head[0], kind=head[1], **facts))


def _loss_not_finite() -> Verdict:
    return Verdict(
        rule="non-finite", severity="error", layer="", message="the loss is no finite number, though the outputs are",
        evidence={"healthy": "a finite loss"}, cause="targets or outputs out of range: a logarithm of 0, an overflow",
        advice=("look at the targets of this batch", "scale the targets", "add an epsilon in the logarithm or root"),
        source="IEEE 754: what is computed from NaN or infinity is lost",
    )  # fmt: skip
