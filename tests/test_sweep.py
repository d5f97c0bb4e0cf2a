"""Other people's models from tiny configurations: a selection of what `benchmarks/sweep_models.py` sweeps over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sweep_models
import sweep_trial
import tiny_models
import torch
from sweep_trial import Observer
from torch import Tensor, nn

from actdiag import Monitor
from tests.conftest import assert_untouched

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers.*"),
    pytest.mark.filterwarnings("ignore::UserWarning:transformers.*"),
]

FAMILIES = {
    "bert": "an encoder of text",
    "gpt2": "a decoder whose layers are Conv1D",
    "llama": "a decoder with rotary positions and a gated MLP",
    "deberta-v2": "an encoder with disentangled attention",
    "t5": "an encoder-decoder with a shared embedding",
    "whisper": "an encoder-decoder from sound to text",
    "wav2vec2": "a sound encoder with weight normalization and layer drop",
    "mixtral": "a mixture of experts in fused tensors",
    "switch_transformers": "a mixture of experts in modules",
    "mamba": "a state space model",
    "vit": "a vision transformer",
    "swin": "a vision transformer with shifted windows",
    "convnext": "a convolutional network",
    "clip": "two towers",
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: f"{family}, {FAMILIES[family]}".replace(" ", "-"))
def test_training_is_untouched_and_every_module_is_accounted_for(family: str) -> None:
    result = sweep_models.attempt(family)
    assert (result.verdict, result.note) == ("passed", "")
    assert result.sites > 10
    assert result.sites >= sum(result.unseen.values())


# Experts that got no token --------------------------------------------------------------------------------------


def starve(model: nn.Module, router: str) -> None:
    """All tokens go to the first expert or two: equal scores, of which top-k takes the first."""
    for name, module in model.named_modules():
        if name.endswith(router):
            for parameter in module.parameters(recurse=False):
                nn.init.zeros_(parameter).requires_grad_(False)


def steps(monitor: Monitor, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, *, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        sweep_trial.backward(model, batch)
        optimizer.step()


def experts_of(names: Any) -> set[str]:
    return {name.split(".experts.")[1].split(".")[0] for name in names if ".experts." in name}


def test_an_expert_that_got_no_token_is_not_called_and_never_dead() -> None:
    model = tiny_models.build("switch_transformers").train()
    batch = sweep_trial.accepted(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    told = []

    class Writer:
        def write(self, snapshot: Any, changes: Any) -> None:
            told.append(monitor._session.collector.unseen())

        def close(self) -> None:
            pass

    options: dict[str, Any] = {"log_every_n_steps": 1, "max_overhead": None, "window_samples": 32}
    with Monitor(model, optimizer, writers=[Writer()], **options) as monitor:
        steps(monitor, model, optimizer, batch, count=4)
        assert experts_of(monitor.snapshots[0].sites) == {"expert_0", "expert_1", "expert_2", "expert_3"}
        starve(model, "router.classifier")
        steps(monitor, model, optimizer, batch, count=20)
    assert experts_of(monitor.latest.sites) == {"expert_0"}, "an idle expert has no numbers, not zeros"
    idle = {name: why for name, why in told[-1].items() if ".experts." in name}
    assert experts_of(idle) == {"expert_1", "expert_2", "expert_3"}
    assert set(idle.values()) == {"it was not called"}
    of_experts = [finding.layer for finding in monitor.findings if finding.rule == "dead-units"]
    assert experts_of(of_experts) <= {"expert_0"}
    assert_untouched(model)


def test_fused_experts_that_got_no_token_add_no_zeros() -> None:
    """Experts in one tensor share an activation module: it sees the tokens that came, and nothing for the others."""
    model = tiny_models.build("mixtral").train()
    batch = sweep_trial.accepted(model)
    starve(model, "mlp.gate")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, log_every_n_steps=1, max_overhead=None) as monitor:
        steps(monitor, model, optimizer, batch, count=1)
    site = monitor.latest.sites["layers.0.mlp.experts.act_fn"]
    tokens = batch["input_ids"].numel()
    assert site.samples == tokens * model.config.num_experts_per_tok
    assert site.zero_fraction == 0


# The sweep itself -----------------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.idle = nn.Linear(8, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


def judged(**broken: Any) -> dict[str, Any]:
    """The verdict on a small model, with methods of the observer replaced."""
    changed = type("Broken", (Observer,), broken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_trial, "Observer", changed)
        return sweep_trial.judge(Small(), {"x": torch.ones(3, 4)})


def test_a_model_with_an_idle_layer_passes_and_the_layer_is_counted() -> None:
    assert judged() == {"sites": 4, "unseen": {"it was not called": 1}, "left_out": 0}


def test_the_sweep_notices_a_random_number_drawn() -> None:
    def call(self: Any, model: nn.Module, optimizer: Any) -> Any:
        torch.rand(1)
        return Observer.__call__(self, model, optimizer)

    assert judged(__call__=call)["note"] == "random state differ"


def test_the_sweep_notices_a_hook_that_stays() -> None:
    def call(self: Any, model: nn.Module, optimizer: Any) -> Any:
        model.get_submodule("first").register_forward_hook(lambda *args: None)
        return Observer.__call__(self, model, optimizer)

    assert judged(__call__=call)["note"] == "hook left: first._forward_hooks"


def test_the_sweep_notices_what_is_neither_seen_nor_named() -> None:
    def write(self: Any, snapshot: Any, changes: Any) -> None:
        Observer.write(self, snapshot, changes)
        self.unseen = {}
        del self.sites["last"]

    noted = judged(write=write)["note"]
    assert "idle (Linear, idle) is neither seen nor named as unseen" in noted
    assert "last (Linear, measurable) is neither seen nor named as unseen" in noted


def test_the_sweep_notices_a_false_reason() -> None:
    def write(self: Any, snapshot: Any, changes: Any) -> None:
        Observer.write(self, snapshot, changes)
        del self.sites["last"]
        self.unseen |= {"last": "it was not called"}

    assert "last (Linear) is measurable, reported: it was not called" in judged(write=write)["note"]


def test_a_probe_that_is_switched_off_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("broken on purpose")

    monkeypatch.setattr("actdiag.collect.site.Site.add_forward", refuse)
    result = judged()
    assert result["verdict"] == "ours"
    assert "switched off" in result["note"]


def test_a_family_that_does_not_build_is_listed_with_the_reason() -> None:
    result = sweep_models.attempt("no such family")
    assert result.verdict == "not built"
    assert "no such family" in result.note


@pytest.mark.slow
def test_the_script_writes_a_report_and_goes_on_behind_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sweep.md"
    monkeypatch.setattr("sys.argv", ["sweep_models.py", "--families", "none", "bert", "--write", str(path)])
    sweep_models.main()
    text = path.read_text(encoding="utf-8")
    assert "| families tried | 2 |" in text
    assert "| none | not built |" in text
    assert "| bert | BertModel |" in text
