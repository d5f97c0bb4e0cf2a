"""The table of regimes: what is exact, approximate or not observed, each row beside the test that proves it.

    @regime("in-place and views", "ReLU(inplace=True)", exact="all numbers of its twin", proves=("R5", "C1"))
    def test_R05_in_place_relu_gives_the_numbers_of_its_twin() -> None: ...

    python -m tests.regimes --write        # writes docs/regimes.md

Rows are read from the source of the test modules, without importing them: a module that cannot be imported where the
table is written (no Lightning, say) still gives its rows. So the arguments must be literals.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])

AREAS = (
    "in-place and views",
    "shared, reused, uncalled modules",
    "outputs and odd tensors",
    "torch.compile",
    "checkpointing",
    "mixed precision",
    "accumulation, clipping and optimizers",
    "copies and checkpoints",
    "interruptions",
    "Lightning",
    "trainers",
    "processes",
    "never in the way",
)
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "regimes.md"
COMMAND = "python -m tests.regimes --write"
_REQUIREMENT = re.compile(r"[RC]\d{1,2}b?")

INTRODUCTION = f"""\
# Regimes

What actdiag tells of a training in which something is unusual. *Exact*: equal to a float64 reference or to a plain
twin. *Approximate*: right within what is said. *Not observed*: None or no site, with the reason in the log; never 0,
never an exception. Whatever the regime, the training itself is bit-identical, but for one: half precision under the
default backend of torch.compile, see there. The last column names the test that proves the row; the table is written
from the decorators of those tests by
`{COMMAND}`.
"""


@dataclass(frozen=True)
class Row:
    """One regime: at least one of `exact`, `approximate` and `not_observed` says what is told of it."""

    area: str
    what: str
    exact: str = ""
    approximate: str = ""
    not_observed: str = ""
    proves: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.area not in AREAS:
            raise ValueError(f"no area {self.area!r} of regimes; areas are {', '.join(AREAS)}")
        if not self.what or not (self.exact or self.approximate or self.not_observed):
            raise ValueError(f"regime {self.what!r} says neither what is exact nor approximate nor not observed")
        wrong = [name for name in self.proves if not _REQUIREMENT.fullmatch(name)]
        if wrong or isinstance(self.proves, str):
            raise ValueError(f"regime {self.what!r}: proves is a tuple such as ('R5', 'C1'), got {self.proves!r}")


@dataclass(frozen=True)
class Proof:
    """A test function, its rows, and why it is expected to fail, if it is."""

    file: str
    name: str
    rows: tuple[Row, ...]
    fails: str | None

    @property
    def numbers(self) -> set[str]:
        """What it proves, by its name (`_R05_`) and by its rows: "R5", "R4b", "C1"."""
        named = {f"R{int(digits)}{b}" for digits, b in re.findall(r"(?<=_)R(\d\d)(b?)(?=_)", self.name)}
        return named | {number for row in self.rows for number in row.proves}


def regime(
    area: str,
    what: str,
    *,
    exact: str = "",
    approximate: str = "",
    not_observed: str = "",
    proves: Sequence[str] = (),
) -> Callable[[Test], Test]:
    """Attach a row to a test; several decorators give several rows. The arguments must be literals."""
    row = Row(area, what, exact, approximate, not_observed, proves if isinstance(proves, str) else tuple(proves))

    def attach(test: Test) -> Test:
        test.__dict__.setdefault("__regimes__", []).insert(0, row)
        return test

    return attach


def collect(folder: Path = ROOT / "tests") -> list[Proof]:
    """All test functions, in order of file and line. Raises ValueError that names file and line."""
    return [proof for path in sorted(folder.glob("test_*.py")) for proof in _proofs(path)]


def _proofs(path: Path) -> Iterator[Proof]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
            calls = [d for d in node.decorator_list if isinstance(d, ast.Call)]
            rows = tuple(_row(path, call) for call in calls if _called(call) == "regime")
            yield Proof(path.name, node.name, rows, next(filter(None, map(_reason_to_fail, calls)), None))


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _row(path: Path, call: ast.Call) -> Row:
    try:
        args = [ast.literal_eval(arg) for arg in call.args]
        named = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        bound = inspect.signature(regime).bind(*args, **named)
        return Row(**{**bound.arguments, "proves": tuple(bound.arguments.get("proves", ()))})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path.name}:{call.lineno}: @regime needs literal arguments: {error}") from None


def _reason_to_fail(call: ast.Call) -> str | None:
    if _called(call) != "xfail":
        return None
    given = {word.arg: word.value for word in call.keywords}
    return str(ast.literal_eval(given["reason"])) if "reason" in given else "a known gap"


def render(proofs: Sequence[Proof]) -> str:
    """The page: one table an area, a row for each decorator."""
    parts = [INTRODUCTION]
    for area in AREAS:
        lines = [_line(proof, row) for proof in proofs for row in proof.rows if row.area == area]
        if lines:
            parts.append(f"## {area[0].upper()}{area[1:]}\n")
            parts.append("| regime | exact | approximate | not observed | proven by |\n|---|---|---|---|---|")
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _line(proof: Proof, row: Row) -> str:
    test = f"[`{proof.name}`](../tests/{proof.file})"
    cells = [row.what, row.exact, row.approximate, row.not_observed, test]
    if proof.fails is not None:  # the claim is a goal, not a fact
        cells[1:4] = "", f"wrong today: {proof.fails}", ""
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def main(arguments: Sequence[str]) -> int:
    """Write the page (`--write`), or print it."""
    page = render(collect())
    if list(arguments) == ["--write"]:
        PAGE.write_text(page, encoding="utf-8")
    else:
        print(page, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
