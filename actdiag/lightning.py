"""The Lightning door: `ActivationMonitor`, for `pytorch_lightning` and `lightning.pytorch`, either or both.

    from actdiag.lightning import ActivationMonitor
    Trainer(callbacks=[ActivationMonitor()])

It finds every logger of the trainer, writes at the logger's own step into the logger's own run (everything to
TensorBoard, curves to others), and records every `trainer.log_every_n_steps` steps unless told otherwise.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from actdiag.config import ConfigError, Options, build_options, changed_options, described, parameters
from actdiag.diagnose.finding import Finding
from actdiag.loggers import logged_step, trainer_writers
from actdiag.observed import Observed, Seen
from actdiag.outlet import Outlet
from actdiag.session import Session
from actdiag.snapshot import Snapshot
from actdiag.state import terms_of

__all__ = ["ActivationMonitor", "logged_step"]

logger = logging.getLogger("actdiag")

_IDENTITY = ("prefix", "include", "exclude")
"""What tells two callbacks of one Trainer apart. Everything else may change between a checkpoint and its resume."""
_PACKAGES = ("pytorch_lightning", "lightning.pytorch")


def _callback_bases() -> tuple[type, ...]:
    """The Callback class of every installed namespace: a callback of one is refused by the other's CLI."""
    packages = [name for name in _PACKAGES if find_spec(name.partition(".")[0]) is not None]
    found = [import_module(name).Callback for name in packages]
    if not found:
        raise ImportError("actdiag.lightning needs pytorch_lightning or lightning: pip install pytorch-lightning")
    return tuple(dict.fromkeys(found))


class _Hooks:
    """What happens at which of the trainer's hooks. Knows no Lightning class; both namespaces call it alike.

    Gradients are read in on_before_optimizer_step: unscaled there and not yet clipped. The step on the x-axis is
    the one Lightning's own loggers use, counted in batches that stepped.
    """

    def __init__(self, **options: Any) -> None:
        if options.get("log_every_n_steps", 0) is None:
            del options["log_every_n_steps"]
        self._given = options
        self._options = build_options(options)
        terms_of(self._options)  # what cannot be judged on is said now, and not when the training starts
        self._seen = Seen("this fit")
        self._saved: Mapping[str, Any] = {}
        self._loaded: Mapping[str, Any] | None = None
        self._step = 0
        self._begun = False
        self._backward = False
        self._stepped = False
        self._told: set[str] = set()

    # What the user reads ---------------------------------------------------------------------------------

    @property
    def findings(self) -> list[Finding]:
        """All findings of the last or running fit, oldest first."""
        return self._seen.findings

    @property
    def snapshots(self) -> list[Snapshot]:
        """The last 64 recorded steps."""
        return self._seen.snapshots

    @property
    def latest(self) -> Snapshot | None:
        """The last recorded step, or None."""
        return self._seen.latest

    def report(self) -> str:
        """A table of the sites, worst first, and the findings, as plain text."""
        return self._seen.report()

    @property
    def _session(self) -> Session | None:
        return None if self._seen.running is None else self._seen.running.session

    # The trainer's hooks ---------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """A new fit: what was kept of the last one is not its state, nor what a validation has loaded."""
        if stage == "fit":
            self._saved, self._loaded = {}, None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Build the session: after configure_model, strategy and compile wrap, before the sanity check."""
        self._end()
        self._begun = self._backward = self._stepped = False
        self._told.clear()
        loaded, self._loaded = self._loaded, None
        try:
            options = self._fitted(trainer)
            where = Path(trainer.log_dir or trainer.default_root_dir)  # asks every rank: a collective under DDP
            session = Session(pl_module, options, owner=trainer)
            self._seen.running = Observed(session)
            if (scaler := getattr(getattr(trainer, "precision_plugin", None), "scaler", None)) is not None:
                session.scaler.scaler = scaler
            if options.distributed == "off" or trainer.is_global_zero:
                session.outlet = Outlet(options, trainer_writers(trainer, options, where, self._say_once))
        except ConfigError:
            raise
        except Exception as error:
            logger.warning("actdiag: could not start (%s); the training goes on", error, exc_info=error)
        if loaded is not None:
            self.load_state_dict(loaded)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed fit must know; Lightning saves it with every checkpoint."""
        if self._session is not None and not self._session.closed:
            self._keep()
        return dict(self._saved)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. Lightning calls it before the fit starts, some strategies after."""
        if self._seen.running is None:
            self._loaded = state_dict
        elif state_dict:
            self._seen.running.load_state_dict(state_dict)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The first micro-batch of an optimizer step decides how the step is observed."""
        if self._session is not None and not self._begun:
            self._step = logged_step(trainer)
            self._session.epoch = int(trainer.current_epoch)
            self._begun, self._backward = True, False
            self._session.guarded(self._session.begin_step, self._step)
            # LBFGS and its kind evaluate a batch several times a step; it is one batch all the same.
            self._session.collector.single = any("max_iter" in one.defaults for one in trainer.optimizers)

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        """There are gradients of this step: a training_step that returns None makes none, and leaves old ones."""
        self._backward = True

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Gradients are unscaled and unclipped."""
        if self._session is None or not self._begun:
            return
        self._stepped = True
        if pl_module.automatic_optimization:
            # What other callbacks run at the end of the batch, in training mode, would be taken for training.
            self._session.guarded(self._session.rest)
            if not self._backward:
                self._session.guarded(self._session.postpone)
                return
        self._session.guarded(self._read, trainer, pl_module, optimizer)

    def _read(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        assert self._session is not None
        session = self._session
        if session.scaler.active:
            session.scaler.stepping()
        if session.mode != "record":
            return
        fused = session.scaler.active and getattr(optimizer, "_step_supports_amp_scaling", False)
        session.clip_known = session.clip_known and not fused
        session.scaler.note()
        # A LightningOptimizer shares the groups of the optimizer it wraps.
        session.before_update(trainer.optimizers, optimizer, fused=fused)
        if pl_module.automatic_optimization:  # else the module has clipped by itself before
            session.gradients_are_final()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After the batch that stepped, the step is over."""
        if self._session is None or not self._begun or not self._stepped:
            return
        self._begun = self._stepped = False
        self._session.guarded(self._finish, clipped_later=pl_module.automatic_optimization)
        if self._session.outlet.should_stop:
            trainer.should_stop = True

    def _finish(self, *, clipped_later: bool) -> None:
        assert self._session is not None
        self._session.scaler.note_updated()
        self._session.after_update(clipped_later=clipped_later)
        self._session.end_step(self._step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """A step that was begun and not made (LightningModule.on_train_batch_start gave -1) begins anew."""
        if self._session is not None and self._begun:
            self._begun = self._stepped = False
            self._session.guarded(self._session.begin_again, self._step)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """No hook stays on outside of training: it would disable fast paths and count what is not training."""
        if self._session is not None:
            self._session.guarded(self._session.pause)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """In the middle of an accumulated step the observation goes on."""
        if self._session is not None and self._begun:
            self._session.guarded(self._session.resume)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Leave the model as it was."""
        self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Lightning calls no teardown after an exception or Ctrl-C."""
        self._loaded = None
        self._end()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the model as it was."""
        self._end()

    # ---------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._keep()
        self._seen.end()

    def _keep(self) -> None:
        """Checkpoints are also saved after a fit, when the session is closed."""
        if self._seen.running is not None:
            self._saved = self._seen.running.state_dict() or self._saved

    @property
    def state_key(self) -> str:
        """Under which Lightning saves the state: by what is observed, so that other options may change at a resume."""
        return f"ActivationMonitor{changed_options(self._options, _IDENTITY)}"

    def _fitted(self, trainer: Any) -> Options:
        """The options of this fit: the trainer's own logging interval where none was given."""
        if "log_every_n_steps" in self._given or not getattr(trainer, "log_every_n_steps", 0):
            return self._options
        return build_options({**self._given, "log_every_n_steps": trainer.log_every_n_steps})

    def _say_once(self, key: str, message: str) -> None:
        if key not in self._told:
            self._told.add(key)
            logger.warning("actdiag: %s", message)

    def __getstate__(self) -> dict[str, Any]:
        """A callback travels to spawned processes without hooks, writers or a model.

        During a fit Lightning binds the model's `log` and `log_dict` to every callback.
        """
        state = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        return {**state, "_saved": {}}


_DOC = """Lightning callback: activation centering, saturation, dead units and gradient flow of the training.

Takes the options of `actdiag.config.Options`, keyword-only; `log_every_n_steps` defaults to the trainer's own.
Its state is saved with every checkpoint, and `fit(ckpt_path=...)` goes on from it: units keep their evidence, findings
are not told again, other options but prefix, include and exclude hold from then on. Two in one Trainer need different
`prefix`es (or `include`, `exclude`).
`findings`, `snapshots`, `latest` and `report()` can be read during and after a fit. Raises ConfigError at
construction for values that cannot work, and at the start of a fit for name patterns that leave no module; during
the training it raises nothing of its own (but FindingError, if `raise_on` asks for it).
"""


def _make() -> Any:
    """The callback class, on the base of every installed namespace.

    Its constructor carries the options in its signature, with types: LightningCLI, jsonargparse and IDEs read
    them there.
    """

    def init(self: Any, **options: Any) -> None:
        _Hooks.__init__(self, **options)

    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = parameters(log_every_n_steps=(None, int | None))  # the trainer's own
    init.__signature__ = inspect.Signature([itself, *own])  # type: ignore[attr-defined]
    init.__doc__ = described()
    return type(
        "ActivationMonitor",
        (_Hooks, *_callback_bases()),
        {"__doc__": _DOC, "__module__": __name__, "__init__": init},
    )


ActivationMonitor = _make()
