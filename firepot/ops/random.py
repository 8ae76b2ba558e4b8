"""Random numbers: counter-based, so that they are a function of a seed and a position and nothing is stored.

A generator is a key and an offset, both 0-d tensors: a captured function reads them as state and leaves the advanced
offset behind. Philox 4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011).
"""

from __future__ import annotations

import math
import os
from typing import Any

from firepot.graph import dtypes
from firepot.graph.dtypes import DType
from firepot.graph.node import Node
from firepot.graph.primitives import elementwise as ew
from firepot.graph.primitives import gather, views
from firepot.graph.primitives.reduce import reduce
from firepot.ops.broadcast import Number, expand, floating
from firepot.ops.creation import placed, shape_of
from firepot.tensor import Tensor, caller_site, default_dtype, node_of, wrap
from firepot.tracing import outside_trace, state

__all__ = [
    "Generator", "bernoulli", "bernoulli_", "cauchy_", "default_generator", "dropout_mask", "exponential_", "geometric_",
    "get_rng_state", "initial_seed", "log_normal_", "manual_seed", "multinomial", "normal", "normal_", "rand",
    "rand_like", "randint", "randint_like", "randn", "randn_like", "random_", "randperm", "seed", "set_rng_state",
    "uniform_",
]  # fmt: skip


class Generator:
    """A stream of random numbers: the same for the same seed, whatever the shapes and threads. The default one is
    `fp.manual_seed`'s.

    >>> g = fp.Generator().manual_seed(7)
    >>> first = fp.rand(3, generator=g)
    >>> fp.equal(first, fp.rand(3, generator=g.manual_seed(7)))
    True
    """

    def __init__(self, device: Any = "cpu") -> None:
        self._seed = 0
        with outside_trace():
            self._key = wrap(node_of(0, dtypes.uint64))
            self._offset = wrap(node_of(0, dtypes.uint64))

    def manual_seed(self, seed: int) -> Generator:
        """Start the stream of this seed anew."""
        self._seed = int(seed)
        self._key._rebind(node_of(_array(self._seed)))
        self._offset._rebind(node_of(_array(0)))
        return self

    def seed(self) -> int:
        """Start at a seed from the operating system; returns it."""
        value = int.from_bytes(os.urandom(6), "little")
        self.manual_seed(value)
        return value

    def initial_seed(self) -> int:
        return self._seed

    def get_state(self) -> Tensor:
        """(key, offset) as an int64 tensor."""
        from firepot.ops.shape import stack

        return stack([wrap(ew.cast(self._key._node, dtypes.int64)), wrap(ew.cast(self._offset._node, dtypes.int64))])

    def set_state(self, state: Tensor) -> None:
        from firepot.ops.shape import select

        self._key._rebind(ew.cast(select(state, 0, 0)._node, dtypes.uint64))
        self._offset._rebind(ew.cast(select(state, 0, 1)._node, dtypes.uint64))

    def bits(self, shape: tuple[int, ...]) -> Node:
        """uint32 words, different at every call. Under fp.vmap those of the examples follow one another."""
        offset = start = self._offset._node
        count = max(math.prod(shape), 1)
        for mapping in reversed(state.mappings):
            if mapping.randomness == "error":
                raise RuntimeError(
                    "vmap: the function draws random numbers; say with randomness='different' or 'same' whether each "
                    "example gets its own"
                )
            if mapping.randomness == "different":
                start = ew.add(start, ew.mul(mapping.index, ew.constant(count, dtypes.uint64)))
                count *= max(mapping.size, 1)
        self._offset._rebind(ew.add(offset, ew.constant(count, dtypes.uint64)))
        return ew.random_bits(self._key._node, shape, start)


def _array(value: int) -> Any:
    import numpy as np

    return np.array(value & (2**64 - 1), np.uint64)


default_generator = Generator()


def manual_seed(seed: int) -> Generator:
    """Seed the default generator."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Start the default generator at a seed from the operating system; returns it."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed that the default generator was started with."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """The default generator's state, an int64 tensor for set_rng_state."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Go on where get_rng_state was called."""
    default_generator.set_state(new_state)


def _uniform(shape: tuple[int, ...], dtype: DType, generator: Generator | None) -> Node:
    """Uniform in [0, 1): 24 random bits, or 53 for float64."""
    source = generator or default_generator
    if dtype is dtypes.float64:
        high = ew.cast(source.bits(shape), dtypes.uint64)
        low = ew.cast(source.bits(shape), dtypes.uint64)
        word = ew.or_(ew.binary("shl", high, ew.like(high, 32)), low)
        whole = ew.cast(ew.binary("shr", word, ew.like(word, 11)), dtypes.float64)
        return ew.mul(whole, ew.like(whole, 2.0**-53))
    bits = source.bits(shape)
    whole = ew.cast(ew.binary("shr", bits, ew.like(bits, 8)), dtypes.float32)
    return ew.cast(ew.mul(whole, ew.like(whole, 2.0**-24)), dtype)


def _normal(shape: tuple[int, ...], dtype: DType, generator: Generator | None) -> Node:
    """Box and Muller's transform of two uniforms."""
    work = dtypes.float64 if dtype is dtypes.float64 else dtypes.float32
    u, v = _uniform(shape, work, generator), _uniform(shape, work, generator)
    radius = ew.unary("sqrt", ew.mul(ew.log(ew.sub(ew.like(u, 1), u)), ew.like(u, -2)))
    return ew.cast(ew.mul(radius, ew.unary("cos", ew.mul(v, ew.like(v, 2 * math.pi)))), dtype)


def rand(
    *size: Any, generator: Generator | None = None, dtype: DType | None = None, requires_grad: bool = False,
    **placement: Any,
) -> Tensor:  # fmt: skip
    """Uniform in [0, 1), floating dtypes.

    >>> fp.rand(2, 3).shape
    (2, 3)
    """
    return placed(_uniform(_size(size, placement), dtype or default_dtype(), generator), requires_grad, placement)


def randn(
    *size: Any, generator: Generator | None = None, dtype: DType | None = None, requires_grad: bool = False,
    **placement: Any,
) -> Tensor:  # fmt: skip
    """Normal with mean 0 and variance 1, floating dtypes.

    >>> fp.randn(2, 3, dtype=fp.float64).dtype
    firepot.float64
    """
    return placed(_normal(_size(size, placement), dtype or default_dtype(), generator), requires_grad, placement)


def _size(size: Any, placement: dict[str, Any]) -> tuple[int, ...]:
    return shape_of((placement.pop("size"),) if "size" in placement and not size else size)


def rand_like(input: Tensor, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any) -> Tensor:
    """Uniform in [0, 1) with the shape of `input`, and its dtype unless one is given."""
    return rand(input.shape, dtype=dtype or input.dtype, requires_grad=requires_grad, **placement)


def randn_like(input: Tensor, *, dtype: DType | None = None, requires_grad: bool = False, **placement: Any) -> Tensor:
    """Normal with the shape of `input`, and its dtype unless one is given."""
    return randn(input.shape, dtype=dtype or input.dtype, requires_grad=requires_grad, **placement)


def randint(
    low: Any, high: Any = None, size: Any = None, *, generator: Generator | None = None, dtype: DType | None = None,
    requires_grad: bool = False, **placement: Any,
) -> Tensor:  # fmt: skip
    """Whole numbers in low … high − 1; int64 unless given. randint(high, size) starts at 0. RuntimeError unless low <
    high.

    >>> fp.randint(3, 5, (100,)).unique()
    tensor([3, 4])
    """
    if size is None:
        low, high, size = 0, low, high
    elif high is None:
        low, high = 0, low
    low, high = int(low), int(high)
    if high <= low:
        raise RuntimeError(f"randint: expected low < high, got {low} and {high}")
    target = dtype or dtypes.int64
    if target.kind in "iu":
        from firepot.ops.arithmetic import iinfo

        if not iinfo(target).min <= low <= high - 1 <= iinfo(target).max:
            raise RuntimeError(f"randint: {low} … {high - 1} does not fit {target.name}")
    source = generator or default_generator
    shape = shape_of((size,))
    a, b = ew.cast(source.bits(shape), dtypes.uint64), ew.cast(source.bits(shape), dtypes.uint64)
    word = ew.or_(ew.binary("shl", a, ew.like(a, 32)), b)
    value = ew.cast(ew.binary("remainder", word, ew.like(word, high - low)), dtypes.int64)
    return placed(ew.cast(ew.add(value, ew.like(value, low)), target), requires_grad, placement)


def randint_like(
    input: Tensor, low: Any, high: Any = None, *, dtype: DType | None = None, requires_grad: bool = False,
    **placement: Any,
) -> Tensor:  # fmt: skip
    """Whole numbers in low … high − 1 (0 … low − 1 where only one limit is given), shaped as the input."""
    return randint(low, high, input.shape, dtype=dtype or input.dtype, requires_grad=requires_grad, **placement)


def randperm(
    n: int, *, generator: Generator | None = None, dtype: DType | None = None, requires_grad: bool = False,
    **placement: Any,
) -> Tensor:  # fmt: skip
    """0 … n − 1 in random order.

    >>> fp.randperm(5).sort().values
    tensor([0, 1, 2, 3, 4])
    """
    if n < 0:
        raise RuntimeError(f"randperm: n must not be negative, got {n}")
    source = generator or default_generator
    a, b = ew.cast(source.bits((n,)), dtypes.uint64), ew.cast(source.bits((n,)), dtypes.uint64)
    keys = ew.or_(ew.binary("shl", a, ew.like(a, 32)), b)
    return placed(ew.cast(gather.argsort(keys), dtype or dtypes.int64), requires_grad, placement)


def bernoulli(input: Tensor, p: float | None = None, *, generator: Generator | None = None) -> Tensor:
    """1 with the probability that each element (or p) says, else 0."""
    if p is not None and not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli: p must lie in 0 … 1, got {p}")
    chance = input._node if p is None else ew.full(input.shape, p, floating(input._node).dtype)
    drawn = ew.compare("lt", ew.cast(_uniform(input.shape, dtypes.float32, generator), chance.dtype), chance)
    return wrap(ew.cast(drawn, input.dtype))


def normal(
    mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None,
    dtype: DType | None = None, requires_grad: bool = False, **placement: Any,
) -> Tensor:  # fmt: skip
    """Normal with the mean and standard deviation given, as numbers or tensors."""
    from firepot.ops import arithmetic
    from firepot.ops.broadcast import broadcast_shapes

    if not isinstance(std, Tensor) and std < 0:
        raise RuntimeError(f"normal: expected std >= 0.0, but found std {std}")
    given = [x for x in (mean, std) if isinstance(x, Tensor)]
    if size is None:
        size = broadcast_shapes(*(x.shape for x in given), what="normal")
    target = dtype or (floating(given[0]._node).dtype if given else default_dtype())
    drawn = arithmetic.add(arithmetic.mul(randn(size, generator=generator, dtype=target), std), mean)
    return placed(ew.cast(drawn._node, target), requires_grad, placement)


def multinomial(
    input: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Indices drawn by weight along the last dimension, by the largest of log weight plus Gumbel noise.

    Raises: RuntimeError for impossible counts; IndexError, when computed, where weights are negative, infinite or NaN,
    or too few of a row are positive.
    """
    from firepot.ops import shape

    if input.ndim not in (1, 2) or input.dtype.kind != "f":
        raise RuntimeError(
            f"multinomial: expected floating weights of 1 or 2 dimensions, got {input.dtype.name}{list(input.shape)}"
        )
    if num_samples <= 0:
        raise RuntimeError(f"multinomial: the number of samples must be positive, got {num_samples}")
    weights = input if input.ndim == 2 else shape.unsqueeze(input, 0)
    rows, classes = weights.shape
    if not replacement and num_samples > classes:
        raise RuntimeError(f"multinomial: cannot draw {num_samples} of {classes} without replacement")
    count = num_samples if replacement else 1
    u = _uniform((rows, count, classes), dtypes.float64, generator)
    noise = ew.neg(ew.log(ew.neg(ew.log(ew.sub(ew.like(u, 1), u)))))
    x = ew.cast(weights._node, dtypes.float64)
    score = ew.add(noise, views.expand(views.reshape(ew.log(x), (rows, 1, classes)), u.shape))
    order = gather.argsort(score, descending=True)
    if replacement:
        chosen = views.reshape(views.slice_(order, (0, 0, 0), (rows, count, 1)), (rows, count))
    else:
        chosen = views.slice_(views.reshape(order, (rows, classes)), (0, 0), (rows, num_samples))
    positive = reduce("sum", ew.cast(ew.gt(x, ew.like(x, 0)), dtypes.int64), (1,))
    bad = ew.or_(ew.unary("not", ew.predicate("isfinite", x)), ew.compare("lt", x, ew.like(x, 0)))
    enough = ew.ge(positive, ew.like(positive, 1 if replacement else num_samples))
    wrong = ew.or_(reduce("any", bad, (1,)), ew.unary("not", enough))
    message = (
        "multinomial: the weights of a row are negative, infinite or NaN, or fewer of them are positive than samples "
        f"are drawn (at {caller_site()})"
    )
    checked = ew.check_index(ew.cast(wrong, dtypes.int64), 1, message)  # 0 where all is well
    chosen = ew.add(chosen, views.expand(views.reshape(checked, (rows, 1)), chosen.shape))
    return wrap(views.reshape(chosen, (num_samples,)) if input.ndim == 1 else chosen)


def dropout_mask(shape: tuple[int, ...], p: float, generator: Generator | None = None) -> Tensor:
    """bool: True with probability 1 − p. Recomputed wherever it is needed, never stored."""
    u = _uniform(shape, dtypes.float32, generator)
    return wrap(ew.compare("ge", u, ew.like(u, p)))


def _fill(self: Tensor, node: Node) -> Tensor:
    return self._rebind(ew.cast(node, self.dtype))


def uniform_(self: Tensor, a: Number = 0.0, b: Number = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with numbers uniform in [a, b)."""
    if b < a:
        raise RuntimeError(f"uniform_: expected the lower limit first, got {a} and {b}")
    u = _uniform(self.shape, self.dtype, generator)
    return _fill(self, ew.add(ew.mul(u, ew.like(u, b - a)), ew.like(u, a)))


def normal_(self: Tensor, mean: Number = 0.0, std: Number = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with normal numbers."""
    if std < 0:
        raise RuntimeError(f"normal_: expected std >= 0.0, but found std {std}")
    z = _normal(self.shape, self.dtype, generator)
    return _fill(self, ew.add(ew.mul(z, ew.like(z, std)), ew.like(z, mean)))


def bernoulli_(self: Tensor, p: Any = 0.5, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with 1 by the probability p (a number, or a tensor that broadcasts), and 0."""
    u = _uniform(self.shape, dtypes.float32, generator)
    return _fill(self, ew.compare("lt", u, expand(node_of(p, dtypes.float32), self.shape)))


def exponential_(self: Tensor, lambd: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with numbers of density λ exp(−λ x)."""
    if lambd <= 0:
        raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd}")
    u = _uniform(self.shape, _floating_only(self, "exponential_"), generator)
    return _fill(self, ew.mul(ew.unary("log1p", ew.neg(u)), ew.like(u, -1 / lambd)))


def cauchy_(self: Tensor, median: float = 0.0, sigma: float = 1.0, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with numbers of density σ / (π ((x − median)² + σ²))."""
    if sigma <= 0:
        raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma}")
    u = _uniform(self.shape, _floating_only(self, "cauchy_"), generator)
    angle = ew.mul(ew.sub(u, ew.like(u, 0.5)), ew.like(u, math.pi))
    return _fill(self, ew.add(ew.mul(ew.unary("tan", angle), ew.like(u, sigma)), ew.like(u, median)))


def geometric_(self: Tensor, p: float, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with the number of trials until the first success of probability p."""
    if not 0 < p < 1:
        raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p}")
    u = _uniform(self.shape, dtypes.float64 if self.dtype is dtypes.float64 else dtypes.float32, generator)
    count = ew.unary("ceil", ew.mul(ew.unary("log1p", ew.neg(u)), ew.like(u, 1 / math.log1p(-p))))
    return _fill(self, ew.binary("maximum", count, ew.like(count, 1)))


def log_normal_(self: Tensor, mean: float = 1.0, std: float = 2.0, *, generator: Generator | None = None) -> Tensor:
    """Overwrite with exp of normal numbers."""
    if std <= 0:
        raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std}")
    z = _normal(self.shape, _floating_only(self, "log_normal_"), generator)
    return _fill(self, ew.unary("exp", ew.add(ew.mul(z, ew.like(z, std)), ew.like(z, mean))))


def _floating_only(self: Tensor, what: str) -> DType:
    if self.dtype.kind != "f":
        raise RuntimeError(f"{what}: expected a floating-point tensor, got {self.dtype.name}")
    return self.dtype


def random_(self: Tensor, low: int = 0, high: int | None = None) -> Tensor:
    """Overwrite with whole numbers in low … high − 1 (by default all that the dtype counts exactly)."""
    limit = high if high is not None else (2**24 if self.dtype.kind == "f" else 2 ** (self.dtype.size * 8 - 1) - 1)
    return _fill(self, randint(low, limit, self.shape)._node)
