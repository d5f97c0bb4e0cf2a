"""How a tensor is cut into tiles for a GPU, and tiles are given to programs. It follows from the shape alone.

Sizes of a tile are powers of four: each is compiled as a kernel of its own, and a network has few of them.
"""

from __future__ import annotations

from typing import NamedTuple

OCTAVE_BLOCK = 4096
"""Elements that one program counts octaves of."""


class Limits(NamedTuple):
    """Elements of a tile (a power of four), programs to aim at, and the most parts of one unit.

    1,024 programs of 256 threads fill a large GPU about once (reasoned, not measured). One program merges all parts of
    a unit, and each part takes 40 bytes a unit.
    """

    tile: int = 4096
    programs: int = 1024
    parts: int = 512
    splits: int = 64


class Tiling(NamedTuple):
    """Tiles of `at_once` samples x `positions` x `units`.

    A part is `per_group` such tiles along the samples by `per_split` along the positions. Positions are split among
    several parts only where a tile has one sample, so that a part speaks of whole samples or of a piece of one.
    """

    at_once: int
    positions: int
    units: int
    groups: int
    per_group: int
    splits: int
    per_split: int
    unit_tiles: int

    @property
    def parts(self) -> int:
        """Parts of one tile of units."""
        return self.groups * self.splits

    @property
    def programs(self) -> int:
        return self.parts * self.unit_tiles


def tiling_of(shape: tuple[int, int, int], *, units_inner: bool, limits: Limits) -> Tiling:
    """Of samples, positions and units, none of them 0. `units_inner`: neighbours in memory are units, not positions."""
    samples, positions, units = shape
    tile = limits.tile
    if units_inner:
        wide = min(_rung(units), max(tile // _rung(samples * positions), min(64, tile)))
    else:
        wide = min(_rung(units), max(1, tile // min(_rung(positions), max(1, tile // 4))))
    deep = min(_rung(positions), tile // wide)
    at_once = tile // (wide * deep)
    along, across, unit_tiles = _blocks(samples, at_once), _blocks(positions, deep), _blocks(units, wide)
    parts = max(1, min(limits.parts, limits.programs // unit_tiles, along * across))
    per_group = _blocks(along, min(parts, along))
    per_split = _blocks(across, min(max(1, parts // along), limits.splits))
    groups, splits = _blocks(along, per_group), _blocks(across, per_split)
    return Tiling(at_once, deep, wide, groups, per_group, splits, per_split, unit_tiles)


def _blocks(n: int, size: int) -> int:
    return -(-n // size)


def _rung(n: int) -> int:
    """The smallest power of four that is not below n."""
    return 1 << (((n - 1).bit_length() + 1) // 2 * 2)
