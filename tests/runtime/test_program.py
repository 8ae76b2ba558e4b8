"""Programs: order, barriers, operands, errors, guards; at any number of threads."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from firepot.kernels.kernel import Kernel
from firepot.runtime import pool, walker
from firepot.runtime.buffer import Buffer
from firepot.runtime.program import ARENA, FIRST, Arena, Branch, Error, Executable, Loop, Operand, Step, While

N = 1024

_SHARED_LOOP = """
define void @phase(ptr %operands, i64 %thread, i64 %threads, ptr %scratch, ptr %error) {{
entry:
  %in = load ptr, ptr %operands
  %out.p = getelementptr ptr, ptr %operands, i64 1
  %out = load ptr, ptr %out.p
  br label %look
look:
  %i = phi i64 [ %thread, %entry ], [ %next, %loop ]
  %more = icmp slt i64 %i, {count}
  br i1 %more, label %loop, label %end
loop:
  {body}
  %q = getelementptr i64, ptr %out, i64 %i
  store i64 %y, ptr %q
  %next = add i64 %i, %threads
  br label %look
end:
  ret void
}}
"""


def shared_loop(name: str, body: str, parallel: bool = True) -> Kernel:
    """A kernel (int64[N], int64[N]) whose thread t computes the elements t, t + threads, …"""
    text = _SHARED_LOOP.format(count=N, body=body)
    return Kernel(f"test {text}", lambda: text, ("phase",), name, parallel=parallel)


# out[i] = in[(i + 1) mod N] + 1: every thread reads what another thread wrote in the step before.
_ROTATE = f"""%i1 = add i64 %i, 1
  %j = and i64 %i1, {N - 1}
  %p = getelementptr i64, ptr %in, i64 %j
  %x = load i64, ptr %p
  %y = add i64 %x, 1"""
rotate = shared_loop("rotate", _ROTATE)
rotate_serial = shared_loop("rotate on one thread", _ROTATE, parallel=False)

_FAIL = """
define void @fail(ptr %operands, i64 %thread, i64 %threads, ptr %scratch, ptr %error) {
  %value.p = getelementptr i64, ptr %error, i64 1
  store i64 6, ptr %error
  store i64 -17, ptr %value.p
  ret void
}
"""
fail = Kernel("test fail", lambda: _FAIL, ("fail",), "fail")

# Two phases: thread t stores to scratch in the first, and reads it in the second.
_TWO_PHASES = """
define void @first(ptr %operands, i64 %thread, i64 %threads, ptr %scratch, ptr %error) {
  %x = add i64 %thread, 100
  store i64 %x, ptr %scratch
  ret void
}
define void @second(ptr %operands, i64 %thread, i64 %threads, ptr %scratch, ptr %error) {
  %out = load ptr, ptr %operands
  %x = load i64, ptr %scratch
  %address = ptrtoint ptr %scratch to i64
  %misaligned = and i64 %address, 63
  %y = add i64 %x, %misaligned
  %p = getelementptr i64, ptr %out, i64 %thread
  store i64 %y, ptr %p
  ret void
}
"""
two_phases = Kernel("test two phases", lambda: _TWO_PHASES, ("first", "second"), "two", scratch=5000)

# Sleeps 20 ms, so that signals and other threads can come in between.
_DOZE = """
declare i32 @usleep(i32)
define void @doze(ptr %operands, i64 %thread, i64 %threads, ptr %scratch, ptr %error) {
  %r = call i32 @usleep(i32 20000)
  ret void
}
"""
doze = Kernel("test doze", lambda: _DOZE, ("doze",), "doze")


@pytest.fixture(params=[1, 2, 3, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = pool.get_num_threads()
    pool.set_num_threads(request.param)
    yield request.param
    pool.set_num_threads(before)


def int_buffer(values: np.ndarray) -> tuple[Buffer, np.ndarray]:
    buffer = Buffer.from_numpy(values)
    return buffer, buffer.view(values.dtype, values.shape)


def ping_pong(kernels: list[Kernel]) -> list[Step]:
    """Steps from base FIRST to the arena and back, in turn."""
    places = itertools.cycle([(Operand(FIRST), Operand(ARENA)), (Operand(ARENA), Operand(FIRST))])
    return [Step(kernel, operands) for kernel, operands in zip(kernels, places)]  # noqa: B905


def test_every_phase_sees_what_other_threads_wrote_before(threads: int) -> None:
    length = 2000 if threads <= 2 else 400
    program = Executable(ping_pong([rotate] * length), bases=1, arena_bytes=8 * N)
    start = np.arange(N, dtype=np.int64) * 7
    for _ in range(3):
        buffer, values = int_buffer(start)
        assert program.run([buffer.address]) is None
        np.testing.assert_array_equal(values, np.roll(start, -length) + length)


def test_serial_and_parallel_steps_keep_their_order(threads: int) -> None:
    random = np.random.default_rng(3)
    kernels = [rotate_serial if serial else rotate for serial in random.integers(0, 2, 400)]
    program = Executable(ping_pong(kernels), bases=1, arena_bytes=8 * N)
    buffer, values = int_buffer(np.zeros(N, np.int64))
    assert program.run([buffer.address]) is None
    np.testing.assert_array_equal(values, 400)


def test_independent_steps_all_run_before_the_next_barrier(threads: int) -> None:
    kernels = [rotate, rotate, rotate_serial, rotate, rotate_serial, rotate_serial, rotate]
    steps = [
        Step(kernel, (Operand(FIRST), Operand(FIRST + 1, 8 * N * i)), independent=i > 0)
        for i, kernel in enumerate(kernels)
    ]
    last = 8 * N * len(kernels)
    steps += [
        Step(rotate, (Operand(FIRST + 1, 8 * N * i), Operand(FIRST + 1, last + 8 * N * i)), independent=i > 0)
        for i in range(len(kernels))
    ]
    program = Executable(steps, bases=2)
    source, _ = int_buffer(np.arange(N, dtype=np.int64))
    for _ in range(50):
        target, values = int_buffer(np.zeros((2, len(kernels), N), np.int64))
        assert program.run([source.address, target.address]) is None
        for turns in (1, 2):
            expected = np.tile(np.roll(np.arange(N), -turns) + turns, (len(kernels), 1))
            np.testing.assert_array_equal(values[turns - 1], expected)


def test_constants_offsets_and_the_arena_are_resolved(threads: int) -> None:
    constant = Buffer.from_numpy(np.arange(2 * N, dtype=np.int64))
    steps = [
        Step(rotate, (Operand(constant, 8 * N), Operand(ARENA, 64))),
        Step(rotate, (Operand(ARENA, 64), Operand(FIRST, 128))),
    ]
    program = Executable(steps, bases=1, arena_bytes=8 * N + 64, arena=Arena())
    del constant  # the program keeps it
    for _ in range(2):  # another output at each run
        buffer, values = int_buffer(np.zeros(N + 16, np.int64))
        assert program.run([buffer.address]) is None
        np.testing.assert_array_equal(values[16:], np.roll(np.arange(N, 2 * N), -2) + 2)
        np.testing.assert_array_equal(values[:16], 0)


def test_phases_share_scratch_and_each_thread_has_its_own(threads: int) -> None:
    program = Executable([Step(two_phases, (Operand(FIRST),))], bases=1)
    buffer, values = int_buffer(np.zeros(16, np.int64))
    program.run([buffer.address])
    np.testing.assert_array_equal(values[:threads], 100 + np.arange(threads))
    np.testing.assert_array_equal(values[threads:], 0)


def below(limit: int) -> Kernel:
    """A kernel (int64[…], byte): whether the first number is below the limit."""
    text = f"""
define void @below(ptr %operands, i64 %thread, i64 %threads, ptr %scratch, ptr %error) {{
  %in = load ptr, ptr %operands
  %out.p = getelementptr ptr, ptr %operands, i64 1
  %out = load ptr, ptr %out.p
  %x = load i64, ptr %in
  %y = icmp slt i64 %x, {limit}
  %byte = zext i1 %y to i8
  store i8 %byte, ptr %out
  ret void
}}
"""
    return Kernel(f"test {text}", lambda: text, ("below",), "below", parallel=False)


def test_branches_and_loops_with_a_condition(threads: int) -> None:
    """Until the first number is 90: two steps of rotation, or one where it is below 20 (and two rotations back)."""
    there, back = Step(rotate, (Operand(FIRST), Operand(ARENA))), Step(rotate, (Operand(ARENA), Operand(FIRST)))
    flags = [Operand(ARENA, 8 * N + 64 * i) for i in range(2)]
    body = (
        Step(below(20), (Operand(FIRST), flags[1])),
        Branch(flags[1], (there, back), (there, back, Loop(2, (there, back)))),
    )
    loop = While((Step(below(90), (Operand(FIRST), flags[0])),), flags[0], body)
    program = Executable([loop, Step(rotate, (Operand(FIRST), Operand(FIRST + 1)))], bases=2, arena_bytes=8 * N + 128)
    for begin in (0, 11, 100):
        (buffer, values), (out, last) = int_buffer(np.full(N, begin, np.int64)), int_buffer(np.zeros(N, np.int64))
        expected = begin
        while expected < 90:
            expected += 2 if expected < 20 else 6
        assert program.run([buffer.address, out.address]) is None
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(last, expected + 1)
    values[:] = 0
    seconds = program.profile([buffer.address, out.address])
    assert (values[0], last[0]) == (92, 93)
    assert all(0 < s < 10 for s in seconds)
    endless = Executable([While((Step(below(9), (Operand(FIRST), flags[0])),), flags[0], (Step(fail, ()),))], 1, 9 * N)
    values[:] = 0
    assert endless.run([buffer.address]) == Error(6, -17)


def test_an_error_is_returned_and_later_steps_still_run(threads: int) -> None:
    program = Executable([Step(fail, ()), Step(rotate, (Operand(FIRST), Operand(FIRST + 1)))], bases=2)
    source, _ = int_buffer(np.zeros(N, np.int64))
    target, values = int_buffer(np.zeros(N, np.int64))
    assert program.run([source.address, target.address]) == Error(6, -17)
    np.testing.assert_array_equal(values, 1)


@pytest.mark.parametrize("overwrite", [rotate, rotate_serial], ids=["parallel", "serial"])
def test_a_guarded_step_does_not_start_after_an_error(threads: int, overwrite: Kernel) -> None:
    operands = (Operand(FIRST), Operand(FIRST))
    first = Step(rotate, (Operand(FIRST), Operand(ARENA)))
    good = Executable([first, Step(overwrite, operands, guard=True)], 1, 8 * N)
    bad = Executable([Step(fail, ()), Step(overwrite, operands, guard=True), Step(rotate, operands)], 1)
    buffer, values = int_buffer(np.zeros(N, np.int64))
    for _ in range(20):
        assert bad.run([buffer.address]) == Error(6, -17)
        np.testing.assert_array_equal(values, 0)
    assert good.run([buffer.address]) is None
    assert values.min() >= 1


def interrupt_after(seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="needs sigaction")
def test_an_interrupt_ends_a_repeatable_program_between_kernels(threads: int) -> None:
    steps = [*[Step(doze, ())] * 100, Step(rotate, (Operand(FIRST), Operand(FIRST + 1)))]
    program = Executable(steps, bases=2, repeatable=True)
    source, _ = int_buffer(np.zeros(N, np.int64))
    target, values = int_buffer(np.zeros(N, np.int64))
    begin = time.perf_counter()
    timer = interrupt_after(0.1)
    with pytest.raises(KeyboardInterrupt):
        program.run([source.address, target.address])
    timer.join()
    assert time.perf_counter() - begin < 1.5  # the whole takes more than two seconds
    np.testing.assert_array_equal(values, 0)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_was_brief_runs_without_the_watch_for_interrupts_unless_values_decide_how_long(threads: int) -> None:
    buffer, values = int_buffer(np.zeros(2 * N, np.int64))
    operands = (Operand(FIRST), Operand(FIRST, 8 * N))
    rotation = Step(rotate, operands)
    brief = Executable([rotation], 1, repeatable=True)
    long = Executable([Step(doze, ())], 0, repeatable=True)
    decided = Executable([Branch(Operand(FIRST), (rotation,), ())], 1, repeatable=True)
    nested = Executable([Loop(2, (Branch(Operand(FIRST), (rotation,), ()),))], 1, repeatable=True)
    values[0] = 1
    watched = {}
    for name, program in {"brief": brief, "long": long, "decided": decided, "nested": nested}.items():
        calls: list[str] = []
        native = program._native
        program._native = native._replace(
            run=lambda *given, run=native.run, calls=calls: calls.append("run") or run(*given),
            run_interruptible=lambda *given, run=native.run, calls=calls: calls.append("watched") or run(*given),
        )
        for _ in range(20):  # one of them takes less than a millisecond on any machine
            assert program.run([buffer.address][: program.bases]) is None
        assert calls[0] == "watched"
        watched[name] = calls.count("watched")
    assert watched["brief"] < 20
    assert watched["long"] == watched["decided"] == watched["nested"] == 20


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="needs sigaction")
def test_a_handler_that_does_not_raise_lets_the_program_be_done(threads: int) -> None:
    steps = [*[Step(doze, ())] * 10, Step(rotate, (Operand(FIRST), Operand(FIRST + 1)))]
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        for repeatable in (True, False):
            source, _ = int_buffer(np.zeros(N, np.int64))
            target, values = int_buffer(np.zeros(N, np.int64))
            timer = interrupt_after(0.05)
            assert Executable(steps, bases=2, repeatable=repeatable).run([source.address, target.address]) is None
            timer.join()
            np.testing.assert_array_equal(values, 1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT] * 2


def test_profile_computes_the_same_and_times_each_step(threads: int) -> None:
    steps = [*ping_pong([rotate, rotate_serial]), Step(doze, ()), Step(two_phases, (Operand(ARENA),))]
    program = Executable(steps, bases=1, arena_bytes=8 * N)
    buffer, values = int_buffer(np.zeros(N, np.int64))
    seconds = program.profile([buffer.address])
    np.testing.assert_array_equal(values, 2)
    assert len(seconds) == 4
    assert seconds[2] >= 0.02
    assert min(seconds) > 0
    assert seconds.index(max(seconds)) == 2


def test_wrong_operands_and_addresses_are_refused() -> None:
    with pytest.raises(ValueError, match="base 3 of an operand does not exist"):
        Executable([Step(rotate, (Operand(FIRST), Operand(FIRST + 1)))], bases=1)
    with pytest.raises(ValueError, match="takes 1 addresses, got 2"):
        Executable([], bases=1).run([64, 64])


def test_the_arena_grows_and_is_shared() -> None:
    shared = Arena()
    small = Executable(ping_pong([rotate] * 2), bases=1, arena_bytes=8 * N, arena=shared)
    large = Executable(ping_pong([rotate] * 2), bases=1, arena_bytes=80 * N, arena=shared)
    buffer, values = int_buffer(np.zeros(N, np.int64))
    for program in (small, large, small):
        program.run([buffer.address])
    assert shared.nbytes == 80 * N
    np.testing.assert_array_equal(values, 6)


def test_python_threads_take_turns() -> None:
    program = Executable(ping_pong([rotate] * 100), bases=1, arena_bytes=8 * N)
    results: list[np.ndarray] = []

    def work(start: int) -> None:
        for _ in range(30):
            buffer, values = int_buffer(np.full(N, start, np.int64))
            assert program.run([buffer.address]) is None
            results.append(values - start)

    workers = [threading.Thread(target=work, args=(start,)) for start in (0, 1000)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert len(results) == 60
    assert all((result == 100).all() for result in results)


def test_python_runs_while_a_program_does() -> None:
    program = Executable([Step(doze, ())] * 10, bases=0)
    worker = threading.Thread(target=program.run, args=([],))
    worker.start()
    turns = 0
    while worker.is_alive():
        turns += 1
        time.sleep(0.001)
    assert turns > 20


def test_the_number_of_threads_can_change_between_runs() -> None:
    before = pool.get_num_threads()
    program = Executable(ping_pong([rotate] * 10), bases=1, arena_bytes=8 * N)
    try:
        for number in (1, 4, 2, 3, 1, 2):
            pool.set_num_threads(number)
            assert pool.get_num_threads() == number
            buffer, values = int_buffer(np.zeros(N, np.int64))
            program.run([buffer.address])
            np.testing.assert_array_equal(values, 10)
    finally:
        pool.set_num_threads(before)
    for wrong in (0, -1, 1.5):
        with pytest.raises(ValueError, match="positive whole number"):
            pool.set_num_threads(wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_runs_programs_and_so_does_its_parent() -> None:
    before = pool.get_num_threads()
    pool.set_num_threads(2)
    try:
        program = Executable(ping_pong([rotate] * 100), bases=1, arena_bytes=8 * N)
        buffer, values = int_buffer(np.zeros(N, np.int64))
        program.run([buffer.address])
        child = os.fork()
        if child == 0:
            status = 1
            try:
                program.run([buffer.address])
                status = 0 if (values == 200).all() else 2
            finally:
                os._exit(status)
        for _ in range(1000):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked child hangs")
        assert os.waitstatus_to_exitcode(status) == 0
        program.run([buffer.address])
        np.testing.assert_array_equal(values, 200)  # the child's memory is its own
    finally:
        pool.set_num_threads(before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_in_a_long_run_is_raised_after_it_and_leaves_all_usable() -> None:
    program = Executable([Step(doze, ())] * 20, bases=0)
    program.run([])
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        program.run([])
        time.sleep(1)
    assert time.perf_counter() - start >= 0.4
    assert program.run([]) is None


def test_the_interpreter_exits_while_workers_wait() -> None:
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from test_program import *
pool.set_num_threads(4)
program = Executable(ping_pong([rotate] * 10), bases=1, arena_bytes=8 * N)
buffer, values = int_buffer(np.zeros(N, np.int64))
program.run([buffer.address])
threading.Thread(target=Executable([Step(doze, ())] * 1000, bases=0).run, args=([],), daemon=True).start()
print(int(values[0]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script, os.path.dirname(__file__)], capture_output=True, timeout=60, text=True
    )
    assert (ended.returncode, ended.stdout) == (0, "10\n"), ended.stderr


def test_waiting_threads_give_up_the_processor() -> None:
    before = pool.get_num_threads()
    pool.set_num_threads(3)
    try:
        program = Executable(ping_pong([rotate] * 2), bases=1, arena_bytes=8 * N)
        buffer, _ = int_buffer(np.zeros(N, np.int64))
        program.run([buffer.address])
        start = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - start < 0.1
    finally:
        pool.set_num_threads(before)
    assert ctypes.sizeof(ctypes.c_void_p) == 8  # the native layouts assume it


def test_threads_that_poll_instead_of_sleeping_meet_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no futex, waiting threads look again every 100 microseconds."""
    before = pool.get_num_threads()
    text = walker.text
    monkeypatch.setattr(walker, "text", lambda system, machine: text(system, machine, futex=False))
    polling = pool.native.__wrapped__()
    with monkeypatch.context() as patched:
        pool.set_num_threads(1)
        patched.setattr(pool, "native", lambda: polling)
        pool.set_num_threads(3)
        program = Executable(ping_pong([rotate] * 30), bases=1, arena_bytes=8 * N)
        buffer, values = int_buffer(np.zeros(N, np.int64))
        for _ in range(3):
            program.run([buffer.address])
        np.testing.assert_array_equal(values, 90)
        pool.set_num_threads(1)
    pool.set_num_threads(before)
