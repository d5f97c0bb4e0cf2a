"""Wrong edits of the TensorBoard tab and of the HTML report; see mutants.py.

File and tests -> (what, original, replacement)."""

from __future__ import annotations

SERIES, ANSWERS, PLUGIN, PAGE = "test_tab_series", "test_tab_answers", "test_tab_plugin", "test_tab_page"

TAB: dict[tuple[str, str], list[tuple[str, str, str]]] = {
    ("tensorboard/reduce.py", SERIES): [
        ("a column shows NaN where one of its steps is NaN", "np.fmin.reduceat", "np.minimum.reduceat"),
        (
            "the highest of a column is its last",
            "np.fmax.reduceat(values_TR, edges[:-1], axis=0)",
            "values_TR[edges[1:] - 1]",
        ),
        ("a column ends at the next one's first step", "steps_T[edges[1:] - 1]", "steps_T[edges[1:] - 2]"),
        (
            "the last step is not among the chosen ones",
            "max(picked, 1)) - 1",
            "max(picked, 1)) - count // max(picked, 1)",
        ),
    ],
    ("tensorboard/timeline.py", f"{SERIES} {ANSWERS}"): [
        ("a step that comes again stands twice", "keys[kept[-1]][0] >= step", "keys[kept[-1]][0] > step"),
        (
            "a schema holds from the event after its own",
            "return [at[key] if key in at",
            "return [at[key] + 1 if key in at",
        ),
        ("a schema without an event of its own is forgotten", "int(np.searchsorted(walls, key[1]))", "len(keys)"),
        ("sites stand in the order they were told first", "sorted(order, key=order.__getitem__)", "list(order)"),
    ],
    ("tensorboard/grid.py", f"{SERIES} {ANSWERS}"): [
        ("None among counts is -1", "found[table == tags.NO_INT] = np.nan", "pass"),
        ("vectors stand in the rows of the first schema", "rows = names.rows[schema]", "rows = names.rows[0]"),
        ("vectors of another length are taken", "return len(vector) == len(names.rows[schema]) and", "return"),
        ("a table may have any size", "if size > LARGEST_BYTES:", "if False:"),
    ],
    ("tensorboard/histograms.py", SERIES): [
        ("octaves are shifted by one", "(h.top - k - bottom), 0", "(h.top - k - bottom + 1), 0"),
        ("counts beyond the grid are lost", "0, octaves)\n", "0, octaves) % (octaves + 1)\n"),
        ("the grid begins above its smallest octave", "max(min(used) - 1,", "max(min(used),"),
    ],
    ("tensorboard/states.py", SERIES): [
        (
            "a column shows the state of its last step",
            "np.maximum(found.rank_UC[own, column], rank, out",
            "np.add(0, rank, out",
        ),
        ("the step of death is that of the last", "(rank == _DEAD) & (died == _NEVER)", "rank == _DEAD"),
        ("revived is worse than rare", '_WORSE = "avrsd"', '_WORSE = "arvsd"'),
    ],
    ("tensorboard/provider.py", ANSWERS): [
        (
            "events that were superseded are shown",
            "timeline.places.get(key)",
            "{k[0]: v for k, v in timeline.places.items()}.get(key[0])",
        ),
        ("a live series is not read again", "return self.timeline().mark, self._stamps.get(tag)", "return tag"),
        ("a series is read at each question", "self._front, what), stamp,", "self._front, what), object(),"),
        ("monitors share a cache", "self.run, self._front, what", "self.run, what"),
        ("a series that is too large is an error of the server", 'if name == "RESOURCE_EXHAUSTED":', "if False:"),
    ],
    ("tensorboard/details.py", ANSWERS): [
        ("what a blob holds is taken for that of the next", "if now != before:", "if before is None:"),
        ("the same bytes mean the same under another schema", "now = schema, blob", "now = 0, blob"),
    ],
    ("tensorboard/cache.py", SERIES): [
        ("nothing is dropped", "while self._size > self._most:", "while False:"),
        (
            "what was used last is dropped first",
            "self._held.move_to_end(key)",
            "self._held.move_to_end(key, last=False)",
        ),
        ("threads make the same value twice", "        with gate:\n", "        if gate:\n"),
    ],
    ("tensorboard/answers.py", ANSWERS): [
        (
            "a run that cannot be read hides the others",
            "        except Refusal as refusal:\n            problems",
            "        except KeyError as refusal:\n            problems",
        ),
        ("runs are listed as they come", "sorted(found, key=lambda log: natural(name_of(log)))", "found"),
    ],
    ("tensorboard/plugin.py", PLUGIN): [
        ("anything may be posted", 'if request.method != "GET":', "if False:"),
        ("every file of the folder is served", "if path.suffix in _MIME and path.is_file()}", "if path.is_file()}"),
    ],
    ("tensorboard/loader.py", PLUGIN): [
        (
            "the user's number of samples is overruled",
            "flags.samples_per_plugin.setdefault(PLUGIN, 0)",
            "flags.samples_per_plugin[PLUGIN] = 0",
        ),
        ("a broken plugin stops TensorBoard", "            return None", "            raise"),
    ],
    ("tensorboard/page.py", PAGE): [
        ("a name ends the script", '.replace("<", "\\\\u003c")', ""),
        (
            "modules look for files",
            r'_IMPORT.sub(r"\1\2actdiag/\3\2", path.read_text(encoding="utf-8"))',
            'path.read_text(encoding="utf-8")',
        ),
        ("a large log makes a page of any size", "if value is None or left < 0:", "if value is None:"),
    ],
    ("write/codec.py", SERIES): [
        ("the line of another site", 'data.split(b"\\n", index + 1)[index]', 'data.split(b"\\n", index)[-1]'),
        ("the histogram of another site", "start = sum(length for length, _ in head[:index])", "start = 0"),
    ],
}
