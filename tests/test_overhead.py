"""What observing adds to a step, by counts: times depend on the machine, operators and bytes do not."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pieces
import pytest
import torch
from overhead import EVERY_STEP, VARIANTS, Clock, after_forward, faults, measure, operators
from overhead_peers import PEERS
from parts import KINDS, PLACES, Stopwatch, profile
from workloads import MODELS, stepper

from actdiag import Monitor, TensorBoardWriter
from actdiag.collect import budget
from actdiag.collect.budget import FREE_SECONDS
from actdiag.collect.kernel import kernel
from actdiag.collect.lean import Lean
from actdiag.collect.reducing import Eager


def added(name: str, folder: Path, **options: object) -> tuple[int, int, int]:
    """Operators that a third step has more than a bare one, values read back, and tensors observed in it."""
    bare = stepper(MODELS[name])[2]
    model, optimizer, seen = stepper(MODELS[name])
    with Monitor(model, optimizer, writers=[TensorBoardWriter(str(folder))], **options) as monitor:  # type: ignore[arg-type]
        for _ in range(2):
            bare()
            seen()
        (most, reads), (least, _) = operators(seen), operators(bare)
        now = monitor.snapshots[-1]
    gradients = sum(site.grad_rms is not None for site in now.sites.values())
    return most - least, reads, len(now.sites) + gradients + len(now.parameters)


@pytest.mark.parametrize("name", ["mlp", "lstm"])
@pytest.mark.skipif(kernel() is None, reason="no C compiler; apt-get install gcc")
def test_a_recorded_step_adds_six_operators_a_tensor_and_reads_no_value_back(name: str, tmp_path: Path) -> None:
    operators, reads, tensors = added(name, tmp_path, **EVERY_STEP)
    assert reads == 0 and operators <= 6 * tensors, f"{operators} operators for {tensors} tensors"


@pytest.mark.parametrize("name", ["mlp", "lstm"])
def test_without_a_compiler_it_is_twelve(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actdiag.collect.collector.reducer", lambda arenas: Lean())
    operators, reads, tensors = added(name, tmp_path, **EVERY_STEP)
    assert reads == 0 and operators <= 12 * tensors, f"{operators} operators for {tensors} tensors"


def test_with_the_eager_functions_alone_it_is_twenty_seven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actdiag.collect.collector.reducer", lambda arenas: Eager())
    operators, reads, tensors = added("mlp", tmp_path, **EVERY_STEP)
    assert reads == 0 and operators <= 27 * tensors, f"{operators} operators for {tensors} tensors"


def test_an_unrecorded_step_adds_no_operator(tmp_path: Path) -> None:
    options = {"log_every_n_steps": 1000, "watch_every_n_steps": 1000, "max_overhead": None}
    assert added("mlp", tmp_path, **options)[:2] == (0, 0)


@pytest.mark.parametrize("variant", ["A/A control", "every step", "hand-written hooks, every step"])
def test_the_benchmark_measures_what_it_says(variant: str) -> None:
    told = measure("mlp", variant, 12)
    assert told["wall"] > 0 and told["cpu"] > 0 and told["peak_mb"] > 50
    assert (told["operators"] == 0) == (variant == "A/A control")
    assert told["faults"] >= 0 and told["bare_faults"] >= 0
    if sys.platform == "linux":
        assert abs(told["live_mb"]) < 0.5 if variant == "A/A control" else 0 < told["live_mb"] < 20
    assert (told["reads"] > 30) == (variant in PEERS)
    if variant in VARIANTS and VARIANTS[variant] == EVERY_STEP:
        assert 0.5 < told["kb"] < 0.6 * 29, "at most 0.6 KB for each of 29 tensors"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc tells it")
def test_what_a_forward_pass_keeps_is_seen_in_what_malloc_has_given_out() -> None:
    kept: list[torch.Tensor] = []
    model = torch.nn.Linear(2, 2)
    model.register_forward_hook(lambda *_: kept.append(torch.zeros(1 << 22)))

    def step() -> None:
        model(torch.zeros(1, 2))

    before = after_forward(model, step)
    assert after_forward(model, step) - before == pytest.approx(16, abs=0.5)
    assert len(model._forward_hooks) == 1


def test_pages_that_are_touched_for_the_first_time_are_faults() -> None:
    before = faults()
    torch.zeros(1 << 24)
    assert faults() > before


def test_the_clock_of_the_budget_runs_in_the_steps_of_its_own_copy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now, clock = [1.0], Clock()
    monkeypatch.setattr("overhead.time.perf_counter", lambda: now[0])

    def step() -> None:
        now[0] += 2.0
        seen.append(clock())

    seen: list[float] = []
    timed = clock.timed(step)
    for _ in range(2):
        timed()
        now[0] += 100.0
    assert (seen, clock()) == ([2.0, 4.0], 4.0)


@pytest.mark.parametrize("variant,pairs", [("budget of 5 %", 8), ("defaults", 8), ("defaults, later", 8)])
def test_a_budget_is_measured_after_it_has_settled(variant: str, pairs: int) -> None:
    told = measure("mlp", variant, pairs)
    assert told["wall"] > 0 and (0.0 if variant.startswith("budget") else FREE_SECONDS) == budget.FREE_SECONDS
    measure("mlp", "A/A control", 2)
    assert budget.FREE_SECONDS == FREE_SECONDS


@pytest.mark.skipif(kernel() is None, reason="no C compiler; apt-get install gcc")
def test_pieces_are_told_in_reads_of_a_tensor_and_beside_what_is_written_by_hand() -> None:
    head, _, *rows, empty, sentence = pieces.table(32 * 64 * 16, 1)
    assert head.startswith("| reads of 32,768 float32 | ReLU") and empty == "" and len(rows) == 5
    numbers = {row.split("|")[1].strip(): [float(cell) for cell in row.split("|")[2:-1]] for row in rows}
    assert set(numbers) > {"C kernel", "by hand"} and all(len(n) == 4 and min(n) > 0 for n in numbers.values())
    curves, *_ = (int(found) for found in re.findall(r"for (\d+) curves", sentence))
    assert curves > 30 and "By hand a scalar takes" in sentence


@pytest.mark.skipif(kernel() is None, reason="no C compiler; apt-get install gcc")
def test_the_parts_of_a_recorded_step_are_all_timed_and_put_back() -> None:
    before = [getattr(sys.modules[owner] if isinstance(owner, str) else owner, name) for owner, name, _ in PLACES]
    told = profile("mlp", 3)
    assert set(told) == {"bare", "recorded", *KINDS, "elsewhere"} and all(told[part] > 0 for part in KINDS)
    assert sum(told[part] for part in KINDS) < told["recorded"]
    after = [getattr(sys.modules[owner] if isinstance(owner, str) else owner, name) for owner, name, _ in PLACES]
    assert before == after


def test_while_one_part_runs_the_one_that_called_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now, watch = [1.0], Stopwatch()
    monkeypatch.setattr("parts.time.thread_time", lambda: now[0])

    def takes(seconds: float, *then: Callable[[], None]) -> Callable[[], None]:
        def work() -> None:
            now[0] += seconds
            for one in then:
                one()

        return work

    inner = watch.watching(takes(2.0), "inner")
    watch.watching(takes(1.0, inner, inner, takes(0.5)), "outer")()
    assert watch.spent == {"outer": 1.5, "inner": 4.0}
