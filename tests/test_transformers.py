"""The door for Hugging Face's Trainer: it tells of a training what a plain Monitor tells, and leaves it as it was."""

from __future__ import annotations

import copy
import gc
import importlib
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from actdiag import ConfigError, FindingError, Snapshot
from actdiag.report.read import ReadError, read_runs
from actdiag.transformers import ActivationMonitorCallback
from tests.conftest import assert_untouched
from tests.regimes import regime
from tests.trainers import (
    ARGUMENTS,
    CHECKPOINTING,
    EVERY_STEP,
    ROWS,
    Net,
    Trainer,
    TrainerCallback,
    dataset,
    numbers,
    plain,
    trainer,
)


@pytest.fixture(scope="module", autouse=True)
def few_to_collect() -> Iterator[None]:
    """The Trainer collects garbage at every start, among all that was imported before: half a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def observed(folder: Path, **options: Any) -> tuple[Trainer, ActivationMonitorCallback]:
    """A training that is over, observed at every step."""
    callback = ActivationMonitorCallback(**EVERY_STEP)
    done = trainer(folder, callback, **options)
    done.train()
    assert_untouched(done.model)
    return done, callback


def steps(callback: ActivationMonitorCallback) -> list[int]:
    return [snapshot.step for snapshot in callback.snapshots]


def poisoned() -> Net:
    """A network whose second layer gives NaN."""
    model = Net()
    with torch.no_grad():
        model.net[3].weight[0, 0] = float("nan")
    return model


def loss_steps(folder: Path, tag: str = "train/loss") -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [event.step for event in accumulator.Scalars(tag)]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "actdiag"]


# The numbers --------------------------------------------------------------------------------------------------


@regime(
    "trainers",
    "Hugging Face's Trainer: `ActivationMonitorCallback`, with `gradient_accumulation_steps` and `max_grad_norm`",
    exact="the numbers of a Monitor around the same plain loop; gradient norms before clipping; a step is an optimizer "
    "step, with the number of the Trainer's own points",
    proves=("R13", "R29"),
)
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_a_trainer_is_told_of_as_a_plain_loop_is(tmp_path: Path, accumulate: int, clip: float) -> None:
    done, callback = observed(tmp_path, gradient_accumulation_steps=accumulate, max_grad_norm=clip, max_steps=4)
    told = plain(done.data_collator.batches[: 4 * accumulate], accumulate=accumulate, clip=clip)
    assert numbers(callback.snapshots) == numbers(told)
    assert steps(callback) == [1, 2, 3, 4]
    first = callback.snapshots[0]
    assert first.sites["net.1"].n == ROWS * 8 * accumulate
    assert first.clip_coefficient == pytest.approx(clip / first.grad_norm_total if clip else 1.0, rel=1e-3)


def test_the_gradient_norm_is_the_one_that_the_trainer_logs(tmp_path: Path) -> None:
    done, callback = observed(tmp_path, logging_steps=1)
    logged = [entry["grad_norm"] for entry in done.state.log_history if "grad_norm" in entry]
    assert [one.grad_norm_total for one in callback.snapshots] == pytest.approx(logged, rel=1e-6)


@regime("trainers", "Trainer with bf16 autocast", exact="the same numbers with and without", proves=("R51",))
@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"gradient_accumulation_steps": 2}], ids=str)
def test_R51_the_training_is_the_same_bit_for_bit_with_and_without(tmp_path: Path, options: dict[str, Any]) -> None:
    found = []
    for callbacks in ([], [ActivationMonitorCallback(**EVERY_STEP)]):
        done = trainer(tmp_path, *callbacks, model=Net(dropout=0.3), logging_steps=1, **options)
        done.train()
        losses = [(entry["loss"], entry["grad_norm"]) for entry in done.state.log_history if "loss" in entry]
        found.append((done.model.state_dict(), losses, torch.get_rng_state()))
    (bare, losses, random), (same, again, state) = found
    assert len(losses) == 6 and losses == again and torch.equal(random, state)
    assert all(torch.equal(bare[name], same[name]) for name in bare)


def test_half_precision_is_seen_as_it_is(tmp_path: Path) -> None:
    _, callback = observed(tmp_path, bf16=True)
    _, full = observed(tmp_path)
    rounded, exact = callback.snapshots[0].sites["net.4"].rms, full.snapshots[0].sites["net.4"].rms
    assert rounded == pytest.approx(exact, rel=1e-2) and rounded != exact


# Where and when it writes -------------------------------------------------------------------------------------


def test_R13_R63_it_writes_into_the_trainers_own_run_on_the_points_of_the_loss(tmp_path: Path) -> None:
    callback = ActivationMonitorCallback(max_overhead=None)
    trainer(tmp_path, callback, report_to="tensorboard", logging_steps=2, logging_first_step=True).train()
    files = list(tmp_path.rglob("*tfevents*"))
    assert len(files) == 1, "two event files in one run directory hide each other"
    (run,) = read_runs(files[0].parent)
    assert list(run.snapshots) == callback.snapshots, "what is read back is what was recorded"
    assert [one.step for one in run.snapshots] == [1, 2, 4, 6] == loss_steps(files[0].parent)


def test_a_tensorboard_callback_that_comes_later_is_found_too(tmp_path: Path) -> None:
    from transformers.integrations import TensorBoardCallback

    ready = trainer(tmp_path, ActivationMonitorCallback(**EVERY_STEP), max_steps=2)
    ready.add_callback(TensorBoardCallback)
    ready.train()
    (file,) = tmp_path.rglob("*tfevents*")
    assert [one.step for one in read_runs(file.parent)[0].snapshots] == [1, 2]


def test_without_a_tracker_nothing_is_written_and_findings_are_told_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = ActivationMonitorCallback(**EVERY_STEP)
    trainer(tmp_path, callback, model=poisoned(), max_steps=2).train()
    assert [finding.rule for finding in callback.findings] == ["non-finite"]
    assert sum("report_to names no tracker" in line for line in said(caplog)) == 1
    assert any("non-finite" in line for line in said(caplog))
    assert not list(tmp_path.rglob("*"))


def test_beside_another_tracker_it_writes_a_file_of_its_own_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = trainer(tmp_path, ActivationMonitorCallback(**EVERY_STEP), max_steps=2)
    ready.args.report_to = ["csv"]
    ready.train()
    (file,) = tmp_path.rglob("actdiag/*tfevents*")
    assert [one.step for one in read_runs(file.parent)[0].snapshots] == [1, 2]
    assert sum(f"writing to {file.parent}" in line for line in said(caplog)) == 1


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    class Second(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            state.is_world_process_zero = False

    callback = ActivationMonitorCallback(**EVERY_STEP)
    ready = trainer(tmp_path, Second(), callback, max_steps=2)
    ready.args.report_to = ["csv"]
    ready.train()
    assert steps(callback) == [1, 2]
    with pytest.raises(ReadError):
        read_runs(tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"logging_steps": 3}, [1, 3, 6]),
        ({"logging_steps": 0.5}, [1, 3, 6]),
        ({"logging_strategy": "epoch"}, [1]),
    ],
    ids=str,
)
def test_the_interval_is_the_trainers_unless_it_is_given(
    tmp_path: Path, options: dict[str, Any], expected: list[int]
) -> None:
    default = ActivationMonitorCallback(max_overhead=None, log_every_n_steps=None)
    given = ActivationMonitorCallback(max_overhead=None, log_every_n_steps=4, prefix="given")
    trainer(tmp_path, default, given, **options).train()
    assert steps(default) == expected and steps(given) == [1, 4]


# Evaluation, checkpoints, several trainings -------------------------------------------------------------------


class Looks(TrainerCallback):  # type: ignore[misc]
    """Asserts at an event that nothing of ours is on the model."""

    def __init__(self, *events: str) -> None:
        self.seen: list[str] = []
        for event in events:
            setattr(self, event, self._look(event))

    def _look(self, event: str) -> Callable[..., None]:
        def look(args: Any, state: Any, control: Any, **given: Any) -> None:
            assert_untouched(given["model"])
            self.seen.append(event)

        return look


@regime(
    "trainers", "evaluation between steps of the Trainer", exact="no hook is on the model, the numbers are the same"
)
def test_R65_nothing_is_on_the_model_in_evaluation_nor_between_two_steps(tmp_path: Path) -> None:
    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net()
            self.evaluated = 0

        def forward(self, x: Any, labels: Any) -> Any:
            if not self.training:
                assert_untouched(self)
                self.evaluated += 1
            return self.inner(x, labels)

    model, looks = Watching(), Looks("on_step_end", "on_log", "on_evaluate", "on_pre_optimizer_step")
    callback = ActivationMonitorCallback(**EVERY_STEP)
    given = {"eval_dataset": dataset(16)}
    options = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4}
    ready = trainer(tmp_path, callback, looks, model=model, given=given, **options)
    ready.train()
    batches = [batch for batch in ready.data_collator.batches if len(batch["x"]) == ROWS]
    assert model.evaluated and set(looks.seen) >= {"on_evaluate", "on_step_end", "on_log"}
    told = [snapshot.sites["inner.net.1"] for snapshot in callback.snapshots]
    assert len(batches) >= 4 and {site.n for site in told} == {ROWS * 8}


@regime(
    "trainers",
    "the Trainer resumed from a checkpoint",
    exact="evidence, findings and schedule go on, in `actdiag.pt` beside the checkpoint; the numbers of a run that was "
    "not interrupted",
    proves=("R59",),
)
@pytest.mark.parametrize("moved", [False, True], ids=["in its place", "moved elsewhere"])
def test_R59_a_resumed_training_tells_what_an_uninterrupted_one_does(tmp_path: Path, moved: bool) -> None:
    options = {"save_strategy": "steps", "save_steps": 3, "max_steps": 8}
    _, whole = observed(tmp_path / "whole", **options)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    if moved:
        checkpoint = checkpoint.rename(tmp_path / "elsewhere")
    callback = ActivationMonitorCallback(**EVERY_STEP)
    trainer(tmp_path / ("other" if moved else "whole"), callback, **options).train(
        resume_from_checkpoint=str(checkpoint)
    )
    assert steps(callback) == [4, 5, 6, 7, 8]
    assert numbers(callback.snapshots) == numbers(whole.snapshots[3:])
    assert callback.snapshots[-1].sites["net.1"].evidence_samples == ROWS * 8


def test_a_finding_is_not_told_again_after_a_resume(tmp_path: Path) -> None:
    told: list[int] = []
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "model": poisoned()}
    for steps_in_all, resume in ((2, None), (4, True)):
        callback = ActivationMonitorCallback(**EVERY_STEP, on_finding=lambda finding: told.append(finding.step))
        trainer(tmp_path, callback, **options, max_steps=steps_in_all).train(resume_from_checkpoint=resume)
    assert told == [1] and [finding.step for finding in callback.findings] == [1]


def test_the_log_of_a_resumed_training_begins_with_the_findings_that_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "report_to": "tensorboard"}
    for steps_in_all, resume in ((2, None), (4, True)):
        logs = str(tmp_path / f"log{steps_in_all}")
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", logs)
        options |= {"logging_dir": logs} if "logging_dir" in ARGUMENTS else {}
        callback = ActivationMonitorCallback(**EVERY_STEP)
        ready = trainer(tmp_path, callback, model=poisoned(), max_steps=steps_in_all, **options)
        ready.train(resume_from_checkpoint=resume)
    (run,) = read_runs(tmp_path / "log4")
    assert [one.step for one in run.snapshots] == [3, 4]
    assert [(finding.rule, finding.step) for finding in run.findings] == [("non-finite", 1)]


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_a_checkpoint_without_our_state_is_resumed_all_the_same(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"save_strategy": "steps", "save_steps": 2}
    observed(tmp_path, max_steps=2, **options)
    path = tmp_path / "checkpoint-2" / "actdiag.pt"
    path.unlink() if damage == "missing" else path.write_bytes(b"no such thing")
    callback = ActivationMonitorCallback(**EVERY_STEP)
    trainer(tmp_path, callback, max_steps=4, **options).train(resume_from_checkpoint=True)
    assert steps(callback) == [3, 4]
    assert any("actdiag.pt" in line for line in said(caplog))


def test_one_callback_serves_two_trainings(tmp_path: Path) -> None:
    callback = ActivationMonitorCallback(**EVERY_STEP)
    ready = trainer(tmp_path, callback, max_steps=3)
    for _ in range(2):
        ready.train()
        assert steps(callback) == [1, 2, 3]
        assert_untouched(ready.model)
    assert "net.1" in callback.report() and callback.latest is callback.snapshots[-1]


# Stopping, errors, copies -------------------------------------------------------------------------------------


def test_R43_stop_on_ends_the_training_after_the_step(tmp_path: Path) -> None:
    callback = ActivationMonitorCallback(**EVERY_STEP, stop_on="error")
    ready = trainer(tmp_path, callback, model=poisoned())
    ready.train()
    assert ready.state.global_step == 1
    assert_untouched(ready.model)


def test_raise_on_raises_into_the_loop_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ready = trainer(tmp_path, ActivationMonitorCallback(**EVERY_STEP, raise_on="error"), model=poisoned())
    with pytest.raises(FindingError) as raised:
        ready.train()
    assert raised.value.finding.rule == "non-finite"
    assert_untouched(ready.model)


class Fails(Trainer):  # type: ignore[misc]
    """Fails in the middle of a step: after its forward, or after its backward."""

    error: BaseException = RuntimeError("mine")
    after_backward = False

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 1 and not self.after_backward:
            self.model(**self.data_collator.batches[-1])
            raise self.error
        loss = super().training_step(*args, **kwargs)
        if self.state.global_step == 1:
            raise self.error
        return loss


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("after_backward", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_R60_R61_an_error_or_ctrl_c_in_a_step_leaves_the_model_as_it_was(
    tmp_path: Path, error: BaseException, after_backward: bool, several: bool
) -> None:
    callback = ActivationMonitorCallback(**EVERY_STEP)
    second = [ActivationMonitorCallback(**EVERY_STEP, prefix="second")] if several else []
    ready = trainer(tmp_path, callback, *second, kind=Fails)
    ready.error, ready.after_backward = error, after_backward
    with pytest.raises(type(error)):
        ready.train()
    assert_untouched(ready.model)
    assert "training_step" not in vars(ready), "the Trainer has its own method again"
    assert steps(callback) == [1]


@pytest.mark.parametrize("event", ["on_step_begin", "on_pre_optimizer_step", "on_step_end", "on_log"])
def test_R60_an_error_in_another_callback_leaves_the_model_as_it_was(tmp_path: Path, event: str) -> None:
    class Raises(TrainerCallback):  # type: ignore[misc]
        pass

    def fail(self: Any, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step >= 2:
            raise RuntimeError("theirs")

    setattr(Raises, event, fail)
    callbacks = [ActivationMonitorCallback(**EVERY_STEP), Raises()]
    ready = trainer(tmp_path, *(reversed(callbacks) if event == "on_step_begin" else callbacks))
    with pytest.raises(RuntimeError, match="theirs"):
        ready.train()
    assert_untouched(ready.model)


def test_an_error_in_the_optimizer_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    ready = trainer(tmp_path, ActivationMonitorCallback(**EVERY_STEP))

    def out_of_memory(*args: Any) -> None:
        raise RuntimeError("out of memory")

    ready.optimizer.register_step_pre_hook(out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        ready.train()
    assert_untouched(ready.model)


def test_a_method_that_the_user_has_put_on_the_trainer_stays_there(tmp_path: Path) -> None:
    ready = trainer(tmp_path, ActivationMonitorCallback(**EVERY_STEP), max_steps=2)
    calls, own = [], ready.training_step

    def mine(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return own(*args, **kwargs)

    ready.training_step = mine
    ready.train()
    assert ready.training_step is mine and len(calls) == 2


@regime(
    "trainers", "a Trainer that is copied or pickled with its callback", exact="as it would be without", proves=("R73",)
)
def test_R73_a_trainer_is_copied_with_its_callback_wherever_it_could_be_without(tmp_path: Path) -> None:
    class Copies(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            copy.deepcopy(given["model"])
            pickle.loads(pickle.dumps(callback))

    callback = ActivationMonitorCallback(**EVERY_STEP)
    ready = trainer(tmp_path, callback, Copies(), max_steps=3)
    copy.deepcopy(callback)
    ready.train()
    again = copy.deepcopy(ready)
    assert_untouched(again.model)
    for copied in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert steps(copied) == [1, 2, 3] and "net.1" in copied.report()


def test_two_callbacks_of_different_prefixes_share_a_trainer(tmp_path: Path) -> None:
    callbacks = [ActivationMonitorCallback(**EVERY_STEP, prefix=name) for name in ("one", "two")]
    looks = Looks("on_step_end", "on_pre_optimizer_step")
    ready = trainer(tmp_path, *callbacks, looks, max_steps=2, save_strategy="steps", save_steps=2)
    ready.train()
    assert "training_step" not in vars(ready) and len(looks.seen) == 4
    assert [steps(callback) for callback in callbacks] == [[1, 2], [1, 2]]
    assert {path.name for path in tmp_path.rglob("actdiag*")} == {"actdiag-one.pt", "actdiag-two.pt"}


def test_wrong_options_are_refused_at_construction_and_names_that_match_nothing_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        ActivationMonitorCallback(log_every=3)
    with pytest.raises(ConfigError, match="dead_warnin"):
        ActivationMonitorCallback(limits={"dead_warnin": 0.5})
    with pytest.raises(ConfigError):
        trainer(tmp_path, ActivationMonitorCallback(include=["no.such.*"])).train()


def test_what_breaks_at_the_start_costs_one_warning_and_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("broken")

    monkeypatch.setattr("actdiag.transformers.driven", fail)
    callback = ActivationMonitorCallback(**EVERY_STEP)
    ready = trainer(tmp_path, callback, save_strategy="steps", save_steps=2)
    ready.train()
    assert ready.state.global_step == 6 and callback.latest is None
    assert len([line for line in said(caplog) if "could not start" in line]) == 1


def test_without_transformers_the_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.trainer_callback", None)
    monkeypatch.delitem(sys.modules, "actdiag.transformers")
    with pytest.raises(ImportError, match=r"pip install transformers accelerate"):
        importlib.import_module("actdiag.transformers")


# Loss scaling, checkpointed and compiled models ---------------------------------------------------------------


class Scaled(Trainer):  # type: ignore[misc]
    """A loss scaler, as Accelerate makes it for fp16 on an accelerator; its scale overflows at the steps named."""

    overflows: tuple[int, ...] = ()

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        return loss * float("inf") if self.state.global_step + 1 in self.overflows else loss


@regime(
    "trainers",
    "the Trainer with a loss scaler (fp16)",
    exact="gradients without the scale; a skipped step is left out and counted, and the steps keep the Trainer's "
    "numbers",
    proves=("R21",),
)
def test_R21_gradients_are_unscaled_and_skipped_steps_keep_the_trainers_numbers(tmp_path: Path) -> None:
    done, callback = observed(tmp_path, kind=Scaled, max_grad_norm=0.0, max_steps=4)
    told = plain(done.data_collator.batches[:4], clip=0.0)
    for seen, expected in zip(callback.snapshots, told, strict=True):
        assert seen.loss_scale == 1024.0
        assert seen.grad_norm_total == pytest.approx(expected.grad_norm_total, rel=1e-5)
    callback = ActivationMonitorCallback(**EVERY_STEP)
    ready = trainer(tmp_path, callback, kind=Scaled, max_grad_norm=0.0)
    ready.overflows = (2, 3)
    ready.train()
    assert steps(callback) == [1, 4, 5, 6]
    assert callback.latest.skipped_steps == 2
    rare = ActivationMonitorCallback(log_every_n_steps=3, max_overhead=None)
    ready = trainer(tmp_path, rare, kind=Scaled, max_grad_norm=0.0)
    ready.overflows = (3,)
    ready.train()
    assert steps(rare) == [1, 4, 6], "a step that was due and was skipped is made up for"


def gpt(**options: Any) -> nn.Module:
    """A language model of two blocks, from transformers, with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=0, **options))


def tokens(n: int = 32) -> list[dict[str, torch.Tensor]]:
    drawn = torch.randint(0, 32, (n, 12), generator=torch.Generator().manual_seed(2))
    return [{"input_ids": row, "labels": row} for row in drawn]


def trained_gpt(folder: Path, **options: Any) -> list[Snapshot]:
    callback = ActivationMonitorCallback(**EVERY_STEP)
    ready = trainer(folder, callback, model=gpt(), given={"train_dataset": tokens()}, max_steps=2, **options)
    ready.train()
    return callback.snapshots


@regime("trainers", "the Trainer with gradient checkpointing", exact="the numbers of the same model without")
def test_a_checkpointed_language_model_tells_what_it_tells_without_checkpoints(tmp_path: Path) -> None:
    bare, checkpointed = (trained_gpt(tmp_path, **{CHECKPOINTING: on}) for on in (False, True))
    assert len(bare) == 2 and any("mlp" in name for name in bare[0].sites)
    assert numbers(checkpointed) == numbers(bare)


@pytest.mark.slow
@regime("trainers", "the Trainer with `torch_compile`", exact="the sites and gradient norms of the same model without")
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor"
)  # the compiler asks for it, and expects the warning
def test_a_compiled_language_model_tells_what_it_tells_uncompiled(tmp_path: Path) -> None:
    bare = trained_gpt(tmp_path)
    compiled = trained_gpt(tmp_path, torch_compile=True, torch_compile_backend="aot_eager")
    for seen, expected in zip(compiled, bare, strict=True):
        assert seen.grad_norm_total == pytest.approx(expected.grad_norm_total, rel=1e-4)
        missing = {name for name in expected.sites if name not in seen.sites}
        assert not missing
        for name, site in expected.sites.items():
            assert seen.sites[name].rms == pytest.approx(site.rms, rel=1e-4), name
