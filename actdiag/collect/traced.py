"""Hooks for eager and for compiled code: of a module, and of a function called in compiled code.

torch.compile traces a hook into its graph. What it must find there was measured: no Python state may change (a
counter recompiles every step), a flag may be read (two graphs in all, kept for ever), and an exception inside the
graph would end the training. So the traced half of a hook is one operator that the graph calls and cannot look
into; at run time it lands in the same code, with the same guard, as the hook of an eager module.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from actdiag.collect.hooks import Probe
from actdiag.collect.layout import find_tensor
from actdiag.collect.operators import enter
from actdiag.collect.scope import Silent
from actdiag.collect.site import Site, is_tanh, squashes
from actdiag.collect.tracing import Tracing, constant, has_compiled_autograd, in_transform


class Switch:
    """The one Python value that traced hooks read."""

    def __init__(self) -> None:
        self.on = False


class Calls:
    """Which site each call of the running step went to. Backward passes meet the calls in the opposite order."""

    def __init__(self) -> None:
        self._step = -1
        self._sites: list[tuple[int, Site]] = []

    def push(self, step: int, call: int, site: Site) -> None:
        """A call that counts."""
        if step != self._step:
            self._step, self._sites = step, []
        self._sites.append((call, site))

    def pop(self, step: int, call: int) -> Site | None:
        """The site of the last such call. The first one stays, for further backward passes."""
        mine = [index for index, (number, _) in enumerate(self._sites) if number == call]
        if step != self._step or not mine:
            return None
        site = self._sites[mine[-1]][1]
        if len(mine) > 1:
            del self._sites[mine[-1]]
        return site


class Hook:
    """Puts a probe on its module. Eager calls go to the probe, traced ones through an operator to `run`."""

    def __init__(self, probe: Probe, switch: Switch, tracing: Tracing, *, root: nn.Module | None) -> None:
        self._probe, self._switch, self._tracing = probe, switch, tracing
        module, facts = probe.target.module(), probe.target.facts
        # Evaluation has a graph of its own; one that never asks for the switch is not doubled by it. A layer that
        # is kept in evaluation mode while the rest trains (a frozen normalization) is left to the run time.
        self._follows_mode = module is not None and root is not None and module.training == root.training
        self._in_place = probe.reads_early
        # What a module returns of its input untouched is not its own; an in-place activation returns it changed.
        self._changes_input = bool(getattr(module, "inplace", False))
        self._reads = probe.target.weighted or (facts is not None and facts.reads == "input")
        self._may_gate = squashes(facts) or is_tanh(facts)
        self._id = enter(self)
        self._number = torch.tensor([self._id])
        self._calls = Calls()
        self._last = 0

    def attach(self, module: nn.Module) -> list[RemovableHandle]:
        """Register the hooks this module needs."""
        handles = [module.register_forward_hook(Silent(self.after), with_kwargs=True)]
        if self._in_place:
            handles.append(module.register_forward_pre_hook(Silent(self.before), with_kwargs=True))
        return handles

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Forward pre-hook of an in-place activation whose gate needs the input."""
        if not torch.compiler.is_dynamo_compiling():
            if self._switch.on:
                self._probe.before(module, args, kwargs)
            return
        if (module.training or not self._follows_mode) and self._switch.on and torch.is_grad_enabled():
            if in_transform():
                return
            x = traceable((args, kwargs))
            call = self.call()
            if x is not None:
                torch.ops.actdiag.observe_input(x.detach(), self._number, 0, call)

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Forward hook."""
        if not torch.compiler.is_dynamo_compiling():
            if self._switch.on:
                self._probe.after(module, args, kwargs, output)
            return
        if (module.training or not self._follows_mode) and self._switch.on:
            self._trace(traceable((args, kwargs)), traceable(output))

    def _trace(self, x: Tensor | None, out: Tensor | None) -> None:
        if in_transform():
            return
        graded = torch.is_grad_enabled()
        call = self.last_call() if self._in_place and graded else self.call()
        if out is None:
            return
        if not graded:
            torch.ops.actdiag.observe(out.detach(), None, self._number, 0, -1 - call)
            return
        given = x.detach() if self._reads and x is not None else None
        torch.ops.actdiag.observe(out.detach(), given, self._number, 0, call)
        owned = out.requires_grad and (out is not x or self._changes_input)
        if self._probe.gradients and owned and not has_compiled_autograd():
            out.register_hook(functools.partial(self.trace_gradient, call))  # type: ignore[no-untyped-call]

    def trace_gradient(self, call: int, g: Tensor) -> None:
        """Tensor hook of compiled code."""
        torch.ops.actdiag.observe_gradient(g.detach(), self._number, 0, call)

    @constant
    def call(self) -> int:
        """The number of the call that is being traced."""
        self._last = self._tracing.number(self._probe.target.name)
        if self._may_gate:
            self._tracing.expect_gate()
        return self._last

    @constant
    def last_call(self) -> int:
        """The same number again, for the second hook of a call."""
        return self._last

    # At run time ------------------------------------------------------------------------------------------

    def run_early(self, x: Tensor, call: int) -> None:
        """The input of an in-place activation."""
        self._probe.guard(self._early, x, call)

    def _early(self, x: Tensor, call: int) -> None:
        module = self._probe.target.module()
        if module is not None and self._probe.wanted():
            self._probe.see_early(module, x, call)

    def run(self, out: Tensor, given: Tensor | None, call: int) -> None:
        """One call of the module; one that was traced without gradients has a number below 0."""
        if call < 0:
            self._probe.guard(self._probe.touch, -1 - call)
        else:
            self._probe.guard(self._late, out, given, call)

    def _late(self, out: Tensor, x: Tensor | None, call: int) -> None:
        module = self._probe.target.module()
        if module is None or not self._probe.wanted():
            return
        site = self._probe.see(module, x, out, call)
        if site is not None:
            self._calls.push(self._probe.generation(), call, site)
            self._tracing.settle(site, self._id, call)

    def run_gradient(self, g: Tensor, call: int) -> None:
        """The gradient of one call's output."""
        site = self._calls.pop(self._probe.generation(), call)
        if site is not None:
            self._probe.guard(self._probe.see_gradient, site, g)


def traceable(value: Any) -> Tensor | None:
    """The primary tensor of a traced output or input, of those that an operator can be given; of a DTensor this rank's
    part, which has no gradient of its own."""
    found = find_tensor(value, _is_plain)
    if found is None and (divided := find_tensor(value, _is_divided)) is not None:
        found = divided.detach().to_local()  # type: ignore[attr-defined]
    return found


def _is_divided(x: Tensor) -> bool:
    return type(x).__name__ == "DTensor"  # what is traced has no attribute `to_local` before it is called


def _is_plain(x: Tensor) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.is_floating_point() and x.layout == torch.strided
