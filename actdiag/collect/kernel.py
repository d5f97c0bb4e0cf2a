"""The C kernel of kernel.c: compiled where a compiler is found and kept in the user's cache; None elsewhere.

Measured on a tensor of 10 million float32 (docs/cost.md): numba is 2.5 to 4 times slower and a large dependency,
inductor takes seconds to compile and 0.5 ms a call. A C source takes half a second, once a machine.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

logger = logging.getLogger("actdiag")

SOURCE = Path(__file__).with_name("kernel.c")
FLAGS = ("-O3", "-march=native", "-fPIC", "-shared")
_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 60

_POINTER, _WHOLE, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_ARGUMENTS = {
    "actdiag_reduce": (_POINTER, _POINTER, _WHOLE, _WHOLE, *[_POINTER] * 6),
    "actdiag_gradient": (_POINTER, _LONG, _POINTER, _LONG, _POINTER),
    "actdiag_squares": (_POINTER, _POINTER, _LONG, _POINTER, _POINTER),
    "actdiag_keep": (*[_POINTER] * 3, _LONG, _POINTER),
    "actdiag_updates": (*[_POINTER] * 4, _LONG, _POINTER, _POINTER),
}


@cache
def kernel() -> ctypes.CDLL | None:
    """The kernel, compiled if need be (half a second); None where there is no compiler, or it fails. Never raises.

    ACTDIAG_FUSED=0 in the environment leaves it out.
    """
    if os.environ.get("ACTDIAG_FUSED", "1") == "0":
        return None
    try:
        compiler = _compiler()
        return None if compiler is None else _load(_library(compiler))
    except Exception as error:
        logger.debug("actdiag: no kernel, statistics are computed by torch (%s)", error)
        return None


def _compiler() -> str | None:
    wanted = os.environ.get("CC", "").split()
    return next((found for name in (*wanted[:1], *_COMPILERS) if (found := shutil.which(name))), None)


def _library(compiler: str) -> Path:
    """The shared library of this source for this processor; a new one takes its place at once or not at all."""
    path = _folder() / f"kernel-{_digest(compiler)}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / "kernel.so"
            command = [compiler, *FLAGS, "-o", str(built), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            os.replace(built, path)
    return path


def _folder() -> Path:
    """A folder that belongs to this user: nobody else may put a library there."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "actdiag"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK) and _is_own(folder):
            return folder
    except OSError:
        pass
    return _throwaway()


def _is_own(folder: Path) -> bool:
    """Whether this user owns it and nobody else may write to it: what lies there is loaded into the process."""
    told = folder.stat()
    return not hasattr(os, "getuid") or (told.st_uid == os.getuid() and not told.st_mode & 0o022)


@cache
def _throwaway() -> Path:
    return Path(tempfile.mkdtemp(prefix="actdiag-"))


def _digest(compiler: str) -> str:
    """Names source, flags, compiler and processor: a home folder may be shared by machines of several kinds."""
    parts = [SOURCE.read_bytes(), " ".join(FLAGS).encode(), compiler.encode(), _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    told = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return f"{platform.machine()} {told}"


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library
