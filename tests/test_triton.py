"""The reducer of a GPU: its kernels interpreted, compiled, run where there is a GPU; and what torch does instead."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from actdiag.collect import triton_reducer
from actdiag.collect.fused import reducer
from actdiag.collect.layout import Units, arrange
from actdiag.collect.plan import table_of
from actdiag.collect.reducing import Asked, Eager, Reduction
from actdiag.collect.tiling import Limits, tiling_of
from actdiag.collect.triton_reducer import Triton
from tests.reductions import EVERYTHING, FACTS, INTO, known, same, tensor_of
from tests.regimes import regime

ROOT = Path(__file__).resolve().parent.parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton; pip install triton")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")


# The kernels --------------------------------------------------------------------------------------------


@regime(
    "never in the way",
    "tensors of a GPU (CUDA, 16 and 32 bits)",
    exact="counts, ends, octaves; the same tensor gives the same bits",
    approximate="mean and spread of a unit to 5e-6, a gate to 1e-5. Proven by Triton's interpreter, and compiled "
    "for GPUs: the kernels have not run on one",
)
@needs_triton
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_run_by_the_interpreter_they_give_what_the_eager_functions_give(which: str, tmp_path: Path) -> None:
    """In a process of its own: see interpreted_triton.py."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", which]
    done = subprocess.run(
        [*command, "tests/interpreted_triton.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


POINTERS = {
    "table": "*fp32", "units_K5C": "*fp64", "open_KC": "*i32", "sums_5B": "*fp64", "octaves_BE": "*i32",
    "columns_5C": "*fp64", "open_C": "*fp64", "sums_6": "*fp64", "octaves_E": "*i64",
}  # fmt: skip
NUMBERS = ("closed_low", "closed_high", "low_end", "high_end", "a", "b", "c")
TILES = [
    ({"BS": 64, "BP": 1, "BC": 64}, {"step_unit": 1, "positions": 1, "UNITS_LAST": True}),
    ({"BS": 16, "BP": 64, "BC": 4}, {"step_position": 1, "UNITS_LAST": False}),
    ({"BS": 1, "BP": 1024, "BC": 4}, {"step_position": 1, "UNITS_LAST": False}),
]
EVEN = ("x", "units", "positions", "step_sample", "step_position", "step_unit")
"""Arguments that are multiples of 16 here."""


def machine_code(kernel: Any, dtype: str, given: dict[str, Any], capability: int) -> str:
    """PTX of a kernel for a GPU that need not be there, assembled too."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {**POINTERS, **dict.fromkeys(NUMBERS, "fp32"), "x": dtype}
    signature = {name: "constexpr" if name in given else types.get(name, "i32") for name in kernel.arg_names}
    even = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name in EVEN and name not in given
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=given, attrs=even)
    options = {"num_warps": 8, "enable_fp_fusion": False}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert made.asm["cubin"]
    text: str = made.asm["ptx"]
    return text


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("TRITON_INTERPRET is set; unset it")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@needs_triton
@pytest.mark.parametrize(
    ("dtype", "form", "tile", "capability"),
    [("*bf16", 1, 2, 80), pytest.param("*fp16", 2, 2, 75, marks=pytest.mark.slow)]
    + [
        pytest.param(dtype, form, (form + i) % 3, 80 + 10 * (form % 2), marks=pytest.mark.slow)
        for i, dtype in enumerate(("*fp32", "*bf16", "*fp16"))
        for form in range(4)
    ],
)
def test_reading_a_tensor_compiles_for_a_gpu_and_reads_neighbours_together(
    dtype: str, form: int, tile: int, capability: int, compiling: None
) -> None:
    from actdiag.collect.triton_kernel import reduce_parts

    sizes, layout = TILES[tile]
    asked = {"MOMENTS": True, "GATE": True, "FORM": form, "OPEN": True} | ({} if form == 3 else {"table": None})
    text = machine_code(reduce_parts, dtype, {**asked, **sizes, **layout}, capability)
    assert "ld.global.v4.b32" in text and "atom.global" not in text and "red.global" not in text


@needs_triton
@pytest.mark.slow
def test_gradients_and_merging_compile_for_a_gpu(compiling: None) -> None:
    from actdiag.collect.triton_kernel import gradient_parts
    from actdiag.collect.triton_merge import merge_parts

    for dense in (True, False):
        text = machine_code(gradient_parts, "*bf16", {"DENSE": dense, "SIZE": 2048}, 80)
        assert "atom.global" not in text and "red.global" not in text
    blocks = {"BK": 64, "BC": 16, "SUMS": True, "OCTAVES": True}
    machine_code(merge_parts, "*fp32", {**blocks, "MOMENTS": True, "OPEN": True}, 80)
    nothing = dict.fromkeys(("units_K5C", "open_KC", "columns_5C", "open_C"))
    machine_code(merge_parts, "*fp32", {**blocks, **nothing, "MOMENTS": False, "OPEN": False}, 80)


class Pretended:
    """A driver of a GPU that is not there: enough to compile for it."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def compiled(compiling: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of kernels that launches would have run: they are compiled as for a launch, and that is all."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    run, names = JITFunction.run, []

    def compile_only(self: Any, *args: Any, **options: Any) -> Any:
        names.append(self.fn.__name__)
        return run(self, *args, **{**options, "warmup": True})

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(driver, "_active", Pretended())
    return names


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which other tests use")
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 4, 14, 14), torch.bfloat16)]
    + [pytest.param(*case, marks=pytest.mark.slow) for case in (((128, 64), torch.float32), ((7,), torch.float16))],
)
def test_every_launch_compiles_whatever_is_asked_for(
    shape: tuple[int, ...], dtype: torch.dtype, compiled: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="actdiag")
    made, x = Triton(device="cpu"), torch.zeros(shape, dtype=dtype)
    units = arrange(x, min(1, max(x.ndim - 1, 0)))
    recorded, watched, read = Asked(moments=True, octaves=True), Asked(open=True), Asked(gate=True, open=True)
    for name, wanted in (("none", recorded), ("RELU", watched), ("GELU", EVERYTHING), ("TANH", read)):
        made.reduce(units, FACTS[name], wanted)
        assert compiled == ["reduce_parts", "merge_parts"]
        compiled.clear()
    for g, octaves in ((x, False), (x.transpose(0, min(1, x.ndim - 1)), True)):
        made.gradient(g, octaves=octaves)
        assert compiled == ["gradient_parts", "merge_parts"]
        compiled.clear()
    assert [r.getMessage() for r in caplog.records if r.name == "actdiag"] == []


# Tiles --------------------------------------------------------------------------------------------------

LIMITS = [Limits(), Limits(64, 16, 8, 4), Limits(16, 64, 32, 8), Limits(1, 1, 1, 1)]
sizes = st.sampled_from([1, 2, 3, 4, 7, 16, 17, 64, 65, 300, 1000, 4096, 50257, 10**6])


@settings(max_examples=500, deadline=None)
@given(st.tuples(sizes, sizes, sizes), st.booleans(), st.sampled_from(LIMITS))
def test_tiles_cover_a_tensor_once_within_the_limits(
    shape: tuple[int, int, int], units_inner: bool, limits: Limits
) -> None:
    samples, positions, units = shape
    t = tiling_of(shape, units_inner=units_inner, limits=limits)
    assert t.at_once * t.positions * t.units == limits.tile
    for n, size, blocks in (
        (samples, t.at_once, t.groups * t.per_group),
        (positions, t.positions, t.splits * t.per_split),
        (units, t.units, t.unit_tiles),
    ):
        assert blocks * size >= n, "nothing is left out"
    assert (t.groups - 1) * t.per_group * t.at_once < samples, "no group is empty"
    assert (t.splits - 1) * t.per_split * t.positions < positions, "no split is empty"
    assert t.splits == 1 or (t.at_once == 1 and t.per_group == 1), "a split has a piece of one sample"
    assert t.parts <= limits.parts and t.splits <= limits.splits
    assert t.programs <= max(limits.programs, t.unit_tiles)


@pytest.mark.parametrize(
    ("shape", "inner", "least"),
    [((8192, 1, 4096), True, 512), ((32, 3136, 64), False, 512), ((1, 10**6, 3), False, 60)],
)
def test_a_large_tensor_is_divided_among_many_programs(shape: tuple[int, int, int], inner: bool, least: int) -> None:
    assert tiling_of(shape, units_inner=inner, limits=Limits()).programs >= least


# When torch does the work -------------------------------------------------------------------------------


def test_without_cuda_in_torch_or_by_wish_there_is_no_reducer_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACTDIAG_FUSED", raising=False)
    for version, fused_wanted, found in ((None, "1", False), ("13.0", "1", True), ("13.0", "0", False)):
        monkeypatch.setattr(torch.version, "cuda", version)
        monkeypatch.setenv("ACTDIAG_FUSED", fused_wanted)
        assert isinstance(reducer(), Triton) == found


def test_a_tensor_of_the_cpu_has_the_reducer_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Host(Eager):
        def reduce(self, *args: Any) -> Reduction:
            seen.append("reduce")
            return super().reduce(*args)

    made = Triton(Host())
    monkeypatch.setattr(triton_reducer, "_launch", None)
    x = torch.randn(4, 3)
    same(
        made.reduce(arrange(x, 1), FACTS["RELU"], EVERYTHING),
        Eager().reduce(arrange(x, 1), FACTS["RELU"], EVERYTHING),
        12,
    )
    assert seen == ["reduce"] and torch.equal(made.gradient(x, octaves=False)[0], Eager().gradient(x, octaves=False)[0])


@pytest.mark.parametrize("failing", ["import", "launch"])
def test_what_fails_is_tried_once_and_torch_goes_on(
    failing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[str] = []

    def fail(*args: Any) -> Reduction:
        tried.append("launch")
        raise RuntimeError("no such device function")

    if failing == "import":
        for name in ("triton", "actdiag.collect.triton_kernel", "actdiag.collect.triton_merge"):
            monkeypatch.setitem(sys.modules, name, None)
    else:
        monkeypatch.setattr(triton_reducer, "_launch", fail)
        monkeypatch.setattr(triton_reducer, "_launch_gradient", fail)
    caplog.set_level(logging.DEBUG, logger="actdiag")
    made, x = Triton(device="cpu"), torch.randn(4, 3)
    units = arrange(x, 1)
    for _ in range(3):
        same(made.reduce(units, FACTS["TANH"], EVERYTHING), Eager().reduce(units, FACTS["TANH"], EVERYTHING), 12)
        assert torch.equal(made.gradient(x, octaves=False)[0], Eager().gradient(x, octaves=False)[0])
    assert [r.levelname for r in caplog.records] == ["DEBUG"] and "no Triton kernel" in caplog.text
    assert len(tried) == (failing == "launch")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Tensor | None]:
    """The tables that launches are given."""
    seen: list[Tensor | None] = []

    def launch(units: Units, known: Any, asked: Asked, arena: Any) -> Reduction:
        seen.append(known.table)
        return Reduction()

    monkeypatch.setattr(triton_reducer, "_launch", launch)
    return seen


@regime(
    "never in the way",
    "reductions inside a CUDA graph that is captured",
    exact="what ran before the capture, in any replay; other layouts are torch's, so that nothing is compiled. "
    "Tested with a capture that is pretended: not run on a GPU",
)
def test_in_a_graph_only_what_has_run_before_is_launched_and_no_table_is_shared(
    launched: list[Tensor | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Triton(device="cpu")
    small, large = (arrange(torch.randn(n, 3), 1) for n in (4, 5))
    made.reduce(small, FACTS["GELU"], EVERYTHING)
    made.reduce(small, FACTS["GELU"], EVERYTHING)
    assert launched[0] is not None and launched[1] is launched[0]
    monkeypatch.setattr(triton_reducer, "capturing", lambda device: True)
    found = made.reduce(large, FACTS["GELU"], EVERYTHING)
    assert len(launched) == 2 and found.columns_5C is not None, "it may have to be compiled: torch does it"
    made.reduce(small, FACTS["GELU"], EVERYTHING)
    assert launched[2] is not None and launched[2] is not launched[0] and torch.equal(launched[2], launched[0])
    assert made.gradient(small.x, octaves=False)[0].shape == (4,)


def test_what_is_remembered_of_layouts_does_not_grow_without_end(
    launched: list[Tensor | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_reducer, "_MOST_KNOWN", 5)
    made = Triton(device="cpu")
    for n in range(1, 20):
        made.reduce(arrange(torch.randn(n, 3), 1), FACTS["GELU"], EVERYTHING)
        assert len(made._known) <= 5
    assert len({id(table) for table in launched}) == 1


def test_a_layout_is_not_taken_for_another(launched: list[Tensor | None], monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = Triton(device="cpu"), torch.randn(8, 8)
    made.reduce(arrange(x, 1), FACTS["RELU"], EVERYTHING)
    monkeypatch.setattr(triton_reducer, "capturing", lambda device: True)
    others = [x.t(), x.half(), x[:7], torch.randn(65)[1:].view(8, 8)]
    for other in others:
        made.reduce(arrange(other, 1), FACTS["RELU"], EVERYTHING)
    made.reduce(arrange(x, 0), FACTS["RELU"], EVERYTHING)
    made.reduce(arrange(x, 1), FACTS["RELU"], Asked(open=True))
    made.reduce(arrange(x, 1), FACTS["RELU6"], EVERYTHING)
    assert len(launched) == 1
    made.reduce(arrange(x + 1, 1), FACTS["RELU"], EVERYTHING)
    assert len(launched) == 2


def test_the_entries_of_a_table_are_of_the_device_and_without_a_sign_lost() -> None:
    table = table_of(FACTS["GELU"], torch.device("cpu"))  # type: ignore[arg-type]
    assert table is not None and table.dtype == torch.float32 and table.shape == (8193,) and float(table.min()) < 0
    assert table_of(FACTS["RELU"], torch.device("cpu")) is None  # type: ignore[arg-type]


# On a GPU -----------------------------------------------------------------------------------------------


@needs_gpu
@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(5, 3), (4000, 300), (2, 3, 4, 5), (33, 20, 40, 31), (2, 70, 30), (1, 2, 300, 300)])
@pytest.mark.parametrize("memory", ["plain", "channels_last", "strided", "transposed"])
def test_on_a_gpu_nothing_synchronizes_and_the_numbers_are_those_of_float64(
    dtype: torch.dtype, shape: tuple[int, ...], memory: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="actdiag")
    x = tensor_of(shape, seed=2, dtype=dtype, bad=0.01, memory=memory)
    for name in sorted(set(FACTS) - {"none"}):
        host = arrange(INTO[name](x) if name in INTO else x, 1)
        device = Units(host.x.cuda(), host.unit_dim)
        made = Triton()
        made.reduce(device, FACTS[name], EVERYTHING)
        torch.cuda.set_sync_debug_mode("error")
        try:
            found, again = (made.reduce(device, FACTS[name], EVERYTHING) for _ in range(2))
            gradient, octaves = made.gradient(device.x, octaves=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True) if a is not None and b is not None)
        expected = Eager().reduce(host, FACTS[name], EVERYTHING)
        same(Reduction(*(part.cpu() for part in found if part is not None)), expected, x.numel(), near=5e-6)
        truth, counts = Eager().gradient(host.x, octaves=True)
        assert gradient.tolist() == pytest.approx(truth.tolist(), rel=1e-9)
        assert octaves is not None and counts is not None and known(octaves) == known(counts)
    assert "no Triton kernel" not in caplog.text


@needs_gpu
@needs_triton
@pytest.mark.parametrize("name", ["RELU", "GELU", "ELU"])
def test_a_graph_that_was_captured_reduces_what_it_is_given_later(name: str) -> None:
    x, made = torch.randn(64, 300, device="cuda"), Triton()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            made.reduce(arrange(x, 1), FACTS[name], EVERYTHING)
            made.gradient(x, octaves=True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = made.reduce(arrange(x, 1), FACTS[name], EVERYTHING)
        gradient, _ = made.gradient(x, octaves=True)
        unknown = made.reduce(arrange(x[:63], 1), FACTS[name], EVERYTHING)
    x.copy_(torch.randn(64, 300) * 3)
    graph.replay()
    for part, rows in ((found, 64), (unknown, 63)):
        expected = Eager().reduce(arrange(x[:rows].cpu(), 1), FACTS[name], EVERYTHING)
        same(Reduction(*(value.cpu() for value in part if value is not None)), expected, rows * 300, near=5e-6)
    assert gradient.tolist() == pytest.approx(Eager().gradient(x.cpu(), octaves=False)[0].tolist(), rel=1e-9)
