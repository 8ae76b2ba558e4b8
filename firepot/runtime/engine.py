"""From kernels to the addresses of native functions: memory, then disk, then LLVM.

    addresses = load(kernels)         # one tuple of function addresses a kernel, in the order of its phases
    addresses = find(codes)           # the same, of kernels whose code is known to be on disk by its digest

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
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from firepot.kernels.kernel import Kernel
from firepot.runtime import object_code
from firepot.runtime.code_cache import CodeCache, default_folder
from firepot.runtime.compilation import Request, compile_all
from firepot.runtime.object_code import CompileError
from firepot.runtime.processor import processor

__all__ = [
    "Code", "CompileError", "Statistics", "assembly", "code_cache", "digest", "find", "load", "load_module",
    "optimised_text", "reset_statistics", "source_digest", "statistics", "target_key",
]  # fmt: skip


@dataclass(frozen=True)
class Statistics:
    """What the engine did since the process started (or since `reset_statistics`)."""

    compiled: int = 0
    cache_hits: int = 0
    reused: int = 0


class Code(NamedTuple):
    """Object code of a kernel: its digest, how many functions it has, what to call it in an error."""

    digest: str
    functions: int
    label: str

    def exports(self) -> list[str]:
        """The names under which the functions are linked: no two kernels share one."""
        return [f"k{self.digest[:24]}_{number}" for number in range(self.functions)]


_READ_FROM = time.time() - 2.0  # when the package's sources were read: not before, by all clocks of file systems
_lock = threading.RLock()
_addresses: dict[str, tuple[int, ...]] = {}  # by digest
_statistics = Statistics()


def load(kernels: Sequence[Kernel]) -> list[tuple[int, ...]]:
    """Addresses of the native functions of `kernels`: one tuple a kernel, one address a phase.

    Raises CompileError where LLVM refuses what a generator printed: it names the kernel and holds
    LLVM's words.
    """
    with _lock:
        digests = [digest(kernel) for kernel in kernels]
        missing = {name: kernel for name, kernel in zip(digests, kernels, strict=True) if name not in _addresses}
        _count(reused=len(kernels) - len(missing))
        if missing:
            _load_missing(missing)
        return [_addresses[name] for name in digests]


def digest(kernel: Kernel) -> str:
    """The name of the kernel's code, in memory and on disk: equal for equal code only."""
    return hashlib.sha256((_target_key() + kernel.key).encode()).hexdigest()


def find(codes: Sequence[Code]) -> list[tuple[int, ...]] | None:
    """What `load` gives, of kernels known by digest only; None where the cache has not all of them any more."""
    with _lock:
        missing = {code.digest: code for code in codes if code.digest not in _addresses}
        objects = []
        for name in missing:
            contents = code_cache().load(name)
            if contents is None:
                return None
            objects.append(contents)
        _count(reused=len(codes) - len(missing), cache_hits=len(missing))
        if missing:
            _link(list(missing.values()), objects)
        return [_addresses[code.digest] for code in codes]


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
    return str(object_code.optimise(kernel.generate(), names, host.triple, host.name, host.features, kernel.explicit))


def assembly(kernel: Kernel) -> str:
    """The kernel's machine code as the assembler writes it: for people who look into a kernel."""
    host = processor()
    names = {phase: phase for phase in kernel.phases}
    target = (host.triple, host.name, host.features)
    module = object_code.optimise(kernel.generate(), names, *target, kernel.explicit)
    return str(object_code.target_machine(*target).emit_assembly(module))


@functools.cache
def code_cache() -> CodeCache:
    """The disk cache of this process."""
    return CodeCache(default_folder())


def _count(**more: int) -> None:
    global _statistics
    _statistics = replace(_statistics, **{name: getattr(_statistics, name) + number for name, number in more.items()})


def _load_missing(kernels: dict[str, Kernel]) -> None:
    """Read or compile the kernels, by digest."""
    cache = code_cache()
    codes = [Code(name, len(kernel.phases), kernel.label) for name, kernel in kernels.items()]
    objects = [cache.load(code.digest) for code in codes]
    to_compile = [number for number, contents in enumerate(objects) if contents is None]
    _count(cache_hits=len(kernels) - len(to_compile), compiled=len(to_compile))
    host = processor()
    described = list(kernels.values())
    requests = (
        Request(
            codes[n].label, described[n].generate(), _exports(described[n], codes[n]),
            host.triple, host.name, host.features, described[n].explicit,
        )
        for n in to_compile
    )  # fmt: skip
    for number, contents in zip(to_compile, compile_all(requests, len(to_compile), host.cores), strict=True):
        objects[number] = contents
        cache.store(codes[number].digest, contents)
    _link(codes, [contents for contents in objects if contents is not None])


@functools.cache
def _target_key() -> str:
    """What object code depends on besides the kernel's key: the target, and the sources that generate it."""
    return target_key() + source_digest("graph/*.py", "kernels/**/*.py", "runtime/*.py") + "\n"


@functools.cache
def target_key() -> str:
    """The processor that code is made for, and the LLVM that makes it."""
    import llvmlite
    import llvmlite.binding as llvm

    host = processor()
    return "\n".join((llvmlite.__version__, str(llvm.llvm_version_info), host.triple, host.name, host.features)) + "\n"


def source_digest(*patterns: str) -> str:
    """A digest of the package's source files of these names.

    Where one was written after this process began to read them, the process may run what no file holds: the digest
    is one that no other process has.
    """
    sources = hashlib.sha256()
    package = Path(__file__).parent.parent
    for pattern in patterns:
        for path in sorted(package.glob(pattern)):
            sources.update(path.read_bytes())
            if _READ_FROM < path.stat().st_mtime <= time.time():
                sources.update(os.urandom(16))
    return sources.hexdigest()


def _exports(kernel: Kernel, code: Code) -> dict[str, str]:
    return dict(zip(kernel.phases, code.exports(), strict=True))


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


def _link(codes: Sequence[Code], objects: Sequence[bytes]) -> None:
    from llvmlite.binding import orcjit

    builder = orcjit.JITLibraryBuilder()
    for code, contents in zip(codes, objects, strict=True):
        builder.add_object_img(contents)
        for name in code.exports():
            builder.export_symbol(name)
    builder.add_current_process()
    try:
        library = builder.link(_linker(), f"kernels{next(_library_numbers)}")
    except RuntimeError as error:
        labels = ", ".join(code.label for code in codes[:8]) + (", …" if len(codes) > 8 else "")
        raise CompileError(
            f"cannot link the code of {labels}: {error}. The name that LLVM did not find is on stderr."
        ) from None
    library._dispose = lambda: None
    _immortal.append(library)
    for code in codes:
        _addresses[code.digest] = tuple(library[name] for name in code.exports())


if hasattr(os, "register_at_fork"):
    # No fork in the middle of a load: the child would find tables and LLVM half changed, and the lock held.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
