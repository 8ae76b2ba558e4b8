"""Which of our functions answers to an entry of PyTorch's operator database, and why some have none."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import firepot as fp
from firepot.nn import functional as F

# Entries whose name is not where the function is.
_ELSEWHERE: dict[str, Callable[..., Any]] = {
    "__getitem__": lambda x, index: x[index],
    "__radd__": lambda x, other: operator.add(other, x), "__rsub__": lambda x, other: operator.sub(other, x),
    "__rmul__": lambda x, other: operator.mul(other, x), "__rdiv__": lambda x, other: operator.truediv(other, x),
    "__rmod__": lambda x, other: operator.mod(other, x), "__rpow__": lambda x, other: operator.pow(other, x),
    "__rand__": lambda x, other: operator.and_(other, x), "__ror__": lambda x, other: operator.or_(other, x),
    "__rxor__": lambda x, other: operator.xor(other, x), "__rmatmul__": lambda x, other: operator.matmul(other, x),
    "T": lambda x: x.T, "mT": lambda x: x.mT, "H": lambda x: x.H, "mH": lambda x: x.mH,
    "normal/in_place": lambda x, *a, **k: x.normal_(*a, **k), "uniform": lambda x, *a, **k: x.uniform_(*a, **k),
    "exponential": lambda x, *a, **k: x.exponential_(*a, **k), "cauchy": lambda x, *a, **k: x.cauchy_(*a, **k),
    "geometric": lambda x, *a, **k: x.geometric_(*a, **k), "log_normal": lambda x, *a, **k: x.log_normal_(*a, **k),
    "where": lambda x, condition, other: fp.where(condition, x, other), "zero_": lambda x: x.clone().zero_(),
    "nn.functional.embedding": lambda weight, index, **k: F.embedding(index, weight, **k),
    "nn.functional.embedding_bag": lambda weight, index, **k: F.embedding_bag(index, weight, **k),
    "einsum": lambda tensors, equation: fp.einsum(equation, tensors),
    "polygamma": lambda x, n: fp.polygamma(n, x), "special.polygamma": lambda x, n: fp.special.polygamma(n, x),
    "svd_lowrank": lambda a, b, **k: fp.svd_lowrank(a @ b.mT, **k),
    "pca_lowrank": lambda a, b, **k: fp.pca_lowrank(a @ b.mT, **k),
    "linalg.pinv/singular": lambda a, b: fp.linalg.pinv(a @ b.mT),
    "linalg.lstsq/grad_oriented": lambda a, b, driver: fp.linalg.lstsq(a, b, driver=driver)[:2],
    "normal/number_mean": lambda std, mean, *a, **k: fp.normal(mean, std, *a, **k), "bernoulli": lambda x, *a, **k: fp.bernoulli(x, *a, **k),
    "broadcast_shapes": lambda *shapes: fp.broadcast_shapes(*shapes),
    "view": lambda x, *a: x.view(*a), "unbind": lambda x, *a, **k: fp.unbind(x, *a, **k),
    "real": lambda x: x.real, "slice": lambda x, *a, **k: fp.slice_copy(x, *a, **k),
    "resize_": lambda x, shape: x.clone().resize_(shape), "resize_as_": lambda x, other: x.clone().resize_as_(other),
}  # fmt: skip
_METHODS_FIRST = {
    "to", "item", "contiguous", "cfloat", "cdouble", "bool", "byte", "char", "double", "float", "half", "int", "long", "short", "bfloat16",
    "new_empty", "new_zeros", "new_ones", "new_full", "index_put", "view_as", "expand", "expand_as", "reshape_as",
    "repeat", "unfold", "sum_to_size", "broadcast_to", "new_empty_strided",
}  # fmt: skip

COMPLEX = "complex numbers of half precision do not exist in Firepot"
INTERNAL = "an internal function of PyTorch, not part of its documented interface"
SPARSE = "sparse tensors do not exist in Firepot"
JITERATOR = "CUDA source as an argument; PyTorch runs it on CUDA only"

REASONS: dict[str, str] = {
    "chalf": COMPLEX,
    **dict.fromkeys(
        ["_softmax_backward_data", "native_group_norm", "native_layer_norm", "native_batch_norm",
         "_native_batch_norm_legit", "_batch_norm_with_update", "_upsample_bilinear2d_aa",
         "max_pool2d_with_indices_backward", "torch._scaled_mm_v2", "torch._scaled_mm",
         "torch.ops.aten._safe_softmax.default", "torch.ops.aten._flash_attention_forward",
         "torch.ops.aten._efficient_attention_forward", "_unsafe_masked_index",
         "_unsafe_masked_index_put_accumulate", "_chunk_cat", "native_dropout_backward", "_segment_reduce/lengths",
         "_segment_reduce/offsets", "hash_tensor", "grid_sampler_2d", "grid_sampler_3d"], INTERNAL),
    **dict.fromkeys(["sparse.sampled_addmm", "sparse.mm/reduce", "to_sparse"], SPARSE),
    **dict.fromkeys(
        ["jiterator_unary", "jiterator_binary", "jiterator_4inputs_with_extra_args",
         "jiterator_binary_return_by_ref", "jiterator_2inputs_2outputs"], JITERATOR),
}  # fmt: skip

# Entries of which only shape and dtype can be compared: random numbers, or memory that was never written.
RANDOM = {
    "normal", "normal/in_place", "normal/number_mean", "uniform", "exponential", "cauchy", "geometric", "log_normal",
    "randn", "randn_like", "rand_like", "randint", "randint_like", "multinomial", "bernoulli", "empty", "empty_like",
    "new_empty", "empty_strided", "new_empty_strided", "empty_permuted", "nn.functional.dropout",
    "nn.functional.dropout2d", "nn.functional.dropout3d", "nn.functional.alpha_dropout", "nn.functional.rrelu",
    "nn.functional.feature_alpha_dropout/with_train", "nn.functional.fractional_max_pool2d",
    "nn.functional.fractional_max_pool3d", "svd_lowrank", "pca_lowrank", "resize_", "resize_as_",
}  # fmt: skip


# Decompositions whose vectors are defined up to their sign: absolute values are compared.
SIGNS = {"svd", "linalg.svd", "linalg.eigh", "linalg.eig"}

# Entries that return logarithms of complex numbers, whose angle is known up to multiples of 2π: what they are of is compared.
LOGARITHMS = {"logcumsumexp"}

# Entries that return positions, where equal elements leave a choice.
TIES = {"sort", "argsort", "topk", "kthvalue", "median", "nanmedian", "mode"}


# Where we know better, or different, and why. The report says so beside what fails.
DEVIATIONS: dict[str, str] = {
    "matrix_exp": "PyTorch's half precision overflows on the way, to NaN",
    "linalg.norm/subgradients_at_zero": "PyTorch's second derivative of the norm at zero is NaN",
    "nn.functional.multi_head_attention_forward": "numbers of up to 160 in bfloat16, whose digits are 1 apart, cancel to 13; "
    "largest errors are 0.8 here and 0.5 for PyTorch, and the other way round in other samples",
    "CTCLoss": "PyTorch's derivative by log_probs holds only behind a log_softmax; ours is that of the loss itself",
}

# Entries whose derivatives are compared in double precision throughout: their samples have weights in single precision,
# the rounding of whose sum decides about many digits.
DOUBLE = {"cov"}

# Where PyTorch's derivative is wrong, ours is held against central differences of PyTorch's function. The report says so.
NUMERICAL: dict[str, str] = {
    "as_strided_scatter": "PyTorch's derivative by the input keeps the elements that were overwritten",
    "masked.logaddexp": "PyTorch's second derivative is NaN where both elements are masked out",
}


def name_of(entry: Any) -> str:
    """An entry's name and variant."""
    return entry.name + (f"/{entry.variant_test_name}" if entry.variant_test_name else "")


def function(entry: Any) -> Callable[..., Any] | None:
    """Our function for an entry of the operator database."""
    name = name_of(entry)
    if name in REASONS and not _named(entry.name):
        return None
    if name in _ELSEWHERE or entry.name in _ELSEWHERE:
        return _ELSEWHERE.get(name) or _ELSEWHERE[entry.name]
    return _named(entry.name)


def _named(name: str) -> Callable[..., Any] | None:
    if name.startswith("nn.functional."):
        return getattr(F, name.removeprefix("nn.functional."), None)
    if name in _METHODS_FIRST and hasattr(fp.Tensor, name):
        return getattr(fp.Tensor, name)
    found: Any = fp
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if found is not None else getattr(fp.Tensor, name, None)
