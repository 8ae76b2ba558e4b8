"""The operations as methods and operators of Tensor."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from firepot.autocast_mode import exempt
from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import grad_mode
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import views
from firepot.ops import (
    arithmetic,
    complex,
    creation,
    indexing,
    linear,
    numbers,
    random,
    rearrange,
    reduction,
    shape,
    short_time,
    sorting,
    special,
    statistics,
)
from firepot.ops.broadcast import expand
from firepot.ops.linalg import legacy
from firepot.tensor import Device, Tensor, node_of, wrap

# Operations that are methods under their own name, by the module that holds them.
_SAME_NAME = {
    arithmetic: "add sub mul div true_divide floor_divide pow fmod remainder maximum minimum fmax fmin atan2 hypot "
    "copysign nextafter eq ne lt le gt ge greater greater_equal less less_equal not_equal subtract multiply divide "
    "sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh "
    "atanh arcsin arccos arctan arctan2 arcsinh arccosh arctanh erf erfc erfinv lgamma digamma relu sigmoid abs absolute "
    "sign sgn neg negative positive floor ceil trunc fix round frac square isnan isinf isfinite signbit logical_not "
    "logical_and logical_or logical_xor bitwise_not bitwise_and bitwise_or bitwise_xor bitwise_left_shift "
    "bitwise_right_shift clamp clip clamp_min clamp_max lerp addcmul addcdiv nan_to_num logaddexp xlogy logit deg2rad "
    "rad2deg sinc isclose allclose equal float_power",
    complex: "angle conj conj_physical is_complex is_conj is_neg isreal resolve_conj resolve_neg",
    numbers: "dist frexp gcd heaviside is_signed is_nonzero isneginf isposinf lcm ldexp logaddexp2 renorm",
    special: "i0 polygamma mvlgamma igamma igammac",
    reduction: "sum prod mean var std var_mean amax amin max min argmax argmin any all count_nonzero nansum nanmean "
    "logsumexp softmax log_softmax cumsum cumprod cummax cummin logcumsumexp",
    statistics: "aminmax corrcoef cov histc histogram",
    shape: "reshape view view_as reshape_as flatten ravel unflatten permute transpose swapaxes swapdims t movedim "
    "moveaxis squeeze unsqueeze expand expand_as broadcast_to repeat tile repeat_interleave split chunk unbind narrow "
    "select flip fliplr flipud roll tril triu diagonal diag diag_embed unfold numel",
    rearrange: "as_strided as_strided_scatter cross diagflat diagonal_scatter diff dsplit hsplit kron narrow_copy rot90 "
    "select_scatter slice_scatter split_with_sizes sum_to_size tensor_split trace unsafe_chunk "
    "unsafe_split vsplit",
    indexing: "argwhere nonzero nonzero_static gather scatter scatter_add scatter_reduce index_select index_add "
    "index_copy index_fill index_reduce masked_fill masked_scatter masked_select take take_along_dim index_put bincount "
    "put",
    linear: "matmul mm bmm mv dot vdot inner outer ger addmm addmv addr addbmm baddbmm matrix_power",
    legacy: "cholesky cholesky_inverse cholesky_solve det geqrf inverse logdet lu lu_solve matrix_exp norm orgqr ormqr "
    "pinverse qr slogdet svd triangular_solve",
    sorting: "sort argsort msort topk kthvalue median nanmedian mode quantile nanquantile unique unique_consecutive",
    short_time: "stft istft",
    random: "bernoulli multinomial",
    creation: "clone",
}  # fmt: skip

# Those of them that PyTorch also has in place: the name with an underscore rebinds the tensor to the result.
_IN_PLACE = (
    "abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr arccos arccosh arcsin arcsinh arctan arctan2 "
    "arctanh as_strided asin asinh atan atan2 atanh baddbmm bitwise_and bitwise_left_shift bitwise_not bitwise_or "
    "bitwise_right_shift bitwise_xor ceil clamp clamp_max clamp_min clip conj_physical copysign cos cosh cumprod cumsum "
    "deg2rad digamma div divide eq erf erfc erfinv exp exp2 expm1 fix float_power floor floor_divide fmod frac gcd ge "
    "greater greater_equal gt heaviside hypot i0 igamma igammac index_add index_copy index_fill index_put index_reduce "
    "lcm ldexp le lerp less less_equal lgamma log log10 log1p log2 logical_and logical_not logical_or logical_xor logit "
    "lt masked_fill masked_scatter mul multiply mvlgamma nan_to_num ne neg negative nextafter not_equal polygamma pow put "
    "rad2deg reciprocal relu remainder renorm round rsqrt scatter scatter_add scatter_reduce sgn sigmoid sign sin sinc "
    "sinh sqrt square squeeze sub subtract swapaxes swapdims t tan tanh transpose tril triu true_divide trunc unsqueeze "
    "xlogy"
)

# In-place forms that give the tensor another shape.
_RESHAPING = frozenset(("as_strided", "squeeze", "swapaxes", "swapdims", "t", "transpose", "unsqueeze"))

_TO = {
    "float": dtypes.float32, "double": dtypes.float64, "half": dtypes.float16, "bfloat16": dtypes.bfloat16,
    "long": dtypes.int64, "int": dtypes.int32, "short": dtypes.int16, "char": dtypes.int8, "byte": dtypes.uint8,
    "bool": dtypes.bool_, "cfloat": dtypes.complex64, "cdouble": dtypes.complex128,
}  # fmt: skip


def _in_place(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        node = function(self, *args, **kwargs)._node
        if node.dtype is not self.dtype:
            if dtypes.CATEGORY[node.dtype.kind] > dtypes.CATEGORY[self.dtype.kind]:
                raise RuntimeError(
                    f"{name}_: result type {node.dtype.name} can't be cast to the tensor's type {self.dtype.name}; "
                    f"use {name} instead"
                )
            node = ew.cast(node, self.dtype)
        if name in _RESHAPING:
            if self.requires_grad and self.is_leaf and grad_mode.enabled:
                raise RuntimeError(f"{name}_: a leaf that requires grad cannot change in place; do it under fp.no_grad()")
            self._point(node)
            return self
        return self._rebind(node)

    method.__name__ = name + "_"
    method.__doc__ = f"{name} in place: the tensor stands for the result from now on."
    return method


def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Take over the values of `src`, broadcast and converted."""
    if isinstance(src, Tensor):
        src = to(src, self.dtype)
    return self._rebind(expand(node_of(src, self.dtype), self.shape))


def zero_(self: Tensor) -> Tensor:
    """Overwrite with zeros."""
    return fill_(self, 0)


def fill_(self: Tensor, value: Any) -> Tensor:
    """Overwrite with one value, a number or a 0-d tensor."""
    if self.requires_grad and not self.is_leaf:  # the result still requires grad; the derivative is zero
        return self._rebind(creation.fill(self, value)._node)
    return self._rebind(expand(node_of(value, self.dtype), self.shape))


def detach_(self: Tensor) -> Tensor:
    self._point(self.detach()._value)
    return self


def to(
    self: Tensor,
    *args: Any,
    dtype: DType | None = None,
    device: Any = None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """The tensor under another dtype (or that of another tensor); the device can only be the CPU."""
    for a in args:
        if isinstance(a, DType):
            dtype = a
        elif isinstance(a, Tensor):
            dtype = a.dtype
        elif isinstance(a, (str, Device)):
            device = a
    if device is not None:
        Device(device)
    if copy and (dtype is None or dtype is self.dtype):
        return creation.clone(self)
    if dtype is None or dtype is self.dtype:
        return self
    if self.dtype.is_complex and not dtype.is_complex and dtype is not dtypes.bool_:
        warnings.warn("Casting complex values to real discards the imaginary part", UserWarning, stacklevel=2)
        return wrap(ew.cast(ew.real(self._node), dtype))
    return wrap(ew.cast(self._node, dtype))


def type_as(self: Tensor, other: Tensor) -> Tensor:
    return to(self, other.dtype)


def size(self: Tensor, dim: int | None = None) -> Any:
    """The shape, or the size of one dimension."""
    return self.shape if dim is None else self.shape[dim]


def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Overwrite the diagonal; wrap: begin anew below it in matrices that are high."""
    if self.ndim < 2 or (self.ndim > 2 and len(set(self.shape)) > 1):
        raise RuntimeError(f"fill_diagonal_: expected a matrix or equal sizes, got shape {list(self.shape)}")
    size = self.numel()
    step = sum(math.prod(self.shape[d + 1 :]) for d in range(self.ndim))
    place = ew.iota(size, dtypes.int64)
    on = ew.eq(ew.binary("remainder", place, ew.like(place, step)), ew.like(place, 0))
    if self.ndim == 2 and not wrap:
        on = ew.and_(on, ew.compare("lt", place, ew.like(place, min(self.shape) * step)))
    value = expand(node_of(fill_value, self.dtype), (size,))
    return self._rebind(views.reshape(ew.where(on, value, views.reshape(self._node, (size,))), self.shape))


def resize_(self: Tensor, *sizes: Any, memory_format: Any = None) -> Tensor:
    """Take another shape: the first elements in row-major order, zeros where there are more."""
    size = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    if self.requires_grad:
        raise RuntimeError("resize_: cannot resize variables that require grad")
    count = math.prod(size)
    kept = min(count, self.numel())
    flat = views.slice_(views.reshape(self._node, (self.numel(),)), (0,), (kept,))
    self._point(views.reshape(views.pad(flat, (0,), (count - kept,)), tuple(size)))
    return self


def stride(self: Tensor, dim: int | None = None) -> Any:
    """The strides of a tensor in row-major order: how PyTorch would number the elements."""
    strides = tuple(math.prod(self.shape[d + 1 :]) for d in range(self.ndim))
    return strides if dim is None else strides[dim]


def type_(self: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """The tensor under another dtype; without one, the name of its type."""
    return f"firepot.{self.dtype.name}" if dtype is None else to(self, dtype)


def _matrix_transpose(self: Tensor) -> Tensor:
    if self.ndim not in (0, 2):
        raise RuntimeError(f"H is only for matrices (mH for batches of them), got shape {list(self.shape)}")
    return complex.conj(shape.t(self))


def adjoint(self: Tensor) -> Tensor:
    """The conjugate transpose of matrices, and of batches of them."""
    return complex.conj(shape.transpose(self, -2, -1))


def _new(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def method(self: Tensor, *args: Any, dtype: DType | None = None, **placement: Any) -> Tensor:
        return function(*args, dtype=dtype or self.dtype, **placement)

    method.__doc__ = f"{function.__name__} with this tensor's dtype."
    return method


def _operator(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Tensor, other: Any) -> Any:
        if isinstance(other, str) or other is None:
            return NotImplemented
        return function(self, other)

    return method


def _reflected(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, other: function(other, self)


def _rmatmul(self: Tensor, other: Any) -> Tensor:
    return linear.matmul(creation.as_tensor(other), self)


def _iterate(self: Tensor) -> Any:
    if not self.shape:
        raise TypeError("iteration over a 0-d tensor")
    return iter(shape.unbind(self))


def _contains(self: Tensor, value: Any) -> bool:
    return bool(reduction.any(arithmetic.eq(self, value)))


def attach() -> None:
    """Give Tensor its methods."""
    for module, names in _SAME_NAME.items():
        for name in names.split():
            setattr(Tensor, name, getattr(module, name))
    for name in _IN_PLACE.split():
        setattr(Tensor, name + "_", _in_place(name, exempt(getattr(Tensor, name))))
    for name, dtype in _TO.items():
        setattr(Tensor, name, lambda self, *, memory_format=None, dtype=dtype: to(self, dtype))
    operators = {
        "add": arithmetic.add, "sub": arithmetic.sub, "mul": arithmetic.mul, "truediv": arithmetic.div,
        "floordiv": arithmetic.floor_divide, "mod": arithmetic.remainder, "pow": arithmetic.pow,
        "and": arithmetic.bitwise_and, "or": arithmetic.bitwise_or, "xor": arithmetic.bitwise_xor,
        "lshift": arithmetic.bitwise_left_shift, "rshift": arithmetic.bitwise_right_shift, "matmul": linear.matmul,
    }  # fmt: skip
    for name, function in operators.items():
        setattr(Tensor, f"__{name}__", _operator(function))
        setattr(Tensor, f"__r{name}__", _reflected(function))
        setattr(Tensor, f"__i{name}__", _in_place(name, exempt(function)))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Tensor, f"__{name}__", _operator(getattr(arithmetic, name)))
    extra: dict[str, Any] = {
        "__rmatmul__": _rmatmul, "__neg__": arithmetic.neg, "__pos__": arithmetic.positive, "__abs__": arithmetic.abs,
        "__invert__": arithmetic.bitwise_not, "__getitem__": indexing.getitem, "__setitem__": indexing.setitem,
        "__iter__": _iterate, "__contains__": _contains, "copy_": copy_, "zero_": zero_, "fill_": fill_, "detach_": detach_, "to": to,
        "type_as": type_as, "size": size, "dim": lambda self: self.ndim, "nelement": shape.numel,
        "cpu": lambda self, memory_format=None: self, "contiguous": lambda self, *, memory_format=None: self,
        "is_contiguous": lambda self, memory_format=None: True, "adjoint": adjoint,
        "real": property(complex.real, complex.set_real), "imag": property(complex.imag, complex.set_imag),
        "H": property(_matrix_transpose),
        "mH": property(adjoint),
        "element_size": lambda self: self.dtype.size, "is_floating_point": lambda self: self.dtype.kind == "f",
        "uniform_": random.uniform_, "normal_": random.normal_, "bernoulli_": random.bernoulli_,
        "exponential_": random.exponential_, "random_": random.random_, "cauchy_": random.cauchy_,
        "geometric_": random.geometric_, "log_normal_": random.log_normal_, "fill_diagonal_": fill_diagonal_,
        "new_zeros": _new(creation.zeros), "new_ones": _new(creation.ones), "new_empty": _new(creation.empty),
        "new_full": _new(creation.full), "new_tensor": _new(creation.tensor), "type": type_, "resize_": resize_,
        "resize_as_": lambda self, other, memory_format=None: resize_(self, other.shape),
        "new_empty_strided": _new(creation.empty_strided), "ndimension": lambda self: self.ndim,
        "stride": stride, "storage_offset": lambda self: 0, "is_same_size": lambda self, other: self.shape == other.shape,
        "pin_memory": lambda self, device=None: self,
        "T": property(lambda self: shape.permute(self, tuple(reversed(range(self.ndim))))),
        "mT": property(lambda self: shape.transpose(self, -2, -1)), "data": property(lambda self: self.detach()),
        "itemsize": property(lambda self: self.dtype.size), "nbytes": property(lambda self: self.dtype.size * self.numel()),
        "grad_fn": property(lambda self: None if self.is_leaf else self._value.primitive),
    }  # fmt: skip
    for name, value in extra.items():
        setattr(Tensor, name, value)
    Tensor.__hash__ = object.__hash__  # type: ignore[method-assign, assignment]


attach()
