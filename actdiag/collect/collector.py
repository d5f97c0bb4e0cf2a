"""Observes named models: attaches hooks for one step, adds up what they see, reads it out."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.arena import Arenas
from actdiag.collect.attachment import Attachment
from actdiag.collect.dims import UnitDims
from actdiag.collect.functional import FunctionHook
from actdiag.collect.fused import reducer
from actdiag.collect.gates import Gates
from actdiag.collect.hooks import counts, observe, see_gradient
from actdiag.collect.memory import Memory
from actdiag.collect.parallel import find_parallel
from actdiag.collect.scope import Scope
from actdiag.collect.site import Site
from actdiag.collect.sites import Target, discover
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
        self.own: dict[Any, ActivationFacts] = dict(options.activations)
        for key, facts in self.own.items():
            if not isinstance(facts, ActivationFacts):
                raise ConfigError(f"activations[{key!r}] must be ActivationFacts, got {type(facts).__name__}")
        self.models = {name: weakref.ref(model) for name, model in models.items()}
        self.targets: list[Target] = discover(models, self.own, include=options.include, exclude=options.exclude)
        self._prefixes = [name for name in self.models if name]
        self._names = {target.name for target in self.targets}
        self._observed = {target.name for target in self.targets if target.facts is not None}
        self.sites: dict[tuple[str, int], Site] = {}
        self.scope = Scope()
        self.arenas = Arenas()
        self.reducer = reducer(self.arenas)
        self.recording = self.single = False
        self.step = 0
        self.memory = Memory(options.window_samples)
        self.histograms, self.gradients, self.functional = options.histograms, options.gradients, options.functional
        self.on_forward: Callable[[], None] | None = None
        self.on_gradient: Callable[[], None] | None = None
        self.needs_scope = False
        self._input: dict[str, str] = {}
        self.dims = UnitDims(options.unit_dims)
        self.parallel = find_parallel(models.values())
        self._order = self._generation = 0
        self._failed: set[str] = set()
        self._gates = Gates()
        self._functions: dict[tuple[str, ActivationFacts], FunctionHook] = {}
        self._attachment = Attachment(models, self)
        self._attachment.prepare()

    # What hooks ask -------------------------------------------------------------------------------------

    def wants(self, name: str) -> bool:
        """Whether a forward of this module that happens now is a training forward of its model."""
        ref = self.models.get(self.prefix(name))
        model = ref() if ref is not None else None
        return model is not None and model.training

    def prefix(self, name: str) -> str:
        """The name of the model that a module belongs to."""
        return next((p for p in self._prefixes if name == p or name.startswith((f"{p}.", f"{p}/"))), "")

    def next_call(self, key: str, traced: int | None = None) -> int:
        """The call number in the running forward; always 0 where scopes are not followed.

        Of a module that is called in a loop (a hand-written recurrent cell) the last call site takes in the rest.
        """
        return min(self.scope.next_call(key, traced), MOST_CALLS - 1) if self.follows() else 0

    def site(self, key: str, index: int, *, kind: str, role: Role, facts: ActivationFacts | None) -> Site:
        """The site of one call, made when it is first seen."""
        site = self.sites.get((key, index))
        if site is None:
            name = call_name(key, index, several=index > 0)
            site = self.sites[key, index] = Site(name, kind, role, facts, reducer=self.reducer)
            self.needs_scope = self.needs_scope or index > 0
        site.facts = facts
        if site.order == 0:
            self._order += 1
            site.order = self._order
        return site

    def unit_dim(self, key: str, module: nn.Module | None, x: Tensor) -> int:
        """Which dimension of a site's tensor counts the units."""
        return self.dims.find(key, module, x, recording=self.recording)

    def input_of(self, target: Target) -> bool:
        """Whether a target is the first layer with weights of its model, whose input is a site of its own."""
        if not target.weighted:
            return False
        return self._input.setdefault(self.prefix(target.name), target.name) == target.name

    def generation(self) -> int:
        """Counts armed steps; a gradient hook of an older step keeps still."""
        return self._generation

    @property
    def shared_by(self) -> int:
        """Among how many ranks layers are divided, which so have the same samples."""
        return 1 if self.parallel is None else self.parallel.size

    @property
    def deaf(self) -> bool:
        """Whether there is compiled code in which activations called as functions are not heard."""
        return self._attachment.deaf

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
        self.step, self.recording, self.single = step, recording, False
        self.scope.clear()
        self._order = 0 if recording else self._order
        if recording:
            self.arenas.begin()
        for site in self.sites.values():
            site.begin(recording=recording)
        self.attach()

    def restart(self) -> None:
        """What was added up since `arm` belongs to a step that was skipped: forget it, go on observing."""
        self._generation += 1
        self._gates.clear()
        self.arenas.restart()
        for site in self.sites.values():
            site.clear()

    def attach(self) -> None:
        """Put the hooks on the models. Safe to call again after `detach`."""
        self._attachment.attach()

    def follows(self) -> bool:
        """Whether the place in the model is to be followed in this step."""
        return self.recording or self.needs_scope

    def failed(self, name: str) -> bool:
        """Whether a probe has been switched off."""
        return name in self._failed

    def observes(self, name: str) -> bool:
        """Whether a module is an activation that is observed itself."""
        return name in self._observed

    def begin_forward(self) -> None:
        """A forward begins that no other module called."""
        if self.on_forward is not None:
            self.on_forward()

    def adopt_compiled(self, *, lost: bool = False) -> bool:
        """Have code compiled once more in which nothing was seen, or (`lost`) is any more; whether there was any."""
        found = self._attachment.adopt_compiled(lost=lost)
        self._attachment.prepare()
        return found

    def note_output(self, out: Tensor, site: Site) -> None:
        """Remember the output of a sigmoid: if it is multiplied with another tensor, it is a gate."""
        self._gates.note_output(out, site)

    def saw_product(self, factors: tuple[Any, ...]) -> None:
        """Tensors are multiplied elementwise."""
        self._gates.saw_product(factors)

    def saw_sum(self, terms: tuple[Any, ...], total: Any) -> None:
        """Something was added or subtracted."""
        self._gates.saw_sum(terms, total)

    def saw_function(self, scope: str, name: str, facts: ActivationFacts, x: Tensor, out: Tensor) -> None:
        """An activation function was called while the module `scope` ran."""
        if not self._left_out(scope):
            self._see_function(self._function_key(scope, name), facts, x, out)

    def _function_key(self, scope: str, name: str) -> str:
        return f"{scope}/{name}" if scope or name in self._names else name

    def _see_function(
        self, key: str, facts: ActivationFacts, x: Tensor | None, out: Tensor, call: int | None = None
    ) -> Site | None:
        if key in self._failed:
            return None
        try:
            self.needs_scope = True
            site = self.site(key, self.next_call(key, call), kind=facts.name, role="activation", facts=facts)
            site.traced = call is not None
            counted = counts(site, self)
            observe(site, self, out, module=None, given=x)
            return site if counted else None
        except Exception as error:
            self.fail(key, error)
            return None

    def function_hook(self, scope: str, name: str, facts: ActivationFacts) -> int:
        """The number of the hook for a function call in compiled code; 0 if it is not to be observed."""
        key = self._function_key(scope, name)
        if self._left_out(scope):
            return 0
        hook = self._functions.get((key, facts))
        if hook is None:
            hook = self._functions[key, facts] = FunctionHook(self, scope, key, facts)
        return hook.number

    def saw_traced(self, hook: FunctionHook, x: Tensor | None, out: Tensor, call: int) -> Site | None:
        """A function was called in compiled code; its site, if the call counts."""
        if not self.wants(hook.scope):
            return None
        site = self._see_function(hook.key, hook.facts, x, out, call)
        if site is not None:
            self._attachment.tracing.settle(site, hook.number, call)
        return site

    def saw_gradient(self, hook: FunctionHook, site: Site, g: Tensor) -> None:
        """The gradient of a function's output in compiled code."""
        try:
            see_gradient(site, self, g)
        except Exception as error:
            self.fail(hook.key, error)

    def _left_out(self, scope: str) -> bool:
        include, exclude = (
            [one for one in given if isinstance(one, str)] for given in (self._options.include, self._options.exclude)
        )
        return matches(scope, exclude) or (bool(self._options.include) and not matches(scope, include))

    def detach(self) -> bool:
        """Take the hooks off, whether they were on; what was added up stays (validation in the middle of a step)."""
        return self._attachment.detach()

    def close(self) -> None:
        """Observing is over: nothing stays on the models."""
        self.disarm()
        self.on_forward = self.on_gradient = None  # they hold the session, which a garbage collection would find late
        self._attachment.close()
        self._functions.clear()

    def disarm(self) -> None:
        """The step is over: no hook stays, and gradients of it that come later are not counted."""
        self.detach()
        self._generation += 1
        self.dims.restart()
        if self.parallel is not None:
            self.parallel.restart()
        self._gates.clear()

    def seen(self) -> list[tuple[str, int, Site]]:
        """Key, call and site of those that ran in this recorded step, in execution order; then those watched before."""
        told = [(key, index, site) for (key, index), site in self.sites.items() if site.ran or site.recent]
        return sorted(told, key=lambda one: (not one[2].ran, one[2].order))

    def told(self) -> None:
        """What was observed of units until now has been read."""
        for site in self.sites.values():
            if site.recent is not None:
                site.recent.clear()

    def unseen(self) -> dict[str, str]:
        """Target -> why nothing was observed of it in this step."""
        ran = {key for (key, _), site in self.sites.items() if site.ran}
        refused = {key: site.refused for (key, _), site in self.sites.items() if site.refused}
        return {
            target.name: refused.get(target.name) or self._why_not_called(target)
            for target in self.targets
            if target.name not in ran
        }

    def _why_not_called(self, target: Target) -> str:
        module = target.module()
        if not self._attachment.inside(module):
            return "it was not called"
        if self._attachment.hidden(module):
            return "it is compiled by torch.compile; only its parameters are observed"
        return "compiled code did not call it, or it gives no floating-point tensor"
