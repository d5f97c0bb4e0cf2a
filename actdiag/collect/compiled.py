"""What torch.compile has taken over, and how to have it traced again.

Compiled code calls the hooks that were there when it was traced, and no others. Parts that are known to be
compiled get their hooks before the first call; code that is older than the hooks is forgotten once, by its code
object, so that its next call is traced with them.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType
from typing import Any

import torch
from torch import nn


def compiled_parts(models: Mapping[str, nn.Module]) -> set[int]:
    """Ids of the modules inside torch.compile: a wrapper, `module.compile()`, or a compiled LightningModule.

    A model whose wrapper was not given to us is known by the wrapper, which refers to it.
    """
    found: set[int] = set()
    for model in models.values():
        for module in model.modules():
            if _is_compiled(module) or (module is model and _is_wrapped(model)):
                found.update(id(inner) for inner in module.modules())
    return found


def _is_compiled(module: nn.Module) -> bool:
    return (
        getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module, "_orig_mod")
        or getattr(module, "_compiler_ctx", None) is not None
    )


def _is_wrapped(model: nn.Module) -> bool:
    if "torch._dynamo.eval_frame" not in sys.modules:
        return False  # nothing has been compiled in this process
    return any(isinstance(found, dict) and found.get("_orig_mod") is model for found in gc.get_referrers(model))


def forget_compiled(models: Iterable[nn.Module]) -> bool:
    """Drop the compiled code that these models' calls run in; whether there was any. It is compiled once more."""
    try:
        from torch._dynamo.eval_frame import _debug_get_cache_entry_list, remove_from_cache

        old = {code for model in models for code in _codes(model) if _debug_get_cache_entry_list(code)}
        for code in old:
            remove_from_cache(code)
    except Exception:
        return False  # another torch keeps its compiled code elsewhere: the caller says what to do instead
    return bool(old)


def keep_out(own: Iterable[Any], models: Iterable[nn.Module]) -> None:
    """Have torch.compile run these as they are where it meets them by themselves, as after a graph break.

    Our own functions, and what they call; and the forward of torch's modules, which torch leaves alone by itself,
    but for modules with hooks. Traced from within a model all of them still are.
    """
    try:
        frames = torch._C._dynamo.eval_frame
        skip, default = frames._FrameAction.SKIP, frames._FrameAction.DEFAULT
        for function in own:
            frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, skip))
        kinds = {type(module) for model in models for module in model.modules()}
        for kind in kinds:
            if kind.__module__.startswith("torch.nn."):
                frames.set_code_exec_strategy(kind.forward.__code__, frames._FrameExecStrategy(skip, default))
    except Exception:
        return  # a private interface; without it there are graphs and breaks that are of no use, and no harm


class RecompileLimit:
    """Doubles torch's limit on graphs of one code object while open: each has two with us, and the ninth is fatal."""

    def __init__(self) -> None:
        self._raised: dict[str, int] = {}

    def open(self) -> None:
        """Double the limits, once."""
        if self._raised:
            return
        with contextlib.suppress(Exception):
            from torch._dynamo import config

            for name in ("recompile_limit", "accumulated_recompile_limit"):
                self._raised[name] = 2 * getattr(config, name)
                setattr(config, name, self._raised[name])

    def close(self) -> None:
        """Halve them again, unless the user has set them since. Several may be open, and close in any order."""
        if not self._raised:
            return
        with contextlib.suppress(Exception):
            from torch._dynamo import config

            for name, ours in self._raised.items():
                now = getattr(config, name)
                if math.log2(now / ours).is_integer():
                    setattr(config, name, now // 2)
        self._raised.clear()


class HookGuards:
    """Has torch look, while open, whether a module has hooks before it calls code that was compiled without any.

    By default it does not: such code of one model is called for another of the same class, whose hooks are not called.
    """

    def __init__(self) -> None:
        self.opened = self._is_ours = False

    def open(self) -> None:
        """Of code that is compiled from here on."""
        self.opened = True
        with contextlib.suppress(Exception):
            from torch._dynamo import config

            self._is_ours = bool(config.skip_nnmodule_hook_guards) or any(one._is_ours for one in _GUARDING)
            config.skip_nnmodule_hook_guards = False
            _GUARDING.add(self)

    def close(self) -> None:
        """As it was, unless the user has asked for it, or another monitor still needs it."""
        _GUARDING.discard(self)
        ours, self._is_ours = self._is_ours, False
        if ours and not _GUARDING:
            with contextlib.suppress(Exception):
                from torch._dynamo import config

                config.skip_nnmodule_hook_guards = True


_GUARDING: weakref.WeakSet[HookGuards] = weakref.WeakSet()
"""Those that are open: the option that they set is not one of a model."""


def refuses_to_recompile() -> bool:
    """Whether the user has asked that nothing be compiled any more: then the switch must stay as it is."""
    if "torch._dynamo.eval_frame" not in sys.modules:
        return False
    try:
        from torch._dynamo import config, eval_frame

        return bool(config.error_on_recompile) or "recompile" in eval_frame._stance.stance
    except Exception:
        return False


def _codes(model: nn.Module) -> Iterator[CodeType]:
    """Code objects whose frames may have been compiled for a call of this model or of a part of it."""
    from torch._dynamo import trace_rules
    from torch._dynamo.external_utils import wrap_inline

    for module in model.modules():
        inner = getattr(module, "_orig_mod", module if module is model else None)
        if inner is not None and trace_rules.check(inner.forward):
            yield wrap_inline(lambda: None).__code__  # around a forward that is not traced as a frame of its own
        own = [value for value in vars(module).values() if hasattr(value, "_torchdynamo_orig_callable")]
        for function in (type(module).forward, *own):
            code = _code(function)
            if code is not None:
                yield code


def _code(function: Any) -> CodeType | None:
    while hasattr(function, "_torchdynamo_orig_callable"):
        function = function._torchdynamo_orig_callable
    found = getattr(getattr(function, "__func__", function), "__code__", None)
    return found if isinstance(found, CodeType) else None
