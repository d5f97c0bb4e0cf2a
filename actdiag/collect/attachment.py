"""Puts the hooks on the models, and takes them off.

Eager models carry hooks only while a step is observed. Compiled code ignores hooks that come later, and is compiled
anew when one is taken away: where torch.compile is in use the hooks stay until the end, and a switch says whether
they observe.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from typing import Protocol

from torch import nn
from torch.utils.hooks import RemovableHandle

from actdiag.collect.alone import After, Before
from actdiag.collect.compiled import (
    HookGuards,
    RecompileLimit,
    compiled_parts,
    forget_compiled,
    keep_out,
    refuses_to_recompile,
)
from actdiag.collect.functional import FunctionalMode, Listener
from actdiag.collect.hooks import Probe, Recorder
from actdiag.collect.operators import define
from actdiag.collect.scope import Scope, ScopeHook, Silent
from actdiag.collect.sites import UNHOOKABLE, Target, named_modules, unwrap
from actdiag.collect.traced import Hook, Switch
from actdiag.collect.tracing import Tracing

logger = logging.getLogger("actdiag")


class Owner(Recorder, Listener, Protocol):
    """Who observes: told of calls, asked what to observe."""

    scope: Scope
    targets: list[Target]
    functional: bool

    def follows(self) -> bool:
        """Whether the place in the model is to be followed in this step."""

    def failed(self, name: str) -> bool:
        """Whether a probe has been switched off."""

    def begin_forward(self) -> None:
        """A forward begins that no other module called."""


class Attachment:
    """The hooks on named models. `on` between `attach` and `detach`."""

    def __init__(self, models: Mapping[str, nn.Module], owner: Owner) -> None:
        self._models = {name: weakref.ref(model) for name, model in models.items()}
        self._owner = owner
        self._compiled = compiled_parts(models)
        self._whole = any(id(unwrap(model)) in self._compiled for model in models.values())
        self._stays = False
        self._adopted = False
        self._refused = False
        self._by_forward = False
        self._handles: list[RemovableHandle] = []
        self._hooks: dict[str, Hook] = {}
        self._mode: FunctionalMode | None = None
        self.switch = Switch()
        self._limit = RecompileLimit()
        self._guards = HookGuards()
        roots = {id(module): name for name, module in named_modules(models)}
        self.tracing = Tracing(roots, self._stay)
        keep_out([Silent.__call__, Before.__call__, After.__call__, FunctionalMode.__torch_function__], models.values())
        if self._compiled and define():
            self._stay()
            self.adopt_compiled()

    def prepare(self) -> None:
        """Parts that will be compiled get their hooks before their first call; they observe nothing yet."""
        if self._stays:
            self.attach()
            self.detach()

    def hidden(self, module: nn.Module | None) -> bool:
        """Whether a module is inside compiled code that this torch does not let us see."""
        return id(module) in self._compiled and not define()

    def inside(self, module: nn.Module | None) -> bool:
        """Whether a module is known to be compiled."""
        return id(module) in self._compiled

    def attach(self) -> None:
        """Put the hooks on the models, scopes first. Safe to call again after `detach`."""
        owner = self._owner
        if not self._turn(on=True):
            return
        owner.scope.following = owner.follows()
        if self._whole and not (self._wrapped() and owner.scope.following):
            self._enter_mode()  # no hook of ours is called outside of the compiled code
        if self._handles:
            return
        if owner.scope.following or self._stays:
            self._attach_scopes()
        for target in owner.targets:
            module = target.module()
            if module is None or owner.failed(target.name) or self.hidden(module):
                continue
            if self._stays or owner.recording or (target.facts is not None and target.facts.can_close):
                self._handles += self._hook(target).attach(module)

    def detach(self) -> bool:
        """Observe no more; whether it did. In eager code nothing stays on the models."""
        was = self.switch.on
        if not self._turn(on=False):
            return was
        self._leave()
        self._owner.scope.following = False
        if not self._stays:
            self._remove()
        return was

    def _turn(self, *, on: bool) -> bool:
        """Turn the switch, unless compiled code would have to be compiled for it and may not; whether it was."""
        if self._stays and self.switch.on != on and refuses_to_recompile():
            if not self._refused:
                self._refused = True
                logger.warning(
                    "actdiag: torch may not recompile (error_on_recompile, set_stance): compiled code is observed %s "
                    "from now on", "at every step" if self.switch.on else "no more",
                )  # fmt: skip
            return False
        self.switch.on = on
        return True

    def close(self) -> None:
        """Observing is over: nothing stays on the models."""
        self._leave()
        self.switch.on = self._owner.scope.following = False
        self._limit.close()
        self._guards.close()
        self._remove()
        self._hooks.clear()

    def adopt_compiled(self, *, lost: bool = False) -> bool:
        """Have code that is older than our hooks compiled once more; whether there was any. Done at most twice.

        The second time it may be code of another model of this class that is called for ours: then with guards.
        `lost`: hooks have been called, and are no more.
        """
        if self._guards.opened or (lost and not self._stays) or (self.tracing.seen and not lost):
            return False
        if refuses_to_recompile():
            return False
        again, self._adopted = self._adopted or lost, True
        alive = self._alive().values()
        found = forget_compiled([*alive, *(unwrap(model) for model in alive)]) and define()
        if found:
            self._stay()
        if found and again:
            self._guards.open()
        return found

    def _alive(self) -> dict[str, nn.Module]:
        return {name: model for name, ref in self._models.items() if (model := ref()) is not None}

    def _wrapped(self) -> list[tuple[str, nn.Module]]:
        """Compiled models whose wrapper was given: its hooks run outside of the compiled code."""
        if not self._whole:
            return []
        return [(name, model) for name, model in self._alive().items() if unwrap(model) is not model]

    @property
    def deaf(self) -> bool:
        """Whether code is compiled in which activations called as functions are not heard: nobody could know that
        the model would be compiled, or only blocks of it are."""
        return self._stays and not self._whole and self._owner.functional

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _stay(self) -> None:
        """torch.compile traces our hooks: they are part of its code, and taking them off would compile it anew."""
        self._stays = True
        self._limit.open()

    def _hook(self, target: Target) -> Hook:
        hook = self._hooks.get(target.name)
        if hook is None:
            root = self._alive().get(self._owner.prefix(target.name))
            probe = Probe(target, self._owner)
            hook = self._hooks[target.name] = Hook(probe, self.switch, self.tracing, root=root)
        return hook

    def _attach_scopes(self) -> None:
        owner, alive, wrapped = self._owner, self._alive(), self._wrapped()
        plain = {target.name for target in owner.targets if target.kind in _NO_FUNCTIONS}
        for name, module in named_modules(alive):
            skipped = id(module) in self._compiled and not (self._whole and owner.functional)
            if name not in plain and not skipped and not isinstance(module, _UNSCOPED):
                self._scope(name, module)
        for name, model in wrapped:
            self._scope(name, model)

    def _scope(self, name: str, module: nn.Module) -> None:
        hook = ScopeHook(name, self._owner.scope, self._enter, self._end_forward)
        self._handles += hook.attach(module, self.tracing)

    def _enter(self) -> None:
        self._owner.begin_forward()
        if not self.switch.on:
            return  # the forward has ended a step, and the next one is not observed
        if not self._stays or any(model.training for model in self._alive().values()):
            self._by_forward = self._mode is None
            self._enter_mode()

    def _end_forward(self) -> None:
        # Only the forward that has entered the mode leaves it: not one in another thread, nor one after a graph break.
        if self._by_forward and self._mode is not None and self._mode.is_here():
            self._leave()

    def _enter_mode(self) -> None:
        if self._owner.functional and self._mode is None:
            mode = FunctionalMode(self._owner.scope, self._owner, self.tracing if self._whole else None)
            mode.__enter__()  # type: ignore[no-untyped-call]
            self._mode = mode

    def _leave(self) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.leave()


# Their forward calls one kernel; no activation function can hide in it.
_NO_FUNCTIONS = (
    "Linear",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "BatchNorm1d",
    "BatchNorm2d",
    "LayerNorm",
    "Embedding",
)
_UNSCOPED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, *UNHOOKABLE)
