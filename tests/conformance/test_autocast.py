"""Dtypes under autocast against PyTorch's, for every operation of the tables, on samples of its operator database.

Nothing is computed on our side: dtypes are known when an operation is recorded.
"""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch

import firepot as fp
from conformance import operators
from conformance.convert import DTYPES, Untranslatable, flatten, value
from conformance.provided import function
from firepot.autocast_mode import AS_GIVEN, FLOAT32, LOWER_PRECISION, WIDEST

# What the tables do not name: made of operations that they name, or left alone.
OTHERS = {
    "add", "batch_norm", "corrcoef", "cov", "einsum", "group_norm", "inner", "instance_norm", "layer_norm", "logsumexp",
    "matrix_power", "max_pool2d", "mul", "multi_head_attention_forward", "pad", "relu", "rms_norm",
    "softmax", "sum", "where", "__rmatmul__",
}  # fmt: skip

# Entries whose dtype differs, and why.
DIFFERENT = {
    "linalg.pinv": "bfloat16 by PyTorch's last product; ours keeps float32, as torch.pinverse does",
    "linalg.pinv/hermitian": "likewise",
    "tensordot": "PyTorch leaves a product with a single element as it is",
    "nn.functional.linear_cross_entropy": "by the way that PyTorch saves memory",
}


def _entries():
    listed = LOWER_PRECISION | FLOAT32 | WIDEST | AS_GIVEN | OTHERS
    return {n: e for n, e in operators.entries().items() if {e.name, e.name.split(".")[-1]} & listed}


def _floats(given, dtypes):
    """The value with its floating tensors converted to the dtypes in turn."""
    if isinstance(given, torch.Tensor):
        return given.detach().to(next(dtypes)) if given.dtype is torch.float32 else given
    if isinstance(given, dict):
        return {k: _floats(v, dtypes) for k, v in given.items()}
    if type(given) in (list, tuple):
        return type(given)(_floats(v, dtypes) for v in given)
    return given


def _cycle(*dtypes):
    while True:
        yield from dtypes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kinds", [("float32",), ("bfloat16",), ("float32", "bfloat16"), ("float64",)], ids="-".join)
def test_result_dtypes_are_those_of_pytorch(kinds):
    wrong, compared = [], set()
    for name, entry in _entries().items():
        ours = function(entry)
        if ours is None or name in DIFFERENT or torch.float32 not in entry.dtypes:
            continue
        # Not entry.sample_inputs, which walks the stack for a report of its own: seconds in all.
        samples = entry.sample_inputs_func(entry, "cpu", torch.float32, requires_grad=False)
        for sample in itertools.islice(samples, 2):
            if operators._left_out(entry, sample):
                continue
            kinds_in_turn = _cycle(*(getattr(torch, k) for k in kinds))
            input, args, kwargs = _floats([sample.input, sample.args, sample.kwargs], kinds_in_turn)
            try:
                given = value([input, args, kwargs])
                with torch.autocast("cpu"):
                    theirs = [t.dtype for t in flatten(entry.op(input, *args, **kwargs)) if isinstance(t, torch.Tensor)]
            except Untranslatable:
                continue
            except Exception:  # PyTorch refuses these dtypes, autocast or not
                continue
            with fp.no_grad(), fp.autocast("cpu"):
                found = [t.dtype for t in flatten(ours(given[0], *given[1], **given[2])) if isinstance(t, fp.Tensor)]
            if found != [DTYPES.get(t) for t in theirs]:
                wrong.append(f"{name}: {[d.name for d in found]}, PyTorch {theirs}")
            compared.add(entry.name.split(".")[-1])
    assert not wrong, "\n".join(wrong)
    if kinds == ("float32",):
        listed = {"multi_dot" if n == "chain_matmul" else n for n in LOWER_PRECISION | FLOAT32 | WIDEST | AS_GIVEN}
        assert len(listed - compared) <= 12, sorted(listed - compared)


def test_the_tables_name_what_pytorch_lists():
    """Each name of the tables is on PyTorch's list, or said to be made of what is."""
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCPU")
    theirs = {n.removeprefix("aten::").split(".")[0].removeprefix("linalg_").removeprefix("fft_") for n in registered}
    theirs = {n.removesuffix("_loss") for n in theirs}
    own_names = {
        "chain_matmul", "multi_dot", "tensordot",  # made of products
        "grid_sample", "max_unpool1d", "lu_legacy", "inv", "solve_ex",  # PyTorch's inside have another name
    }  # fmt: skip
    for name in LOWER_PRECISION | FLOAT32 | WIDEST:
        assert name.removesuffix("_loss") in theirs | own_names, name
    assert not {n for n in AS_GIVEN if n in theirs}
    missing = theirs - {n.removesuffix("_loss") for n in LOWER_PRECISION | FLOAT32 | WIDEST}
    absent = {n for n in missing if hasattr(fp, n) or hasattr(fp.nn.functional, n) or hasattr(fp.linalg, n)}
    # max_pool3d asks by itself; `inverse` and `orgqr` are other names of inv and householder_product, fft2 of fftn.
    assert absent <= {"max_pool3d", "inverse", "orgqr", "fft2", "ifft2", "rfft2", "irfft2"}, absent


def test_warnings_are_pytorchs():
    for dtype, device in ((fp.float32, "cpu"), (fp.float16, "cuda")):
        with pytest.warns(UserWarning, match="does nothing"), fp.autocast(device, dtype=dtype):
            assert not fp.is_autocast_enabled("cpu")
        with warnings.catch_warnings(record=True) as theirs:
            warnings.simplefilter("always")
            with torch.autocast(device, dtype=getattr(torch, dtype.name)):
                assert not torch.is_autocast_enabled("cpu")
        assert theirs
