"""What modules give back: containers, keyword arguments, odd tensors."""

from __future__ import annotations

import dataclasses
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.observing import assert_told, last, on, run
from tests.regimes import regime


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Pair(NamedTuple):
    note: str
    hidden: Tensor


@dataclasses.dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


class Ordered(OrderedDict):  # type: ignore[type-arg]
    """As Hugging Face's ModelOutput: an ordered dict whose keys are attributes."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


WRAPS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tuple": (lambda x: (x, None), lambda o: o[0]),
    "list": (lambda x: [None, "a", x], lambda o: o[2]),
    "dict": (lambda x: {"n": 3, "x": x}, lambda o: o["x"]),
    "nested dict": (lambda x: {"a": {"b": [None, x]}}, lambda o: o["a"]["b"][1]),
    "NamedTuple": (lambda x: Pair("a", x), lambda o: o.hidden),
    "dataclass": (lambda x: Output(None, x), lambda o: o.logits),
    "ordered dict with attributes": (lambda x: Ordered(loss=None, logits=x), lambda o: o.logits),
}


class Wrapping(nn.Module):
    """A leaf with a weight that gives back a container."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight, self.wrap = nn.Parameter(torch.ones(4)), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(x * self.weight)


class Unwrapping(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any], unwrap: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.inner, self.head, self.unwrap = Wrapping(wrap), nn.Linear(4, 2), unwrap

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.unwrap(self.inner(x)))


@regime(
    "outputs and odd tensors",
    "tuple, list, dict, NamedTuple, dataclass, ModelOutput-like (ordered dict), nested; None, int, str in them",
    exact="the first tensor in it, with its gradient",
    not_observed="the other tensors of an output",
    proves=("R33", "C13"),
)
@pytest.mark.parametrize("kind", WRAPS)
def test_R33_the_tensor_in_a_container_is_told_exactly(kind: str) -> None:
    told = last(run(lambda: Unwrapping(*WRAPS[kind]), on(data(5, 4)))).sites["inner"]
    torch.manual_seed(0)
    model = Unwrapping(lambda x: x, lambda o: o)
    out = model.inner(data(5, 4))
    out.retain_grad()
    model.head(out).square().mean().backward()
    assert_told(told, out, grad=out.grad)


@regime(
    "outputs and odd tensors",
    "an output whose first tensor is of integers (`(indices, values)`)",
    exact="the first tensor of floating point",
    proves=("R33",),
)
def test_R33_integers_before_the_floats_of_an_output_are_passed_over() -> None:
    told = last(run(lambda: Unwrapping(lambda x: (x.argmax(1), x), lambda o: o[1]), on(data(5, 4)))).sites
    assert told["inner"].n == 20 and told["inner"].grad_rms


@pytest.mark.parametrize("value", [None, 3, "text", (), {}, {"a": None}])
def test_R33_an_output_without_a_tensor_is_named_as_such(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return value

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.silent, self.fc = Silent(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.silent(x)
            return self.fc(x)

    assert set(last(run(Net, on(data(3, 4)))).sites) == {"fc:in", "fc"}
    assert "silent: no tensor in its output" in caplog.text


@regime("outputs and odd tensors", "a module called with keyword arguments only", exact="all", proves=("C15",))
def test_a_module_called_by_keyword_has_an_input_and_an_output() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, *, x: Tensor) -> Tensor:
            return self.fc(input=x)

    def step(model: Any, optimizer: Any) -> None:
        model(x=data(3, 4)).sum().backward()
        optimizer.step()

    sites = last(run(Net, step)).sites
    assert_told(sites["fc:in"], data(3, 4))
    assert sites["fc"].n == 6


ODD: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "complex": (lambda x: torch.complex(x, x), "dtype complex64"),
    "integer": (lambda x: x.long(), "dtype int64"),
    "bool": (lambda x: x > 0, "dtype bool"),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), "dtype float8_e4m3fn"),
    "empty": (lambda x: x[:0], "an empty tensor"),
    "sparse": (lambda x: x.to_sparse(), "torch.sparse_coo layout"),
    "csr": (lambda x: x.to_sparse_csr(), "torch.sparse_csr layout"),
    "meta": (lambda x: x.to("meta"), "a meta tensor"),
    "nested": (lambda x: torch.nested.nested_tensor([x, x[:1]]), "a nested tensor"),
    "jagged": (lambda x: torch.nested.nested_tensor([x, x[:1]], layout=torch.jagged), "a tensor subclass"),
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), "a quantized tensor"),
    "none": (lambda x: None, "no tensor in its output"),
}


class Odd(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


@regime(
    "outputs and odd tensors",
    "complex, integer, bool, float8, empty, sparse, nested, quantized and meta tensors, None",
    not_observed="no site; the log gives the reason",
    proves=("R1", "R33", "R35", "C16"),
)
@pytest.mark.parametrize("kind", ODD)
def test_R35_an_odd_tensor_is_named_with_its_reason(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    make, reason = ODD[kind]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd, self.fc = Odd(make), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.odd(x)
            return self.fc(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of prototype and deprecated tensors
        told = last(run(Net, on(data(3, 4))))
    assert set(told.sites) == {"fc:in", "fc"}
    assert f"odd: {reason}" in caplog.text and "failed" not in caplog.text


@regime("outputs and odd tensors", "a 0-d output (a loss)", exact="its value and gradient, one unit", proves=("C16",))
def test_a_scalar_output_is_one_element() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.loss = nn.Linear(4, 2), Odd(lambda x: x.square().sum())

        def forward(self, x: Tensor) -> Tensor:
            return self.loss(self.fc(x))

    told = last(run(Net, on(data(3, 4), loss=lambda out: 2 * out))).sites["loss"]
    assert (told.n, told.units, told.grad_rms) == (1, 1, 2.0) and told.mean == told.low == told.high
