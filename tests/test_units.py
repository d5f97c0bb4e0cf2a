"""Evidence about units: silence over a window, the states that follow, and what they remember."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actdiag.collect.activations import GELU, RELU, TANH
from actdiag.collect.layout import arrange
from actdiag.collect.recent import Recent
from actdiag.collect.units import MIN_OBSERVATIONS, UnitEvidence, UnitLedger, UnitVerdict, count_open


class Watcher:
    """Feeds batches to one site of C units; every entry tells how many of the samples opened each unit."""

    def __init__(self, units: int, window: int = 640) -> None:
        self.evidence = UnitEvidence.empty(units, window)
        self.ledger = UnitLedger(units)
        self.step = -1

    def show(self, opened: list[int], *, samples: int = 32, times: int = 1) -> UnitVerdict:
        for _ in range(times):
            self.step += 1
            self.evidence = absorbed(self.evidence, [(opened, samples, self.step)])
        return self.ledger.judge(self.evidence, self.step)


def absorbed(evidence: UnitEvidence, batches: list[tuple[list[int], int, int]]) -> UnitEvidence:
    """Evidence with some batches, read once after all of them."""
    recent = Recent(evidence.units, torch.device("cpu"))
    for opened, samples, step in batches:
        recent.observe(torch.tensor(opened, dtype=torch.float32), samples, step)
    seen = recent.openings()
    return evidence if seen is None else evidence.absorb(seen)


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


def test_silence_is_told_of_half_the_window_before_all_of_it() -> None:
    watcher = Watcher(3, window=2048)
    assert watcher.show([0, 16, 0], times=31).half_window == 0, "992 of 2,048 samples"
    assert watcher.show([0, 16, 0]).half_window == 2
    verdict = watcher.show([0, 16, 1], times=32)
    assert (verdict.states, verdict.half_window) == ("daa", 1), "the dead have been silent for half of it too"


def test_silence_is_told_of_two_windows() -> None:
    watcher = Watcher(3, window=1024)
    assert watcher.show([0, 16, 0], times=63).double_window == 0, "2,016 of 2,048 samples"
    verdict = watcher.show([0, 16, 0])
    assert (verdict.states, verdict.double_window) == ("dad", 2)


def test_half_of_a_small_window_is_no_less_than_what_makes_a_suspect() -> None:
    watcher = Watcher(1, window=320)
    assert [watcher.show([0], samples=16).half_window for _ in range(19)] == [0] * 18 + [1], "304 samples"


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


def after_silence(batches: int, *, samples: int = 32, window: int = 2048) -> Watcher:
    """One unit that has fired on half of all samples, and has then been silent; beside it one that goes on."""
    watcher = Watcher(2, window)
    watcher.show([16, 16], times=5)
    watcher.show([0, samples // 2], samples=samples, times=batches)
    return watcher


def test_a_unit_that_comes_back_for_a_sample_flickers_until_it_has_missed_three_more() -> None:
    watcher = after_silence(8)
    assert watcher.show([1, 16]).flickering == 1, "after 256 silent samples"
    assert [watcher.show([0, 16]).flickering for _ in range(26)] == [1] * 23 + [0] * 3, "768 samples are 24 batches"


def test_a_unit_that_opens_again_soon_or_more_often_does_not_flicker() -> None:
    watcher = after_silence(8)
    assert watcher.show([1, 16]).flickering == 1
    assert watcher.show([0, 16], times=5).flickering == 1
    assert watcher.show([1, 16]).flickering == 0
    assert [after_silence(8).show([opened, 16]).flickering for opened in (2, 3)] == [1, 0], "1 % of 288 samples"


@pytest.mark.parametrize("batches,samples,flickers", [(5, 64, 0), (6, 32, 1), (12, 8, 0), (13, 8, 1)])
def test_a_short_silence_is_no_flicker(batches: int, samples: int, flickers: int) -> None:
    assert after_silence(batches, samples=samples).show([1, 16]).flickering == flickers, "6 batches and 100 samples"


def test_a_unit_that_flickered_and_is_dead_flickers_no_more() -> None:
    watcher = after_silence(16, window=640)
    assert watcher.show([1, 16]).flickering == 1
    verdict = watcher.show([0, 16], times=19)
    assert (verdict.flickering, verdict.states[0]) == (1, "s")
    verdict = watcher.show([0, 16])
    assert (verdict.flickering, verdict.states[0]) == (0, "d"), "a whole window is proof, whatever came before"


def test_what_is_not_a_number_does_not_flicker() -> None:
    watcher = after_silence(8)
    x = torch.full((32, 2), float("nan"))
    assert watcher.show(count_open(arrange(x, 1), RELU).tolist()).flickering == 0


def test_without_new_samples_a_flicker_stays_as_it_is() -> None:
    watcher = after_silence(8)
    verdict = watcher.show([1, 16])
    watcher.evidence = absorbed(watcher.evidence, [])
    assert watcher.ledger.judge(watcher.evidence, watcher.step) == verdict
    assert UnitLedger(0).judge(UnitEvidence.empty(0, 640), 0).flickering == 0


@pytest.mark.parametrize("seed", range(4))
def test_flickers_are_those_of_a_count_batch_by_batch(seed: int) -> None:
    rng, watcher = np.random.default_rng(seed), Watcher(40, 400)
    rate_C = np.geomspace(2e-4, 0.2, 40)
    silence_C, batches_C, back_C = np.zeros(40), np.zeros(40), np.zeros(40)
    seen = 0
    for _ in range(150):
        samples = int(rng.integers(8, 40))
        opened_C = rng.binomial(samples, rate_C)
        for unit, opened in enumerate(opened_C):
            if opened:
                silent = silence_C[unit] >= 100 and batches_C[unit] >= 6
                seldom = opened < 0.01 * (silence_C[unit] + samples)
                back_C[unit] = silence_C[unit] if silent and seldom else 0
                silence_C[unit] = batches_C[unit] = 0
            else:
                silence_C[unit] += samples
                batches_C[unit] += 1
        truth = int((silence_C < np.minimum(3 * back_C, 400)).sum())
        assert watcher.show(opened_C.tolist(), samples=samples).flickering == truth
        seen += truth
    assert seen > 100, "there were flickers"


def test_a_unit_opens_seldom_from_one_sample_to_four_thousandths_of_a_window_whether_it_is_silent_or_not() -> None:
    watcher = Watcher(6, 2000)
    verdict = watcher.show([0, 1, 8, 9, 32, 0], times=1)
    assert verdict.seldom == 0, "of 32 samples one is more than that"
    verdict = watcher.show([0, 0, 0, 0, 32, 0], times=70)
    assert (verdict.seldom, verdict.states) == (2, "dddaad"[:3] + "dad"), "1 and 8 of 2,000"
    assert watcher.show([0, 0, 0, 0, 32, 1]).seldom == 3


@pytest.mark.parametrize("seed", range(4))
def test_units_that_open_seldom_are_those_of_a_count_over_the_running_block_and_the_one_before(seed: int) -> None:
    rng, watcher = np.random.default_rng(seed), Watcher(40, 1000)
    rate_C = np.geomspace(1e-4, 0.1, 40)
    blocks: list[list[tuple[int, np.ndarray]]] = [[], []]
    counts = []
    for _ in range(200):
        samples = int(rng.integers(8, 40))
        opened_C = rng.binomial(samples, rate_C)
        if sum(n for n, _ in blocks[1]) >= 1000:
            blocks = [blocks[1], []]
        blocks[1].append((samples, opened_C))
        opens_C = sum(opens for block in blocks for _, opens in block)
        window = min(watcher.evidence.samples + samples, 1000)
        truth = sum(0 < opens <= window * 4 / 1000 for opens in opens_C.tolist())
        assert watcher.show(opened_C.tolist(), samples=samples).seldom == truth
        counts.append(truth)
    assert min(counts) == 0 and max(counts) > 10
    assert UnitLedger(0).judge(UnitEvidence.empty(0, 640), 0).seldom == 0


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
    again.ledger = UnitLedger.restored(watcher.ledger.state(), again.evidence)
    for opened in ([0, 8, 0], [5, 8, 0], [0, 0, 0]):
        assert again.show(opened, times=12) == watcher.show(opened, times=12)
    assert again.evidence.ages_3C.dtype == np.float64


FLICKER, SILENT = [1, 16], [0, 16]


@pytest.mark.parametrize(
    "saved,then,flickering",
    [
        ([FLICKER, *[SILENT] * 4], [SILENT] * 30, [1] * 19 + [0] * 11),
        ([FLICKER, *[SILENT] * 4], [FLICKER, SILENT], [0, 0]),
        ([], [FLICKER, SILENT], [1, 1]),
    ],
    ids=["a flicker is remembered", "it ends as it would have", "a silence goes on"],
)
def test_R59_flickers_go_on_after_a_resume(
    saved: list[list[int]], then: list[list[int]], flickering: list[int]
) -> None:
    watcher, again = after_silence(8), Watcher(2, 2048)
    for opened in saved:
        watcher.show(opened)
    again.evidence = UnitEvidence.restored(watcher.evidence.state(), 2048)
    again.ledger, again.step = UnitLedger.restored(watcher.ledger.state(), again.evidence), watcher.step
    assert [again.show(opened).flickering for opened in then] == flickering
    assert [watcher.show(opened).flickering for opened in then] == flickering


def test_a_state_of_an_older_version_knows_no_flicker() -> None:
    watcher = after_silence(8)
    assert watcher.show(FLICKER).flickering == 1
    state = watcher.ledger.state()
    del state["back_from"]
    assert UnitLedger.restored(state, watcher.evidence).judge(watcher.evidence, watcher.step).flickering == 0


def by_hand(batches: list[tuple[list[int], int, int]]) -> tuple[list[list[float]], list[int]]:
    """Ages and openings of every unit, batch by batch."""
    ages, opens, last = [[0.0] * 3 for _ in range(3)], [0] * 3, batches[0][2] - 1
    for opened, samples, step in batches:
        for unit in range(3):
            opens[unit] += opened[unit]
            for age, grown in enumerate((samples, 1, step - last)):
                ages[age][unit] = 0 if opened[unit] else ages[age][unit] + grown
        last = step
    return ages, opens


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("every", [1, 3, 40])
def test_evidence_is_the_same_however_often_it_is_read(seed: int, every: int) -> None:
    batches = course(seed, 40)
    evidence = UnitEvidence.empty(3, 10_000)
    for start in range(0, len(batches), every):
        evidence = absorbed(evidence, batches[start : start + every])
    ages, opens = by_hand(batches)
    assert evidence.ages_3C.tolist() == ages
    assert evidence.open_C.tolist() == opens
    assert evidence.samples == sum(samples for _, samples, _ in batches)
    assert evidence.observations == 40 and evidence.last_step == batches[-1][2]


def test_a_block_of_openings_ends_with_the_first_reading_that_finds_a_window_in_it() -> None:
    evidence = absorbed(UnitEvidence.empty(1, 64), [([1], 32, step) for step in range(3)])
    assert (evidence.block, evidence.open_C.tolist(), evidence.open_before_C.tolist()) == ((96, 0), [3], [0])
    evidence = absorbed(evidence, [([5], 32, 3)])
    assert (evidence.block, evidence.open_C.tolist(), evidence.open_before_C.tolist()) == ((32, 96), [5], [3])


def test_nothing_observed_leaves_evidence_as_it_is() -> None:
    evidence = absorbed(UnitEvidence.empty(3, 64), course(0, 5))
    assert absorbed(evidence, []) is evidence


def test_openings_move_to_the_device_of_what_is_observed() -> None:
    recent = Recent(3, torch.device("cpu"))
    recent.observe(torch.ones(3, device="meta"), 8, 99)
    assert {x.device.type for x in (recent.opens_C, recent.last_C)} == {"meta"}
