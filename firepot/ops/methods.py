"""The operations as methods and operators of Tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.primitives import elementwise as ew
from firepot.ops import arithmetic, creation, indexing, linear, random, reduction, shape, sorting
from firepot.ops.broadcast import expand
from firepot.tensor import Device, Tensor, node_of, wrap

_SAME_NAME = {
    arithmetic: "add sub mul div true_divide floor_divide pow fmod remainder maximum minimum fmax fmin atan2 hypot "
    "copysign nextafter eq ne lt le gt ge greater greater_equal less less_equal not_equal subtract multiply divide "
    "sqrt rsqrt reciprocal exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan sinh cosh tanh asinh acosh "
    "atanh arcsin arccos arctan arctan2 erf erfc erfinv lgamma digamma relu sigmoid abs absolute sign sgn neg negative "
    "positive floor ceil trunc fix round frac square isnan isinf isfinite signbit logical_not logical_and logical_or "
    "logical_xor bitwise_not bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift clamp clip "
    "clamp_min clamp_max lerp addcmul addcdiv nan_to_num logaddexp xlogy logit deg2rad rad2deg sinc isclose allclose "
    "equal float_power",
    reduction: "sum prod mean var std var_mean amax amin max min argmax argmin any all count_nonzero nansum nanmean "
    "norm logsumexp softmax log_softmax cumsum cumprod cummax cummin logcumsumexp",
    shape: "reshape view view_as reshape_as flatten ravel unflatten permute transpose swapaxes swapdims t movedim "
    "moveaxis squeeze unsqueeze expand expand_as broadcast_to repeat tile repeat_interleave split chunk unbind narrow "
    "select flip fliplr flipud roll tril triu diagonal diag diag_embed unfold numel",
    indexing: "nonzero gather scatter scatter_add scatter_reduce index_select index_add index_copy index_fill "
    "masked_fill masked_select take take_along_dim index_put bincount",
    linear: "matmul mm bmm mv dot inner outer addmm baddbmm",
    sorting: "sort argsort msort topk kthvalue median quantile unique",
    random: "bernoulli multinomial",
    creation: "clone",
}  # fmt: skip

_IN_PLACE = [
    "add",
    "sub",
    "mul",
    "div",
    "floor_divide",
    "pow",
    "remainder",
    "fmod",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sin",
    "cos",
    "tan",
    "tanh",
    "relu",
    "sigmoid",
    "erf",
    "abs",
    "sign",
    "neg",
    "floor",
    "ceil",
    "trunc",
    "round",
    "square",
    "clamp",
    "clamp_min",
    "clamp_max",
    "lerp",
    "addcmul",
    "addcdiv",
    "nan_to_num",
    "logical_not",
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_not",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "masked_fill",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "index_add",
    "index_copy",
    "index_fill",
    "index_put",
    "tril",
    "triu",
    "cumsum",
    "cumprod",
    "addmm",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
]

_TO = {
    "float": dtypes.float32, "double": dtypes.float64, "half": dtypes.float16, "bfloat16": dtypes.bfloat16,
    "long": dtypes.int64, "int": dtypes.int32, "short": dtypes.int16, "char": dtypes.int8, "byte": dtypes.uint8,
    "bool": dtypes.bool_,
}  # fmt: skip


def _in_place(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        node = function(self, *args, **kwargs)._node
        if node.dtype is not self.dtype:
            order = "biuf"
            if order.index(node.dtype.kind) > order.index(self.dtype.kind) and {node.dtype.kind, self.dtype.kind} != {
                "i",
                "u",
            }:
                raise RuntimeError(
                    f"{name}_: result type {node.dtype.name} can't be cast to the tensor's type {self.dtype.name}; "
                    f"use {name} instead"
                )
            node = ew.cast(node, self.dtype)
        return self._rebind(node)

    method.__name__ = name + "_"
    method.__doc__ = f"{name} in place: the tensor stands for the result from now on."
    return method


def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Take over the values of `src`, broadcast and converted."""
    return self._rebind(expand(node_of(src, self.dtype), self.shape))


def zero_(self: Tensor) -> Tensor:
    return self._rebind(ew.full(self.shape, 0, self.dtype))


def fill_(self: Tensor, value: Any) -> Tensor:
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
    return self if dtype is None or dtype is self.dtype else wrap(ew.cast(self._node, dtype))


def type_as(self: Tensor, other: Tensor) -> Tensor:
    return to(self, other.dtype)


def size(self: Tensor, dim: int | None = None) -> Any:
    """The shape, or the size of one dimension."""
    return self.shape if dim is None else self.shape[dim]


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
    methods = {**{n: getattr(Tensor, n) for n in _IN_PLACE}}
    for name, function in methods.items():
        setattr(Tensor, name + "_", _in_place(name, function))
    for name, dtype in _TO.items():
        setattr(Tensor, name, lambda self, dtype=dtype: to(self, dtype))
    operators = {
        "add": arithmetic.add, "sub": arithmetic.sub, "mul": arithmetic.mul, "truediv": arithmetic.div,
        "floordiv": arithmetic.floor_divide, "mod": arithmetic.remainder, "pow": arithmetic.pow,
        "and": arithmetic.bitwise_and, "or": arithmetic.bitwise_or, "xor": arithmetic.bitwise_xor,
        "lshift": arithmetic.bitwise_left_shift, "rshift": arithmetic.bitwise_right_shift, "matmul": linear.matmul,
    }  # fmt: skip
    for name, function in operators.items():
        setattr(Tensor, f"__{name}__", _operator(function))
        setattr(Tensor, f"__r{name}__", _reflected(function))
        setattr(Tensor, f"__i{name}__", _in_place(name, function))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        setattr(Tensor, f"__{name}__", _operator(getattr(arithmetic, name)))
    extra: dict[str, Any] = {
        "__rmatmul__": _rmatmul, "__neg__": arithmetic.neg, "__pos__": arithmetic.positive, "__abs__": arithmetic.abs,
        "__invert__": arithmetic.bitwise_not, "__getitem__": indexing.getitem, "__setitem__": indexing.setitem,
        "__iter__": _iterate, "__contains__": _contains, "copy_": copy_, "zero_": zero_, "fill_": fill_, "detach_": detach_, "to": to,
        "type_as": type_as, "size": size, "dim": lambda self: self.ndim, "nelement": shape.numel,
        "cpu": lambda self: self, "contiguous": lambda self: self, "is_contiguous": lambda self: True,
        "element_size": lambda self: self.dtype.size, "is_floating_point": lambda self: self.dtype.kind == "f",
        "clip_": Tensor.__dict__["clamp_"], "uniform_": random.uniform_, "normal_": random.normal_,
        "bernoulli_": random.bernoulli_, "exponential_": random.exponential_, "random_": random.random_,
        "new_zeros": lambda self, *s, dtype=None: creation.zeros(*s, dtype=dtype or self.dtype),
        "new_ones": lambda self, *s, dtype=None: creation.ones(*s, dtype=dtype or self.dtype),
        "new_full": lambda self, s, v, dtype=None: creation.full(s, v, dtype=dtype or self.dtype),
        "new_tensor": lambda self, d, dtype=None: creation.tensor(d, dtype=dtype or self.dtype),
        "new_empty": lambda self, *s, dtype=None: creation.zeros(*s, dtype=dtype or self.dtype),
        "T": property(lambda self: shape.permute(self, tuple(reversed(range(self.ndim))))),
        "mT": property(lambda self: shape.transpose(self, -2, -1)), "data": property(lambda self: self.detach()),
        "itemsize": property(lambda self: self.dtype.size), "nbytes": property(lambda self: self.dtype.size * self.numel()),
        "grad_fn": property(lambda self: None if self.is_leaf else self._value.primitive),
    }  # fmt: skip
    for name, value in extra.items():
        setattr(Tensor, name, value)
    Tensor.__hash__ = object.__hash__  # type: ignore[method-assign, assignment]


attach()
