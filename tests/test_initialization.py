"""poor-initialization: told of the first step, of each symptom where it is built, and of nothing that is healthy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from actdiag import Finding, Monitor
from actdiag.diagnose.finding import Verdict
from actdiag.diagnose.limits import Limits
from actdiag.diagnose.rules.initialization import poor_initialization, signal
from actdiag.snapshot import ParameterStats, SiteStats, Snapshot

LIMITS = Limits()


def layer(order: int, **values: Any) -> SiteStats:
    given = {"n": 3200, "samples": 32, "rms": 1.0, "mean_energy": 0.0, "grad_rms": 1e-3, "units": 100}
    return SiteStats(kind="Linear", role="layer", order=order, **{**given, **values})


def act(order: int, kind: str = "ReLU", **values: Any) -> SiteStats:
    return SiteStats(kind=kind, role="activation", order=order, **{"n": 3200, "samples": 32, **values})


def deep(sizes: list[float], grads: list[float] | None = None, step: int = 0) -> Snapshot:
    """Hidden layers of these sizes and gradients, and a last layer."""
    grads = grads or [1e-3] * len(sizes)
    sites = {f"fc{i}": layer(i, rms=rms, grad_rms=g) for i, (rms, g) in enumerate(zip(sizes, grads, strict=True))}
    return Snapshot(step=step, sites={**sites, "out": layer(99)})


def judged(*history: Snapshot, limits: Limits = LIMITS) -> list[Verdict]:
    return list(poor_initialization(history, limits))


@pytest.mark.parametrize(
    "last,severity",
    [
        (0.02, None), (0.009, "info"), (4e-4, "info"), (3e-4, "warning"), (0.0, "warning"),
        (90.0, None), (110.0, "info"), (3100.0, "warning"),
    ],
)  # fmt: skip
def test_outputs_that_fade_or_grow_through_the_depth_are_told(last: float, severity: str | None) -> None:
    verdicts = judged(deep([1.0, 1.0, 1.0, last]))
    assert [v.severity for v in verdicts] == ([severity] if severity else [])
    assert all(v.layer == "fc3" and v.rule == "poor-initialization" for v in verdicts), "the steepest layer is named"


@pytest.mark.parametrize(
    "first,severity,symptom",
    [
        (2e-5, None, ""), (0.9e-5, "info", "backward shrinks"), (3e-7, "warning", "backward shrinks"),
        (0.11, "info", "backward grows"), (11.0, "warning", "backward grows"),
    ],
)  # fmt: skip
def test_a_gradient_that_fades_or_grows_on_its_way_back_is_told(
    first: float, severity: str | None, symptom: str
) -> None:
    verdicts = judged(deep([1.0] * 4, [first, 1e-3, 1e-3, 1e-3]))
    assert [(v.severity, v.evidence["symptom"]) for v in verdicts] == ([(severity, symptom)] if severity else [])


def test_sizes_that_go_up_and_down_are_no_trend() -> None:
    assert judged(deep([1.0, 1e-6, 1.0, 1e-6])) == []
    assert judged(deep([1.0, 1e-3, 1.0, 1e-3, 1.0, 1e-3, 1.0, 1e-6])) == []


def test_branches_whose_last_layer_begins_at_zero_are_meant() -> None:
    sizes = {f"fc{i}": layer(i, rms=0.0 if i > 3 else 1.0) for i in range(8)}
    zero = {f"fc{i}.weight": ParameterStats(state="trained", weight_norm=0.0 if i > 3 else 1.0) for i in range(8)}
    assert judged(Snapshot(step=0, sites={**sizes, "out": layer(99)}, parameters=zero)) == []
    lost = {name: replace(stats, weight_norm=1.0) for name, stats in zero.items()}
    assert len(judged(Snapshot(step=0, sites={**sizes, "out": layer(99)}, parameters=lost))) == 1


def test_three_layers_are_no_depth() -> None:
    assert judged(deep([1.0, 1e-3, 1e-6])) == []


def test_what_all_samples_share_is_no_signal() -> None:
    assert signal(layer(0, rms=2.0, mean_energy=0.75)) == pytest.approx(1.0)
    same = [layer(i, rms=1.0, mean_energy=1 - 10.0 ** (-4 * i)) for i in range(4)]
    found = judged(Snapshot(step=0, sites={f"fc{i}": s for i, s in enumerate(same)} | {"out": layer(9)}))
    assert [v.evidence["symptom"] for v in found] == ["forward shrinks"], "all outputs are of the size 1"


@pytest.mark.parametrize("share,severity", [(0.29, None), (0.31, "info"), (0.59, "info"), (0.61, "warning")])
def test_a_bounded_activation_that_begins_on_its_flat_ends_is_told(share: float, severity: str | None) -> None:
    sites = {"fc": layer(0), "act": act(1, "Tanh", saturated_fraction=share), "out": layer(2)}
    assert [(v.layer, v.severity) for v in judged(Snapshot(step=0, sites=sites))] == (
        [("act", severity)] if severity else []
    )


@pytest.mark.parametrize(
    "gate,n,told", [(0.05, 3200, False), (0.009, 3200, True), (0.0, 3200, True), (0.0, 200, False)]
)
def test_gates_that_begin_closed_are_told_where_there_are_enough_of_them(gate: float, n: int, told: bool) -> None:
    sites = {"fc": layer(0), "act": act(1, gate_mean=gate, n=n), "out": layer(2)}
    assert [(v.layer, v.severity) for v in judged(Snapshot(step=0, sites=sites))] == (
        [("act", "warning")] if told else []
    )


def test_outputs_and_gates_may_begin_saturated_or_closed() -> None:
    for role in ("output", "gate", "input"):
        site = replace(act(1, "Sigmoid", saturated_fraction=0.9, gate_mean=0.0), role=role)  # type: ignore[arg-type]
        assert judged(Snapshot(step=0, sites={"fc": layer(0), "act": site, "out": layer(2)})) == []


def test_one_cause_is_one_verdict() -> None:
    faint = deep([1.0, 1e-2, 1e-4, 1e-6], [1e-9, 1e-7, 1e-5, 1e-3])
    assert [v.evidence["symptom"] for v in judged(faint)] == ["forward shrinks"]


def test_a_run_that_was_first_seen_later_is_not_judged() -> None:
    assert judged(deep([1.0, 1e-2, 1e-4, 1e-6], step=1)) != []
    assert judged(deep([1.0, 1e-2, 1e-4, 1e-6], step=2)) == []


def test_it_is_told_while_it_lasts_and_no_longer() -> None:
    bad, good = deep([1.0, 1e-2, 1e-4, 1e-6]), deep([1.0] * 4, step=50)
    assert judged(bad, replace(bad, step=50)) == judged(bad)
    assert judged(bad, good) == []
    assert judged(good, bad) == [], "what training has made is no initialization"


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_numbers_that_are_not_known_tell_nothing(value: float | None) -> None:
    values = {"rms": value, "grad_rms": value, "mean_energy": value}
    sites = {f"fc{i}": layer(i, **values) for i in range(6)}
    assert judged(Snapshot(step=0, sites={**sites, "act": act(7, gate_mean=None)})) == []


def test_an_empty_snapshot_tells_nothing() -> None:
    assert judged(Snapshot(step=0)) == []
    assert judged(Snapshot(step=0, sites={f"fc{i}": layer(i, n=0, samples=0, rms=None) for i in range(6)})) == []


def test_limits_are_those_that_are_given() -> None:
    fading = deep([1.0, 1.0, 1.0, 0.02])
    assert [v.severity for v in judged(fading, limits=Limits(initial_ratio_info=10.0))] == ["info"]


def started(build: Callable[[], nn.Module], *, scale: float = 1.0) -> list[Finding]:
    """The first two steps of a network on normal inputs; what is told of its initialization."""
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(scale * torch.randn(64, 64)), torch.randint(10, (64,))).backward()
            optimizer.step()
    return [f for f in monitor.findings if f.rule == "poor-initialization"]


def net(activation: type[nn.Module], init: Callable[[torch.Tensor], object], depth: int = 8) -> nn.Module:
    parts: list[nn.Module] = []
    for _ in range(depth):
        linear = nn.Linear(64, 64)
        init(linear.weight)
        nn.init.zeros_(linear.bias)
        parts += [linear, activation()]
    return nn.Sequential(*parts, nn.Linear(64, 10))


def small(weight: torch.Tensor) -> object:
    return nn.init.normal_(weight, std=0.01)


def large(weight: torch.Tensor) -> object:
    return nn.init.normal_(weight, std=1.0)


def test_a_deep_relu_network_with_small_weights_is_told_and_with_he_weights_not() -> None:
    told = started(lambda: net(nn.ReLU, small))
    assert [(f.severity, f.evidence["symptom"], f.step) for f in told] == [("warning", "forward shrinks", 0)]
    assert started(lambda: net(nn.ReLU, nn.init.kaiming_normal_)) == []


def test_a_deep_tanh_network_with_large_weights_is_told_and_with_xavier_weights_not() -> None:
    told = started(lambda: net(nn.Tanh, large))
    assert [(f.severity, f.evidence["symptom"]) for f in told] == [("warning", "saturated")]
    assert started(lambda: net(nn.Tanh, nn.init.xavier_normal_)) == []


def test_unscaled_inputs_are_named_as_a_cause() -> None:
    told = started(lambda: net(nn.Tanh, nn.init.xavier_normal_, depth=1), scale=100.0)
    assert len(told) == 1 and "the inputs are not standardized" in told[0].cause


def test_a_negative_bias_that_shuts_every_gate_is_told() -> None:
    def shut() -> nn.Module:
        model = net(nn.ReLU, nn.init.kaiming_normal_, depth=2)
        nn.init.constant_(model.get_submodule("0").get_parameter("bias"), -50.0)
        return model

    assert [(f.layer, f.evidence["symptom"]) for f in started(shut)] == [("1", "closed")]
