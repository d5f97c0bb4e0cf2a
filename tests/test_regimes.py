"""What is right in real models: in-place operations, views, shared modules, odd outputs, functional activations.

Named after the requirements (R..) that users' bug reports gave rise to.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

from actdiag import ActivationFacts, Monitor, Snapshot
from tests.conftest import assert_untouched
from tests.regimes import regime


def observe(model: nn.Module, *inputs: Any, loss: Any = None, **options: Any) -> Snapshot:
    """One recorded step on given inputs."""
    parameters = [p for p in model.parameters() if p.requires_grad] or [nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    with Monitor(model, optimizer, max_overhead=None, **options) as monitor:
        for x in inputs:
            out = model(*x) if isinstance(x, tuple) else model(x)
            value = loss(out) if loss else out.square().mean()
            if value.requires_grad:
                value.backward()
        optimizer.step()
    assert_untouched(model)
    assert monitor.latest is not None
    return monitor.latest


def seeded(build: Any) -> Any:
    torch.manual_seed(0)
    return build()


@regime(
    "in-place and views",
    "`ReLU(inplace=True)` after a Linear on rows or tokens",
    exact="all numbers of the out-of-place twin",
    proves=("R5", "R6", "C1", "C2"),
)
@pytest.mark.parametrize("shape", [(6, 4), (3, 6, 4)])
def test_R05_in_place_relu_gives_the_numbers_of_its_out_of_place_twin(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def net(inplace: bool) -> nn.Module:
        return seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=inplace), nn.Linear(5, 2)))

    there, twin = observe(net(True), x), observe(net(False), x)
    assert there.sites == twin.sites
    assert there.sites["0"].low is not None and there.sites["0"].low < 0, "the pre-activation, not what ReLU left of it"
    assert there.sites["0"].grad_rms, "a gradient hook on a view that is changed in place never fires"


@regime(
    "in-place and views",
    "in-place ReLU, SiLU, Hardswish, ELU after Conv and BatchNorm",
    exact="all numbers of the out-of-place twin, gates read before they are overwritten",
    proves=("R5", "R6", "C1"),
)
@pytest.mark.parametrize("kind", ["conv", "norm", "silu", "hardswish", "elu"])
def test_R05_in_place_activations_after_other_layers(kind: str) -> None:
    def net(inplace: bool) -> nn.Module:
        act = {"silu": nn.SiLU, "hardswish": nn.Hardswish, "elu": nn.ELU}.get(kind, nn.ReLU)(inplace=inplace)
        layers = [nn.Conv2d(2, 3, 3)] if kind == "conv" else [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)]
        return seeded(lambda: nn.Sequential(*layers, act, nn.Flatten(), nn.LazyLinear(2)))

    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    nets = [net(True), net(False)]
    for model in nets:
        torch.manual_seed(0)
        model(x)
    nets[1].load_state_dict(nets[0].state_dict())
    assert observe(nets[0], x).sites == observe(nets[1], x).sites


@regime(
    "in-place and views",
    "a residual `y += x`",
    exact="all numbers of the out-of-place twin",
    proves=("R5", "C3"),
)
def test_R05_residual_addition_in_place() -> None:
    class Residual(nn.Module):
        def __init__(self, inplace: bool) -> None:
            super().__init__()
            self.a, self.b, self.inplace = nn.Linear(4, 4), nn.Linear(4, 4), inplace

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            if self.inplace:
                y += x
            else:
                y = y + x
            return self.b(y)

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    nets = [seeded(lambda flag=flag: Residual(flag)) for flag in (True, False)]
    assert observe(nets[0], x).sites == observe(nets[1], x).sites


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.relu = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.relu(self.b(self.relu(self.a(x)))))


@regime(
    "shared, reused, uncalled modules",
    "a module called twice in a forward, in two micro-batches",
    exact="a site for each call (`relu#0`, `relu#1`), equal to two modules",
    proves=("R55", "C7"),
)
def test_R55_a_module_called_several_times_has_call_sites_equal_to_those_of_its_twin() -> None:
    class Apart(Shared):
        def __init__(self) -> None:
            super().__init__()
            self.relu2 = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.relu2(self.b(self.relu(self.a(x)))))

    batches = [torch.randn(n, 4, generator=torch.Generator().manual_seed(n)) for n in (5, 3)]
    shared, apart = observe(seeded(Shared), *batches), observe(seeded(Apart), *batches)
    assert shared.sites["relu#0"] == apart.sites["relu"]
    assert shared.sites["relu#1"] == apart.sites["relu2"]
    assert "relu" not in shared.sites
    assert (shared.sites["relu#0"].units, shared.sites["relu#1"].units) == (8, 6)


def test_R55_a_module_under_two_names_is_observed_once() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    model.register_module("alias", model[0])
    model.forward = lambda x: model[2](model[1](model[0](x)))  # type: ignore[method-assign]
    assert observe(model, torch.randn(3, 4)).sites["0"].n == 12


@regime(
    "shared, reused, uncalled modules",
    "batches of 32 and 1 in one step",
    exact="weighted by elements",
    proves=("R77", "C8"),
)
def test_R77_batches_of_unequal_size_are_weighted_by_their_elements() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3)))
    x = torch.randn(33, 4) * 3 + 1
    with torch.no_grad():
        truth = model(x).double()
    site = observe(model, x[:32], x[32:]).sites["0"]
    assert site.n == 99
    assert site.mean == pytest.approx(float(truth.mean()), rel=1e-5)
    assert site.std == pytest.approx(float(truth.std(correction=0)), rel=1e-5)


@regime(
    "in-place and views",
    "activations called as functions or methods, in place or not (`F.relu`, `torch.tanh`, `x.relu_()`)",
    exact="all numbers of the module's twin, under the module that runs",
    not_observed="functions called outside of every module",
    proves=("R56", "C5"),
)
@pytest.mark.parametrize(
    "call,module",
    [
        (F.relu, nn.ReLU()), (torch.relu, nn.ReLU()), (Tensor.relu, nn.ReLU()), (lambda x: x.relu(), nn.ReLU()),
        (lambda x: F.relu(x, inplace=True), nn.ReLU()), (torch.relu_, nn.ReLU()), (Tensor.relu_, nn.ReLU()),
        (F.gelu, nn.GELU()), (lambda x: F.gelu(x, approximate="tanh"), nn.GELU(approximate="tanh")),
        (F.silu, nn.SiLU()), (lambda x: F.silu(x, inplace=True), nn.SiLU()), (F.mish, nn.Mish()),
        (torch.tanh, nn.Tanh()), (F.tanh, nn.Tanh()), (Tensor.tanh, nn.Tanh()), (torch.sigmoid, nn.Sigmoid()),
        (F.elu, nn.ELU()), (F.leaky_relu, nn.LeakyReLU()), (F.hardtanh, nn.Hardtanh()), (F.relu6, nn.ReLU6()),
        (F.softplus, nn.Softplus()), (F.softsign, nn.Softsign()), (F.logsigmoid, nn.LogSigmoid()),
        (F.hardswish, nn.Hardswish()), (F.hardsigmoid, nn.Hardsigmoid()), (F.selu, nn.SELU()), (F.celu, nn.CELU()),
        (lambda x: F.prelu(x, torch.tensor([0.01])), nn.LeakyReLU()),
    ],
)  # fmt: skip
def test_R56_a_functional_activation_has_the_numbers_of_its_module(call: Any, module: nn.Module) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(call(self.fc(x)))

    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(1)) * 3
    sites = observe(seeded(Functional), x).sites
    twin = observe(seeded(lambda: nn.Sequential(nn.Linear(4, 6), module, nn.Linear(6, 2))), x).sites["1"]
    (name,) = set(sites) - {"fc:in", "fc", "out"}
    found = sites[name]
    if module.__class__ is nn.LeakyReLU and found.kind == "PReLU":
        found = dataclasses.replace(found, kind="LeakyReLU")
    assert found == twin


def test_R56_the_relu_inside_a_transformer_layer_is_seen_and_attributed_to_it() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    snapshot = observe(model, torch.randn(3, 5, 8))
    assert {"layers.0/relu", "layers.1/relu"} <= set(snapshot.sites)
    site = snapshot.sites["layers.1/relu"]
    assert (site.kind, site.units, site.samples, site.role) == ("ReLU", 16, 15, "activation")
    assert site.grad_rms
    assert "layers.0.self_attn" in snapshot.sites


def test_R56_functional_calls_can_be_left_alone() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.fc(x))

    assert set(observe(Functional(), torch.randn(2, 4), functional=False).sites) == {"fc:in", "fc"}
    assert set(observe(Functional(), torch.randn(2, 4), functional=True).sites) == {"fc:in", "fc", "relu"}


def test_R41_a_users_own_activation_is_known_by_its_facts() -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) - 0.4

    facts = ActivationFacts(name="Shifted", reads="output", gate=lambda a: (a > -0.4).to(a.dtype), closed_low=-0.4)
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), Shifted(), nn.Linear(6, 2)))
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[0].bias[:2] = -1
    site = observe(model, *[torch.randn(32, 4)] * 20, activations={Shifted: facts}).sites["1"]
    assert (site.kind, site.suspect_units) == ("Shifted", 2)


class Pair(NamedTuple):
    label: str
    hidden: Tensor


@dataclasses.dataclass
class Output:
    note: None
    logits: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x, None), lambda x: [x], lambda x: {"ids": 3, "x": x}, lambda x: Pair("a", x),
        lambda x: Output(None, x), lambda x: ({"deep": [x]},),
    ],
)  # fmt: skip
def test_R33_the_first_tensor_of_any_output_is_measured(wrap: Any) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Any:
            return wrap(x * self.weight)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.kept = Wrapped(), []

        def forward(self, x: Tensor) -> Tensor:
            return first(self.inner(x))

    def first(value: Any) -> Tensor:
        from actdiag.collect.layout import first_tensor

        found = first_tensor(value)
        assert found is not None
        return found

    snapshot = observe(Net(), torch.randn(3, 4))
    assert snapshot.sites["inner"].n == 12 and snapshot.sites["inner"].grad_rms


def test_R33_recurrent_layers_with_tuples_and_packed_sequences() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.gru, self.cell = nn.LSTM(4, 5), nn.GRU(5, 6), nn.LSTMCell(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7, 5]))
            out, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0])
            return self.cell(self.gru(out)[0][-1])[0]

    sites = observe(Net(), torch.randn(7, 2, 4)).sites
    assert sites["lstm"].n == 12 * 5, "the padding is not part of a packed sequence"
    assert (sites["gru"].units, sites["cell"].units) == (6, 3)
    assert all(site.grad_rms for name, site in sites.items() if site.role != "input")


def test_R01_R33_odd_tensors_are_left_out_with_a_reason_and_never_raise(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(nn.Module):
        def __init__(self, make: Any) -> None:
            super().__init__()
            self.make = make

        def forward(self, x: Tensor) -> Any:
            return self.make(x)

    makers = {
        "complex": lambda x: torch.complex(x, x), "integer": lambda x: x.long(), "bool": lambda x: x > 0,
        "empty": lambda x: x[:0], "sparse": lambda x: x.to_sparse(), "none": lambda x: None, "int": lambda x: 3,
        "meta": lambda x: x.to("meta"), "scalar": lambda x: x.sum(),
        "nested": lambda x: torch.nested.nested_tensor([x, x[:1]]),
        "quantized": lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
        "float8": lambda x: x.to(torch.float8_e4m3fn),
    }  # fmt: skip

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd = nn.ModuleDict({name: Odd(make) for name, make in makers.items()})
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            for module in self.odd.values():
                module(x.detach())
            return self.fc(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snapshot = observe(Net(), torch.randn(3, 4))
    assert {name for name in snapshot.sites if name.startswith("odd")} == {"odd.scalar"}
    assert "odd.complex: dtype complex64" in caplog.text
    assert not [r for r in caplog.records if "failed" in r.getMessage()]


@regime(
    "mixed precision",
    "autocast in bf16 and fp16 on the CPU",
    exact="std and rms of the values as computed",
    proves=("R34", "R35", "C19"),
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_R35_half_precision_under_autocast(dtype: torch.dtype) -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    x = torch.randn(64, 4) * 100
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Monitor(model, optimizer, max_overhead=None) as monitor, torch.autocast("cpu", dtype=dtype):
        model(x).float().square().mean().backward()
        optimizer.step()
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        truth = model[0](x).double()
    assert monitor.latest is not None
    site = monitor.latest.sites["0"]
    assert site.std == pytest.approx(float(truth.std(correction=0)), rel=1e-5)
    assert site.rms == pytest.approx(float(truth.square().mean().sqrt()), rel=1e-5)


def test_R31_a_layer_that_is_unfrozen_later_joins() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    states = []
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        for step in range(3):
            model[0].requires_grad_(step == 2)
            optimizer.zero_grad()
            model(torch.randn(3, 4)).sum().backward()
            optimizer.step()
            assert monitor.latest is not None
            states.append((monitor.latest.parameters["0.weight"].state, monitor.latest.sites["0"].grad_rms is None))
    assert states == [("frozen", True), ("frozen", True), ("trained", False)]


def test_R72_sparse_embedding_gradients_are_read_coalesced() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(10, 3, sparse=True), nn.Linear(3, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.words(ids)).sum()

    model = seeded(Net)
    ids = torch.tensor([1, 1, 4])
    model(ids).backward()
    truth = float(model.words.weight.grad.to_dense().double().norm())
    model.zero_grad()
    parameter = observe(model, ids, loss=lambda out: out).parameters["words.weight"]
    assert parameter.grad_norm == pytest.approx(truth, rel=1e-5)
    assert parameter.grad_zero_fraction == pytest.approx(8 / 10)


def test_R66_functorch_transforms_are_left_alone() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, max_overhead=None) as monitor:
        torch.func.vmap(lambda row: model(row))(torch.randn(50, 4))
        model(torch.randn(3, 4)).sum().backward()
        optimizer.step()
    assert monitor.latest is not None and monitor.latest.sites["0"].n == 9


def test_R70_a_gradient_penalty_does_not_keep_a_graph() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, max_overhead=None) as monitor:
        x = torch.randn(5, 4, requires_grad=True)
        (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (grad.norm() + model(x).sum()).backward()
        optimizer.step()
    assert monitor.latest is not None and monitor.latest.sites["0"].grad_rms


def test_R72_lazy_scripted_parametrized_and_pruned_modules() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Linear(4, 4))
    model = nn.Sequential(
        nn.LazyLinear(4),
        scripted,
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        nn.ReLU(),
        nn.Linear(4, 2),
    )
    prune.l1_unstructured(model[4], "weight", 0.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with Monitor(model, optimizer, max_overhead=None) as monitor:
        model(torch.randn(3, 4)).sum().backward()
        optimizer.step()
    assert monitor.latest is not None
    assert set(monitor.latest.sites) == {"0:in", "0", "2", "3", "4"}
    assert monitor.latest.sites["2"].kind == "Linear"


def test_R71_names_are_those_of_the_author_under_wrappers() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU()))

    class _Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._forward_module = inner

        def forward(self, x: Tensor) -> Tensor:
            return self._forward_module(x)

    wrapped, plain = observe(_Wrapper(model), torch.randn(2, 4)), observe(model, torch.randn(2, 4))
    assert set(wrapped.sites) == set(plain.sites) and set(wrapped.parameters) == set(plain.parameters)


def test_roles_tell_outputs_and_gates_from_hidden_activations() -> None:
    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.gate = nn.Conv2d(1, 4, 3), nn.Linear(4, 4), nn.Sigmoid()
            self.hidden, self.head, self.last = nn.Sigmoid(), nn.Linear(4, 1), nn.Sigmoid()

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x = x * self.gate(self.fc(x.mean((2, 3))))[:, :, None, None]
            return self.last(self.head(self.hidden(x.mean((2, 3)))))

    sites = observe(Squeeze(), torch.randn(2, 1, 6, 6)).sites
    roles = {name: sites[name].role for name in ("gate", "hidden", "last", "conv:in", "fc")}
    assert roles == {
        "gate": "gate",
        "hidden": "activation",
        "last": "output",
        "conv:in": "input",
        "fc": "layer",
    }


def test_R44_units_are_taken_from_the_layer_before_and_from_the_user() -> None:
    model = seeded(lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Conv1d(3, 5, 1)))
    sites = observe(model, torch.randn(4, 2, 9)).sites
    assert (sites["1"].units, sites["1"].samples) == (3, 4)
    sites = observe(model, torch.randn(4, 2, 9), unit_dims={"1": 2}).sites
    assert sites["1"].units == 7


def test_include_and_exclude_choose_modules_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 4))
    assert set(observe(model, torch.randn(2, 4), include=["1", "2"]).sites) == {"1", "2"}
    assert set(observe(model, torch.randn(2, 4), exclude=["0"]).sites) == {"1", "3:in", "3"}


@regime(
    "shared, reused, uncalled modules",
    "a module called 100 times in a loop",
    exact="the first 31 calls, a site each",
    approximate="all later calls, pooled into the last site",
    proves=("R55", "C7"),
)
def test_R55_a_module_called_in_a_long_loop_does_not_make_a_site_of_every_time_step() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.act = nn.Linear(4, 4), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(100):
                x = self.act(self.cell(x))
            return x

    sites = observe(Recurrent(), torch.randn(3, 4)).sites
    assert sum(name.startswith("act#") for name in sites) == 32
    assert sum(site.n for name, site in sites.items() if name.startswith("act#")) == 100 * 12


def test_a_function_and_a_module_of_the_same_name_are_two_sites() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.relu = nn.Linear(4, 6), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.relu(self.fc(x)) - 0.1)

    sites = observe(Both(), torch.randn(3, 4)).sites
    assert set(sites) == {"fc:in", "fc", "relu", "/relu"}
