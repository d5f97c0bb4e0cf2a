"""Facts of one batch that `actdiag.check` judges beyond those of a recorded step. Reading them synchronizes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

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
_ROUNDING = 8
"""Sums of probabilities are 1 to so many units in the last place of a short type, and to 1e-3 anyway."""

_KINDS = {
    "SoftmaxBackward0": "Softmax",
    "LogSoftmaxBackward0": "LogSoftmax",
    "SigmoidBackward0": "Sigmoid",
    "HardsigmoidBackward0": "Hardsigmoid",
    "TanhBackward0": "Tanh",
    "ReluBackward0": "ReLU",
    "SoftplusBackward0": "Softplus",
}
_SHAPES = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute", "Clone", "ToCopy")
_DEPTH = 16


class Outputs:
    """What each leaf module gave last, while hooked: which of them a tensor came from."""

    def __init__(self, named: Iterable[tuple[str, nn.Module]]) -> None:
        self._last: list[tuple[str, int]] = []
        self._handles = [m.register_forward_hook(self._noting(name)) for name, m in named if not any(m.children())]

    def _noting(self, name: str) -> Any:
        def note(module: nn.Module, given: Any, out: Any) -> None:
            if isinstance(out, Tensor) and out.numel():
                self._last.append((name, _place(out)))

        return note

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def layer_of(self, tensor: Any) -> str:
        """The module whose output this is, in another shape maybe; "" if something was computed after it."""
        if not isinstance(tensor, Tensor) or not tensor.numel():
            return ""
        return next((name for name, place in reversed(self._last) if place == _place(tensor)), "")


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def kind_of(tensor: Any) -> str:
    """The activation that a tensor came out of, by its place in the graph; "" for anything else."""
    node = getattr(tensor, "grad_fn", None)
    for _ in range(_DEPTH):
        if node is None:
            return ""
        name = node.name()
        if name.removesuffix("Backward0").removesuffix("Backward1") not in _SHAPES:
            return _KINDS.get(name, "")
        node = node.next_functions[0][0]
    return ""


class Judged(NamedTuple):
    """What a loss was given: its class ("" for a loss of another make), outputs and targets."""

    loss: str
    output: Any
    target: Any


class LossCalls(TorchFunctionMode):
    """Inside it, notes which losses of torch are called, by whatever of the user's: class, outputs and targets."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Judged] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note a call and make it."""
        given = kwargs or {}
        name = _FUNCTIONS.get(getattr(func, "__name__", ""), "")
        if name and getattr(func, "__module__", "") == "torch.nn.functional":
            output, target = (*args, None, None)[:2]
            self.seen.append(_in_order(name, given.get("input", output), given.get("target", target)))
        return func(*args, **given)


def _in_order(name: str, output: Any, target: Any) -> Judged:
    """A loss of two equals may be given its targets first: what has a gradient is the output."""
    swapped = getattr(target, "requires_grad", False) and not getattr(output, "requires_grad", True)
    return Judged(name, target, output) if swapped else Judged(name, output, target)


def call_loss(loss_fn: Any, output: Any, target: Any) -> tuple[Any, Judged]:
    """The loss, and what the one loss of torch in it was given; for any other, what this one was."""
    if hasattr(loss_fn, "_torchdynamo_orig_callable") or hasattr(loss_fn, "_orig_mod"):
        return loss_fn(output, target), Judged("", output, target)  # compiled code would be compiled anew for the mode
    with LossCalls() as calls:
        loss = loss_fn(output, target)
    return loss, calls.seen[0] if len(calls.seen) == 1 else Judged("", output, target)


def read_output(output: Any, target: Any) -> dict[str, Any]:
    """Shapes, ends and what the rows are; empty where the output is no floating-point tensor of a size."""
    if not isinstance(output, Tensor) or not output.is_floating_point() or not output.numel():
        return {}
    out = output.detach().float()
    facts: dict[str, Any] = {"output_shape": tuple(output.shape), "rows_are": _rows(out, torch.finfo(output.dtype).eps)}
    facts["output_low"], facts["output_high"] = _ends(out)
    given = isinstance(target, Tensor) and target.numel() > 0 and not target.is_complex()
    facts["target_shape"] = tuple(target.shape) if isinstance(target, Tensor) else ()
    facts["compared"] = _compared(facts["output_shape"], facts["target_shape"])
    facts["target_low"], facts["target_high"] = _ends(target.detach().float()) if given else (None, None)
    return facts


def _compared(output: tuple[int, ...], target: tuple[int, ...]) -> int:
    try:
        return math.prod(torch.broadcast_shapes(output, target))  # type: ignore[no-untyped-call]
    except RuntimeError:
        return 0


def _ends(x: Tensor) -> tuple[float | None, float | None]:
    low, high = x.aminmax()
    return (low.item(), high.item()) if low.isfinite() and high.isfinite() else (None, None)


def _rows(out: Tensor, eps: float) -> str:
    """Whether the classes, in dimension 1 (of one sample: 0), have probabilities or their logarithms."""
    dim = min(1, out.ndim - 1)
    if dim < 0 or out.shape[dim] < 2:
        return ""
    slack = max(1e-3, _ROUNDING * eps)
    if bool((out >= 0).all()) and bool(((out.sum(dim) - 1).abs() < slack).all()):
        return "probabilities"
    if bool((out <= 0).all()) and bool((out.logsumexp(dim).abs() < slack).all()):
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
