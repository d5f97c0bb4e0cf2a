"""The truth suite: pathologies built exactly, measured through the Monitor, compared with a count over the data.

A healthy, B 10 % dead, C 60 % dead, D 30 % of the units firing on 0.5 % of the samples (none dead), E healthy
tanh, F tanh with weights of std 1.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from actdiag import Monitor, Snapshot
from tests.nets import batches, digits, mlp, network, plant, truly_dead
from tests.oracle import statistics

KINDS = {
    "A": {"dead": 0.0},
    "B": {"dead": 0.1},
    "C": {"dead": 0.6},
    "D": {"dead": 0.0, "rare": 0.3},
}
LAYOUTS = ["rows", "images", "images channels_last", "tokens"]


def observe_once(net: nn.Module, x: Tensor, y: Tensor, size: int, *, window: int) -> Snapshot:
    """Show the data once, in batches, without changing the weights; the snapshot at the last step."""
    steps = -(-len(x) // size)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    options = {"log_every_n_steps": max(1, steps - 1), "watch_every_n_steps": 1, "window_samples": window}
    with Monitor(net, optimizer, max_overhead=None, **options) as monitor:
        for xb, yb in batches(x, y, size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(xb), yb).backward()
            optimizer.step()
    assert monitor.latest is not None and monitor.latest.step == steps - 1
    return monitor.latest


def check_dead(kind: str, layout: str, size: int) -> None:
    x, y = digits(layout)
    net = network(layout)
    planted = plant(net, x, **KINDS[kind])
    assert truly_dead(net, x) == planted, "the case itself is wrong"
    window = len(x) * (8 if layout == "tokens" else 1)
    snapshot = observe_once(net, x, y, size, window=window)
    acts = [site for site in snapshot.sites.values() if site.kind == "ReLU"]
    assert [site.dead_units for site in acts] == planted
    assert all(site.dead_fraction == pytest.approx(n / site.units) for site, n in zip(acts, planted, strict=True))
    assert all(site.units_in("dead") == list(range(n)) for site, n in zip(acts, planted, strict=True))
    # A rare unit whose few samples came early has been silent for long: it may be suspected, never called dead.
    seldom = [round(KINDS[kind].get("rare", 0.0) * (site.units or 0)) for site in acts]
    assert [(site.rare_units or 0) + (site.suspect_units or 0) for site in acts] == seldom
    assert all(site.evidence_samples == window for site in acts)


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_R40_R44_dead_units_are_exact_whatever_the_batch_size(kind: str, layout: str, size: int) -> None:
    check_dead(kind, layout, size)


@pytest.mark.parametrize("kind", ["B", "D"])
def test_R40_dead_units_are_exact_with_batches_of_one(kind: str) -> None:
    check_dead(kind, "tokens", 1)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_R40_R44_dead_units_are_exact_with_batches_of_one_in_every_layout(kind: str, layout: str) -> None:
    check_dead(kind, layout, 1)


@pytest.mark.parametrize("std,low,high", [(None, 0.0, 0.25), (1.0, 0.75, 0.95)])
@pytest.mark.parametrize("size", [8, 64])
def test_R41_the_saturated_share_equals_a_count_over_the_elements(
    std: float | None, low: float, high: float, size: int
) -> None:
    x, y = digits()
    net = mlp(nn.Tanh, std=std)
    if std is None:
        with torch.no_grad():
            for layer in net:
                if isinstance(layer, nn.Linear):
                    layer.weight.mul_(0.5**0.5)  # from He to Xavier
    snapshot = accumulate(net, x, y, size)
    with torch.no_grad():
        for index, layer in enumerate(net):
            # The oracle sees the values the network computed: batch by batch, in float32.
            x = torch.cat([layer(part) for part in x.split(size)])
            if isinstance(layer, nn.Tanh):
                site = snapshot.sites[str(index)]
                truth = float((x.double().abs() >= 0.97).double().mean())
                assert site.saturated_fraction == pytest.approx(truth, abs=1e-6)
                assert low <= truth <= high
                assert site.gate_mean == pytest.approx(float((1 - x.double() ** 2).mean()), rel=1e-5)
                assert site.dead_units == 0


def accumulate(net: nn.Module, x: Tensor, y: Tensor, size: int) -> Snapshot:
    """All data as the micro-batches of one recorded step."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with Monitor(net, optimizer, max_overhead=None) as monitor:
        for xb, yb in batches(x, y, size):
            (nn.functional.cross_entropy(net(xb), yb, reduction="sum") / len(x)).backward()
        optimizer.step()
    assert monitor.latest is not None
    return monitor.latest


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [64, 1797])
def test_every_number_of_a_recorded_step_equals_its_oracle(layout: str, size: int) -> None:
    x, y = digits(layout)
    net = network(layout)
    snapshot = accumulate(net, x, y, size)
    outputs, grads = forward_and_gradients(net, x, y, size)
    for name, site in snapshot.sites.items():
        if site.role == "input":
            assert site.mean == pytest.approx(float(x.double().mean()), abs=1e-6)
            continue
        out = outputs[name]
        dim = 1 if out.ndim == 4 else out.ndim - 1
        for field, truth in statistics(out, dim).items():
            slack = 1e-6 * site.rms if field == "mean" else 1e-9
            assert getattr(site, field) == pytest.approx(truth, rel=1e-5, abs=slack), f"{name}.{field}"
        g = grads[name].double()
        assert site.grad_rms == pytest.approx(float(g.square().mean().sqrt()), rel=1e-5)
        assert site.grad_zero_fraction == pytest.approx(float((g == 0).double().mean()), abs=1e-7)
        assert site.histogram is not None and site.histogram.n <= site.n


def forward_and_gradients(
    net: nn.Sequential, x: Tensor, y: Tensor, size: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every module's output and its gradient, kept whole, by retain_grad on an untouched network."""
    kept: dict[str, list[Tensor]] = {}
    for xb, yb in batches(x, y, size):
        out = xb
        for index, layer in enumerate(net):
            out = layer(out)
            out.retain_grad()
            kept.setdefault(str(index), []).append(out)
        (nn.functional.cross_entropy(out, yb, reduction="sum") / len(x)).backward()
    outputs = {name: torch.cat(parts).detach() for name, parts in kept.items()}
    grads = {name: torch.cat([part.grad for part in parts if part.grad is not None]) for name, parts in kept.items()}
    return outputs, grads


def test_R29_parameters_and_their_update_equal_a_plain_computation() -> None:
    x, y = digits()
    net = mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with Monitor(net, optimizer, max_overhead=None) as monitor:
        nn.functional.cross_entropy(net(x[:64]), y[:64]).backward()
        grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
        total = torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
    snapshot = monitor.latest
    assert snapshot is not None
    for name, p in net.named_parameters():
        told = snapshot.parameters[name]
        assert told.state == "trained"
        assert told.grad_norm == pytest.approx(float(grads[name].double().norm()), rel=1e-5), "before clipping"
        assert told.weight_norm == pytest.approx(float(before[name].double().norm()), rel=1e-6)
        assert told.grad_zero_fraction == pytest.approx(float((grads[name] == 0).double().mean()), abs=1e-7)
        if before[name].any():
            ratio = float((p.detach() - before[name]).double().norm() / before[name].double().norm())
            assert told.update_ratio == pytest.approx(ratio, rel=1e-5)
        else:
            assert told.update_ratio is None, "a ratio to zero weights does not apply"
    assert snapshot.grad_norm_total == pytest.approx(float(total), rel=1e-5)
    assert snapshot.clip_coefficient == pytest.approx(0.1 / float(total), rel=1e-3)
