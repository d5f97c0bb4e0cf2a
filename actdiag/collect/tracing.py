"""What is known while torch.compile traces a model: where in the model the trace is, and which call it sees.

Everything here runs once for each trace, as plain Python (torch calls it assume_constant_result: the answer
becomes a constant of the graph). At run time nothing of it exists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.fx

from actdiag.collect.operators import define
from actdiag.collect.site import Site, is_tanh, squashes

F = TypeVar("F", bound=Callable[..., Any])
_SUMS = ("add", "radd", "sub", "rsub")
_PRODUCTS = ("mul", "mul_", "imul", "multiply")


class Tracing:
    """The running trace. A trace that is started anew (a graph break was met) begins from nothing."""

    def __init__(self, roots: dict[int, str], on_traced: Callable[[], None]) -> None:
        self._roots = roots
        self._on_traced = on_traced
        self.seen = False
        self._gated: dict[tuple[int, int], str] = {}
        self._trace: object = None
        self._calls: dict[str, int] = {}
        self._stack: list[str] = []
        self._looking = False

    def _begin(self) -> None:
        from torch._guards import CompileContext

        trace = CompileContext.current_trace_id()
        if trace != self._trace:
            self._trace, self._calls, self._looking = trace, {}, False
            root = id(_root_module())
            self._stack = [self._roots[root]] if root in self._roots else []
            define()
            self._on_traced()
        with contextlib.suppress(Exception):  # of a private interface; roles are a little less sure without it
            self._look()

    def number(self, key: str) -> int:
        """How many calls of `key` this trace has had before: which call this one is."""
        self._begin()
        self.seen = True
        count = self._calls[key] = self._calls.get(key, -1) + 1
        return count

    def enter(self, name: str) -> None:
        """The trace goes into a module."""
        self._begin()
        self._stack.append(name)

    def leave(self, name: str) -> None:
        """The trace has left a module."""
        if self._stack and self._stack[-1] == name:
            self._stack.pop()

    def scope(self) -> str | None:
        """The module that is being traced; None after a graph break in the middle of one."""
        self._begin()
        return self._stack[-1] if self._stack else None

    def expect_gate(self) -> None:
        """A sigmoid is about to be observed: look for products from now on."""
        self._looking = True

    def settle(self, site: Site, hook: int, call: int) -> None:
        """A sigmoid that is multiplied is a gate, and a tanh if a number is added first (see `gates`)."""
        how = self._gated.get((hook, call))
        if site.role == "activation" and (squashes(site.facts) if how == "factor" else how and is_tanh(site.facts)):
            site.role = "gate"

    def _look(self) -> None:
        """Note the observed outputs that are factors of a product by now."""
        if not self._looking:
            return
        for node in _translator().output.graph.nodes:
            if node.op == "call_function" and node.target is torch.ops.actdiag.observe:
                out, _, hook, number, call = node.args
                how = _used(out.args[0])
                if how is not None:
                    self._gated[number if hook is None else _value_of(hook), call] = how


def constant(function: F) -> F:
    """What torch.compiler.assume_constant_result does, without loading the compiler."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant
def in_transform() -> bool:
    """Whether the trace is inside vmap, grad or cond, where no operator may be put. A checkpoint is no such thing."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    tracer = _translator().output.current_tracer
    return tracer.parent is not None and "checkpoint" not in str(getattr(tracer, "source_target", "")).lower()


@constant
def has_compiled_autograd() -> bool:
    """Whether the backward is traced as well: it knows nothing of operators that have an effect, and would fail."""
    from torch._dynamo import compiled_autograd, config

    return bool(config.compiled_autograd or compiled_autograd.compiled_autograd_enabled)


def _root_module() -> Any:
    """The module in whose method the trace has begun; also where it goes on after a graph break."""
    from torch._dynamo.resume_execution import ContinueExecutionCache

    root = _translator().output.root_tx
    resumed = ContinueExecutionCache.generated_code_metadata.get(root.f_code)
    code = root.f_code if resumed is None else resumed.code
    return root.f_locals.get(code.co_varnames[0]) if code.co_varnames else None


def _translator() -> Any:
    from torch._dynamo.symbolic_convert import InstructionTranslator

    return InstructionTranslator.current_tx()


def _used(node: torch.fx.Node) -> str | None:
    """Whether a node of the trace is a "factor" of an elementwise product of tensors, or a "shifted" factor, to which
    a number was added before; also behind a hook."""
    for user in node.users:
        name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
        tensors = sum(isinstance(arg, torch.fx.Node) for arg in user.args)
        if name in _PRODUCTS and tensors == 2:
            return "factor"
        if name in _SUMS and tensors == 1 and _used(user) == "factor":
            return "shifted"
        through = "hook" in str(user.target).lower() or name == "getitem"
        if through and (found := _used(user)) is not None:
            return found
    return None


def _value_of(placeholder: torch.fx.Node) -> int:
    return int(placeholder.meta["grapharg"].example.numpy()[0])
