"""fp.save and fp.load: nested structures with tensors, in one safetensors file.

The tensors are the file's tensors, by their paths; the structure around them is JSON in the file's metadata. So any
reader of safetensors finds the weights, and reading a file never runs code from it.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from firepot.graph import dtypes
from firepot.graph.node import data
from firepot.runtime.buffer import Buffer
from firepot.tensor import Tensor, wrap

_STRUCTURE = "firepot"
_DTYPES = {
    "F64": dtypes.float64, "F32": dtypes.float32, "F16": dtypes.float16, "BF16": dtypes.bfloat16, "I64": dtypes.int64,
    "I32": dtypes.int32, "I16": dtypes.int16, "I8": dtypes.int8, "U64": dtypes.uint64, "U32": dtypes.uint32,
    "U16": dtypes.uint16, "U8": dtypes.uint8, "BOOL": dtypes.bool_,
}  # fmt: skip


def save(obj: Any, f: str | os.PathLike[str]) -> None:
    """Write tensors, or dicts, lists and tuples of tensors, numbers, strings and None, to the file `f`.

    The file is written aside and renamed, so that at `f` there is always a whole file, the old or the new one.
    Raises TypeError for what cannot be stored, and OSError (a full disk, say) with the file at `f` untouched.

    >>> fp.save({"model": nn.Linear(2, 1).state_dict(), "epoch": 3}, "model.safetensors")
    >>> fp.load("model.safetensors")["epoch"]
    3
    """
    tensors: dict[str, Tensor] = {}
    structure = _described(obj, "", tensors)
    write(f, tensors, {_STRUCTURE: json.dumps(structure)})


def load(f: str | os.PathLike[str]) -> Any:
    """Read what `save` wrote; of other safetensors files, a dict of the tensors.

    Raises FileNotFoundError, and ValueError that names the file if it is cut off or no safetensors file.
    """
    tensors, metadata = read(f)
    if _STRUCTURE not in metadata:
        return OrderedDict(tensors)
    return _restored(json.loads(metadata[_STRUCTURE]), tensors)


def write(f: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, written aside and renamed."""
    from safetensors import TensorSpec, serialize

    path = Path(f)
    arrays = {name: np.ascontiguousarray(tensor.detach()._array("fp.save")) for name, tensor in tensors.items()}
    entries = {
        name: TensorSpec(
            dtype=tensors[name].dtype.name,
            shape=list(tensors[name].shape),
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in arrays.items()
    }
    content = serialize(entries, metadata=dict(metadata) or None)
    try:
        _replace(path, content)
    except OSError as error:  # name the file that was wanted, not the one aside
        raise OSError(error.errno, error.strerror, str(path)) from None


def _replace(path: Path, content: bytes) -> None:
    """Write `content` to a file beside `path` and rename it, so that `path` is whole at any moment."""
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(aside, 0o666 & ~_umask())  # mkstemp makes files that only their owner may read
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0o077)  # there is no call that only asks
    os.umask(current)
    return current


def read(f: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file."""
    path = Path(f)
    content = path.read_bytes()
    try:
        from safetensors import deserialize

        entries = deserialize(content)  # type: ignore[no-untyped-call]
        (length,) = struct.unpack("<Q", content[:8])
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except Exception as error:  # the reader raises an exception class of its own
        raise ValueError(
            f"{path}: not a whole safetensors file; it is cut off, damaged or something else ({error})"
        ) from None
    tensors = {}
    for name, entry in entries:
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"{path}: tensor '{name}' has the dtype {entry['dtype']}, which Firepot does not know")
        array = np.frombuffer(entry["data"], dtype.numpy).reshape(entry["shape"])
        tensors[name] = wrap(data(tuple(entry["shape"]), dtype, Buffer.from_numpy(array)))
    return tensors, metadata


def _described(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The structure as JSON: tensors by name, and what JSON lacks as tagged lists."""
    if isinstance(value, Tensor):
        name = path or "tensor"
        while name in tensors:
            name += "'"
        tensors[name] = value
        return ["tensor", name]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        items = []
        for k, v in value.items():
            if not isinstance(k, (str, int)):
                raise TypeError(f"fp.save: keys must be strings or integers, got {k!r} in {path or 'the dict'}")
            items.append([k, _described(v, f"{path}.{k}" if path else str(k), tensors)])
        return ["dict", items]
    if isinstance(value, (list, tuple)):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return [kind, [_described(v, f"{path}.{i}" if path else str(i), tensors) for i, v in enumerate(value)]]
    raise TypeError(
        f"fp.save: {path or 'the object'} is a {type(value).__name__}; tensors, dicts, lists, tuples, numbers, strings and "
        "None can be stored. Of a module, save its state_dict()"
    )


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: _restored(v, tensors) for k, v in content}
    parts = [_restored(v, tensors) for v in content]
    return tuple(parts) if kind == "tuple" else parts
