"""Hooks do not synchronize: nothing is read back to the host between the start of a recorded step and its end."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from actdiag import Monitor
from actdiag.collect.activations import GELU, RELU, TANH
from actdiag.collect.histogram import count_octaves
from actdiag.collect.layout import arrange
from actdiag.collect.moments import measure, measure_gate, measure_gradient, merge
from actdiag.collect.recent import Recent
from actdiag.collect.units import count_open
from tests.regimes import regime

READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")


class Spy(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        if any(name in str(func) for name in READS):
            self.reads.append(str(func))
        return func(*args, **(kwargs or {}))


def test_the_spy_sees_a_read() -> None:
    with Spy() as spy:
        torch.ones(3).sum().item()
    assert spy.reads


@regime(
    "never in the way",
    "recorded steps",
    exact="no hook reads a tensor back to the host",
    proves=("R17", "C44"),
)
def test_R17_no_hook_reads_a_tensor_back() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(8), nn.GELU(), nn.Linear(8, 2))
    model(torch.randn(2, 1, 6, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, watch_every_n_steps=1, max_overhead=None):
        for _ in range(2):
            x = torch.randn(2, 1, 6, 6)
            with Spy() as spy:
                model(x).square().mean().backward()
            assert spy.reads == []
            optimizer.step()


@regime(
    "never in the way",
    "steps that are not observed",
    exact="none of our operations runs",
    proves=("R16", "C45"),
)
def test_R16_an_unobserved_step_runs_no_operation_of_ours() -> None:
    def calls(observe: bool) -> int:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"log_every_n_steps": 100, "watch_every_n_steps": 100, "max_overhead": None}
        monitor = Monitor(model, optimizer, **options) if observe else None
        for step in range(4):
            with Spy() as spy:
                optimizer.zero_grad()
                model(torch.ones(3, 4)).sum().backward()
                optimizer.step()
            if step == 3:
                if monitor is not None:
                    monitor.close()
                return spy.calls
        raise AssertionError

    assert calls(observe=True) == calls(observe=False)


@pytest.mark.parametrize("device", ["cuda"])
def test_the_reductions_run_on_a_fake_accelerator_where_every_read_raises(device: str) -> None:
    with FakeTensorMode():
        for shape, dim in (((8, 5), 1), ((4, 3, 6, 6), 1), ((2, 7, 5), 2)):
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                x = torch.empty(shape, device=device, dtype=dtype)
                units = arrange(x, dim)
                assert merge(measure(units), measure(units)).mean_C.device.type == device
                for facts in (RELU, TANH, GELU):
                    measure_gate(units.units_last(), facts)
                    Recent(units.units, x.device).observe(count_open(units, facts), units.samples, 0)
                measure_gradient(x)
                count_octaves(x)


def test_R17_a_recorded_step_is_read_out_once_and_a_watched_one_never(monkeypatch: pytest.MonkeyPatch) -> None:
    from actdiag.collect.sending import Sent

    fetches: list[int] = []
    read = Sent.read

    def counted(self: Sent) -> object:
        fetches.append(len(self._parts))
        return read(self)

    monkeypatch.setattr(Sent, "read", counted)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=3, watch_every_n_steps=1, max_overhead=None):
        for _ in range(7):
            model(torch.randn(3, 4)).sum().backward()
            optimizer.step()
    assert fetches == [1, 1, 1], "one copy, of one device, for each of the three recorded steps"


def test_R19_the_overhead_is_that_of_the_recorded_step_before() -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=20, watch_every_n_steps=20, max_overhead=None) as monitor:
        for _ in range(61):
            model(torch.randn(3, 4)).sum().backward()
            optimizer.step()
    told = [snapshot.overhead_ms for snapshot in monitor.snapshots]
    assert told[:2] == [None, None] and all(value is not None and value >= 0 for value in told[2:])
