"""Which modules of a model are observed, and under which name."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from actdiag.collect.activations import ActivationFacts
from actdiag.collect.known import module_facts
from actdiag.config import ConfigError
from actdiag.names import clean_name, matches
from actdiag.snapshot import Role

# Leaves whose output says nothing of its own: it repeats, rearranges or thins out its input.
_PASSIVE = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle,
    nn.modules.dropout._DropoutNd, nn.modules.padding._ReflectionPadNd, nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReplicationPadNd, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd, nn.Upsample, nn.Fold, nn.Unfold,
    nn.modules.loss._Loss, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict,
)  # fmt: skip
# Layers by their class: FSDP1 takes the parameters out of them.
_WEIGHTED = (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.modules.conv._ConvNd, nn.RNNBase)
_NORMALIZATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_WRAPPER_CLASSES = ("DistributedDataParallel", "DataParallel")
_INNER = {**dict.fromkeys(_WRAPPER_CLASSES, "module"), "_FabricModule": "_forward_module"}
"""Under which attribute a wrapper has the model; torch.compile's has it as `_orig_mod`."""
UNHOOKABLE = (torch.jit.ScriptModule,)
T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A module to observe. The module is held weakly: nothing of ours keeps a model alive."""

    name: str
    kind: str
    role: Role
    facts: ActivationFacts | None
    weighted: bool
    module: weakref.ref[nn.Module]


def named_models(model: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The models under their prefix; a single model has the empty prefix.

    Raises ConfigError for anything that is no module, and for DataParallel, whose replicas share hooks.
    """
    models = dict(model) if isinstance(model, Mapping) else {"": model}
    if not models:
        raise ConfigError("model must name at least one nn.Module, got an empty mapping")
    dotted = [name for name in models if "." in name or "/" in name]
    if dotted:
        raise ConfigError(f"model names must not hold '.' or '/', which separate modules; got {dotted[0]!r}")
    for name, module in models.items():
        if not isinstance(module, nn.Module):
            raise ConfigError(
                f"model must be an nn.Module or a dict of named modules, got {type(module).__name__} {name!r}"
            )
        if isinstance(module, nn.DataParallel):
            raise ConfigError(
                "model must not be an nn.DataParallel: its replicas run in threads and share hooks. "
                "Use DistributedDataParallel, or give the model inside: monitor(model.module)"
            )
    return models


def unwrap(module: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, torch.compile or what Fabric's `setup` returns."""
    while True:
        inner = getattr(module, _INNER.get(type(module).__name__, "_orig_mod"), None)
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def named_modules(models: Mapping[str, nn.Module]) -> list[tuple[str, nn.Module]]:
    """Every module once, under its clean full name; parametrizations left out."""
    found = []
    seen: set[nn.Module] = set()
    for prefix, model in models.items():
        inner = unwrap(model)
        every = list(inner.named_modules(seen))
        modules = [
            (path, module)
            for path, module in every
            if not isinstance(module, parametrize.ParametrizationList) and ".parametrizations." not in f".{path}."
        ]
        for name, module in _without(_wrappers(every), modules):
            found.append((".".join(part for part in (prefix, name) if part), module))
    return found


def clean_names(model: nn.Module, named: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    """What is inside a model under the name its author gave it: `module.` of a wrapper within is left out too."""
    return _without(_wrappers(model.named_modules()), named)


def _wrappers(modules: Iterable[tuple[str, nn.Module]]) -> list[str]:
    """The paths of wrappers within a model."""
    return [path for path, module in modules if type(module).__name__ in _WRAPPER_CLASSES]


def _without(wrappers: Sequence[str], named: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    for path, value in named:
        for wrapper in reversed(wrappers):
            front = f"{wrapper}." if wrapper else ""
            if path == f"{front}module" or path.startswith(f"{front}module."):
                path = front + path.removeprefix(f"{front}module").removeprefix(".")
        yield clean_name(path.removesuffix(".")), value


def discover(
    models: Mapping[str, nn.Module],
    own: dict[Any, ActivationFacts],
    *,
    include: Sequence[Any] = (),
    exclude: Sequence[Any] = (),
) -> list[Target]:
    """The modules to observe: leaves that compute something, and attention blocks; selectors narrow them.

    A selector is a name pattern, a module class, or a function of name and module. One in `include` also brings in
    modules that are left out by default. Raises ConfigError if the selectors leave nothing, or one of them raises.
    """
    named = [(name, module) for name, module in named_modules(models) if not isinstance(module, UNHOOKABLE)]
    roots = {id(unwrap(model)) for model in models.values()}
    attention = tuple(f"{name}." for name, m in named if isinstance(m, nn.MultiheadAttention))
    targets = []
    for name, module in named:
        by_default = _computes(module, is_root=id(module) in roots, own=own)
        # MultiheadAttention uses its projection functionally: a hook on it never fires.
        if attention and name.startswith(attention):
            by_default = False
        if not (_selected(name, module, include) if include else by_default) or _selected(name, module, exclude):
            continue
        targets.append(_target(name, module, own))
    if not targets:
        raise ConfigError(_nothing_left(named, include, exclude))
    return targets


def _selected(name: str, module: nn.Module, selectors: Sequence[Any]) -> bool:
    for selector in selectors:
        if isinstance(selector, str):
            found = matches(name, [selector])
        elif isinstance(selector, type):
            found = isinstance(module, selector)
        else:
            found = _ask(selector, name, module)
        if found:
            return True
    return False


def _ask(selector: Any, name: str, module: nn.Module) -> bool:
    try:
        return bool(selector(name, module))
    except Exception as error:
        raise ConfigError(
            f"include and exclude take functions of (name, module); {selector!r} raised {type(error).__name__} at "
            f"{name or '(root)'!r}: {error}"
        ) from error


def _computes(module: nn.Module, *, is_root: bool, own: dict[Any, ActivationFacts]) -> bool:
    if type(module) in own or isinstance(module, nn.MultiheadAttention):
        return True
    if isinstance(module, _PASSIVE) or type(module).__module__.startswith("torchmetrics."):
        return False
    is_leaf = next(module.children(), None) is None or parametrize.is_parametrized(module)
    return is_leaf and not (is_root and type(module).forward is nn.Module.forward)


def _target(name: str, module: nn.Module, own: dict[Any, ActivationFacts]) -> Target:
    facts = module_facts(module, own)
    weighted = next(module.parameters(), None) is not None or isinstance(module, _WEIGHTED)
    role: Role = "layer" if weighted else "other"
    if facts is not None:
        role = "activation"
    elif isinstance(module, _NORMALIZATION):
        role = "normalization"
    return Target(name or kind_of(module), kind_of(module), role, facts, role == "layer", weakref.ref(module))


def kind_of(module: nn.Module) -> str:
    """Class name as its author wrote it; parametrization and FSDP rename classes."""
    kind = type(module).__name__
    for prefix in ("Parametrized", "FSDP"):
        if len(kind) > len(prefix):
            kind = kind.removeprefix(prefix)
    return kind


def _nothing_left(named: list[tuple[str, nn.Module]], include: Sequence[Any], exclude: Sequence[Any]) -> str:
    names = ", ".join(name or "(root)" for name, _ in named[:8])
    if not include and not exclude:
        return f"the model has no module to observe; its modules are: {names}"
    return (
        f"include={list(include)!r} and exclude={list(exclude)!r} leave no module to observe; "
        f"the model has {len(named)} modules, the first: {names}"
    )
