"""Complex numbers against NumPy and PyTorch: values, special values, dtypes, derivatives, views, errors."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp
from firepot.compiler.program import Passes, build
from firepot.compiler.simplify import simplify, structure

FUNCTIONS = str.split(
    "exp log sqrt sin cos tan sinh cosh tanh asin acos atan asinh acosh atanh expm1 log1p rsqrt reciprocal sigmoid log2 "
    "log10 exp2 square neg abs angle sgn conj real imag view_as_real isnan isinf isfinite isreal logical_not"
)
DTYPES = ("complex64", "complex128")


def numbers(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return draw(shape, seed) + 1j * draw(shape, seed + 50)


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions(dtype: str) -> None:
    compared = Comparison()
    sizes = 10.0 ** draw((40,), 7, -5, 1.5)
    values = np.concatenate([numbers(30), sizes * np.exp(1j * draw((40,), 8, -4, 4)), [0, 1, -1, 1j, -1j, 1e30 - 1e20j]])
    x, r = both(values, dtype)
    for name in FUNCTIONS:
        found, expected = getattr(fp, name)(x), getattr(torch, name)(r)
        if name in ("log1p", "square"):  # where |1 + z|² overflows PyTorch's log1p is infinite, and squares are by sums
            found, expected = found[:-1], expected[:-1]
        if name == "sigmoid":  # there its exponentials overflow
            keep = values.real < 80
            found, expected = found[keep], expected[keep]
        if name in ("rsqrt", "reciprocal"):
            keep = values != 0
            found, expected = found[keep], expected[keep]
        compared.add(name, found, expected)
    compared.check()


# Where C99 leaves a sign open, NumPy's is as good as ours.
SPECIAL = {
    "exp": "exp", "log": "log", "sqrt": "sqrt", "sin": "sin", "cos": "cos", "tan": "tan", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
    "atanh": "arctanh", "log1p": "log1p",
}  # fmt: skip


def test_special_values_are_those_of_c99() -> None:
    parts = [0.0, -0.0, 1.0, -2.5, math.inf, -math.inf, math.nan]
    values = np.array([complex(a, b) for a, b in itertools.product(parts, parts)])
    x = fp.tensor(values)
    found = {name: getattr(fp, name)(x) for name in SPECIAL}
    fp.eval(found)
    for name, other in SPECIAL.items():
        with np.errstate(all="ignore"):
            expected = getattr(np, other)(values)
        got = found[name].numpy()
        for z, a, b in zip(values, got, expected, strict=True):
            for g, e in ((a.real, b.real), (a.imag, b.imag)):
                unspecified = not (np.isfinite(z.real) and np.isfinite(z.imag))
                same = np.isclose(g, e, rtol=1e-12, atol=0, equal_nan=True) or (unspecified and abs(g) == abs(e))
                assert same, f"{name}({z}) is {a}, NumPy gives {b}"
                if e == 0 and not unspecified and abs(z.real) + abs(z.imag) in (0, 1, 2.5) and name not in ("sin", "sinh"):
                    assert np.signbit(g) == np.signbit(e), f"{name}({z}) is {a}, NumPy gives {b}"


def test_nothing_overflows_before_the_result() -> None:
    huge, tiny = 1e308, 1e-308
    z = fp.tensor([complex(huge, huge), complex(tiny, tiny)], dtype=fp.complex128)
    results = [abs(z), z / z, z.sqrt(), z.log(), fp.tensor(715 + 1e-8j, dtype=fp.complex128).exp(), 1 / z]
    fp.eval(results)
    size, one, root, log, power, inverse = (r.numpy() for r in results)
    assert np.allclose(size, [math.sqrt(2) * huge, math.sqrt(2) * tiny], rtol=1e-15, atol=0)
    assert np.array_equal(one, [1, 1])
    expected = np.sqrt(np.array([complex(huge, huge), complex(tiny, tiny)]) / 4) * 2
    assert np.allclose(root, expected, rtol=1e-14, atol=0)
    assert np.allclose(log.real, [math.log(huge) + math.log(2) / 2, math.log(tiny) + math.log(2) / 2], rtol=1e-15)
    assert power.real == math.inf and np.isclose(power.imag, math.exp(715 - 100) * 1e-8 * math.exp(100), rtol=1e-12)
    assert np.allclose(inverse.real, [0.5 / huge, 0.5 / tiny], rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic(dtype: str) -> None:
    compared = Comparison()
    (a, ra), (b, rb) = both(numbers(3, 1, 4), dtype), both(numbers(2, 4, seed=1), dtype)
    real, rreal = both(draw((3, 1, 4), 2), "float32" if dtype == "complex64" else "float64")
    for name in ("add", "sub", "mul", "div", "pow", "eq", "ne"):
        f, g = getattr(fp, name), getattr(torch, name)
        pairs = [(a, b), (a, real), (real, b), (a, 2), (a, 1.5), (a, 1 - 2j), (real, 2j)]
        references = [(ra, rb), (ra, rreal), (rreal, rb), (ra, 2), (ra, 1.5), (ra, 1 - 2j), (rreal, 2j)]
        for n, (given, reference) in enumerate(zip(pairs, references, strict=True)):
            compared.add(f"{name} {n}", f(*given), g(*reference))
    compared.add("reflected", [1j - a, 2 / a, 2**a, a @ b.mT], [1j - ra, 2 / ra, 2**ra, ra @ rb.mT])
    compared.add("powers", [a**p for p in (0, 1, 2, 3, -1, 0.5)], [ra**p for p in (0, 1, 2, 3, -1, 0.5)])
    compared.add("weighted", fp.add(a, b, alpha=2j), torch.add(ra, rb, alpha=2j))
    zero = torch.zeros(2, dtype=ra.dtype)
    compared.add("zero powers", fp.zeros(2, dtype=a.dtype) ** fp.tensor([0, 2 + 1j], dtype=a.dtype),
                 torch.stack([zero[0] + 1, zero[0]]))  # fmt: skip
    compared.check()
    assert fp.equal(a, a.clone()) and not fp.equal(a, a.conj()) and fp.allclose(a, a * (1 + 1e-9))


def test_promotion() -> None:
    names = ("bool", "uint8", "int64", "float16", "bfloat16", "float32", "float64", "complex64", "complex128")
    for x, y in itertools.product(names, DTYPES):
        for sx, sy in itertools.product(((2,), ()), repeat=2):
            a, b = fp.ones(sx, dtype=getattr(fp, x)), fp.ones(sy, dtype=getattr(fp, y))
            expected = torch.result_type(torch.ones(sx, dtype=getattr(torch, x)), torch.ones(sy, dtype=getattr(torch, y)))
            if expected is torch.complex32:  # which Firepot lacks
                expected = torch.complex64
            assert fp.result_type(a, b).name == str(expected)[6:], (x, sx, y, sy)
        given, reference = fp.ones(2, dtype=getattr(fp, x)), torch.ones(2, dtype=getattr(torch, x))
        if x != "float16":
            assert fp.result_type(given, 1j).name == str(torch.result_type(reference, 1j))[6:]
        assert fp.can_cast(getattr(fp, x), getattr(fp, y)) == torch.can_cast(getattr(torch, x), getattr(torch, y))
    assert fp.tensor(1j).dtype is fp.complex64 and fp.tensor([1, 2j]).dtype is fp.complex64
    assert fp.tensor(np.complex128(1)).dtype is fp.complex128
    fp.set_default_dtype(fp.float64)
    try:
        assert fp.tensor([1j]).dtype is fp.complex128 and (fp.ones(2, dtype=fp.int64) * 1j).dtype is fp.complex128
    finally:
        fp.set_default_dtype(fp.float32)


OPERATIONS: dict[str, Any] = {
    "mul": lambda m, a, b, c: a * b, "div": lambda m, a, b, c: a / b, "pow": lambda m, a, b, c: a**b,
    "powers": lambda m, a, b, c: a**3 + a**0.5 + a ** (1 - 2j) + 2**a, "matmul": lambda m, a, b, c: a @ c,
    "einsum": lambda m, a, b, c: m.einsum("ij,jk->ik", a, c), "vdot": lambda m, a, b, c: m.vdot(a[0], b[1]),
    "cumsum": lambda m, a, b, c: a.cumsum(1), "cumprod": lambda m, a, b, c: a.cumprod(1),
    "prod": lambda m, a, b, c: a.prod(), "prod along": lambda m, a, b, c: a.prod(1), "mean": lambda m, a, b, c: a.mean(0),
    "var": lambda m, a, b, c: a.var(1), "std": lambda m, a, b, c: a.std(), "index": lambda m, a, b, c: a[:, [0, 2, 0]],
    "where": lambda m, a, b, c: m.where(a.real > 0, a, b), "cat": lambda m, a, b, c: m.cat([a, b * a.real]),
    "pad": lambda m, a, b, c: m.nn.functional.pad(a, (1, 2), value=2), "roll": lambda m, a, b, c: a.roll(1, 0),
    "norm": lambda m, a, b, c: m.linalg.vector_norm(a, 3) + a.norm(), "lerp": lambda m, a, b, c: m.lerp(a, b, 0.3),
    "addcmul": lambda m, a, b, c: m.addcmul(a, b, a, value=2), "logsumexp": lambda m, a, b, c: m.logsumexp(a, 1),
    "adjoint": lambda m, a, b, c: a.mH @ b, "polar": lambda m, a, b, c: m.polar(a.abs(), b.real),
    "complex": lambda m, a, b, c: m.complex(a.real, b.imag), "gather": lambda m, a, b, c: m.take_along_dim(a, m.tensor([[0, 1]]), 1),
    "cov": lambda m, a, b, c: m.cov(a), "kron": lambda m, a, b, c: m.kron(a, c), "tril": lambda m, a, b, c: a.tril().flip(0),
    "sinc": lambda m, a, b, c: m.sinc(a), "dist": lambda m, a, b, c: m.dist(a, b), "to": lambda m, a, b, c: a.to(m.complex64),
    "view": lambda m, a, b, c: m.view_as_complex(m.view_as_real(a).reshape(4, 3, 2) * 2), "sgn": lambda m, a, b, c: m.sgn(a) + a.angle(),
    "convolution": lambda m, a, b, c: m.nn.functional.conv1d(a[None], b[:2, None, :2].repeat(1, 3, 1)),
}  # fmt: skip


def test_derivatives() -> None:
    compared = Comparison()
    given = numbers(3, 4), numbers(3, 4, seed=1), numbers(4, 5, seed=2)
    smooth = {name: lambda m, a, b, c, name=name: getattr(m, name)(a) for name in FUNCTIONS[: FUNCTIONS.index("isnan")]}
    for name, f in (OPERATIONS | smooth).items():
        pairs = [both(v, "complex128", requires_grad=True) for v in given]
        ours, reference = f(fp, *(a for a, _ in pairs)), f(torch, *(b for _, b in pairs))
        compared.add(name, ours, reference)
        loose = (1e-4, 1e-5) if name == "to" else None
        compare_gradients(compared, name, ours, reference, pairs, loose)
    compared.check()


def test_second_derivatives_and_gradients_at_zero() -> None:
    compared = Comparison()
    for name, f in {"tanh": lambda m, x: m.tanh(x), "quotient": lambda m, x: (x * x.conj()) / (1 + x), "abs": lambda m, x: x.abs()}.items():
        (x, r) = both(numbers(5), "complex128", requires_grad=True)
        results = []
        for m, z in ((fp, x), (torch, r)):
            y = f(m, z)
            loss = (y * y).real.sum() if name != "abs" else (y**3).sum()
            (first,) = m.autograd.grad(loss, z, create_graph=True)
            results.append((first, *m.autograd.grad((first * first.conj()).real.sum(), z)))
        compared.add(name, *results)
    for name in ("abs", "angle", "sgn"):
        (x, r) = both(np.zeros(2), "complex128", requires_grad=True)
        compare_gradients(compared, name, getattr(fp, name)(x), getattr(torch, name)(r), [(x, r)])
    compared.check()


def test_folds_and_views_of_strided_empty_and_scalar_tensors() -> None:
    compared = Comparison()
    base = numbers(6, 8)
    for label, array in {"strided": base[::2, ::-3], "empty": base[:0], "0-d": base[0, 0], "wide": numbers(2, 33)}.items():
        x, r = fp.from_numpy(np.asarray(array)), torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
        compared.add(label, [x, x.sum(), x.prod(), x.mT if x.ndim else x, x.conj() * 2, x.reshape(-1), x.abs()],
                     [r, r.sum(), r.prod(), r.mT if r.ndim else r, r.conj() * 2, r.reshape(-1), r.abs()])  # fmt: skip
        if array.ndim:
            compared.add(label, [x.cumprod(-1), x.sum(0), x.prod(1), x.any(), x.count_nonzero()],
                         [r.cumprod(-1), r.sum(0), r.prod(1), r.any(), r.count_nonzero()])  # fmt: skip
    compared.check()
    z = fp.tensor(base)
    assert np.array_equal(np.from_dlpack(z), base) and np.array_equal(fp.from_dlpack(torch.from_numpy(base)).numpy(), base)
    assert z[1, 2].item() == base[1, 2] and complex(z[0, 0]) == base[0, 0] and z.tolist() == base.tolist()
    assert (z.itemsize, z.is_complex(), z.is_floating_point(), z.is_conj()) == (16, True, False, False)


def test_changes_in_place() -> None:
    z, r = both(numbers(3, 2), "complex64")
    for x in (z, r):
        x *= 1j
        x[0] = 2 - 1j
        x += 1.5
    z.real = fp.zeros(3, 2)
    z.imag = 3
    r.real.zero_()
    r.imag.fill_(3)
    assert np.allclose(z.numpy(), r.numpy())
    with pytest.raises(RuntimeError, match="can't be cast"):
        fp.ones(2).mul_(1j)


def test_captured_and_mapped_functions() -> None:
    def f(a: Any, b: Any) -> Any:
        return (a * b).exp().sum() + a.abs().max()

    a, b = fp.tensor(numbers(4, 3)), fp.tensor(numbers(4, 3, seed=1))
    expected = f(a, b)
    captured = fp.jit(f)
    assert fp.allclose(captured(a, b), expected) and fp.allclose(captured(a, b), expected)
    mapped = fp.vmap(lambda x, y: (x @ y, x.prod()))(a, b)
    assert fp.allclose(mapped[0], (a * b).sum(1)) and fp.allclose(mapped[1], a.prod(1))
    weight = fp.tensor(numbers(3), requires_grad=True)

    @fp.jit
    def step(x: Any) -> Any:
        loss = ((x @ weight) * (x @ weight).conj()).real.sum()
        loss.backward()
        return loss

    step(a)
    reference = torch.tensor(weight.detach().numpy(), requires_grad=True)
    (torch.tensor(a.numpy()) @ reference).abs().square().sum().backward()
    assert np.allclose(weight.grad.numpy(), reference.grad.numpy())
    loss = lambda z: (z * z.conj()).real.sum()  # noqa: E731
    assert fp.allclose(fp.grad(loss)(a), 2 * a)


def test_every_pass_leaves_the_values_as_they_are() -> None:
    from firepot.compiler.execute import Executor

    a, b = fp.tensor(numbers(9, 5)), fp.tensor(numbers(5, 7, seed=1))
    fp.eval(a, b)
    results = [(a @ b) / 2, (a * a.conj()).sum(0), fp.cat([a, a * 2j]).flip(1)]
    nodes = [r._node for r in results]
    _, leaves, order = structure(nodes)
    inputs, outputs = simplify(order, leaves, nodes)
    off = Passes(*[False] * len(Passes.__dataclass_fields__))
    plain = Executor(build(inputs, outputs, passes=off))([leaf.buffer for leaf in leaves])
    for result, buffer in zip(results, plain, strict=True):
        assert np.allclose(result.numpy(), buffer.view(np.dtype("complex128"), result.shape), rtol=1e-12)


@pytest.mark.parametrize("values", [
    [1 + 2j, 3 - 4j], [1.5 - 1e-3j, 2], [[1e10 + 1j, 0], [1, 1]], [complex("nan"), complex("inf-2j")], 2j, [-0.5j],
])  # fmt: skip
def test_printed_as_pytorch_prints(values: Any) -> None:
    assert repr(fp.tensor(values)) == repr(torch.tensor(values))
    wide = repr(torch.tensor(values, dtype=torch.complex128)).replace("torch.", "firepot.")
    assert repr(fp.tensor(values, dtype=fp.complex128)) == wide


def test_casts() -> None:
    z = fp.tensor([1 + 2j, 0, 3])
    with pytest.warns(UserWarning, match="discards the imaginary part"):
        assert z.to(fp.float32).tolist() == [1, 0, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert z.to(fp.bool).tolist() == [True, False, True]
        assert z.to(fp.complex128).dtype is fp.complex128 and fp.ones(2).cfloat().dtype is fp.complex64
    assert int(fp.tensor(3 + 0j)) == 3 and float(fp.tensor(1.5 + 0j)) == 1.5
    for kind in (int, float):
        with pytest.raises(RuntimeError, match="imaginary part"):
            kind(fp.tensor(1 + 1j))
    with pytest.raises(RuntimeError, match="complex"):
        fp.tensor([1j], dtype=fp.float32)


def test_running_logarithms_of_sums_and_slices_of_bounded_norm() -> None:
    """Angles are known up to multiples of 2π, so what the logarithms are of is compared."""
    z, rz = both(numbers(3, 7, 4), "complex128", requires_grad=True)
    compared = Comparison()
    for dim in (0, 1, -1):
        ours, theirs = fp.logcumsumexp(z, dim), torch.logcumsumexp(rz, dim)
        compared.add(f"logcumsumexp {dim}", ours.exp(), theirs.exp())
        compare_gradients(compared, f"logcumsumexp {dim}", ours, theirs, [(z, rz)])
        ours, theirs = fp.renorm(z, 2, dim, 1.5), torch.renorm(rz, 2, dim, 1.5)
        compared.add(f"renorm {dim}", ours, theirs)
        compare_gradients(compared, f"renorm {dim}", ours, theirs, [(z, rz)])
    large = 800 * z.detach()  # exp overflows
    compared.add("large", fp.logcumsumexp(large, 1).real, torch.logcumsumexp(800 * rz.detach(), 1).real)
    nothing = fp.logaddexp(fp.tensor([complex(-math.inf, 0)]), fp.tensor([complex(-math.inf, 0), 1j]))
    compared.add("zeros", nothing.real, torch.tensor([-math.inf, 0.0]))
    compared.check()


def test_what_is_not_defined_is_refused() -> None:
    z = fp.tensor([1 + 2j, 3])
    for f in (
        lambda: z < z, lambda: z.max(), lambda: z.sort(), lambda: z.argmax(0), fp.sign, fp.floor, fp.maximum, fp.erf, fp.round,
        lambda: fp.clamp(z, 0, 1), lambda: fp.atan2(z, z), lambda: z % 2, lambda: z // 2, lambda: fp.isposinf(z), lambda: z.cummax(0),
        lambda: fp.softmax(z, 0), lambda: fp.median(z), lambda: fp.hypot(z, z),
    ):  # fmt: skip
        with pytest.raises((RuntimeError, TypeError), match="complex"):
            f(z) if f in (fp.sign, fp.floor, fp.erf, fp.round) else f(z, z) if f is fp.maximum else f()
    with pytest.raises(RuntimeError, match="imag: expected a complex tensor"):
        _ = fp.ones(2).imag
    with pytest.raises(RuntimeError, match="two float32 or two float64"):
        fp.complex(fp.ones(2), fp.ones(2, dtype=fp.float64))
    with pytest.raises(RuntimeError, match="last dimension must have size 2"):
        fp.view_as_complex(fp.ones(3))
    with pytest.raises(RuntimeError, match="view_as_real: expected a complex"):
        fp.view_as_real(fp.ones(3))
    w = fp.tensor([1j], requires_grad=True)
    with pytest.raises(RuntimeError, match="only for real scalar outputs"):
        w.sum().backward()
    with pytest.raises(TypeError):
        fp.bitwise_not(z)
