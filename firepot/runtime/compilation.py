"""Compiling many modules: in this process and, where it pays, in worker processes beside it.

LLVM does not compile in parallel threads of one process. So each worker process has a thread here that passes
it modules from a common queue, from which this process takes its share too. A module that a worker did not
answer for (it could not start, it died) goes back to the queue: workers only ever save time.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from firepot.runtime import object_code
from firepot.runtime.object_code import CompileError

# A worker takes about 0.3 s of processor time to start; LLVM takes about 1.5 s for a million characters.
_PARALLEL_FROM = 400_000
_MOST_WORKERS = 7


class Request(NamedTuple):
    """The arguments of `object_code.compile_module`, and what to call the module in an error."""

    label: str
    text: str
    names: dict[str, str]
    triple: str
    cpu: str
    features: str
    explicit: bool = False


def compile_all(requests: Iterable[Request], count: int, cores: int) -> list[bytes]:
    """Object code of each of the `count` modules, in order. Printing them overlaps with compiling them.

    Raises CompileError with the label of a module that LLVM refuses.
    """
    workers = min(cores - 1, _MOST_WORKERS) if sys.executable else 0
    batch = _Batch()
    helpers: list[threading.Thread] = []
    printed = 0
    try:
        for number, request in enumerate(requests):
            batch.waiting.put((number, request))
            printed += len(request.text)
            if printed >= (len(helpers) + 1) * _PARALLEL_FROM and len(helpers) < workers:
                helpers.append(threading.Thread(target=batch.feed_worker, daemon=True))
                helpers[-1].start()
        batch.all_printed.set()
        while batch.compile_next():
            pass
        for helper in helpers:
            helper.join()
        while batch.compile_next():  # what a worker left behind
            pass
    finally:
        batch.ended.set()
    return [batch.done[number] for number in range(count)]


class _Batch:
    """waiting: modules nobody has taken; done: object code by number; failure: the first error."""

    def __init__(self) -> None:
        self.waiting: queue.SimpleQueue[tuple[int, Request]] = queue.SimpleQueue()
        self.done: dict[int, bytes] = {}
        self.failure: CompileError | None = None
        self.all_printed = threading.Event()
        self.ended = threading.Event()

    def compile_next(self) -> bool:
        """Compile one waiting module in this process; False: none waits. Raises what failed anywhere."""
        if self.failure is not None:
            raise self.failure
        try:
            number, request = self.waiting.get_nowait()
        except queue.Empty:
            return False
        try:
            self.done[number] = object_code.compile_module(*request[1:])
        except CompileError as error:
            raise CompileError(f"kernel {request.label}: {error}") from None
        return True

    def feed_worker(self) -> None:
        """Pass waiting modules to one worker process until no more will come."""
        # In a session of its own: Ctrl-C is for this process, and the worker ends when its input does.
        command = [sys.executable, str(Path(object_code.__file__)), pickle.dumps(sys.path).hex()]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=os.sep, start_new_session=True
            )
        except OSError:
            return
        requests, answers = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
        try:
            while not self.ended.is_set() and self.failure is None:
                last = self.all_printed.is_set()
                try:
                    number, request = self.waiting.get(timeout=0.002)
                except queue.Empty:
                    if last:
                        return
                    continue
                if not self._ask(requests, answers, number, request):
                    self.waiting.put((number, request))
                    return
        finally:
            if self.ended.is_set() or self.failure is not None:
                process.kill()
            for stream in (requests, answers):
                with contextlib.suppress(OSError):
                    stream.close()
            process.wait()

    def _ask(self, requests: BinaryIO, answers: BinaryIO, number: int, request: Request) -> bool:
        """Let a worker compile a module; False: it did not answer."""
        try:
            object_code.write_frame(requests, 0, pickle.dumps(tuple(request[1:])))
            answer = object_code.read_frame(answers)
        except OSError:
            return False
        if answer is None:
            return False
        status, payload = answer
        if status == 0:
            self.done[number] = payload
        else:
            self.failure = CompileError(f"kernel {request.label}: {payload.decode()}")
        return True
