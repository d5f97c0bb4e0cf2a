"""The plain-PyTorch door: how steps are counted, and what is seen of unusual loops and models."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from actdiag import ConfigError, Finding, MemoryWriter, Monitor, Snapshot
from actdiag.collect.reducing import Eager
from actdiag.session import FindingError
from tests.regimes import regime


def small() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def backward(model: nn.Module, n: int = 5) -> None:
    model(torch.randn(n, 4)).square().mean().backward()


def steps_of(writer: MemoryWriter) -> list[int]:
    return [snapshot.step for snapshot in writer.snapshots]


def last(monitor: Monitor) -> Snapshot:
    assert monitor.latest is not None
    return monitor.latest


def test_the_first_step_and_every_nth_after_it_are_recorded() -> None:
    model, optimizer = small()
    writer = MemoryWriter()
    with Monitor(model, optimizer, writers=[writer], log_every_n_steps=3, max_overhead=None) as monitor:
        assert monitor.latest is None and monitor.findings == []
        for _ in range(8):
            backward(model)
            optimizer.step()
    assert steps_of(writer) == [0, 3, 6]
    assert writer.closed


def test_start_and_end_steps_bound_what_is_recorded() -> None:
    model, optimizer = small()
    writer = MemoryWriter()
    options = {"log_every_n_steps": 2, "start_step": 3, "end_step": 8, "max_overhead": None}
    with Monitor(model, optimizer, writers=[writer], **options):
        for _ in range(12):
            backward(model)
            optimizer.step()
    assert steps_of(writer) == [3, 5, 7]


@regime(
    "accumulation, clipping and optimizers",
    "an optimizer whose `step()` calls its parent's",
    exact="one step; the whole update",
    proves=("R14",),
)
def test_R14_an_optimizer_whose_step_calls_its_parents_counts_once() -> None:
    class Nested(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):  # type: ignore[no-untyped-def]
            loss = super().step(closure)
            for group in self.param_groups:
                for p in group["params"]:
                    p.mul_(0.5)  # part of this optimizer's update, after its parent's
            return loss

    model, plain = small()
    backward(model)
    plain.step()  # only now is SGD.step itself wrapped
    optimizer = Nested(model.parameters(), lr=0.1)
    fired = []
    handle = optimizer.register_step_post_hook(lambda *a: fired.append(1))
    writer = MemoryWriter()
    with Monitor(model, optimizer, writers=[writer], log_every_n_steps=1, max_overhead=None):
        for _ in range(3):
            backward(model)
            before = model[0].weight.detach().clone()
            optimizer.step()
    handle.remove()
    assert len(fired) == 6, "the case itself is wrong: the hooks should fire twice a step"
    assert steps_of(writer) == [0, 1, 2]
    ratio = float((model[0].weight.detach() - before).norm() / before.norm())
    assert writer.snapshots[-1].parameters["0.weight"].update_ratio == pytest.approx(ratio, rel=1e-5)


@regime(
    "interruptions",
    "an optimizer step that raises and is caught",
    exact="counting goes on with the next",
    proves=("R14",),
)
def test_a_step_that_raises_does_not_stop_the_counting() -> None:
    class Stumbles(torch.optim.SGD):
        fail = False

        def step(self, closure=None):  # type: ignore[no-untyped-def]
            if self.fail:
                raise RuntimeError("out of memory")
            return super().step(closure)

    model, _ = small()
    optimizer = Stumbles(model.parameters(), lr=0.1)
    writer = MemoryWriter()
    with Monitor(model, optimizer, writers=[writer], log_every_n_steps=1, max_overhead=None):
        for fail in (False, True, False, False):
            Stumbles.fail = fail
            backward(model)
            if fail:
                with pytest.raises(RuntimeError):
                    optimizer.step()
            else:
                optimizer.step()
    assert steps_of(writer) == [0, 1, 2]


def test_R14_R70_a_closure_that_is_evaluated_several_times_is_counted_once() -> None:
    model, _ = small()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)
    x, calls = torch.randn(6, 4), []

    def closure() -> Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(2):
            optimizer.step(closure)
    assert len(calls) > 4
    assert last(monitor).step == 1
    assert last(monitor).sites["0"].n == 6 * 8
    assert last(monitor).parameters["0.weight"].state == "trained"
    assert last(monitor).parameters["0.weight"].update_ratio


@regime(
    "accumulation, clipping and optimizers",
    "a loop without an optimizer, which calls `monitor.step()`",
    exact="gradients and the update really made",
    proves=("R28",),
)
def test_a_loop_without_an_optimizer_calls_step() -> None:
    model, optimizer = small()
    with Monitor(model, log_every_n_steps=2, max_overhead=None) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            backward(model)
            before = model[0].weight.detach().clone()
            optimizer.step()
            monitor.step()
    assert last(monitor).step == 2
    ratio = float((model[0].weight.detach() - before).norm() / before.norm())
    assert last(monitor).parameters["0.weight"].update_ratio == pytest.approx(ratio, rel=1e-5)
    assert last(monitor).parameters["0.weight"].state == "trained"
    assert last(monitor).parameters["0.weight"].grad_norm


def test_R14_R32_of_several_optimizers_the_first_counts_and_all_are_read() -> None:
    generator, critic = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 1)
    first = torch.optim.SGD(critic.parameters(), lr=0.1)
    second = torch.optim.SGD(generator.parameters(), lr=0.1)
    models = {"generator": generator, "critic": critic}
    with Monitor(models, [first, second], log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(3):
            first.zero_grad()
            critic(generator(torch.randn(3, 4)).detach()).mean().backward()
            second.zero_grad()
            critic(generator(torch.randn(3, 4))).mean().backward()
            second.step()
            first.step()
    snapshot = last(monitor)
    assert snapshot.step == 2
    assert {"generator.0", "generator.1", "critic"} <= set(snapshot.sites) | {"critic"}
    assert {p.state for p in snapshot.parameters.values()} == {"trained"}
    assert all(snapshot.parameters[name].update_ratio for name in ("generator.0.weight", "critic.weight"))
    assert set(snapshot.parameters) == {
        "generator.0.weight",
        "generator.0.bias",
        "critic.weight",
        "critic.bias",
    }


@regime(
    "accumulation, clipping and optimizers",
    "trained, frozen, unused, zero and foreign parameters",
    exact="five states",
    not_observed="norms where there is no gradient",
    proves=("R31", "C11"),
)
def test_R31_the_five_states_of_a_parameter_are_told_apart() -> None:
    model = nn.ModuleDict({k: nn.Linear(4, 4) for k in ("trained", "frozen", "unused", "zero", "stranger")})
    model["frozen"].requires_grad_(False)
    known = [p for name in ("trained", "unused", "zero") for p in model[name].parameters()]
    optimizer = torch.optim.SGD(known, lr=0.1)
    with Monitor(model, optimizer, max_overhead=None) as monitor:
        x = model["stranger"](model["frozen"](model["trained"](torch.randn(3, 4))))
        (x.sum() + 0 * model["zero"](x.detach()).sum()).backward()
        optimizer.step()
    states = {name: p.state for name, p in last(monitor).parameters.items() if name.endswith("weight")}
    assert states == {
        "trained.weight": "trained", "frozen.weight": "frozen", "unused.weight": "no_grad",
        "zero.weight": "zero_grad", "stranger.weight": "not_in_optimizer",
    }  # fmt: skip
    assert last(monitor).parameters["unused.weight"].grad_norm is None, "no gradient is not a gradient of 0"


def test_R11_the_loss_scale_of_a_gradscaler_is_found_and_taken_out() -> None:
    def run(scale: bool) -> Snapshot:
        model, optimizer = small()
        scaler = torch.amp.GradScaler("cpu", init_scale=65536.0, enabled=scale)
        torch.manual_seed(1)
        with Monitor(model, optimizer, max_overhead=None) as monitor:
            scaler.scale(model(torch.randn(5, 4)).square().mean()).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            scaler.step(optimizer)
            scaler.update()
        return last(monitor)

    plain, scaled = run(False), run(True)
    assert scaled.loss_scale == 65536.0
    assert scaled.grad_norm_total == pytest.approx(plain.grad_norm_total, rel=1e-5)
    assert scaled.clip_coefficient == pytest.approx(plain.clip_coefficient, rel=1e-5)
    for name, site in plain.sites.items():
        if site.role == "input":
            continue
        assert scaled.sites[name].grad_rms == pytest.approx(site.grad_rms, rel=1e-5)
        assert scaled.sites[name].grad_histogram == site.grad_histogram
    for name, parameter in plain.parameters.items():
        assert scaled.parameters[name].grad_norm == pytest.approx(parameter.grad_norm, rel=1e-5)


def test_R68_passes_that_are_not_training_are_not_counted() -> None:
    model, optimizer = small()
    with Monitor(model, optimizer, max_overhead=None) as monitor:
        with torch.no_grad():
            model(torch.randn(100, 4))
        model.eval()
        model(torch.randn(100, 4))
        model.train()
        backward(model, 3)
        optimizer.step()
    assert last(monitor).sites["0"].n == 3 * 8


@regime(
    "shared, reused, uncalled modules",
    "a model that is never called",
    not_observed="no sites; the log says `0 of 3 sites ran` and asks why",
    proves=("R57",),
)
def test_R57_a_monitor_that_sees_nothing_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = small()
    twin, _ = small()
    with Monitor(model, optimizer, max_overhead=None) as monitor:
        backward(twin)
        optimizer.step()
    assert last(monitor).sites == {} and last(monitor).sites_selected == 3
    assert "0 of 3 sites ran" in caplog.text
    assert "0.0" not in monitor.report()


def test_R57_sites_that_did_not_run_are_named_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle, self.words = nn.Linear(4, 4), nn.Linear(4, 4), nn.LazyLinear(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.words(self.used(x))

    model = Partial()
    model(torch.randn(1, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, max_overhead=None):
        backward(model)
        optimizer.step()
    assert "2 of 3 sites ran; not observed: idle: it was not called" in caplog.text


def test_R50_a_probe_that_fails_is_switched_off_with_one_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("probe is broken")

    model, optimizer = small()
    monkeypatch.setattr("actdiag.collect.collector.reducer", lambda arenas: Eager())
    monkeypatch.setattr("actdiag.collect.reducing.measure_gate", broken)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(3):
            backward(model)
            optimizer.step()
    warnings = [r for r in caplog.records if "observing 1 failed and is switched off" in r.message]
    assert len(warnings) == 1
    assert set(last(monitor).sites) == {"0:in", "0", "2"} and last(monitor).step == 2


@regime(
    "never in the way",
    "a writer that fails (disk full)",
    exact="the training and the other writers",
    not_observed="that writer, after one warning",
    proves=("R50", "C36"),
)
def test_R50_a_writer_that_fails_does_not_stop_the_training_or_the_other_writers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        def write(self, snapshot: object, changes: object) -> None:
            raise OSError("disk full")

        def close(self) -> None:
            raise OSError("disk full")

    model, optimizer = small()
    writer = MemoryWriter()
    with Monitor(model, optimizer, writers=[Broken(), writer], log_every_n_steps=1, max_overhead=None):
        for _ in range(2):
            backward(model)
            optimizer.step()
    assert steps_of(writer) == [0, 1]
    assert sum("disk full" in r.getMessage() for r in caplog.records) == 1


def poisoned() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    model, optimizer = small()
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    return model, optimizer


def test_R04_R43_findings_reach_the_callback_the_log_and_the_list(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = poisoned()
    told: list[Finding] = []
    with Monitor(model, optimizer, on_finding=told.append, log_every_n_steps=1) as monitor:
        for _ in range(3):
            backward(model)
            optimizer.step()
    assert [f.rule for f in told] == ["non-finite"] and monitor.findings[0] == told[0]
    assert told[0].layer == "2" and told[0].step == 0
    assert any(r.levelno == logging.ERROR and "non-finite" in r.getMessage() for r in caplog.records)


def test_R50_a_callback_that_raises_does_not_stop_the_training(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = poisoned()

    def raises(finding: Finding) -> None:
        raise ValueError("mine")

    with Monitor(model, optimizer, on_finding=raises):
        backward(model)
        optimizer.step()
    assert "on_finding raised" in caplog.text


def test_R43_raise_on_stops_the_loop_at_the_finding() -> None:
    model, optimizer = poisoned()
    with (
        pytest.raises(FindingError, match="non-finite") as error,
        Monitor(model, optimizer, raise_on="error"),
    ):
        backward(model)
        optimizer.step()
    assert error.value.finding.rule == "non-finite"


def test_R43_stop_on_asks_a_plain_loop_to_stop_and_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = poisoned()
    with Monitor(model, optimizer, stop_on="error", log_every_n_steps=1, max_overhead=None) as monitor:
        assert not monitor.should_stop
        for _ in range(3):
            backward(model)
            optimizer.step()
        assert monitor.should_stop
    asked = [record.getMessage() for record in caplog.records if "asking the training to stop" in record.getMessage()]
    assert len(asked) == 1 and "non-finite" in asked[0] and "stop_on" in asked[0]


def test_R43_a_finding_below_the_severity_of_stop_on_stops_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, stop_on="error", log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(20):
            model(torch.randn(64, 4) + 50).mean().backward()
            optimizer.step()
        assert {finding.severity for finding in monitor.findings} == {"warning"}, "uncentered inputs"
        assert not monitor.should_stop


@pytest.mark.parametrize(
    "options,words",
    [
        ({"log_every_n_steps": 0}, ["log_every_n_steps", "at least 1", "got 0"]),
        ({"log_every_n_steps": 2.5}, ["log_every_n_steps", "2.5"]),
        ({"log_every_n_steps": True}, ["log_every_n_steps", "True"]),
        ({"log_evry_n_steps": 1}, ["did you mean 'log_every_n_steps'"]),
        ({"max_overhead": 0}, ["max_overhead", "None"]),
        ({"max_overhead": 2}, ["max_overhead", "between 0 and 1"]),
        ({"window_samples": 3}, ["window_samples", "at least 32"]),
        ({"include": "features.*"}, ["include", "['features.*']"]),
        ({"include": ["nothing.*"]}, ["nothing.*", "leave no module"]),
        ({"exclude": ["*"]}, ["leave no module"]),
        ({"detail": "everything"}, ["detail", "'summary'", "'full'"]),
        ({"distributed": "yes"}, ["distributed", "'rank0'"]),
        ({"phases": ("train", "val")}, ["phases", "not recorded yet"]),
        ({"on_finding": 3}, ["on_finding", "function"]),
        ({"stop_on": "fatal"}, ["stop_on", "'error'"]),
        ({"distributed": "all"}, ["distributed", "'merge'", "'rank0'", "'off'"]),
        ({"merge_timeout_s": 0}, ["merge_timeout_s", "above 0", "20.0"]),
        ({"merge_timeout_s": "1"}, ["merge_timeout_s", "number of seconds"]),
        ({"raise_on": "fatal"}, ["raise_on", "'error'"]),
        ({"unit_dims": {"a": "b"}}, ["unit_dims"]),
        ({"start_step": 5, "end_step": 5}, ["end_step", "start_step"]),
        ({"writers": [object()]}, ["writers", "write(snapshot, changes)"]),
    ],
)
def test_a_wrong_option_names_itself_the_value_and_what_is_allowed(
    options: dict[str, object], words: list[str]
) -> None:
    model, optimizer = small()
    with pytest.raises(ConfigError) as error:
        Monitor(model, optimizer, **options)  # type: ignore[arg-type]
    for word in words:
        assert word in str(error.value)


@regime(
    "processes",
    "DataParallel",
    not_observed="refused at construction, with the cure",
    proves=("R75",),
)
def test_R75_wrong_models_and_optimizers_are_refused_with_the_cure() -> None:
    model, optimizer = small()
    with pytest.raises(ConfigError, match=r"must be an nn.Module or a dict.*got str"):
        Monitor("model", optimizer)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least one"):
        Monitor({}, optimizer)
    with pytest.raises(ConfigError, match="Optimizer"):
        Monitor(model, model)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="DistributedDataParallel"):
        Monitor(nn.DataParallel(model), optimizer)


def test_an_unwritable_log_dir_is_refused_at_construction(tmp_path: object) -> None:
    model, optimizer = small()
    with pytest.raises(ConfigError, match="log_dir"):
        Monitor(model, optimizer, log_dir="/dev/null/runs")
