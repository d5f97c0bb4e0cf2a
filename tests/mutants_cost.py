"""Wrong edits of what makes observing cheap; see mutants.py.

(file, test files) -> wrong edits of it: what, original, replacement.
"""

from __future__ import annotations

COST = {
    ("stepping.py", "test_left_alone"): [
        (
            "no step is left alone",
            "self._alone.steps = self._left_alone()",
            "self._alone.steps = 0",
        ),
        (
            "steps left alone are not counted",
            "            self._step += passed\n",
            "",
        ),
        (
            "steps left alone are unknown to a saved state",
            "            self._session.next_step = self._step\n",
            "",
        ),
        (
            "who saves a state does not count the steps left alone",
            "        self._catch_up()\n        if self._due and not self._session.closed",
            "        if self._due and not self._session.closed",
        ),
        (
            "steps left alone before a state was loaded are counted after it",
            "        self._catch_up()\n        if not self._session.load_state_dict(state):",
            "        if not self._session.load_state_dict(state):",
        ),
        (
            "several optimizers are one",
            "one = len(self._optimizers) == 1 and",
            "one = len(self._optimizers) > 0 and",
        ),
        (
            "time of steps left alone is lost",
            "        self._session.guarded(self._session.schedule.budget.pass_over, last=not self._alone.steps)\n",
            "",
        ),
    ],
    ("collect/alone.py", "test_left_alone"): [
        (
            "our own updates are somebody else's",
            "        witness.note()\n",
            "",
        ),
        (
            "steps that have passed are counted twice",
            "passed, self.passed = self.passed, 0",
            "passed = self.passed",
        ),
    ],
    ("collect/gradients.py", "test_left_alone"): [
        (
            "a hook stays with a parameter that was watched",
            "[None] * len(given) if self._lasting else nodes_of([parameter for parameter, _ in given])",
            "[None] * len(given)",
        ),
        (
            "a model that was moved is not followed",
            "            if node is not one.node:\n",
            "            if node is None:\n",
        ),
        (
            "a model is followed to where its validation was",
            "if self._followed or not torch.is_grad_enabled():",
            "if self._followed:",
        ),
    ],
    ("collect/parameters.py", "test_copies"): [
        ("a hook outlives the model", "weakref.ref(module, hooks.remove)", "weakref.ref(module)"),
    ],
    ("collect/schedule.py", "test_left_alone"): [
        (
            "a step is left alone too many",
            "min(self._next.values()) - 1 - step)",
            "min(self._next.values()) - step)",
        ),
        (
            "steps are left alone before any was timed",
            "        if not self.budget.known:\n            return 0\n",
            "",
        ),
    ],
    ("collect/budget.py", "test_left_alone"): [
        (
            "a pause is time of steps",
            "        self.timeline.restart()\n",
            "        pass\n",
        ),
        (
            "steps left alone take no time",
            "            self._elapsed_s += took_s\n",
            "            self._elapsed_s += took_s * (what not in (_LAST, _PASSED))\n",
        ),
    ],
    ("collect/fused.py", "test_fused"): [
        ("all copies share memory", " or sum(group) + sizes[at + 1] > _SHARED", ""),
        ("no copies share memory", "if at + 1 == len(sizes) or sum(group)", "if at + 1 or sum(group)"),
    ],
    ("collect/recorder.py", "test_late"): [
        ("a step on its way is told twice", "coming, self._coming = self._coming, None", "coming = self._coming"),
        ("a loss scaler is kept waiting", " or now.scaler.scaler is not None", ""),
        ("ranks are kept waiting", "self._ranks.merging or now.again", "now.again"),
        ("a step to be repeated is kept waiting", "self._ranks.merging or now.again", "self._ranks.merging"),
        ("a step on its way is of the next epoch", "epoch=coming.epoch, ", ""),
    ],
    ("collect/sending.py", "test_late"): [
        ("what is sent for later is shared", "[array.copy() for array in arrays] if late else arrays", "arrays"),
        ("nothing comes later", "comes = late and device.type in LATE_DEVICES", "comes = False"),
        ("what comes is cut in the wrong places", "_Place(*both, False)", "_Place(both[0] + 1, both[1] + 1, False)"),
    ],
    ("collect/timeline.py", "test_timeline"): [
        (
            "a GPU that cannot be asked ends the training",
            "        except RuntimeError:\n            self._by_host",
            "        except ZeroDivisionError:\n            self._by_host",
        ),
        ("time may be below zero", "return took_s if took_s >= 0 else None", "return took_s"),
        ("the host's clock is that of its GPU", "self._add(what, _event())", "self._add(what, self.clock())"),
        (
            "a GPU is not waited for and yet asked",
            "while self._waiting and _has_come(self._waiting[0].at)",
            "while self._waiting",
        ),
        ("a pause is time", "        self._waiting.append(_Mark(None, None))\n", ""),
        ("milliseconds are seconds", "float(before.elapsed_time(after)) / 1e3", "float(before.elapsed_time(after))"),
        (
            "an event is recorded while a graph is captured",
            "            if torch.cuda.is_current_stream_capturing():",
            "            if False:",
        ),
        (
            "two GPUs have one clock",
            "    except RuntimeError:  # events of two GPUs\n        return None\n",
            "    except ZeroDivisionError:\n        return None\n",
        ),
    ],
    ("collect/arena.py", "test_arena"): [
        ("what was given up is counted", "        self.restart()\n", "        self._used = 0\n"),
        ("two tensors lie in one place", "            self._used += size * has_room\n", ""),
        ("a step writes where the one before has written", "        self._buffers.reverse()\n", ""),
        ("a buffer never grows", " or held.numel() < least", ""),
        (
            "a buffer that is as large as may be is made anew",
            "least, held = min(self._wanted, MOST), self._buffers[0]",
            "least, held = self._wanted, self._buffers[0]",
        ),
        ("a graph writes into the buffer", " and not capturing(self._device)", ""),
        ("a buffer is made inside of a graph", "        if not capturing(self._device):\n", "        if True:\n"),
        ("what lies beyond the end lies in the buffer", " and at + x.numel() <= self._used", ""),
        ("what lies before it lies in the buffer", "at >= 0 and ", ""),
        ("a strided part lies in a row", " or not x.is_contiguous()", ""),
        ("what is not as large as a number lies in it", " or x.element_size() != 8", ""),
    ],
    ("collect/sending.py", "test_arena"): [
        ("integers are read as floats", "start is not None and x.dtype == torch.int64", "False"),
        ("what was copied is read as integers", "start is not None and x.dtype", "x.dtype"),
        ("what does not lie in the buffer is not copied there", "out=tail)\n", "out=tail.clone())\n"),
        ("all of it is put together once more", "    if found is not None:\n        return found\n", ""),
    ],
    ("collect/triton_reducer.py", "test_triton"): [
        (
            "evidence is given up with the step",
            "open_C = empty(asked.open, count)",
            "open_C = arena.take(count) if asked.open else None",
        ),
        ("sums lie outside of the buffer", "sums_6 = arena.take(6) if summed else None", "sums_6 = empty(summed, 6)"),
    ],
    ("collect/recording.py", "test_late"): [
        ("openings on their way are counted again", "    if late:\n        collector.told()\n", ""),
    ],
    ("session.py", "test_late"): [
        (
            "the last step on its way is lost",
            "            self.guarded(self.finish)\n        if self.closed",
            "            pass\n        if self.closed",
        ),
        ("a step on its way is told only to who asks", "        self.finish()\n        mode,", "        mode,"),
    ],
    ("observed.py", "test_late"): [
        ("who asks is told nothing of what is on its way", "        self.session.guarded(self.session.finish)\n", ""),
    ],
    ("collect/budget.py", "test_schedule"): [
        (
            "steps after an observed one cost nothing",
            "median(self._cost[mode]) + self._after_s(mode)",
            "median(self._cost[mode])",
        ),
        (
            "steps after an observed one take no time",
            "            self._spent_s += max(0.0, statistics.median(own))\n",
            "",
        ),
        ("slow steps are what a bare one takes", "self._still if self._is_still else self._base", "self._base"),
        (
            "a slow step is the cost of what was observed",
            "max(0.0, statistics.median(own)) for own",
            "max(0.0, *own) for own",
        ),
        ("what was observed costs on", "        self._position += 1\n", ""),
        ("the third step is not on its own", "            self._still.append(took_s)\n", ""),
        ("a resumed run forgets what is bare", 'self._still.extend(_numbers(state, "still"))', "pass"),
        (
            "a resumed run forgets the steps after",
            '                own.extend(_numbers({"values": values}, "values"))',
            "                pass",
        ),
        (
            "a resumed run forgets what was observed",
            "self._observed, self._position = OBSERVED[int(observed)], int(position)",
            "pass",
        ),
        ("an older budget is refused", 'if "still" in state:', "if True:"),
    ],
    ("collect/schedule.py", "test_schedule"): [
        (
            "every other step is watched at first",
            "            return configured  # steps are spared",
            "            return 2",
        ),
        ("no step is spared", "% SPARED_STEPS == SPARED_STEPS - 1", "== -1"),
        ("steps are spared for no budget", "self._options.max_overhead is None or self._agreed", "self._agreed"),
        (
            "steps are spared for ever",
            " or self.budget.known:\n            return False",
            ":\n            return False",
        ),
        (
            "merging ranks spare as they like",
            " or self._agreed is not None or self.budget.known",
            " or self.budget.known",
        ),
    ],
    ("write/event_file.py", "test_event_file"): [
        (
            "files share a name",
            "{os.getpid()}.{next(_NUMBERS)}",
            "{os.getpid()}.0",
        ),
        (
            "a child writes what waits",
            "while waiting and self._owner == os.getpid():",
            "while waiting:",
        ),
        (
            "part of a write is enough",
            "waiting = waiting[self._file.write(waiting) :]",
            "self._file.write(waiting)\n            break",
        ),
        (
            "nothing is flushed in time",
            ">= _FLUSH_SECONDS or",
            "< 0 or",
        ),
        (
            "all waits for ever",
            " or len(self._waiting) >= _MOST_BYTES",
            "",
        ),
        (
            "what could not be written is kept",
            "memoryview(bytes(self._waiting)), bytearray()",
            "memoryview(bytes(self._waiting)), self._waiting",
        ),
    ],
    ("write/crc.py", "test_event_file"): [
        (
            "blocks forget what was before",
            '    block[:4] ^= np.frombuffer(crc.to_bytes(4, "little"), np.uint8)\n',
            "",
        ),
        (
            "short blocks begin at the front",
            "rows[-len(block) :]",
            "rows[: len(block)]",
        ),
        (
            "checksums are not masked",
            "return ((crc >> 15 | crc << 17) + _MASK) & _ALL",
            "return crc",
        ),
    ],
    ("collect/histogram.py", "test_histogram"): [
        (
            "the largest octave is lost",
            "last_N = _EXPONENTS - 2 -",
            "last_N = _EXPONENTS - 3 -",
        ),
        (
            "small values are lost",
            "middle_N = total_N - inside_N2O.sum((1, 2))",
            "middle_N = 0 * total_N",
        ),
        (
            "octaves below the smallest are counted again",
            " * (at_NO >= 1)[:, None, :]",
            "",
        ),
        (
            "the sides are mixed up",
            "[inside_N2O[:, 1, ::-1], middle_N[:, None], inside_N2O[:, 0]]",
            "[inside_N2O[:, 0, ::-1], middle_N[:, None], inside_N2O[:, 1]]",
        ),
    ],
    ("collect/finish.py", "test_tally test_numbers"): [
        (
            "sites without units shift the others",
            "first = np.array(at[:-1], np.intp)[used_S]",
            "first = np.array(at[:-1], np.intp)[: used_S.sum()]",
        ),
        (
            "the spread of the means is left out",
            "total(tally.n_C * off_C * off_C)",
            "0",
        ),
    ],
    ("collect/readout.py", "test_tally test_numbers"): [
        (
            "extremes are of the first unit",
            "np.minimum.reduceat(low_C, first)",
            "low_C[first]",
        ),
    ],
    ("diagnose/rules/once.py", "test_once"): [
        (
            "another snapshot at the same place is taken for the first",
            "if held is None or held[0]() is not snapshot:",
            "if held is None:",
        ),
        (
            "nothing is remembered",
            "        if held is None or held[0]() is not snapshot:",
            "        if True:",
        ),
        (
            "what is gone is kept",
            "        del known[key]",
            "        pass",
        ),
    ],
}
