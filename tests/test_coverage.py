"""A monitor that sees less than before says so, once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import actdiag
from actdiag import Monitor
from tests.regimes import regime


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def train(monitor: Monitor, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        model(torch.randn(5, 4)).sum().backward()
        optimizer.step()


@regime(
    "shared, reused, uncalled modules",
    "a module swapped in the middle of training (another head)",
    not_observed="the new one; after three recorded steps the log names the old one, once",
    proves=("R57",),
)
def test_R57_a_module_that_is_swapped_in_mid_run_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        train(monitor, model, optimizer, 2)
        model[2] = nn.Linear(4, 2)
        train(monitor, model, optimizer, 9)
    assert caplog.text.count("no longer observed for 3 recorded steps: 2: it was not called") == 1


def test_R57_a_model_that_is_left_in_evaluation_mode_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        train(monitor, model, optimizer, 2)
        model.eval()
        train(monitor, model, optimizer, 9)
    assert caplog.text.count("no site has run in the last 3 recorded steps (now step 4)") == 1


def test_findings_can_be_caught_by_the_name_that_the_documentation_gives() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.raises(actdiag.FindingError) as caught,
        Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None, raise_on="error"),
    ):
        model(torch.full((5, 4), float("nan"))).sum().backward()
        optimizer.step()
    assert caught.value.finding.rule == "non-finite"


@regime(
    "interruptions",
    "a forward whose step never comes: a batch skipped with `continue`, an error that is caught",
    exact="the gradient and the update",
    approximate="its activations are merged into the step that follows",
)
def test_a_batch_that_is_skipped_is_merged_into_the_next_step() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        model(torch.randn(7, 4))
        train(monitor, model, optimizer, 2)
    first, second = monitor.snapshots
    assert (first.sites["0"].samples, second.sites["0"].samples) == (12, 5)
    assert first.sites["0"].grad_rms is not None


NAMED = [
    ({"exclude": ["0", "blok.*"]}, "exclude: no layer is called 'blok.*'; layers have names like '0', '1', '2'"),
    ({"include": ["0", "relu"]}, "include: no layer is called 'relu'"),
    ({"unit_dims": {"conv*": 1}}, "unit_dims: no layer is called 'conv*'"),
    ({"ignore": ["off-center:head.*", "dead-units:1"]}, "ignore: no layer is called 'off-center:head.*'; layers"),
    ({"severities": {"dead-units:fc": "error"}}, "severities: no layer is called 'dead-units:fc'"),
]


@pytest.mark.parametrize(("options", "said"), NAMED, ids=[next(iter(options)) for options, _ in NAMED])
def test_a_name_pattern_that_matches_nothing_is_told_once(
    options: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None, **options) as monitor:
        train(monitor, model, optimizer, 3)
    assert caplog.text.count("no layer is called") == 1 and said in caplog.text


def test_patterns_that_match_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleDict({"head": net(), "idle": nn.Linear(2, 2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    chosen: dict[str, Any] = {
        "exclude": ["head.0", "idle", "loss/relu", nn.Dropout, lambda name, module: False],
        "ignore": ["off-center:head.*", "dead-units:head.1", "off-center:head.0", "dead-units"],
        "severities": {"off-center:*": "info", "dead-units": "warning"},
    }
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None, **chosen):
        for _ in range(2):
            model["head"](torch.randn(5, 4)).sum().backward()
            optimizer.step()
    assert "no layer is called" not in caplog.text
