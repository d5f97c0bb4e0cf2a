"""Parameters that are odd, frozen, shared, replaced, sparse, or belong to no optimizer."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor
from actdiag.collect.gradients import sample
from actdiag.collect.parameters import ParameterWatch
from tests.observing import last, on, run
from tests.regimes import regime


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


@regime(
    "accumulation, clipping and optimizers",
    "a frozen layer, unfrozen at step 2 and frozen again at step 4 (first layer, prefix)",
    exact="state, gradient and update in each step",
    not_observed="gradients while frozen: None, not 0",
    proves=("R31", "R62", "C11"),
)
def test_R31_R62_a_layer_that_thaws_and_freezes_is_told_in_each_step() -> None:
    def step(model: Any, optimizer: Any) -> None:
        model[0].requires_grad_(model.steps in (2, 3))
        model.steps += 1
        on(data(5, 4))(model, optimizer)

    def build() -> nn.Module:
        model = two()
        model.steps = 0
        return model

    def optimizer(model: Any) -> Any:
        return torch.optim.SGD(model.parameters(), lr=0.1)

    told = run(build, step, steps=6, optimizer=optimizer).snapshots
    assert [s.parameters["0.weight"].state for s in told] == ["frozen"] * 2 + ["trained"] * 2 + ["frozen"] * 2
    for snapshot, thawed in zip(told, [False, False, True, True, False, False], strict=True):
        site, weight = snapshot.sites["0"], snapshot.parameters["0.weight"]
        assert bool(site.grad_rms) == bool(weight.grad_norm) == bool(weight.update_ratio) == thawed
        assert thawed or (site.grad_rms, weight.grad_norm, weight.update_ratio) == (None, None, None)
        assert snapshot.sites["2"].grad_rms and snapshot.sites["0"].std


@regime(
    "accumulation, clipping and optimizers",
    "a frozen layer between trained ones",
    exact="gradient at the frozen layer's site, which flows through it",
    proves=("R31", "R62", "C11"),
)
def test_R62_the_gradient_through_a_frozen_layer_is_told_at_its_site() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2))
        model[1].requires_grad_(False)
        return model

    told = last(run(build, on(data(5, 4))))
    assert told.sites["1"].grad_rms and told.sites["0"].grad_rms
    assert told.parameters["1.weight"].state == "frozen" and told.parameters["0.weight"].state == "trained"


@regime(
    "accumulation, clipping and optimizers",
    "parameters that no optimizer holds; a layer without any gradient",
    exact="`not_in_optimizer` with its gradient; `no_grad`",
    not_observed="the update of what is not updated: None",
    proves=("R31", "C12"),
)
def test_R31_parameters_outside_the_optimizer_have_a_gradient_and_no_update() -> None:
    def build() -> nn.Module:
        model = two()
        model.unused = nn.Linear(2, 2)
        model.forward = lambda x: model[2](model[1](model[0](x)))
        return model

    def optimizer(model: Any) -> Any:
        return torch.optim.SGD([*model[2].parameters(), *model.unused.parameters()], lr=0.1)

    told = last(run(build, on(data(5, 4)), optimizer=optimizer)).parameters
    assert told["0.weight"].state == "not_in_optimizer" and told["0.weight"].grad_norm
    assert told["0.weight"].update_ratio is None and told["2.weight"].update_ratio
    assert (told["unused.weight"].state, told["unused.weight"].grad_norm) == ("no_grad", None)


@regime(
    "accumulation, clipping and optimizers",
    "sparse gradients of Embedding and EmbeddingBag (SparseAdam), dense ones with `padding_idx`",
    exact="norm and share of zeros as of the dense gradient; the update",
    proves=("R72", "C42"),
)
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("bag", [True, False])
def test_R72_sparse_and_dense_gradients_of_embeddings_are_the_same(sparse: bool, bag: bool) -> None:
    ids = torch.tensor([[1, 1, 4], [2, 0, 1]])

    class Words(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            kind = nn.EmbeddingBag if bag else nn.Embedding
            self.words = kind(10, 3, sparse=sparse, padding_idx=0)

        def forward(self, x: Tensor) -> Tensor:
            return self.words(x)

    def optimizer(model: Any) -> Any:
        kind = torch.optim.SparseAdam if sparse else torch.optim.Adam
        return kind(list(model.parameters()), lr=0.1)

    told = last(run(lambda: Words(sparse), on(ids, loss=lambda out: out.square().sum()), optimizer=optimizer))
    torch.manual_seed(0)
    model = Words(False)
    model(ids).square().sum().backward()
    grad = model.words.weight.grad
    assert grad is not None
    parameter = told.parameters["words.weight"]
    assert parameter.grad_norm == pytest.approx(float(grad.double().norm()), rel=1e-5)
    assert parameter.grad_zero_fraction == pytest.approx(float((grad == 0).double().mean()))
    assert parameter.update_ratio and told.sites["words"].grad_rms


class Odd(nn.Module):
    def __init__(self, parameter: Tensor) -> None:
        super().__init__()
        self.fc, self.odd = nn.Linear(4, 2), nn.Parameter(parameter, requires_grad=parameter.is_floating_point())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


ODD = {
    "int8 (quantized weights)": torch.arange(4, dtype=torch.int8),
    "bool": torch.tensor([True, False]),
    "float8": torch.ones(3).to(torch.float8_e4m3fn),
    "meta": torch.empty(3, device="meta"),
    "complex": torch.complex(torch.ones(3), torch.ones(3)),
}


@regime(
    "outputs and odd tensors",
    "parameters of int8, bool, float8, complex, or on meta, beside ordinary ones",
    exact="the ordinary ones",
    not_observed="norms of what has none",
    proves=("R1", "R72", "C16"),
)
@pytest.mark.parametrize("kind", ODD)
def test_R72_an_odd_parameter_does_not_take_the_others_with_it(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = Odd(ODD[kind])
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(2):
            on(data(3, 4))(model, optimizer)
    assert monitor.latest is not None and monitor.latest.step == 1
    told = monitor.latest.parameters["fc.weight"]
    assert told.state == "trained" and told.grad_norm and told.update_ratio and told.weight_norm
    assert "internal error" not in caplog.text


@regime("outputs and odd tensors", "parameters of no elements, 0-d, or of one", exact="norms; None where there is none")
def test_R72_empty_and_scalar_parameters_are_told() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.empty, self.scale = nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.tensor(2.0))
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * self.scale + self.empty.sum()

    told = last(run(Small, on(data(3, 4)))).parameters
    assert told["scale"].weight_norm == 2.0 and told["scale"].update_ratio and told["scale"].state == "trained"
    assert told["empty"].update_ratio is None and told["empty"].grad_zero_fraction is None


@regime("outputs and odd tensors", "a complex parameter that is trained", exact="norms", proves=("R35", "C16"))
def test_R35_a_trained_complex_parameter_has_norms() -> None:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.phase = nn.Parameter(torch.complex(torch.ones(4), torch.ones(4)))

        def forward(self, x: Tensor) -> Tensor:
            return (torch.fft.fft(self.fc(x)) * self.phase).abs()

    told = last(run(Complex, on(data(3, 4)))).parameters
    assert told["phase"].weight_norm == pytest.approx(8**0.5, rel=1e-6) and told["phase"].grad_norm
    assert told["fc.weight"].grad_norm and told["phase"].update_ratio


@regime(
    "accumulation, clipping and optimizers",
    "a Parameter replaced by another after attaching (`layer.weight = nn.Parameter(...)`)",
    exact="the new one, from the next recorded step on",
    proves=("C42",),
)
def test_a_replaced_parameter_is_told_from_the_next_recorded_step_on() -> None:
    torch.manual_seed(0)
    model = two()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        on(data(5, 4))(model, optimizer)
        model[0].weight = nn.Parameter(torch.full((6, 4), 2.0))
        for outside in (True, False):
            if not outside:
                optimizer.add_param_group({"params": [model[0].weight]})
            on(data(5, 4))(model, optimizer)
            on(data(5, 4))(model, optimizer)
            told = last(monitor).parameters["0.weight"]
            assert told.state == ("not_in_optimizer" if outside else "trained") and told.grad_norm
            assert told.weight_norm == pytest.approx(2 * 24**0.5, rel=1e-3)


def test_weights_that_are_remembered_twice_are_those_of_the_second_time() -> None:
    """Also of a parameter so large that a sample of it is kept."""
    model = nn.ModuleDict({"small": nn.Linear(3, 2), "large": nn.Linear(1 << 10, 1 << 9)})
    watch = ParameterWatch([("", model)], lambda name, error: pytest.fail(f"{name}: {error}"))
    watch.watch()
    for _ in range(2):
        watch.remember_weights()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
    watch.after_update(read_gradients=False)
    for record in watch.records():
        parameter = model.get_parameter(record.name).detach()
        before = float((parameter - 1).double().square().sum())
        assert float(record.sums["weight_squares"].value) == pytest.approx(before, rel=1e-6)
        moved = float(record.sums["update_squares"].value)
        assert moved == pytest.approx(sample(parameter).numel(), rel=1e-5), "each element by 1"


def test_a_backward_that_raises_keeps_no_parameter() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    watch = ParameterWatch([("", model)], lambda name, error: pytest.fail(f"{name}: {error}"))
    watch.watch()
    hidden = model[0](torch.randn(2, 3))

    def fail(g: torch.Tensor) -> None:
        raise KeyError("the user's")

    hidden.register_hook(fail)
    with pytest.raises(KeyError):
        model[1](hidden).sum().backward()
    assert [record.name for record in watch.records() if record.fresh] == ["1.weight", "1.bias"]
    gone = weakref.ref(model[1].weight)
    del model, hidden
    gc.collect()
    assert gone() is None
