"""Copies of a model that is being observed: averaged, saved, pickled, trained on beside it."""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from actdiag import Monitor
from tests.observing import last, on, run
from tests.regimes import regime


def data(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 2))


@regime(
    "copies and checkpoints",
    "SWA and EMA by AveragedModel, made and updated in the middle of a training; `update_bn`; SWALR",
    exact="the model itself",
    not_observed="the copy's forwards",
    proves=("R21", "R22", "C34"),
)
@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_R21_R22_an_averaged_model_made_while_attached_records_nothing(kind: str) -> None:
    held: dict[str, Any] = {}

    def step(model: Any, optimizer: Any) -> None:
        on(data(9, 4))(model, optimizer)
        if "averaged" not in held:
            held["averaged"] = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9) if kind == "ema" else None)
            held["schedule"] = SWALR(optimizer, swa_lr=0.05)
            return
        held["averaged"].update_parameters(model)
        held["averaged"].train()(data(100, 4, seed=2)).sum().backward()
        held["averaged"].zero_grad()
        held["schedule"].step()

    def fresh() -> nn.Module:
        held.clear()
        return net()

    monitor = run(fresh, step, steps=4)
    assert [s.step for s in monitor.snapshots] == [0, 1, 2, 3]
    assert {site.samples for s in monitor.snapshots for site in s.sites.values()} == {9}
    update_bn([data(9, 4)], held["averaged"])
    clean = held["averaged"].module.state_dict()
    assert list(clean) == list(net().state_dict())


def copies(model: nn.Module) -> dict[str, nn.Module]:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return {
        "deepcopy": copy.deepcopy(model),
        "pickle": pickle.loads(pickle.dumps(model)),
        "torch.save": torch.load(buffer, weights_only=False),
    }


@regime(
    "copies and checkpoints",
    "deepcopy, pickle, torch.save of an attached model and of its state_dict; loading into it",
    exact="copies compute the same, with inert hooks; `state_dict()` is that of a bare model",
    not_observed="the copies",
    proves=("R21", "R22", "R23", "C34"),
)
@pytest.mark.parametrize("kind", ["deepcopy", "pickle", "torch.save"])
def test_R21_R22_R23_copies_train_like_the_model_and_count_for_nothing(kind: str) -> None:
    torch.manual_seed(0)
    model = net()
    keys = list(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        on(data(9, 4))(model, optimizer)
        twin = copies(model)[kind]
        assert list(twin.state_dict()) == list(model.state_dict()) == keys
        second = torch.optim.SGD(twin.parameters(), lr=0.1)
        for _ in range(2):
            on(data(50, 4))(twin, second)
        assert last(monitor).step == 0
        on(data(9, 4))(model, optimizer)
        model.load_state_dict(twin.state_dict())
        on(data(9, 4))(model, optimizer)
        assert {site.samples for s in monitor.snapshots for site in s.sites.values()} == {9}
    assert torch.equal(model(data(3, 4)), model(data(3, 4)))


@regime(
    "copies and checkpoints",
    "a whole model saved while attached, loaded where there is no actdiag",
    exact="loads and computes the same",
    proves=("R21", "C34"),
)
def test_R21_a_model_saved_while_attached_loads_without_actdiag(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None):
        on(data(9, 4))(model, optimizer)
        assert model[0]._forward_hooks, "the hooks of the next step are on"
        torch.save(model, tmp_path / "model.pt")
        torch.save(model(data(3, 4)).detach(), tmp_path / "truth.pt")
    code = f"""
import sys
sys.modules["actdiag"] = None
import torch
model = torch.load({str(tmp_path / "model.pt")!r}, weights_only=False)
x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
assert torch.equal(model(x), torch.load({str(tmp_path / "truth.pt")!r}))
model(x).sum().backward()
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@regime(
    "copies and checkpoints",
    "a parameter deep-copied on a recorded step; `copy.copy` of a module; a model moved by `.to()` or `.half()`",
    exact="the model in its new dtype from the next step on",
    proves=("R22", "C34"),
)
def test_R22_a_model_that_changes_its_dtype_is_told_in_the_new_one() -> None:
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        on(data(9, 4))(model, optimizer)
        spare = copy.deepcopy(model[0].weight)
        assert not getattr(spare, "_post_accumulate_grad_hooks", None) or spare.grad is None
        model.double()
        on(data(9, 4).double())(model, optimizer)
    told = last(monitor)
    assert told.step == 1 and told.parameters["0.weight"].update_ratio
    assert told.sites["0"].n == 54 and told.sites["0"].grad_rms
    spare.sum().backward()
    assert told == last(monitor)


@regime(
    "copies and checkpoints",
    "a model that is deleted while its monitor lives",
    exact="freed at once, without a collection",
    proves=("R26", "C35"),
)
def test_R26_a_model_is_freed_while_its_monitor_lives_and_the_report_stays() -> None:
    import gc
    import weakref

    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None)
    on(data(9, 4))(model, optimizer)
    refs = [weakref.ref(model), *(weakref.ref(p) for p in model.parameters())]
    gc.collect()
    gc.disable()
    try:
        del model, optimizer
        assert [ref() for ref in refs] == [None] * len(refs)
    finally:
        gc.enable()
    assert "BatchNorm1d" in monitor.report()
    monitor.close()
