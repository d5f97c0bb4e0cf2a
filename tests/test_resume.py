"""A run that is interrupted and resumed is the run that was not."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actdiag import MemoryWriter, Monitor, SiteStats, Snapshot, TensorBoardWriter
from actdiag.diagnose import judge as judging
from actdiag.diagnose.finding import Change
from actdiag.diagnose.judge import Ledger
from actdiag.report.read import read_runs
from tests.regimes import regime

OPTIONS: dict[str, Any] = {"watch_every_n_steps": 1, "window_samples": 128, "max_overhead": None}


class Book(MemoryWriter):
    """Changes with the step of the snapshot that brought them."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, Change]] = []

    def write(self, snapshot: Snapshot, changes: Sequence[Change]) -> None:
        super().write(snapshot, changes)
        self.told += [(snapshot.step, change) for change in changes if change.kind != "open"]


class Net(nn.Module):
    """A shared activation, a functional one, one whose units count along the channels of a sequence."""

    def __init__(self, width: int = 16, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.first = nn.Conv1d(2, width, 3), act()
        self.one, self.two, self.relu = nn.Linear(width, width), nn.Linear(width, width), nn.ReLU()
        self.head = nn.Linear(width, 2)
        nn.init.constant_(self.one.bias, 0.5)  # no unit is dead from the start

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.conv(x)).mean(2)
        x = self.relu(self.one(x))
        x = self.relu(self.two(x))
        return self.head(F.gelu(x))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


@torch.no_grad()
def kill(model: Net, units: int) -> None:
    model.one.weight[:units] = 0
    model.one.bias[:units] = -1


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(32, 2, 16, generator=generator), torch.randint(0, 2, (32,), generator=generator)


def train(monitor_of: Any, model: nn.Module, optimizer: Any, steps: range, *, dying_at: int | None = None) -> None:
    for step in steps:
        if step == dying_at:
            kill(model, 10)  # type: ignore[arg-type]
        x, y = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def through_a_file(state: Mapping[str, Any]) -> Any:
    """As a checkpoint keeps it, read with PyTorch's safe loading."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def timeless(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, overhead_ms=None, overhead_percent=None)


def resumed_run(at: int, end: int, make: Callable[..., Net] = Net, **options: Any) -> tuple[Monitor, Book]:
    """Train to a step, save, build everything anew, load, train on. Returns the second monitor and its writer."""
    model = make()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **options) as monitor:
        train(monitor, model, optimizer, range(at), dying_at=2)
        saved = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "actdiag": monitor.state_dict(),
        }
    saved = through_a_file(saved)
    model = make()
    optimizer = sgd(model)
    writer = Book()
    with Monitor(model, optimizer, writers=[writer], **options) as monitor:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        monitor.load_state_dict(saved["actdiag"])
        train(monitor, model, optimizer, range(at, end), dying_at=2)
    return monitor, writer


def straight_run(end: int, make: Callable[..., Net] = Net, **options: Any) -> tuple[Monitor, Book]:
    model, writer = make(), Book()
    optimizer = sgd(model)
    with Monitor(model, optimizer, writers=[writer], **options) as monitor:
        train(monitor, model, optimizer, range(end), dying_at=2)
    return monitor, writer


@regime(
    "copies and checkpoints",
    "10 steps, or 5, a resume from a checkpoint, and 5 (plain loop)",
    exact="the later snapshots, dead units and their dates, evidence, findings, steps: everything but times",
    not_observed="times: the step during which the state is saved is not timed",
    proves=("R59",),
)
@pytest.mark.parametrize("every", [1, 3, 7])
@pytest.mark.parametrize("at,end", [(5, 10), (18, 40)])
def test_R59_ten_steps_equal_five_a_resume_and_five(every: int, at: int, end: int) -> None:
    options = {**OPTIONS, "log_every_n_steps": every}
    whole, written = straight_run(end, **options)
    parts, rewritten = resumed_run(at, end, **options)
    later = [timeless(s) for s in written.snapshots if s.step >= at]
    assert later and [timeless(s) for s in rewritten.snapshots] == later, "steps continue, every number is the same"
    assert parts.findings == whole.findings
    assert rewritten.told == [(step, change) for step, change in written.told if step >= at]


def test_R59_the_case_itself_has_dead_units_and_findings_before_and_after() -> None:
    whole, written = straight_run(30, **OPTIONS, log_every_n_steps=3)
    site = written.snapshots[-1].sites["relu#0"]
    assert site.dead_units == 10 and site.first_death_step is not None and site.first_death_step <= 2
    assert {finding.rule for finding in whole.findings} >= {"dead-units"}


def test_R59_a_unit_that_died_before_keeps_the_step_at_which_it_died() -> None:
    _, writer = resumed_run(20, 40, **OPTIONS, log_every_n_steps=3)
    assert writer.snapshots[0].sites["relu#0"].dead_units == 10, "it is not alive until a new window is full"
    assert {s.sites["relu#0"].first_death_step for s in writer.snapshots} == {2}


def test_R59_a_finding_that_was_told_before_is_not_told_again() -> None:
    told: list[Any] = []
    monitor, writer = resumed_run(20, 40, **OPTIONS, log_every_n_steps=2, on_finding=told.append)
    dead = [f for f in monitor.findings if f.rule == "dead-units" and f.layer == "relu#0"]
    assert len(dead) == 1 and dead[0].step < 20
    assert len([f for f in told if f.rule == "dead-units" and f.layer == "relu#0"]) == 1, "both monitors together"
    first = [c for c in writer.changes if c.finding.layer == "relu#0" and c.finding.rule == "dead-units"]
    assert [c.kind for c in first] == ["open"], "writers learn what is open where their log begins"


def test_R59_the_report_of_a_resumed_log_keeps_what_is_open(tmp_path: Any) -> None:
    model = Net()
    optimizer = sgd(model)
    options = {**OPTIONS, "log_every_n_steps": 2}
    with Monitor(model, optimizer, log_dir=tmp_path / "one", **options) as monitor:
        train(monitor, model, optimizer, range(20), dying_at=2)
        state = monitor.state_dict()
    for where in ("one", "new"):
        with Monitor(model, optimizer, log_dir=tmp_path / where, **options) as monitor:
            monitor.load_state_dict(state)
            train(monitor, model, optimizer, range(20, 26))
    told = {run.name: [(f.rule, f.step, f.resolved_step) for f in run.findings] for run in read_runs(tmp_path)}
    ours = [(f.rule, f.step, f.resolved_step) for f in monitor.findings if f.resolved_step is None]
    assert ours and set(ours) <= set(told["one"]) and set(ours) <= set(told["new"])


def test_R59_a_shared_module_whose_first_resumed_step_is_only_watched_keeps_its_calls_apart() -> None:
    options = {**OPTIONS, "log_every_n_steps": 8}
    _, written = straight_run(25, **options)
    _, rewritten = resumed_run(10, 25, **options)
    assert set(rewritten.snapshots[0].sites) >= {"relu#0", "relu#1", "gelu", "first"}
    for name in ("relu#0", "relu#1", "gelu", "first"):
        assert rewritten.snapshots[0].sites[name] == written.snapshots[2].sites[name]


def test_R59_the_budget_does_not_forget_what_it_has_learned() -> None:
    model = Net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, log_every_n_steps=2, max_overhead=0.02) as monitor:
        train(monitor, model, optimizer, range(40))
        before = monitor._session.schedule
        state = through_a_file(monitor.state_dict())
        with Monitor(model, optimizer, log_every_n_steps=2, max_overhead=0.02, prefix="b") as again:
            again.load_state_dict(state)
            after = again._session.schedule
            assert after._next["record"] >= before._next["record"]
            assert after.budget.state() == before.budget.state()


def saved_state(**options: Any) -> dict[str, Any]:
    model = Net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **{**OPTIONS, "log_every_n_steps": 2, **options}) as monitor:
        train(monitor, model, optimizer, range(20), dying_at=2)
        return monitor.state_dict()


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(k) is str and plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return (
        value is None
        or type(value) in (str, int, float, bool)
        or (type(value) is Tensor and value.device.type == "cpu")
    )


def test_R24_the_state_is_of_plain_values_and_tensors_of_the_host() -> None:
    state = saved_state()
    assert plain(state) and type(state) is dict
    index = next(i for i, site in enumerate(state["collector"]["sites"]) if site["evidence"])
    ages = [of["collector"]["sites"][index]["evidence"]["ages"] for of in (state, through_a_file(state))]
    assert ages[0].equal(ages[1]) and ages[0].dtype == torch.float64


def load_into(model: nn.Module, state: Any, steps: int = 3, **options: Any) -> MemoryWriter:
    writer = MemoryWriter()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Monitor(model, optimizer, writers=[writer], **{**OPTIONS, "log_every_n_steps": 1, **options}) as monitor:
        monitor.load_state_dict(state)
        train(monitor, model, optimizer, range(steps))
    return writer


def lines(caplog: pytest.LogCaptureFixture, *words: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if all(word in r.getMessage() for word in words)]


def test_R59_the_state_of_another_width_is_dropped_for_those_layers_with_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer = load_into(Net(width=24), saved_state(), steps=4)
    assert [s.step for s in writer.snapshots] == [20, 21, 22, 23]
    assert writer.snapshots[0].sites["relu#0"].evidence_samples == 32
    assert writer.snapshots[0].sites["relu#0"].units == 24
    assert len(lines(caplog, "another number of units")) == 1


def test_R59_layers_that_the_model_does_not_have_are_left_out_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    class Other(Net):
        def __init__(self) -> None:
            super().__init__()
            del self.relu
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(self.conv(x)).mean(2)
            return self.head(self.act(self.two(self.act(self.one(x)))))

    writer = load_into(Other(), saved_state())
    snapshot = writer.snapshots[0]
    assert "relu#0" not in snapshot.sites and snapshot.sites["act"].evidence_samples == 32
    assert snapshot.sites["first"].evidence_samples == 128, "what fits goes on"
    assert len(lines(caplog, "layers that this model does not have", "relu#0")) == 1


def test_R59_another_activation_at_the_same_place_begins_anew() -> None:
    writer = load_into(Net(act=nn.Tanh), saved_state())
    assert writer.snapshots[0].sites["first"].evidence_samples == 32


def test_R59_the_state_of_another_model_starts_afresh_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flatten(1))

    def strange(state: dict[str, Any]) -> dict[str, Any]:
        sites = [site for site in state["collector"]["sites"] if not site["function"]]
        return {**state, "collector": {**state["collector"], "sites": sites}}

    writer = load_into(Small(), strange(saved_state()))
    assert [s.step for s in writer.snapshots] == [0, 1, 2]
    assert len(lines(caplog, "of another model")) == 1


def spoiled(state: dict[str, Any], path: str, value: Any) -> Any:
    """A copy of a state in which one place holds something else."""
    state = through_a_file(state)
    *way, last = path.split(".")
    at: Any = state
    for name in way:
        at = at[int(name) if isinstance(at, list) else name]
    at[int(last) if isinstance(at, list) else last] = value
    return state


@pytest.fixture(scope="module")
def sound() -> dict[str, Any]:
    return saved_state()


GARBAGE: dict[str, Any] = {
    "version": 99,
    "next_step": -1,
    "collector": None,
    "collector.sites": "abc",
    "collector.sites.0": None,
    "collector.sites.0.role": "king",
    "collector.sites.0.index": 1.5,
    "collector.sites.2.evidence": [1],
    "collector.sites.2.evidence.ages": torch.zeros(4, 16),
    "collector.sites.2.evidence.open": torch.zeros(2),
    "collector.sites.2.evidence.block": [1],
    "collector.sites.2.evidence.samples": float("nan"),
    "collector.sites.2.ledger.died_at": torch.zeros(3),
    "collector.dims": [1],
    "schedule": {},
    "schedule.next": {"watch": "soon"},
    "schedule.budget.base": [None],
    "schedule.budget.spent_s": float("inf"),
    "ledger.findings": [{"rule": "dead-units"}],
    "ledger.open": [["dead-units", "x", 400]],
    "ledger.recent": ["{}"],
    "scaler.skipped": -3,
}


@pytest.mark.parametrize("path", GARBAGE)
def test_R59_garbage_costs_one_warning_and_starts_afresh(
    path: str, sound: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    index = next(i for i, site in enumerate(sound["collector"]["sites"]) if site["evidence"])
    writer = load_into(Net(), spoiled(sound, path.replace("sites.2", f"sites.{index}"), GARBAGE[path]))
    assert [s.step for s in writer.snapshots] == [0, 1, 2]
    assert writer.snapshots[0].sites["first"].evidence_samples == 32
    assert len(lines(caplog, "cannot be read", "starting afresh")) == 1
    assert not lines(caplog, "internal error")


@pytest.mark.parametrize("state", [None, {}, [], "state", 3, {"version": 1}])
def test_R59_what_is_no_state_at_all_never_reaches_the_loop(state: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert [s.step for s in load_into(Net(), state).snapshots] == [0, 1, 2]
    assert len(lines(caplog, "starting afresh")) == 1


def samples_known(monitor: Monitor) -> int:
    evidence = monitor._session.collector.memory.of("first", 0).evidence
    assert evidence is not None
    return evidence.samples


@pytest.mark.parametrize("times", [1, 2])
def test_R59_loading_replaces_what_was_observed(times: int) -> None:
    state = saved_state()
    model = Net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **{**OPTIONS, "window_samples": 2048}) as monitor:
        train(monitor, model, optimizer, range(3))
        model(batch(0)[0])
        for _ in range(times):
            monitor.load_state_dict(state)
        assert samples_known(monitor) == 20 * 32
        train(monitor, model, optimizer, range(1))
        assert samples_known(monitor) == 21 * 32


def test_R59_a_state_can_be_taken_from_a_closed_monitor_and_twice_in_a_row() -> None:
    model = Net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **OPTIONS) as monitor:
        train(monitor, model, optimizer, range(3))
        once = monitor.state_dict()
    again = monitor.state_dict()
    assert once["next_step"] == again["next_step"] == 3
    assert str(once["ledger"]) == str(again["ledger"])


def test_R59_a_monitor_that_is_closed_right_after_a_resume_does_not_claim_that_the_model_ran(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Net()
    with Monitor(model, sgd(model)) as monitor:
        monitor.load_state_dict(saved_state())
    assert len(lines(caplog, "going on from a saved state at step 20")) == 1
    assert not lines(caplog, "no step of the optimizer was seen")


def test_R59_saving_changes_nothing_and_later_steps_do_not_change_what_was_saved() -> None:
    model = Net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, **OPTIONS) as monitor:
        train(monitor, model, optimizer, range(3))
        state = monitor.state_dict()
        text = str(state)
        train(monitor, model, optimizer, range(3, 6))
    assert str(state) == text


def test_a_writer_of_the_users_sees_open_findings_as_a_kind_of_their_own(tmp_path: Any) -> None:
    writer = TensorBoardWriter(tmp_path)
    model = Net()
    optimizer = sgd(model)
    with Monitor(model, optimizer, writers=[writer], **{**OPTIONS, "log_every_n_steps": 2}) as monitor:
        monitor.load_state_dict(saved_state())
        train(monitor, model, optimizer, range(20, 24))
    (run,) = read_runs(tmp_path)
    assert [f.step for f in run.findings if f.layer == "relu#0"] and run.findings[0].step < 20


class Functional(nn.Module):
    """No module can die in it: on a watched step only scopes find the calls."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.head = nn.Linear(32, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.one(x.flatten(1))))


class Grows(nn.Module):
    """Calls its activation once more from the third batch on, which keeps the name it had."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.act, self.gate, self.head = nn.Linear(32, 16), nn.ReLU(), nn.Sigmoid(), nn.Linear(16, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.one(x.flatten(1)))
        self.calls += 1
        return self.head(x * self.gate(self.act(x - 1) if self.calls > 3 else x))


@pytest.mark.parametrize("make", [Functional, Grows])
@pytest.mark.parametrize("every", [4, 8])
def test_R59_names_roles_and_functional_calls_are_those_of_the_uninterrupted_run(make: Any, every: int) -> None:
    def run(model: nn.Module, optimizer: Any, steps: range, state: Any = None) -> tuple[list[Snapshot], Any]:
        with Monitor(model, optimizer, **OPTIONS, log_every_n_steps=every) as monitor:
            if state is not None:
                monitor.load_state_dict(state)
            train(monitor, model, optimizer, steps)
        return monitor.snapshots, through_a_file(monitor.state_dict())

    model = make()
    whole, _ = run(model, sgd(model), range(25))
    model = make()
    optimizer = sgd(model)
    first, state = run(model, optimizer, range(11))
    second, _ = run(model, optimizer, range(11, 25), state)
    assert [timeless(s) for s in first + second] == [timeless(s) for s in whole]
    if make is Grows:
        assert set(whole[-1].sites) >= {"act", "act#1", "gate"} and whole[-1].sites["gate"].role == "gate"


def dead_at(step: int, dead: int) -> Snapshot:
    site = SiteStats(
        kind="ReLU", role="activation", order=0, n=64, nonfinite=0, units=64, dead_units=dead, dead_fraction=dead / 64,
        suspect_units=0, evidence_samples=2048,
    )  # fmt: skip
    return Snapshot(step=step, sites={"act": site})


@pytest.mark.parametrize("cut", range(9))
def test_R59_a_restored_ledger_goes_on_in_the_middle_of_an_episode(cut: int) -> None:
    course = [dead_at(step, dead) for step, dead in enumerate([0, 30, 40, 0, 0, 30, 0, 30, 0, 0])]
    whole, first = Ledger(), Ledger()
    told = [whole.judge(snapshot) for snapshot in course]
    assert [first.judge(snapshot) for snapshot in course[:cut]] == told[:cut]
    again = Ledger.restored(through_a_file(first.state()))
    assert [again.judge(snapshot) for snapshot in course[cut:]] == told[cut:]
    assert again.findings == whole.findings


def test_R59_rules_look_back_over_a_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def watching(history: Sequence[Snapshot], limits: object) -> list[Any]:
        seen.append([snapshot.step for snapshot in history])
        return []

    ledger = Ledger()
    for step in range(30):
        ledger.judge(dead_at(step, 0))
    monkeypatch.setitem(judging.RULES, "off-center", watching)
    ledger.judge(dead_at(30, 0))
    Ledger.restored(through_a_file(ledger.state())).judge(dead_at(31, 0))
    assert len(seen[0]) == len(seen[1]) == judging.BEGINNING + judging.HISTORY
    assert seen[1] == [*seen[0][:2], *seen[0][3:], 31]


def test_R59_a_compiled_model_resumes_as_an_eager_one_does() -> None:
    def run(steps: range, saved: Any = None) -> tuple[list[Snapshot], Any]:
        torch.compiler.reset()
        model = Net()
        optimizer = sgd(model)
        compiled = torch.compile(model, backend="eager")
        with Monitor(compiled, optimizer, **OPTIONS, log_every_n_steps=4) as monitor:
            if saved is not None:
                model.load_state_dict(saved["model"])
                optimizer.load_state_dict(saved["optimizer"])
                monitor.load_state_dict(saved["actdiag"])
            train(monitor, compiled, optimizer, steps)
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "actdiag": monitor.state_dict(),
            }
        torch.compiler.reset()
        return monitor.snapshots, through_a_file(state)

    whole, _ = run(range(20))
    first, saved = run(range(10))
    second, _ = run(range(10, 20), saved)
    assert [timeless(s) for s in first + second] == [timeless(s) for s in whole]
    assert second[-1].sites["first"].evidence_samples == 128
