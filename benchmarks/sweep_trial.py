"""One model trained without and with a monitor: is its training untouched, and is every module accounted for?"""

from __future__ import annotations

import collections
import copy
import hashlib
import logging
import random
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from tiny_models import batches, with_places
from torch import Tensor, nn

import actdiag
from actdiag.collect.layout import refusal
from actdiag.collect.sites import _PASSIVE, UNHOOKABLE

STEPS = 2


def accepted(model: nn.Module) -> dict[str, Any]:
    """The first batch that a copy of the model trains on. Image tokens are put into the text where they are missed."""
    last, scratch = None, copy.deepcopy(model)
    for batch in batches(model):
        for _ in range(2):
            try:
                backward(scratch, batch)
            except Exception as error:
                last = error
                missed = re.search(r"tokens: 0,? .*?features:? (\d+)", str(error))
                if missed is None or batch["input_ids"].ndim != 2:
                    break
                batch = batch | {"input_ids": with_places(model.config, batch["input_ids"], int(missed[1]))}
            else:
                return batch
    raise last or ValueError("no batch")


def floats(value: Any) -> list[Tensor]:
    """All floating-point tensors in an output."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() and value.numel() else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in inner for tensor in floats(item)]


def backward(model: nn.Module, batch: dict[str, Any]) -> list[Tensor]:
    """Forward and backward of a scalar that no normalization makes constant: outputs weighted by a wave."""
    out = floats(model(**copy.deepcopy(batch)))
    live = [tensor.float() for tensor in out if tensor.requires_grad]
    loss = sum((t * torch.arange(t.numel()).reshape(t.shape).cos()).mean() for t in live)
    loss.backward()
    return out


def bits(tensors: Iterable[Tensor | None]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(b"-" if tensor is None else tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def seed() -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)


def train(model: nn.Module, batch: dict[str, Any], observer: Any = None) -> dict[str, str]:
    """Fingerprints of everything that two steps make."""
    seed()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    monitor = observer(model, optimizer) if observer else None
    prints = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        prints[f"outputs {step}"] = bits(backward(model, batch))
        prints[f"gradients {step}"] = bits(p.grad for p in model.parameters())
        optimizer.step()
        prints[f"weights {step}"] = bits([*model.parameters(), *model.buffers()])
    if monitor is not None:
        monitor.close()
    state = random.getstate(), np.random.get_state()
    return prints | {"random state": bits([torch.get_rng_state()]) + hashlib.sha256(repr(state).encode()).hexdigest()}


class Observer:
    """Makes the monitor, keeps what it says of the first step, and its complaints."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.sites: dict[str, Any] = {}
        self.unseen: dict[str, str] = {}
        self.snapshots = 0

    def __call__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> actdiag.Monitor:
        self._monitor = actdiag.Monitor(
            model, optimizer, writers=[self], log_every_n_steps=1, watch_every_n_steps=1, max_overhead=None
        )
        return self._monitor

    def write(self, snapshot: Any, changes: Any) -> None:
        """As a writer it is called before the sites of the step are cleared."""
        self.snapshots += 1
        if self.snapshots == 1:
            self.sites, self.unseen = dict(snapshot.sites), self._monitor._session.collector.unseen()

    def close(self) -> None:
        """Nothing to close."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Collects the warnings that something of ours was switched off."""
        handler, log = logging.Handler(logging.WARNING), logging.getLogger("actdiag")
        handler.emit = lambda record: self.complaints.append(record.getMessage())  # type: ignore[method-assign]
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)


def witness(model: nn.Module, batch: dict[str, Any]) -> dict[str, str]:
    """Leaf -> how it ran in the first step, by counting hooks on a copy."""
    seed()
    model.train()
    ran: dict[str, str] = {}

    def note(name: str, module: nn.Module, args: Any, out: Any) -> None:
        out = floats(out)
        usable = torch.is_grad_enabled() and out and refusal(out[0]) is None
        ran[name] = "measurable" if usable or ran.get(name) == "measurable" else "run without gradients or numbers"

    for name, module in model.named_modules():
        if not any(True for _ in module.children()) and type(module).forward is not nn.Module.forward:
            ran[name] = "idle"
            module.register_forward_hook(partial(note, name))
    backward(model, batch)
    return ran


def hooks(model: nn.Module) -> list[str]:
    """Every hook on a model, named."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    found = [
        f"{name}.{kind}" for name, module in model.named_modules() for kind in kinds for _ in getattr(module, kind)
    ]
    marks = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return found + [
        f"{name}.{mark}" for name, p in model.named_parameters() for mark in marks if getattr(p, mark, None)
    ]


def account(model: nn.Module, observer: Observer, ran: dict[str, str]) -> tuple[list[str], int]:
    """Leaves whose fate is told wrongly or not at all, and how many are left out by design."""
    seen = {name.partition("#")[0] for name in observer.sites}
    modules = dict(model.named_modules())
    inside = tuple(f"{name}." for name, module in modules.items() if isinstance(module, nn.MultiheadAttention)) or (
        "-",
    )
    wrong, left_out = [], 0
    for name, how in ran.items():
        told, known = observer.unseen.get(name), name or type(modules[name]).__name__
        if (
            isinstance(modules[name], (*_PASSIVE, *UNHOOKABLE))
            or name.startswith(inside)
            or ".parametrizations." in name
        ):
            left_out += 1
        elif known in seen:
            wrong += [f"{name} has a site and did not run"] if how == "idle" else []
        elif told is None:
            wrong.append(f"{name} ({type(modules[name]).__name__}, {how}) is neither seen nor named as unseen")
        elif (how != "idle") == (told == "it was not called"):
            wrong.append(f"{name} ({type(modules[name]).__name__}) is {how}, reported: {told}")
        elif how == "measurable":
            wrong.append(f"{name} is measurable, reported: {told}")
    return wrong, left_out


def judge(model: nn.Module, batch: dict[str, Any]) -> dict[str, Any]:
    """Trains copies of a model without and with a monitor and compares."""
    bare, again, watched, counted = (copy.deepcopy(model) for _ in range(4))
    observer = Observer()
    plain, before = train(bare, batch), hooks(bare)
    with observer.listening():
        observed = train(watched, batch, observer)
    faults = [f"{key} differ" for key in plain if plain[key] != observed[key]]
    if faults and plain != train(again, batch):
        return {"verdict": "not reproducible", "note": "two bare trainings differ"}
    faults += [text for text in observer.complaints if re.search("switched off|failed|raised|internal", text)]
    faults += [f"hook left: {hook}" for hook in hooks(watched) if hook not in before]
    faults += [f"{observer.snapshots} of {STEPS} steps recorded"] if observer.snapshots != STEPS else []
    wrong, left_out = account(model, observer, witness(counted, batch))
    faults += wrong
    reasons = collections.Counter(observer.unseen.values())
    more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
    verdict = {"verdict": "ours", "note": "; ".join(faults[:4]) + more} if faults else {}
    return verdict | {"sites": len(observer.sites), "unseen": dict(reasons), "left_out": left_out}
