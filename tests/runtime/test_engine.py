"""From LLVM text to callable code: caching, colliding names, refusals, worker processes, foreign symbols."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from firepot.kernels.kernel import Kernel
from firepot.runtime import compilation, engine, walker
from firepot.runtime.code_cache import CodeCache
from firepot.runtime.object_code import CompileError, compile_module
from firepot.runtime.processor import processor, usable_cores


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CodeCache:
    """A disk cache and an in-process memory of the test's own."""
    folder = CodeCache(tmp_path)
    monkeypatch.setattr(engine, "code_cache", lambda: folder)
    monkeypatch.setattr(engine, "_addresses", {})
    monkeypatch.setattr(engine, "_statistics", engine.Statistics())
    return folder


def constant(number: int) -> Kernel:
    """A function that returns `number` out of a global. All such kernels use the same names."""
    text = f"""
@value = constant i64 {number}
define i64 @helper() noinline {{
  %r = load volatile i64, ptr @value
  ret i64 %r
}}
define i64 @phase() {{
  %r = call i64 @helper()
  ret i64 %r
}}
"""
    return Kernel(f"constant {number}", lambda: text, ("phase",), f"constant {number}")


def call(address: int) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(address)())


def test_kernels_whose_inner_names_collide_keep_apart() -> None:
    kernels = [constant(number) for number in range(6)]
    assert [call(*functions) for functions in engine.load(kernels)] == list(range(6))
    assert [call(*functions) for functions in engine.load([constant(7), constant(3)])] == [7, 3]


def test_each_kernel_is_compiled_once_then_remembered_then_read_from_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernels = [constant(1), constant(2), constant(1)]
    first = engine.load(kernels)
    assert first[0] == first[2]
    assert engine.statistics() == engine.Statistics(compiled=2, cache_hits=0, reused=1)
    assert engine.load(kernels) == first
    assert engine.statistics() == engine.Statistics(compiled=2, cache_hits=0, reused=4)
    monkeypatch.setattr(engine, "_addresses", {})
    again = engine.load(kernels)
    assert engine.statistics().cache_hits == 2
    assert engine.statistics().compiled == 2
    assert [call(*functions) for functions in again] == [1, 2, 1]


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from test_engine import constant, call, engine
assert [call(*functions) for functions in engine.load([constant(n) for n in range(5)])] == list(range(5))
print(engine.statistics().compiled, engine.statistics().cache_hits)
"""
    results = [
        subprocess.run(
            [sys.executable, "-c", script, os.path.dirname(__file__)],
            env={**os.environ, "FIREPOT_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=60,
        )
        for _ in range(2)
    ]
    assert [result.stdout for result in results] == ["5 0\n", "0 5\n"], results[0].stderr


def test_a_damaged_entry_on_disk_is_compiled_again(
    cache: CodeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load([constant(5)])
    for path in tmp_path.rglob("*.code"):
        path.write_bytes(path.read_bytes()[:-40])
    monkeypatch.setattr(engine, "_addresses", {})
    assert call(*engine.load([constant(5)])[0]) == 5
    assert engine.statistics() == engine.Statistics(compiled=2, cache_hits=0, reused=0)


def test_code_of_another_target_or_source_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    engine.load([constant(5)])
    monkeypatch.setattr(engine, "_addresses", {})
    monkeypatch.setattr(engine, "_target_key", lambda: "another processor\n")
    engine.load([constant(5)])
    assert engine.statistics() == engine.Statistics(compiled=2, cache_hits=0, reused=0)


_NOT_DOMINATED = """
define i64 @phase(i1 %c) {
entry:
  br i1 %c, label %a, label %b
a:
  %x = add i64 1, 2
  br label %b
b:
  %y = add i64 %x, 1
  ret i64 %y
}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("define void @phase() { ret i32 }", "kernel broken: LLVM cannot parse the module"),
        ("define void @other() {\n ret void\n}", "kernel broken: the module does not define phase"),
        (_NOT_DOMINATED, "kernel broken: LLVM finds the module invalid"),
    ],
)
def test_text_that_llvm_refuses_is_an_error_that_names_the_kernel(text: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        engine.load([Kernel("broken", lambda: text, ("phase",), "broken")])
    assert call(*engine.load([constant(9)])[0]) == 9


def test_an_unknown_function_is_an_error_and_not_a_crash() -> None:
    text = """
declare void @no_such_function()
define void @phase() {
  call void @no_such_function()
  ret void
}
"""
    with pytest.raises(CompileError, match="cannot link the code of unresolved:"):
        engine.load([Kernel("unresolved", lambda: text, ("phase",), "unresolved")])
    assert call(*engine.load([constant(9)])[0]) == 9


def test_functions_that_llvm_calls_are_found() -> None:
    text = """
declare float @llvm.sin.f32(float)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
define double @remainder(double %x, double %y) {
  %r = frem double %x, %y
  ret double %r
}
define float @sine(float %x) {
  %r = call float @llvm.sin.f32(float %x)
  ret float %r
}
define void @fill_and_copy(ptr %target, ptr %source, i64 %n) {
  call void @llvm.memset.p0.i64(ptr %source, i8 7, i64 %n, i1 false)
  call void @llvm.memcpy.p0.p0.i64(ptr %target, ptr %source, i64 %n, i1 false)
  ret void
}
"""
    remainder, sine, copy = engine.load_module("libm", text, ("remainder", "sine", "fill_and_copy"))
    double = ctypes.c_double
    assert ctypes.CFUNCTYPE(double, double, double)(remainder)(7.5, 2.0) == 1.5
    one = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)(sine)(1.0)
    assert math.isclose(one, math.sin(1), rel_tol=1e-6)
    target, source = ctypes.create_string_buffer(999), ctypes.create_string_buffer(999)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(copy)(target, source, 999)
    assert target.raw == b"\7" * 999


def test_vectors_keep_the_full_register_width() -> None:
    width = processor().vector_bytes
    vector = f"<{width // 4} x float>"
    text = f"""
define void @phase(ptr %p, ptr %q) {{
  %x = load {vector}, ptr %p, align 64
  %y = fadd {vector} %x, %x
  store {vector} %y, ptr %q, align 64
  ret void
}}
"""
    assembly = engine.assembly(Kernel("width", lambda: text, ("phase",), "width"))
    if processor().triple.startswith("x86_64"):
        register = {64: "%zmm", 32: "%ymm", 16: "%xmm"}[width]
        assert register in assembly
    assert "fadd" in engine.optimised_text(Kernel("width", lambda: text, ("phase",), "width"))


@pytest.mark.parametrize("interpreter", [sys.executable, "/bin/false", "/no/such/program"])
def test_many_kernels_are_compiled_in_workers_or_without_them(
    monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    monkeypatch.setattr(compilation, "_PARALLEL_FROM", 4)
    monkeypatch.setattr(sys, "executable", interpreter)
    host = processor()
    target = (host.triple, host.name, host.features)
    requests = [
        compilation.Request(f"r{number}", constant(number).generate(), {"phase": f"p{number}"}, *target)
        for number in range(30)
    ]
    objects = compilation.compile_all(iter(requests), len(requests), cores=3)
    assert objects == [compile_module(*request[1:]) for request in requests]


def test_a_refusal_in_a_worker_is_raised_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_PARALLEL_FROM", 4)
    kernels = [constant(number) for number in range(60)]
    broken = [Kernel(f"broken {n}", lambda: "nonsense", ("phase",), f"broken {n}") for n in range(20)]
    with pytest.raises(CompileError, match=r"kernel broken \d+: LLVM cannot parse the module"):
        engine.load(kernels + broken)


def test_a_generator_that_raises_leaves_no_worker_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_PARALLEL_FROM", 4)
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)

    def interrupted() -> str:
        raise KeyboardInterrupt

    kernels = [constant(number) for number in range(300)]
    with pytest.raises(KeyboardInterrupt):
        engine.load([*kernels, Kernel("interrupted", interrupted, ("phase",), "interrupted")])
    for process in started:
        process.wait(timeout=20)


def test_facts_about_the_processor() -> None:
    host = processor()
    assert 1 <= host.cores == usable_cores() <= (os.cpu_count() or 1)
    assert 8 << 10 <= host.l1 <= host.l2 <= host.l3
    assert (host.vector_bytes, host.vector_registers) in ((64, 32), (32, 16), (16, 16), (16, 32))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_usable_cores_follow_the_affinity() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("triple", "system", "machine"),
    [
        ("x86_64-unknown-linux-gnu", "linux", "x86_64"),
        ("aarch64-unknown-linux-gnu", "linux", "aarch64"),
        ("arm64-apple-darwin", "darwin", "aarch64"),
        ("riscv64-unknown-linux-gnu", "linux", "riscv64"),
    ],
)
def test_the_thread_pool_compiles_for_other_machines(triple: str, system: str, machine: str) -> None:
    import llvmlite.binding as llvm

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    names = {name: name for name in walker.FUNCTIONS}
    code = compile_module(walker.text(system, machine), names, triple, "", "")
    assert b"run_timed" in code
    assert (b"usleep" in code) == (system == "darwin")
