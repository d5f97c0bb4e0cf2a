"""Norms of parameters and gradients, and the hook that tells when a gradient has been accumulated.

Nothing here synchronizes or is collective. Sparse gradients are coalesced; of a tensor that is divided among ranks,
this rank's part is taken.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import Node
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


class _Hooked:
    """A parameter with its hook; `node`: on which it is, None if on the parameter itself."""

    def __init__(self, parameter: torch.nn.Parameter, hook: Accumulated, node: Node | None) -> None:
        self.of, self._hook = weakref.ref(parameter), hook
        self.put(parameter, node)

    def put(self, parameter: torch.nn.Parameter, node: Node | None) -> None:
        """Put the hook there."""
        self.node = node
        self.handle: RemovableHandle = (
            parameter.register_post_accumulate_grad_hook(self._hook)  # type: ignore[no-untyped-call]
            if node is None
            else node.register_hook(self._hook)
        )


class Hooks:
    """Hooks on the parameters of one model, until `remove`.

    torch goes on calling into Python for a parameter that had a post-accumulate hook once (1 to 2 us a backward, for
    good). So on the CPU the hook is put on the node that accumulates, which is gone with the graph of the step; a
    tensor that is moved or converted in between gets another node, and `renew` finds out. On other devices the node
    belongs to the stream on which it was made: made by us it would be in the way of a CUDA graph. `lasting`: the
    parameters have the hooks themselves.
    """

    def __init__(self, *, lasting: bool) -> None:
        self._lasting = lasting
        self._hooked: list[_Hooked] = []
        self._followed = False

    def put(self, given: list[tuple[torch.nn.Parameter, Accumulated]]) -> None:
        """Put a hook on each parameter; they must be leaves that require a gradient."""
        nodes: list[Node | None] = (
            [None] * len(given) if self._lasting else nodes_of([parameter for parameter, _ in given])
        )
        self._hooked += [_Hooked(*one, node) for one, node in zip(given, nodes, strict=True)]
        self._followed = False

    def renew(self) -> None:
        """Follow the parameters to the nodes that they have now: once, where a backward may follow."""
        if self._followed or not torch.is_grad_enabled():
            return
        self._followed = True
        held = [(p, one) for one in self._hooked if one.node is not None and (p := one.of()) is not None]
        held = [(p, one) for p, one in held if p.requires_grad]
        for (parameter, one), node in zip(held, nodes_of([p for p, _ in held]), strict=True):
            if node is not one.node:
                one.handle.remove()
                one.put(parameter, node)

    def remove(self, *_: object) -> None:
        """Take them off: at the end of a step, or when the model is gone, since a node holds its parameter."""
        for one in self._hooked:
            one.handle.remove()
        self._hooked.clear()


def nodes_of(parameters: list[torch.nn.Parameter]) -> list[Node | None]:
    """The nodes that accumulate their gradients; None for one of another device or kind, which keeps its hook.

    As `torch.autograd.graph.get_gradient_edge` finds them, which takes four times as long.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch._C.DisableTorchFunction():
        return [_node_of(parameter) if _has_node(parameter) else None for parameter in parameters]


def _has_node(p: torch.nn.Parameter) -> bool:
    return type(p) is torch.nn.Parameter and p.is_cpu and p.layout == torch.strided


def _node_of(p: torch.nn.Parameter) -> Node | None:
    made = p.view_as(p).grad_fn
    return None if made is None else made.next_functions[0][0]


def queue_callback(work: Callable[[], None]) -> None:
    """Have the running backward call this at its end, after what was asked before."""
    torch.autograd.Variable._execution_engine.queue_callback(work)
