"""Values worked out once for each snapshot."""

from __future__ import annotations

import gc
import weakref

from actdiag.diagnose.rules import once as room
from actdiag.diagnose.rules.once import once
from actdiag.snapshot import Snapshot


def test_a_value_is_worked_out_once_for_each_snapshot() -> None:
    seen: list[int] = []

    @once
    def doubled(snapshot: Snapshot) -> int:
        """Twice its step."""
        seen.append(snapshot.step)
        return 2 * snapshot.step

    first, second, equal = Snapshot(step=1), Snapshot(step=2), Snapshot(step=1)
    assert [doubled(s) for s in (first, second, first, second, equal)] == [2, 4, 2, 4, 2]
    assert seen == [1, 2, 1], "an equal snapshot is another one"
    assert doubled.__doc__ == "Twice its step."


def test_a_value_of_none_is_remembered_too() -> None:
    seen: list[int] = []

    @once
    def nothing(snapshot: Snapshot) -> None:
        seen.append(snapshot.step)

    snapshot = Snapshot(step=1)
    nothing(snapshot)
    nothing(snapshot)
    assert seen == [1]


def test_a_snapshot_and_what_followed_from_it_are_let_go() -> None:
    class Made:
        pass

    @once
    def made(snapshot: Snapshot) -> Made:
        return Made()

    snapshot = Snapshot(step=1)
    value, itself = weakref.ref(made(snapshot)), weakref.ref(snapshot)
    assert value() is not None
    del snapshot
    gc.collect()
    assert itself() is None and value() is None


def test_a_new_snapshot_at_the_place_of_an_old_one_is_not_taken_for_it() -> None:
    """CPython gives the identity of what is gone to what comes next."""

    @once
    def step(snapshot: Snapshot) -> int:
        return snapshot.step

    assert [step(Snapshot(step=k)) for k in range(50)] == list(range(50))

    known: dict[int, tuple[weakref.ref[Snapshot], int]] = {}
    old, new = Snapshot(step=1), Snapshot(step=2)
    gone = weakref.ref(old)
    known[7] = weakref.ref(new), 2
    room._forget(known, 7, gone)
    assert 7 in known, "what has taken its place stays"


def test_a_value_from_the_place_of_another_snapshot_is_worked_out_anew() -> None:
    @once
    def step(snapshot: Snapshot) -> int:
        return snapshot.step

    (known,) = (cell.cell_contents for cell in step.__closure__ or () if isinstance(cell.cell_contents, dict))
    old, new = Snapshot(step=1), Snapshot(step=2)
    assert step(old) == 1
    known[id(new)] = known[id(old)]
    assert step(new) == 2
