"""The page: a short answer, then every claim with its verdict, figure and tables, as one run gave them."""

from __future__ import annotations

import platform
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
import sklearn
import torch

import actdiag

from .results import Result, chance_outside, inside, mid

EXPECTED = {
    "speed": "half true",
    "centering": "confirmed",
    "normalization": "half true",
    "scale": "confirmed",
    "sparsity": "half true",
    "saturation": "half true",
    "center-alone": "confirmed",
    "inputs": "confirmed",
    "others": "confirmed",
    "decay": "confirmed",
}
"""The verdicts for which the short answer was written; a run that finds others says so on its page."""

_ANSWER = """\
**Because of its slope, not because of its mean.** Where a ReLU is open its slope is exactly 1, whatever the size of its
input, and about half of the units are open. He initialization makes up for the other half, so that signals and
gradients keep their size through many layers: over ten layers {scale.he} of the gradient's size is left; with torch's
default weights {scale.default}, with sigmoids {scale.sigmoid}. The bend at zero lets layers compute more than a line,
and both are cheap: a comparison, and {sparsity.zeros} % of the outputs are zeros.

- **Not being centered is a real price**, paid by training longer: ReLU takes {center-alone.relu_gain} times the steps
  of the same ReLU shifted down by 0.4. It does not stop ReLU, because a shift leaves the slopes as they are. In depth
  it adds up: the mean takes {centering.first} of the output's energy in the first layer and {centering.deep} in the
  twentieth.
- **Batch norm in front buys it back**: {normalization.normed} steps to 25 % error instead of {normalization.plain}. It
  centers what enters each ReLU. Layer norm keeps the scale, and does not center units.
- **Being unbounded is what keeps the slope.** Outputs do grow while training, but in proportion to their input; a
  square of the positive part, which grows faster, has no scale that depth keeps. Weight decay holds the rest.
- **Dead units are the other price**: a unit whose line no sample crosses learns no more. Inputs that are not centered
  kill units before the first step: {inputs.dead} % at an offset of ten standard deviations.
- **Where the folklore is wrong.** With a fitting initialization tanh is *not* slower than ReLU on these data
  ({speed.lag} times its steps); the initialization matters more. Saturation does not by itself make gradients vanish:
  the large weights that saturate tanh make them explode ({saturation.explodes} times a layer). Zeros are not shown to
  help.
"""


def write_page(path: Path, results: Mapping[str, Result], run: Mapping[str, object], images: Path | None) -> None:
    """Write the page. `run` is what is told about it: command, date, seeds, seconds; `images` holds the figures."""
    parts = [_head(run), _answer(results), _verdicts(results)]
    for place, (name, result) in enumerate(results.items(), start=1):
        told = textwrap.fill(f"**{result.word.capitalize()}.** {result.why}", 120, break_on_hyphens=False)
        parts.append(f"## {place}. {result.said}\n\n{told}\n")
        if images is not None:
            link = (images / f"{name}.svg").relative_to(path.parent).as_posix()
            parts.append(f"![{result.said}: figure]({link})\n")
        parts += [f"{table.title}:\n\n{table.markdown()}\n" for table in result.tables]
    path.write_text("\n".join(part for part in parts if part), encoding="utf-8")


_HEAD = """\
ReLU's output is not zero-centered and not bounded. Why does it work so well? Every sentence below is an experiment on
the digits and breast cancer data of scikit-learn; every statistic of an activation is read from a log that
`actdiag.Monitor` wrote. Networks are small: nothing here speaks of large ones.

This page is written by its script: `{command}`, {date}, {seconds} s of CPU time on one thread ({machine}),
Python {python}, {versions}.

Numbers are medians over seeds {seeds}; in brackets and as bars or bands, the lowest and the highest seed. The median of
as many other seeds falls outside such a range in {chance} of cases, whatever the distribution. Steps are steps of plain
SGD, looked at every 5 (breast cancer: every 10). Rates are chosen from a grid, by other seeds, for each arm and each
target. {reproduced}"""


def _head(run: Mapping[str, object]) -> str:
    released = {"torch": torch, "scikit-learn": sklearn, "numpy": numpy, "actdiag": actdiag}
    text = _HEAD.format(
        **run,
        versions=", ".join(f"{name} {module.__version__}" for name, module in released.items()),
        machine=platform.machine(),
        python=platform.python_version(),
    )
    parts = [textwrap.fill(part, 120, break_on_hyphens=False) for part in text.split("\n\n")]
    return "\n\n".join(["# Why does ReLU work?", *parts]) + "\n"


def _answer(results: Mapping[str, Result]) -> str:
    if results.keys() != EXPECTED.keys():
        return ""
    text = _ANSWER
    for name, result in results.items():
        for key, told in result.told.items():
            text = text.replace(f"{{{name}.{key}}}", told)
    differing = [name for name, result in results.items() if result.word != EXPECTED[name]]
    note = f"\nThis run's verdicts differ from those the answer was written for: {', '.join(differing)}.\n"
    blocks = [" ".join(block.split()) for block in re.split(r"\n+(?=- )|\n\n", text)]
    filled = [
        textwrap.fill(b, 120, subsequent_indent="  " * b.startswith("- "), break_on_hyphens=False) for b in blocks
    ]
    answer = f"{filled[0]}\n\n" + "\n".join(filled[1:])
    return f"## The short answer\n\n{answer}\n{note if differing else ''}"


def _verdicts(results: Mapping[str, Result]) -> str:
    rows = [f"| {place} | {result.said} | {result.word} |" for place, result in enumerate(results.values(), start=1)]
    return "\n".join(["| | what is said | what is found |", "|---|---|---|", *rows, ""])


def reproduced(first: Mapping[str, Result], second: Mapping[str, Mapping[str, float]]) -> tuple[list[str], int]:
    """Medians of a second run that lie outside the error bars of the first, and how many were compared."""
    outside, compared = [], 0
    for name, result in first.items():
        for key, sample in result.samples().items():
            if (other := second.get(name, {}).get(" | ".join(key))) is not None:
                compared += 1
                if not inside(other, sample):
                    outside.append(
                        f"{name}: {' | '.join(key)}: {other:.3g} is not in {min(sample):.3g} to {max(sample):.3g}"
                    )
    return outside, compared


def medians(results: Mapping[str, Result]) -> dict[str, dict[str, float]]:
    """Claim -> table, row and column -> median: what a second run compares itself with."""
    return {
        name: {" | ".join(key): mid(sample) for key, sample in result.samples().items()}
        for name, result in results.items()
    }


def told_of(outside: Sequence[str], compared: int, seeds: Sequence[int], chance: float) -> str:
    """A sentence about the second run."""
    within = compared - len(outside)
    return (
        f"A second run, with seeds {seeds[0]} to {seeds[-1]}, shares {compared} medians with this one: {within} lie "
        f"within these ranges; {chance * compared:.0f} outside would be chance."
    )


def chance_of(count: int) -> float:
    """How often a median of as many other seeds leaves the range of `count` seeds."""
    return chance_outside(count, count)
