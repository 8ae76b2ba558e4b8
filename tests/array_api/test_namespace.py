"""What the standard, revision 2024.12, says is there: names and the arguments by which they are called."""

from __future__ import annotations

import inspect

import pytest

import firepot as fp
from firepot import array_api as xp

# The standard's functions with their parameters; a default is there but not compared.
FUNCTIONS = """
arange(start, /, stop=, step=, *, dtype=, device=)          asarray(obj, /, *, dtype=, device=, copy=)
empty(shape, *, dtype=, device=)                            empty_like(x, /, *, dtype=, device=)
eye(n_rows, n_cols=, /, *, k=, dtype=, device=)             from_dlpack(x, /, *, device=, copy=)
full(shape, fill_value, *, dtype=, device=)                 full_like(x, /, fill_value, *, dtype=, device=)
linspace(start, stop, /, num, *, dtype=, device=, endpoint=)  meshgrid(*arrays, indexing=)
ones(shape, *, dtype=, device=)                             ones_like(x, /, *, dtype=, device=)
tril(x, /, *, k=)                                           triu(x, /, *, k=)
zeros(shape, *, dtype=, device=)                            zeros_like(x, /, *, dtype=, device=)
astype(x, dtype, /, *, copy=, device=)                      can_cast(from_, to, /)
finfo(type, /)                                              iinfo(type, /)
isdtype(dtype, kind)                                        result_type(*arrays_and_dtypes)
broadcast_arrays(*arrays)                                   broadcast_to(x, /, shape)
concat(arrays, /, *, axis=)                                 expand_dims(x, /, *, axis=)
flip(x, /, *, axis=)                                        moveaxis(x, source, destination, /)
permute_dims(x, /, axes)                                    repeat(x, repeats, /, *, axis=)
reshape(x, /, shape, *, copy=)                              roll(x, /, shift, *, axis=)
squeeze(x, /, axis)                                         stack(arrays, /, *, axis=)
tile(x, repetitions, /)                                     unstack(x, /, *, axis=)
argmax(x, /, *, axis=, keepdims=)                           argmin(x, /, *, axis=, keepdims=)
count_nonzero(x, /, *, axis=, keepdims=)                    nonzero(x, /)
searchsorted(x1, x2, /, *, side=, sorter=)                  where(condition, x1, x2, /)
unique_all(x, /)                                            unique_counts(x, /)
unique_inverse(x, /)                                        unique_values(x, /)
argsort(x, /, *, axis=, descending=, stable=)               sort(x, /, *, axis=, descending=, stable=)
take(x, indices, /, *, axis=)                               take_along_axis(x, indices, /, *, axis=)
cumulative_prod(x, /, *, axis=, dtype=, include_initial=)   cumulative_sum(x, /, *, axis=, dtype=, include_initial=)
max(x, /, *, axis=, keepdims=)                              min(x, /, *, axis=, keepdims=)
mean(x, /, *, axis=, keepdims=)                             std(x, /, *, axis=, correction=, keepdims=)
prod(x, /, *, axis=, dtype=, keepdims=)                     sum(x, /, *, axis=, dtype=, keepdims=)
var(x, /, *, axis=, correction=, keepdims=)                 diff(x, /, *, axis=, n=, prepend=, append=)
all(x, /, *, axis=, keepdims=)                              any(x, /, *, axis=, keepdims=)
matmul(x1, x2, /)                                           matrix_transpose(x, /)
tensordot(x1, x2, /, *, axes=)                              vecdot(x1, x2, /, *, axis=)
clip(x, /, min=, max=)                                      __array_namespace_info__()
linalg.cholesky(x, /, *, upper=)                            linalg.cross(x1, x2, /, *, axis=)
linalg.det(x, /)                                            linalg.diagonal(x, /, *, offset=)
linalg.eigh(x, /)                                           linalg.eigvalsh(x, /)
linalg.inv(x, /)                                            linalg.matmul(x1, x2, /)
linalg.matrix_norm(x, /, *, keepdims=, ord=)                linalg.matrix_power(x, n, /)
linalg.matrix_rank(x, /, *, rtol=)                          linalg.matrix_transpose(x, /)
linalg.outer(x1, x2, /)                                     linalg.pinv(x, /, *, rtol=)
linalg.qr(x, /, *, mode=)                                   linalg.slogdet(x, /)
linalg.solve(x1, x2, /)                                     linalg.svd(x, /, *, full_matrices=)
linalg.svdvals(x, /)                                        linalg.tensordot(x1, x2, /, *, axes=)
linalg.trace(x, /, *, offset=, dtype=)                      linalg.vecdot(x1, x2, /, *, axis=)
linalg.vector_norm(x, /, *, axis=, keepdims=, ord=)         fft.fftfreq(n, /, *, d=, dtype=, device=)
fft.rfftfreq(n, /, *, d=, dtype=, device=)                  fft.fftshift(x, /, *, axes=)
fft.ifftshift(x, /, *, axes=)                               fft.fft(x, /, *, n=, axis=, norm=)
fft.ifft(x, /, *, n=, axis=, norm=)                         fft.rfft(x, /, *, n=, axis=, norm=)
fft.irfft(x, /, *, n=, axis=, norm=)                        fft.hfft(x, /, *, n=, axis=, norm=)
fft.ihfft(x, /, *, n=, axis=, norm=)                        fft.fftn(x, /, *, s=, axes=, norm=)
fft.ifftn(x, /, *, s=, axes=, norm=)                        fft.rfftn(x, /, *, s=, axes=, norm=)
fft.irfftn(x, /, *, s=, axes=, norm=)
"""
UNARY = ["abs", "acos", "acosh", "asin", "asinh", "atan", "atanh", "bitwise_invert", "ceil", "conj", "cos", "cosh", "exp", "expm1", "floor", "imag", "isfinite", "isinf", "isnan", "log", "log10", "log1p", "log2", "logical_not", "negative", "positive", "real", "reciprocal", "round", "sign", "signbit", "sin", "sinh", "sqrt", "square", "tan", "tanh", "trunc"]
BINARY = ["add", "atan2", "bitwise_and", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift", "bitwise_xor", "copysign", "divide", "equal", "floor_divide", "greater", "greater_equal", "hypot", "less", "less_equal", "logaddexp", "logical_and", "logical_or", "logical_xor", "maximum", "minimum", "multiply", "nextafter", "not_equal", "pow", "remainder", "subtract"]
CONSTANTS = ["e", "inf", "nan", "newaxis", "pi"]
DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "complex64", "complex128"]


def find(name: str) -> object:
    found: object = xp
    for part in name.split("."):
        found = getattr(found, part)
    return found


def parameters(function: object) -> str:
    """As in the table above: 'x, /, *, axis='."""
    words = []
    before = None
    for p in inspect.signature(function).parameters.values():  # type: ignore[arg-type]
        if before is p.POSITIONAL_ONLY and p.kind is not p.POSITIONAL_ONLY:
            words.append("/")
        if p.kind is p.KEYWORD_ONLY and before not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL):
            words.append("*")
        words.append(
            f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name if p.default is p.empty else f"{p.name}="
        )
        before = p.kind
    if before is inspect.Parameter.POSITIONAL_ONLY:
        words.append("/")
    return ", ".join(words)


def test_every_function_is_called_as_the_standard_says() -> None:
    asked = [part.strip() for line in FUNCTIONS.splitlines() for part in line.split("  ") if part.strip()]
    asked += [f"{name}(x, /)" for name in UNARY] + [f"{name}(x1, x2, /)" for name in BINARY]
    assert len(asked) == 171
    found = [f"{name}({parameters(find(name))})" for name in (a.partition("(")[0] for a in asked)]
    assert found == asked


def test_constants_and_dtypes() -> None:
    assert [name for name in CONSTANTS + DTYPES if not hasattr(xp, name)] == []
    assert xp.__array_api_version__ == "2024.12"


def test_arrays_lead_to_the_namespace() -> None:
    x = fp.ones(2, 3)
    assert x.__array_namespace__() is xp is fp.array_api
    assert x.__array_namespace__(api_version="2022.12") is xp
    assert x.to_device("cpu") is x and x.device == xp.__array_namespace_info__().default_device()
    with pytest.raises(ValueError, match="2030"):
        x.__array_namespace__(api_version="2030.12")
    with pytest.raises(RuntimeError, match="cpu"):
        x.to_device("tpu")


def test_inspection() -> None:
    info = xp.__array_namespace_info__()
    assert info.devices() == [fp.device("cpu")]
    defaults = {"real floating": fp.float32, "complex floating": fp.complex64, "integral": fp.int64, "indexing": fp.int64}
    assert info.default_dtypes() == defaults
    assert list(info.dtypes(kind="signed integer")) == ["int8", "int16", "int32", "int64"]
    assert set(info.dtypes()) == set(DTYPES)
    assert info.dtypes(kind=("bool", "real floating")).keys() == {"bool", "float32", "float64"}
    assert set(info.capabilities()) == {"boolean indexing", "data-dependent shapes", "max dimensions"}
    with pytest.raises(ValueError, match="real floating"):
        info.dtypes(kind="float")
