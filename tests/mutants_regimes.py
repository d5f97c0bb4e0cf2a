"""Wrong edits of what makes the regimes right: compiled code, resume, odd cases; see mutants.py.

Each is (what, file, original, replacement, test files).
"""

from __future__ import annotations

REGIMES = [
    ("traced calls do not count", "collect/hooks.py", "site.traced or ", "", "test_compile"),
    ("all traced calls have one number", "collect/tracing.py", "self._calls.get(key, -1) + 1", "0", "test_compile"),
    (
        "gradients of compiled calls are dropped",
        "collect/traced.py",
        "self._calls.push(",
        "(lambda *a: None)(",
        "test_compile",
    ),
    (
        "the operators have no effect",
        "collect/operators.py",
        "    _register_effectful_op(operator",
        "    str(operator",
        "test_compile",
    ),
    (
        "hooks leave compiled code",
        "collect/attachment.py",
        "if not self._stays:\n            self._remove()",
        "self._remove()",
        "test_compile",
    ),
    ("old code is not forgotten", "collect/compiled.py", "remove_from_cache(code)", "str(code)", "test_compile_late"),
    (
        "evaluation asks for the switch",
        "collect/traced.py",
        "(module.training or not self._follows_mode) and self._switch.on:",
        "self._switch.on:",
        "test_compile",
    ),
    ("old torch is not asked", "collect/attachment.py", "and not define()", "and False", "test_compile_late"),
    ("a sum of tensors is a shift", "collect/tracing.py", "tensors == 1 and", "tensors >= 1 and", "test_gates"),
    (
        "a sum of tensors is a shift in eager code",
        "collect/gates.py",
        "for term in terms) == 1",
        "for term in terms) >= 1",
        "test_gates",
    ),
    (
        "passes without gradients are numbered",
        "collect/site.py",
        "if site.moments is not None:\n            calls",
        "if True:\n            calls",
        "test_gates",
    ),
    (
        "a wrong reason",
        "collect/hooks.py",
        "        site.refused = WITHOUT_GRADIENTS\n",
        "        pass\n",
        "test_gates",
    ),
    (
        "names of written-out GELUs are not known",
        "collect/known.py",
        "_WRITTEN_OUT.get(kind.__name__)",
        "_WRITTEN_OUT.get('')",
        "test_gates",
    ),
    ("graphs that run as Python are heard again", "collect/functional.py", " or _in_graph()", "", "test_compile"),
    (
        "resumed evidence is in the wrong order",
        "collect/units.py",
        "newer.ages_3C + old_ages + growth",
        "old_ages + growth",
        "test_units test_resume",
    ),
    (
        "resumed samples are lost",
        "collect/units.py",
        "joined.samples += older.samples",
        "pass",
        "test_units test_resume",
    ),
    (
        "what had no gradient has an update of 0",
        "collect/parameters.py",
        "if record.has_grad or self._always_updates",
        "if True",
        "test_optimizers",
    ),
    (
        "odd parameters are measured",
        "collect/parameters.py",
        'and x.device.type != "meta"',
        "or True",
        "test_parameters",
    ),
    (
        "the first tensor is taken, whatever it is",
        "collect/layout.py",
        "if refusal(found) is None:\n            return found",
        "if True:\n            return found",
        "test_outputs",
    ),
    ("the layer before is blamed", "diagnose/rules/nonfinite.py", "ordered[index + 1 :]", "ordered[:0]", "test_rules"),
    ("steps go back", "stepping.py", "if step >= self._step:", "if True:", "test_choices"),
    (
        "a class means exactly that class",
        "collect/sites.py",
        "isinstance(module, selector)",
        "type(module) is selector",
        "test_choices",
    ),
    (
        "the earlier monitor stays",
        "session.py",
        "                    earlier.close()\n",
        "                    pass\n",
        "test_interrupt",
    ),
    (
        "a caller's layout is replaced",
        "write/tensorboard.py",
        "if self._own and not self._written:",
        "if not self._written:",
        "test_choices",
    ),
]
