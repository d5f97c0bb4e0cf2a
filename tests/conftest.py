"""Fixtures that several files use. Every test that trains checks, through `untouched`, that nothing stays behind."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from tests.screen import board as board
from tests.screen import browser as browser
from tests.screen import logs as logs
from tests.screen import open_page as open_page
from tests.screen import open_tab as open_tab
from tests.screen import python as python


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two test workers share two cores."""
    torch.set_num_threads(1)
    yield


@pytest.fixture(autouse=True)
def quiet_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's own trace is thousands of records, which a failing test would print."""
    for name in ("torch.__trace", "torch._dynamo", "torch._inductor", "torch._functorch"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.ERROR)


@pytest.fixture(autouse=True)
def listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="actdiag")


@pytest.fixture(autouse=True)
def own_precision() -> Iterator[None]:
    """Older releases of transformers leave in the environment how a test trained: the next would train like that."""
    held = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    yield
    for name in [name for name in os.environ if name.startswith("ACCELERATE_") and name not in held]:
        del os.environ[name]
    os.environ.update(held)


@pytest.fixture
def untouched() -> Callable[[nn.Module], None]:
    """Asserts that no hook is left on a model."""
    return assert_untouched


def assert_untouched(model: nn.Module) -> None:
    for name, module in model.named_modules():
        for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            assert not getattr(module, kind), f"{kind} left on {name!r}"
    for name, parameter in model.named_parameters():
        assert not parameter._backward_hooks, f"a hook is left on parameter {name}"
        assert not getattr(parameter, "_post_accumulate_grad_hooks", None), f"a hook is left on {name}"
