"""The IDX format of MNIST and its relatives: a big-endian header, then the numbers.

    0 0 type rank | size of each axis as uint32 | elements, the last axis fastest

Described by Y. LeCun, C. Cortes and C. Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> np.ndarray[Any, Any]:
    """The array in the IDX file `path`, which may be compressed with gzip.

    Raises FileNotFoundError if there is no such file, and ValueError that names the file if it is not IDX, is
    cut off, or holds more than its header says.
    """
    path = Path(path)
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path}: the compressed file is damaged or cut off ({error})") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise ValueError(f"{path}: not an IDX file, which starts with two zero bytes, a type and a rank")
    dtype, rank = np.dtype(_TYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise ValueError(f"{path}: the file ends inside its header of {start} bytes")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", rank, 4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        state = "cut off" if len(content) < expected else "too long"
        raise ValueError(
            f"{path}: the file is {state}: shape {shape} takes {expected:,} bytes and there are {len(content):,}"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def write_idx(path: str | Path, array: np.ndarray[Any, Any]) -> None:
    """Writes `array` to the IDX file `path`, compressed if the name ends in .gz.
    The same array gives the same bytes.
    """
    path = Path(path)
    codes = [code for code, dtype in _TYPES.items() if np.dtype(dtype) == array.dtype.newbyteorder(">")]
    if not codes:
        raise TypeError(
            f"write_idx: IDX has no type for {array.dtype}; it has uint8, int8, int16, int32, float32, float64"
        )
    header = bytes([0, 0, codes[0], array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = header + array.astype(_TYPES[codes[0]]).tobytes()
    path.write_bytes(gzip.compress(content, 9, mtime=0) if path.suffix == ".gz" else content)
