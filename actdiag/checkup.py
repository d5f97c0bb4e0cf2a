"""`actdiag.check`: one forward and backward before any training, and what is wrong already.

Not named `check`, which is the function: a module of that name in the package would take its place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from actdiag.collect.head import call_loss, has_gradient, read_output, twin_layers
from actdiag.collect.parameters import ids_of
from actdiag.collect.unchanged import unchanged
from actdiag.config import ConfigError, build_options
from actdiag.diagnose.finding import SEVERITIES, Finding, Verdict
from actdiag.diagnose.rules.head import Head, judge_head
from actdiag.session import Session
from actdiag.snapshot import Snapshot

_OWN = (
    "log_every_n_steps",
    "max_overhead",
    "distributed",
    "prefix",
    "start_step",
    "end_step",
    "raise_on",
    "stop_on",
    "on_finding",
)
_SOURCE = "The chain rule: what receives no gradient, or the same as its neighbours, is not taught anything of its own."


def check(
    model: nn.Module,
    batch: Sequence[Any],
    loss_fn: Callable[[Any, Any], Tensor],
    *,
    optimizer: Optimizer | None = None,
    **options: Any,
) -> list[Finding]:
    """Run one batch forward and backward, and tell what training would suffer from: the findings, worst first.

    `batch` is (inputs, target). The model is called as training does: `model(inputs)`, or `model(*inputs)` for a
    tuple or list, `model(**inputs)` for a mapping; then `loss_fn(output, target)`, which must give a single number.
    With an `optimizer` it is also asked which parameters it does not hold. `options` are those of `Monitor` that say
    what to observe and what to ignore. A model in training mode is run as it is, so that frozen parts stay in theirs;
    another is put into it meanwhile.

    What it looks at: the signal and the gradient through the depth, flat ends and closed gates (poor-initialization);
    uncentered inputs; NaN; layers whose units all have the same weights; parameters that no gradient reaches; and
    whether the head's activation, shape and range fit the loss.

    The loss is recognized where it is one of torch's, also called inside a function of yours; of any other, and of
    several in one, nothing is said of how the head fits.

    It leaves everything as it was, also when the model or the loss raises: weights, gradients, buffers, attributes of
    modules, training flags, hooks, random numbers of torch, Python and NumPy; not what a forward changes inside lists
    and objects of yours. It synchronizes with the device; it is not collective. Raises ConfigError for arguments that
    cannot work, and passes on what the model and the loss raise.
    """
    inputs, target = _parts(batch)
    for name in options:
        if name in _OWN:
            raise ConfigError(f"{name} cannot be given to check, which records a single step; leave it out")
    checked = build_options({**options, "max_overhead": None, "distributed": "off", "prefix": "check"})
    _check_parameters(model)
    with unchanged([model, loss_fn] if isinstance(loss_fn, nn.Module) else [model]):
        session = Session(model, checked, speaks=False)
        try:
            judged, snapshot = _one_step(session, model, (inputs, target), loss_fn)
            verdicts = [*_wiring(model, optimizer), *_twins(model), *_head(snapshot, judged)]
        finally:
            session.close()
    ledger = session.ledger
    told = [*ledger.findings, *(_finding(kept) for v in verdicts if (kept := ledger.terms.apply(v)) is not None)]
    return sorted(told, key=lambda finding: -SEVERITIES.index(finding.severity))


def _check_parameters(model: nn.Module) -> None:
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ConfigError("model has lazy parameters without a shape; run one forward before check")
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError("model has no parameter that requires a gradient; unfreeze what is to be trained")


def _parts(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ConfigError(f"batch must be (inputs, target), a pair; got {type(batch).__name__:.40}")
    return batch[0], batch[1]


def _one_step(
    session: Session, model: nn.Module, batch: tuple[Any, Any], loss_fn: Callable[[Any, Any], Tensor]
) -> tuple[tuple[str, Any, Any], Snapshot | None]:
    """Class of the loss, outputs and targets that it was given; and what the step has shown."""
    if not model.training:
        model.train()
    session.begin_step(0)
    with torch.enable_grad():
        loss, judged = call_loss(loss_fn, _call(model, batch[0]), batch[1])
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ConfigError(f"loss_fn must give a single number, got {shape}; reduce it with mean() or sum()")
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    session.before_update((), None)
    return judged, session.end_step(0)


def _call(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def _wiring(model: nn.Module, optimizer: Optimizer | None) -> Iterator[Verdict]:
    """Modules whose parameters no gradient reaches, and parameters that the optimizer does not hold."""
    held = None if optimizer is None else ids_of([optimizer])
    if all(p.grad is None for p in model.parameters()):
        yield _no_gradient("", "the loss is connected with none of its parameters", _UNREACHED)
        return
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        if all(p.grad is None for p in own):
            yield _no_gradient(name, "no gradient of the loss reaches it in this batch", _UNREACHED)
        elif held is not None and (left := [p for p in own if id(p) not in held]):
            parts = "" if len(left) == len(own) else _named(module, left) + " of "
            yield _no_gradient(
                name, f"the optimizer does not hold {parts}its parameters: they will not change", _UNHELD
            )


def _named(module: nn.Module, parameters: Sequence[nn.Parameter]) -> str:
    ids = {id(p) for p in parameters}
    return ", ".join(name for name, p in module.named_parameters(recurse=False) if id(p) in ids)


_UNREACHED = (
    "it is not used, or its output is detached, rounded or turned into numbers on the way to the loss",
    ("look for detach(), no_grad(), argmax, .item() or NumPy between it and the loss", "remove it if it is not used"),
)
_UNHELD = (
    "the optimizer was made before the layer, or with a part of the parameters",
    ("make the optimizer from model.parameters() after the model is complete", "freeze it if that is meant"),
)


def _no_gradient(name: str, message: str, why: tuple[str, tuple[str, ...]]) -> Verdict:
    return Verdict(
        rule="no-gradient", severity="warning", layer=name, message=f"{name or 'the model'}: {message}",
        evidence={"healthy": "every trainable parameter has a gradient and an optimizer"},
        cause=why[0], advice=why[1], source=_SOURCE,
    )  # fmt: skip


def _twins(model: nn.Module) -> Iterator[Verdict]:
    modules = dict(model.named_modules())
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


def _head(snapshot: Snapshot | None, judged: tuple[str, Any, Any]) -> Iterator[Verdict]:
    loss, output, target = judged
    facts = read_output(output, target)
    if facts:
        layer, kind = _last(snapshot)
        yield from judge_head(Head(loss=loss, layer=layer, kind=kind, **facts))


def _last(snapshot: Snapshot | None) -> tuple[str, str]:
    sites = [] if snapshot is None else sorted(snapshot.sites.items(), key=lambda item: item[1].order)
    return (sites[-1][0], sites[-1][1].kind) if sites else ("", "")


def _finding(verdict: Verdict) -> Finding:
    values = {name: copy.copy(getattr(verdict, name)) for name in Verdict.__dataclass_fields__}
    return Finding(step=0, **values)
