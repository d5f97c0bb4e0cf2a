"""Figures of the claims: medians with a band or bars from the lowest to the highest seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .results import Panel, Result, Sample, mid

_PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
"""Okabe and Ito's colors, told apart by readers with any color vision on white; yellow replaced by a dark ochre."""
_MARKERS = "osD^vPX*"
_FIXED = {"ReLU": 0, "tanh": 1, "sigmoid": 2, "ReLU - 0.4": 5, "GELU": 4, "SiLU": 3, "identity": 6, "squared ReLU": 7}
_STYLE = {
    "svg.hashsalt": "why-relu",  # the same numbers give the same file
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.edgecolor": "#666666",
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def available() -> bool:
    """Whether matplotlib is installed; without it the tables say the same."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def draw(result: Result, path: Path) -> None:
    """One row of panels, written as SVG without a date in it."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE):
        count = len(result.panels)
        figure, axes = pyplot.subplots(1, count, figsize=(3.7 * count + 1.6, 3.2), squeeze=False, layout="constrained")
        named: dict[str, Any] = {}
        for panel, ax in zip(result.panels, axes[0], strict=True):
            _panel(ax, panel)
            for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
                named.setdefault(name, handle)
        if len(named) > 1:
            figure.legend(named.values(), named.keys(), loc="outside right center", fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _panel(ax: Any, panel: Panel) -> None:
    categories = list(dict.fromkeys(x for points in panel.lines.values() for x, _ in points if isinstance(x, str)))
    apart = len(panel.lines) > 1 and list(panel.lines) != categories
    edge = _edge(panel)
    for i, (name, points) in enumerate(panel.lines.items()):
        shift = (i - (len(panel.lines) - 1) / 2) * 0.14 if apart else 0.0
        xs = [categories.index(x) + shift if isinstance(x, str) else x for x, _ in points]
        style = _style(panel, name)
        look = {"color": _PALETTE[style], "marker": _MARKERS[style], "label": name}
        _line(ax, xs, [sample for _, sample in points], look, (bool(categories), edge))
    _axes(ax, panel, categories)
    if _beyond(panel):
        ax.axhline(edge, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
        place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "bottom"}
        ax.annotate(panel.never, (0.995, edge), (0, 3), size=8, **place)
    ax.set_title(panel.title, loc="left", fontsize=10)
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)


def _style(panel: Panel, name: str) -> int:
    """An activation looks the same in every figure; other names take what is left."""
    if name in _FIXED:
        return _FIXED[name]
    taken = [_FIXED[other] for other in panel.lines if other in _FIXED]
    free = [i for i in range(len(_PALETTE)) if i not in taken] or list(range(len(_PALETTE)))
    return free[[other for other in panel.lines if other not in _FIXED].index(name) % len(free)]


def _axes(ax: Any, panel: Panel, categories: Sequence[str]) -> None:
    from matplotlib import ticker

    for letter, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        if letter in panel.log:
            (ax.set_xscale if letter == "x" else ax.set_yscale)("log")
            low, high = axis.get_view_interval()
            if high < 1e4 * low:
                axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
                axis.set_minor_formatter(ticker.NullFormatter())
    if categories:
        long = max(map(len, categories)) * len(categories) > 36
        ax.set_xticks(range(len(categories)), categories, rotation=25 if long else 0, ha="right" if long else "center")
        ax.set_xlim(-0.6, len(categories) - 0.4)
    elif "x" not in panel.log:
        ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))


def _line(
    ax: Any, xs: Sequence[float], samples: Sequence[Sample], look: dict[str, Any], how: tuple[bool, float]
) -> None:
    """Categories are dots with bars; numbers a line with a band. What lies beyond the edge is hollow, on it."""
    categories, edge = how
    middle, low, high = ([min(f(sample), edge) for sample in samples] for f in (mid, min, max))
    lost = [mid(sample) >= edge for sample in samples]
    shown = [math.nan if gone else value for gone, value in zip(lost, middle, strict=True)]
    if categories:
        bars = [[m - a for m, a in zip(middle, low, strict=True)], [b - m for m, b in zip(middle, high, strict=True)]]
        ax.errorbar(xs, shown, bars, linestyle="none", capsize=3, markersize=5, **look)
    else:
        ax.plot(xs, shown, markersize=3.5, linewidth=1.3, **look)
        ax.fill_between(xs, low, high, color=look["color"], alpha=0.18, linewidth=0)
    hollow = {"linestyle": "none", "marker": look["marker"], "markerfacecolor": "white", "color": look["color"]}
    gone = [x for x, is_lost in zip(xs, lost, strict=True) if is_lost]
    ax.plot(gone, [edge] * len(gone), markersize=6, **hollow)


def _values(panel: Panel) -> list[float]:
    return [value for points in panel.lines.values() for _, sample in points for value in sample]


def _beyond(panel: Panel) -> bool:
    return any(value > panel.top or math.isinf(value) for value in _values(panel))


def _edge(panel: Panel) -> float:
    if not _beyond(panel):
        return math.inf
    highest = max((v for v in _values(panel) if v <= panel.top and math.isfinite(v)), default=1.0)
    return min(panel.top, 2 * highest if "y" in panel.log else 1.15 * highest)
