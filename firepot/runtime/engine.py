"""From kernels to the addresses of native functions: memory, then disk, then LLVM.

    addresses = load(kernels)         # one tuple of function addresses a kernel, in the order of its phases

Loaded code stays for the life of the process: programs may run it at any time, worker threads until the very
end.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from firepot.kernels.kernel import Kernel
from firepot.runtime import object_code
from firepot.runtime.code_cache import CodeCache, default_folder
from firepot.runtime.compilation import Request, compile_all
from firepot.runtime.object_code import CompileError
from firepot.runtime.processor import processor

__all__ = [
    "CompileError", "Statistics", "assembly", "code_cache", "load", "load_module", "optimised_text",
    "reset_statistics", "statistics",
]  # fmt: skip


@dataclass(frozen=True)
class Statistics:
    """What the engine did since the process started (or since `reset_statistics`)."""

    compiled: int = 0
    cache_hits: int = 0
    reused: int = 0


_lock = threading.RLock()
_addresses: dict[str, tuple[int, ...]] = {}
_statistics = Statistics()


def load(kernels: Sequence[Kernel]) -> list[tuple[int, ...]]:
    """Addresses of the native functions of `kernels`: one tuple a kernel, one address a phase.

    Raises CompileError where LLVM refuses what a generator printed: it names the kernel and holds
    LLVM's words.
    """
    with _lock:
        missing = {kernel.key: kernel for kernel in kernels if kernel.key not in _addresses}
        _count(reused=len(kernels) - len(missing))
        if missing:
            _load_missing(list(missing.values()))
        return [_addresses[kernel.key] for kernel in kernels]


def load_module(key: str, text: str, functions: tuple[str, ...]) -> tuple[int, ...]:
    """Addresses of `functions` in the LLVM module `text`; `key` is as a kernel's."""
    return load([Kernel(key=key, generate=lambda: text, phases=functions, label=key.partition("\n")[0])])[0]


def statistics() -> Statistics:
    return _statistics


def reset_statistics() -> None:
    global _statistics
    _statistics = Statistics()


def optimised_text(kernel: Kernel) -> str:
    """The kernel's module after LLVM's optimiser, as text: for people who look into a kernel."""
    host = processor()
    names = {phase: phase for phase in kernel.phases}
    return str(object_code.optimise(kernel.generate(), names, host.triple, host.name, host.features))


def assembly(kernel: Kernel) -> str:
    """The kernel's machine code as the assembler writes it: for people who look into a kernel."""
    host = processor()
    names = {phase: phase for phase in kernel.phases}
    target = (host.triple, host.name, host.features)
    module = object_code.optimise(kernel.generate(), names, *target)
    return str(object_code.target_machine(*target).emit_assembly(module))


@functools.cache
def code_cache() -> CodeCache:
    """The disk cache of this process."""
    return CodeCache(default_folder())


def _count(**more: int) -> None:
    global _statistics
    _statistics = replace(_statistics, **{name: getattr(_statistics, name) + number for name, number in more.items()})


def _load_missing(kernels: list[Kernel]) -> None:
    cache = code_cache()
    digests = [hashlib.sha256((_target_key() + kernel.key).encode()).hexdigest() for kernel in kernels]
    objects = [cache.load(digest) for digest in digests]
    to_compile = [number for number, code in enumerate(objects) if code is None]
    _count(cache_hits=len(kernels) - len(to_compile), compiled=len(to_compile))
    host = processor()
    requests = (
        Request(
            kernels[n].label, kernels[n].generate(), _exports(kernels[n], digests[n]),
            host.triple, host.name, host.features,
        )
        for n in to_compile
    )  # fmt: skip
    for number, code in zip(to_compile, compile_all(requests, len(to_compile), host.cores), strict=True):
        objects[number] = code
        cache.store(digests[number], code)
    _link(kernels, digests, [code for code in objects if code is not None])


@functools.cache
def _target_key() -> str:
    """What object code depends on besides the kernel's key: the target, and the sources that generate it."""
    import llvmlite
    import llvmlite.binding as llvm

    host = processor()
    sources = hashlib.sha256()
    package = Path(__file__).parent.parent
    for pattern in ("graph/*.py", "kernels/**/*.py", "runtime/*.py"):
        for path in sorted(package.glob(pattern)):
            sources.update(path.read_bytes())
    parts = (
        llvmlite.__version__,
        str(llvm.llvm_version_info),
        host.triple,
        host.name,
        host.features,
        sources.hexdigest(),
    )
    return "\n".join(parts) + "\n"


def _exports(kernel: Kernel, digest: str) -> dict[str, str]:
    """The name under which each phase is linked: no two kernels share one."""
    return {phase: f"k{digest[:24]}_{number}" for number, phase in enumerate(kernel.phases)}


@functools.cache
def _linker() -> Any:
    """LLVM's in-process linker (ORC with JITLink, which places each object's sections side by side)."""
    import llvmlite.binding as llvm
    from llvmlite.binding import orcjit

    host = processor()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if sys.platform == "linux":
        # LLVM may call libm (fmod and the like); a Python linked without it would not offer the names.
        try:
            llvm.load_library_permanently("libm.so.6")
        except RuntimeError:
            ctypes.CDLL(None).fmodf  # noqa: B018  (musl keeps libm in libc: fail here if not even there)
    machine = llvm.Target.from_triple(host.triple).create_target_machine(
        cpu=host.name, features=host.features, opt=2, reloc="pic", codemodel="small", jit=True
    )
    linker = orcjit.create_lljit_compiler(machine, use_jit_link=True)
    # LLVM's destructor would unmap code in which worker threads may still wait when the interpreter ends.
    _immortal.append(linker)
    linker._dispose = lambda: None
    return linker


_immortal: list[Any] = []
_library_numbers = itertools.count()  # a failed link uses up its name too


def _link(kernels: list[Kernel], digests: list[str], objects: list[bytes]) -> None:
    from llvmlite.binding import orcjit

    builder = orcjit.JITLibraryBuilder()
    for kernel, digest, code in zip(kernels, digests, objects, strict=True):
        builder.add_object_img(code)
        for name in _exports(kernel, digest).values():
            builder.export_symbol(name)
    builder.add_current_process()
    try:
        library = builder.link(_linker(), f"kernels{next(_library_numbers)}")
    except RuntimeError as error:
        labels = ", ".join(kernel.label for kernel in kernels[:8]) + (", …" if len(kernels) > 8 else "")
        raise CompileError(
            f"cannot link the code of {labels}: {error}. The name that LLVM did not find is on stderr."
        ) from None
    library._dispose = lambda: None
    _immortal.append(library)
    for kernel, digest in zip(kernels, digests, strict=True):
        _addresses[kernel.key] = tuple(library[name] for name in _exports(kernel, digest).values())


if hasattr(os, "register_at_fork"):
    # No fork in the middle of a load: the child would find tables and LLVM half changed, and the lock held.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
