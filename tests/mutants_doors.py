"""Wrong edits of the doors for other trainers, and of what they stand on; see mutants.py.

(file, test files) -> wrong edits of it: what, original, replacement.
"""

from __future__ import annotations

DOORS = {
    ("transformers.py", "test_transformers"): [
        ("the Trainer's steps are counted from 0", "begin_at, state.global_step + 1)", "begin_at, state.global_step)"),
        (
            "an error in a training step leaves hooks",
            "            self._close()\n            raise",
            "            raise",
        ),
        ("the Trainer keeps our training_step", "        self._left = True\n", "        pass\n"),
        (
            "several callbacks leave one another's behind",
            "while isinstance(top, _Guard) and top._left:",
            "while False:",
        ),
        ("open findings are not carried", "session.outlet.carry(session.ledger.open_findings())", "pass"),
        ("the user's training_step is lost", 'mine["training_step"] = top', "pass"),
        ("a resumed Trainer starts afresh", "if state.global_step:", "if False:"),
        (
            "a checkpoint that was moved is not found",
            "Path(checkpoint or _folder(args, state))",
            "_folder(args, state)",
        ),
        ("the Trainer does not stop", "control.should_training_stop = True", "pass"),
        ("hooks stay for the optimizer", "guarded(self._observed.session.rest)", "guarded(lambda: None)"),
        ("the Trainer's interval is not taken", "steps != int(steps)", "True"),
        ("every rank of a Trainer writes", '"off" or state.is_world_process_zero', '"off" or True'),
        ("a file is written without a tracker", "if not trackers and not any(", "if trackers and not any("),
        ("two callbacks share a file", "'-' if self._options.prefix else ''}{self._options.prefix}", "''}"),
    ],
    ("ignite.py", "test_ignite"): [
        ("an engine swallows exceptions", "            raise error", "            pass"),
        (
            "an engine raises what a handler has taken",
            "if all(isinstance(one, _OnException) for one",
            "if all(True for one",
        ),
        ("the first handle raises before the second is closed", "handlers[-1] is self", "True"),
        ("iterations that accumulate begin anew", "if driver.running:", "if False:"),
        ("an interrupted engine leaves hooks", "session.guarded(session.begin_again", "(lambda *_: 0)(session"),
        ("a terminated engine is not closed", "(Events.TERMINATE, self._over),", ""),
        ("an engine is not terminated", "engine.terminate()", "pass"),
    ],
    ("observed.py", "test_transformers"): [
        ("a callback is copied with its session", '"running": None, "_last"', '"_last"'),
        ("nothing is kept of a training that is over", "self._last = observed.snapshots, observed.findings", "pass"),
    ],
    ("stepping.py", "test_transformers"): [
        ("a due step that was skipped is lost", "self._session.begin_again(step)", "pass"),
        ("a told step begins by itself", "if not self._is_told:", "if True:"),
    ],
    ("session.py", "test_transformers"): [
        ("gradient hooks stay for the optimizer", "self._parameters.rest()", "pass"),
    ],
    ("optimizers.py", "test_transformers"): [
        ("a wrapped optimizer is taken as it is", 'while "_optimizer_step_pre_hooks" not in', "while not"),
    ],
    ("write/tensorboard.py", "test_write_tensorboard"): [
        ("tensorboardX is given foreign classes", "theirs.FromString(summary.SerializeToString())", "summary"),
    ],
    ("write/scalars.py", "test_loggers"): [
        ("names hold what stores refuse", '_REFUSED.sub("_", self._front + tag)', "self._front + tag"),
        ("two layers share a curve", "while name in self._taken:", "while False:"),
        (
            "the step goes where a store has its prefix",
            "return _by_name(call) if _names_step(call) else call",
            "return call",
        ),
        ("a class is taken for a store", "if isinstance(target, type):", "if False:"),
        ("trackers of Accelerate are refused", 'call = getattr(target, "log", None)', "call = None"),
    ],
    ("write/stock.py", "test_loggers"): [
        ("the model's detail has layers", "return found if self._of_model_only else", "return found if False else"),
        ("findings stay open for ever", "self.open.pop(key, None)", "pass"),
    ],
    ("outlet.py", "test_loggers"): [
        ("a store that fails has no name", "return writer.name if isinstance(writer, ScalarWriter) else", "return"),
    ],
    ("loggers.py", "test_loggers"): [
        (
            "two monitors mix their curves in a store",
            "if LOGGERS.holders(target, options.prefix, type(writer)):",
            "if False:",
        ),
        (
            "a TensorBoard logger gets curves alone",
            'for owned in ("experiment", "tracker", "writer", ""):',
            'for owned in ("",):',
        ),
        ("off by option and on by hand", '    if options.loggers == "off":', "    if False:"),
    ],
    ("loggers.py", "test_trainer_loggers"): [
        ("loggers of a trainer are not left alone", ' or options.loggers == "off"', ""),
        ("a tracker is told of the step before", "then.global_step = step", "_ = step"),
        (
            "a tracker stops the Trainer",
            "callback.on_log(args, then, copy(control)",
            "callback.on_log(args, then, control",
        ),
        (
            "every callback hears of our numbers",
            'if not any(kind.__module__.startswith("transformers.integrations")',
            "if not any(True",
        ),
        ("TensorBoard is told twice", 'if hasattr(callback, "tb_writer") or any(', "if any("),
        ("DVCLive has steps of ours", 'any("DVCLive" in kind.__name__ for kind in kinds)', "False"),
        ("beside a store there is no event file", "return found if events else", "return found if found else"),
    ],
    ("config.py", "test_configuration"): [
        ("off in a file is no value", "off=spec.name in _HAVE_OFF", "off=False"),
        ("a list is another option than a tuple", "tuple(value) if isinstance(value, list) else value", "value"),
        (
            "what OmegaConf cannot read is its error",
            "except Exception as error:  # an interp",
            "except KeyError as error:  # an interp",
        ),
        ("a text that spells a number is not explained", "number = number_in(value)", "number = None"),
        ("options may be a list", "if given is not None and not isinstance(given, Mapping):", "if False:"),
        ("a kept file has functions in it", "found[name] = for_files(", "found[name] = ("),
        ("off is refused by LightningCLI", '"loggers": str | bool, ', ""),
        ("the help of LightningCLI is empty", "one.metadata['doc']}{units", "''}{units"),
    ],
    ("values.py", "test_configuration"): [
        (
            "a mapping stays the caller's",
            "return {key: own(item, off=off) for key, item in value.items()}",
            "return value",
        ),
        ("a list stays OmegaConf's", "else list(map(own, value))", "else value"),
    ],
    ("session.py", "test_loggers"): [
        (
            "what writers take is no cost",
            "self._publish(snapshot)\n",
            "self._publish(snapshot)\n            self.schedule.budget.restart()\n",
        ),
    ],
}
