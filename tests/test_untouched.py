"""Training is the same with and without actdiag, and nothing of it stays behind."""

from __future__ import annotations

import copy
import gc
import hashlib
import io
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from actdiag import MemoryWriter, Monitor
from tests.conftest import assert_untouched
from tests.nets import digits, one_step, small
from tests.regimes import regime


class Dropped(nn.Module):
    """Dropout, batch norm, in-place ReLU after both, a functional activation, a residual, a shared module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 32)
        self.norm = nn.BatchNorm1d(32)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.3)
        self.mid = nn.Linear(32, 32)
        self.gate = nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.act(self.norm(self.stem(x))))
        y = self.mid(x)
        y += x
        y = self.act(y)
        y = y * torch.sigmoid(self.gate(x))
        return self.head(nn.functional.gelu(y))


def fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    digest.update(torch.get_rng_state().numpy().tobytes())
    return digest.hexdigest()


def train(build: Callable[[], nn.Module], steps: int, *, observe: bool, **options: object) -> tuple[str, list[float]]:
    torch.manual_seed(3)
    x, y = digits()
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    writer = MemoryWriter()
    monitor = Monitor(model, optimizer, writers=[writer], max_overhead=None, **options) if observe else None
    losses = []
    for step in range(steps):
        index = torch.randint(0, len(x), (32,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[index]), y[index])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        assert step or monitor is None or writer.snapshots, "the first step is recorded"
    if monitor is not None:
        assert len(writer.snapshots) == len(range(0, steps, int(options.get("log_every_n_steps", 50))))  # type: ignore[call-overload]
        monitor.close()
        assert_untouched(model)
    return fingerprint(model), losses


@regime(
    "never in the way",
    "50 steps with Dropout, BatchNorm, in-place, shared and functional activations and clipping",
    exact="weights, buffers, losses and random numbers bit for bit",
    proves=("R51", "C31", "C32"),
)
@pytest.mark.parametrize("every", [1, 2, 7])
def test_R51_fifty_steps_are_bit_identical_with_and_without(every: int) -> None:
    bare = train(Dropped, 50, observe=False)
    assert train(Dropped, 50, observe=True, log_every_n_steps=every, watch_every_n_steps=3) == bare


@regime(
    "checkpointing",
    "20 steps with a checkpointed block, reentrant or not",
    exact="bit-identical training; each forward once, with gradients",
    proves=("R51", "R70", "C23"),
)
@pytest.mark.parametrize("reentrant", [True, False])
def test_R51_R70_checkpointed_training_is_bit_identical_and_counted_once(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(64, 32)
            self.block = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.Tanh())
            self.head = nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.block, self.stem(x), use_reentrant=reentrant))

    bare = train(Checkpointed, 20, observe=False)
    assert train(Checkpointed, 20, observe=True, log_every_n_steps=2) == bare
    torch.manual_seed(0)
    model = Checkpointed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, max_overhead=None) as monitor:
        model(torch.randn(8, 64)).sum().backward()
        optimizer.step()
    assert monitor.latest is not None
    sites = monitor.latest.sites
    assert {name: site.n for name, site in sites.items() if name.startswith("block")} == {
        "block.0": 256, "block.1": 256, "block.3": 256, "block.4": 256,
    }  # fmt: skip
    assert all(site.grad_rms is not None for name, site in sites.items() if name.startswith("block"))


@regime(
    "interruptions",
    "an exception or Ctrl-C in the loop, inside `with Monitor`",
    exact="it passes; model and optimizer are as before",
    proves=("R60", "C37"),
)
@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()])
def test_R60_an_exception_or_ctrl_c_in_the_loop_passes_and_leaves_nothing(error: BaseException) -> None:
    model, optimizer = small()
    with pytest.raises(type(error)), Monitor(model, optimizer, log_every_n_steps=1):
        one_step(model, optimizer)
        model(torch.randn(5, 4))
        raise error
    assert_untouched(model)
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_R60_an_exception_inside_a_forward_leaves_no_function_mode_behind() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            torch.relu(self.inner(x))
            raise ValueError("in forward")

    model = Breaks()
    with Monitor(model, torch.optim.SGD(model.parameters(), lr=0.1)):
        with pytest.raises(ValueError, match="in forward"):
            model(torch.randn(2, 4))
        assert not torch.overrides._get_current_function_mode_stack()
    assert_untouched(model)


@regime(
    "interruptions",
    "a monitor that is dropped without close (a notebook cell run again)",
    exact="its hooks go with it",
    proves=("R60", "C37"),
)
def test_R60_a_monitor_that_is_dropped_takes_its_hooks_along() -> None:
    model, optimizer = small()
    monitor = Monitor(model, optimizer)
    one_step(model, optimizer)
    del monitor
    gc.collect()
    assert_untouched(model)
    one_step(model, optimizer)


def test_R26_the_model_is_freed_without_a_collection_while_the_monitor_lives() -> None:
    model, optimizer = small()
    monitor = Monitor(model, optimizer, log_every_n_steps=1)
    one_step(model, optimizer)
    ref = weakref.ref(model)
    gc.collect()
    gc.disable()
    try:
        del model, optimizer
        assert ref() is None
    finally:
        gc.enable()
    monitor.close()


@regime(
    "never in the way",
    "activations, with and without a backward",
    exact="freed as without actdiag",
    proves=("R25", "R27", "C33"),
)
def test_R25_R27_no_activation_outlives_its_step() -> None:
    model, optimizer = small()
    kept: list[weakref.ref[Tensor]] = []
    handle = model[1].register_forward_hook(lambda m, a, out: kept.append(weakref.ref(out)))
    gc.collect()
    gc.disable()
    try:
        with Monitor(model, optimizer, log_every_n_steps=1):
            for _ in range(3):
                one_step(model, optimizer)
                assert all(ref() is None for ref in kept)
            model(torch.randn(5, 4))  # a forward without a backward
            assert all(ref() is None for ref in kept)
    finally:
        gc.enable()
        handle.remove()


def test_R21_R22_R23_an_attached_model_pickles_copies_and_saves_and_its_copies_record_nothing() -> None:
    model, optimizer = small()
    keys = list(model.state_dict())
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    with Monitor(model, optimizer, log_every_n_steps=1) as monitor:
        model(torch.randn(5, 4)).sum().backward()
        assert list(model.state_dict()) == keys
        assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        assert b"actdiag" not in pickle.dumps(model), "a saved model must load where there is no actdiag"
        twins = [
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            torch.load(buffer, weights_only=False),
        ]
        averaged = torch.optim.swa_utils.AveragedModel(model)
        for twin in [*twins, averaged]:
            twin.train()(torch.randn(100, 4)).sum().backward()
        optimizer.step()
        assert monitor.latest is not None
        assert {site.n for site in monitor.latest.sites.values()} == {20, 40, 10}


def test_R25_memory_stays_flat_over_many_recorded_steps() -> None:
    model, optimizer = small()
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None):

        def tensors() -> int:
            gc.collect()
            return sum(type(o) is Tensor for o in gc.get_objects())

        for _ in range(20):
            one_step(model, optimizer)
        before = tensors()
        for _ in range(100):
            one_step(model, optimizer)
        assert tensors() == before


def test_closing_twice_and_a_second_monitor_of_another_prefix_are_fine() -> None:
    model, optimizer = small()
    first = Monitor(model, optimizer)
    first.close()
    first.close()
    with Monitor(model, optimizer) as second, Monitor(model, optimizer, prefix="b") as third:
        one_step(model, optimizer)
        assert second.latest is not None and third.latest is not None
        assert second.latest.sites == third.latest.sites
    assert_untouched(model)
