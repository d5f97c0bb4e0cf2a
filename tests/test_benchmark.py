"""The benchmark judges rightly: its scorer, its measure of deaths, and the rules of others that it asks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases.measure import Call, Look, complaints, energy_of_means, labels_of, look, truth_of
from cases.peers import EVERY, PEERS, Recorder, Tool, View, _lasting, _rho
from cases.program import case_of
from cases.score import Case, Said, alarms, by_label, case_from, forecasts, in_place, latencies, matching, score
from cases.truth import Mortality, dead_share, onset
from score_cases import SEEDS, TOOLS, Kept, Result, dead_before, page, settle
from torch import Tensor, nn

FAULTY = Case(
    name="f", seed=0, label="dead_units", also=["nan"], at_fault=["act0"], layers=["fc0", "act0", "fc1", "act1", "fc2"],
    shares={"act0": [(step, float(step >= 40)) for step in range(0, 100, 2)]},
    said={"tool": [Said("dead-units", "act0", 60)]},
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


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([(0, 0.2), (10, 0.6), (20, 0.2), (30, 0.6)], " (it had been dead, last 15 steps before)"),
        ([(0, 0.2), (10, 0.4), (20, 0.2), (30, 0.6)], ""),
    ],
)
def test_of_a_premature_word_it_is_told_when_the_layer_was_last_dead(
    shares: list[tuple[int, float]], said: str
) -> None:
    words = [Said("dead-units", "act", 28), Said("dead-units", "act", 25), Said("off-center", "act", 3)]
    case = Case(name="c", seed=0, label="dead_units", shares={"act": shares}, said={"actdiag": words})
    assert dead_before(case, "act") == said


def test_a_word_before_the_onset_is_premature() -> None:
    for step, premature in ((35, 1), (37, 1), (38, 0), (39, 0), (40, 0)):
        early = said(FAULTY, Said("dead-units", "act0", step))
        assert score([early], "tool").premature == premature, "the onset is known to 2 steps"


def test_a_layer_that_had_died_and_come_back_is_judged_by_what_is_so_at_the_word() -> None:
    shares = [(0, 0.1), (10, 0.5), (20, 0.6), (30, 0.2), (40, 0.2), (50, 0.9), (60, 0.9)]
    case = replace(FAULTY, shares={"act0": shares})
    assert case.onsets == {"act0": 50}
    found = [latencies(said(case, Said("dead-units", "act0", step)), "tool")["act0"] for step in (5, 12, 25, 35, 55)]
    assert found == [-5, 2, 15, -15, 5]
    ended = replace(case, shares={"act0": [(10, 0.5), (12, 0.3), (14, 0.3), (16, 0.9)]})
    found = [latencies(said(ended, Said("dead-units", "act0", step)), "tool")["act0"] for step in (11, 12, 13, 14)]
    assert found == [1, -4, -3, -2], "what was measured just before the word, or just after, is enough"


def test_a_forecast_is_true_if_the_layer_dies_later_and_false_otherwise() -> None:
    told = [Said("dying-units", "act0", 30), Said("dying-units", "act0", 41), Said("dying-units", "act1", 5)]
    leads, wrong = forecasts([replace(FAULTY, forecasts={"tool": told}), replace(HEALTHY, forecasts={})], "tool")
    assert leads == [10] and wrong == told[1:]
    assert forecasts([replace(HEALTHY, forecasts={"tool": told[:1]})], "tool") == ([], told[:1])


def test_counts_add_up() -> None:
    cases = [FAULTY, said(FAULTY), HEALTHY, said(HEALTHY, Said("off-center", "x", 1))]
    found = score(cases, "tool")
    assert (found.detected, found.placed, found.faulty, found.false_alarms, found.healthy) == (1, 1, 2, 1, 2)
    assert (found.onsets, found.told, found.median_latency) == (2, 1, 20)
    assert by_label(cases, "tool") == {"dead_units": (1, 2)}
    assert score([], "tool").median_latency is None


def test_what_a_process_prints_is_read_back() -> None:
    raw = {"name": "f", "seed": 1, "label": "nan", "said": {"tool": [["non-finite", "fc0", 5]]}}
    assert case_from(raw).said["tool"] == [Said("non-finite", "fc0", 5)]


def test_groups_of_seeds_of_one_set_have_a_section_each_that_says_what_they_were_used_for() -> None:
    silent: dict[str, list[Said]] = {tool: [] for tool in TOOLS}
    chosen = ["second:8,9,10,11", "second:12,13,14,15"]
    found = {
        name: Result([replace(FAULTY, seed=int(name[7:].split(",")[0]), said=silent)], [], f"Load {i}. ")
        for i, name in enumerate(chosen)
    }
    text = page(found, "command")
    for i, name in enumerate(chosen):
        section = text.partition(f"## Set `second`, seeds {found[name].cases[0].seed}: ")[2].partition("## Set")[0]
        assert f"Load {i}. {SEEDS[name]}" in section and "| actdiag | 0 of 1 |" in section
    together = text.partition("## All of them together")[2].partition("## Set")[0]
    assert "| actdiag | 0 of 2 |" in together
    assert "together" not in page({chosen[0]: found[chosen[0]]}, "command"), "one set is all"


def test_how_busy_the_machine_was_is_kept_with_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = {"name": "f01_linear_mse_lr3", "seed": 0, "label": "nan", "said": {tool: [] for tool in TOOLS}}
    monkeypatch.setattr("score_cases.run", lambda *_: raw)
    monkeypatch.setattr("os.getloadavg", lambda: (7.25, 0, 0))
    case = Kept(tmp_path / "kept").case("first", "f01_linear_mse_lr3", 0)
    monkeypatch.setattr("os.getloadavg", lambda: (0, 0, 0))
    again = Kept(tmp_path / "kept")
    assert again.case("first", "f01_linear_mse_lr3", 0) == case
    assert "7.2 (median), at most 7.2" in again.busy("first", [case])
    assert Kept(None).busy("first", [case]) == "", "of older results it is not known"


def _onsets(deaths: Mortality) -> dict[str, int | None]:
    return {layer: onset(shares) for layer, shares in deaths.shares().items()}


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
    assert _onsets(deaths) == {"1": 4}, "3 of 8 are less than 45 %"


def test_a_channel_is_dead_if_it_is_closed_at_every_position() -> None:
    z = torch.full((5, 4, 3, 3), -1.0)
    z[2, 1, 0, 2] = 0.5
    assert dead_share(z, 0.0, channels_first=True) == 0.75
    assert dead_share(z[..., 0, :], 0.0, channels_first=True) == 0.75, "sequences too"
    assert dead_share(torch.tensor([[-1.0, 2.0], [-3.0, -1.0]]), 0.0, channels_first=False) == 0.5


@pytest.mark.parametrize("first", ["convolution", "linear"])
def test_units_are_channels_after_a_convolution_and_the_last_dimension_after_a_linear_layer(first: str) -> None:
    layer: nn.Module = nn.Conv1d(6, 8, 1) if first == "convolution" else nn.Linear(6, 8)
    model, deaths = nn.Sequential(layer, nn.Identity(), nn.ReLU()), None
    for p in model.parameters():
        nn.init.zeros_(p)
    with torch.no_grad():
        next(p for p in model.parameters() if p.ndim == 1)[:4] = 1.0
    deaths = Mortality(model)
    deaths.measure(torch.randn(5, 6, 6), 0)
    assert _onsets(deaths) == {"2": 0}, "4 of 8 units; no position is closed for all units"


def looks(*calls: Call, steps: int = 8, loss: float = 1.0, gradients: dict[str, float] | None = None) -> list[Look]:
    given = {"fc.weight": 0.1} if gradients is None else gradients
    return [Look(step, loss / (1 + step), list(calls), given, True) for step in range(steps)]


def labels(given: list[Look], unmoved: dict[str, bool] | None = None) -> dict[str, list[str]]:
    found = labels_of(given, unmoved or {}, torch.randn(50, 3), math.nan).where
    return {label: list(names) for label, names in found.items()}


def call(name: str = "act", **values: Any) -> Call:
    return Call(**{"name": name, "hidden": True, "gate": False, "rms": 1.0, "gradient": 1.0, **values})


def test_nothing_is_measured_of_what_is_healthy() -> None:
    assert labels(looks(call(dead=0.4, saturated=0.4), call("last", gradient=0.01))) == {}


@pytest.mark.parametrize(
    "label,calls",
    [
        ("dead_units", [call(dead=0.45)]),
        ("saturation", [call(saturated=0.5)]),
        ("vanishing_gradient", [call(gradient=1e-4), call("last")]),
        ("exploding_gradient", [call(gradient=1e4), call("last")]),
        ("exploding_activation", [call(), call("last", rms=1e3)]),
        ("vanishing_gradient", [call(gradient=g) for g in (1e-4, 1e-2, 0.1, 1.0)]),
    ],
)
def test_each_label_is_measured_by_its_definition(label: str, calls: list[Call]) -> None:
    assert list(labels(looks(*calls))) == [label]


def test_units_that_come_back_to_life_are_not_dead() -> None:
    given = looks(call(dead=0.9))
    given[-1].calls[0] = call(dead=0.1)
    assert labels(given) == {}


def test_what_grows_a_thousand_times_and_is_large_explodes() -> None:
    given = looks(call(), gradients={"fc.weight": 1e-2})
    given[5] = Look(5, 0.1, [call(rms=2e3)], {"fc.weight": 20.0}, True)
    assert labels(given) == {"exploding_gradient": ["fc"], "exploding_activation": ["act"]}
    given[5] = Look(5, 0.1, [call(rms=99.0)], {"fc.weight": 9.0}, True)
    assert labels(given) == {}


def test_losses_that_do_not_fall_and_weights_that_do_not_move_are_no_learning() -> None:
    stuck = [Look(step, 1.0, [call()], {}, True) for step in range(8)]
    assert labels(stuck) == {"not_learning": []}
    assert labels(looks(call()), {"fc.weight": True, "fc2.weight": False}) == {"not_learning": ["fc"]}
    broken = [Look(step, math.nan, [call(rms=math.nan)], {}, step < 3) for step in range(8)]
    assert set(labels(broken)) == {"nan", "not_learning"}
    assert labels(looks(call(), gradients={"fc.weight": 0.0})) == {"vanishing_gradient": ["fc"]}


def test_inputs_are_uncentered_where_most_energy_is_in_means_and_centering_helps() -> None:
    x = torch.randn(50, 3) + 10
    assert "uncentred" in labels_of(looks(call()), {}, x, 0.01).where
    assert labels_of(looks(call()), {}, x, 0.124).where == {}, "the repaired program does no better"
    assert labels_of(looks(call()), {}, x - 10, 0.01).where == {}
    assert energy_of_means(torch.zeros(3, 2)) == 0 and energy_of_means(torch.ones(2, dtype=torch.long)) == 0


def test_a_program_that_claims_what_is_not_measured_is_found_out() -> None:
    truth = labels_of(looks(call(dead=0.6)), {}, torch.randn(5, 2), math.nan)
    assert complaints({"label": "dead_units"}, truth) == []
    assert complaints({"label": "saturation", "also": ["nan"]}, truth) == [
        "saturation is claimed and not measured",
        "dead_units is measured at ['act'] and not claimed",
    ]
    assert complaints({"label": "healthy", "tolerate": {"act": "dead_units"}}, truth) == []
    assert complaints({"label": "healthy", "tolerate": {"out": "dead_units"}}, truth) == [
        "dead_units is measured at act"
    ]
    still = labels_of(looks(call(), steps=2), {}, torch.randn(5, 2), math.nan)
    assert complaints({"label": "healthy"}, replace(still, final_loss=0.9)) == ["the loss only came from 1 to 0.9"]


SECOND = Path(__file__).resolve().parent.parent / "benchmarks" / "cases" / "second"


def test_the_labels_of_the_second_set_are_those_that_were_measured() -> None:
    kept = json.loads((SECOND / "labels.json").read_text(encoding="utf-8"))
    names = {path.stem for path in SECOND.glob("[fh][0-9]*.py")}
    assert {key.partition(" ")[0] for key in kept} == names
    for key in (key for key in kept if key.endswith(" seed 0")):
        truth, faulty = kept[key], key.startswith("f")
        assert truth["wrong"] == [] and (truth["label"] in truth["where"] if faulty else truth["label"] == "healthy"), (
            key
        )
    assert sum(name.startswith("f") for name in names) >= 15 <= sum(name.startswith("h") for name in names)


def test_a_run_is_scored_by_what_was_measured_of_it() -> None:
    truths = {
        "f1 seed 4": {"label": "nan", "where": {"nan": ["fc"], "saturation": ["act"]}},
        "f2 seed 4": {"label": "nan", "where": {"saturation": ["act"]}},
        "h1 seed 4": {"label": "healthy", "where": {"saturation": ["act"]}},
    }
    cases = [Case(name="f1", seed=4, label="nan", also=["dead_units"]), Case(name="f2", seed=4, label="nan")]
    cases += [Case(name="h1", seed=4, label="healthy"), Case(name="f2", seed=5, label="nan")]
    kept, left = settle(cases, truths)
    assert left == ["f2 (seed 4)"], "its label does not hold with this seed"
    assert [(case.name, case.seed, list(case.also)) for case in kept] == [
        ("f1", 4, ["dead_units", "saturation"]), ("h1", 4, []), ("f2", 5, []),
    ], "what was not measured is taken as it is claimed"  # fmt: skip


_PROGRAM = """
import torch
from torch import nn

class Batches:
    def __init__(self):
        torch.manual_seed(0)
        self.X, self.Y = torch.randn(64, 6), torch.randn(64, 1)
    def __len__(self):
        return 24
    def __iter__(self):
        return iter([(self.X, self.Y)] * 24)

def build(repaired=False):
    batches = Batches()
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        model[0].bias[: 0 if repaired else 6] = -100.0
    meta = dict(name="built", label="dead_units", also=[], layers_at_fault=["1"], source="constructed")
    return model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), batches, meta
"""


def test_a_program_is_run_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"built_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(_PROGRAM)
    monkeypatch.syspath_prepend(str(tmp_path))
    truth = truth_of(tmp_path, name)
    assert truth["wrong"] == [] and truth["where"]["dead_units"] == ["1"]
    assert truth["repaired_loss"] < truth["final_loss"] < truth["first_loss"]
    case = case_from(case_of(tmp_path, name))
    assert case.onsets == {"1": 0} and case.layers == ["0", "1", "2"] and case.at_fault == ["1"]
    assert set(case.said) == {"actdiag", "actdiag, no budget", *PEERS}
    assert any(in_place(case, one) for one in matching(case, "SageMaker Debugger"))


def test_measuring_leaves_gradients_flags_and_random_numbers() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 1))
    x = torch.randn(9, 3)
    model(x).sum().backward()
    grads, state = [p.grad for p in model.parameters()], torch.get_rng_state()
    seen = look(model, lambda o, y: (o - y).square().mean(), x, torch.zeros(9, 1), 3)
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert model.training and torch.equal(torch.get_rng_state(), state) and not model[1]._forward_hooks
    z = model[1](model[0](x))
    assert [c.name for c in seen.calls] == ["0", "1", "2", "3"] and seen.finite
    assert seen.calls[1].rms == pytest.approx(z.square().mean().sqrt().item(), rel=1e-6)
    assert seen.calls[1].saturated == pytest.approx((z.abs() > 0.97).float().mean().item())
    flow = 2 * model[3](z) @ model[3].weight / 9
    assert seen.calls[1].gradient == pytest.approx(flow.square().mean().sqrt().item(), rel=1e-5)


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


def test_rho_is_1_for_units_at_their_ends_and_a_half_for_units_spread_evenly() -> None:
    ends = torch.tensor([[1.0], [-1.0]]).repeat(50, 1)
    even = torch.linspace(-1, 1, 1001)[:, None]
    assert _rho(ends).item() == pytest.approx(1.0) and _rho(even).item() == pytest.approx(0.5, abs=0.01)
    assert _rho(torch.zeros(20, 1)).item() == 0


def test_what_must_last_is_told_at_the_fifth_view_in_a_row() -> None:
    memory: dict[str, float] = {}
    said = [list(_lasting(memory, "fc.weight", ("x", "fc"), holds)) for holds in [True] * 4 + [False] + [True] * 5]
    assert said == [[]] * 9 + [[("x", "fc")]]


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
