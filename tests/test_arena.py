"""The buffer into which a GPU's kernels write: nothing lies where something else does, and one copy takes all of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from actdiag.collect import arena as arena_file
from actdiag.collect import sending
from actdiag.collect.arena import Arena, Arenas
from actdiag.collect.sending import Fetched, Readout
from tests.arriving import Coming, copied
from tests.regimes import regime

HOST = torch.device("cpu")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host plays a device whose numbers come later."""
    copied.clear()
    monkeypatch.setattr(sending, "LATE_DEVICES", frozenset({"cpu"}))
    monkeypatch.setattr(sending, "Coming", Coming)


def learned(*sizes: int) -> Arena:
    """An arena in a step after one in which tensors of these sizes were taken."""
    arena = Arena(HOST)
    arena.begin()
    for size in sizes:
        arena.take(size)
    arena.begin()
    return arena


# What is taken ------------------------------------------------------------------------------------------


def test_the_first_step_allocates_and_the_next_ones_find_room() -> None:
    arena = Arena(HOST)
    assert arena.place(arena.take(3)) is None, "before any step"
    for step in range(4):
        arena.begin()
        taken = [arena.take(5, 4), arena.take(6), arena.take(512, dtype=torch.int64)]
        assert [x.shape for x in taken] == [(5, 4), (6,), (512,)] and taken[2].dtype == torch.int64
        assert [arena.place(x) for x in taken] == ([None] * 3 if step == 0 else [0, 20, 26])
    assert arena.used.numel() == 538


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=2, max_size=6))
def test_whatever_steps_take_no_two_tensors_of_two_steps_in_a_row_share_memory(steps: list[list[int]]) -> None:
    arena, before = Arena(HOST), list[Tensor]()
    for step, sizes in enumerate(steps):
        arena.begin()
        now = [arena.take(size).fill_(100 * step + i) for i, size in enumerate(sizes)]
        for held, first in ((before, 100 * step - 100), (now, 100 * step)):
            for i, x in enumerate(held):
                assert (x == first + i).all()
        before = now


def test_a_buffer_is_given_up_two_steps_later_and_not_one() -> None:
    arena = learned(4)
    first = arena.take(4).fill_(1.0)
    arena.begin()
    second = arena.take(4).fill_(2.0)
    assert first.tolist() == [1.0] * 4
    arena.begin()
    third = arena.take(4).fill_(3.0)
    assert third.data_ptr() == first.data_ptr() != second.data_ptr()


def test_what_does_not_fit_is_allocated_and_fits_in_the_next_step() -> None:
    arena = learned(8)
    assert arena.place(arena.take(8)) == 0 and arena.place(arena.take(80)) is None
    for _ in range(3):
        arena.begin()
        assert (arena.place(arena.take(8)), arena.place(arena.take(80))) == (0, 8)


def test_no_buffer_is_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena_file, "MOST", 100)
    arena = learned(60, 60)
    assert arena.place(arena.take(60)) == 0 and arena.place(arena.take(60)) is None
    assert arena.place(arena.take(40)) == 60, "there is still room for what is smaller"
    buffers = set()
    for _ in range(6):
        arena.begin()
        buffers.add(arena.take(60).data_ptr())
        arena.take(60)
    assert len(buffers) == 2, "none is made anew because more is wanted than there may be"


def test_a_step_that_is_begun_again_takes_the_same_room() -> None:
    arenas = Arenas()
    arena = arenas.of(HOST)
    arena.take(10)
    arena.begin()
    for _ in range(5):
        assert arena.place(arena.take(10)) == 0
        arenas.restart()
    arena.take(10)
    arena.begin()
    assert arena.take(10).untyped_storage().nbytes() == 8 * 13, "what was given up is not counted"


@regime(
    "never in the way",
    "the numbers of a recorded step in a CUDA graph that is captured",
    exact="all of them: they lie in memory of the graph and not in the buffer of the other steps. Tested with a "
    "capture that is pretended: not run on a GPU",
)
def test_while_a_graph_is_captured_nothing_is_taken_and_no_buffer_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = learned(4)
    with monkeypatch.context() as patch:
        patch.setattr(arena_file, "capturing", lambda device: True)
        assert arena.place(arena.take(4)) is None
        arena.begin()
        assert arena.place(arena.take(4)) is None
    assert arena.place(arena.take(4)) is None, "a buffer would have been made inside of the graph"
    arena.begin()
    assert arena.place(arena.take(4)) == 0


def test_only_what_lies_in_it_as_it_was_taken_has_a_place() -> None:
    arena = learned(30)
    taken = arena.take(5, 6)
    assert arena.place(taken) == 0 and arena.place(taken[2:]) == 12 and arena.place(taken[1, 2:4]) == 8
    assert arena.place(taken.t()) is None and arena.place(taken.view(torch.int32)[:2]) is None
    assert arena.place(taken + 1) is None and arena.place(torch.zeros(30, dtype=torch.float64)) is None
    arena.begin()
    assert arena.place(taken) is None, "it is of the step before"


# What is sent -------------------------------------------------------------------------------------------


def sent(tensors: Sequence[Tensor], arenas: Arenas) -> Fetched:
    out = Readout(arenas)
    for i, x in enumerate(tensors):
        out.add("site", "group", str(i), x)
    return out.send(late=True).read()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from([(), (0,), (3,), (5, 2)])), min_size=1),
    st.integers(0, 60),
)
def test_what_arrives_is_what_was_written_whatever_lies_in_the_buffer(
    wanted: list[tuple[bool, bool, tuple[int, ...]]], room: int
) -> None:
    """In it or not, integers or not, of any shape, with room for all of it, for a part, or for nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sending, "LATE_DEVICES", frozenset({"cpu"}))
        patch.setattr(sending, "Coming", Coming)
        copied.clear()
        arenas = Arenas()
        arena = arenas.of(HOST)
        arena.take(room)
        arena.begin()
        tensors = []
        for i, (inside, whole, shape) in enumerate(wanted):
            dtype = torch.int64 if whole else torch.float64
            x = arena.take(*shape, dtype=dtype) if inside else torch.empty(shape, dtype=dtype)
            tensors.append(x.copy_(torch.arange(x.numel()).reshape(shape) + 1000 * i + (2**40 if whole else 0.25)))
        expected = [x.clone().numpy() for x in tensors]
        found = sent(tensors, arenas)["site"]["group"]
        assert copied == [1], "one copy"
        for i, array in enumerate(expected):
            assert found[str(i)].shape == array.shape
            np.testing.assert_array_equal(found[str(i)], array)


def test_what_lies_in_the_buffer_is_not_copied_once_more_on_the_device(
    device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[int] = []
    cat = torch.cat
    monkeypatch.setattr(
        torch, "cat", lambda parts, **given: (joined.append(sum(x.numel() for x in parts)), cat(parts, **given))[1]
    )
    arenas = Arenas()
    arena = arenas.of(HOST)
    for step, expected in enumerate(([513 + 4 + 2], [2], [2])):
        arena.begin()
        tensors = [arena.take(513, dtype=torch.int64).fill_(7), arena.take(4).fill_(float("nan")), torch.ones(2)]
        found = sent(tensors, arenas)["site"]["group"]
        assert joined == expected, f"step {step}"
        assert (found["0"] == 7).all() and np.isnan(found["1"]).all() and found["2"].tolist() == [1.0, 1.0]
        joined.clear()


def test_numbers_that_were_sent_stay_while_the_next_step_is_written(device: None) -> None:
    arenas = Arenas()
    arena = arenas.of(HOST)
    coming = []
    for step in range(4):
        arena.begin()
        out = Readout(arenas)
        out.add("site", "group", "x", arena.take(6).fill_(step))
        coming.append(out.send(late=True))
    for step, one in enumerate(coming):
        assert one.read()["site"]["group"]["x"].tolist() == [step] * 6
