"""Other tools' published rules, re-implemented and asked on the same runs.

Each sees what it asks for at every tenth step: inputs and outputs of activation modules, gradients of the weights,
weights before and after the update. That flatters all of them: SageMaker Debugger saves every 500th step by default,
DLCheck judges once an epoch; and none of them sees an activation that is called as a function. Thresholds are those
that the tools publish; where their words leave a choice, the docstring says what was chosen. A rule is told under the
nearest slug of ours, once for each layer.

Sources: SageMaker Debugger: AWS documentation, list of built-in rules; the others: their papers and repositories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cases.score import Said
from cases.truth import Layout

EVERY = 10
_ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid)


@dataclass(frozen=True, kw_only=True)
class View:
    """One recorded step. `inputs` and `outputs` of activation modules, units last; `first`: the model's input."""

    step: int
    kinds: Mapping[str, type[nn.Module]]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    first: Tensor | None
    gradients: Mapping[str, Tensor]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]


@dataclass
class Recorder:
    """Takes a View of every tenth step of a training; `begin`, forward and backward, `end`, update, `finish`."""

    model: nn.Module
    views: Callable[[View], None]
    _handles: list[torch.utils.hooks.RemovableHandle] = field(default_factory=list)
    _seen: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def begin(self, step: int, x: object) -> None:
        """Hook the activations, if this step is one to be seen."""
        self._seen = {"inputs": {}, "outputs": {}, "gradients": {}, "before": {}}
        self._first = x.detach().clone() if isinstance(x, Tensor) and x.is_floating_point() else None
        if step % EVERY:
            return
        layout = Layout()
        for name, module in self.model.named_modules():

            def note(module: nn.Module, given: tuple[Any, ...], out: Any, name: str = name) -> None:
                layout.see(module)
                if isinstance(module, _ACTIVATIONS):
                    for kind, x in (("inputs", given[0]), ("outputs", out)):
                        x = x.detach().float().clone()
                        self._seen[kind][name] = x.transpose(1, -1) if layout.of(x) else x

            self._handles.append(module.register_forward_hook(note))

    def end(self, step: int) -> None:
        """The gradients are complete."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if step % EVERY == 0:
            named = list(self.model.named_parameters())
            self._seen["gradients"] = {n: p.grad.detach().float().clone() for n, p in named if p.grad is not None}
            self._seen["before"] = {n: p.detach().float().clone() for n, p in named}

    def finish(self, step: int) -> None:
        """The weights have been updated."""
        if step % EVERY == 0:
            kinds = {n: type(m) for n, m in self.model.named_modules() if n in self._seen["inputs"]}
            after = {n: p.detach().float().clone() for n, p in self.model.named_parameters()}
            self.views(View(step=step, kinds=kinds, first=self._first, after=after, **self._seen))


class Tool:
    """The rules of one peer over the views of a run; keeps what they have said, once a rule and layer."""

    def __init__(self, rules: Callable[[View, dict[str, float]], Iterator[tuple[str, str]]]) -> None:
        self._rules, self._memory = rules, dict[str, float]()
        self._said: dict[tuple[str, str], int] = {}

    def see(self, view: View) -> None:
        """Judge one view."""
        for key in self._rules(view, self._memory):
            self._said.setdefault(key, view.step)

    @property
    def said(self) -> list[Said]:
        """What was said, and when first."""
        return [Said(rule, layer, step) for (rule, layer), step in self._said.items()]


def _units(x: Tensor) -> Tensor:
    """Samples and positions by units."""
    return x.flatten(0, -2) if x.ndim > 1 else x[:, None]


def _of(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _broken(view: View) -> Iterator[str]:
    """Layers with NaN or infinity."""
    for names in (view.outputs, view.gradients, view.after):
        for name, x in names.items():
            if not bool(x.isfinite().all()):
                yield name if names is view.outputs else _of(name)


def sagemaker(view: View, memory: dict[str, float]) -> Iterator[tuple[str, str]]:
    """SageMaker Debugger: DeadRelu, SaturatedActivation, VanishingGradient, ExplodingTensor, WeightUpdateRatio,
    UnchangedTensor, PoorWeightInitialization.

    A neuron is inactive if less than 1 % of a batch opens it; a layer is told from 50 % on. Saturated: a tanh input
    beyond +-9.4999, a sigmoid input outside [-23, 17]. Vanishing: mean |gradient| below 1e-7. Exploding: NaN or
    infinity. Update ratio: mean |change| over mean |weight| above 10 or below 1e-8. Unchanged: three views in a row
    within rtol 1e-5, atol 1e-8. Initialization: in the first 10 steps (here: views), variances of activation inputs
    that differ by more than a factor of 10 between layers, five times.
    """
    for name, z in view.inputs.items():
        kind = view.kinds[name]
        if kind is nn.ReLU and float(((_units(view.outputs[name]) > 0).float().mean(0) < 0.01).float().mean()) > 0.5:
            yield "dead-units", name
        ends = {nn.Tanh: (-9.4999, 9.4999), nn.Sigmoid: (-23.0, 16.99999)}.get(kind)
        if ends is not None:
            active = ((_units(z) > ends[0]) & (_units(z) < ends[1])).float().mean(0)
            if float((active < 0.01).float().mean()) > 0.5:
                yield "saturated-activation", name
    yield from (("vanishing-gradient", _of(n)) for n, g in view.gradients.items() if float(g.abs().mean()) < 1e-7)
    yield from (("non-finite", name) for name in _broken(view))
    for name, before in view.before.items():
        after = view.after[name]
        ratio = float((after - before).abs().mean() / (before.abs().mean() + 1e-9))
        if name in view.gradients and (ratio > 10 or ratio < 1e-8):
            yield ("oversized-update" if ratio > 10 else "stalled-update"), _of(name)
        same = name in view.gradients and torch.allclose(after, before, rtol=1e-5, atol=1e-8)
        memory[name] = memory.get(name, 0) + 1 if same else 0
        if memory[name] >= 3:
            yield "stalled-update", _of(name)
    if view.step < 10 * EVERY and len(view.inputs) > 1:
        spread = [float(z.var()) for z in view.inputs.values()]
        memory[""] = memory.get("", 0) + (max(spread) > 10 * min(spread))
        if memory[""] >= 5:
            yield "poor-initialization", ""


def dlcheck(view: View, memory: dict[str, float]) -> Iterator[tuple[str, str]]:
    """DLCheck, a Lightning callback: dead, saturated, vanishing, exploding, update ratio, input mean.

    Dead: more than 95 % of the elements of an nn.ReLU are 0. Saturated: mean |output| of a tanh or sigmoid above 0.95
    or below 0.05. Gradient norm below 1e-7 or above 1e6. log10 of the update ratio outside [-8, 1] (here the true
    update). Input mean above 10.
    """
    for name, out in view.outputs.items():
        if view.kinds[name] is nn.ReLU and float((out == 0).float().mean()) > 0.95:
            yield "dead-units", name
        if view.kinds[name] is not nn.ReLU and not 0.05 <= float(out.abs().mean()) <= 0.95:
            yield "saturated-activation", name
    for name, g in view.gradients.items():
        norm = float(g.norm())
        if norm < 1e-7:
            yield "vanishing-gradient", _of(name)
        if norm > 1e6:
            yield "exploding-gradient", _of(name)
        ratio = float((view.after[name] - view.before[name]).norm() / (view.before[name].norm() + 1e-12))
        if ratio > 10:
            yield "oversized-update", _of(name)
        if 0 < ratio < 1e-8:
            yield "stalled-update", _of(name)
    if view.first is not None and abs(float(view.first.mean())) > 10:
        yield "off-center", ""
    yield from (("non-finite", name) for name in _broken(view))


def deepdiagnosis(view: View, memory: dict[str, float]) -> Iterator[tuple[str, str]]:
    """DeepDiagnosis (ICSE 2022): dead node, saturated activation, vanishing and exploding gradient, tensor unchanged.

    Dead: 70 % or more of the outputs of a ReLU at or below 0, for five views in a row (its words say "over batches").
    Saturated: |input| above 5 for more than half of a tanh or sigmoid. Vanishing: mean |gradient| below 1e-7.
    Exploding: NaN or infinity. Unchanged: a weight that is the same for five views in a row.
    """
    for name, z in view.inputs.items():
        relu = view.kinds[name] is nn.ReLU
        dead = relu and float((view.outputs[name] <= 0).float().mean()) >= 0.7
        memory[name] = memory.get(name, 0) + 1 if dead else 0
        if memory[name] >= 5:
            yield "dead-units", name
        if not relu and float((z.abs() > 5).float().mean()) > 0.5:
            yield "saturated-activation", name
    yield from (("vanishing-gradient", _of(n)) for n, g in view.gradients.items() if float(g.abs().mean()) < 1e-7)
    yield from (("non-finite", name) for name in _broken(view))
    for name, before in view.before.items():
        same = name in view.gradients and bool(torch.equal(before, view.after[name]))
        memory[f"={name}"] = memory.get(f"={name}", 0) + 1 if same else 0
        if memory[f"={name}"] >= 5:
            yield "stalled-update", _of(name)


def thedeepchecker(view: View, memory: dict[str, float]) -> Iterator[tuple[str, str]]:
    """TheDeepChecker (TOSEM 2023): dead and saturated units, activations out of range, gradients, updates, weights.

    Dead: 95 % of a unit's |outputs| below 1e-5, for half of the units of a ReLU. Saturated: rho_B of a unit (mean over
    ten bins of |mean output|, by their counts; outputs scaled to [-1, 1]) above 0.85, for half of the units. Standard
    deviation of a ReLU's outputs outside [0.5, 2]. Mean |gradient| below 1e-6 or above 1e6, halved or doubled from view
    to view. log10 of the update ratio outside [-4, -1]. Weights of which 95 % are below 1e-5. What is not said to be
    immediate must hold for five views in a row. Its checks of the loss and of one overfitted batch are left out.
    """
    for name, out in view.outputs.items():
        units, relu = _units(out), view.kinds[name] is nn.ReLU
        dead = relu and float((units.abs().quantile(0.95, dim=0) < 1e-5).float().mean()) > 0.5
        scaled = 2 * units - 1 if view.kinds[name] is nn.Sigmoid else units
        flat = not relu and float((_rho(scaled) > 0.85).float().mean()) > 0.5
        spread = float(out.std())
        yield from _lasting(memory, name, ("dead-units", name), dead)
        yield from _lasting(memory, name, ("saturated-activation", name), flat)
        yield from _lasting(memory, name, ("exploding-activation", name), relu and spread > 2)
        yield from _lasting(memory, name, ("collapsed-activation", name), relu and spread < 0.5)
    for name, g in view.gradients.items():
        layer, size = _of(name), float(g.abs().mean())
        last = memory.get(f"size {name}")
        memory[f"size {name}"] = size
        yield from _lasting(
            memory, name, ("vanishing-gradient", layer), size < 1e-6 or (last is not None and size < last / 2)
        )
        yield from _lasting(
            memory, name, ("exploding-gradient", layer), size > 1e6 or (last is not None and size > last * 2)
        )
        ratio = float((view.after[name] - view.before[name]).norm() / (view.before[name].norm() + 1e-12))
        yield from _lasting(memory, name, ("oversized-update", layer), ratio > 0.1)
        yield from _lasting(memory, name, ("stalled-update", layer), ratio < 1e-4)
        yield from _lasting(
            memory,
            f"={name}",
            ("collapsed-activation", layer),
            float((view.after[name].abs() < 1e-5).float().mean()) > 0.95,
        )
    yield from (("non-finite", name) for name in _broken(view))


def _rho(units: Tensor) -> Tensor:
    """rho_B of each unit (Rakitianskaia & Engelbrecht 2015), of outputs in [-1, 1]."""
    bins = ((units + 1) * 5).long().clamp(0, 9)
    sums = torch.zeros(10, units.shape[1]).scatter_add_(0, bins, units)
    return sums.abs().sum(0) / len(units)


def _lasting(memory: dict[str, float], name: str, verdict: tuple[str, str], holds: bool) -> Iterator[tuple[str, str]]:
    """The verdict about a tensor, once it has held in five views in a row."""
    key = f"{verdict[0]} {name}"
    memory[key] = memory.get(key, 0) + 1 if holds else 0
    if memory[key] >= 5:
        yield verdict


PEERS = {
    "SageMaker Debugger": sagemaker,
    "DLCheck": dlcheck,
    "DeepDiagnosis": deepdiagnosis,
    "TheDeepChecker": thedeepchecker,
}
