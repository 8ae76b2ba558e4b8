"""Arrays from and to other libraries: through DLPack and NumPy's protocol, over dtypes, layouts and sizes."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

import firepot as fp
from firepot.runtime.dlpack import take

DTYPES = [
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32",
    "float64", "complex64", "complex128",
]  # fmt: skip
# Views of a base of shape (4, 6), by name: strides that are whole, permuted, stepping, zero, negative; 0-d and empty.
VIEWS = {
    "whole": lambda x: x,
    "transposed": lambda x: x.T,
    "stepping": lambda x: x[1::2, ::3],
    "offset": lambda x: x[2:, 1:4],
    "column": lambda x: x[:, 3],
    "scalar": lambda x: x[1, 2],
    "empty": lambda x: x[:, 4:4],
    "empty outside": lambda x: x[4:],
}  # fmt: skip
NUMPY_VIEWS = {
    **VIEWS,
    "negative": lambda x: x[::-1, ::-2],
    "repeated": lambda x: np.broadcast_to(x[:, :1], (4, 6)),
}  # fmt: skip


def base(dtype):
    """Numbers that every dtype holds exactly."""
    return (np.arange(24).reshape(4, 6) % 7).astype("float32" if dtype == "bfloat16" else dtype)


def ours(dtype):
    return fp.tensor(base(dtype), dtype=getattr(fp, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", VIEWS)
def test_with_pytorch(dtype, view):
    theirs = VIEWS[view](torch.from_numpy(base(dtype)).to(getattr(torch, dtype)))
    taken = fp.from_dlpack(theirs)
    assert taken.dtype is getattr(fp, dtype)
    assert taken.shape == tuple(theirs.shape)
    assert taken.tolist() == theirs.tolist()
    if dtype != "bfloat16":
        assert fp.tensor(theirs).tolist() == theirs.tolist()
    given = torch.from_dlpack(VIEWS[view](ours(dtype)))
    assert given.dtype is theirs.dtype
    assert torch.equal(given, theirs)
    given.zero_()  # a copy: writing to it is theirs to do


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "bfloat16"])
@pytest.mark.parametrize("view", NUMPY_VIEWS)
def test_with_numpy(dtype, view):
    theirs = np.asarray(NUMPY_VIEWS[view](base(dtype)))
    for take_one in (fp.from_numpy, fp.tensor, fp.as_tensor, fp.from_dlpack):
        taken = take_one(theirs)
        assert taken.dtype is getattr(fp, dtype)
        assert taken.shape == theirs.shape
        np.testing.assert_array_equal(taken.numpy(), theirs)
    if view in VIEWS:
        mine = VIEWS[view](ours(dtype))
        for give in (np.asarray, np.array, np.from_dlpack, lambda t: t.numpy()):
            given = give(mine)
            assert given.dtype == theirs.dtype
            assert given.shape == theirs.shape
            np.testing.assert_array_equal(given, theirs)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float16", "bfloat16", "float32", "complex64"])
def test_with_jax(dtype):
    jnp = pytest.importorskip("jax.numpy")
    theirs = jnp.asarray(base(dtype)).astype(dtype)
    for x in (theirs, theirs.T, theirs[1, 2], theirs[4:]):
        taken = fp.from_dlpack(x)
        assert taken.dtype is getattr(fp, dtype)
        assert taken.tolist() == x.tolist()
        assert fp.from_numpy(np.asarray(x)).tolist() == x.tolist()  # bfloat16 through NumPy's extension dtype
        assert fp.tensor(np.asarray(x)).dtype is getattr(fp, dtype)
        back = jnp.from_dlpack(taken)
        assert back.dtype == x.dtype
        assert back.tolist() == x.tolist()


def test_read_only_and_foreign_byte_order():
    array = base("float64")
    array.flags.writeable = False
    for take_one in (fp.from_numpy, fp.from_dlpack, fp.tensor):
        assert take_one(array).tolist() == array.tolist()
    assert fp.from_numpy(array.astype(">f8")).tolist() == array.tolist()
    assert fp.from_numpy(array.astype(">i2").T).tolist() == array.T.tolist()


def test_copies_are_independent():
    array = np.zeros(3)
    x = fp.from_dlpack(array)
    array[0] = 1
    assert x.tolist() == [0, 0, 0]
    exported = np.from_dlpack(x)
    assert exported.flags.writeable
    exported[1] = 2
    assert x.tolist() == [0, 0, 0]
    y = torch.from_dlpack(fp.arange(1000) + 1)
    gc.collect()
    fp.eval(fp.arange(1000) * 0)  # memory of the exported tensor, had it gone back
    assert y.sum().item() == 500500


def test_the_protocol_of_numpy():
    x = fp.tensor([1.5, -2.0])
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    assert np.asarray(x, dtype="int8").tolist() == [1, -2]
    assert x.__array__(np.float32, copy=True).dtype == np.float32
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x, copy=False)
    assert np.asarray(fp.tensor([1.5], dtype=fp.bfloat16)).dtype == np.float32
    with pytest.raises(RuntimeError, match="requires grad"):
        np.asarray(fp.ones(2, requires_grad=True))
    with pytest.raises(fp.TraceError):
        fp.jit(lambda t: fp.tensor(np.asarray(t)))(x)
    assert np.stack([x, x]).shape == (2, 2)
    assert (np.ones(2, np.float32) @ np.asarray(x)) == -0.5


def test_the_protocol_of_dlpack():
    x = fp.tensor([[1.0, 2.0]])
    assert x.__dlpack_device__() == (1, 0)
    assert '"dltensor"' in repr(x.__dlpack__())
    assert '"dltensor_versioned"' in repr(x.__dlpack__(max_version=(1, 0)))
    assert '"dltensor"' in repr(x.__dlpack__(max_version=(0, 8)))
    assert fp.from_dlpack(x.__dlpack__(copy=True, dl_device=(1, 0))).tolist() == [[1.0, 2.0]]
    assert torch.from_dlpack(x.to(fp.bfloat16).__dlpack__()).dtype is torch.bfloat16
    assert fp.from_dlpack(torch.utils.dlpack.to_dlpack(torch.ones(2))).tolist() == [1, 1]
    with pytest.raises(BufferError, match="copy"):
        x.__dlpack__(copy=False)
    with pytest.raises(BufferError, match="CPU"):
        x.__dlpack__(dl_device=(2, 0))
    with pytest.raises(RuntimeError, match="stream"):
        x.__dlpack__(stream=3)
    with pytest.raises(BufferError, match="gradient"):
        fp.ones(2, requires_grad=True).__dlpack__()
    with pytest.raises(fp.TraceError):
        fp.jit(lambda t: t.__dlpack__() and t)(x)


def test_what_cannot_be_taken():
    with pytest.raises(BufferError, match="copied"):
        fp.from_dlpack(np.ones(1), copy=False)
    with pytest.raises(RuntimeError, match="'cuda'"):
        fp.from_dlpack(np.ones(1), device="cuda")
    with pytest.raises(TypeError, match=r"__dlpack__.*list"):
        fp.from_dlpack([1])
    with pytest.raises(BufferError, match=r"(?i)gradient|grad"):
        fp.from_dlpack(torch.ones(1, requires_grad=True))
    with pytest.raises(BufferError, match="dtype"):
        fp.from_dlpack(torch.ones(2).to(torch.float8_e4m3fn))
    capsule = torch.utils.dlpack.to_dlpack(torch.ones(2))
    fp.from_dlpack(capsule)
    with pytest.raises(BufferError, match="only once"):
        fp.from_dlpack(capsule)
    with pytest.raises(TypeError, match="no dtype"):
        fp.from_numpy(np.array(["a"]))
    with pytest.raises(TypeError, match="array"):
        fp.from_numpy([1.0])


def test_a_producer_from_before_versions_and_one_elsewhere():
    class Old:
        def __dlpack__(self, stream=None):
            return torch.utils.dlpack.to_dlpack(torch.arange(3))

        def __dlpack_device__(self):
            return (1, 0)

    assert take(Old())[0].tolist() == [0, 1, 2]
    assert fp.from_dlpack(Old()).tolist() == [0, 1, 2]
