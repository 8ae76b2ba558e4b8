"""vmap: every operation's batching rule against the stacked results of a loop, and torch.vmap where that says more."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import draw

import firepot as fp
from firepot.nn import functional as F

SIZE = 3


def tensors(*shapes: tuple[int, ...], low: float = -2.0, high: float = 2.0) -> list[fp.Tensor]:
    return [fp.tensor(draw(s, n, low, high)) for n, s in enumerate(shapes)]


def numbers(shape: tuple[int, ...], high: int, seed: int = 0) -> fp.Tensor:
    return fp.tensor(np.random.default_rng(seed).integers(0, high, shape))


class Loops:
    """Mapped functions beside loops over their examples, compared in one program."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, fp.Tensor, fp.Tensor]] = []

    def add(self, label: str, function: Callable[..., Any], args: list[fp.Tensor], in_dims: Any = 0) -> None:
        dims = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(args)
        mapped = fp.tree.leaves(fp.vmap(function, in_dims=dims)(*args))
        size = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
        rows = [
            fp.tree.leaves(
                function(*(a if d is None else a.select(d, i) for a, d in zip(args, dims, strict=True)))
            )
            for i in range(size)
        ]
        for n, (m, *loop) in enumerate(zip(mapped, *rows, strict=True)):
            self.pairs.append((f"{label}, result {n}, in_dims {dims}", m, fp.stack(loop)))

    def each_way(self, label: str, function: Callable[..., Any], args: list[fp.Tensor]) -> None:
        """All arguments mapped, and each one alone; every argument has a leading dimension of SIZE."""
        self.add(label, function, args)
        for alone in range(len(args)) if len(args) > 1 else ():
            some = [a if n == alone else a.select(0, 0) for n, a in enumerate(args)]
            self.add(label, function, some, tuple(0 if n == alone else None for n in range(len(args))))

    def check(self) -> None:
        fp.eval([p[1:] for p in self.pairs])
        failures = []
        for label, mapped, loop in self.pairs:
            a, b = mapped.detach().numpy(), loop.detach().numpy()
            if a.shape != b.shape or a.dtype != b.dtype:
                failures.append(f"{label}: {a.dtype}{a.shape}, the loop gives {b.dtype}{b.shape}")
            elif not np.allclose(a, b, rtol=1e-10, atol=1e-12, equal_nan=True):
                failures.append(f"{label}: differs by up to {np.nanmax(np.abs(a - b))}")
        assert not failures, "\n".join(failures)


UNARY = ["abs", "neg", "sign", "exp", "exp2", "expm1", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "atanh", "erf", "erfc", "sigmoid", "relu", "floor", "ceil", "trunc", "round", "square", "frac", "isnan", "isinf", "isfinite", "signbit", "digamma", "lgamma", "logical_not", "reciprocal", "sinc", "deg2rad"]
POSITIVE = ["sqrt", "rsqrt", "log", "log2", "log10", "log1p", "acosh", "erfinv", "logit"]
BINARY = ["add", "sub", "mul", "div", "maximum", "minimum", "fmod", "remainder", "atan2", "hypot", "copysign", "pow", "eq", "ne", "lt", "le", "gt", "ge", "logaddexp", "xlogy", "floor_divide"]


def test_elementwise():
    loops = Loops()
    (x,) = tensors((SIZE, 4, 2), low=-0.9, high=0.9)
    (p,) = tensors((SIZE, 4, 2), low=0.1, high=0.9)
    for name in UNARY:
        loops.add(name, getattr(fp, name), [x])
    for name in POSITIVE:
        loops.add(name, getattr(fp, name), [p + 1 if name == "acosh" else p])
    pair = tensors((SIZE, 4, 2), (SIZE, 4, 2), low=0.2)
    broadcast = tensors((SIZE, 4, 1), (SIZE, 2), low=0.2)
    for name in BINARY:
        loops.each_way(name, getattr(fp, name), pair)
        loops.add(name + " broadcast", getattr(fp, name), broadcast)
    loops.each_way("where", lambda a, b: fp.where(a > b, a, b * 2), pair)
    loops.each_way("scalars", lambda a, b: a * b + 1, tensors((SIZE,), (SIZE,)))
    loops.add("cast", lambda a: (a * 3).to(fp.int32), [x])
    loops.add("clamp", lambda a: a.clamp(-0.5, 0.5), [x])
    loops.each_way("lerp", lambda a, b: fp.lerp(a, b, 0.3), pair)
    loops.add("bits", lambda a: (a & 5) | (a << 1) ^ 3, [numbers((SIZE, 4), 50)])
    loops.check()


def test_shapes():
    loops = Loops()
    (x,) = tensors((SIZE, 4, 6))
    cases: dict[str, Callable[[fp.Tensor], Any]] = {
        "reshape": lambda a: a.reshape(2, 12), "flatten": lambda a: a.flatten(), "permute": lambda a: a.permute(1, 0),
        "unsqueeze": lambda a: a.unsqueeze(1), "expand": lambda a: a.unsqueeze(0).expand(5, 4, 6),
        "expand to more": lambda a: a[0].expand(2, 3, 6), "slices": lambda a: a[1:3, ::2], "select": lambda a: a[2],
        "ellipsis": lambda a: a[..., None, 1], "flip": lambda a: a.flip(0, 1), "roll": lambda a: a.roll(1, 1),
        "stack": lambda a: fp.stack([a, a * 2], 1), "cat": lambda a: fp.cat([a, a[:2] + 1], 0),
        "cat with a constant": lambda a: fp.cat([fp.ones(1, 6, dtype=fp.float64), a], 0),
        "split": lambda a: a.split(4, 1), "chunk": lambda a: a.chunk(2), "unbind": lambda a: a.unbind(1),
        "pad": lambda a: F.pad(a, (1, 2, 0, 1), value=7.0), "crop": lambda a: F.pad(a, (-1, 2)),
        "tril": lambda a: a.tril(), "triu": lambda a: a.triu(1), "diagonal": lambda a: a.diagonal(),
        "diag": lambda a: fp.diag(a[0]), "unfold": lambda a: a.unfold(1, 3, 2), "repeat": lambda a: a.repeat(2, 1),
        "repeat_interleave": lambda a: a.repeat_interleave(2, 0), "movedim": lambda a: a.movedim(0, 1),
        "detach": lambda a: a.detach() * a, "in place": lambda a: a.clone().add_(1).mul_(a),
    }  # fmt: skip
    for name, case in cases.items():
        loops.add(name, case, [x])
    loops.check()


def test_reductions_and_scans():
    loops = Loops()
    (x,) = tensors((SIZE, 4, 6))
    for name in ["sum", "prod", "mean", "var", "std", "amax", "amin", "argmax", "argmin", "nansum", "count_nonzero"]:
        loops.add(name, getattr(fp, name), [x])
    for name in ["sum", "prod", "mean", "var", "std", "amax", "amin", "argmax", "argmin", "nansum", "count_nonzero", "logsumexp"]:
        loops.add(name + " of an axis", lambda a, name=name: getattr(fp, name)(a, 1), [x])
    cases: dict[str, Callable[[fp.Tensor], Any]] = {
        "max with indices": lambda a: tuple(fp.max(a, 0)), "any": lambda a: (a > 1).any(1), "all": lambda a: (a > -1).all(),
        "softmax": lambda a: a.softmax(-1), "log_softmax": lambda a: a.log_softmax(0), "norm": lambda a: a.norm(),
        "cumsum": lambda a: a.cumsum(0), "cumprod": lambda a: a.cumprod(1), "cummax": lambda a: tuple(a.cummax(1)),
        "logcumsumexp": lambda a: a.logcumsumexp(1), "sort": lambda a: tuple(a.sort(0, descending=True)),
        "argsort": lambda a: a.argsort(), "topk": lambda a: tuple(a.topk(2)), "median": lambda a: a.median(),
        "kthvalue": lambda a: tuple(a.kthvalue(2)), "quantile": lambda a: a.quantile(0.3, 1),
        "var_mean": lambda a: tuple(fp.var_mean(a, 0)),
    }  # fmt: skip
    for name, case in cases.items():
        loops.add(name, case, [x])
    loops.each_way("searchsorted", fp.searchsorted, [x[:, 0].sort(-1).values, x[:, 1]])
    loops.check()


def test_indexing():
    loops = Loops()
    x, u = tensors((SIZE, 5, 4), (SIZE, 2, 4))
    i = numbers((SIZE, 2), 5)
    wide = numbers((SIZE, 3, 4), 5, 1)
    (v,) = tensors((SIZE, 3, 4))
    loops.each_way("take rows", lambda a, k: a[k], [x, i])
    loops.each_way("take columns", lambda a, k: a[:, k % 4], [x, i])
    loops.each_way("take points", lambda a, k: a[k, k % 4], [x, i])
    loops.each_way("index_select", lambda a, k: a.index_select(0, k), [x, i])
    loops.each_way("gather", lambda a, k: a.gather(0, k), [x, wide])
    loops.each_way("scatter", lambda a, k, w: a.scatter(0, k, w), [x, wide, v])
    loops.each_way("scatter_add", lambda a, k, w: a.scatter_add(0, k, w), [x, wide, v])
    loops.each_way("scatter_reduce", lambda a, k, w: a.scatter_reduce(0, k, w, "amax"), [x, wide, v])
    loops.each_way("index_add", lambda a, k, w: a.index_add(0, k, w), [x, i, u])
    loops.each_way("index_copy", lambda a, k, w: a.index_copy(0, k, w), [x, numbers((SIZE, 2), 2) + fp.tensor([0, 2]), u])
    loops.each_way("index_put", lambda a, k, w: fp.index_put(a, (k,), w, accumulate=True), [x, i, u])

    def assigned(a: fp.Tensor, w: fp.Tensor) -> fp.Tensor:
        a = a.clone()
        a[1:3] = w
        a[0, 1] = w[0, 0]
        return a

    loops.each_way("assignment", assigned, [x, u])
    loops.each_way("masked_fill", lambda a, b: a.masked_fill(b > 0, 3.0), [u, u * -1 + 0.2])
    loops.each_way("one_hot", lambda k, w: F.one_hot(k, 5).to(fp.float64)[:, :4] * w, [i, u])
    loops.each_way("embedding", lambda k, a: F.embedding(k, a), [i, x])
    loops.check()


def test_products():
    loops = Loops()
    a, b, c = tensors((SIZE, 4, 5), (SIZE, 5, 2), (SIZE, 5))
    loops.each_way("matmul", fp.matmul, [a, b])
    loops.each_way("matrix by vector", fp.matmul, [a, c])
    loops.each_way("dot", fp.dot, [c, c * 2])
    loops.each_way("outer", fp.outer, [c, c + 1])
    loops.each_way("bmm", fp.bmm, tensors((SIZE, 2, 4, 5), (SIZE, 2, 5, 3)))
    loops.each_way("einsum", lambda x, y: fp.einsum("bik,bkj->ij", x, y), tensors((SIZE, 2, 4, 5), (SIZE, 2, 5, 3)))
    loops.each_way("linear", F.linear, tensors((SIZE, 4, 5), (SIZE, 3, 5), (SIZE, 3)))
    loops.check()


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(groups: int):
    loops = Loops()
    x, w, bias = tensors((SIZE, 2, 4, 7, 6), (SIZE, 6, 4 // groups, 3, 3), (SIZE, 6))
    loops.each_way("conv2d", lambda a, k, b: F.conv2d(a, k, b, stride=2, padding=1, groups=groups), [x, w, bias])
    (t,) = tensors((SIZE, 4, 3, 3, 2))
    loops.each_way("conv_transpose2d", lambda a, k: F.conv_transpose2d(a, k, stride=2, groups=groups), [x, t])
    x1, w1 = tensors((SIZE, 2, 4, 9), (SIZE, 6, 4 // groups, 3))
    loops.each_way("conv1d dilated", lambda a, k: F.conv1d(a, k, dilation=2, groups=groups), [x1, w1])

    def gradients(a: fp.Tensor, k: fp.Tensor) -> Any:
        return fp.grad(lambda a, k: (F.conv2d(a, k, stride=2, padding=1, groups=groups) ** 3).sum(), (0, 1))(a, k)

    loops.each_way("gradients of conv2d", gradients, [x, w])
    loops.check()


def test_layers():
    loops = Loops()
    (x,) = tensors((SIZE, 2, 4, 6, 6))
    (s,) = tensors((SIZE, 5, 8))
    target = numbers((SIZE, 5), 8)
    cases: dict[str, Callable[[fp.Tensor], Any]] = {
        "max_pool2d": lambda a: F.max_pool2d(a, 2), "overlapping pool": lambda a: F.max_pool2d(a, 3, 2, 1),
        "avg_pool2d": lambda a: F.avg_pool2d(a, 3, 2, 1), "adaptive pool": lambda a: F.adaptive_avg_pool2d(a, 3),
        "interpolate": lambda a: F.interpolate(a, scale_factor=2, mode="bilinear"),
        "batch_norm": lambda a: F.batch_norm(a, None, None, training=True), "group_norm": lambda a: F.group_norm(a, 2),
        "layer_norm": lambda a: F.layer_norm(a, (6,)), "gelu": F.gelu, "silu": F.silu, "softplus": F.softplus,
        "unfold": lambda a: F.unfold(a, 3), "normalize": lambda a: F.normalize(a, dim=1),
    }  # fmt: skip
    for name, case in cases.items():
        loops.add(name, case, [x])
        loops.add(f"gradient of {name}", fp.grad(lambda a, case=case: (case(a) ** 2).sum()), [x])
    loops.each_way("cross_entropy", F.cross_entropy, [s, target])
    loops.each_way("mse_loss", F.mse_loss, [s, s * 2])
    q, k, v = tensors((SIZE, 2, 2, 4, 8), (SIZE, 2, 2, 5, 8), (SIZE, 2, 2, 5, 6))

    def attend(q: fp.Tensor, k: fp.Tensor, v: fp.Tensor) -> fp.Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    loops.each_way("attention", attend, [q, k, v])
    loops.add(
        "gradients of attention", fp.grad(lambda *a: (attend(*a) ** 2).sum(), (0, 1, 2)), [q, k, v]
    )  # fmt: skip
    loops.check()


def test_dimensions_and_structures():
    x, y = tensors((4, SIZE, 5), (5, 2))
    out = fp.vmap(lambda a, b: {"product": a @ b, "more": (a, [b])}, (1, None), {"product": 2, "more": (0, None)})(x, y)
    assert np.allclose(out["product"].numpy(), np.einsum("isk,kj->ijs", x.numpy(), y.numpy()))
    assert out["more"][0].shape == (SIZE, 4, 5) and out["more"][1][0].shape == (5, 2)
    nested = fp.vmap(lambda d, n: d["a"][0] * d["b"] + n, ({"a": (0,), "b": -1}, None))({"a": (x[0],), "b": x[0].T}, 2)
    assert np.allclose(nested.numpy(), x[0].numpy() ** 2 + 2)
    twice = fp.vmap(fp.vmap(lambda a, b: a * b, (0, None)), (None, 0), 1)(x[0, 0], y[:, 0])
    assert np.allclose(twice.numpy(), np.outer(x[0, 0].numpy(), y[:, 0].numpy()))
    keyword = fp.vmap(lambda a, *, scale, flag: a * scale if flag else a)(x, scale=fp.ones(4, dtype=fp.float64) * 2, flag=True)
    assert np.array_equal(keyword.numpy(), x.numpy() * 2)
    chunked = fp.vmap(lambda a, b: (a + b).sum(), (0, None), chunk_size=3)(x, 1.0)
    assert np.allclose(chunked.numpy(), (x.numpy() + 1).sum((1, 2)))
    constant = fp.vmap(lambda a: fp.ones(2))(x)
    assert constant.shape == (4, 2)
    empty = fp.vmap(lambda a: a.sum())(fp.zeros(0, 3))
    assert empty.shape == (0,)


def test_what_is_common_is_computed_once():
    from firepot.compiler.simplify import structure

    x, w = tensors((SIZE, 4), (4, 4))
    out = fp.vmap(lambda a: a @ fp.exp(w))(x)
    nodes = structure([out._node])[2]
    assert [n.shape for n in nodes if n.primitive.name == "exp"] == [(4, 4)]
    assert [n.shape for n in nodes if n.primitive.name == "contract"] == [(1, SIZE, 4)]  # one product, no loop


def test_random_numbers():
    x = fp.zeros(SIZE, 4)

    def noisy(a: fp.Tensor) -> fp.Tensor:
        return a + fp.rand(4)

    fp.manual_seed(1)
    whole, after = fp.rand(SIZE, 4), fp.rand(2)
    fp.manual_seed(1)
    mapped, then = fp.vmap(noisy, randomness="different")(x), fp.rand(2)
    assert np.array_equal(whole.numpy(), mapped.numpy()) and np.array_equal(after.numpy(), then.numpy())
    fp.manual_seed(1)
    one = fp.rand(4)
    fp.manual_seed(1)
    same = fp.vmap(noisy, randomness="same")(x)
    assert np.array_equal(same.numpy(), np.tile(one.numpy(), (SIZE, 1)))
    with pytest.raises(RuntimeError, match=r"draws random numbers; say with randomness='different' or 'same'"):
        fp.vmap(noisy)(x)
    fp.manual_seed(2)
    grid = fp.vmap(fp.vmap(lambda a: a + fp.randn(2), randomness="different"), randomness="different")(fp.zeros(3, 5))
    fp.manual_seed(2)
    assert np.array_equal(grid.numpy(), fp.randn(3, 5, 2).numpy())
    dropped = fp.vmap(lambda a: F.dropout(a, 0.5), randomness="different")(fp.ones(8, 64)).numpy()
    assert len({tuple(row) for row in dropped}) == 8


def test_with_differentiation_and_jit():
    x, w = tensors((SIZE, 4), (4, 4))
    w.requires_grad_()
    fp.vmap(lambda a: fp.tanh(a @ w).sum())(x).sum().backward()
    t = torch.from_numpy(w.detach().numpy()).requires_grad_()
    torch.tanh(torch.from_numpy(x.numpy()) @ t).sum().backward()
    assert np.allclose(w.grad.numpy(), t.grad.numpy())

    def f(a: fp.Tensor, b: fp.Tensor) -> fp.Tensor:
        with fp.no_grad():
            scale = a.sum()
        return (fp.sin(a @ b) * scale).sum()

    def g(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (torch.sin(a @ b) * a.detach().sum()).sum()

    expected = torch.func.vmap(torch.func.grad(g), (0, None))(torch.from_numpy(x.numpy()), t.detach())
    assert np.allclose(fp.vmap(fp.grad(f), (0, None))(x, w.detach()).numpy(), expected.numpy())
    jitted = fp.jit(fp.vmap(fp.grad(f), (0, None)))
    for _ in range(2):
        assert np.allclose(jitted(x, w.detach()).numpy(), expected.numpy())
    inside = fp.vmap(fp.jit(fp.grad(f)), (0, None))
    assert np.allclose(inside(x, w.detach()).numpy(), expected.numpy())
    outer = torch.func.grad(lambda a: torch.func.vmap(torch.func.grad(g), (0, None))(a, t.detach()).pow(2).sum())
    found = fp.grad(lambda a: (fp.vmap(fp.grad(f), (0, None))(a, w.detach()) ** 2).sum())(x)
    assert np.allclose(found.numpy(), outer(torch.from_numpy(x.numpy())).numpy())


def test_custom_derivatives_are_mapped():
    class Cube(fp.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: fp.Tensor, s: fp.Tensor) -> fp.Tensor:
            ctx.save_for_backward(x, s)
            return x**3 * s

        @staticmethod
        def backward(ctx: Any, g: fp.Tensor) -> Any:
            x, s = ctx.saved_tensors
            return 10 * g * x * s, (g * x).sum()  # not the true derivative, so that its use can be seen

    x, s = tensors((SIZE, 4), (1,))
    scale = s[0]

    def f(a: fp.Tensor, b: fp.Tensor) -> fp.Tensor:
        return Cube.apply(a, b).sum()

    inner = fp.vmap(fp.grad(f, (0, 1)), (0, None))(x, scale)
    outer = fp.grad(lambda a, b: fp.vmap(f, (0, None))(a, b).sum(), (0, 1))(x, scale)
    assert np.allclose(inner[0].numpy(), 10 * x.numpy() * scale.item())
    assert np.allclose(outer[0].numpy(), inner[0].numpy())
    assert np.allclose(inner[1].numpy(), x.numpy().sum(1)) and np.allclose(outer[1].item(), x.numpy().sum())


def test_errors():
    x = fp.ones(3, 4)
    add = fp.vmap(lambda a, b: a + b)
    with pytest.raises(ValueError, match=r"must agree in size, got 3 \(\[3, 4\] along dimension 0\) and 2"):
        add(x, fp.ones(2, 4))
    with pytest.raises(ValueError, match=r"in_dims has 2, out of range for an argument of shape \[3, 4\]"):
        fp.vmap(fp.sin, 2)(x)
    with pytest.raises(ValueError, match=r"in_dims has 3 entries, the call 2 positional"):
        fp.vmap(fp.add, (0, 0, 0))(x, x)
    with pytest.raises(ValueError, match="no argument is mapped over"):
        fp.vmap(fp.sin, None)(x)
    with pytest.raises(ValueError, match="in_dims has 0 for an argument of type int"):
        add(x, 2)
    with pytest.raises(ValueError, match=r"out_dims has 5, out of range for a result with 2 dimensions"):
        fp.vmap(fp.sin, out_dims=5)(x)
    with pytest.raises(ValueError, match="differs between the examples, so its out_dims cannot be None"):
        fp.vmap(fp.sin, out_dims=None)(x)
    with pytest.raises(TypeError, match=r"must return tensors .* got a NoneType"):
        fp.vmap(lambda a: None)(x)
    with pytest.raises(fp.TraceError, match=r"item\(\) at .*test_vectorise.py:\d+: inside fp.vmap"):
        fp.vmap(lambda a: a.sum().item())(x)
    with pytest.raises(fp.TraceError, match=r"bool\(\) at .*test_vectorise.py"):
        fp.vmap(lambda a: a if a.sum() > 0 else -a)(x)
    with pytest.raises(fp.TraceError, match="nonzero"):
        fp.vmap(lambda a: a[a > 0])(x)
    known = fp.tensor(2.0)
    assert fp.vmap(lambda a: a * known.item())(x).sum().item() == 24  # of a value that all examples share
    total = fp.zeros(4)
    with pytest.raises(RuntimeError, match=r"shape \[4\] from outside was changed in place"):
        fp.vmap(lambda a: total.add_(a))(x)
    assert total.sum().item() == 0
    w = fp.ones(4, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"use fp\.grad"):
        fp.vmap(lambda a: (a * w).sum().backward() or a)(x)
    assert w.grad is None
    kept: list[fp.Tensor] = []
    fp.vmap(lambda a: kept.append(a * 2) or a)(x)
    with fp.no_grad():
        w.add_(1)
    fp.eval(w)  # what leaked is nobody's work
    with pytest.raises(RuntimeError, match="traced value was used after"):
        kept[0].sum().item()


LINALG = {
    "inv": (fp.linalg.inv, np.linalg.inv, (3, 3)),
    "det": (fp.linalg.det, np.linalg.det, (3, 3)),
    "slogdet": (lambda x: fp.linalg.slogdet(x)[1], lambda x: np.linalg.slogdet(x)[1], (2, 3, 3)),
    "cholesky": (lambda x: fp.linalg.cholesky(x @ x.mT), lambda x: np.linalg.cholesky(x @ x.swapaxes(-1, -2)), (3, 3)),
    "eigvalsh": (lambda x: fp.linalg.eigvalsh(x + x.mT), lambda x: np.linalg.eigvalsh(x + x.swapaxes(-1, -2)), (3, 3)),
    "svdvals": (fp.linalg.svdvals, lambda x: np.linalg.svd(x, compute_uv=False), (2, 4)),
    "qr": (lambda x: abs(fp.linalg.qr(x)[1]), lambda x: abs(np.linalg.qr(x)[1]), (4, 2)),
    "pinv": (fp.linalg.pinv, np.linalg.pinv, (2, 4, 3)),
}


@pytest.mark.parametrize("name", LINALG)
def test_decompositions(name):
    """One call of LAPACK for all examples, nested too, with derivatives."""
    ours, theirs, shape = LINALG[name]
    values = np.random.default_rng(1).standard_normal((2, 4, *shape))
    x = fp.tensor(values)
    np.testing.assert_allclose(fp.vmap(ours)(x[0]).numpy(), theirs(values[0]), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fp.vmap(fp.vmap(ours))(x).numpy(), theirs(values), rtol=1e-9, atol=1e-12)
    mapped = fp.vmap(fp.grad(lambda m: ours(m).sin().sum()))(x[0]).numpy()
    for k in range(4):
        np.testing.assert_allclose(mapped[k], fp.grad(lambda m: ours(m).sin().sum())(x[0, k]).numpy(), rtol=1e-7, atol=1e-9)


def test_a_system_with_stacks_that_broadcast():
    """The examples' dimension stands in front of the stack's, whichever of the two has one."""
    draw = np.random.default_rng(2)
    a, b, many = draw.standard_normal((4, 3, 3)), draw.standard_normal((5, 3, 2)), draw.standard_normal((4, 3))
    for left, right, dims, expected in (
        (a, b, (0, None), np.linalg.solve(a[:, None], b)),
        (a[0], b, (None, 0), np.linalg.solve(a[0], b)),
        (a, many, (0, 0), np.linalg.solve(a, many[..., None])[..., 0]),
    ):
        found = fp.vmap(fp.linalg.solve, dims)(fp.tensor(left), fp.tensor(right))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    with pytest.raises(fp.linalg.LinAlgError, match="ingular"):
        fp.vmap(fp.linalg.inv)(fp.zeros(2, 3, 3))
    with pytest.raises(fp.TraceError):
        fp.jit(lambda m: fp.vmap(fp.linalg.inv)(m))(fp.tensor(a))


def test_changes_under_jit_are_seen_for_every_tensor():
    first, second = fp.tensor(0.0), fp.tensor(0.0)

    def change(row: fp.Tensor) -> fp.Tensor:
        total = row.sum() + first  # the first tensor that the capture meets
        second.add_(row.sum())
        return total

    with pytest.raises(RuntimeError, match="changed in place to a value that differs between the examples"):
        fp.jit(lambda x: fp.vmap(change)(x))(fp.ones(2, 3))
    assert second.item() == 0
