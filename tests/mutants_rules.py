"""Wrong edits of the rules about gradients, updates and scale; see mutants.py.

Each is (what, file, original, replacement, test files).
"""

from __future__ import annotations

_WIRING, _UPDATES = "diagnose/rules/wiring.py", "diagnose/rules/updates.py"
_SCALE, _COLLAPSE = "diagnose/rules/scale.py", "diagnose/rules/collapse.py"
_UNDERFLOW, _TESTS = "diagnose/rules/underflow.py", "test_rules_flow"

_UNITS, _VANISHING = "diagnose/rules/units.py", "diagnose/rules/vanishing.py"

RULES = [
    ("closed gates are no cause", _VANISHING, "share < 1 - limits.initial_gate", "True", "test_rules"),
    (
        "an unknown gate is closed",
        _VANISHING,
        "0.0 if site.gate_mean is None or",
        "1.0 if site.gate_mean is None or",
        "test_rules",
    ),
    ("half a window tells nothing", _UNITS, "half >= limits.half_window_warning", "False", "test_rules"),
    (
        "no unit may be rare",
        _UNITS,
        "return max(1, self.spare(limits)) + (back",
        "return (back",
        "test_rules",
    ),
    ("of few units two may be rare", _UNITS, "max(1, self.spare(limits))", "1", "test_rules"),
    ("few units die as many do", _UNITS, "self.dead - self.spare(limits)", "self.dead", "test_rules"),
    ("any number of units is spared", "diagnose/limits.py", "min(seldom, self.dead_few_spare)", "seldom", "test_rules"),
    (
        "units are spared for nothing",
        "diagnose/limits.py",
        "min(seldom, self.dead_few_spare)",
        "self.dead_few_spare",
        "test_rules",
    ),
    ("older logs spare nothing", _UNITS, "return _silent(site) if", "return 0 if", "test_rules"),
    ("seldom is a few times more", "collect/units.py", "SELDOM_RATE = 0.004", "SELDOM_RATE = 0.0045", "test_units"),
    ("what never opens does so seldom", "collect/units.py", "(opened_C > 0) & ", "", "test_units"),
    (
        "a new block forgets the seldom",
        "collect/units.py",
        "opened_C, most = self.open_C + ",
        "opened_C, most = 0 * ",
        "test_units",
    ),
    (
        "seldom is not of a window",
        "collect/units.py",
        "SELDOM_RATE * min(self.samples, self.window)",
        "SELDOM_RATE * self.window",
        "test_units",
    ),
    (
        "a look spares for what was",
        "collect/glance.py",
        "self._verges(evidence.units, evidence.seldom_units)",
        "self._verges(evidence.units, 0)",
        "test_glance",
    ),
    (
        "a look knows no verdict that falls due",
        "collect/glance.py",
        "a.tells and not b.tells",
        "b.silent < a.begins <= a.silent",
        "test_glance",
    ),
    ("many units die as few do", "diagnose/limits.py", "if units <= self.dead_few_units else 0", "", "test_rules"),
    (
        "two windows prove nothing",
        _UNITS,
        "max(self.double_window, self.dead - self.spare(limits))",
        "self.dead - self.spare(limits)",
        "test_rules",
    ),
    (
        "old logs know no two windows",
        _UNITS,
        "site.dead_units if site.double_window_units is None",
        "0 if site.double_window_units is None",
        "test_rules",
    ),
    ("two windows are one", "collect/units.py", ">= 2 * evidence.window", ">= evidence.window", "test_units"),
    ("no silent unit is doubtful", _UNITS, "max(n - doubtful, 0)", "max(n - 1, 0)", "test_rules test_glance"),
    ("one flicker makes all doubtful", _UNITS, "back if back >= self.units - self.silent else 0", "back", "test_rules"),
    ("what has flickered alone is doubtful", _UNITS, "back = 2 * self", "back = self", "test_rules"),
    ("half a window is a whole one", _UNITS, "limits.half_window_warning", "limits.dead_warning", "test_rules"),
    ("old logs know no dead units", _UNITS, "max(site.half_window_units or 0, site.dead_units)", "0", "test_rules"),
    ("half a window is any silence", "collect/units.py", "evidence.window / 2, SUSPECT", "0, SUSPECT", "test_units"),
    (
        "half a window is less than suspect",
        "collect/units.py",
        "max(evidence.window / 2, SUSPECT_SAMPLES)",
        "160",
        "test_units",
    ),
    ("no-gradient speaks at once", _WIRING, "< limits.unreached_steps", "< 0", _TESTS),
    ("a new head alone is forgotten layers", _WIRING, "len(forgotten) <= limits", "len(forgotten) >= limits", _TESTS),
    ("large updates are stalled", _UPDATES, "max(sizes) >= limits.stalled_update", "max(sizes) < 0", _TESTS),
    ("a warm-up is stalled", _UPDATES, "if not rises and gradient", "if gradient", _TESTS),
    ("convergence is stalled", _UPDATES, "gradient >= limits.stalled_gradient", "gradient >= 0", _TESTS),
    (
        "small updates are oversized",
        _UPDATES,
        "min(recent) > limits.oversized",
        "min(recent) < limits.oversized",
        _TESTS,
    ),
    ("any jump is oversized", _UPDATES, "sizes[-1] > limits.oversized_over_usual * usual", "True", _TESTS),
    ("weights alone explode", _UPDATES, "has >= max(limits.grown_rms, limits.grown_weights * was)", "True", _TESTS),
    ("activations explode when they are large", _SCALE, "max(base, 1.0) * limits.exploding_activation", "1.0", _TESTS),
    ("depth explodes when it grows", _SCALE, "limits.exploding_depth * max(1.0, quarters[0])", "0", _TESTS),
    ("a plateau has collapsed", _COLLAPSE, "limits.collapsed_still, limits)", "0.5, limits)", _TESTS),
    ("what collapses is told at once", _COLLAPSE, "strict < limits.collapsed_snapshots", "not strict", _TESTS),
    (
        "every small gradient underflows",
        _UNDERFLOW,
        "share if share >= limits.underflow_share",
        "share if True",
        _TESTS,
    ),
    (
        "a tail underflows",
        _UNDERFLOW,
        "return site.grad_rms < limits.underflow_near * 2.0**smallest",
        "return True",
        _TESTS,
    ),
]
