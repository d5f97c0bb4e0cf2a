"""The first launch of the Triton reducer: sums of parts of a tensor. Imports triton, so that it is imported lazily.

What each number is, the eager functions in moments.py, histogram.py and units.py say. A tensor is seen as samples x
positions x units with any strides. `reduce_parts` reads it once, and the at most 65,536 elements whose octaves are
counted once more. Each program goes through tiles of BS samples x BP positions x BC units and leaves the sums of its
part in memory of its own; `merge_parts` in triton_merge.py adds them in the order of their numbers. Nothing in global
memory is added to by several programs, and what a part holds follows from shape and memory order: the same tensor
gives the same bits.

Within a tile sums are float32, about the tile's own mean and in units of its own spread, so that nothing overflows,
underflows or cancels that the tensor itself can hold. From tile to tile they are float64.

Legend: C units of a tile, K parts, R rows of a tile (samples x positions), S samples of a tile, B programs or blocks,
E elements of a block.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from actdiag.collect.plan import FORMS, TABLE
from actdiag.collect.tiling import OCTAVE_BLOCK

OPEN_FORM: Any = tl.constexpr(FORMS["open"])
TABLE_FORM: Any = tl.constexpr(FORMS["table"])
TABLE_LOW: Any = tl.constexpr(TABLE[0])
TABLE_HIGH: Any = tl.constexpr(TABLE[1])
TABLE_STEPS: Any = tl.constexpr(TABLE[2])
BINS: Any = tl.constexpr(512)
BLOCK: Any = tl.constexpr(OCTAVE_BLOCK)
LEAST: Any = tl.constexpr(1e-30)
MOST: Any = tl.constexpr(1e30)

COUNTS = [
    *("samples", "per_group", "splits", "per_split", "tiles", "octave_blocks", "sampled", "every"),
    *("groups", "programs", "total", "n", "middle", "inner", "per_program"),
]
"""Arguments whose values make no kernel of their own; those of strides do: one of 1 is read as neighbours in memory."""


@triton.jit
def _is_finite(v):
    return (v.to(tl.int32, bitcast=True) & 0x7F800000) != 0x7F800000


@triton.jit
def _tile_moments(v, fine_RC, n_C, rows: tl.constexpr):
    """Mean and m2 of each unit of a tile, float64, and its ends, float32. `rows` is a power of two: 1/rows is exact."""
    by_C = tl.maximum(n_C, 1).to(tl.float32)
    center_C = tl.sum(tl.where(fine_RC, v, 0.0) * (1.0 / rows), 0) * (rows / by_C)
    low_C = tl.min(tl.where(fine_RC, v, float("inf")), 0)
    high_C = tl.max(tl.where(fine_RC, v, float("-inf")), 0)
    spread_C = tl.maximum(high_C - center_C, center_C - low_C)
    scale_C = 1.0 / tl.minimum(tl.maximum(spread_C, LEAST), MOST)
    deviation = tl.where(fine_RC, v - center_C[None, :], 0.0) * scale_C[None, :]
    unit_C = 1.0 / scale_C.to(tl.float64)
    shift_C = tl.sum(deviation, 0).to(tl.float64) / by_C
    square_C = tl.sum(deviation * deviation, 0).to(tl.float64) - by_C * shift_C * shift_C
    mean_C = tl.where(n_C > 0, center_C.to(tl.float64) + shift_C * unit_C, 0.0)
    return mean_C, tl.maximum(square_C, 0.0) * unit_C * unit_C, low_C, high_C


@triton.jit
def join(n_C, mean_C, m2_C, more_C, mean_more_C, m2_more_C):
    """Mean and m2 of both, see moments.merge: float64, and a part without elements changes nothing."""
    share_C = more_C / tl.maximum(n_C + more_C, 1.0)
    delta_C = mean_more_C - mean_C
    return mean_C + delta_C * share_C, m2_C + m2_more_C + delta_C * delta_C * n_C * share_C


@triton.jit
def _count(holds_RC):
    return tl.sum(holds_RC.to(tl.int32), 0).to(tl.float64)


@triton.jit
def _from_table(v, table):
    """Linear between the entries and flat beyond them, without the sign. NaN must have been taken out."""
    at = (tl.minimum(tl.maximum(v, TABLE_LOW), TABLE_HIGH) - TABLE_LOW) * (TABLE_STEPS / (TABLE_HIGH - TABLE_LOW))
    left = tl.minimum(at.to(tl.int32), TABLE_STEPS - 1)
    here = tl.load(table + left)
    return tl.abs(here + (at - left.to(tl.float32)) * (tl.load(table + left + 1) - here))


@triton.jit
def _gates(v, fine_RC, closed_RC, table, a, b, c, form: tl.constexpr):
    """Sum of the gates of each unit of a tile, float64."""
    if form == OPEN_FORM:
        return tl.sum((fine_RC & (closed_RC == 0)).to(tl.int32), 0).to(tl.float64)
    clean = tl.where(fine_RC, v, 0.0)
    gate = _from_table(clean, table) if form == TABLE_FORM else a + clean * (b + c * clean)
    return tl.sum(tl.where(fine_RC, gate, 0.0), 0).to(tl.float64)


@triton.jit
def _count_octaves(
    x, to_BE, block, sampled, every, middle, inner, step_sample, step_middle, step_inner, size: tl.constexpr
):
    """Counters of sign and exponent of every `every`-th element, in the order of the dimensions."""
    i_E = block * size + tl.arange(0, size)
    at_E = i_E.to(tl.int64) * every
    row_E = at_E // inner
    offset_E = row_E // middle * step_sample + row_E % middle * step_middle + at_E % inner * step_inner
    v_E = tl.load(x + offset_E, mask=i_E < sampled, other=0.0).to(tl.float32)
    bin_E = tl.where(i_E < sampled, (v_E.to(tl.int32, bitcast=True) >> 23) & (BINS - 1), 0)
    bins = tl.arange(0, BINS)
    # What fills up the block was counted as bin 0: not every release of triton has a mask here.
    spare = tl.sum((i_E >= sampled).to(tl.int32), 0)
    counts = tl.histogram(bin_E, BINS) - tl.where(bins == 0, spare, 0)
    tl.store(to_BE + block * BINS + bins, counts)


@triton.jit
def store_sums(to_5B, program, programs, n_C, gate_C, low_C, high_C, zeros_C):
    """One number a program and field; what the fields are of a gradient, see gradient_parts."""
    tl.store(to_5B + program, tl.sum(n_C, 0))
    tl.store(to_5B + programs + program, tl.sum(gate_C, 0))
    tl.store(to_5B + 2 * programs + program, tl.sum(low_C, 0))
    tl.store(to_5B + 3 * programs + program, tl.sum(high_C, 0))
    tl.store(to_5B + 4 * programs + program, tl.sum(zeros_C, 0))


@triton.jit
def store_units(to_5C, unit_C, units, n_C, mean_C, m2_C, low_C, high_C):
    """The moments of some units, as five rows of float64 [5, units]; what lies beyond the last unit is not stored."""
    to_C, ok_C = to_5C + unit_C, unit_C < units
    tl.store(to_C, n_C, mask=ok_C)
    tl.store(to_C + units, mean_C, mask=ok_C)
    tl.store(to_C + 2 * units, m2_C, mask=ok_C)
    tl.store(to_C + 3 * units, low_C.to(tl.float64), mask=ok_C)
    tl.store(to_C + 4 * units, high_C.to(tl.float64), mask=ok_C)


@triton.jit
def _load_tile(
    x, sample_R, position_R, unit_C, samples, positions, units, step_sample, step_position, step_unit
):  # fmt: skip
    """A tile as float32, and which of its elements there are."""
    there_RC = ((sample_R < samples) & (position_R < positions))[:, None] & (unit_C < units)[None, :]
    at_R = sample_R.to(tl.int64) * step_sample + position_R.to(tl.int64) * step_position
    at_RC = at_R[:, None] + (unit_C.to(tl.int64) * step_unit)[None, :]
    return tl.load(x + at_RC, mask=there_RC, other=0.0).to(tl.float32), there_RC


@triton.jit
def _reduce_part(
    x, table, units_K5C, open_KC, sums_5B, program, programs,
    samples, positions, units, step_sample, step_position, step_unit, per_group, splits, per_split, tiles,
    closed_low, closed_high, low_end, high_end, a, b, c,
    MOMENTS: tl.constexpr, GATE: tl.constexpr, FORM: tl.constexpr, OPEN: tl.constexpr,
    BS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A sample is in one group whole, or its positions are in several splits and BS is 1: see tiling.py."""
    part, unit_C, row_R = program // tiles, program % tiles * BC + tl.arange(0, BC), tl.arange(0, BS * BP)
    n_C, mean_C, m2_C = tl.zeros([BC], tl.float64), tl.zeros([BC], tl.float64), tl.zeros([BC], tl.float64)
    low_C, high_C = tl.full([BC], float("inf"), tl.float32), tl.full([BC], float("-inf"), tl.float32)
    gate_C, zeros_C = tl.zeros([BC], tl.float64), tl.zeros([BC], tl.float64)
    under_C, over_C, open_C = tl.zeros([BC], tl.float64), tl.zeros([BC], tl.float64), tl.zeros([BC], tl.int32)
    for i in range(per_group):
        sample_R = (part // splits * per_group + i) * BS + row_R // BP
        shut_SC = tl.full([BS, BC], 1, tl.int32)
        for j in range(per_split):
            position_R = (part % splits * per_split + j) * BP + row_R % BP
            v, there_RC = _load_tile(
                x, sample_R, position_R, unit_C, samples, positions, units, step_sample, step_position, step_unit
            )
            fine_RC = there_RC & _is_finite(v)
            closed_RC = ((v <= closed_low) | (v >= closed_high)).to(tl.int32)
            more_C = tl.sum(fine_RC.to(tl.int32), 0)
            if MOMENTS:
                mean_more_C, m2_more_C, low_more_C, high_more_C = _tile_moments(v, fine_RC, more_C, BS * BP)
                mean_C, m2_C = join(n_C, mean_C, m2_C, more_C.to(tl.float64), mean_more_C, m2_more_C)
                low_C, high_C = tl.minimum(low_C, low_more_C), tl.maximum(high_C, high_more_C)
                zeros_C += _count(there_RC & (v == 0.0))
            n_C += more_C.to(tl.float64)
            if GATE:
                if FORM != 0:
                    gate_C += _gates(v, fine_RC, closed_RC, table, a, b, c, FORM)
                under_C += _count(there_RC & (v <= low_end))
                over_C += _count(there_RC & (v >= high_end))
            if OPEN:
                shut_RC = tl.where(there_RC, closed_RC, 1)
                shut_SC = tl.minimum(shut_SC, tl.min(tl.reshape(shut_RC, (BS, BP, BC)), 1))
        open_C += tl.sum(1 - shut_SC, 0)
    if MOMENTS:
        store_units(units_K5C + part.to(tl.int64) * 5 * units, unit_C, units, n_C, mean_C, m2_C, low_C, high_C)
    if OPEN:
        tl.store(open_KC + part.to(tl.int64) * units + unit_C, open_C, mask=unit_C < units)
    if MOMENTS or GATE:
        store_sums(sums_5B, program, programs, n_C, gate_C, under_C, over_C, zeros_C)


@triton.jit(do_not_specialize=COUNTS)
def reduce_parts(
    x, table, units_K5C, open_KC, sums_5B, octaves_BE,
    samples, positions, units, step_sample, step_position, step_unit,
    per_group, splits, per_split, tiles, octave_blocks, sampled, every,
    closed_low, closed_high, low_end, high_end, a, b, c,
    MOMENTS: tl.constexpr, GATE: tl.constexpr, FORM: tl.constexpr, OPEN: tl.constexpr, UNITS_LAST: tl.constexpr,
    BS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Programs below `octave_blocks` count octaves, each of the others one part of one tile of units."""
    program = tl.program_id(0)
    if program < octave_blocks:
        if UNITS_LAST:
            _count_octaves(
                x, octaves_BE, program, sampled, every, positions, units, step_sample, step_position, step_unit, BLOCK
            )
        else:
            _count_octaves(
                x, octaves_BE, program, sampled, every, units, positions, step_sample, step_unit, step_position, BLOCK
            )
    else:
        _reduce_part(
            x, table, units_K5C, open_KC, sums_5B, program - octave_blocks, tl.num_programs(0) - octave_blocks,
            samples, positions, units, step_sample, step_position, step_unit, per_group, splits, per_split, tiles,
            closed_low, closed_high, low_end, high_end, a, b, c, MOMENTS, GATE, FORM, OPEN, BS, BP, BC,
        )  # fmt: skip


@triton.jit(do_not_specialize=COUNTS)
def gradient_parts(
    x, sums_5B, octaves_BE, n, middle, inner, step_sample, step_middle, step_inner, per_program, octave_blocks,
    sampled, every, DENSE: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Fields are finite elements, squares, zeros, non-finite ones and nothing. DENSE: one after the other in memory."""
    program = tl.program_id(0)
    if program < octave_blocks:
        _count_octaves(
            x, octaves_BE, program, sampled, every, middle, inner, step_sample, step_middle, step_inner, BLOCK
        )
    else:
        program -= octave_blocks
        squares_E = tl.zeros([SIZE], tl.float64)
        n_E, zeros_E, bad_E = tl.zeros([SIZE], tl.int32), tl.zeros([SIZE], tl.int32), tl.zeros([SIZE], tl.int32)
        for i in range(per_program):
            i_E = (program.to(tl.int64) * per_program + i) * SIZE + tl.arange(0, SIZE)
            at_E = i_E
            if not DENSE:
                row_E = i_E // inner
                at_E = row_E // middle * step_sample + row_E % middle * step_middle + i_E % inner * step_inner
            v = tl.load(x + at_E, mask=i_E < n, other=0.0).to(tl.float32)
            fine_E = (i_E < n) & _is_finite(v)
            clean_E = tl.where(fine_E, v, 0.0).to(tl.float64)
            squares_E += clean_E * clean_E
            n_E += fine_E.to(tl.int32)
            zeros_E += ((i_E < n) & (v == 0.0)).to(tl.int32)
            bad_E += ((i_E < n) & (fine_E == 0)).to(tl.int32)
        store_sums(sums_5B, program, tl.num_programs(0) - octave_blocks, n_E, squares_E, zeros_E, bad_E, n_E - n_E)
