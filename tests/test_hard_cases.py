"""Cases that broke a first version: each was a wrong number or a disturbed training."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from actdiag import ActivationFacts, ConfigError, Monitor, Snapshot
from tests.regimes import regime
from tests.test_regimes import observe


def watch(model: nn.Module, make: Callable[[], Tensor], steps: int = 60) -> Snapshot:
    """Watched at every step, recorded at the first and the last."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    options = {"log_every_n_steps": steps - 1, "watch_every_n_steps": 1, "max_overhead": None}
    with Monitor(model, optimizer, **options) as monitor:
        for _ in range(steps):
            model(make()).square().mean().backward()
            optimizer.step()
    assert monitor.latest is not None
    return monitor.latest


class Scale(nn.Module):
    """A user's own normalization of (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


@pytest.mark.parametrize(
    "layers,shape",
    [
        ([nn.Conv1d(2, 8, 3), nn.ReLU()], (64, 2, 12)),
        ([nn.Conv1d(2, 8, 3), nn.ReLU()], (64, 2, 10)),  # as long as it has channels
        ([nn.Conv1d(2, 8, 3), nn.MaxPool1d(2), nn.ReLU()], (64, 2, 12)),
        ([nn.Conv2d(2, 8, 3), Scale(8), nn.ReLU()], (64, 2, 7, 7)),
    ],
)
def test_R40_R44_watched_and_recorded_steps_agree_on_what_a_unit_is(
    layers: list[nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    with torch.no_grad():
        model[0].weight[:4] = 0
        model[0].bias[:4] = -1
    snapshot = watch(model, lambda: torch.randn(shape))
    site = list(snapshot.sites.values())[-1]
    assert (site.units, site.dead_units, site.evidence_samples) == (8, 4, 2048)
    assert snapshot.sites["0:in"].units == 2


def test_linear_layers_on_images_keep_their_units_on_watched_steps() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.GELU())
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[0].bias[:2] = -9
    site = watch(model, lambda: torch.randn(16, 5, 5, 3)).sites["1"]
    assert (site.units, site.dead_units) == (6, 2)


@regime(
    "in-place and views",
    "a module that only reshapes",
    exact="its own gradient, not that of its input",
    proves=("C4",),
)
def test_the_gradient_of_a_reshape_is_not_that_of_its_input() -> None:
    class Reshape(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.flat = nn.Linear(4, 4), Reshape()

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x)
            return self.flat(x).sum() + 100 * x.sum()

    site = observe(Net(), torch.randn(3, 4), loss=lambda out: out).sites["flat"]
    assert site.grad_rms == 1.0


class Counting(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def modes() -> list[Any]:
    return list(torch.overrides._get_current_function_mode_stack())


def interrupted() -> tuple[nn.Module, torch.optim.Optimizer]:
    class Stops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.fc(x)
            raise KeyboardInterrupt

    model = Stops()
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


@regime(
    "interruptions",
    "Ctrl-C inside a forward",
    exact="it passes; hooks and function mode come off",
    proves=("R60", "C37"),
)
def test_R60_ctrl_c_inside_a_forward_leaves_no_mode_of_ours() -> None:
    model, optimizer = interrupted()
    with pytest.raises(KeyboardInterrupt), Monitor(model, optimizer):
        model(torch.randn(2, 4))
    assert modes() == []


def test_a_mode_of_the_users_is_never_taken_for_ours() -> None:
    model, optimizer = interrupted()
    monitor = Monitor(model, optimizer)
    with pytest.raises(KeyboardInterrupt):
        model(torch.randn(2, 4))
    with Counting() as mine:
        monitor.close()
        assert modes()[-1] is mine
        torch.ones(2).relu()
    assert mine.calls


def test_closing_from_another_thread_does_not_raise() -> None:
    model, optimizer = interrupted()
    monitor = Monitor(model, optimizer)

    def work() -> None:
        with pytest.raises(KeyboardInterrupt):
            model(torch.randn(2, 4))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    monitor.close()


@regime(
    "never in the way",
    "function modes of the user's (`torch.device` as a context) inside and around a forward",
    exact="both work",
    proves=("C43",),
)
def test_function_modes_of_the_user_inside_and_around_a_forward_work() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.device("cpu"):
                return torch.relu(self.fc(x)) + torch.zeros(1)

    with torch.device("cpu"), Counting() as mode:
        sites = observe(Net(), torch.randn(3, 4)).sites
    assert "relu" in sites and mode.calls and modes() == []


def test_a_callable_object_can_be_an_activation() -> None:
    class Swish:
        def __call__(self, x: Tensor) -> Tensor:
            if torch.overrides.has_torch_function((x,)):
                return torch.overrides.handle_torch_function(self, (x,), x)
            return x * torch.sigmoid(x)

    swish = Swish()
    facts = ActivationFacts(name="Swish", reads="input", gate=None, closed_low=-6.0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return swish(self.fc(x))

    assert "fc" in observe(Net(), torch.randn(3, 4), activations={swish: facts}).sites


def test_R66_functional_activations_under_functorch_are_left_alone_and_seen_again_afterwards() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.fc(x))

    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, max_overhead=None) as monitor:
        torch.func.vmap(lambda row: model(row))(torch.randn(9, 4))
        model(torch.randn(3, 4)).sum().backward()
        optimizer.step()
    assert monitor.latest is not None and monitor.latest.sites["relu"].n == 12


@regime(
    "outputs and odd tensors",
    "tensor subclasses",
    not_observed="no site; the log gives the class",
    proves=("R33", "C16"),
)
def test_tensor_subclasses_are_left_out_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    class Marked(Tensor):
        pass

    class Mark(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.as_subclass(Marked)

    model = nn.Sequential(nn.Linear(4, 4), Mark())
    snapshot = observe(model, torch.randn(3, 4), loss=lambda out: out.as_subclass(Tensor).sum())
    assert "0" in snapshot.sites and "1" not in snapshot.sites
    assert "a tensor subclass, Marked" in caplog.text


@regime(
    "shared, reused, uncalled modules",
    "layers called one by one from the loop, outside any module; micro-batches",
    exact="merged, one site a layer",
    proves=("R55", "C22"),
)
def test_layers_called_from_outside_any_module_merge_their_micro_batches() -> None:
    models = {"body": nn.Linear(4, 6), "act": nn.ReLU(), "head": nn.Linear(6, 2)}
    optimizer = torch.optim.SGD([*models["body"].parameters(), *models["head"].parameters()], lr=0.1)
    with Monitor(models, optimizer, max_overhead=None) as monitor:
        for _ in range(4):
            models["head"](models["act"](models["body"](torch.randn(5, 4)))).sum().backward()
        optimizer.step()
    assert monitor.latest is not None
    assert {name: site.n for name, site in monitor.latest.sites.items()} == {
        "body:in": 80, "body": 120, "act": 120, "head:in": 120, "head": 40,
    }  # fmt: skip


@regime(
    "accumulation, clipping and optimizers",
    "LBFGS beside another optimizer",
    exact="one batch of each a step",
    proves=("R32", "R70"),
)
def test_R32_R70_lbfgs_beside_another_optimizer_does_not_hide_later_batches() -> None:
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    first, second = torch.optim.SGD(a.parameters(), lr=0.1), torch.optim.LBFGS(b.parameters(), max_iter=3)
    x = torch.randn(8, 4)

    def closure() -> Tensor:
        second.zero_grad()
        loss = b(x).square().mean()
        loss.backward()
        return loss

    sizes = []
    with Monitor({"a": a, "b": b}, [first, second], log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(3):
            second.step(closure)
            first.zero_grad()
            a(torch.randn(100, 4)).square().mean().backward()
            first.step()
            assert monitor.latest is not None
            sizes.append((monitor.latest.sites["a"].samples, monitor.latest.sites["b"].samples))
    assert sizes == [(100, 8)] * 3


def roles(act: nn.Module, use: Callable[[Tensor, Tensor], Tensor]) -> str:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act, self.head = nn.Linear(4, 4), act, nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(use(self.act(self.fc(x)), x))

    return observe(Net(), torch.randn(3, 4)).sites["act"].role


def test_only_a_sigmoid_that_multiplies_a_tensor_is_a_gate() -> None:
    assert roles(nn.Sigmoid(), lambda a, x: a * x) == "gate"
    assert roles(nn.Hardsigmoid(), lambda a, x: torch.mul(x, a)) == "gate"
    assert roles(nn.Sigmoid(), lambda a, x: a * 2 - 1) == "activation"
    assert roles(nn.ReLU6(), lambda a, x: a * x) == "activation"


def test_a_loss_module_does_not_make_the_output_a_hidden_activation() -> None:
    class Own(nn.Module):
        def forward(self, p: Tensor) -> Tensor:
            return -(p + 1e-6).log().mean()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out, self.loss = nn.Linear(4, 1), nn.Sigmoid(), Own()

        def forward(self, x: Tensor) -> Tensor:
            return self.loss(self.out(self.fc(x)))

    sites = observe(Net(), torch.randn(3, 4), loss=lambda out: out).sites
    assert (sites["out"].role, sites["loss"].role) == ("output", "other")


@regime(
    "shared, reused, uncalled modules",
    "a layer whose number of units changes during training",
    exact="evidence about units starts again",
    proves=("R40",),
)
def test_R40_evidence_starts_again_when_a_layer_changes_its_width() -> None:
    class Narrows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act, self.width = nn.Linear(4, 16), nn.ReLU(), 16

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.fc(x)[:, : self.width])

    model = Narrows()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Monitor(model, optimizer, log_every_n_steps=40, watch_every_n_steps=1, max_overhead=None) as monitor:
        for step in range(81):
            model.width = 16 if step < 5 else 8
            model(torch.randn(64, 4)).sum().backward()
            optimizer.step()
    assert monitor.latest is not None
    site = monitor.latest.sites["act"]
    assert (site.units, site.dead_units) == (8, 0)


@regime(
    "shared, reused, uncalled modules",
    "`autograd.grad(create_graph=True)` beside the loss's backward",
    exact="the gradient of the loss",
    not_observed="the pass under create_graph",
    proves=("R70", "C10"),
)
def test_R70_a_penalty_on_gradients_is_not_the_gradient_of_the_loss() -> None:
    def run(weight: float) -> float | None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(5, 4, requires_grad=True)
        with Monitor(model, optimizer, max_overhead=None) as monitor:
            out = model(x)
            if weight:
                (grad,) = torch.autograd.grad(out.sum(), x, create_graph=True)
                assert grad.requires_grad
            out.square().mean().backward()
            optimizer.step()
        assert monitor.latest is not None
        return monitor.latest.sites["1"].grad_rms

    assert run(1.0) == run(0.0)


@regime(
    "shared, reused, uncalled modules",
    "a teacher in `eval()` beside a student",
    exact="the student",
    not_observed="the teacher",
    proves=("R68", "C24"),
)
def test_R68_of_several_models_only_those_in_training_are_counted() -> None:
    models = {"teacher": nn.Linear(4, 4).eval(), "student": nn.Linear(4, 4)}
    optimizer = torch.optim.SGD(models["student"].parameters(), lr=0.1)
    with Monitor(models, optimizer, max_overhead=None) as monitor:
        models["student"](models["teacher"](torch.randn(3, 4))).sum().backward()
        optimizer.step()
    assert monitor.latest is not None and set(monitor.latest.sites) == {"student:in", "student"}


def test_ambiguous_names_and_wrong_facts_are_refused() -> None:
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="must not hold"):
        Monitor({"a": a, "a.b": b})
    with pytest.raises(ConfigError, match="must be ActivationFacts, got str"):
        Monitor(a, activations={nn.ReLU: "relu"})
    with pytest.raises(ConfigError, match="no rule 'dead-unit'"):
        Monitor(a, ignore=["dead-unit"])
    scheduler = torch.optim.lr_scheduler.ConstantLR(torch.optim.SGD(a.parameters(), lr=0.1))
    with pytest.raises(ConfigError, match="got ConstantLR"):
        Monitor(a, scheduler)  # type: ignore[arg-type]


@regime(
    "shared, reused, uncalled modules",
    "one module in two models",
    exact="once, under the first model's name",
    proves=("R32", "C7"),
)
def test_a_module_in_two_models_is_observed_once() -> None:
    shared = nn.Linear(4, 4)
    models = {"a": shared, "b": nn.Sequential(shared, nn.ReLU())}
    with Monitor(models) as monitor:
        assert monitor._session.collector.targets[0].name == "a"
        assert [target.name for target in monitor._session.collector.targets] == ["a", "b.1"]


def test_a_prelu_is_read_where_the_module_is_now() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(init=0.25))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    monitor = Monitor(model, optimizer, max_overhead=None)
    model.double()
    with torch.no_grad():
        model[1].weight.fill_(0.9)
    out = model(torch.randn(64, 4, dtype=torch.float64))
    out.sum().backward()
    optimizer.step()
    monitor.close()
    truth = float(torch.where(out > 0, 1.0, 0.9).mean())
    assert monitor.latest is not None and monitor.latest.sites["1"].gate_mean == pytest.approx(truth, rel=1e-6)


def test_the_weight_norm_of_a_manual_loop_is_that_before_the_update() -> None:
    model = nn.Linear(4, 4)
    norm = float(model.weight.detach().norm())
    with Monitor(model, max_overhead=None) as monitor:
        model(torch.randn(3, 4)).sum().backward()
        with torch.no_grad():
            model.weight.mul_(10)
        monitor.step()
    assert monitor.latest is not None
    assert monitor.latest.parameters["weight"].weight_norm == pytest.approx(norm, rel=1e-6)


def test_R57_a_monitor_with_the_wrong_optimizer_says_so_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    model, other = nn.Linear(4, 4), nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, torch.optim.SGD(other.parameters(), lr=0.1)) as monitor:
        model(torch.randn(3, 4)).sum().backward()
        optimizer.step()
    assert monitor.latest is None and "no step of the optimizer was seen" in caplog.text
    assert "no recorded step" in monitor.report()


def test_R42_one_sample_a_batch_is_not_taken_for_uncentered_inputs() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(20):
            model(torch.randn(1, 8)).square().mean().backward()
            optimizer.step()
    assert [f.rule for f in monitor.findings if f.rule == "off-center"] == []


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("overflow_at", [0, 2])
def test_R12_a_step_that_the_scaler_skips_is_not_merged_into_the_next(given: bool, overflow_at: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    options: dict[str, Any] = {"log_every_n_steps": 1, "max_overhead": None}
    if given:
        options["grad_scaler"] = scaler
    seen = []
    with Monitor(model, optimizer, **options) as monitor:
        for iteration in range(5):
            optimizer.zero_grad()
            loss = model(torch.randn(6, 4)).square().mean()
            scaler.scale(loss * (float("inf") if iteration == overflow_at else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            seen.append(monitor.latest)
    told = monitor.snapshots
    assert all(snapshot.sites["0"].samples == 6 for snapshot in told), "one batch a step, never two"
    assert all(snapshot.sites["0"].grad_nonfinite == 0 for snapshot in told)
    assert told[-1].step == 3 and told[-1].loss_scale == 512.0
    if overflow_at == 0 and not given:
        assert [snapshot.step for snapshot in told] == [1, 2, 3], "the first step cannot be told from the skipped one"
    else:
        assert [snapshot.step for snapshot in told] == [0, 1, 2, 3]


@regime(
    "outputs and odd tensors",
    "an output that raises, or never ends, when it is looked into",
    exact="every other module",
    not_observed="that module, after one warning",
    proves=("R50", "C36"),
)
def test_R50_an_output_that_raises_when_it_is_looked_into_does_not_reach_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Lazy(dict):  # type: ignore[type-arg]
        def values(self) -> Any:
            raise RuntimeError("not to be looked into")

    class Endless(nn.Module):
        def forward(self, x: Tensor) -> Any:
            loop: list[Any] = []
            loop.append(loop)
            return loop

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return Lazy(out=x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.odd, self.endless = nn.Linear(4, 4), Odd(), Endless()

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc(x)
            self.endless(x)
            return self.odd(x)["out"]

    assert "fc" in observe(Net(), torch.randn(3, 4)).sites
    assert "observing odd failed" in caplog.text and "observing endless failed" in caplog.text


def test_what_is_no_scaler_is_refused_at_construction() -> None:
    with pytest.raises(ConfigError, match="grad_scaler"):
        Monitor(nn.Linear(2, 2), grad_scaler=3)


def test_R60_a_postponed_last_step_leaves_no_hook_on_a_parameter() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Monitor(model, optimizer, end_step=1, max_overhead=None):
        for factor in (float("inf"), 1.0):
            optimizer.zero_grad()
            scaler.scale(model(torch.randn(3, 4)).sum() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
        assert not any(getattr(p, "_post_accumulate_grad_hooks", None) for p in model.parameters())
