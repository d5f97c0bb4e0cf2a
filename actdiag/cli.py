"""The `actdiag` command: demo, report, explain.

Exit status: 0 done; 1 a finding reached `--fail-on`; 2 wrong usage; 3 nothing to read; 130 interrupted.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Sequence

from actdiag import __version__

OK, FAILED, USAGE, NOTHING, INTERRUPTED = 0, 1, 2, 3, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`| head`); without this the interpreter complains once more at exit.
        sys.stdout = None  # type: ignore[assignment]
        return OK
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="actdiag",
        description="Training diagnostics for PyTorch: centering, saturation, dead units and gradient flow.",
        epilog="exit status: 0 done, 1 a finding reached --fail-on, 2 wrong usage, 3 nothing to read",
    )
    parser.add_argument("--version", action="version", version=f"actdiag {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train one healthy and three broken networks on real data")
    demo.add_argument("--log-dir", default="runs/demo", help="where the runs are written (default: %(default)s)")
    demo.add_argument("--epochs", type=_positive, default=None, help="epochs per network (default: each its own)")
    demo.set_defaults(run=_demo)

    report = commands.add_parser("report", help="read event files and say how the runs are")
    report.add_argument("logdir", metavar="LOGDIR", help="a run directory, or a directory of runs")
    report.add_argument("--format", choices=("text", "markdown", "json"), default="text")
    report.add_argument(
        "--fail-on",
        choices=("info", "warning", "error"),
        default=None,
        help="exit with 1 if an open finding is at least this severe",
    )
    report.set_defaults(run=_report)

    explain = commands.add_parser("explain", help="the manual of a rule")
    explain.add_argument("slug", metavar="SLUG", nargs="?", help="such as dead-units; without it: all slugs")
    explain.set_defaults(run=_explain)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from actdiag.demo import run_demo
    except ImportError as error:
        print(f"actdiag demo: {error}; pip install 'actdiag[demo]'", file=sys.stderr)
        return USAGE
    return run_demo(arguments.log_dir, epochs=arguments.epochs)


def _report(arguments: argparse.Namespace) -> int:
    from actdiag.diagnose.finding import at_least
    from actdiag.report.document import render_json
    from actdiag.report.read import ReadError, read_runs
    from actdiag.report.text import render_markdown, render_text

    try:
        runs = read_runs(arguments.logdir)
    except (ReadError, OSError) as error:
        print(f"actdiag report: {error}", file=sys.stderr)
        return NOTHING
    render = {"text": render_text, "markdown": render_markdown, "json": render_json}[arguments.format]
    sys.stdout.write(render(runs))
    severe = [run.worst for run in runs if run.worst is not None]
    failed = arguments.fail_on is not None and any(at_least(worst, arguments.fail_on) for worst in severe)
    return FAILED if failed else OK


def _explain(arguments: argparse.Namespace) -> int:
    from actdiag.diagnose.judge import RULES

    if arguments.slug is None:
        for slug, rule in RULES.items():
            print(f"{slug:24}{(inspect.getdoc(rule) or '').partition(chr(10))[0]}")
        return OK
    if arguments.slug not in RULES:
        print(f"actdiag explain: no rule {arguments.slug!r}; there are {', '.join(RULES)}", file=sys.stderr)
        return USAGE
    print(f"{arguments.slug}\n\n{inspect.getdoc(RULES[arguments.slug])}")
    return OK
