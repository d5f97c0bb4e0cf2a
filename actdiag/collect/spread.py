"""How a parameter is spread over ranks: whole on each of them, or a part, of which others may have a copy.

`fully_shard`, HSDP and tensor parallelism make DTensors, which tell it themselves; FullyShardedDataParallel (FSDP1) has
flat local pieces, and its handles tell. Nothing here is collective: sums over a local part are joined with the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_PIPELINE = ("pp", "pipe", "pipeline", "stage")
"""Names of mesh dimensions along which ranks have different layers, not copies of the same."""


class Share(NamedTuple):
    """`part`: this rank has a part of the whole. `copied`: a rank before it has the same part, and tells of it."""

    part: bool = False
    copied: bool = False


WHOLE = Share()


def local(x: Tensor) -> Tensor:
    """What this rank has of a tensor. Waits for a transfer that is under way, for nothing else."""
    if hasattr(x, "to_local"):
        x = x.to_local()
    if hasattr(x, "trigger_wait"):
        x = x.trigger_wait()
    return x


def share_of(parameter: Tensor) -> Share:
    """The share of a DTensor; WHOLE for any other tensor."""
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is None:
        return WHOLE
    at = mesh.get_coordinate()
    if at is None:
        return Share(part=True, copied=True)
    divided = [_apart(placement) and mesh.size(dim) > 1 for dim, placement in enumerate(parameter.placements)]  # type: ignore[attr-defined]
    if not any(divided):
        return WHOLE
    twin = any(where > 0 for where, apart in zip(at, divided, strict=True) if not apart)
    return Share(part=True, copied=twin or _replica(mesh))


def _apart(placement: Any) -> bool:
    """Whether ranks have different shards: `is_shard` does not hold for the strided ones of a 2-D mesh."""
    return not placement.is_replicate() and not placement.is_partial()


def as_parameter(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient laid out as its parameter, where this rank can cut its part out of a copy: no communication."""
    have, want = (getattr(x, "placements", None) for x in (gradient, parameter))
    if have is None or want is None or have == want:
        return gradient
    if any(a != b and not (a.is_replicate() and b.is_shard()) for a, b in zip(have, want, strict=True)):
        return gradient
    with torch.no_grad():
        laid_out: Tensor = gradient.detach().redistribute(gradient.device_mesh, want)  # type: ignore[attr-defined]
    return laid_out


class Term(NamedTuple):
    """A gradient that is one term of a sum over ranks: of which shard, by what to multiply it, told by another rank."""

    shard: str
    weight: float
    copied: bool


def term_of(gradient: Tensor) -> Term | None:
    """What a gradient is a term of: a DTensor with a partial placement (sequence parallelism); None for any other."""
    mesh = getattr(gradient, "device_mesh", None)
    at = mesh.get_coordinate() if mesh is not None else None
    if mesh is None or at is None:
        return None
    placements = list(enumerate(gradient.placements))  # type: ignore[attr-defined]
    partial = [(dim, placement) for dim, placement in placements if placement.is_partial()]
    if not partial:
        return None
    weight = 1.0
    for dim, placement in partial:
        weight /= mesh.size(dim) if placement.reduce_op == "avg" else 1
    shard = ",".join(f"{dim}:{at[dim]}" for dim, placement in placements if _apart(placement))
    twin = any(at[dim] > 0 for dim, placement in placements if placement.is_replicate())
    return Term(shard, weight, twin or _replica(mesh))


def _replica(mesh: Any) -> bool:
    """Whether the mesh is one of several that hold the same, and not the first of them."""
    root = mesh._get_root_mesh() if hasattr(mesh, "_get_root_mesh") else None
    names = getattr(root, "mesh_dim_names", None)
    if root is None or root is mesh or names is None:
        return False
    # The ranks of a mesh tell along which dimensions of the root it runs: a flattened one has a name of its own.
    mine = root.mesh == torch.distributed.get_rank()
    at = mine.nonzero()[0].tolist() if bool(mine.any()) else []
    inside = torch.isin(root.mesh, mesh.mesh)
    for dim, (name, where) in enumerate(zip(names, at, strict=False)):
        line = inside[tuple(slice(None) if d == dim else x for d, x in enumerate(at))]
        if where > 0 and name not in _PIPELINE and not bool(line[0]):
            return True
    return False


def flat_shares(models: Iterable[nn.Module]) -> dict[int, Share]:
    """The shares of parameters that FSDP1 has made flat, by their id."""
    found: dict[int, Share] = {}
    for model in models:
        for module in model.modules():
            handle: Any = getattr(module, "_handle", None)
            flat = getattr(handle, "flat_param", None)
            if type(module).__name__ == "FullyShardedDataParallel" and isinstance(flat, Tensor):
                share = Share(part=bool(handle.uses_sharded_strategy), copied=_has_twin(module))
                found |= {
                    id(p): share if share.part else WHOLE for p in (flat, *(getattr(flat, "_params", None) or ()))
                }
    return found


def _has_twin(module: Any) -> bool:
    """Whether a hybrid strategy has given an earlier group of ranks the same shards."""
    between = getattr(module, "_inter_node_pg", None)
    return between is not None and torch.distributed.get_rank(between) > 0


def uneven(models: Iterable[Any]) -> bool:
    """Whether a model runs under DistributedDataParallel.join: ranks that are out of inputs make no steps."""
    return any(getattr(getattr(model, "_join_config", None), "enable", False) for model in models)
