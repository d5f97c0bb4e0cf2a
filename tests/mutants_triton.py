"""Wrong edits of the kernels for a GPU and of what calls them; see mutants.py. All of them are test_triton's to catch."""

# ruff: noqa: E501
from __future__ import annotations

TRITON = {
    ("collect/triton_kernel.py", "test_triton"): [
        ("what is not finite stays in a tile's mean", "tl.sum(tl.where(fine_RC, v, 0.0) * (1.0 / rows), 0)", "tl.sum(v * (1.0 / rows), 0)"),
        ("a tile's mean is what it was taken about", "center_C.to(tl.float64) + shift_C * unit_C", "center_C.to(tl.float64)"),
        ("a tile is not scaled", "tl.minimum(tl.maximum(spread_C, LEAST), MOST)", "(1.0 + 0.0 * spread_C)"),
        ("what lies between two tiles is left out", " + delta_C * delta_C * n_C * share_C", ""),
        ("a tabulated gate has a sign", "tl.abs(here + ", "(here + "),
        ("a tabulated gate is a step", " + (at - left.to(tl.float32)) * (tl.load(table + left + 1) - here)", ""),
        ("what fills up a tile is zero", "_count(there_RC & (v == 0.0))", "_count(v == 0.0)"),
        ("saturated is beyond the upper end", "v >= high_end", "v > high_end"),
        ("what is not finite has an open gate", "(fine_RC & (closed_RC == 0))", "(closed_RC == 0)"),
        ("what fills up a tile opens a unit", "tl.where(there_RC, closed_RC, 1)", "closed_RC"),
        ("a sample opens a unit at its last positions", "tl.minimum(shut_SC, tl.min(tl.reshape(shut_RC, (BS, BP, BC)), 1))", "tl.min(tl.reshape(shut_RC, (BS, BP, BC)), 1)"),
        ("the upper end closes nothing", " | (v >= closed_high)", ""),
        ("octaves are of neighbours in memory", "row_E // middle * step_sample + row_E % middle * step_middle + at_E % inner * step_inner", "at_E"),
        ("what fills up a block has an octave", " - tl.where(bins == 0, spare, 0)", ""),
        ("a gradient is squared in float32", "tl.where(fine_E, v, 0.0).to(tl.float64)", "tl.where(fine_E, v, 0.0)"),
        ("a strided gradient is read as it lies", "if not DENSE:", "if False:"),
    ],
    ("collect/triton_merge.py", "test_triton"): [
        ("a sample opens a unit in each of its parts", "tl.maximum(opened_KC, tl.load(open_KC + at_K[:, None] + unit_C[None, :], mask=ok_KC, other=0))", "opened_KC + tl.load(open_KC + at_K[:, None] + unit_C[None, :], mask=ok_KC, other=0)"),
        ("only the first parts are merged", "for first in range(0, parts, BK):", "for first in range(0, BK, BK):"),
        ("what lies between two parts is left out", "m2_KC + n_KC * apart_KC * apart_KC", "m2_KC"),
        ("finite elements are not finite", "total - tl.sum(n_E, 0)", "tl.sum(n_E, 0)"),
        ("octaves of the last block are all", "counts += tl.load(octaves_BE", "counts = tl.load(octaves_BE"),
    ],
    ("collect/tiling.py", "test_triton"): [
        ("the last samples are left out", "groups, splits = _blocks(along, per_group)", "groups, splits = max(1, along // per_group)"),
        ("positions are split as often as there are tiles", "min(max(1, parts // along), limits.splits)", "across"),
    ],
    ("collect/triton_reducer.py", "test_triton"): [
        ("every element has an octave on a GPU", "every = stride_of(x.numel())", "every = 1 + 0 * stride_of(x.numel())"),
        ("what only counts openings does not compile", "torch.empty(0, BINS, dtype=torch.int32, device=x.device), None)", "None, None)  # type: ignore[arg-type]"),
        ("a kernel that fails is tried again", "self._failed = True", "pass"),
        ("in a graph anything may be compiled", "(None if capturing(x.device) else self._prepare(units, read))", "self._prepare(units, read)"),
        ("a graph shares a table", "known = known._replace(table=table_of(read, x.device))", "pass"),
        ("every layout is remembered", "if len(self._known) >= _MOST_KNOWN:", "if False:"),
        ("a layout is a shape", "return x.device, x.dtype, x.shape, x.stride(), x.data_ptr() % 16", "return x.device, x.dtype, x.shape"),
        ("float64 is read by a GPU's kernel", "torch.bfloat16, torch.float16)", "torch.bfloat16, torch.float16, torch.float64)"),
        ("a gate that a GPU's kernel does not know is none", "asked.gate and facts is not None and facts.gate is not None and facts.form is None", "False"),
        ("a sign that is still to come is lost on a GPU", " and not x.is_neg()", ""),
        ("a GPU's kernels cannot be left out", 'os.environ.get("ACTDIAG_FUSED", "1") != "0" and ', ""),
    ],
    ("collect/fused.py", "test_triton"): [
        ("no tensor of a GPU is reduced by its kernels", "return Triton(host, arenas=arenas) if wanted() else host", "return host"),
    ],
}  # fmt: skip
