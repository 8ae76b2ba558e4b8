"""From kernels to the addresses of native functions: memory, then disk, then LLVM.

    addresses = load(kernels)         # one tuple of function addresses a kernel, in the order of its phases

Loaded code stays for the life of the process: a program may run it at any time, worker threads until the very end.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from firepot.kernels.kernel import Kernel
from firepot.runtime import object_code
from firepot.runtime.code_cache import CodeCache, default_folder
from firepot.runtime.object_code import CompileError
from firepot.runtime.processor import processor

# A worker needs about 0.3 s of processor time to start and a kernel 5 to 20 ms: below this many it costs more than
# it saves.
_PARALLEL_FROM = 40


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
    """Addresses of the native functions of `kernels`, compiled if need be: one tuple a kernel, one address a phase.

    Raises CompileError where LLVM refuses what a generator printed: it names the kernel and holds LLVM's words.
    """
    with _lock:
        missing = {kernel.key: kernel for kernel in kernels if kernel.key not in _addresses}
        _count(reused=len(kernels) - len(missing))
        if missing:
            _load_missing(list(missing.values()))
        return [_addresses[kernel.key] for kernel in kernels]


def load_module(key: str, text: str, functions: tuple[str, ...]) -> tuple[int, ...]:
    """Addresses of `functions` in the LLVM module `text`; `key` names the text in the cache, as a kernel's does."""
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
    _statistics = replace(
        _statistics, **{name: getattr(_statistics, name) + number for name, number in more.items()}
    )


def _load_missing(kernels: list[Kernel]) -> None:
    cache = code_cache()
    digests = [hashlib.sha256((_target_key() + kernel.key).encode()).hexdigest() for kernel in kernels]
    objects = [cache.load(digest) for digest in digests]
    to_compile = [number for number, code in enumerate(objects) if code is None]
    _count(cache_hits=len(kernels) - len(to_compile), compiled=len(to_compile))
    for number, code in _compile([(kernels[n], digests[n]) for n in to_compile]):
        objects[to_compile[number]] = code
        cache.store(digests[to_compile[number]], code)
    _link(kernels, digests, [code for code in objects if code is not None])


@functools.cache
def _target_key() -> str:
    """What object code depends on besides the kernel's key, including the sources of whatever generates it."""
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
    """The name under which each phase is linked: unlike in all kernels, whatever their generators call them."""
    return {phase: f"k{digest[:24]}_{number}" for number, phase in enumerate(kernel.phases)}


# --- compiling -------------------------------------------------------------------------------------------------------


def _compile(kernels: list[tuple[Kernel, str]]) -> list[tuple[int, bytes]]:
    """(position in `kernels`, object code) of each, in this process and, where there are many, in workers too."""
    if not kernels:
        return []
    host = processor()
    waiting: queue.SimpleQueue[tuple[int, tuple[Any, ...]]] = queue.SimpleQueue()
    done: list[tuple[int, bytes]] = []
    failures: list[tuple[int, str]] = []
    finished = threading.Event()

    workers: list[threading.Thread] = []
    if len(kernels) >= _PARALLEL_FROM and sys.executable:
        for _ in range(min(host.cores - 1, 7)):
            worker = threading.Thread(target=_feed_worker, args=(waiting, done, failures, finished), daemon=True)
            worker.start()
            workers.append(worker)

    for number, (kernel, digest) in enumerate(kernels):
        text = kernel.generate()
        waiting.put((number, (text, _exports(kernel, digest), host.triple, host.name, host.features)))
        if not workers:
            _compile_next(waiting, done, failures)
    finished.set()
    while not failures and _compile_next(waiting, done, failures):
        pass
    for worker in workers:
        worker.join()
    if failures:
        number, message = failures[0]
        kernel = kernels[number][0]
        raise CompileError(f"kernel {kernel.label}: {message}")
    # A worker that could not start, or died, left its request in the queue for this thread.
    while _compile_next(waiting, done, failures):
        pass
    return done


_Queue = queue.SimpleQueue[tuple[int, tuple[Any, ...]]]


def _compile_next(waiting: _Queue, done: list[tuple[int, bytes]], failures: list[tuple[int, str]]) -> bool:
    """Compile one waiting module here; False: none waits."""
    try:
        number, request = waiting.get_nowait()
    except queue.Empty:
        return False
    try:
        done.append((number, object_code.compile_module(*request)))
    except CompileError as error:
        failures.append((number, str(error)))
    return True


def _feed_worker(
    waiting: _Queue, done: list[tuple[int, bytes]], failures: list[tuple[int, str]], finished: threading.Event
) -> None:
    """Pass waiting modules to one worker process until none is left. A request the worker does not answer goes back."""
    command = [sys.executable, str(Path(object_code.__file__)), pickle.dumps(sys.path).hex()]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.sep)
    except OSError:
        return
    assert process.stdin is not None and process.stdout is not None
    try:
        while not failures:
            try:
                number, request = waiting.get(timeout=0.002)
            except queue.Empty:
                if finished.is_set():
                    break
                continue
            try:
                object_code.write_frame(process.stdin, 0, pickle.dumps(request))
                answer = object_code.read_frame(process.stdout)
            except OSError:
                answer = None
            if answer is None:
                waiting.put((number, request))
                break
            status, payload = answer
            if status == 0:
                done.append((number, payload))
            else:
                failures.append((number, payload.decode()))
    finally:
        if failures:
            process.kill()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        process.wait()


# --- linking ---------------------------------------------------------------------------------------------------------


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
    # LLVM's destructor would unmap code that worker threads may still be spinning in when the interpreter ends.
    _immortal.append(linker)
    linker._dispose = lambda: None
    return linker


_immortal: list[Any] = []


def _link(kernels: list[Kernel], digests: list[str], objects: list[bytes]) -> None:
    from llvmlite.binding import orcjit

    builder = orcjit.JITLibraryBuilder()
    for kernel, digest, code in zip(kernels, digests, objects, strict=True):
        builder.add_object_img(code)
        for name in _exports(kernel, digest).values():
            builder.export_symbol(name)
    builder.add_current_process()
    library = builder.link(_linker(), f"kernels{len(_immortal)}")
    library._dispose = lambda: None
    _immortal.append(library)
    for kernel, digest in zip(kernels, digests, strict=True):
        _addresses[kernel.key] = tuple(library[name] for name in _exports(kernel, digest).values())
