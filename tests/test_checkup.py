"""actdiag.check: what is wrong before any training is told, what is right is left alone, and nothing is changed."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import actdiag
from actdiag import ConfigError, Finding, Monitor, check
from actdiag.collect.head import call_loss, read_output
from actdiag.diagnose.rules.head import Head, judge_head

N = 64


def data(classes: int = 5) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(N, 12, generator=g), torch.randint(classes, (N,), generator=g)


def net(*tail: nn.Module, out: int = 5) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, out), *tail)


def told(model: nn.Module, batch: Any = None, loss: Any = None, **options: Any) -> list[tuple[str, str, str]]:
    """Rule, severity and layer of what is told, without what is mere information."""
    found = check(model, batch or data(), loss or nn.CrossEntropyLoss(), **options)
    return [(f.rule, f.severity, f.layer) for f in found if f.severity != "info"]


def regression(low: float = -2.0, high: float = 2.0, shape: tuple[int, ...] = (N, 1)) -> tuple[Tensor, Tensor]:
    return data()[0], torch.linspace(low, high, N).reshape(shape)


INIT = "poor-initialization"


def test_a_network_that_fits_its_loss_is_told_nothing_of() -> None:
    assert told(net()) == []
    assert told(net(nn.Softplus())) == [], "outputs of any sum above 0 are no probabilities"
    assert told(net(out=1), regression(), nn.MSELoss()) == []
    assert told(net(nn.LogSoftmax(1)), loss=nn.NLLLoss()) == []
    assert told(net(nn.Sigmoid(), out=1), regression(0, 1), nn.MSELoss()) == []
    assert told(net(out=1), (data()[0], data(2)[1].float()[:, None]), nn.BCEWithLogitsLoss()) == []
    assert told(net(nn.Sigmoid(), out=1), (data()[0], data(2)[1].float()[:, None]), nn.BCELoss()) == []


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.functional.cross_entropy])
def test_a_softmax_before_cross_entropy_is_told(loss: Callable[..., Tensor]) -> None:
    assert told(net(nn.Softmax(1)), loss=loss) == [(INIT, "warning", "3")]


def test_a_softmax_in_a_forward_is_seen_by_its_rows() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).exp() / self.body(x).exp().sum(1, keepdim=True)

    assert [rule for rule, *_ in told(Net())] == [INIT]


def test_a_softmax_over_one_output_is_told_as_an_error() -> None:
    batch = (data()[0], torch.zeros(N, dtype=torch.long))
    assert told(net(out=1), batch)[0][:2] == (INIT, "error")
    assert told(net(nn.Softmax(1), out=1), regression(0, 1), nn.MSELoss())[0] == (INIT, "error", "3")


def test_a_sigmoid_before_a_loss_that_contains_it_is_told() -> None:
    batch = (data()[0], data(2)[1].float()[:, None])
    assert told(net(nn.Sigmoid(), out=1), batch, nn.BCEWithLogitsLoss()) == [(INIT, "warning", "3")]


@pytest.mark.parametrize("tail", [(), (nn.Softmax(1),)])
def test_what_is_no_log_probability_is_told_before_nll(tail: tuple[nn.Module, ...]) -> None:
    assert told(net(*tail), loss=nn.NLLLoss()) == [(INIT, "warning", "3" if tail else "2")]


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_shapes_that_are_broadcast_are_told() -> None:
    assert told(net(out=1), regression(shape=(N,)), nn.MSELoss()) == [(INIT, "warning", "2")]


@pytest.mark.parametrize("tail,low,high", [(nn.ReLU(), -1, 1), (nn.Sigmoid(), 0, 5), (nn.Tanh(), -3, 1)])
def test_targets_that_the_head_cannot_reach_are_told(tail: nn.Module, low: float, high: float) -> None:
    assert (INIT, "warning", "3") in told(net(tail, out=1), regression(low, high), nn.MSELoss())


def constant(model: nn.Module, value: float) -> nn.Module:
    for p in model.parameters():
        nn.init.constant_(p, value)
    return model


def test_units_that_all_begin_alike_are_told_as_an_error() -> None:
    assert (INIT, "error", "0") in told(constant(net(), 0.1))


def test_a_last_layer_that_begins_at_zero_is_meant() -> None:
    model = net()
    constant(model[2], 0.0)
    assert told(model) == []


def test_a_layer_that_no_gradient_reaches_is_told() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head, self.spare = net(out=8), nn.Linear(8, 5), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.body(x).detach())
            return out

    found = {layer for rule, _, layer in told(Detached()) if rule == "no-gradient"}
    assert found == {"body.0", "body.2", "spare"}


def test_a_loss_without_a_graph_is_told_once() -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(1) == target).float().mean()

    assert told(net(), loss=loss) == [("no-gradient", "warning", "")]


def test_layers_that_the_optimizer_does_not_hold_are_told() -> None:
    model = net()
    assert told(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1)) == []
    assert told(model, optimizer=torch.optim.SGD(model[0].parameters(), lr=0.1)) == [("no-gradient", "warning", "2")]


def test_a_part_of_a_layer_that_the_optimizer_does_not_hold_is_named() -> None:
    model = net()
    held = [p for name, p in model.named_parameters() if name != "0.bias"]
    found = check(model, data(), nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(held, lr=0.1))
    assert [f.message for f in found] == ["0: no optimizer holds its bias: nothing will change there"]


def test_inputs_of_a_large_size_are_told_as_information() -> None:
    x, y = data()
    found = [f for f in check(net(), (1000 * x, y), nn.CrossEntropyLoss()) if f.rule == INIT]
    assert [(f.severity, f.layer, f.evidence["symptom"]) for f in found] == [("info", "0", "inputs")]
    assert "vary by 1.02e+03" in found[0].message and "standardize" in found[0].advice[0]


def test_inputs_off_their_center_alone_are_told_once() -> None:
    x, y = data()
    assert [f.rule for f in check(net(), (x + 300, y), nn.CrossEntropyLoss())] == ["off-center"]


def test_frozen_layers_are_meant() -> None:
    model = net()
    model[0].requires_grad_(False)
    assert told(model) == []


def test_a_deep_network_of_small_weights_is_told_with_the_numbers() -> None:
    torch.manual_seed(0)
    parts: list[nn.Module] = [nn.Linear(12, 32)]
    for _ in range(7):
        parts += [nn.ReLU(), nn.Linear(32, 32)]
    model = nn.Sequential(*parts, nn.ReLU(), nn.Linear(32, 5))
    for p in model.parameters():
        nn.init.normal_(p, std=0.01) if p.ndim > 1 else nn.init.zeros_(p)
    found = [f for f in check(model, data(), nn.CrossEntropyLoss()) if f.rule == INIT]
    assert [(f.severity, f.evidence["symptom"]) for f in found] == [("warning", "forward shrinks")]


def test_inputs_that_are_not_centered_are_told() -> None:
    x, y = data()
    assert ("off-center", "warning", "0") in told(net(), (x + 30, y))


def test_what_is_nan_is_told_first() -> None:
    x, y = data()
    x = x.clone()
    x[0, 0] = float("nan")
    found: list[Finding] = check(net(), (x, y), nn.CrossEntropyLoss())
    assert found[0].rule == "non-finite" and found[0].severity == "error"


def test_ignored_findings_are_dropped() -> None:
    assert told(net(nn.Softmax(1)), ignore=["poor-initialization:3"]) == []
    assert told(net(nn.Softmax(1)), ignore=["poor-initialization:other"]) != []


@pytest.mark.parametrize("inputs", ["tuple", "mapping"])
def test_inputs_are_given_as_the_model_takes_them(inputs: str) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            out: Tensor = self.body(x + shift)
            return out

    x, y = data()
    given: Any = (x, torch.zeros(12)) if inputs == "tuple" else {"x": x, "shift": torch.zeros(12)}
    assert told(Two(), (given, y)) == []


class Everything(nn.Module):
    """Buffers that a forward changes, dropout, and a frozen part in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5))
        self.frozen = nn.BatchNorm1d(12)
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(self.frozen(x))
        if self.fail:
            raise RuntimeError("mine")
        return out


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_it_was_also_if_the_model_raises(fails: bool, training: bool) -> None:
    torch.manual_seed(3)
    model = Everything().train(training)
    model.frozen.train(False)
    nn.functional.cross_entropy(model(data()[0]), data()[1]).backward()
    before, grads = copy.deepcopy(model.state_dict()), [p.grad for p in model.parameters()]
    values = [None if g is None else g.clone() for g in grads]
    random, flags = torch.get_rng_state(), [m.training for m in model.modules()]
    model.fail = fails
    if fails:
        with pytest.raises(RuntimeError, match="mine"):
            check(model, data(), nn.CrossEntropyLoss())
    else:
        check(model, data(), nn.CrossEntropyLoss())
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    assert all(p.grad is was for p, was in zip(model.parameters(), grads, strict=True))
    assert all(v is None or torch.equal(v, g) for v, g in zip(values, grads, strict=True) if g is not None)
    assert torch.equal(torch.get_rng_state(), random) and [m.training for m in model.modules()] == flags
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


class Carries(nn.Module):
    """Buffers that each forward replaces, adds to, and makes; and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = net()
        self.register_buffer("memory", torch.zeros(3))
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("late", None)
        self.length = 0

    def forward(self, x: Tensor) -> Tensor:
        self.memory = self.memory + 1
        self.late = torch.ones(2)
        self.length += 1
        self.cached = self.length
        self.register_buffer("born", torch.ones(2))
        self.calls += 1
        random.random()
        np.random.rand()
        out: Tensor = self.body(x)
        return out


def test_what_a_forward_sets_on_its_module_and_all_random_numbers_come_back() -> None:
    model = Carries()
    memory, calls = model.memory, model.calls
    drawn = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    check(model, data(), nn.CrossEntropyLoss())
    assert model.memory is memory and memory.tolist() == [0, 0, 0] and model.late is None
    assert model.calls is calls and calls == 0
    assert "born" not in dict(model.named_buffers()), "a buffer that the forward made"
    assert model.length == 0 and not hasattr(model, "cached"), "and the attributes that belong to it"
    assert (random.getstate(), np.random.get_state()[1].tolist()) == drawn  # type: ignore[index]


def test_a_loss_with_parameters_is_as_it_was_too() -> None:
    class Centers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centers, self.norm = nn.Parameter(torch.zeros(5)), nn.BatchNorm1d(5)

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return nn.functional.cross_entropy(self.norm(output) + self.centers, target)

    loss = Centers()
    before = copy.deepcopy(loss.state_dict())
    check(net(), data(), loss)
    assert all(p.grad is None for p in loss.parameters())
    assert all(torch.equal(now, before[name]) for name, now in loss.state_dict().items())


def test_a_monitor_of_the_same_model_stays() -> None:
    model = net()
    with Monitor(model, torch.optim.SGD(model.parameters(), lr=0.1)) as monitor:
        check(model, data(), nn.CrossEntropyLoss())
        assert not monitor._session.closed


def test_what_cannot_work_is_said_before_anything_runs() -> None:
    x, y = data()
    with pytest.raises(ConfigError, match=r"batch must be \(inputs, target\), a pair; got Tensor"):
        check(net(), x, nn.CrossEntropyLoss())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no parameter that requires a gradient"):
        check(net().requires_grad_(False), (x, y), nn.CrossEntropyLoss())
    with pytest.raises(ConfigError, match="run one forward before check"):
        check(nn.Sequential(nn.LazyLinear(5)), (x, y), nn.CrossEntropyLoss())
    with pytest.raises(ConfigError, match=r"loss_fn must give a single number, got \(64,\)"):
        check(net(), (x, y), nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(ConfigError, match="max_overhead cannot be given to check"):
        check(net(), (x, y), nn.CrossEntropyLoss(), max_overhead=0.1)
    with pytest.raises(ConfigError, match="unknown option 'exlude'; did you mean 'exclude'"):
        check(net(), (x, y), nn.CrossEntropyLoss(), exlude=["0"])


def test_it_prints_nothing_and_logs_no_finding(caplog: pytest.LogCaptureFixture) -> None:
    check(net(nn.Softmax(1)), (data()[0] + 30, data()[1]), nn.CrossEntropyLoss())
    assert [r.message for r in caplog.records if r.levelname != "INFO"] == []


def test_it_logs_nothing_of_a_loss_that_raises_and_of_a_model_that_does_not_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(output: Tensor, target: Tensor) -> Tensor:
        raise RuntimeError("mine")

    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.shift = net(), nn.Parameter(torch.zeros(5))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :5] + self.shift

    with pytest.raises(RuntimeError, match="mine"):
        check(net(), data(), broken)
    check(Idle(), data(), nn.CrossEntropyLoss())
    assert [r.message for r in caplog.records] == []


def test_facts_of_outputs_that_are_no_tensor_are_none() -> None:
    assert read_output({"logits": torch.ones(2)}, None) == {}
    assert read_output(torch.ones(0, 3), None) == {}
    assert read_output(torch.ones(2, 3, dtype=torch.long), None) == {}
    facts = read_output(torch.full((2, 3), float("nan")), torch.ones(0))
    assert facts["output_low"] is None and facts["target_low"] is None and facts["rows_are"] == ""


def test_the_loss_is_recognized_inside_a_function_of_ones_own() -> None:
    def shifted(output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(input=output[:, :4], target=target.clamp(max=3))

    x, y = torch.ones(2, 5), torch.tensor([0, 4])
    _, (name, output, target) = call_loss(shifted, x, y)
    assert name == "CrossEntropyLoss" and output.shape == (2, 4) and target.tolist() == [0, 3]
    assert told(net(nn.Softmax(1)), loss=lambda o, t: nn.functional.cross_entropy(o, t)) == [(INIT, "warning", "3")]
    assert told(net(nn.Softmax(1)), loss=lambda o, t: nn.functional.nll_loss(o.log(), t)) == []


@pytest.mark.parametrize("losses", [(), (nn.functional.mse_loss, nn.functional.l1_loss)])
def test_a_loss_of_another_make_and_several_in_one_are_of_no_class(losses: tuple[Any, ...]) -> None:
    x = torch.ones(2, 1)
    _, (name, output, target) = call_loss(lambda a, b: sum((f(a, b) for f in losses), a.sum()), x, x)
    assert name == "" and output is x and target is x


def test_a_compiled_loss_is_called_as_it_is() -> None:
    compiled = torch.compile(nn.functional.mse_loss, backend="eager")
    x = torch.ones(2, 1)
    loss, (name, *_) = call_loss(compiled, x, x)
    assert loss == 0 and name == ""


def test_a_head_of_which_nothing_is_known_is_not_judged() -> None:
    unknown = Head(
        loss="", layer="", kind="", output_shape=(), target_shape=(), rows_are="", compared=0, output_low=None,
        output_high=None, target_low=None, target_high=None,
    )  # fmt: skip
    assert list(judge_head(unknown)) == []


class Built(nn.Module):
    """A network whose forward is given."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Sequential(nn.Linear(12, 16), nn.ReLU()), nn.Linear(16, 1)
        for name, part in parts.items():
            setattr(self, name, part)
        self._how = forward

    def forward(self, x: Tensor) -> Any:
        return self._how(self, self.body(x))


HEADS: dict[str, Callable[[Any, Tensor], Any]] = {
    "scaled": lambda m, h: 10 * torch.tanh(m.head(h)),
    "tied": lambda m, h: nn.functional.linear(h, m.head.weight),
    "gated": lambda m, h: m.head(h) * torch.sigmoid(m.other(h)),
    "two, the first is used": lambda m, h: (m.head(h), torch.sigmoid(m.other(h))),
    "spread beside it": lambda m, h: (m.head(h), nn.functional.softplus(m.other(h))),
    "pooled by attention": lambda m, h: (torch.softmax(m.other(h)[:, None], 1) * m.head(h)[:, None]).sum(1),
}


@pytest.mark.parametrize("name", HEADS)
def test_what_lies_beside_or_before_the_head_says_nothing_of_it(name: str) -> None:
    def loss(output: Any, target: Tensor) -> Tensor:
        return nn.functional.mse_loss(output[0] if isinstance(output, tuple) else output, target)

    model = Built(HEADS[name], other=nn.Linear(16, 1))
    if name in ("scaled", "tied"):
        del model.other
    assert [rule for rule, *_ in told(model, regression(-9, 9), loss) if rule == INIT] == []


def test_a_loss_that_scales_the_outputs_is_judged_by_what_it_is_given() -> None:
    model = net(nn.Sigmoid(), out=1)
    assert told(model, regression(-9, 9), lambda o, t: nn.functional.mse_loss(20 * o - 10, t)) == []
    assert told(model, regression(-9, 9), lambda o, t: nn.functional.mse_loss(t, o)) == [(INIT, "warning", "3")]


def test_an_activation_called_as_a_function_is_a_head_too() -> None:
    model = Built(lambda m, h: torch.sigmoid(m.head(h)).reshape(-1, 1))
    found = [f for f in check(model, regression(-9, 9), nn.MSELoss()) if f.rule == INIT and f.severity != "info"]
    assert [f.message.partition(":")[0] for f in found] == ["the output"] and "Sigmoid" in found[0].message


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_log_probabilities_are_recognized_to_the_rounding_of_their_type(dtype: torch.dtype) -> None:
    x, y = data()
    assert told(net(nn.LogSoftmax(1)).to(dtype), (x.to(dtype), y), nn.NLLLoss()) == []
    assert told(net(nn.LogSoftmax(0)).to(dtype), (x[0].to(dtype), y[0]), nn.NLLLoss()) == [], "one sample, no batch"


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_shapes_that_only_lose_a_dimension_are_not_stretched() -> None:
    x, _ = data()
    assert told(net(out=1), (x, torch.tensor(1.0)), nn.MSELoss()) == [], "one target for all is meant"
    found = [message for message in told(net(out=1), (x[:1], torch.ones(1)), nn.MSELoss()) if message[0] == INIT]
    assert found == []


def test_a_loss_that_is_no_number_is_told() -> None:
    x, y = regression()
    found = check(net(out=1), (x, y * 1e25), nn.MSELoss())
    assert [(f.rule, f.severity, f.layer) for f in found][:1] == [("non-finite", "error", "")]
    y[0] = float("nan")
    assert check(net(out=1), (x, y), nn.MSELoss())[0].rule == "non-finite"


def test_parameters_of_the_model_itself_are_told_by_their_names() -> None:
    model = Built(lambda m, h: m.head(h))
    model.token = nn.Parameter(torch.zeros(3))
    assert told(model, regression(), nn.MSELoss()) == [("no-gradient", "warning", "token")]
    model.head.scale = nn.Parameter(torch.ones(1))
    found = check(model, regression(), nn.MSELoss())
    assert "head: no gradient of the loss reaches its scale in this batch" in [f.message for f in found]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at it
@pytest.mark.parametrize("part", ["whole", "block"])
def test_a_compiled_model_is_checked_under_the_names_it_was_written_with(part: str) -> None:
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Sequential(nn.ReLU(), nn.Linear(16, 5))).eval()
    model.spare_layer = nn.Linear(2, 2)
    model.forward = lambda x: model[2](model[1](model[0](x)))  # type: ignore[method-assign]
    if part == "block":
        model[2] = torch.compile(model[2], backend="eager")
    given = torch.compile(model, backend="eager") if part == "whole" else model
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    flags = [m.training for m in model.modules()]
    found = check(given, data(), nn.CrossEntropyLoss())  # type: ignore[arg-type]
    assert [(f.rule, f.layer) for f in found] == [("no-gradient", "spare_layer")]
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags and torch.equal(torch.get_rng_state(), state)


def test_weights_that_a_forward_changes_and_optimizers_in_the_backward_are_put_back() -> None:
    class Bounded(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.1)
            return super().forward(x)

    model = nn.Sequential(Bounded(12, 16), nn.ReLU(), nn.Linear(16, 5))
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}
    steps: list[int] = []

    def step(p: Tensor) -> None:
        steps.append(1)
        optimizers[p].step()  # type: ignore[index]
        p.grad = None

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step)
    before, data_before = copy.deepcopy(model.state_dict()), model[0].weight.data_ptr()
    assert told(model) == [] and steps == []
    assert all(torch.equal(now, before[name]) for name, now in model.state_dict().items())
    assert model[0].weight.data_ptr() == data_before
    model(data()[0]).sum().backward()
    assert len(steps) == 4, "they are on again"


def test_gradients_of_inputs_and_of_modules_that_the_loss_holds_are_put_back() -> None:
    class Critic:
        def __init__(self) -> None:
            self.net = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1))

        def __call__(self, output: Tensor, target: Tensor) -> Tensor:
            return self.net(output).square().mean() + nn.functional.cross_entropy(output, target)

    loss, extra = Critic(), nn.Linear(5, 1)
    x, y = data()
    x.requires_grad_()
    for one in (loss, loss.__call__, functools.partial(loss), lambda o, t: loss(o, t) + 0 * extra(o).sum()):
        check(net(), (x, y), one)
        assert all(p.grad is None for p in [*loss.net.parameters(), *extra.parameters()]) and x.grad is None
        assert int(loss.net[0].num_batches_tracked) == 0


def test_a_monitor_of_the_same_model_sees_nothing_of_it() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, max_overhead=None, log_every_n_steps=1, prefix="check") as monitor:
        check(model, data(), nn.CrossEntropyLoss())
        nn.functional.cross_entropy(model(data()[0]), data()[1]).backward()
        optimizer.step()
        assert monitor.latest is not None and monitor.latest.sites["1"].samples == N
        assert not monitor._session.closed


def test_a_monitor_that_rests_goes_on_resting() -> None:
    """As in a validation in the middle of a step: what runs after the check is no training either."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, max_overhead=None, log_every_n_steps=1) as monitor:
        nn.functional.cross_entropy(model(data()[0]), data()[1]).backward()
        monitor._session.pause()
        check(model, data(), nn.CrossEntropyLoss())
        model(data()[0])
        monitor._session.resume()
        optimizer.step()
        assert monitor.latest is not None and monitor.latest.sites["1"].samples == N


@pytest.mark.parametrize(
    "given,words",
    [
        ({"model": {"a": nn.Linear(2, 2)}}, "model must be an nn.Module, got dict"),
        ({"loss_fn": None}, "loss_fn must be a function of output and target, got NoneType"),
        ({"optimizer": [3]}, "optimizer must be a torch.optim.Optimizer or a list of them, got int"),
        ({"optimizer": iter([])}, "optimizer must be a torch.optim.Optimizer or a list"),
        ({"detail": "full"}, "detail cannot be given to check"),
    ],
)
def test_arguments_of_the_wrong_kind_are_said(given: dict[str, Any], words: str) -> None:
    arguments = {"model": net(), "batch": data(), "loss_fn": nn.CrossEntropyLoss(), **given}
    with pytest.raises(ConfigError) as caught:
        check(**arguments)
    assert words in str(caught.value)


def test_the_function_is_public_and_no_module_takes_its_place() -> None:
    assert callable(actdiag.check) and actdiag.check is check
