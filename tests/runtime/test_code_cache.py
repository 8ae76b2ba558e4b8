"""The disk cache: what it returns is what was stored, whatever happened to the folder in between."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from firepot.runtime.code_cache import CodeCache, default_folder


def name(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def only_file(folder: Path) -> Path:
    (path,) = (path for path in folder.rglob("*") if path.is_file())
    return path


def test_what_was_stored_comes_back_also_to_others(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path / "new" / "folder")
    assert cache.load(name(1)) is None
    cache.store(name(1), b"code")
    cache.store(name(2), bytes(range(256)) * 100)
    assert CodeCache(cache.folder).load(name(1)) == b"code"
    assert cache.load(name(2)) == bytes(range(256)) * 100
    assert cache.load(name(3)) is None
    assert cache.size() == 25600 + 4 + 2 * 16


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_entry_is_dropped_and_can_be_stored_again(tmp_path: Path, damage: str) -> None:
    cache = CodeCache(tmp_path)
    cache.store(name(1), b"machine code of some length")
    path = only_file(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        del data[-5:]
    elif damage == "flip":
        data[-3] ^= 1
    else:
        data.clear()
    path.write_bytes(data)
    assert cache.load(name(1)) is None
    assert not path.exists()
    cache.store(name(1), b"again")
    assert cache.load(name(1)) == b"again"


def test_the_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    cache = CodeCache(tmp_path, limit=10_000)
    for number in range(20):
        cache.store(name(number), bytes(1000 - 16))
    for number, path in enumerate(sorted(tmp_path.rglob("*.code"))):
        os.utime(path, (1e9 + number, 1e9 + number))
    used = sorted(path.parent.name + path.stem for path in tmp_path.rglob("*.code"))[0]
    cache.load(used)  # old as it is, it was used now
    cache.evict()
    assert 5_000 <= cache.size() <= 7_500
    assert cache.load(used) is not None


def test_clear_leaves_nothing_but_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    cache = CodeCache(tmp_path)
    cache.store(name(1), b"code")
    (tmp_path / name(1)[:2] / "aside-of-a-killed-process").write_bytes(b"half")
    cache.clear()
    assert only_file(tmp_path).name == "notes.txt"


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    cache = CodeCache(in_the_way / "cache")
    with pytest.warns(RuntimeWarning, match="FIREPOT_CACHE_DIR"):
        cache.store(name(1), b"code")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.store(name(2), b"code")
        assert cache.load(name(1)) is None
        cache.evict()
        cache.clear()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_leaves_no_half_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = CodeCache(tmp_path)
    with monkeypatch.context() as patched:
        full = os.open("/dev/full", os.O_WRONLY)
        patched.setattr("tempfile.mkstemp", lambda **_: (full, str(tmp_path / "aside")))
        with pytest.warns(RuntimeWarning, match="No space left"):
            cache.store(name(1), b"code" * 100_000)
    assert cache.load(name(1)) is None


def test_processes_may_share_a_folder(tmp_path: Path) -> None:
    script = """
import hashlib, sys
from pathlib import Path
from firepot.runtime.code_cache import CodeCache
cache = CodeCache(Path(sys.argv[1]), limit=50_000)
for turn in range(60):
    name = hashlib.sha256(str(turn % 30).encode()).hexdigest()
    found = cache.load(name)
    assert found is None or found == bytes([turn % 30]) * 1000
    cache.store(name, bytes([turn % 30]) * 1000)
"""
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    assert len(list(tmp_path.rglob("*.code"))) == 30


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREPOT_CACHE_DIR", str(tmp_path / "a"))
    assert default_folder() == tmp_path / "a"
    monkeypatch.delenv("FIREPOT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert default_folder() == tmp_path / "b" / "firepot"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_folder() == Path.home() / ".cache" / "firepot"
