"""Options from files: YAML, LightningCLI, OmegaConf and Hydra; and the page that tells of them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ignite.engine import create_supervised_trainer
from torch import nn

from actdiag import ConfigError, Monitor, Options, build_options
from actdiag.config import described
from actdiag.ignite import attach

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import lightning.pytorch as unified
    import pytorch_lightning as classic

    from actdiag.lightning import ActivationMonitor
    from actdiag.transformers import ActivationMonitorCallback
    from tests.test_lightning import loader as batches_of
    from tests.test_lightning import module

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
SECTION = """
log_every_n_steps: 20
watch_every_n_steps: 2
attentive: false
start_step: 1
end_step: 100
include: ["net.*"]
exclude: [net.4]
max_overhead: null
window_samples: 64
phases: [train]
distributed: off
merge_timeout_s: 5
functional: false
gradients: true
histograms: false
detail: full
loggers: off
prefix: gan_d
unit_dims: {net.0: 1}
ignore: ["off-center:net.*", dead-units]
limits: {dead_warning: 0.6, window_batches: 8}
severities: {stalled-update: off, "dead-units:net.1": info}
rules: {cold-head: "tests.test_judging_options:cold"}
raise_on: null
stop_on: error
"""


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def by_plain_loop(options: dict[str, Any]) -> Options:
    model = net()
    with Monitor(model, sgd(model), **options) as monitor:
        return monitor._session.options


def by_ignite(options: dict[str, Any]) -> Options:
    model = net()
    optimizer = sgd(model)
    handle = attach(create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss()), model, optimizer, **options)
    handle.close()
    return handle._observed.session.options


DOORS: dict[str, Callable[[dict[str, Any]], Options]] = {
    "alone": build_options,
    "plain": by_plain_loop,
    "ignite": by_ignite,
    "lightning": lambda options: ActivationMonitor(**options)._options,
    "transformers": lambda options: ActivationMonitorCallback(**options)._options,
}


# YAML ---------------------------------------------------------------------------------------------------


def section(**changed: Any) -> dict[str, Any]:
    """All options that a file can hold, those that need names of the model or a rule of one's own left out."""
    read = yaml.safe_load(SECTION)
    left_out = ("include", "exclude", "unit_dims", "rules", "limits")
    return {name: value for name, value in (read | changed).items() if name not in left_out}


def test_every_option_that_a_file_can_hold_is_tried_here() -> None:
    assert {spec.name for spec in fields(Options)} - yaml.safe_load(SECTION).keys() == {
        "activations", "grad_scaler", "on_finding",
    }  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_the_same_section_of_a_file(door: str) -> None:
    assert DOORS[door](section()) == build_options(section())


def test_off_is_off_although_yaml_says_false() -> None:
    options = build_options(section())
    assert (options.distributed, options.loggers) == ("off", "off")
    assert options.severities == {"stalled-update": "off", "dead-units:net.1": "info"}
    assert options.histograms is False, "and what is yes or no stays so"


def test_options_that_were_kept_in_a_file_are_the_same_again() -> None:
    options = build_options(yaml.safe_load(SECTION))
    for text in (yaml.safe_dump(options.to_mapping()), json.dumps(options.to_mapping())):
        assert build_options(yaml.safe_load(text)) == options
    assert options.to_mapping().keys() == yaml.safe_load(SECTION).keys() - {"phases", "gradients", "raise_on"}
    assert Options().to_mapping() == {} and build_options(None) == build_options({}) == Options()


def test_lists_and_tuples_are_the_same_option() -> None:
    assert build_options({"ignore": ["off-center"]}) == build_options({"ignore": ("off-center",)})
    given = {"dead_warning": 0.6}
    options = build_options({"limits": given})
    given["dead_warning"] = 0.9
    assert options.limits == {"dead_warning": 0.6}, "what the caller does to his mapping later is his"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"log_every": 5}, "unknown option 'log_every'; did you mean .*'log_every_n_steps'"),
        ({"colour": 5}, "unknown option 'colour'; options are activations, attentive"),
        ({3: 5}, "unknown option 3; options are"),
        ({"max_overhead": "1e-2"}, "max_overhead must be a share .*; got '1e-2', which is a text; write 0.01"),
        ({"log_every_n_steps": "50"}, "got '50', which is a text; write 50$"),
        ({"log_every_n_steps": "often"}, "got 'often'$"),
        ({"log_every_n_steps": 2.5}, "log_every_n_steps must be a whole number of at least 1; .* got 2.5"),
        ({"ignore": "off-center"}, r"ignore must be a list of rules, .* got 'off-center'"),
        ({"ignore": [["off-center"]]}, r"ignore must be a list of rules, .* got \[\['off-center'\]\]"),
        ({"include": None}, "include must be a list of name patterns .* got None"),
        ({"limits": ["dead_warning"]}, r"limits must be a mapping from names to numbers; got \['dead_warning'\]"),
        ({"prefix": False}, "prefix must be letters, digits, .* got False"),
        ({"detail": False}, "detail must be one of 'summary', 'full'; got False"),
        ([("prefix", "a")], "options must be a mapping from names to values; got list"),
        ("prefix", "options must be a mapping from names to values; got str"),
    ],
    ids=str,
)
def test_what_cannot_work_is_told_by_name_with_what_is_allowed(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_options(given)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"include": (nn.ReLU,)}, "include"),
        ({"on_finding": print}, "on_finding"),
        ({"rules": {"mine": lambda history, limits: ()}}, "rules"),
        ({"activations": {nn.ReLU: object()}}, "activations"),
    ],
)
def test_what_a_file_cannot_hold_is_said_when_it_is_to_be_written(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} cannot be written to a file: .*; give it in the program"):
        Options(**options).to_mapping()


def test_the_parser_of_lightning_cli_takes_the_section_with_its_types(tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(ActivationMonitor, "monitor")
    path = tmp_path / "config.yaml"
    for off in (False, "off"):
        changed = {"distributed": off, "loggers": off, "severities": {"stalled-update": off}}
        path.write_text(yaml.safe_dump({"monitor": section(**changed)}))
        made = parser.instantiate(parser.parse_args(["--config", str(path)])).monitor
        assert made._options == build_options(section(**changed))
        assert made._options.severities == {"stalled-update": "off"}


# OmegaConf and Hydra ------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
def test_a_section_of_omegaconf_is_taken_as_it_is_and_nothing_of_it_is_kept(door: str) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    options = DOORS[door](omegaconf.OmegaConf.create(section()))
    assert options == build_options(section())
    kinds = {type(value).__module__.partition(".")[0] for value in vars(options).values()}
    assert kinds <= {"builtins"}, kinds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ignore: [[off-center]]", r"ignore must be a list of rules, .* got \[\['off-center'\]\]"),
        ("ignore: {a: 1}", "ignore must be a list of rules, .* got {'a': 1}"),
        ("include: ???", "include cannot be read: Missing mandatory value: include$"),
        ("prefix: ${nowhere}", "prefix cannot be read: Interpolation key 'nowhere' not found$"),
        ("log_evry_n_steps: 3", "unknown option 'log_evry_n_steps'; did you mean 'log_every_n_steps'"),
    ],
)
def test_what_cannot_be_read_of_omegaconf_is_told_by_name(text: str, message: str) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    with pytest.raises(ConfigError, match=message):
        build_options(omegaconf.OmegaConf.create(text))


def test_hydra_makes_every_door_and_passes_the_model_on() -> None:
    instantiate = pytest.importorskip("hydra.utils").instantiate
    model = net()
    optimizer = sgd(model)
    engine = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())
    options = {"max_overhead": 0.05, "ignore": ["off-center"], "severities": {"stalled-update": "off"}}

    def made(target: str, *given: Any, **named: Any) -> Any:
        return instantiate({"_target_": target, **options}, *given, **named)

    wanted = build_options(options)
    for monitor in (
        made("actdiag.Monitor", model, optimizer),
        made("actdiag.Monitor", model=model, optimizer=[optimizer], writers=[lambda metrics, step: None]),
        made("actdiag.Monitor", _partial_=True)(model, optimizer),
    ):
        assert monitor._session.options == wanted
        assert [ref() for ref in monitor._session.collector.models.values()] == [model]
        monitor.close()
    handle = made("actdiag.ignite.attach", engine, model, optimizer)
    assert [ref() for ref in handle._observed.session.collector.models.values()] == [model]
    assert handle._observed.session.options == wanted
    handle.close()
    for target in ("actdiag.lightning.ActivationMonitor", "actdiag.transformers.ActivationMonitorCallback"):
        assert made(target)._options == wanted
    assert made("actdiag.Options") == wanted


# The page -----------------------------------------------------------------------------------------------


def block(heading: str, language: str, index: int = 0) -> str:
    text = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found: str = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)[index]
    return found


def around() -> dict[str, Any]:
    """What the page's programs find around them."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.stem, self.head = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), net()[:1]
            self.head = nn.Sequential(nn.Linear(8, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.stem(self.embed(x)))
            return found

    model = Net()
    data = [(torch.randn(6, 4), torch.zeros(6, dtype=torch.long))] * 3
    return {"model": model, "optimizer": sgd(model), "loss_fn": nn.CrossEntropyLoss(), "loader": data, "Path": Path}


def test_yaml_by_hand_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.yaml").write_text(block("YAML by hand", "yaml"))
    known = around()
    exec(compile(block("YAML by hand", "python"), "configuration.md", "exec"), known)
    options = known["monitor"]._session.options
    assert options.severities == {"stalled-update": "off"} and options.log_every_n_steps == 20
    sites = known["monitor"].snapshots[0].sites
    assert "stem.1" in sites and not {"embed", "head.0"} & set(sites)
    assert list(Path("runs/yaml").glob("*tfevents*"))
    exec(compile(block("YAML by hand", "python", 1), "configuration.md", "exec"), known)
    assert build_options(yaml.safe_load(Path("kept.yaml").read_text())["actdiag"]) == options


def test_hydra_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    Path("conf").mkdir()
    Path("conf/config.yaml").write_text(block("Hydra", "yaml"))
    known = around()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Hydra's own imports
        exec(compile(block("Hydra", "python"), "configuration.md", "exec"), known)
    assert known["monitor"]._session.options.max_overhead == known["callback"]._options.max_overhead == 0.1
    assert "embed" not in known["monitor"].latest.sites and list(Path("runs/hydra").glob("*tfevents*"))


class Data:
    """Of either namespace."""

    def train_dataloader(self) -> Any:
        return batches_of()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", [classic, unified], ids=["pytorch_lightning", "lightning.pytorch"])
def test_lightning_cli_runs_as_it_stands(
    package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib import import_module

    command = import_module(f"{package.__name__}.cli").LightningCLI
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(block("LightningCLI", "yaml"))
    quiet = ["accelerator=cpu", "logger=false", "enable_progress_bar=false", "enable_checkpointing=false"]
    model = type(module(package))
    data = type("Data", (Data, package.LightningDataModule), {})
    args = ["fit", "--config", "config.yaml", *[f"--trainer.{setting}" for setting in quiet]]
    done = command(model, data, save_config_callback=None, args=args)
    (ours,) = [one for one in done.trainer.callbacks if type(one).__name__ == "ActivationMonitor"]
    assert ours._options == build_options({"max_overhead": None, "stop_on": "error", "loggers": "model"})
    assert ours.snapshots
    with pytest.raises(SystemExit):
        helped = "--trainer.callbacks.help=actdiag.lightning.ActivationMonitor"
        command(model, data, save_config_callback=None, args=["fit", helped])
    out = " ".join(capsys.readouterr().out.split())
    assert "share of the training time that observing may take" in out and "loggers LOGGERS" in out


def test_the_page_and_the_callback_have_every_option_from_config() -> None:
    assert "<!-- options -->" in PAGE
    for spec in fields(Options):
        assert f"    {spec.name}: {spec.metadata['doc']}" in described()
    assert ActivationMonitor.__init__.__doc__ == described()
