"""The benchmark judges rightly: its scorer, its measure of deaths, and the rules of others that it asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cases.peers import EVERY, PEERS, Recorder, Tool, View
from cases.score import Case, Said, alarms, by_label, case_from, in_place, latencies, matching, score
from cases.truth import Mortality, dead_share
from torch import Tensor, nn

FAULTY = Case(
    name="f", seed=0, label="dead_units", also=["nan"], at_fault=["act0"], layers=["fc0", "act0", "fc1", "act1", "fc2"],
    onsets={"act0": 40}, said={"tool": [Said("dead-units", "act0", 60)]},
)  # fmt: skip
HEALTHY = Case(name="h", seed=0, label="healthy", tolerate={"out": "saturation"}, said={"tool": []})


def said(case: Case, *given: Said) -> Case:
    return replace(case, said={"tool": given})


def test_a_finding_of_the_label_or_of_another_true_one_is_of_the_right_kind() -> None:
    assert matching(FAULTY, "tool") and matching(said(FAULTY, Said("non-finite", "", 3)), "tool")
    assert not matching(said(FAULTY, Said("off-center", "act0", 3)), "tool")
    assert not matching(said(FAULTY, Said("dying-units", "act0", 3)), "tool"), "a forecast stands for no label"


def test_a_healthy_run_tolerates_what_is_benign_there_and_nothing_else() -> None:
    assert not alarms(said(HEALTHY, Said("saturated-activation", "out", 3)), "tool")
    assert alarms(said(HEALTHY, Said("saturated-activation", "act", 3)), "tool")
    assert alarms(said(HEALTHY, Said("dead-units", "out", 3)), "tool")
    assert not alarms(HEALTHY, "tool")


@pytest.mark.parametrize(
    "layer,right", [("act0", True), ("act0#1", True), ("fc0", True), ("fc1", True), ("act1", False), ("", False)]
)
def test_a_layer_at_fault_or_its_neighbour_is_the_right_place(layer: str, right: bool) -> None:
    assert in_place(FAULTY, Said("dead-units", layer, 1)) is right


def test_latency_is_from_the_onset_to_the_first_word() -> None:
    late = said(FAULTY, Said("dead-units", "act0", 80), Said("dead-units", "act0", 60), Said("dead-units", "act1", 9))
    assert latencies(late, "tool") == {"act0": 20}


def test_a_word_before_the_onset_is_premature() -> None:
    early = said(FAULTY, Said("dead-units", "act0", 37))
    assert score([early], "tool", grid=2).premature == 1
    assert score([early], "tool", grid=3).premature == 0, "the onset is not known better"


def test_counts_add_up() -> None:
    cases = [FAULTY, said(FAULTY), HEALTHY, said(HEALTHY, Said("off-center", "x", 1))]
    found = score(cases, "tool", grid=2)
    assert (found.detected, found.placed, found.faulty, found.false_alarms, found.healthy) == (1, 1, 2, 1, 2)
    assert (found.onsets, found.told, found.median_latency) == (2, 1, 20)
    assert by_label(cases, "tool") == {"dead_units": (1, 2)}
    assert score([], "tool", grid=2).median_latency is None


def test_what_a_process_prints_is_read_back() -> None:
    raw = {"name": "f", "seed": 1, "label": "nan", "said": {"tool": [["non-finite", "fc0", 5]]}}
    assert case_from(raw).said["tool"] == [Said("non-finite", "fc0", 5)]


def test_deaths_are_counted_exactly_and_dated_by_their_last_beginning() -> None:
    layer = nn.Linear(3, 8)
    model = nn.Sequential(layer, nn.ReLU(), nn.Dropout(0.5))
    nn.init.zeros_(layer.weight)
    x, deaths = torch.randn(50, 3), Mortality(model)
    for step, dead in ((0, 4), (2, 3), (4, 4), (6, 8)):
        with torch.no_grad():
            layer.bias[:] = 1.0
            layer.bias[:dead] = -1.0
        state = torch.get_rng_state()
        deaths.measure(x, step)
        assert torch.equal(torch.get_rng_state(), state) and model.training and not model[1]._forward_hooks
    assert deaths.onsets() == {"1": 4}, "3 of 8 are less than 45 %"


def test_a_channel_is_dead_if_it_is_closed_at_every_position() -> None:
    z = torch.full((5, 4, 3, 3), -1.0)
    z[2, 1, 0, 2] = 0.5
    assert dead_share(z, 0.0) == 0.75
    assert dead_share(torch.tensor([[-1.0, 2.0], [-3.0, -1.0]]), 0.0) == 0.5


def view(step: int = 0, *, kind: type[nn.Module] = nn.ReLU, z: Tensor | None = None, **values: object) -> View:
    z = torch.randn(40, 10) if z is None else z
    out = kind()(z)
    w = torch.ones(4, 4)
    given: dict[str, object] = {
        "kinds": {"act": kind}, "inputs": {"act": z}, "outputs": {"act": out}, "first": torch.randn(40, 3),
        "gradients": {"fc.weight": 0.1 * w}, "before": {"fc.weight": w}, "after": {"fc.weight": 0.999 * w},
    }  # fmt: skip
    return View(step=step, **{**given, **values})  # type: ignore[arg-type]


def asked(peer: str, *views: View) -> set[str]:
    tool = Tool(PEERS[peer])
    for one in views:
        tool.see(one)
    return {s.rule for s in tool.said}


@pytest.mark.parametrize("peer", PEERS)
def test_peers_are_quiet_on_what_is_healthy(peer: str) -> None:
    healthy = [view(step * EVERY, kind=kind) for step in range(8) for kind in (nn.ReLU, nn.Tanh, nn.Sigmoid)]
    assert asked(peer, *healthy) == set()


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(
    "values,rule",
    [
        ({"z": torch.full((40, 10), -1.0)}, "dead-units"),
        ({"gradients": {"fc.weight": torch.full((4, 4), 1e-9)}}, "vanishing-gradient"),
        ({"after": {"fc.weight": torch.full((4, 4), float("nan"))}}, "non-finite"),
        ({"kind": nn.Tanh, "z": torch.full((40, 10), 20.0)}, "saturated-activation"),
    ],
)
def test_peers_tell_what_they_are_for(peer: str, values: dict[str, object], rule: str) -> None:
    assert rule in asked(peer, *(view(step * EVERY, **values) for step in range(6)))  # type: ignore[arg-type]


def test_unchanged_weights_are_told_by_those_that_look_for_them() -> None:
    w = torch.ones(4, 4)
    still = [view(step * EVERY, after={"fc.weight": w}) for step in range(6)]
    assert "stalled-update" in asked("SageMaker Debugger", *still) & asked("DeepDiagnosis", *still)


def test_a_recorder_sees_every_tenth_step_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer, views = torch.optim.SGD(model.parameters(), lr=0.1), list[View]()
    recorder = Recorder(model, views.append)
    for step in range(2 * EVERY + 1):
        x = torch.randn(5, 3)
        recorder.begin(step, x)
        optimizer.zero_grad()
        model(x).sum().backward()
        recorder.end(step)
        optimizer.step()
        recorder.finish(step)
    assert [v.step for v in views] == [0, EVERY, 2 * EVERY]
    assert set(views[0].outputs) == {"1"} and not model[1]._forward_hooks
    moved = views[0].after["0.weight"] - views[0].before["0.weight"]
    assert torch.allclose(moved, -0.1 * views[0].gradients["0.weight"], atol=1e-7)
