"""Tensor and sequence parallelism: which part of a layer's output this rank has.

Where layers are divided among ranks, a tensor is one of three things: a slice (other units of the same samples, after
a column-parallel layer), a copy (every rank has the same, after a row-parallel one), or other samples (other tokens of
the sequence). A DTensor tells it itself. A plain tensor is judged by its layer's weight and its own width; what comes
after a layer without weights of its own and has its width is like that layer's output.

Only the ranks of one dimension of a mesh are looked at; the other dimensions hold other data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from actdiag.collect.spread import local


class Place(NamedTuple):
    """What of a whole a rank has: its units begin at `offset` of `units`.

    `tells`: it counts these elements; `counts`: it counts these samples, which others have too.
    """

    offset: int
    units: int
    tells: bool
    counts: bool


class TensorParallel:
    """This rank among those that share layers: the `at`-th of `size`."""

    def __init__(self, mesh: Any, dim: int) -> None:
        self._mesh, self._dim = mesh, dim
        self.size, self.at = int(mesh.size(dim)), int(mesh.get_coordinate()[dim])
        self._last: tuple[tuple[int, int, int], str] | None = None

    def restart(self) -> None:
        """The next tensor has no layer before it."""
        self._last = None

    def locate(self, module: nn.Module | None, x: Any, out: Tensor, unit_dim: int) -> Place | None:
        """The place of what a module makes of `x`; None where it cannot be told, ValueError where it makes no sense."""
        mine = local(out)
        width = mine.shape[unit_dim] if mine.ndim else 1
        shape = mine.ndim, unit_dim, width
        kind, units = self._by_placement(out, unit_dim)
        if not kind:
            kind, units = self._by_weight(module, x, mine, width)
        if not kind and self._last is not None and self._last[0] == shape:
            kind = self._last[1]
        if not kind:
            if self._last is not None and (module is None or next(module.parameters(), None) is None):
                return None  # of another shape than the layer before: heads of attention, halves of a fused layer
            kind = "copy"
        self._last = shape, kind
        return self._place(kind, units, width)

    def locate_input(self, x: Tensor) -> Place:
        """The place of what goes into the model, units last."""
        mine = local(x)
        width = mine.shape[-1] if mine.ndim else 1
        kind, units = self._by_placement(x, max(mine.ndim - 1, 0))
        return self._place(kind, units, width)

    def _place(self, kind: str, units: int, width: int) -> Place:
        if kind == "slice":
            units = units or width * self.size
            chunk = -(-units // self.size)
            return Place(min(self.at * chunk, units), units, tells=True, counts=self.at == 0)
        first = kind == "other" or self.at == 0
        return Place(0, width, tells=first, counts=first)

    def whole_sum(self, g: Any) -> Any:
        """What this rank has of a gradient; one that ranks have still to add up stays a DTensor, which is refused."""
        dim = _dim_in(g, self._mesh, self._dim)
        return g if dim is not None and g.placements[dim].is_partial() else local(g)

    def _by_placement(self, out: Any, unit_dim: int) -> tuple[str, int]:
        """Of a DTensor."""
        dim = _dim_in(out, self._mesh, self._dim)
        if dim is None:
            return "", 0
        placement = out.placements[dim]
        if placement.is_partial():
            raise ValueError("a partial sum, which is no activation before the ranks have added theirs")
        if placement.is_replicate():
            return "copy", 0
        return ("slice", out.shape[unit_dim]) if placement.dim % out.ndim == unit_dim else ("other", 0)

    def _by_weight(self, module: nn.Module | None, x: Any, mine: Tensor, width: int) -> tuple[str, int]:
        """Of a plain tensor that comes from a layer whose weight is divided, or only kept as a DTensor."""
        weight = getattr(module, "weight", None)
        dim = _dim_in(weight, self._mesh, self._dim)
        if dim is None or weight is None:
            return "", 0
        if weight.ndim < 2:  # a normalization: of a sequence that is divided, if its input does not say otherwise
            kind, _ = self._by_placement(x, x.ndim - 1) if isinstance(x, Tensor) else ("", 0)
            return ("copy" if kind == "copy" else "other"), 0
        whole = int(weight.shape[1 if isinstance(module, nn.Embedding) else 0])
        chunk = -(-whole // self.size)
        if width == whole:
            return ("other", 0) if self._fewer_rows(module, x, mine) else ("copy", 0)
        if width != max(0, min(chunk, whole - self.at * chunk)):
            raise ValueError(f"{width} of {whole} units, which is not this rank's share")
        return "slice", whole

    def _fewer_rows(self, module: nn.Module | None, x: Any, mine: Tensor) -> bool:
        """Whether a layer has left this rank only its part of the rows (reduce-scatter over the sequence)."""
        if not isinstance(x, Tensor) or not x.numel():
            return False
        rows = x.numel() if isinstance(module, nn.Embedding) else x.numel() // x.shape[-1]
        return mine.numel() // mine.shape[-1] < rows


def _dim_in(x: Any, mesh: Any, dim: int) -> int | None:
    """Which dimension of a DTensor's own mesh is this dimension of this mesh."""
    own = getattr(x, "device_mesh", None)
    if own is None:
        return None
    if own is mesh or own == mesh:
        return dim
    name = mesh.mesh_dim_names[dim] if mesh.mesh_dim_names else None
    names = own.mesh_dim_names or ()
    return names.index(name) if name is not None and name in names else None


def find_parallel(models: Iterable[nn.Module]) -> TensorParallel | None:
    """The dimension along which layers are divided, if there is one: a DTensor's that is not of fully_shard."""
    for model in models:
        sharded = _sharding_dims(model)
        # Experts (one parameter for several of them) are divided among ranks that have other samples: no layer is.
        for parameter in _of_layers(model):
            mesh = getattr(parameter, "device_mesh", None)
            if mesh is None or mesh.get_coordinate() is None:
                continue
            names = mesh.mesh_dim_names or (None,) * mesh.ndim
            dims = [dim for dim in range(mesh.ndim) if mesh not in sharded and names[dim] not in sharded]
            dims = [dim for dim in dims if mesh.size(dim) > 1]
            if len(dims) == 1:
                return TensorParallel(mesh, dims[0])
    return None


def _of_layers(model: nn.Module) -> Iterable[Tensor]:
    """Parameters of layers: not stacks of experts, which are divided among ranks that have other samples."""
    for module in model.modules():
        convolves = isinstance(module, nn.modules.conv._ConvNd)
        yield from (p for p in module.parameters(recurse=False) if p.ndim < 3 or convolves)


def _sharding_dims(model: nn.Module) -> set[Any]:
    """Meshes of fully_shard, and the names of their dimensions."""
    found: set[Any] = set()
    for module in model.modules():
        for group in _sharding_groups(module):
            mesh = getattr(getattr(group, "mesh_info", None), "mesh", None)
            if mesh is not None:
                found |= {mesh, *(mesh.mesh_dim_names or ())}
    return found


def _sharding_groups(module: nn.Module) -> list[Any]:
    ask: Any = getattr(module, "_get_fsdp_state", None)
    state = ask() if callable(ask) else None
    return list(getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)])


def gradient_divisor(models: Iterable[nn.Module]) -> float | None:
    """By what fully_shard divides the summed gradients where it was told to (`set_gradient_divide_factor`)."""
    found = {
        getattr(group, "gradient_divide_factor", None)
        for model in models
        for module in model.modules()
        for group in _sharding_groups(module)
        if group is not None
    }
    return float(found.pop() or 0) or None if len(found) == 1 else None
