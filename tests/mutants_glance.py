"""Wrong edits of the look between recorded steps, and of the forecast; see mutants.py.

(file, test files) -> wrong edits of it: what, original, replacement.
"""

from __future__ import annotations

GLANCE = {
    ("collect/trend.py", "test_trend"): [
        ("a rising rate is death", "(line.slope_C < -SURE * line.error_C)", "(line.slope_C != 0)"),
        ("chance is a trend", "line.slope_C < -SURE * line.error_C", "line.slope_C < 0"),
        ("lines are followed for ever", "ahead_3C[0] <= FURTHEST * (step_B[-1] - step_B[0])", "ahead_3C[0] <= 1e9"),
        ("a rate at rest is falling", "z_BC[-1] < z_BC[:-1].min(axis=0)", "True"),
        ("bins weigh the same", "n_B1 * density_BC**2 / (rate_BC * (1 - rate_BC))", "n_B1 + 0 * z_BC"),
        ("a bin forgets its first half", "samples=self.samples + seen", "samples=seen"),
        ("dead units are dying too", "falling_C = alive_C & ", "falling_C = "),
        ("forecasts lie in the past", "clip(min=self.last_step + 1)", "clip(min=step_B[-1])"),
        ("forecasts know of full bins only", "if self.filling is None else (self.filling,)", "or (self.filling,)"),
    ],
    ("diagnose/rules/dying.py", "test_trend"): [
        ("the dead are forecast once more", "silent < goal <= silent", "goal <= silent"),
        ("one dying unit is told", "site.dying_units / site.units < limits.dying_fraction", "False"),
        ("the dying are told dead", "open for fewer than 3 samples of a whole window by", "are dead by"),
    ],
    ("collect/glance.py", "test_glance"): [
        ("nothing is awaited", " or self._awaits(now)", ""),
        ("what has been told is awaited", " and not any(share.tells", " or not any(share.tells"),
        ("what two windows need not tell is awaited", "half.silent >= double.begins and ", ""),
        ("two windows are awaited alone", "not any(share.tells for share in now.shares)", "True"),
        ("a look never watches closer", "closer |= now.last >=", "closer |= now.last < 0 >="),
        ("a look asks on two batches", "observations_C >= MIN_OBSERVATIONS", "observations_C >= 2"),
        ("a look asks on any sample", "ages = (SUSPECT_SAMPLES,", "ages = (0,"),
        (
            "a look forgets a full window",
            "a.silent >= self._warning and (",
            "a != now.shares[2] and a.silent >= self._warning and (",
        ),
        ("a look forgets half a window", "max(window / 2, SUSPECT_SAMPLES), window,", "window, window,"),
        ("a look asks at any silence", "a.silent >= self._warning and (", "a.silent > 0 and ("),
        ("a look asks again and again", "(a.silent >= b.silent + rise or", "(True or"),
        ("a look knows no verges", " or (a.tells and not b.tells)", ""),
        ("a verge is passed again and again", "(a.tells and not b.tells)", "a.tells"),
        ("two windows are due by themselves", "(0.1, 0.1, 0.1, math.inf)", "(0.1, 0.1, 0.1, 0.1)"),
        (
            "what a recorded step has told is forgotten",
            "self._most[key] = self._read(settled)",
            "self._most[key] = _Reading(0.0, (_Share(0.0, math.inf),) * 4)",
        ),
    ],
    ("collect/glance.py", "test_glance test_units"): [
        ("a look remembers no flicker", "known.ledger.note(evidence)", "pass"),
    ],
    ("diagnose/judge.py", "test_ledger"): [
        ("a finding that is worse is so from the start", "severity_step=step)", "severity_step=held.step)"),
    ],
    ("report/text.py", "test_report"): [
        (
            "a report hides since when it is so bad",
            '"" if f.severity_step is None else f", {f.sev',
            '"" if 1 else f", {f.sev',
        ),
    ],
    ("session.py", "test_glance"): [
        ("a look knows no limits of the user's", "terms.limits.dead_earliest", "0.45"),
        ("a look knows none of the verges", ", terms.limits.dead_verges)", ")"),
    ],
    ("collect/units.py", "test_units"): [
        ("a flicker may be of many samples", "back & (opens_C < RARE", "back & (opens_C < 1e9 * RARE"),
        ("a flicker ends no silence", " & (before.ages_3C[0] >= _FLICKER_SAMPLES)", ""),
        ("a flicker needs one batch", " & (before.ages_3C[1] >= _FLICKER_OBSERVATIONS)", ""),
        ("what opens again flickers", "self._back_from_C[opened] = 0", "pass"),
        ("what has not flickered yet never will", "self._flickers |= bool(seldom.any())", "pass"),
        ("a resumed run flickers for ever", "ledger._flickers = bool(ledger._back_from_C.any())", "pass"),
        ("what flickered does so for ever", "(_MISSED * self._back_from_C)", "(1e9 * self._back_from_C)"),
        ("what is dead flickers", ".clip(max=evidence.window)", ""),
        ("openings of a new block are lost", "if same_block else evidence.open_C", ""),
        ("a resumed run knows no flicker", 'if "back_from" in state:', "if False:"),
        ("a resumed run begins its silence anew", "ledger._noted = evidence", "pass"),
        ("an older state is refused", 'if "back_from" in state:', "if True:"),
    ],
    ("collect/recent.py", "test_glance"): [
        ("a look goes back to the last recorded step", "min(enough, len(self._stamps) - 1 - observations)", "0"),
        ("a look goes back too few samples", "self._totals[-1] - samples) - 1", "self._totals[-1] - samples)"),
        ("a look goes back too few batches", "min(enough, len(self._stamps) - 1 - observations)", "enough"),
        ("a look forgets what lies far back", "totals[1:] -= totals[:-1].copy()", "totals[:] -= totals[0]"),
    ],
    ("collect/schedule.py", "test_schedule"): [
        ("a resumed run is not attentive", "max(schedule._attentive_until, until)", "schedule._attentive_until"),
        ("a resumed run forgets what it has recorded", "-1 if recorded is None else recorded", "-1"),
        ("attention goes on unasked", "if schedule.attentive and until", "if until"),
    ],
    ("collect/schedule.py", "test_glance"): [
        ("merging ranks watch as they like", " and self._agreed is None\n", "\n"),
        ("a closer look begins late", 'min(self._next["watch"], step + 1)', "self._next['watch']"),
        ("a due verdict comes at once", "max(step + 1, self._recorded + RECORD_GAP_STEPS)", "step + 1"),
        ("no attention at defaults", "else options.max_overhead is not None", "else False"),
        ("attention without a budget", "else options.max_overhead is not None", "else True"),
    ],
}
