"""Observes named models: attaches hooks for one step, adds up what they see, reads it out."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.functional import FunctionalMode
from actdiag.collect.hooks import Probe, observe
from actdiag.collect.layout import default_unit_dim, unit_dim_of
from actdiag.collect.scope import Scope, ScopeHook
from actdiag.collect.site import Site
from actdiag.collect.sites import UNHOOKABLE, Target, compiled_parts, discover, named_modules
from actdiag.config import ConfigError, Options
from actdiag.names import call_name, matches
from actdiag.snapshot import Role

logger = logging.getLogger("actdiag")

MOST_CALLS = 32
"""Call sites of one module; without a limit a loop over 1,000 time steps would make 1,000 sites of each."""


class Collector:
    """Owns the sites of named models. Between `arm` and `disarm` their forwards and backwards are observed."""

    def __init__(self, models: Mapping[str, nn.Module], options: Options) -> None:
        self._options = options
        self._own: dict[Any, ActivationFacts] = dict(options.activations)
        for key, facts in self._own.items():
            if not isinstance(facts, ActivationFacts):
                raise ConfigError(f"activations[{key!r}] must be ActivationFacts, got {type(facts).__name__}")
        self._models = {name: weakref.ref(model) for name, model in models.items()}
        self.targets: list[Target] = discover(models, self._own, include=options.include, exclude=options.exclude)
        self._compiled = compiled_parts(models)
        self._names = {target.name for target in self.targets}
        self.sites: dict[tuple[str, int], Site] = {}
        self.scope = Scope()
        self.recording = False
        self.single = False
        self.step = 0
        self.window = options.window_samples
        self.histograms = options.histograms
        self.gradients = options.gradients
        self.on_forward: Callable[[], None] | None = None
        self._handles: list[RemovableHandle] = []
        self._mode: FunctionalMode | None = None
        self._generation = 0
        self._needs_scope = False
        self._frozen_names = False
        self._input: dict[str, str] = {}
        self._last: tuple[int, int, int] | None = None
        self._dims: dict[str, tuple[int, int]] = {}
        self._order = 0
        self._failed: set[str] = set()
        self._observed: set[str] = set()
        self._squashed: dict[int, tuple[weakref.ref[Tensor], Site]] = {}

    # What hooks ask -------------------------------------------------------------------------------------

    def wants(self, name: str) -> bool:
        """Whether a forward of this module that happens now is a training forward of its model."""
        ref = self._models.get(self._prefix(name))
        model = ref() if ref is not None else None
        return model is not None and model.training

    def _prefix(self, name: str) -> str:
        """The name of the model that a module belongs to."""
        return next((p for p in self._models if p and (name == p or name.startswith((f"{p}.", f"{p}/")))), "")

    def next_call(self, key: str) -> int:
        """The call number in the running forward; always 0 where scopes are not followed.

        Of a module that is called in a loop (a hand-written recurrent cell) the last call site takes in the rest.
        """
        return min(self.scope.next_call(key), MOST_CALLS - 1) if self.recording or self._needs_scope else 0

    def site(self, key: str, index: int, *, kind: str, role: Role, facts: ActivationFacts | None) -> Site:
        """The site of one call, made when it is first seen."""
        site = self.sites.get((key, index))
        if site is None:
            several = index > 0
            site = self.sites[key, index] = Site(call_name(key, index, several=several), kind, role, facts)
            if index > 0:
                self._needs_scope = True
                if not self._frozen_names:
                    self.sites[key, 0].name = call_name(key, 0, several=True)
        site.facts = facts
        if site.order == 0:
            self._order += 1
            site.order = self._order
        return site

    def unit_dim(self, key: str, module: nn.Module | None, x: Tensor) -> int:
        """Which dimension counts the units: the user's word, the layer's own, the layer before, or a default."""
        for pattern, dim in self._options.unit_dims.items():
            if matches(key, [pattern]):
                if not -x.ndim <= dim < x.ndim:
                    raise ValueError(f"unit_dims gives dimension {dim} to {key}, whose output has {x.ndim} dimensions")
                return dim
        own = unit_dim_of(module, x) if module is not None else None
        if own is not None:
            self._last = x.ndim, own, x.shape[own] if x.ndim else 1
            return own
        # A watch step hooks only what can die: the layers before are known from the last recorded step.
        if not self.recording and self._dims.get(key, (0, 0))[0] == x.ndim:
            return self._dims[key][1]
        dim = self._after_last(x)
        self._dims[key] = x.ndim, dim
        return dim

    def _after_last(self, x: Tensor) -> int:
        """What follows a layer without changing its number of units (pooling, dropout) has its unit dimension."""
        if self._last is not None and x.ndim == self._last[0] and x.ndim and x.shape[self._last[1]] == self._last[2]:
            return self._last[1]
        return default_unit_dim(x)

    def input_of(self, target: Target) -> bool:
        """Whether a target is the first layer with weights of its model, whose input is a site of its own."""
        if not target.weighted:
            return False
        return self._input.setdefault(self._prefix(target.name), target.name) == target.name

    def generation(self) -> int:
        """Counts armed steps; a gradient hook of an older step keeps still."""
        return self._generation

    def fail(self, name: str, error: Exception) -> None:
        """Say once that a probe has been switched off."""
        if name not in self._failed:
            self._failed.add(name)
            logger.warning(
                "actdiag: observing %s failed and is switched off (%s: %s); the training goes on",
                name, type(error).__name__, error, exc_info=error,
            )  # fmt: skip

    # What the driver asks -------------------------------------------------------------------------------

    def arm(self, step: int, *, recording: bool) -> None:
        """Observe the step that begins now: everything, or (on a watch step) only what can die."""
        self.disarm()
        self._generation += 1
        self.step, self.recording, self.single = step, recording, False
        self.scope.clear()
        if recording:
            for site in self.sites.values():
                site.clear()
        else:
            for site in self.sites.values():
                site.forward_calls = 0
        self.attach()

    def restart(self) -> None:
        """What was added up since `arm` belongs to a step that was skipped: forget it, go on observing."""
        self._generation += 1
        self._squashed.clear()
        for site in self.sites.values():
            site.clear()

    def attach(self) -> None:
        """Put the hooks on the models, scopes first. Safe to call again after `detach`."""
        if self._handles:
            return
        scoped = self.recording or self._needs_scope
        if scoped:
            self._attach_scopes()
        for target in self.targets:
            module = target.module()
            if module is None or target.barred or target.name in self._failed:
                continue
            if self.recording or (target.facts is not None and target.facts.can_close):
                self._handles += Probe(target, self).attach(module)

    def _attach_scopes(self) -> None:
        alive = {name: model for name, ref in self._models.items() if (model := ref()) is not None}
        plain = {target.name for target in self.targets if target.kind in _NO_FUNCTIONS}
        for name, module in named_modules(alive):
            if name not in plain and id(module) not in self._compiled and not isinstance(module, _UNSCOPED):
                self._handles += ScopeHook(name, self.scope, self._enter, self._leave).attach(module)
        self._observed = {target.name for target in self.targets if target.facts is not None}

    def _enter(self) -> None:
        if self.on_forward is not None:
            self.on_forward()
        if self._options.functional and self._mode is None and not self._compiled:
            mode = FunctionalMode(self.scope, self._observed, self._own, listener=self)
            mode.__enter__()  # type: ignore[no-untyped-call]
            self._mode = mode

    def _leave(self) -> None:
        mode, self._mode = self._mode, None
        if mode is not None:
            mode.leave()

    def note_output(self, out: Tensor, site: Site) -> None:
        """Remember the output of a sigmoid: if it is multiplied with another tensor, it is a gate."""
        facts = site.facts
        if (
            facts is not None
            and site.role == "activation"
            and (facts.saturated_low if facts.saturated_low is not None else -1.0) >= 0
        ):
            self._squashed[id(out)] = weakref.ref(out), site

    def saw_product(self, factors: tuple[Any, ...]) -> None:
        """Tensors are multiplied elementwise: a sigmoid among them is a gate."""
        if sum(isinstance(factor, Tensor) for factor in factors) < 2:
            return
        for factor in factors if self._squashed else ():
            for tensor in (factor, getattr(factor, "_base", None)):
                held = self._squashed.get(id(tensor))
                if held is not None and held[0]() is tensor:
                    held[1].role = "gate"

    def saw_function(self, scope: str, name: str, facts: ActivationFacts, x: Tensor, out: Tensor) -> None:
        key = f"{scope}/{name}" if scope or name in self._names else name
        if key in self._failed or self._left_out(scope):
            return
        try:
            self._needs_scope = True
            site = self.site(key, self.next_call(key), kind=facts.name, role="activation", facts=facts)
            observe(site, self, out, module=None, read=x)
        except Exception as error:
            self.fail(key, error)

    def _left_out(self, scope: str) -> bool:
        include, exclude = self._options.include, self._options.exclude
        return matches(scope, exclude) or (bool(include) and not matches(scope, include))

    def detach(self) -> None:
        """Take the hooks off; what was added up stays (validation in the middle of a step)."""
        self._leave()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def disarm(self) -> None:
        """The step is over: no hook stays, and gradients of it that come later are not counted."""
        self.detach()
        self._generation += 1
        self._last = None
        self._squashed.clear()

    def freeze_names(self) -> None:
        """After the first recorded step a site keeps its name, even if its module is called more often later."""
        self._frozen_names = True

    def seen(self) -> list[Site]:
        """The sites that ran in this recorded step, in execution order."""
        ran = [site for site in self.sites.values() if site.moments is not None]
        return sorted(ran, key=lambda site: site.order)

    def unseen(self) -> dict[str, str]:
        """Target -> why nothing was observed of it in this step."""
        ran = {key for (key, _), site in self.sites.items() if site.moments is not None}
        refused = {key: site.refused for (key, _), site in self.sites.items() if site.refused}
        return {
            target.name: target.barred or refused.get(target.name) or "it was not called"
            for target in self.targets
            if target.name not in ran
        }


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
