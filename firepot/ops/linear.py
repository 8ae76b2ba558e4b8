"""Products of matrices and tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from firepot.autocast_mode import autocasts, lowered
from firepot.graph.dtypes import DType
from firepot.graph.dtypes import bool_ as _bool
from firepot.graph.dtypes import float32 as _float32
from firepot.graph.dtypes import int8 as _int8
from firepot.graph.dtypes import int32 as _int32
from firepot.graph.dtypes import int64 as _int64
from firepot.graph.dtypes import promote as _promote
from firepot.graph.node import Node
from firepot.graph.primitives import contract as cn
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import reduce as rd
from firepot.graph.primitives import views
from firepot.ops.broadcast import axis_of, broadcast_shapes, promoted
from firepot.tensor import Tensor, wrap

__all__ = [
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "dot", "einsum", "ger", "inner", "int_mm", "matmul", "matrix_power",
    "mm", "mv", "outer", "tensordot", "vdot",
]  # fmt: skip


def _same_dtype(what: str, a: Tensor, b: Tensor) -> tuple[Node, Node]:
    if a.dtype is not b.dtype:
        raise RuntimeError(
            f"{what}: expected both tensors to have the same dtype, got {a.dtype.name} and {b.dtype.name}; "
            "convert one with .to(dtype)"
        )
    return a._node, b._node


@autocasts
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product, with PyTorch's rules for 1-d operands and batch dimensions.

    (n)·(n) -> (); (…, m, k)·(k) -> (…, m); (k)·(…, k, n) -> (…, n); (…, m, k)·(…, k, n) -> (…, m, n), batch
    dimensions broadcast. Raises RuntimeError where the inner sizes differ.
    """
    return _product("matmul", *_same_dtype("matmul", input, other))


def int_mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of int8 tensors in int32, which is exact: (…, m, k)·(…, k, n) -> (…, m, n), as matmul.

    Sums beyond 2³¹ − 1, which take 131,072 products at least, wrap around. PyTorch has this as torch._int_mm. On
    processors with AVX512_VNNI about three times as fast as a float32 product. RuntimeError where an operand is not int8
    or sizes do not fit.

    >>> fp.int_mm(fp.tensor([[100, 100]], dtype=fp.int8), fp.tensor([[100], [-20]], dtype=fp.int8))
    tensor([[8000]], dtype=firepot.int32)
    """
    if input.dtype is not _int8 or mat2.dtype is not _int8:
        raise RuntimeError(
            f"int_mm: expected two int8 tensors, got {input.dtype.name} and {mat2.dtype.name}; F.quantize makes int8 of "
            "floating-point numbers"
        )
    return _product("int_mm", input._node, mat2._node, _int32)


def _product(what: str, x: Node, y: Node, dtype: DType | None = None) -> Tensor:
    if not x.shape or not y.shape:
        raise RuntimeError(f"{what}: both arguments need at least one dimension; use * for numbers")
    inner_x, inner_y = x.shape[-1], y.shape[-2] if len(y.shape) > 1 else y.shape[0]
    if inner_x != inner_y:
        raise RuntimeError(
            f"{what}: shapes {list(x.shape)} and {list(y.shape)} cannot be multiplied; the last size of the first "
            f"({inner_x}) must equal the {'second last' if len(y.shape) > 1 else ''} size of the second ({inner_y})"
        )
    row, column = len(x.shape) == 1, len(y.shape) == 1
    if len(x.shape) == len(y.shape) == 2:  # what `_batched` makes of two matrices
        (m, k), n = x.shape, y.shape[1]
        product = cn.contract(views.reshape(x, (1, m, k)), views.reshape(y, (1, k, n)), dtype)
        return wrap(views.reshape(product, (m, n)))
    if row:
        x = views.reshape(x, (1, inner_x))
    if column:
        y = views.reshape(y, (inner_y, 1))
    result = _batched(x, y, what, dtype)
    shape = result.shape
    if column:
        shape = shape[:-1]
    if row:
        shape = shape[:-2] + shape[-1:] if not column else shape[:-1]
    return wrap(views.reshape(result, shape))


def _batched(x: Node, y: Node, what: str, dtype: DType | None = None) -> Node:
    m, k, n = x.shape[-2], x.shape[-1], y.shape[-1]
    if len(y.shape) == 2:  # one matrix for all rows: a single tall product
        flat = views.reshape(x, (1, math.prod(x.shape[:-1]), k))
        out = cn.contract(flat, views.reshape(y, (1, k, n)), dtype)
        return views.reshape(out, (*x.shape[:-1], n))
    batch = broadcast_shapes(x.shape[:-2], y.shape[:-2], what=what)
    count = math.prod(batch)
    left = _batch(x, batch, count)
    right = _batch(y, batch, count)
    return views.reshape(cn.contract(left, right, dtype), (*batch, m, n))


def _batch(x: Node, batch: tuple[int, ...], count: int) -> Node:
    return views.reshape(views.expand(x, (*batch, *x.shape[-2:])), (count, *x.shape[-2:]))


@autocasts
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices."""
    if input.ndim != 2 or mat2.ndim != 2:
        raise RuntimeError(f"mm: expected two matrices, got shapes {list(input.shape)} and {list(mat2.shape)}")
    return matmul(input, mat2)


@autocasts
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Products of two batches of matrices."""
    if input.ndim != 3 or mat2.ndim != 3 or input.shape[0] != mat2.shape[0]:
        raise RuntimeError(
            f"bmm: expected two 3-d tensors with equal batch, got {list(input.shape)} and {list(mat2.shape)}"
        )
    return matmul(input, mat2)


@autocasts
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """The product of a matrix with a vector."""
    if input.ndim != 2 or vec.ndim != 1:
        raise RuntimeError(f"mv: expected a matrix and a vector, got {list(input.shape)} and {list(vec.shape)}")
    return matmul(input, vec)


@autocasts
def dot(input: Tensor, other: Tensor) -> Tensor:
    """The inner product of two vectors."""
    if input.ndim != 1 or other.ndim != 1:
        raise RuntimeError(f"dot: expected two vectors, got shapes {list(input.shape)} and {list(other.shape)}")
    return matmul(input, other)


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Σ over the last dimension of both: (…, k), (*J, k) -> (…, *J). With a 0-d operand, the product."""
    if not input.shape or not other.shape:
        from firepot.ops.arithmetic import mul

        return mul(input, other)
    if input.ndim == other.ndim == 1:
        return dot(input, other)
    if input.shape[-1] != other.shape[-1]:
        raise RuntimeError(f"inner: the last sizes of {list(input.shape)} and {list(other.shape)} must be equal")
    return tensordot(input, other, ([-1], [-1]))


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """The outer product of two vectors."""
    if input.ndim != 1 or vec2.ndim != 1:
        raise RuntimeError(f"outer: expected two vectors, got shapes {list(input.shape)} and {list(vec2.shape)}")
    from firepot.ops.arithmetic import mul
    from firepot.ops.shape import unsqueeze

    return mul(unsqueeze(input, 1), unsqueeze(vec2, 0))


ger = outer


def _weighted_sum(what: str, input: Tensor, product: Tensor, beta: Any, alpha: Any) -> Tensor:
    """beta · input + alpha · product in the product's dtype and shape; with beta = 0 the input's NaN do not count."""
    from firepot.ops.arithmetic import add, mul

    if input.dtype is not product.dtype:
        raise RuntimeError(
            f"{what}: expected operands of one dtype, got {input.dtype.name} and {product.dtype.name}; convert with .to()"
        )
    if not product.dtype.is_inexact:
        beta, alpha = (bool if product.dtype.kind == "b" else int)(beta), (bool if product.dtype.kind == "b" else int)(alpha)
    shape = broadcast_shapes(input.shape, product.shape, what=what)
    if shape != product.shape:
        raise RuntimeError(f"{what}: the input {list(input.shape)} cannot be expanded to {list(product.shape)}")
    scaled = product if alpha == 1 else mul(product, alpha)
    return scaled if beta == 0 else add(input if beta == 1 else mul(input, beta), scaled)


def _product_and_sum(
    what: str, product: Callable[[Tensor, Tensor], Tensor], input: Tensor, a: Tensor, b: Tensor, beta: Any, alpha: Any
) -> Tensor:
    """beta · input + alpha · product(a, b); of half precision computed in float32 and rounded once."""
    if input.dtype.size != 2 or input.dtype.kind != "f" or a.dtype is not input.dtype or b.dtype is not input.dtype:
        return _weighted_sum(what, input, product(a, b), beta, alpha)
    wide, x, y = (wrap(ew.cast(t._node, _float32)) for t in (input, a, b))
    return wrap(ew.cast(_weighted_sum(what, wide, product(x, y), beta, alpha)._node, input.dtype))


@autocasts
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta · input + alpha · mat1 @ mat2."""
    return _product_and_sum("addmm", mm, input, mat1, mat2, beta, alpha)


@autocasts
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta · input + alpha · mat @ vec."""
    return _product_and_sum("addmv", mv, input, mat, vec, beta, alpha)


def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta · input + alpha · the outer product of two vectors."""
    from firepot.ops.arithmetic import cast

    dtype = promoted((input, vec1, vec2))
    return _weighted_sum("addr", cast(input, dtype), outer(cast(vec1, dtype), cast(vec2, dtype)), beta, alpha)


@autocasts
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta · input + alpha · batch1 @ batch2."""
    return _product_and_sum("baddbmm", bmm, input, batch1, batch2, beta, alpha)


@autocasts
def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta · input + alpha · Σ batch1 @ batch2 over the batch."""
    bmm(batch1, batch2)  # for its checks
    count, rows, inner = batch1.shape
    left = views.reshape(views.permute(batch1._node, (1, 0, 2)), (rows, count * inner))
    product = matmul(wrap(left), wrap(views.reshape(batch2._node, (count * inner, batch2.shape[2]))))
    return _weighted_sum("addbmm", input, product, beta, alpha)


def vdot(input: Tensor, other: Tensor) -> Tensor:
    """The inner product of two vectors, the first one conjugated."""
    return dot(wrap(ew.conj(input._node)), other)


def matrix_power(input: Tensor, n: int) -> Tensor:
    """The n-th power of square matrices, by repeated squaring; negative n are powers of the inverse."""
    if input.ndim < 2 or input.shape[-1] != input.shape[-2]:
        raise RuntimeError(f"matrix_power: expected square matrices, got shape {list(input.shape)}")
    if n < 0:
        from firepot.ops.linalg import inv

        return matrix_power(inv(input), -n)
    size = input.shape[-1]
    if n == 0:
        rows = views.expand(views.reshape(ew.iota(size, _int64), (size, 1)), (size, size))
        same = ew.cast(ew.eq(rows, views.expand(ew.iota(size, _int64), (size, size))), input.dtype)
        # The derivative is zero, and is there: the input is chosen nowhere.
        nowhere = ew.full(input.shape, False, _bool)
        return wrap(ew.where(nowhere, input._node, views.expand(same, input.shape)))
    result: Tensor | None = None
    square = input
    while n:
        if n & 1:
            result = square if result is None else matmul(result, square)
        n >>= 1
        if n:
            square = matmul(square, square)
    assert result is not None
    return result


def einsum(equation: str, *tensors: Any) -> Tensor:
    """Sums of products by index letters: 'bij,bjk->bik'. Ellipses broadcast; repeated letters take diagonals."""
    if not isinstance(equation, str):
        raise TypeError(f"einsum: the equation comes first, as a string, not {type(equation).__name__}")
    given = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else list(tensors)
    equation = equation.replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(given):
        raise RuntimeError(f"einsum: '{equation}' names {len(terms)} operands, {len(given)} were given")
    dtype = promoted(given)
    used = set(equation) - set(",->.")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in used]
    rank = max((t.ndim - len(x.replace("...", "")) for t, x in zip(given, terms, strict=True) if "..." in x), default=0)
    dots = "".join(spare[:rank])
    terms = [
        x.replace("...", dots[rank - (t.ndim - len(x.replace("...", ""))) :] if "..." in x else "")
        for x, t in zip(terms, given, strict=True)
    ]
    if arrow:
        out = right.replace("...", dots)
    else:
        letters = sorted(c for c in set("".join(terms)) if "".join(terms).count(c) == 1 and c not in dots)
        out = dots + "".join(letters)
    unknown = sorted(c for c in set(out) if c not in "".join(terms) or out.count(c) > 1)
    if unknown:
        raise RuntimeError(f"einsum: the result names '{''.join(unknown)}' twice or without an operand in '{equation}'")
    nodes = [ew.cast(t._node, dtype) for t in given]
    sizes: dict[str, int] = {}
    for i, (node, term) in enumerate(zip(nodes, terms, strict=True)):
        if len(term) != len(node.shape):
            raise RuntimeError(f"einsum: operand {i} has {len(node.shape)} dimensions, '{equation}' names {len(term)}")
        nodes[i], terms[i] = _diagonals(node, term)
        for c, s in zip(terms[i], nodes[i].shape, strict=True):
            if sizes.get(c, 1) != 1 and s not in (1, sizes[c]):
                raise RuntimeError(f"einsum: '{c}' has sizes {sizes[c]} and {s} in '{equation}'")
            sizes[c] = max(s, sizes.get(c, 1)) if s else 0
    node, term = nodes[0], terms[0]
    for i in range(1, len(nodes)):
        later = set(out).union(*terms[i + 1 :]) if i + 1 < len(terms) else set(out)
        node, term = _pair(node, term, nodes[i], terms[i], later, sizes)
    gone = [d for d, c in enumerate(term) if c not in out]
    node = rd.reduce("sum", node, gone)
    term = "".join(c for c in term if c in out)
    return wrap(views.permute(node, [term.index(c) for c in out]))


def _diagonals(node: Node, term: str) -> tuple[Node, str]:
    from firepot.ops.shape import diagonal

    for c in set(term):
        while term.count(c) > 1:
            a = term.index(c)
            b = term.index(c, a + 1)
            node = diagonal(wrap(node), 0, a, b)._node
            term = "".join(x for d, x in enumerate(term) if d not in (a, b)) + c
    return node, term


def _pair(x: Node, a: str, y: Node, c: str, later: set[str], sizes: dict[str, int]) -> tuple[Node, str]:
    """One contraction: letters in both and later are the batch, in both and not later are summed."""
    x = rd.reduce("sum", x, [d for d, l in enumerate(a) if l not in c and l not in later])
    a = "".join(l for l in a if l in c or l in later)
    y = rd.reduce("sum", y, [d for d, l in enumerate(c) if l not in a and l not in later])
    c = "".join(l for l in c if l in a or l in later)
    batch = [l for l in a if l in c and l in later]
    summed = [l for l in a if l in c and l not in later]
    if summed:  # else it is a product of elements, which autocast leaves alone
        x, y = lowered(x), lowered(y)
    if x.dtype is not y.dtype:  # one is an earlier product
        dtype = _promote(x.dtype, y.dtype)
        x, y = ew.cast(x, dtype), ew.cast(y, dtype)
    rows = [l for l in a if l not in c]
    columns = [l for l in c if l not in a]

    def arrange(node: Node, letters: str, order: list[str], groups: list[list[str]]) -> Node:
        node = views.permute(node, [letters.index(l) for l in order])
        node = views.expand(node, tuple(sizes[l] for l in order))
        return views.reshape(node, tuple(math.prod(sizes[l] for l in g) for g in groups))

    left = arrange(x, a, batch + rows + summed, [batch, rows, summed])
    right = arrange(y, c, batch + summed + columns, [batch, summed, columns])
    order = batch + rows + columns
    return views.reshape(cn.contract(left, right), tuple(sizes[l] for l in order)), "".join(order)


@autocasts
def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sum over pairs of dimensions: the last `dims` of a with the first of b, or two lists."""
    if isinstance(dims, int):
        first: Sequence[int] = range(a.ndim - dims, a.ndim)
        second: Sequence[int] = range(dims)
    else:
        first = [axis_of(d, a.ndim, "tensordot") for d in dims[0]]
        second = [axis_of(d, b.ndim, "tensordot") for d in dims[1]]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    names_a = list(letters[: a.ndim])
    names_b = list(letters[a.ndim : a.ndim + b.ndim])
    for i, j in zip(first, second, strict=True):
        names_b[j] = names_a[i]
    out = [n for i, n in enumerate(names_a) if i not in first] + [n for j, n in enumerate(names_b) if j not in second]
    return einsum(f"{''.join(names_a)},{''.join(names_b)}->{''.join(out)}", a, b)
