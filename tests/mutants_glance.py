"""Wrong edits of the look between recorded steps; see mutants.py.

Each is (what, file, original, replacement, test files).
"""

from __future__ import annotations

_GLANCE = "collect/glance.py"
_SCHEDULE = "collect/schedule.py"
_TREND = "collect/trend.py"
_INIT = "diagnose/rules/initialization.py"
_CHECK, _HEAD, _READ = "checkup.py", "diagnose/rules/head.py", "collect/head.py"
_TERMS = "diagnose/terms.py"
GLANCE = [
    (
        "what is ignored is told",
        _TERMS,
        "            return None\n",
        "            return verdict\n",
        "test_judging_options test_ledger",
    ),
    (
        "a rule decides before its layer",
        _TERMS,
        'key=lambda one: ":" in one',
        'key=lambda one: ":" not in one',
        "test_judging_options",
    ),
    (
        "off is a severity",
        _TERMS,
        "if severity in SEVERITIES else None",
        "if severity else None",
        "test_judging_options",
    ),
    (
        "limits of ones own are not used",
        _TERMS,
        "return replace(plain, **given)",
        "return plain",
        "test_judging_options",
    ),
    ("check leaves its gradients", _CHECK, "            p.grad = grad\n", "            pass\n", "test_checkup"),
    ("check leaves its buffers", _CHECK, "buffer.copy_(was)", "pass", "test_checkup"),
    ("check leaves the training flag", _CHECK, "module.training = training", "pass", "test_checkup"),
    ("check uses up random numbers", _CHECK, "torch.set_rng_state(state)", "pass", "test_checkup"),
    ("check leaves its hooks", _CHECK, "            session.close()", "            pass", "test_checkup"),
    (
        "check ignores no finding",
        _CHECK,
        "if (kept := ledger.terms.apply(v)) is not None",
        "if (kept := v)",
        "test_checkup",
    ),
    ("check forgets the optimizer", _CHECK, "else ids_of([optimizer])", "else None", "test_checkup"),
    (
        "rows of any sum are probabilities",
        _READ,
        "(out.sum(1) - 1).abs() < _SUM_TOLERANCE",
        "out.sum(1) > 0",
        "test_checkup",
    ),
    ("equal weights are twins whatever they learn", _READ, " and _alike(weight.grad)", "", "test_checkup"),
    ("reach is judged by its upper end", _HEAD, "ends[0] <= head.target_low and ", "", "test_checkup"),
    ("probabilities fit cross-entropy", _HEAD, 'head.rows_are != "probabilities"', "True", "test_checkup"),
    ("shapes fit whatever they are", _HEAD, "or head.output_shape == head.target_shape", "or True", "test_checkup"),
    ("any step is the first", _INIT, "first.step > _FIRST_STEPS", "False", "test_initialization"),
    ("a bad start lasts for ever", _INIT, "if symptom.kind in lasting:", "if symptom.kind:", "test_initialization"),
    ("what all share is a signal", _INIT, "1 - (site.mean_energy or 0.0)", "1.0", "test_initialization"),
    (
        "a gradient grows where it shrinks",
        _INIT,
        '"shrinks" if ratio > 1',
        '"shrinks" if ratio < 1',
        "test_initialization",
    ),
    ("growth through the depth is fine", _INIT, "max(ratio, 1 / ratio)", "1 / ratio", "test_initialization"),
    (
        "few flat elements are a warning",
        _INIT,
        "share >= limits.initial_saturated_warning",
        "True",
        "test_initialization",
    ),
    (
        "open gates are closed",
        _INIT,
        "if share > limits.initial_gate:",
        "if share < limits.initial_gate:",
        "test_initialization",
    ),
    ("two layers are a depth", _INIT, "_MIN_LAYERS = 4", "_MIN_LAYERS = 2", "test_initialization"),
    ("a rising rate is death", _TREND, "(line.slope_C < -SURE * line.error_C)", "(line.slope_C != 0)", "test_trend"),
    ("chance is a trend", _TREND, "line.slope_C < -SURE * line.error_C", "line.slope_C < 0", "test_trend"),
    ("lines are followed for ever", _TREND, "ahead_3C[0] <= FURTHEST * span", "ahead_3C[0] <= 1e9", "test_trend"),
    ("a rate at rest is falling", _TREND, "z_BC[-1] < z_BC[:-1].min(axis=0)", "True", "test_trend"),
    (
        "bins weigh the same",
        _TREND,
        "n_B1 * density_BC**2 / (rate_BC * (1 - rate_BC))",
        "n_B1 + 0 * z_BC",
        "test_trend",
    ),
    ("a bin forgets its first half", _TREND, "samples=self.samples + float", "samples=float", "test_trend"),
    ("dead units are dying too", _TREND, "dying_C = alive_C & ", "dying_C = ", "test_trend"),
    (
        "the dead are forecast once more",
        "diagnose/rules/dying.py",
        "silent < goal <= silent",
        "goal <= silent",
        "test_trend",
    ),
    (
        "one dying unit is told",
        "diagnose/rules/dying.py",
        "site.dying_units / site.units < limits.dying_fraction",
        "False",
        "test_trend",
    ),
    ("a look never watches closer", _GLANCE, "closer |= now.last >=", "closer |= now.last < 0 >=", "test_glance"),
    ("a look asks on two batches", _GLANCE, "observations_C >= MIN_OBSERVATIONS", "observations_C >= 2", "test_glance"),
    ("a look asks on any sample", _GLANCE, "samples_C >= SUSPECT_SAMPLES", "samples_C >= 0", "test_glance"),
    ("a look forgets a full window", _GLANCE, " or _is_due(now.window, before.window)", "", "test_glance"),
    ("a look asks at any silence", _GLANCE, "now >= RECORD_FRACTION and", "now > 0 and", "test_glance"),
    ("a look asks again and again", _GLANCE, "and now >= before + RECORD_RISE", "", "test_glance"),
    (
        "what a recorded step has told is forgotten",
        _GLANCE,
        "self._most[key] = silence(known.evidence.ages_3C, self._window)",
        "self._most[key] = NO_SILENCE",
        "test_glance",
    ),
    ("merging ranks watch as they like", _SCHEDULE, " and self._agreed is None\n", "\n", "test_glance"),
    (
        "a closer look begins late",
        _SCHEDULE,
        'min(self._next["watch"], step + 1)',
        "self._next['watch']",
        "test_glance",
    ),
    (
        "a due verdict comes at once",
        _SCHEDULE,
        "max(step + 1, self._recorded + RECORD_GAP_STEPS)",
        "step + 1",
        "test_glance",
    ),
    ("no attention at defaults", _SCHEDULE, "else options.max_overhead is not None", "else False", "test_glance"),
    ("attention without a budget", _SCHEDULE, "else options.max_overhead is not None", "else True", "test_glance"),
]
