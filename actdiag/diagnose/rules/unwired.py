"""Why nothing trains at all: the causes that no-gradient can tell."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from actdiag.diagnose.rules.reading import Why, in_order
from actdiag.snapshot import Snapshot


def why_nothing_trains(history: Sequence[Snapshot], states: AbstractSet[str]) -> tuple[str, Why]:
    """A message with places for `n` parameters and `steps`, and the likeliest cause."""
    if "not_in_optimizer" in states:
        return "the optimizer holds none of the {n} trainable parameters: none has moved in {steps} steps", _OTHER_MODEL
    if states <= {"frozen", "zero_grad"}:
        message = "no gradient but exactly 0 has come to any of the {n} parameters in {steps} steps"
        return message, ZERO_AT_LOSS if _is_zero_at_the_end(history[-1]) else _BLOCKED
    erased = any(site.grad_rms for snapshot in history for site in snapshot.sites.values())
    message = "no gradient is left for the optimizer in any of the {n} trainable parameters, for {steps} steps"
    return message, _ERASED if erased else _NO_BACKWARD


def _is_zero_at_the_end(now: Snapshot) -> bool:
    known = [site.grad_rms for _, site in in_order(now) if site.grad_rms is not None]
    return bool(known) and known[-1] == 0


_OTHER_MODEL: Why = (
    "the optimizer was made for other parameters: the model was rebuilt, converted or wrapped after it",
    (
        "put all parameters into the optimizer: model.parameters(), after the model is complete",
        "look whether the model that runs is the one the optimizer was made for",
    ),
)
_ERASED: Why = (
    "a backward computes gradients, but they are erased before the step",
    ("put zero_grad() before the backward, not between backward and step",),
)
_NO_BACKWARD: Why = (
    "no backward reaches the parameters before the step",
    ("check that loss.backward() is called, and that the loss comes from this model",),
)
ZERO_AT_LOSS: Why = (
    "the loss itself has no gradient: it is constant, all targets are masked, or its gradient underflows",
    (
        "look at the loss: that it depends on the output, and that not all targets are masked or ignored",
        "use a loss scaler or bf16 if this is fp16",
    ),
)
_BLOCKED: Why = (
    "the output lets no gradient through: a closed activation, a softmax over one unit, or rounding",
    ("return the scores without an activation", "standardize the targets and inputs", "lower the learning rate"),
)
