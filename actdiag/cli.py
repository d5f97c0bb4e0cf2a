"""The `actdiag` command: demo, report, compare, explain.

Exit status: 0 done; 1 a finding reached `--fail-on`; 2 wrong usage; 3 nothing to read; 4 the output could not be
written; 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from actdiag import __version__

if TYPE_CHECKING:
    from actdiag.diagnose.terms import Terms
    from actdiag.report.run import Run

OK, FAILED, USAGE, NOTHING, UNWRITTEN, INTERRUPTED = 0, 1, 2, 3, 4, 130
_MOST_DIGITS = 18
"""Of a number on the command line: what an event file can hold as a step."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="actdiag",
        description="Training diagnostics for PyTorch: centering, saturation, dead units and gradient flow.",
        epilog="exit status: 0 done, 1 a finding reached --fail-on, 2 wrong usage, 3 nothing to read, "
        "4 the output could not be written",
    )
    parser.add_argument("--version", action="version", version=f"actdiag {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train one healthy and three broken networks on real data")
    demo.add_argument("--log-dir", default="runs/demo", help="where the runs are written (default: %(default)s)")
    demo.add_argument("--epochs", type=_positive, default=None, help="epochs per network (default: each its own)")
    demo.set_defaults(run=_demo)

    _add_report(commands)

    compare = commands.add_parser(
        "compare",
        help="two runs side by side: findings, and how far apart the layers are at the same step",
        epilog="A directory that holds several runs does not say which is meant: give the directory of one. Where "
        "several monitors wrote to one directory, DIR:PREFIX is the one with that prefix, and DIR: the one without.",
    )
    compare.add_argument("run_a", metavar="RUN_A", help="the directory of a run")
    compare.add_argument("run_b", metavar="RUN_B", help="the directory of the run it is compared with")
    compare.add_argument("--format", choices=("text", "markdown", "json"), default="text")
    compare.add_argument("--step", type=_step, default=None, help="the step to compare at (default: the last in both)")
    compare.add_argument(
        "--limit", type=_positive, default=10, help="rows of each kind in text and markdown (default: %(default)s)"
    )
    compare.set_defaults(run=_compare)

    explain = commands.add_parser("explain", help="the manual of a finding or of a number")
    explain.add_argument(
        "slug", metavar="NAME", nargs="?", help="such as dead-units or mean_energy; without it: all findings"
    )
    explain.set_defaults(run=_explain)
    return parser


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser("report", help="read event files and say how the runs are")
    report.add_argument("logdir", metavar="LOGDIR", help="a run directory, or a directory of runs")
    report.add_argument("--format", choices=("text", "markdown", "json", "html"), default="text")
    report.add_argument(
        "--fail-on",
        choices=("info", "warning", "error"),
        default=None,
        help="exit with 1 if an open finding is at least this severe",
    )
    again = report.add_argument_group(
        "judge again", "from the recorded numbers; without these: as the training was told"
    )
    again.add_argument("--rejudge", action="store_true", help="by today's rules, on their own terms")
    again.add_argument(
        "--ignore", action="append", default=[], metavar="RULE[:LAYERS]", help="findings to drop, as they were told"
    )
    for name, pair, what in (
        ("limits", "NAME=NUMBER", "thresholds"),
        ("severities", "RULE[:LAYERS]=SEVERITY", "info, warning, error or off"),
        ("rules", "NAME=MODULE:FUNCTION", "rules of your own"),
    ):
        again.add_argument(f"--{name}", action="append", type=_pair, default=[], metavar=pair, help=what)
    report.set_defaults(run=_report)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.rpartition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r:.40}")
    return name, value


def _positive(text: str) -> int:
    return _whole(text, 1)


def _step(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r:.40}")
    return int(text)


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from actdiag.demo import run_demo
    except ImportError as error:
        return _complain(f"actdiag demo: {error}; pip install pytorch-lightning scikit-learn rich", USAGE)
    status: int = run_demo(arguments.log_dir, epochs=arguments.epochs)
    return status


def _report(arguments: argparse.Namespace) -> int:
    from actdiag.diagnose.finding import at_least
    from actdiag.report.document import render_json
    from actdiag.report.read import ReadError, read_runs
    from actdiag.report.text import render_markdown, render_text

    try:
        runs = read_runs(arguments.logdir)
        terms = _terms(arguments, {finding.rule for run in runs for finding in run.findings})
    except ReadError as error:
        return _complain(f"actdiag report: {error}", NOTHING)
    except OSError as error:
        return _complain(f"actdiag report: {arguments.logdir} cannot be read ({error.strerror})", NOTHING)
    except ValueError as error:
        return _complain(f"actdiag report: {error}", USAGE)
    failures = set[str]()
    runs = [_judged(run, terms, failures, again=_again(arguments)) for run in runs]
    if failures:
        _complain(
            f"actdiag report: rules that failed, so that findings are missing: {', '.join(sorted(failures))}", USAGE
        )
    severe = [run.worst for run in runs if run.worst is not None]
    failed = arguments.fail_on is not None and any(at_least(worst, arguments.fail_on) for worst in severe)
    render = {"text": render_text, "markdown": render_markdown, "json": render_json, "html": _html}[arguments.format]
    return _say(render(runs), USAGE if failures else FAILED if failed else OK)


def _html(runs: Sequence[Run]) -> str:
    from actdiag.tensorboard.page import render_html

    return render_html(runs)


def _again(arguments: argparse.Namespace) -> bool:
    return bool(arguments.rejudge or arguments.limits or arguments.severities or arguments.rules)


def _judged(run: Run, terms: Terms, failures: set[str], *, again: bool) -> Run:
    from actdiag.report.judged import drop, judge_again

    if not again:
        return drop(run, terms)
    judged, broken = judge_again(run, terms)
    failures.update(broken)
    return judged


def _terms(arguments: argparse.Namespace, told: set[str]) -> Terms:
    """Terms on which to judge; `told`: rules of the findings in the log, which may be a user's.

    Raises ValueError for terms that cannot be.
    """
    from actdiag.diagnose.judge import RULES
    from actdiag.diagnose.terms import parse_terms

    if arguments.rules:
        sys.path.insert(0, os.getcwd())  # as `python -m` has it: rules lie beside the training
    limits = {name: _number(name, text) for name, text in arguments.limits}
    own, severities = dict(arguments.rules), dict(arguments.severities)
    known = [*RULES, *sorted(told - RULES.keys() - own.keys())]
    return parse_terms(known, ignore=arguments.ignore, limits=limits, severities=severities, rules=own)


def _number(name: str, text: str) -> float:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise ValueError(f"limits[{name!r}] must be a number; got {text!r:.40}") from None


def _compare(arguments: argparse.Namespace) -> int:
    from actdiag.report.choose import SeveralRuns, read_run
    from actdiag.report.compare import compare
    from actdiag.report.document import render_comparison_json
    from actdiag.report.read import ReadError
    from actdiag.report.side_by_side import render_comparison_markdown, render_comparison_text

    runs = []
    for where in (arguments.run_a, arguments.run_b):
        try:
            runs.append(read_run(where))
        except ReadError as error:
            return _complain(f"actdiag compare: {error}", USAGE if isinstance(error, SeveralRuns) else NOTHING)
        except OSError as error:
            return _complain(f"actdiag compare: {where} cannot be read ({error.strerror})", NOTHING)
    a, b = runs
    compared = compare(a, b, arguments.step)
    if arguments.format == "json":
        return _say(render_comparison_json(compared), OK)
    render = {"text": render_comparison_text, "markdown": render_comparison_markdown}[arguments.format]
    return _say(render(compared, arguments.limit), OK)


def _explain(arguments: argparse.Namespace) -> int:
    from actdiag.diagnose.judge import RULES
    from actdiag.manual import manual_of, numbers

    if arguments.slug is None:
        lines = [f"{slug:24}{(inspect.getdoc(rule) or '').partition(chr(10))[0]}" for slug, rule in RULES.items()]
        return _say("\n".join(lines) + "\n", OK)
    if (number := manual_of(arguments.slug)) is not None:
        return _say(number, OK)
    if arguments.slug not in RULES:
        near = difflib.get_close_matches(arguments.slug.lower().replace("_", "-"), RULES, n=1, cutoff=0.5)
        near = near or difflib.get_close_matches(arguments.slug.lower(), numbers(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"the rules are {', '.join(RULES)}"
        return _complain(f"actdiag explain: no rule {arguments.slug!r}; {hint}", USAGE)
    return _say(f"{arguments.slug}\n\n{inspect.getdoc(RULES[arguments.slug])}\n", OK)


def _complain(message: str, status: int) -> int:
    """Say on stderr what is wrong; what came from a file name or a log cannot steer the terminal."""
    from actdiag.write.plain import plain

    print("\n".join(map(plain, message.split("\n"))), file=sys.stderr)
    return status


def _say(text: str, status: int) -> int:
    """Write to stdout; the status, unless that fails. A reader that has gone (`| head`) is no failure."""
    if sys.stdout is None:  # closed by the caller
        return status
    try:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # what is still buffered has to go somewhere, or the interpreter complains once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            return _complain(f"actdiag: the output could not be written ({error.strerror})", UNWRITTEN)
    return status
