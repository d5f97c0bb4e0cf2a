"""ReLU's output is not zero-centered and not bounded. Why does it work so well?

You will see: ten claims about ReLU, each tried on real data with several seeds, tables of medians with their spread,
and verdicts: confirmed, half true or refuted. Under a minute; the rates were tuned beforehand, by `--full`:

    python examples/why_relu_works.py
    python examples/why_relu_works.py --only speed saturation
    python examples/why_relu_works.py --full --write docs/why-relu-works.md

`--full` tunes every rate anew and takes nine seeds. Figures need matplotlib (`pip install matplotlib`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from why_relu.claims import CLAIMS
from why_relu.figures import available, draw
from why_relu.observe import Lab
from why_relu.page import chance_of, medians, reproduced, told_of, write_page
from why_relu.results import Result, chance_outside


def main(arguments: Sequence[str] | None = None) -> dict[str, Result]:
    """Try the claims, print what is found; the results by name."""
    given = _parse(arguments)
    torch.set_num_threads(1)
    begun = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(given.log_dir or folder), given.seeds or list(range(9 if given.full else 2)), given.full)
        results = {name: _try(name, lab) for name in CLAIMS if name in given.only}
    seconds = time.process_time() - begun
    print(f"{seconds:.0f} s of CPU time")
    if given.save:
        Path(given.save).write_text(json.dumps({"seeds": list(lab.seeds), "medians": medians(results)}))
    told = _compare(results, json.loads(Path(given.against).read_text()), len(lab.seeds)) if given.against else ""
    images = _figures(results, given)
    if given.write:
        words = ["examples/why_relu_works.py", *(sys.argv[1:] if arguments is None else arguments)]
        run = {"command": f"python {' '.join(words)}", "date": date.today().isoformat(), "seconds": f"{seconds:.0f}"}
        run |= {"seeds": _span(lab.seeds), "chance": f"{100 * chance_of(len(lab.seeds)):.0f} %", "reproduced": told}
        write_page(Path(given.write), results, run, images)
    return results


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="two seeds, rates as tuned before (the default)")
    effort.add_argument("--full", action="store_true", help="nine seeds, every rate tuned anew: some ten minutes")
    parser.add_argument("--seeds", type=_seeds, help="such as 0-8 or 3,5")
    parser.add_argument(
        "--only", nargs="+", choices=list(CLAIMS), default=list(CLAIMS), metavar="CLAIM", help=", ".join(CLAIMS)
    )
    parser.add_argument("--log-dir", help="keep actdiag's logs here, in an empty or new directory")
    parser.add_argument("--write", metavar="PAGE", help="write a page; its figures go to images/why beside it")
    parser.add_argument("--save", metavar="FILE", help="keep the medians, for --against")
    parser.add_argument(
        "--against", metavar="FILE", help="tell which medians of FILE lie outside this run's error bars"
    )
    given = parser.parse_args(arguments)
    if given.log_dir and Path(given.log_dir).exists() and any(Path(given.log_dir).iterdir()):
        parser.error(f"{given.log_dir} is not empty; give a new directory")
    return given


def _seeds(text: str) -> list[int]:
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(part) for part in text.split(",")]


def _span(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


def _try(name: str, lab: Lab) -> Result:
    result = CLAIMS[name](lab)
    print(f"\n{name}: {result.said}\n{result.word.upper()}. {result.why}")
    for table in result.tables:
        print(f"\n{table.title}:\n{table.markdown()}")
    sys.stdout.flush()
    return result


def _compare(results: dict[str, Result], other: dict[str, Any], ours: int) -> str:
    outside, compared = reproduced(results, other["medians"])
    sentence = told_of(outside, compared, other["seeds"], chance_outside(ours, len(other["seeds"])))
    print("\n".join([sentence.strip(), *outside]))
    return sentence


def _figures(results: dict[str, Result], given: Any) -> Path | None:
    """Where the figures are: beside the page, or beside the logs."""
    if not (given.write or given.log_dir):
        return None
    if not available():
        print("no figures: matplotlib is not installed; the tables say the same (pip install matplotlib)")
        return None
    images = Path(given.write).parent / "images" / "why" if given.write else Path(given.log_dir) / "figures"
    for name, result in results.items():
        draw(result, images / f"{name}.svg")
    return images


if __name__ == "__main__":
    main()
