"""Norms of parameters and gradients, and the hook that tells when a gradient has been accumulated.

Nothing here synchronizes or is collective. Sparse gradients are coalesced; of a tensor that is divided among ranks,
this rank's part is taken.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from actdiag.collect.records import ParameterRecord
from actdiag.collect.spread import local

UPDATE_SAMPLE = 1 << 18
"""Elements of a parameter from which its update ratio is taken; larger ones are sampled at an odd stride, which
bounds the copy at 1 MB a parameter (relative standard error about 0.2 %)."""


def squares(tensors: list[Tensor]) -> list[Tensor]:
    """Sums of squares in float64, 0-d, of dense tensors; float32 norms of gradients below 1e-23 are exactly 0."""
    if not tensors:
        return []
    out = torch.float32 if any(x.device.type == "mps" for x in tensors) else torch.float64
    filled = [_real(x.detach()) if x.numel() else torch.zeros(1, device=x.device) for x in tensors]
    return [norm.square() for norm in torch._foreach_norm(filled, 2, dtype=out)]


def has_norm(x: Tensor) -> bool:
    """Whether a parameter has numbers to take a norm of: not integers, float8, quantized ones, or a shape on meta."""
    return (x.dtype in _WITH_NORM or x.is_complex()) and not (x.is_quantized or x.is_meta)


_WITH_NORM = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def dense(x: Tensor) -> Tensor:
    """This rank's part of a gradient without its graph; of a sparse one, the values that it has."""
    x = local(x.detach())
    if x.layout == torch.sparse_coo:
        return x.coalesce().values()
    return x


def sample(x: Tensor) -> Tensor:
    """This rank's part of a parameter, flat; of a large one at most UPDATE_SAMPLE elements or a few more. A view."""
    flat = local(x.detach()).reshape(-1)
    return flat if flat.numel() <= UPDATE_SAMPLE else flat[:: (flat.numel() // UPDATE_SAMPLE) | 1]


class Accumulated:
    """Hook of one parameter: has its gradient read when the backward is over. Copies are inert."""

    def __init__(
        self,
        record: ParameterRecord | None,
        of: Callable[[], torch.nn.Parameter | None],
        fail: Callable[[str, Exception], None] | None,
        ask: Callable[[torch.nn.Parameter, ParameterRecord], None] | None,
    ) -> None:
        """`of`: gives the parameter, while it is alive."""
        self._record, self._of, self._fail, self._ask = record, of, fail, ask

    def __call__(self, *_: object) -> None:
        # What another loss adds after the optimizer has stepped (a GAN's generator, to the discriminator) is not
        # of this update.
        record, parameter = self._record, self._of()
        if record is None or parameter is None or parameter.grad is None:
            return
        if record.taken:
            record.mixed = True
            return
        record.fresh = True
        try:
            if self._ask is not None:
                self._ask(parameter, record)
        except Exception as error:
            if self._fail is not None:
                self._fail(record.name, error)

    def __deepcopy__(self, memo: object) -> Accumulated:
        return inert()

    def __reduce__(self) -> tuple[Callable[[], Accumulated], tuple[()]]:
        return inert, ()


def inert() -> Accumulated:
    """A hook that does nothing: what a copy of one is."""
    return Accumulated(None, lambda: None, None, None)


class Hooked:
    """A hook on a parameter, until `remove`.

    torch goes on calling into Python for a parameter that had a post-accumulate hook once (1 to 2 us a backward, for
    good). So on the CPU the hook is put on the node that accumulates, which is gone with the graph of the step; a
    tensor that is moved or converted in between gets another node, and `renew` finds out. On other devices the node
    belongs to the stream on which it was made: made by us it would be in the way of a CUDA graph. `lasting`: the
    parameter has the hook itself.
    """

    def __init__(self, hook: Accumulated, parameter: torch.nn.Parameter, *, lasting: bool) -> None:
        self._hook, self._of, self._lasting = hook, weakref.ref(parameter), lasting
        self._put(parameter, None if lasting else node_of(parameter))

    def _put(self, parameter: torch.nn.Parameter, node: Node | None) -> None:
        self._node = node
        self._handle: RemovableHandle = (
            parameter.register_post_accumulate_grad_hook(self._hook)  # type: ignore[no-untyped-call]
            if node is None
            else node.register_hook(self._hook)
        )

    def renew(self) -> None:
        """Follow the parameter to the node that it has now."""
        parameter = self._of()
        if self._node is None or parameter is None or not parameter.requires_grad:
            return
        node = node_of(parameter)
        if node is not self._node:
            self.remove()
            self._put(parameter, node)

    def remove(self) -> None:
        """Take it off."""
        self._handle.remove()


def node_of(parameter: torch.nn.Parameter) -> Node | None:
    """The node that accumulates a leaf's gradient; None for one of another device or kind, which keeps its hook."""
    if type(parameter) is not torch.nn.Parameter or not parameter.is_cpu or parameter.layout != torch.strided:
        return None
    with torch.inference_mode(False), torch._C.DisableTorchFunction():
        return get_gradient_edge(parameter).node


def queue_callback(work: Callable[[], None]) -> None:
    """Have the running backward call this at its end, after what was asked before."""
    torch.autograd.Variable._execution_engine.queue_callback(work)
