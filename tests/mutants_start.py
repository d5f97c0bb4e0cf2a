"""Wrong edits of `check`, the first step's rule, and limits, severities and rules of one's own; see mutants.py.

(file, test files) -> wrong edits of it: what, original, replacement.
"""

from __future__ import annotations

START = {
    ("coverage.py", "test_coverage"): [
        ("a pattern that matches nothing is not told", "            if patterns:\n", "            if False:\n"),
        ("patterns of functions match nothing", ' if "/" not in one]', "]"),
        (
            "names are those of observed layers",
            "_names(self._collector) | snapshot.sites.keys()",
            "set(snapshot.sites)",
        ),
        ("a slug is part of a name", 'one.rpartition(":")[2]', "one"),
    ],
    ("diagnose/terms.py", "test_judging_options test_ledger"): [
        ("what is ignored is told", "            return None\n", "            return verdict\n"),
    ],
    ("diagnose/terms.py", "test_judging_options"): [
        ("a rule decides before its layer", 'key=lambda one: ":" in one', 'key=lambda one: ":" not in one'),
        ("off is a severity", "if severity in SEVERITIES else None", "if severity else None"),
        (
            "limits of ones own are not used",
            "return replace(plain, **{name: type(getattr(plain, name))(value) for name, value in given.items()})",
            "return plain",
        ),
        ("any number is a share", '    if name in SHARES:\n        return "a number", 0, 1\n', ""),
        ("a rule of one's own may take the place of another", "        if slug in known:\n", "        if not slug:\n"),
        (
            "rules of one's own are forgotten",
            "    return Terms(_limits(limits), ignore, severities, own)",
            "    return Terms(_limits(limits), ignore, severities)",
        ),
        ("counts may be 0", '("a whole number", 1, _MOST)', '("a whole number", 0, _MOST)'),
    ],
    ("diagnose/judge.py", "test_judging_options"): [
        (
            "a rule of one's own gives what it likes",
            "list(given) if slug in RULES else _own(slug, given)",
            "list(given)",
        ),
        ("a rule of one's own may speak for another", "given.rule != slug or ", ""),
        ("evidence of one's own is kept as it is", "evidence=_plain(given.evidence)", "evidence=given.evidence"),
        ("a rule of one's own is open for ever", " or rule in self.terms.rules or ", " or "),
        ("numbers of NumPy are text", 'getattr(value, "shape", None) == ()', "False"),
    ],
    ("report/judged.py", "test_judging_options"): [
        ("a log is judged on the usual terms", "Ledger(terms)", "Ledger()"),
    ],
    ("checkup.py", "test_checkup"): [
        ("check leaves its hooks", "            session.close()", "            pass"),
        ("check ignores no finding", "if (kept := ledger.terms.apply(v)) is not None", "if (kept := v)"),
        (
            "check forgets the optimizer",
            "if id(p) not in held] if optimizers else []",
            "if id(p) not in held and False]",
        ),
        ("check forgets the loss", "[model, *modules_in(loss_fn)]", "[model]"),
        ("check speaks", "guest=True", "guest=False"),
        ("a part of a layer is held", "        elif unheld:", "        elif len(unheld) == len(own) > 0:"),
        ("monitors see what check runs", "if session.pause()]", "if not session]"),
        ("monitors that rest are woken", "if session.pause()]", "if not session.pause() or True]"),
        ("a loss that is no number is fine", "if not loss.finite and", "if False and"),
        ("parameters of the root are the model", "    if not module:\n", "    if module is None:\n"),
    ],
    ("collect/head.py", "test_checkup"): [
        ("rows of any sum are probabilities", "((out.sum(dim) - 1).abs() < slack)", "(out.sum(dim) > 0)"),
        ("equal weights are twins whatever they learn", " and _alike(weight.grad)", ""),
        ("of several losses the first is the loss", "if len(calls.seen) == 1 else", "if calls.seen else"),
        ("the loss is not looked into", "        if name and getattr(func", "        if False and getattr(func"),
        (
            "what was computed last is the head",
            '_SHAPES:\n            return _KINDS.get(name, "")',
            "_SHAPES and name in _KINDS:\n            return _KINDS[name]",
        ),
        (
            "the first argument is the output",
            "Judged(name, target, output) if swapped",
            "Judged(name, output, target) if swapped",
        ),
        ("rounding of short types is no rounding", "max(1e-3, _ROUNDING * eps)", "1e-3"),
        ("a layer is the head if it ran last", "if place == _place(tensor)", "if place"),
    ],
    ("diagnose/rules/head.py", "test_checkup"): [
        ("reach is judged by its upper end", "ends[0] <= head.target_low and ", ""),
        ("probabilities fit cross-entropy", 'head.rows_are != "probabilities"', "True"),
        ("shapes fit whatever they are", "head.compared <= math.prod(head.output_shape)", "True"),
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
        ("check leaves its gradients", 'after.callback(setattr, leaf, "grad", leaf.grad)', "pass"),
        ("check leaves its buffers", "tensor.data.copy_(was)", "pass"),
        ("check leaves the buffers that a forward made", "getattr(module, name).clear()", "pass"),
        ("check leaves the tensors that a forward put in place", "getattr(module, name).update(table)", "pass"),
        ("check leaves the training flag", "    module.training = training", "    pass"),
        ("check uses up random numbers", "torch.set_rng_state(host)", "pass"),
        ("check uses up Python's random numbers", "random.setstate(python)", "pass"),
        ("check uses up NumPy's random numbers", ".random.set_state(numpy)", ".random.get_state()"),
        ("check leaves the weights' storage", "        tensor.data = data\n", ""),
        ("check runs optimizers in the backward", "        hooks.clear()\n", ""),
        ("check switches optimizers in the backward off", "        after.callback(hooks.update, dict(hooks))\n", ""),
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
    ("cli.py", "test_judging_options"): [
        (
            "what is ignored is judged again",
            "return bool(arguments.rejudge or",
            "return bool(arguments.ignore or arguments.rejudge or",
        ),
        ("a rule that fails is no matter", "USAGE if failures else FAILED", "FAILED"),
        ("rules beside the training are not found", "        sys.path.insert(0, os.getcwd())", "        pass"),
    ],
    ("lightning.py", "test_judging_options"): [
        ("the callback judges on any terms", "        terms_of(self._options)", "        pass"),
    ],
}
