"""Facts of one batch that `actdiag.check` judges beyond those of a recorded step. Reading them synchronizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_FUNCTIONS = {
    "cross_entropy": "CrossEntropyLoss",
    "nll_loss": "NLLLoss",
    "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
    "binary_cross_entropy": "BCELoss",
    "mse_loss": "MSELoss",
    "l1_loss": "L1Loss",
    "smooth_l1_loss": "SmoothL1Loss",
    "huber_loss": "HuberLoss",
}
_SUM_TOLERANCE = 1e-3


class LossCalls(TorchFunctionMode):
    """Inside it, notes which losses of torch are called, by whatever of the user's: class, outputs and targets."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Any, Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note a call and make it."""
        given = kwargs or {}
        name = _FUNCTIONS.get(getattr(func, "__name__", ""), "")
        if name and getattr(func, "__module__", "") == "torch.nn.functional":
            output, target = (*args, None, None)[:2]
            self.seen.append((name, given.get("input", output), given.get("target", target)))
        return func(*args, **given)


def call_loss(loss_fn: Any, output: Any, target: Any) -> tuple[Any, tuple[str, Any, Any]]:
    """The loss; and class, outputs and targets of the one loss of torch in it, for any other "" and what was given."""
    if hasattr(loss_fn, "_torchdynamo_orig_callable") or hasattr(loss_fn, "_orig_mod"):
        return loss_fn(output, target), ("", output, target)  # a compiled function would be compiled anew for the mode
    with LossCalls() as calls:
        loss = loss_fn(output, target)
    return loss, calls.seen[0] if len(calls.seen) == 1 else ("", output, target)


def read_output(output: Any, target: Any) -> dict[str, Any]:
    """Shapes, ends and what the rows are; empty where the output is no floating-point tensor of a size."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or not output.numel():
        return {}
    out = output.detach().float()
    facts: dict[str, Any] = {"output_shape": tuple(output.shape), "rows_are": _rows(out)}
    facts["output_low"], facts["output_high"] = _ends(out)
    given = isinstance(target, Tensor) and target.numel() > 0 and not target.is_complex()
    facts["target_shape"] = tuple(target.shape) if isinstance(target, Tensor) else ()
    facts["target_low"], facts["target_high"] = _ends(target.detach().float()) if given else (None, None)
    return facts


def _ends(x: Tensor) -> tuple[float | None, float | None]:
    low, high = x.aminmax()
    return (low.item(), high.item()) if low.isfinite() and high.isfinite() else (None, None)


def _rows(out: Tensor) -> str:
    """Whether the classes, in dimension 1, have probabilities or their logarithms."""
    if out.ndim < 2 or out.shape[1] < 2:
        return ""
    if bool((out >= 0).all()) and bool(((out.sum(1) - 1).abs() < _SUM_TOLERANCE).all()):
        return "probabilities"
    if bool((out <= 0).all()) and bool((out.logsumexp(1).abs() < _SUM_TOLERANCE).all()):
        return "log-probabilities"
    return ""


def twin_layers(modules: Iterable[tuple[str, nn.Module]]) -> list[tuple[str, int]]:
    """Layers all of whose units have the same weights and the same gradient, with their number: they stay the same."""
    found = []
    for name, module in modules:
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim < 2 or weight.grad is None or len(weight) < 2:
            continue
        if not isinstance(module, nn.Embedding) and _alike(weight.detach()) and _alike(weight.grad):
            found.append((name, len(weight)))
    return found


def _alike(rows: Tensor) -> bool:
    """Whether all rows are the same, to rounding."""
    if rows.is_sparse:
        return False
    size = rows.abs().max()
    return bool(torch.isfinite(size)) and bool((rows - rows[:1]).abs().max() <= 1e-6 * size)


def has_gradient(module: nn.Module) -> bool:
    """Whether any gradient of a module's own parameters is other than 0."""
    return any(
        p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters(recurse=False) if p.numel()
    )
