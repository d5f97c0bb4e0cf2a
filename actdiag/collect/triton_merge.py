"""The second launch of the Triton reducer: parts are merged in the order of their numbers, in float64. Imports triton.

Legend: C units of a tile, K parts, E elements of a block, B programs of the first launch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from actdiag.collect.triton_kernel import BINS, COUNTS, join, store_sums, store_units


@triton.jit
def _merge_units(units_K5C, columns_5C, unit_C, units, parts, BK: tl.constexpr, BC: tl.constexpr):
    n_C, mean_C, m2_C = tl.zeros([BC], tl.float64), tl.zeros([BC], tl.float64), tl.zeros([BC], tl.float64)
    low_C, high_C = tl.full([BC], float("inf"), tl.float64), tl.full([BC], float("-inf"), tl.float64)
    for first in range(0, parts, BK):
        part_K = first + tl.arange(0, BK)
        ok_KC = (part_K < parts)[:, None] & (unit_C < units)[None, :]
        at_KC = units_K5C + (part_K.to(tl.int64) * 5 * units)[:, None] + unit_C[None, :]
        n_KC, mean_KC = tl.load(at_KC, mask=ok_KC, other=0.0), tl.load(at_KC + units, mask=ok_KC, other=0.0)
        m2_KC = tl.load(at_KC + 2 * units, mask=ok_KC, other=0.0)
        more_C = tl.sum(n_KC, 0)
        mean_more_C = tl.sum(n_KC * mean_KC, 0) / tl.maximum(more_C, 1.0)
        apart_KC = mean_KC - mean_more_C[None, :]
        m2_more_C = tl.sum(m2_KC + n_KC * apart_KC * apart_KC, 0)
        mean_C, m2_C = join(n_C, mean_C, m2_C, more_C, mean_more_C, m2_more_C)
        n_C += more_C
        low_C = tl.minimum(low_C, tl.min(tl.load(at_KC + 3 * units, mask=ok_KC, other=float("inf")), 0))
        high_C = tl.maximum(high_C, tl.max(tl.load(at_KC + 4 * units, mask=ok_KC, other=float("-inf")), 0))
    store_units(columns_5C, unit_C, units, n_C, mean_C, m2_C, low_C, high_C)


@triton.jit
def _merge_open(open_KC, to_C, unit_C, units, groups, splits, BK: tl.constexpr, BC: tl.constexpr):
    """Splits of one sample are joined first: it opened a unit if any of them did."""
    total_C = tl.zeros([BC], tl.int64)
    for first in range(0, groups, BK):
        group_K = first + tl.arange(0, BK)
        ok_KC = (group_K < groups)[:, None] & (unit_C < units)[None, :]
        opened_KC = tl.zeros([BK, BC], tl.int32)
        for split in range(splits):
            at_K = (group_K.to(tl.int64) * splits + split) * units
            opened_KC = tl.maximum(opened_KC, tl.load(open_KC + at_K[:, None] + unit_C[None, :], mask=ok_KC, other=0))
        total_C += tl.sum(opened_KC, 0)
    tl.store(to_C + unit_C, total_C.to(tl.float64), mask=unit_C < units)


@triton.jit
def _merge_sums(sums_5B, to_6, programs, total, SIZE: tl.constexpr):
    n_E, gate_E, low_E = tl.zeros([SIZE], tl.float64), tl.zeros([SIZE], tl.float64), tl.zeros([SIZE], tl.float64)
    high_E, zeros_E = tl.zeros([SIZE], tl.float64), tl.zeros([SIZE], tl.float64)
    for first in range(0, programs, SIZE):
        i_E = first + tl.arange(0, SIZE)
        at_E, ok_E = sums_5B + i_E, i_E < programs
        n_E += tl.load(at_E, mask=ok_E, other=0.0)
        gate_E += tl.load(at_E + programs, mask=ok_E, other=0.0)
        low_E += tl.load(at_E + 2 * programs, mask=ok_E, other=0.0)
        high_E += tl.load(at_E + 3 * programs, mask=ok_E, other=0.0)
        zeros_E += tl.load(at_E + 4 * programs, mask=ok_E, other=0.0)
    store_sums(to_6, 0, 1, n_E, gate_E, low_E, high_E, zeros_E)
    tl.store(to_6 + 5, total - tl.sum(n_E, 0))


@triton.jit(do_not_specialize=COUNTS)
def merge_parts(
    units_K5C, open_KC, sums_5B, octaves_BE, columns_5C, open_C, sums_6, octaves_E,
    groups, splits, units, tiles, programs, total, octave_blocks,
    MOMENTS: tl.constexpr, OPEN: tl.constexpr, SUMS: tl.constexpr, OCTAVES: tl.constexpr,
    BK: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Programs below `tiles` merge units, the next one sums, the last one octaves where there are any."""
    program = tl.program_id(0)
    if program < tiles:
        unit_C = program * BC + tl.arange(0, BC)
        if MOMENTS:
            _merge_units(units_K5C, columns_5C, unit_C, units, groups * splits, BK, BC)
        if OPEN:
            _merge_open(open_KC, open_C, unit_C, units, groups, splits, BK, BC)
    elif program == tiles:
        if SUMS:
            _merge_sums(sums_5B, sums_6, programs, total, BINS)
    elif OCTAVES:
        bins = tl.arange(0, BINS)
        counts = tl.zeros([BINS], tl.int64)
        for block in range(octave_blocks):
            counts += tl.load(octaves_BE + block * BINS + bins).to(tl.int64)
        tl.store(octaves_E + bins, counts)
