"""Object code on disk, so that a second process compiles nothing.

One file an entry: a digest of the contents, then the contents. Files are written aside and renamed, so any
number of processes may share a folder; an entry that does not match its digest is deleted and compiled again.
A folder that cannot be written (read-only, full) is told once and then left alone: the cache only ever saves
time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
import warnings
from pathlib import Path

_DIGEST_BYTES = 16
_SUFFIX = ".code"
_TOUCH_AFTER = 3600.0  # seconds; marking only entries used longer ago saves a system call a kernel


def default_folder() -> Path:
    """$FIREPOT_CACHE_DIR, else ~/.cache/firepot (or where XDG_CACHE_HOME says)."""
    given = os.environ.get("FIREPOT_CACHE_DIR")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "firepot"


class CodeCache:
    """A folder of object code, bounded in size; what was not used for longest goes first.

    folder: where entries lie; made at the first write
    limit:  bytes that the folder may hold (looked at only now and then, so slightly exceeded at times)
    """

    _CHECK_EVERY = 64

    def __init__(self, folder: Path, limit: int = 1 << 30) -> None:
        self.folder = folder
        self.limit = limit
        self._writable = True
        self._writes = 0

    def load(self, name: str) -> bytes | None:
        """The contents stored under `name` (a hexadecimal digest), or None."""
        path = self._path(name)
        try:
            with open(path, "rb") as file:
                data = file.read()
                age = time.time() - os.fstat(file.fileno()).st_mtime
        except OSError:
            return None
        contents = data[_DIGEST_BYTES:]
        if not contents or _digest(contents) != data[:_DIGEST_BYTES]:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        if age > _TOUCH_AFTER:
            with contextlib.suppress(OSError):
                os.utime(path)
        return contents

    def store(self, name: str, contents: bytes) -> None:
        """Keep `contents` under `name`. Where that fails, warns and does not try again."""
        if not self._writable:
            return
        path = self._path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, aside = tempfile.mkstemp(dir=path.parent, prefix="aside-")
            try:
                with open(handle, "wb") as file:
                    file.write(_digest(contents) + contents)
                os.replace(aside, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(aside)
                raise
        except OSError as error:
            self._writable = False
            warnings.warn(
                f"compiled code cannot be kept in {self.folder} ({error.strerror or error}); each process "
                "will compile anew. Set FIREPOT_CACHE_DIR to a folder that can be written.",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        self._writes += 1
        if self._writes % self._CHECK_EVERY == 1:
            self.evict()

    def problem(self) -> str | None:
        """Why nothing can be kept in the folder; None if it can."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, aside = tempfile.mkstemp(dir=self.folder, prefix="aside-")
            os.close(handle)
            os.unlink(aside)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def size(self) -> int:
        """Bytes in the folder."""
        return sum(size for _, size, _ in self._entries())

    def evict(self) -> None:
        """Delete the entries not used for longest until the folder is within three quarters of its limit."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        if total <= self.limit:
            return
        for _, size, path in entries:
            if total <= self.limit * 3 // 4:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size

    def clear(self) -> None:
        """Delete every entry."""
        for _, _, path in self._entries():
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _path(self, name: str) -> Path:
        # Two levels: a folder of ten thousand files is slow on some file systems.
        return self.folder / name[:2] / (name[2:] + _SUFFIX)

    def _entries(self) -> list[tuple[float, int, str]]:
        """(time of last use, size, path) of every entry, and of what killed processes left half-written."""
        entries = []
        with contextlib.suppress(OSError):
            for path in self.folder.glob("??/*"):
                if path.suffix != _SUFFIX and not path.name.startswith("aside-"):
                    continue
                with contextlib.suppress(OSError):
                    status = path.stat()
                    entries.append((status.st_mtime, status.st_size, str(path)))
        return entries


def _digest(contents: bytes) -> bytes:
    return hashlib.sha256(contents).digest()[:_DIGEST_BYTES]
