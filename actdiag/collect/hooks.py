"""What is done with a call of one module. It reduces at once, keeps no tensor, returns None and never raises.

What is right here was measured: an in-place activation overwrites its input, so what needs the input reads it
in a pre-hook; the gradient hook of a view that is later changed in place silently never fires, so it goes on
the view's base; the gradient hook must not close over its own tensor, or it leaks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.layout import arrange, default_unit_dim, first_tensor, refusal, unit_dim_of
from actdiag.collect.parallel import TensorParallel
from actdiag.collect.scope import untraceable
from actdiag.collect.site import Site
from actdiag.collect.sites import Target
from actdiag.collect.spread import local
from actdiag.snapshot import Role

WITHOUT_GRADIENTS = "it ran without gradients"
NO_PLACE = "which part of a layer this rank has of it cannot be told"


class Recorder(Protocol):
    """What a hook needs of the collector."""

    recording: bool
    single: bool
    step: int
    histograms: bool
    gradients: bool
    parallel: TensorParallel | None
    on_gradient: Callable[[], None] | None

    def site(self, key: str, index: int, *, kind: str, role: Role, facts: ActivationFacts | None) -> Site: ...
    def next_call(self, key: str, traced: int | None = None) -> int: ...
    def wants(self, name: str) -> bool: ...
    def unit_dim(self, key: str, module: nn.Module | None, x: Tensor) -> int: ...
    def prefix(self, name: str) -> str: ...
    def input_of(self, target: Target) -> bool: ...
    def fail(self, name: str, error: Exception) -> None: ...
    def generation(self) -> int: ...
    def note_output(self, out: Tensor, site: Site) -> None: ...


def in_backward() -> bool:
    """Whether autograd is running on this thread: a forward seen then is a checkpoint's recomputation."""
    return bool(torch._C._current_graph_task_id() != -1)


class Probe:
    """Observes the calls of one module; the hooks of `traced` tell it of them."""

    def __init__(self, target: Target, recorder: Recorder) -> None:
        self.target = target
        self._recorder = recorder
        self._on = True
        self._early: Site | None = None
        self.gradients = recorder.gradients
        module, facts = target.module(), target.facts
        self.reads_early = facts is not None and facts.reads == "input" and bool(getattr(module, "inplace", False))
        """Whether the gate's input is gone after the forward: the activation overwrites it."""

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Forward pre-hook of an in-place activation whose gate needs the input."""
        self.guard(self._find_early, module, (args, kwargs))

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Forward hook."""
        self.guard(self._find, module, (args, kwargs), output)

    def guard(self, work: Callable[..., None], *args: Any) -> None:
        """Do a piece of work; on an exception switch this probe off."""
        if not self._on or untraceable():
            return
        try:
            # Under a function mode, ours or the user's, every attribute of a tensor is a call of it.
            with torch._C.DisableTorchFunction():
                work(*args)
        except Exception as error:
            self._on = False
            self._recorder.fail(self.target.name, error)

    def _site(self, call: int | None) -> Site:
        t = self.target
        index = self._recorder.next_call(t.name, call)
        site = self._recorder.site(t.name, index, kind=t.kind, role=t.role, facts=t.facts)
        site.traced = call is not None
        return site

    def _find_early(self, module: nn.Module, given: Any) -> None:
        self._early = None
        if self.wanted():
            self.see_early(module, first_tensor(given))

    def see_early(self, module: nn.Module, x: Tensor | None, call: int | None = None) -> None:
        """Observe the input of an in-place activation. `call`: its number in the code that was traced."""
        self._early = self._site(call)
        x = own(x, self._recorder)
        if x is not None and refusal(x) is None and counts(self._early, self._recorder):
            read_gate(self._early, self._recorder, x, self._recorder.unit_dim(self.target.name, module, x))

    def _find(self, module: nn.Module, given: Any, output: Any) -> None:
        if self.wanted():
            facts = self.target.facts
            reads = self._recorder.recording or (facts is not None and facts.reads == "input")
            self.see(module, first_tensor(given) if reads else None, first_tensor(output))

    def wanted(self) -> bool:
        """Whether a call that happens now is to be observed; a watched step asks only for what can die."""
        recorder, facts = self._recorder, self.target.facts
        if not recorder.recording and not (facts is not None and facts.can_close):
            return False
        return recorder.wants(self.target.name)

    def touch(self, call: int) -> None:
        """A call without gradients: it may be the first pass of a checkpoint, which says what comes after what."""
        if self.wanted():
            self._site(call).refused = WITHOUT_GRADIENTS
            self._recorder.input_of(self.target)

    def generation(self) -> int:
        """The armed step that is running."""
        return self._recorder.generation()

    def see(self, module: nn.Module, x: Tensor | None, out: Tensor | None, call: int | None = None) -> Site | None:
        """Observe one call; its site, if the call counts.

        `call`: its number in the code that was traced by torch.compile, None for an eager call.
        """
        site, self._early = self._early or self._site(call), None
        counted = counts(site, self._recorder)
        observe(site, self._recorder, out, module=module, given=x)
        if self._recorder.recording and self._recorder.input_of(self.target) and x is not None:
            self._observe_input(module, x, site)
        return site if counted else None

    def see_gradient(self, site: Site, g: Tensor) -> None:
        """Add the gradient of one call of compiled code."""
        see_gradient(site, self._recorder, g)

    def _observe_input(self, module: nn.Module, given: Tensor, of: Site) -> None:
        x = own(given, self._recorder)
        if x is None or refusal(x) is not None:
            return
        key = f"{self.target.name}:in"
        site = self._recorder.site(key, 0, kind=self.target.kind, role="input", facts=None)
        site.traced = of.traced
        if counts(site, self._recorder):
            dim = unit_dim_of(module, x)
            if self._recorder.parallel is not None:
                site.place = self._recorder.parallel.locate_input(given)
            units = arrange(x.detach(), default_unit_dim(x) if dim is None else dim)
            site.add_forward(units, histogram=self._recorder.histograms)
            site.forward_calls += not in_backward()


def see_gradient(site: Site, recorder: Recorder, g: Tensor) -> None:
    """Add the gradient of one call; of a step with several evaluations only the first."""
    if recorder.on_gradient is not None:
        recorder.on_gradient()
    repeated = recorder.single and site.gradient_calls > 0
    if recorder.parallel is not None:
        g = recorder.parallel.whole_sum(g)
    if recorder.recording and recorder.gradients and not repeated and refusal(g) is None:
        site.add_gradient(g, histogram=recorder.histograms)


def counts(site: Site, recorder: Recorder) -> bool:
    """Whether this call is a forward of its own, not a checkpoint's second pass over one already counted.

    Non-reentrant checkpointing runs with gradients on in both passes; the first is counted. Reentrant
    checkpointing runs its first pass without gradients (not counted, as any pass without gradients), so its
    recomputation, inside backward, is the one that is counted. An optimizer that evaluates a closure several
    times a step (LBFGS) is counted once, at its first evaluation (`recorder.single`).
    """
    if recorder.single and site.forward_calls > 0:
        return False
    # Compiled code runs inside an autograd function, where gradients are off; its tracing has asked for them.
    return (site.traced or torch.is_grad_enabled()) and not (site.forward_calls > 0 and in_backward())


def observe(
    site: Site, recorder: Recorder, out: Tensor | None, *, module: nn.Module | None, given: Tensor | None
) -> None:
    """Add one call's output to a site, and its gate and evidence from what its facts read. `given`: its input."""
    mine = own(out, recorder)
    reason = "no tensor in its output" if mine is None else refusal(mine)
    if out is None or mine is None or reason is not None:
        site.refused = reason
        return
    counted = counts(site, recorder)
    if counted:
        dim = recorder.unit_dim(site.name.partition("#")[0], module, mine)
        source = _source(site, recorder, module, given, mine)
        if recorder.recording:
            recorder.note_output(out, site)
            if recorder.parallel is not None:
                site.place = recorder.parallel.locate(module, given, out, dim)
            if not _add_output(site, recorder, mine, dim, read=source is mine):
                return
        if source is not None and (source is not mine or not recorder.recording):
            read_gate(site, recorder, source, dim)
        site.forward_calls += not in_backward()
    elif not site.traced and not torch.is_grad_enabled():
        site.refused = WITHOUT_GRADIENTS
    if recorder.single and not counted:
        return
    if recorder.recording and recorder.gradients and out.requires_grad and out.grad_fn is not None:
        catch_gradient(out, site, recorder, owned=_has_parameters(module))


def _add_output(site: Site, recorder: Recorder, mine: Tensor, dim: int, *, read: bool) -> bool:
    """Whether it could be added. `read`: the facts read the output itself, which is gone through once."""
    if recorder.parallel is not None and site.place is None:
        site.refused = NO_PLACE
        return False
    units = arrange(mine.detach(), dim)
    return site.add_forward(units, histogram=recorder.histograms, read=recorder.step if read else None)


def _source(
    site: Site, recorder: Recorder, module: nn.Module | None, given: Tensor | None, mine: Tensor
) -> Tensor | None:
    """What the facts of an activation read, if it is still there: an activation in place has overwritten its input."""
    if site.facts is None or site.facts.reads != "input":
        return mine
    read = None if getattr(module, "inplace", False) else own(given, recorder)
    return read if read is not None and refusal(read) is None else None


def _has_parameters(module: nn.Module | None) -> bool:
    # `module.parameters()` goes by way of `named_modules`, which costs more than the rest of the hook's own Python.
    return module is not None and any(p is not None for p in module._parameters.values())


def read_gate(site: Site, recorder: Recorder, x: Tensor, dim: int) -> None:
    """Add gate sums (recorded steps) and evidence about units (every observed step)."""
    if site.facts is not None:
        site.add_read(arrange(x.detach(), dim), recorder.step, recording=recorder.recording)


def own(x: Tensor | None, recorder: Recorder) -> Tensor | None:
    """What this rank has of a tensor, where layers are divided among ranks."""
    return x if x is None or recorder.parallel is None else local(x)


def catch_gradient(out: Tensor, site: Site, recorder: Recorder, *, owned: bool) -> None:
    """Register the gradient hook on the tensor on which it will fire.

    `owned`: the module computes its output, so that a base of the same size is that output before a reshape.
    """
    base = out._base if out._is_view() else None
    if owned and base is not None and base.numel() == out.numel() and base.grad_fn is not None:
        out = base
    out.register_hook(GradientHook(site, recorder))  # type: ignore[no-untyped-call]


class GradientHook:
    """Adds the gradient to its site if the step it was registered in is still the running one."""

    def __init__(self, site: Site, recorder: Recorder) -> None:
        self._site, self._recorder = site, recorder
        self._generation = recorder.generation()

    def __call__(self, g: Tensor) -> None:
        # With gradients enabled this is a pass of autograd.grad(create_graph=True), not the loss's backward.
        if self._recorder.generation() != self._generation or torch.is_grad_enabled():
            return
        try:
            with torch._C.DisableTorchFunction():
                see_gradient(self._site, self._recorder, g)
        except Exception as error:
            self._recorder.fail(self._site.name, error)
