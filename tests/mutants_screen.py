"""Wrong edits of the tab's screen, which is no Python; see mutants.py.

File and tests -> (what, original, replacement)."""

from __future__ import annotations

_STATIC, _MODULES, _SCREEN = "tensorboard/static/", "test_tab_modules", "test_tab_screen"
_HANDS, _VALUES = "test_tab_hands", "test_tab_values"

_EDITS: dict[tuple[str, str], list[tuple[str, str, str]]] = {
    ("tree.js", _MODULES): [
        ("a folded module hides its worst layer", "if (!(out.high[to + c] >= b))", "if (!(out.high[to + c] <= b))"),
        ("every word of a filter is enough", ".every((word)", ".some((word)"),
        ("a module around all layers can be folded", "members.length < names.length", "members.length <= names.length"),
    ],
    ("scale.js", _MODULES): [
        ("what does not apply looks like 0", "if (Number.isNaN(value)) return none;", ""),
        (
            "the better value of a column is seen",
            'if (worse === "low") return low;',
            'if (worse === "low") return high;',
        ),
        ("a scale of sizes is linear", "(Math.log10(value) - bottom) / (top - bottom)", "value / 10 ** top"),
    ],
    ("format.js", _MODULES): [
        ("a CSV is rounded", "digits <= 9", "digits <= 6"),
        ("almost nothing is nothing", "Math.max(value * 100, 0.1)", "Math.max(value * 100, 0)"),
    ],
    ("difference.js", _MODULES): [
        ("the difference is turned around", "values[1][i] - from", "from - values[1][i]"),
        ("the run with more steps is the base", "within(b) < within(a)", "within(b) > within(a)"),
        ("a run goes on after its end", "if (at >= first.length) return -1;", "if (at >= first.length) return at - 1;"),
    ],
    ("source.js", _MODULES): [("all arrays begin at the first", "4 + length + offset", "4 + length")],
    ("save.js", _MODULES): [("a spreadsheet runs names of layers", "/^[=+@\\t\\r]/.test(text) ||", "")],
    ("state.js", _MODULES): [("other tabs' parts of the address are lost", "part && !part.startsWith(FRONT)", "!part")],
    ("rasterpaint.js", _MODULES): [("labels lie upon each other", "covered.fill(1, Math", "covered.fill(0, Math")],
    ("plane.js", _VALUES): [
        ("the mouse is a cell further", "Math.floor(((x - this.left)", "Math.round(((x - this.left)"),
        ("labels are cut", "Math.floor(room / LETTER + 1e-6)", "Math.floor(room / LETTER) - 2"),
    ],
    ("heat.js", _VALUES): [
        ("the tooltip tells the first step", "const at = row * columns + column;", "const at = row * columns;"),
    ],
    ("legend.js", _VALUES): [
        ("the legend is turned around", "flipped ? width - 1 - i : i", "flipped ? i : width - 1 - i")
    ],
    ("raster.js", _HANDS): [
        ("the cursor slides when a module is folded", "this.#model.rowOf(was.keyOf(row))", "row"),
        ("a drag that becomes a scroll is stuck", 'on("pointercancel", () => this.#leave());', ""),
        ("a finger opens what it cannot read", 'event.pointerType !== "touch" ||', "true ||"),
    ],
    ("index.js", _SCREEN): [("what is not live asks", "parts.live.checked && isSeen()", "isSeen()")],
    ("index.js", _HANDS): [("a tooltip outlives its page", "  hideTip();\n", "")],
    ("tools.js", _VALUES): [("a parameter leads nowhere", "return owner ?? info", "return info")],
    ("findings.js", _MODULES): [
        ("what is over comes first", "f.resolved_step === null ? 10 : 0", "f.resolved_step === null ? 0 : 10")
    ],
    ("style.css", _HANDS): [("a narrow window is scrolled", "minmax(min(100%, 440px), 1fr)", "minmax(440px, 1fr)")],
}

SCREEN = {(_STATIC + file, tests): edits for (file, tests), edits in _EDITS.items()}
