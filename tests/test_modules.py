"""Modules that are lazy, scripted, parametrized or pruned; tracing, export and functorch while attached."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from actdiag import Monitor
from tests.conftest import assert_untouched
from tests.observing import assert_told, last, on, run
from tests.regimes import regime


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(module)


@regime(
    "outputs and odd tensors",
    "LazyLinear, LazyConv, LazyBatchNorm attached before their first forward",
    exact="all, from the first step on",
    proves=("R72", "C26"),
)
def test_R72_lazy_modules_are_told_from_their_first_step_on() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    plain = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([plain], lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        model(data(4, 2, 6, 6)).sum().backward()
        optimizer.step()
        first = last(monitor)
        optimizer.add_param_group({"params": list(model.parameters())})
        on(data(4, 2, 6, 6))(model, optimizer)
    assert set(first.sites) == {"0:in", "0", "1", "2", "4"} and first.sites["0"].units == 3
    told = last(monitor).parameters
    assert told["0.weight"].state == "trained" and told["4.weight"].grad_norm


@regime(
    "outputs and odd tensors",
    "a ScriptModule child",
    exact="everything else; the parameters of the child",
    not_observed="the scripted module",
    proves=("R72", "C28"),
)
def test_R72_a_scripted_child_is_left_out_and_its_parameters_are_told() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), scripted(nn.Sequential(nn.Linear(6, 6), nn.ReLU())), nn.Linear(6, 2))

    told = last(run(build, on(data(5, 4))))
    assert set(told.sites) == {"0:in", "0", "2"}
    assert told.parameters["1.0.weight"].grad_norm and told.parameters["1.0.weight"].state == "trained"


PARAMETRIZED: dict[str, Any] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "cached": parametrizations.weight_norm,
}


@regime(
    "outputs and odd tensors",
    "weight_norm, spectral_norm, orthogonal (`torch.nn.utils.parametrizations`), `parametrize.cached()`",
    exact="the layer's output and gradient; the original parameters",
    not_observed="the parametrizations themselves, as modules",
    proves=("R72", "C27"),
)
@pytest.mark.parametrize("kind", PARAMETRIZED)
def test_R72_parametrized_layers_are_told_as_the_layer_they_are(kind: str) -> None:
    def build() -> nn.Module:
        return nn.Sequential(PARAMETRIZED[kind](nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))

    def step(model: Any, optimizer: Any) -> None:
        if kind == "cached":
            with parametrize.cached():
                on(data(5, 4))(model, optimizer)
        else:
            on(data(5, 4))(model, optimizer)

    told = last(run(build, step, steps=2))
    assert set(told.sites) == {"0:in", "0", "1", "2"} and told.sites["0"].kind == "Linear"
    originals = {name: p for name, p in told.parameters.items() if name.startswith("0.") and "original" in name}
    assert originals and all(p.state in ("trained", "zero_grad") for p in originals.values())


@regime(
    "outputs and odd tensors",
    "pruned layers; the older `nn.utils.weight_norm` and `spectral_norm`, which use pre-hooks",
    exact="the layer as it computes; `weight_orig` is the parameter",
    proves=("R72", "C27"),
)
@pytest.mark.parametrize("kind", ["pruned", "weight_norm", "spectral_norm"])
def test_R72_layers_with_hooks_of_their_own_are_told_as_they_compute(kind: str) -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        if kind == "pruned":
            prune.l1_unstructured(model[0], "weight", 0.5)
            return model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            getattr(nn.utils, kind)(model[0])
        return model

    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hooks = dict(model[0]._forward_pre_hooks)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        on(data(5, 4))(model, optimizer)
        truth = model[0].weight.detach()
    assert dict(model[0]._forward_pre_hooks) == hooks, "theirs stay, ours do not"
    told = last(monitor)
    assert told.sites["0"].grad_rms and not [name for name in told.parameters if name == "0.weight"]
    assert_told(told.sites["0:in"], data(5, 4))
    if kind == "pruned":
        assert (truth == 0).sum() == 12 and told.parameters["0.weight_orig"].state == "trained"


@regime(
    "outputs and odd tensors",
    "`torch.jit.trace` and `torch.export` of a model while the monitor is attached",
    exact="the exported program computes what the model does and carries nothing of ours",
    not_observed="the passes of the exporter that run outside of gradients",
    proves=("R72", "C28"),
)
@pytest.mark.parametrize("how", ["trace", "export"])
def test_R72_a_model_can_be_traced_and_exported_while_it_is_observed(how: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = data(5, 4)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        on(x)(model, optimizer)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported: Any = torch.jit.trace(model, x) if how == "trace" else torch.export.export(model, (x,)).module()
            assert torch.equal(exported(x), model(x))
        on(x)(model, optimizer)
        told = last(monitor)
    assert told.step == 1 and {site.samples for site in told.sites.values()} == {5}
    assert_untouched(model)
    text = str(exported.graph if how == "trace" else exported.code)
    assert "actdiag" not in text and "mean" not in text


@regime(
    "outputs and odd tensors",
    "`torch.func` (vmap, grad, per-sample gradients with functional_call) in the same step",
    exact="the ordinary pass",
    not_observed="calls under a transform",
    proves=("R66", "C29"),
)
def test_R66_per_sample_gradients_beside_a_step_are_left_alone() -> None:
    def step(model: Any, optimizer: Any) -> None:
        weights = {name: p.detach() for name, p in model.named_parameters()}

        def loss(weights: Any, row: Tensor) -> Tensor:
            return torch.func.functional_call(model, weights, (row,)).square().sum()

        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, data(50, 4, seed=2))
        assert each["0.weight"].shape == (50, 6, 4)
        on(data(5, 4))(model, optimizer)

    told = last(run(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), step, steps=2))
    assert {site.samples for site in told.sites.values()} == {5}
    assert all(site.grad_rms for site in told.sites.values() if site.role != "input")
