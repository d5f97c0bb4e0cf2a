"""Deliberate wrong edits, each of which the suite must catch. `make mutants` runs them; it fails if one survives.

Each mutant is an edit of one file of a copy of the package, and the test files that should notice it. A mutant whose
original text is gone fails too: the list must keep up with the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from mutants_cost import COST
from mutants_doors import DOORS
from mutants_glance import GLANCE
from mutants_io import EDITS, TESTS
from mutants_kernel import KERNEL
from mutants_manual import MANUAL
from mutants_ranks import RANKS
from mutants_regimes import REGIMES
from mutants_rules import RULES
from mutants_screen import SCREEN
from mutants_start import START
from mutants_tab import TAB
from mutants_triton import TRITON

ROOT = Path(__file__).resolve().parent.parent


class Mutant(NamedTuple):
    what: str
    file: str
    old: str
    new: str
    tests: str
    slow: bool = False  # what `make slow` runs is needed to catch it


MUTANTS = [
    Mutant(
        "the between-part of the merged variance is subtracted",
        "collect/moments.py",
        "m2_C=a.m2_C + b.m2_C + delta_C",
        "m2_C=a.m2_C + b.m2_C - delta_C",
        "test_moments",
    ),
    Mutant(
        "the merged mean leans the wrong way",
        "collect/moments.py",
        "share_C = b.n_C /",
        "share_C = a.n_C /",
        "test_moments",
    ),
    Mutant(
        "micro-batches replace each other",
        "collect/site.py",
        "found.columns_5C if known is None else merge_columns(known, found.columns_5C)",
        "found.columns_5C",
        "test_truth test_regimes",
    ),
    Mutant(
        "variance without the mean taken out",
        "collect/moments.py",
        "deviation = work - center",
        "deviation = work - 0 * center",
        "test_moments",
    ),
    Mutant(
        "non-finite elements stay in the mean",
        "collect/moments.py",
        "n_C = x.numel() // units.units - bad_C",
        "n_C = x.numel() // units.units - 0 * bad_C",
        "test_moments",
    ),
    Mutant(
        "NaN makes a unit dead",
        "collect/units.py",
        "return units.samples - closed.sum(units.reduced)",
        "return (units.x > 0).float().sum(units.reduced)",
        "test_units",
    ),
    Mutant(
        "a sample is closed where any position is",
        "collect/units.py",
        "closed.amin(dim=position",
        "closed.amax(dim=position",
        "test_units",
    ),
    Mutant(
        "one opening does not end the silence",
        "collect/recent.py",
        "self.last_C.masked_fill_(open_C > 0, now)",
        "pass",
        "test_units",
    ),
    Mutant(
        "dead after any silence",
        "collect/units.py",
        "dead = silent & (samples_C >= evidence.window)",
        "dead = samples_C > 0",
        "test_units",
    ),
    Mutant(
        "few large batches are enough",
        "collect/units.py",
        "evidence.ages_3C[1] >= MIN_OBSERVATIONS",
        "evidence.ages_3C[1] >= 1",
        "test_units",
    ),
    Mutant(
        "hooks stay on after a step",
        "collect/attachment.py",
        "            handle.remove()\n",
        "            pass\n",
        "test_untouched",
    ),
    Mutant(
        "the function mode is not left",
        "collect/attachment.py",
        "            mode.leave()\n",
        "            pass\n",
        "test_untouched",
    ),
    Mutant(
        "a hook returns a value",
        "collect/scope.py",
        "        self._call(*args, **kwargs)\n",
        "        return args[-1] * 0 if len(args) == 3 else None\n",
        "test_untouched",
    ),
    Mutant(
        "copies of the model go on recording",
        "collect/scope.py",
        "return contextlib.nullcontext().__exit__",
        "return Silent(self._call)",
        "test_untouched",
    ),
    Mutant(
        "gradients stay multiplied by the loss scale",
        "collect/finish.py",
        'math.sqrt(sums["grad_squares"][i] / n) / scale',
        'math.sqrt(sums["grad_squares"][i] / n)',
        "test_monitor",
    ),
    Mutant(
        "a checkpoint's second pass is counted",
        "collect/hooks.py",
        "not (site.forward_calls > 0 and in_backward())",
        "True",
        "test_untouched",
    ),
    Mutant(
        "the gradient hook goes on the view",
        "collect/hooks.py",
        "        out = base\n",
        "        pass\n",
        "test_regimes",
    ),
    Mutant(
        "nested optimizer hooks count twice",
        "stepping.py",
        "if self._alone.inside and runs_twice(optimizer):",
        "if False:",
        "test_monitor",
    ),
    Mutant(
        "gradient norms are read after clipping",
        "collect/readout.py",
        'if "grad_squares" in own',
        "if False",
        "test_truth",
    ),
    Mutant(
        "validation passes are counted",
        "collect/hooks.py",
        "return (site.traced or torch.is_grad_enabled()) and not",
        "return not",
        "test_monitor",
    ),
    Mutant(
        "tanh saturates at its middle",
        "collect/activations.py",
        "saturated_high=0.97,",
        "saturated_high=0.9,",
        "test_activations",
    ),
    Mutant(
        "the budget is never applied",
        "collect/budget.py",
        "return configured if self._spent_s < FREE_SECONDS else max(configured, self._interval[mode])",
        "return configured",
        "test_schedule",
    ),
    Mutant(
        "a finding is told at every snapshot",
        "diagnose/judge.py",
        "self._open[key] = len(self.findings)",
        "pass",
        "test_ledger",
    ),
    Mutant(
        "None is written as 0",
        "write/pack.py",
        "math.nan if v is None else v",
        "0.0 if v is None else v",
        "test_write_tensorboard",
    ),
]


MUTANTS += [
    Mutant(f"{file}: {old.strip()!r} becomes {new.strip()!r}", file, old, new, TESTS) for file, old, new in EDITS
]
MUTANTS += [Mutant(*edit) for edit in [*REGIMES, *RANKS, *RULES]]
MUTANTS += [
    Mutant(*edit[:1], file, *edit[1:], tests)
    for tables in (GLANCE, COST, START, KERNEL, TAB, SCREEN, TRITON, DOORS, MANUAL)
    for (file, tests), edits in tables.items()
    for edit in edits
]


def survives(mutant: Mutant) -> bool:
    """Whether the named tests pass with the edit in place."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("actdiag", "tests", "docs"):
            shutil.copytree(ROOT / part, Path(folder) / part, ignore=shutil.ignore_patterns("__pycache__", "images"))
        for part in ("pyproject.toml", "README.md", "LICENSE"):  # what a wheel is built of
            shutil.copy(ROOT / part, folder)
        path = Path(folder) / "actdiag" / mutant.file
        text = path.read_text()
        if mutant.old not in text:
            raise SystemExit(f"mutant {mutant.what!r}: {mutant.file} no longer holds {mutant.old!r}")
        path.write_text(text.replace(mutant.old, mutant.new))
        tests = [f"tests/{name}.py" for name in mutant.tests.split()]
        speed = "slow" if mutant.slow else "not slow"
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", speed, "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONPATH": folder}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode == 0


def main() -> int:
    """Run every mutant; 1 if one survived."""
    wanted = sys.argv[1:]
    chosen = [m for m in MUTANTS if not wanted or any(word in m.what for word in wanted)]
    alive = []
    for mutant in chosen:
        if survives(mutant):
            alive.append(mutant.what)
        print(f"{'SURVIVED' if mutant.what in alive else 'caught':9} {mutant.what}", flush=True)
    print(f"{len(chosen) - len(alive)} passed, {len(alive)} failed")
    return 1 if alive else 0


if __name__ == "__main__":
    raise SystemExit(main())
