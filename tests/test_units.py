"""Evidence about units: silence over a window, the states that follow, and what they remember."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actdiag.collect.activations import GELU, RELU, TANH
from actdiag.collect.layout import arrange
from actdiag.collect.units import MIN_OBSERVATIONS, UnitEvidence, UnitLedger, UnitVerdict, count_open


class Watcher:
    """Feeds batches to one site of C units; every entry tells how many of the samples opened each unit."""

    def __init__(self, units: int, window: int = 640) -> None:
        self.evidence = UnitEvidence.empty(units, torch.device("cpu"), window)
        self.ledger = UnitLedger(units)
        self.step = -1

    def show(self, opened: list[int], *, samples: int = 32, times: int = 1) -> UnitVerdict:
        for _ in range(times):
            self.step += 1
            self.evidence.observe(torch.tensor(opened, dtype=torch.float32), samples, self.step)
        e = self.evidence
        return self.ledger.judge(e.ages_3C.numpy(), (e.open_C + e.open_before_C).numpy(), e, self.step)


def test_nothing_is_said_after_one_batch_of_zeros() -> None:
    verdict = Watcher(3).show([0, 0, 32], samples=100_000)
    assert not verdict.known
    assert verdict.count("d") is None and verdict.count("s") is None


def test_silence_is_first_suspect_and_dead_after_the_window() -> None:
    watcher = Watcher(2)
    verdict = watcher.show([0, 16], times=MIN_OBSERVATIONS)
    assert verdict.states == "sa" and verdict.evidence_samples == 512
    assert verdict.first_death_step is None
    assert watcher.show([0, 16], times=4).states == "da"


def test_few_large_batches_are_not_enough_for_a_death() -> None:
    watcher = Watcher(2)
    assert watcher.show([0, 1], samples=640, times=MIN_OBSERVATIONS - 1).states[0] != "d"
    assert watcher.show([0, 1], samples=640).states[0] == "d"


def test_one_open_sample_in_the_window_keeps_a_unit_from_being_dead() -> None:
    watcher = Watcher(2)
    watcher.show([0, 0], times=10)
    watcher.show([1, 0])
    assert watcher.show([0, 0], times=19).states[1] == "d"
    assert watcher.show([0, 0]).states[0] == "d", "and after a full window of silence it is"


def test_a_unit_that_fires_seldom_is_rare_and_not_suspected_for_its_own_silence() -> None:
    watcher = Watcher(2, window=3200)
    for _ in range(8):
        watcher.show([1, 16])
        verdict = watcher.show([0, 16], times=11)
    assert verdict.states == "ra"


def test_a_busy_unit_that_falls_silent_is_suspected() -> None:
    watcher = Watcher(1, window=3200)
    watcher.show([16], times=20)
    assert watcher.show([0], times=MIN_OBSERVATIONS).states == "s"


def test_a_death_is_dated_by_the_step_after_the_unit_last_opened() -> None:
    watcher = Watcher(2)
    watcher.show([8, 8], times=5)
    assert watcher.show([0, 8], times=20).first_death_step == 5
    assert Watcher(1).show([0], times=20).first_death_step == 0, "never opened: dead from the start"


def test_a_dead_unit_that_opens_is_revived_for_a_window_and_then_alive() -> None:
    watcher = Watcher(1)
    assert watcher.show([0], times=20).states == "d"
    assert watcher.show([32]).states == "v"
    assert watcher.show([32], times=10).states == "v"
    assert watcher.show([32], times=20).states == "a"
    assert watcher.show([0], times=20).states == "d", "and it can die again"


def test_steps_that_were_not_watched_count_in_the_date_and_not_in_the_evidence() -> None:
    watcher = Watcher(1)
    watcher.show([8])
    for _ in range(20):
        watcher.step += 4
        verdict = watcher.show([0])
    assert verdict.first_death_step == 1
    assert watcher.evidence.samples == 21 * 32


@pytest.mark.parametrize("shape,dim", [((4, 3), 1), ((4, 3, 5, 2), 1), ((4, 5, 3), 2)])
def test_a_sample_is_open_where_any_of_its_positions_is(shape: tuple[int, ...], dim: int) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    relu = torch.relu(x - 1)
    flat = relu.flatten(2).amax(2) if len(shape) == 4 else relu.reshape(-1, 3)
    truth = (flat > 0).sum(0)
    assert count_open(arrange(relu, dim), RELU).tolist() == truth.tolist()
    memory = relu.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else relu.mT.contiguous().mT
    assert count_open(arrange(memory, dim), RELU).tolist() == truth.tolist()


def test_saturated_units_are_closed_at_both_ends_and_gelu_is_judged_by_its_tail() -> None:
    a = torch.tensor([[0.999, -0.999, 0.5], [-0.999, 0.999, 0.999]])
    assert count_open(arrange(a, 1), TANH).tolist() == [0, 0, 1]
    z = torch.tensor([[-0.7518, -5.0], [-0.7518, -4.0]])
    assert count_open(arrange(z, 1), GELU).tolist() == [2, 0], "the slope also vanishes at -0.75, which is no death"


def test_nan_does_not_make_a_unit_dead() -> None:
    watcher = Watcher(2)
    x = torch.full((32, 2), float("nan"))
    x[:, 1] = 0
    opened = count_open(arrange(x, 1), RELU)
    assert opened.tolist() == [32, 0]
    assert watcher.show(opened.tolist(), times=20).states == "ad"


def test_states_are_one_letter_a_unit() -> None:
    verdict = Watcher(5).show([32] * 5, times=20)
    assert len(verdict.states) == 5 and np.unique(list(verdict.states)).tolist() == ["a"]


def observed(batches: list[tuple[list[int], int, int]], window: int = 10_000) -> UnitEvidence:
    evidence = UnitEvidence.empty(len(batches[0][0]) if batches else 3, torch.device("cpu"), window)
    for opened, samples, step in batches:
        evidence.observe(torch.tensor(opened, dtype=torch.float32), samples, step)
    return evidence


def course(seed: int, n: int) -> list[tuple[list[int], int, int]]:
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.integers(0, 4, n)) + 7
    return [
        ((rng.integers(0, 9, 3) * (rng.random(3) < [0.9, 0.2, 0.0])).tolist(), int(rng.integers(8, 40)), int(step))
        for step in steps
    ]


def test_R59_saved_evidence_and_deaths_go_on_as_if_never_saved() -> None:
    watcher = Watcher(3)
    watcher.show([0, 8, 4], times=21)
    again = Watcher(3)
    again.step = watcher.step
    again.evidence = UnitEvidence.restored(watcher.evidence.state(), 640)
    again.ledger = UnitLedger.restored(watcher.ledger.state(), 3)
    for opened in ([0, 8, 0], [5, 8, 0], [0, 0, 0]):
        assert again.show(opened, times=12) == watcher.show(opened, times=12)
    assert again.evidence.ages_3C.dtype == torch.float64


def test_R59_restored_evidence_moves_to_the_device_of_what_is_observed() -> None:
    evidence = UnitEvidence.restored(observed(course(1, 5)).state(), 640)
    evidence.observe(torch.ones(3, device="meta"), 8, 99)
    assert {x.device.type for x in (evidence.ages_3C, evidence.open_C, evidence.open_before_C)} == {"meta"}
    assert evidence.samples > 8
