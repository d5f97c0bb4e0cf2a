"""Wrong edits of the C kernel and of what calls it; see mutants.py. All of them are test_fused's to catch."""

# ruff: noqa: E501
from __future__ import annotations

KERNEL = {
    ("collect/kernel.c", "test_fused"): [
        ("non-finite elements count as the shift", "const Floats clean = choose(fine, v, shift);", "const Floats clean = v;"),
        ("non-finite elements are not counted", "to->bad += ~fine;", ""),
        ("zeros are not counted", "to->zeros += v == 0;", ""),
        ("the largest is the smallest", "choose(clean > to->high, clean, to->high)", "choose(clean < to->high, clean, to->high)"),
        ("the spread of the shift stays", "m2 = squares - sum * (sum / by)", "m2 = squares"),
        ("the mean is the shift", "n > 0 ? shift + sum / by : 0", "n > 0 ? shift : 0"),
        ("a unit without numbers has ends", "n > 0 ? low : INFINITE", "low"),
        ("the rest of a row is left out", "if (rest) add(load_some(row + count - rest", "if (0) add(load_some(row + count - rest"),
        ("the filling of a rest counts as non-finite", " - (rest ? WIDE - rest : 0)", ""),
        ("a sample is open where its last position is", "shut &= now;", "shut = now;"),
        ("a sample never ends", "(first + r + 1) % g[MIDDLE] == 0", "0"),
        ("a row is closed where its beginning is", "if (count_of(open)) return 0;\n    }\n    return 1;", "return !count_of(open);\n    }\n    return 1;"),
        ("closed at the upper end is open", " | (v >= facts[CLOSED_HIGH])", ""),
        ("the gate of what is not finite counts", "fine += ok, open += ok & ~closed(v, facts);\n    }\n    if", "fine += ok, open += ~closed(v, facts);\n    }\n    if"),
        ("the table is not interpolated", "here + (at - __builtin_convertvector(left, Floats)) * (next - here)", "here"),
        ("the sign of a slope stays", "(Ints)gate & ok & 0x7fffffff", "(Ints)gate & ok"),
        ("saturated is beyond the end", "high += v >= facts[SATURATED_HIGH];\n    }\n    if", "high += v > facts[SATURATED_HIGH];\n    }\n    if"),
        ("later tiles overwrite the first", "out->columns + from + j", "out->columns + j"),
        ("every element has an octave", "every = g[EVERY];", "every = 1;"),
        ("octaves follow the memory", "octave(row_of(x, g, i / g[INNER]) + i % g[INNER])", "octave(x + i)"),
        ("half of a gradient is squared", "out[1] = total(sum[0] + sum[1])", "out[1] = total(sum[0])"),
        ("the filling of a rest is zero", " - (WIDE - (end - from) % WIDE) % WIDE;", ";"),
        ("a sampled weight is read densely", "after[t][(i + k) * strides[t]]", "after[t][i + k]"),
    ],
    ("collect/plan.py", "test_fused"): [
        ("a bound is not rounded to the tensor's type", ".to(dtype).double().numpy())", ")"),
    ],
    ("collect/fused.py", "test_fused"): [
        ("a gate that the kernel does not know is none", "facts.form is None:", "False:"),
        ("a strided tensor is read as it lies", "x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()", "x"),
        ("a sign that is still to come is lost", " or x.is_neg()", ""),
        ("copies may be as large as they like", "x.numel() > _MOST_COPIED", "False"),
        ("many threads make no difference", "or torch.get_num_threads() <= _MANY_THREADS", "or True"),
        ("float64 is read as float32", "(torch.float32, torch.bfloat16, torch.float16)", "(torch.float32, torch.float64)"),
    ],
    ("collect/kernel.py", "test_fused"): [
        ("the environment does not matter", '== "0":', '== "no":'),
        ("a failing compiler is an error", "except Exception", "except KeyError"),
        ("a library serves every processor", ", _processor().encode()]", "]"),
        ("whoever may write there may be loaded", " and _is_own(folder)", ""),
        ("a cache is for everybody", "mode=0o700", "mode=0o755"),
    ],
    ("collect/reducing.py", "test_fused"): [
        ("an update is taken against the new weights", "after - before for after, before in pairs", "after - after for after, _ in pairs"),
    ],
}  # fmt: skip
