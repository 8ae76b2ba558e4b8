"""grad, vjp, jvp, linearize and Jacobians against torch.func, over many functions, trees and nestings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Comparison, both, draw

import firepot as fp
from firepot.nn import functional as F

T = torch.nn.functional
# PyTorch's own forward mode compiles its decompositions with what it calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


@pytest.fixture(autouse=True)
def _differentiable_attention():
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        yield


def unsigned(value: Any) -> Any:
    """Without negative zeros: a Jacobian has the sign of its zeros by chance."""
    return fp.tree.map(lambda v: v + 0.0, value)


def pairs(*shapes: tuple[int, ...], low: float = -1.5, high: float = 1.5) -> tuple[list[fp.Tensor], list[torch.Tensor]]:
    made = [both(draw(s, n, low, high)) for n, s in enumerate(shapes)]
    return [a for a, _ in made], [b for _, b in made]


# Functions of two (4, 5) arguments, written once for both libraries: `m` is fp or torch, `f` its nn.functional.
FUNCTIONS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "products": lambda m, f, x, y: (x @ y.T) @ x,
    "elementwise": lambda m, f, x, y: m.sin(x) * m.exp(y) / (1 + x * x) + m.atan2(x, y) - m.hypot(x, y),
    "more elementwise": lambda m, f, x, y: m.tanh(x) * m.sigmoid(y) + m.erf(x) * m.log1p(y * y) + m.sqrt(1 + x * x),
    "powers": lambda m, f, x, y: (x * x + 1) ** y + m.rsqrt(1 + y * y) + m.expm1(x) + m.maximum(x, y) + m.abs(x - y),
    "selection": lambda m, f, x, y: m.where(x > y, x * y, y * y) + m.clamp(x, -0.5, 0.5) * f.relu(y),
    "reductions": lambda m, f, x, y: m.var(x, 0) * m.prod(y, 0) + m.logsumexp(x * y, 0) + m.amax(y, 0) + m.mean(x),
    "softmax": lambda m, f, x, y: m.softmax(x, -1) * m.log_softmax(y, 0),
    "shapes": lambda m, f, x, y: m.cat([x.T.reshape(4, 5), y.flip(0)[:, 1:4]], 1)[1:, ::2] * 3 + x[0, 1] * m.stack([x, y])[1, 2, 3],
    "indices": lambda m, f, x, y: x[m.tensor([2, 0, 2])] * y.gather(0, m.tensor([[0, 1, 2, 3, 0]] * 3)),
    "scatter": lambda m, f, x, y: x.index_add(0, m.tensor([1, 1, 3, 0]), y) * m.sort(y, 0)[0],
    "running": lambda m, f, x, y: m.cumsum(x, 1) * m.cumprod(y, 0) + m.cummax(x, 1)[0],
    "layer norm": lambda m, f, x, y: f.layer_norm(x * y, (5,)) + f.gelu(y),
    "convolution": lambda m, f, x, y: f.conv1d(x.reshape(1, 2, 10), y.reshape(2, 2, 5), padding=1),
    "pooling": lambda m, f, x, y: f.avg_pool1d(x.reshape(1, 4, 5), 3, 1, 1)[0] * f.max_pool1d(y.reshape(1, 4, 5), 2, 1, 1)[0][:, :5],
    "attention": lambda m, f, x, y: f.scaled_dot_product_attention(*(a.reshape(1, 1, 4, 5) for a in (x, y, x * y)))[0, 0],
    "does not depend on y": lambda m, f, x, y: x * 2,
}  # fmt: skip


def test_first_derivatives():
    comparison = Comparison()
    (x, y, v, w), (tx, ty, tv, tw) = pairs((4, 5), (4, 5), (4, 5), (4, 5))
    for name, function in FUNCTIONS.items():
        def ours(x: Any, y: Any, function: Any = function) -> Any:
            return function(fp, F, x, y)

        def reference(x: Any, y: Any, function: Any = function) -> Any:
            return function(torch, T, x, y)

        value, pull_back = fp.vjp(ours, x, y)
        expected, torch_pull_back = torch.func.vjp(reference, tx, ty)
        comparison.add(name, value, expected)
        weight, torch_weight = both(draw(tuple(expected.shape), 7))
        comparison.add(name + " vjp", pull_back(weight), torch_pull_back(torch_weight))
        value, tangent = fp.jvp(ours, (x, y), (v, w))
        # Backward twice, as the scaled dot product and a few others have no forward mode in PyTorch.
        expected, torch_tangent = torch.autograd.functional.jvp(reference, (tx, ty), (tv, tw))
        comparison.add(name + " jvp", (value, tangent), (expected, torch_tangent))
        _, push_forward = fp.linearize(ours, x, y)
        comparison.add(name + " linearize", push_forward(v, w), torch_tangent)
        assert not any(r.requires_grad for r in (value, tangent, *pull_back(weight)))
    comparison.check()


def test_second_derivatives():
    comparison = Comparison()
    (x, y), (tx, ty) = pairs((4, 5), (4, 5))
    for name, function in FUNCTIONS.items():
        if name == "pooling":
            continue  # its second derivative is zero but for max's ties
        hessian = fp.hessian(lambda x, y, function=function: (function(fp, F, x, y) ** 2).sum(), (0, 1))(x, y)
        expected = torch.autograd.functional.hessian(
            lambda x, y, function=function: (function(torch, T, x, y) ** 2).sum(), (tx, ty)
        )
        for i in range(2):
            comparison.add(f"{name} hessian {i}", unsigned(hessian[i]), unsigned(expected[i]))
    comparison.check()


def test_jacobians():
    comparison = Comparison()
    (x, y), (tx, ty) = pairs((4, 5), (4, 5))
    for name, function in FUNCTIONS.items():
        expected = torch.autograd.functional.jacobian(lambda x, y, function=function: function(torch, T, x, y), (tx, ty))
        for how in (fp.jacrev, fp.jacfwd):
            found = how(lambda x, y, function=function: function(fp, F, x, y), (0, 1))(x, y)
            comparison.add(f"{name} {how.__name__}", unsigned(found), unsigned(expected))
    comparison.check()


def test_trees_and_argument_numbers():
    (x, y), (tx, ty) = pairs((3,), (3,))

    def f(m: Any, p: Any, n: int, b: Any) -> Any:
        return (m.sin(p["a"]) * p["more"][0] ** n).sum() * b[0], {"kept": p["a"]}

    parameters, torch_parameters = {"a": x, "more": (y,)}, {"a": tx, "more": (ty,)}
    found, aux = fp.grad(lambda *a: f(fp, *a), has_aux=True)(parameters, 2, [2.0])
    expected, _ = torch.func.grad(lambda *a: f(torch, *a), has_aux=True)(torch_parameters, 2, [2.0])
    assert isinstance(found["more"], tuple) and np.array_equal(aux["kept"].numpy(), x.numpy())
    assert not aux["kept"].requires_grad
    comparison = Comparison()
    comparison.add("a", found["a"], expected["a"])
    comparison.add("more", found["more"], expected["more"])
    (value, aux), (by_tree, by_list) = fp.value_and_grad(lambda *a: f(fp, *a), (0, -1), True)(parameters, 2, [2.0])
    comparison.add("a", by_tree["a"], expected["a"])
    comparison.add("by a Python float", by_list[0] * 2.0, torch.from_numpy(value.float().numpy()))
    gradient, value = fp.func.grad_and_value(lambda p: f(fp, p, 2, [2.0])[0])(parameters)
    comparison.add("a", gradient["a"], expected["a"])
    jacobian = fp.jacrev(lambda p: {"s": p["a"] * p["more"][0], "t": [p["a"].sum()]})(parameters)
    torch_jacobian = torch.func.jacrev(lambda p: {"s": p["a"] * p["more"][0], "t": [p["a"].sum()]})(torch_parameters)
    forward = fp.jacfwd(lambda p: {"s": p["a"] * p["more"][0], "t": [p["a"].sum()]})(parameters)
    for j in (jacobian, forward):
        comparison.add("s by a", unsigned(j["s"]["a"]), unsigned(torch_jacobian["s"]["a"]))
        comparison.add("s by more", unsigned(j["s"]["more"]), unsigned(torch_jacobian["s"]["more"]))
        comparison.add("t by a", j["t"][0]["a"], torch_jacobian["t"][0]["a"])
    single = fp.jacrev(lambda x: x * x, (0,))(x)
    assert isinstance(single, tuple) and len(single) == 1
    comparison.add("chunks", unsigned(fp.jacrev(fp.sin, chunk_size=2)(x)), torch.diag(torch.cos(tx)))
    comparison.check()


def test_nested():
    (x,), (tx,) = pairs((4,))
    s, ts = both(0.7)
    comparison = Comparison()

    def reduced(m: Any) -> Any:
        return lambda v: (m.sin(v) * m.exp(v * v)).sum()

    g, tg = fp.grad, torch.func.grad
    comparison.add("third", g(g(g(lambda a: fp.sin(a) ** 4)))(s), tg(tg(tg(lambda a: torch.sin(a) ** 4)))(ts))
    # The inner derivative must not see the outer variable as its own.
    comparison.add("levels", g(lambda a: a * g(lambda b: a * b * b)(a))(s), tg(lambda a: a * tg(lambda b: a * b * b)(a))(ts))
    product = fp.jvp(fp.grad(reduced(fp)), (x,), (x * 2,))[1]
    expected = torch.func.jvp(torch.func.grad(reduced(torch)), (tx,), (tx * 2,))[1]
    comparison.add("Hessian-vector product forward over reverse", product, expected)
    comparison.add("reverse over forward", fp.grad(lambda v: fp.jvp(reduced(fp), (v,), (x * 2,))[1])(x), expected)
    comparison.add("reverse over reverse", fp.grad(lambda v: (fp.grad(reduced(fp))(v) * x * 2).sum())(x), expected)
    comparison.add("forward over linearize", fp.jvp(lambda v: fp.linearize(reduced(fp), v)[1](x * 2), (x,), (x,))[1] * 2,
                   torch.func.jvp(lambda v: torch.func.jvp(reduced(torch), (v,), (tx * 2,))[1], (tx,), (tx,))[1] * 2)  # fmt: skip
    mapped = fp.vmap(fp.hessian(reduced(fp)))(fp.stack([x, x * 2]))
    comparison.add("mapped Hessian", mapped, torch.func.vmap(torch.func.hessian(reduced(torch)))(torch.stack([tx, tx * 2])))
    jitted = fp.jit(fp.hessian(fp.jit(reduced(fp))))
    comparison.add("jitted Hessian", (jitted(x), jitted(x)), (torch.func.hessian(reduced(torch))(tx),) * 2)
    comparison.check()


def test_with_autograd_and_grad_mode():
    x = fp.tensor([1.0, 2.0], requires_grad=True)
    w = fp.tensor([3.0, 4.0], requires_grad=True)
    g = fp.grad(lambda v: (w * v**3).sum())(x)
    assert g.requires_grad
    g.sum().backward()  # 3 w x²
    assert np.allclose(x.grad.numpy(), 6 * np.array([3.0, 8.0])) and np.allclose(w.grad.numpy(), [3, 12])
    with fp.no_grad():
        assert not fp.grad(lambda v: (w * v).sum())(x).requires_grad

        def f(v: fp.Tensor) -> fp.Tensor:
            with fp.no_grad():
                factor = v * 1
            return (factor * v).sum()

        assert np.allclose(fp.grad(f)(x).numpy(), [1, 2])
    value, pull_back = fp.vjp(lambda v: v * 2, x)
    assert value.requires_grad and pull_back(fp.ones(2)).shape == (2,)
    gradient = fp.grad(lambda v: (v * 2).sum())(x.detach())
    assert not gradient.requires_grad
    used, unused = fp.grad(lambda a, b: a.sum(), (0, 1))(x.detach(), w.detach())
    assert used.sum().item() == 2 and unused.sum().item() == 0


def test_residuals_of_linearize_are_computed_once():
    (x,), _ = pairs((3,))
    _, push_forward = fp.linearize(lambda v: fp.sin(v) * fp.exp(v), x)
    from firepot.compiler.simplify import structure

    nodes = structure([push_forward(x)._node])[2]
    assert "exp" not in {n.primitive.name for n in nodes if n.buffer is None}


def test_errors():
    x = fp.ones(3)
    with pytest.raises(RuntimeError, match=r"must return a floating-point tensor of shape \(\), got float32\[3\]"):
        fp.grad(fp.sin)(x)
    with pytest.raises(TypeError, match=r"must return a tensor of shape .*, got float"):
        fp.grad(lambda v: 1.0)(x)
    with pytest.raises(TypeError, match=r"floating-point and complex tensors, got int64\[2\]"):
        fp.grad(lambda v: v.sum())(fp.tensor([1, 2]))
    with pytest.raises(TypeError, match=r"got int; write it as a float"):
        fp.grad(lambda v: fp.sin(v))(1)
    with pytest.raises(IndexError, match="argnums = 2, but the function got 1 positional"):
        fp.grad(lambda v: v.sum(), 2)(x)
    with pytest.raises(TypeError, match=r"must return a pair \(result, auxiliary\), got a Tensor"):
        fp.grad(lambda v: v.sum(), has_aux=True)(x)
    with pytest.raises(RuntimeError, match=r"a tangent is float32\[2\], expected float32\[3\]"):
        fp.jvp(fp.sin, (x,), (fp.ones(2),))
    with pytest.raises(RuntimeError, match="cotangents have the structure"):
        fp.vjp(lambda v: (v, v), x)[1](x)
    with pytest.raises(TypeError, match="must be tuples"):
        fp.jvp(fp.sin, x, x)
    with pytest.raises(RuntimeError, match="does not depend on the primals"):
        fp.jvp(lambda v: fp.ones(2), (x,), (x,), strict=True)
