"""Wrong edits of `check`, the first step's rule, and limits and severities of one's own; see mutants.py.

(file, test files) -> wrong edits of it: what, original, replacement.
"""

from __future__ import annotations

START = {
    ("diagnose/terms.py", "test_judging_options test_ledger"): [
        ("what is ignored is told", "            return None\n", "            return verdict\n"),
    ],
    ("diagnose/terms.py", "test_judging_options"): [
        ("a rule decides before its layer", 'key=lambda one: ":" in one', 'key=lambda one: ":" not in one'),
        ("off is a severity", "if severity in SEVERITIES else None", "if severity else None"),
        ("limits of ones own are not used", "return replace(plain, **given)", "return plain"),
        ("any number is a share", "most = 1 if name in SHARES else math.inf", "most = math.inf"),
        ("a rule of one's own may take the place of another", "        if slug in known:\n", "        if not slug:\n"),
        (
            "rules of one's own are forgotten",
            "    return Terms(_limits(limits), ignore, severities, own)",
            "    return Terms(_limits(limits), ignore, severities)",
        ),
    ],
    ("diagnose/judge.py", "test_judging_options"): [
        (
            "a rule of one's own gives what it likes",
            "given if slug in RULES else [_own(slug, verdict) for verdict in given]",
            "given",
        ),
        ("a rule of one's own may speak for another", "given.rule != slug or ", ""),
        ("evidence of one's own is kept as it is", "evidence=_plain(given.evidence)", "evidence=given.evidence"),
    ],
    ("report/judged.py", "test_judging_options"): [("a log is judged on the usual terms", "Ledger(terms)", "Ledger()")],
    ("checkup.py", "test_checkup"): [
        ("check leaves its hooks", "            session.close()", "            pass"),
        ("check ignores no finding", "if (kept := ledger.terms.apply(v)) is not None", "if (kept := v)"),
        ("check forgets the optimizer", "else ids_of([optimizer])", "else None"),
        ("check forgets the loss", "[model, loss_fn] if isinstance(loss_fn, nn.Module) else [model]", "[model]"),
        ("check speaks", "speaks=False", "speaks=True"),
        (
            "a part of a layer is held",
            "(left := [p for p in own if id(p) not in held])",
            "(left := own) and not any(id(p) in held for p in own)",
        ),
    ],
    ("collect/head.py", "test_checkup"): [
        ("rows of any sum are probabilities", "(out.sum(1) - 1).abs() < _SUM_TOLERANCE", "out.sum(1) > 0"),
        ("equal weights are twins whatever they learn", " and _alike(weight.grad)", ""),
        ("of several losses the first is the loss", "if len(calls.seen) == 1 else", "if calls.seen else"),
        ("the loss is not looked into", "if name and getattr(func", "if False and getattr(func"),
    ],
    ("diagnose/rules/head.py", "test_checkup"): [
        ("reach is judged by its upper end", "ends[0] <= head.target_low and ", ""),
        ("probabilities fit cross-entropy", 'head.rows_are != "probabilities"', "True"),
        ("shapes fit whatever they are", "or head.output_shape == head.target_shape", "or True"),
    ],
    ("diagnose/rules/initialization.py", "test_initialization"): [
        ("any step is the first", "first.step > _FIRST_STEPS", "False"),
        ("a bad start lasts for ever", "if symptom.kind in lasting:", "if symptom.kind:"),
        ("what all share is a signal", "1 - (site.mean_energy or 0.0)", "1.0"),
        ("a gradient grows where it shrinks", '"shrinks" if ratio > 1', '"shrinks" if ratio < 1'),
        ("growth through the depth is fine", "max(ratio, 1 / ratio)", "1 / ratio"),
        ("few flat elements are a warning", "share >= limits.initial_saturated_warning", "True"),
        ("open gates are closed", "if share > limits.initial_gate:", "if share < limits.initial_gate:"),
        ("two layers are a depth", "_MIN_LAYERS = 4", "_MIN_LAYERS = 2"),
    ],
    ("collect/unchanged.py", "test_checkup"): [
        ("check leaves attributes", "vars(module).update(held)", "vars(module).update(tables)"),
        ("check leaves attributes that a forward made", "vars(module).clear()", "pass"),
        ("check leaves its gradients", "            p.grad = grad\n", "            pass\n"),
        ("check leaves its buffers", "buffer.copy_(was)", "pass"),
        ("check leaves the buffers that a forward made", "getattr(module, name).clear()", "pass"),
        ("check leaves the tensors that a forward put in place", "getattr(module, name).update(table)", "pass"),
        ("check leaves the training flag", 'module.training = held["training"]', "pass"),
        ("check uses up random numbers", "torch.set_rng_state(host)", "pass"),
        ("check uses up Python's random numbers", "random.setstate(python)", "pass"),
        ("check uses up NumPy's random numbers", ".random.set_state(numpy)", ".random.get_state()"),
    ],
    ("diagnose/rules/initialization.py", "test_initialization test_checkup"): [
        ("inputs of any size are large", "size is None or size <= limits.input_rms", "size is None or size < 0"),
    ],
    ("diagnose/rules/initialization.py", "test_checkup"): [
        (
            "inputs of no size are large",
            "size is None or size <= limits.input_rms",
            "size is None or size > limits.input_rms",
        ),
    ],
}
