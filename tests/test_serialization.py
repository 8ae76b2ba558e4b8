"""fp.save and fp.load."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import firepot as fp


def test_structures_come_back(tmp_path: Path) -> None:
    state = {"a": [fp.arange(3), (1, 2.5, None, "x", True)], 7: {"b": fp.tensor(2.0)}, "half": fp.ones(2).bfloat16()}
    fp.save(state, tmp_path / "f")
    found = fp.load(tmp_path / "f")
    assert found["a"][0].tolist() == [0, 1, 2]
    assert found["a"][1] == (1, 2.5, None, "x", True)
    assert found[7]["b"].shape == () and found[7]["b"].item() == 2.0
    assert found["half"].dtype is fp.bfloat16 and found["half"].tolist() == [1.0, 1.0]


def test_other_readers_and_writers(tmp_path: Path) -> None:
    fp.save({"w": fp.ones(2, 3)}, tmp_path / "f")
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "f")["w"], np.ones((2, 3), np.float32))
    safetensors.numpy.save_file({"v": np.arange(4)}, tmp_path / "g")
    assert fp.load(tmp_path / "g")["v"].tolist() == [0, 1, 2, 3]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    fp.save({"w": fp.ones(2)}, tmp_path / "f")
    with pytest.raises(TypeError, match="w is a set"):
        fp.save({"w": {1, 2}}, tmp_path / "f")
    assert fp.load(tmp_path / "f")["w"].tolist() == [1.0, 1.0]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fp.save({"w": fp.ones(2)}, tmp_path / "f")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/f'"):
        fp.save({"w": fp.zeros(2)}, tmp_path / "f")
    assert fp.load(tmp_path / "f")["w"].tolist() == [1.0, 1.0]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="f: not a whole safetensors file"):
        fp.load(tmp_path / "f")
