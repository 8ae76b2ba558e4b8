"""Differentiation: leaves, accumulation, hooks, graphs kept or let go, custom rules, errors."""

from __future__ import annotations

import gc

import pytest
import torch
from oracle import Comparison, both, compare_gradients, draw

import firepot as fp


def test_accumulation_and_zero():
    x = fp.tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    (3 * x).sum().backward()
    assert x.grad.tolist() == [5, 7]
    first = x.grad
    (x * 1).sum().backward()
    assert first is x.grad  # the same handle, as in PyTorch
    x.grad = None
    (x * 1).sum().backward()
    assert x.grad.tolist() == [1, 1]
    assert first.tolist() == [6, 8]


def test_leaves_intermediates_and_retain_grad():
    x = fp.tensor(2.0, requires_grad=True)
    y = x * x
    y.retain_grad()
    (y * 3).backward()
    assert (x.grad.item(), y.grad.item()) == (12, 3)
    assert x.is_leaf
    assert not y.is_leaf
    z = (x * 2).detach().requires_grad_()
    (z * 5).backward()
    assert (z.grad.item(), x.grad.item()) == (5, 12)


def test_gradient_argument_and_inputs():
    x = fp.tensor([1.0, 2.0], requires_grad=True)
    w = fp.tensor([3.0, 4.0], requires_grad=True)
    (x * w).backward(fp.tensor([1.0, 10.0]), inputs=[x])
    assert x.grad.tolist() == [3, 40]
    assert w.grad is None
    fp.autograd.backward([(x * w).sum(), w.sum()], [None, fp.tensor(2.0)])
    assert w.grad.tolist() == [3, 4]


def test_history_is_let_go_and_retained():
    x = fp.tensor(2.0, requires_grad=True)
    y = x.exp()
    y.item()
    y.backward()
    with pytest.raises(RuntimeError, match="retain_graph"):
        y.backward()
    y = x.exp()
    y.item()
    y.backward(retain_graph=True)
    y.backward()
    fp.autograd.grad(x.exp(), x, create_graph=True)


def test_values_computed_before_differentiation():
    """Intermediates that were looked at are inputs to the derivative, not walls."""
    x = fp.tensor([0.5, 1.0], requires_grad=True)
    y = fp.sin(x)
    print_of_y = repr(y)
    z = y * y
    fp.eval(z)
    z.sum().backward()
    assert "grad_fn" in print_of_y
    assert fp.allclose(x.grad, 2 * fp.sin(x.detach()) * fp.cos(x.detach()))


def test_hooks():
    x = fp.tensor(2.0, requires_grad=True)
    seen = []
    handle = x.register_hook(lambda g: seen.append(g.item()))
    double = x.register_hook(lambda g: g * 2)
    (x * 3 + x * x).backward()
    assert seen == [7]
    assert x.grad.item() == 14
    handle.remove()
    double.remove()
    y = x * x
    y.register_hook(lambda g: g * 10)
    x.grad = None
    (y + y).backward()
    assert x.grad.item() == 80
    assert seen == [7]
    with pytest.raises(RuntimeError, match="doesn't require gradient"):
        fp.ones(1).register_hook(print)


def test_modes():
    x = fp.tensor(2.0, requires_grad=True)
    with fp.no_grad():
        y = x * 2
        with fp.enable_grad():
            z = x * 2
    assert (y.requires_grad, z.requires_grad, (x * 2).requires_grad) == (False, True, True)
    with fp.set_grad_enabled(False):
        assert not fp.is_grad_enabled()
        assert not (x * 2).requires_grad
    assert fp.is_grad_enabled()
    with pytest.raises(ValueError, match="mine"), fp.no_grad():
        raise ValueError("mine")
    assert fp.is_grad_enabled()

    @fp.no_grad()
    def f(x):
        return x * 2

    assert not f(x).requires_grad
    assert not (x > 1).requires_grad
    assert not x.long().requires_grad


def test_higher_orders():
    compared = Comparison()
    x, rx = both(draw((3,), 0, 0.5, 1.5), requires_grad=True)
    y, ry = (fp.sin(x) * fp.exp(x)).sum(), (torch.sin(rx) * torch.exp(rx)).sum()
    for order in range(1, 5):
        (y,) = fp.autograd.grad(y.sum(), x, create_graph=True)
        (ry,) = torch.autograd.grad(ry.sum(), rx, create_graph=True)
        compared.add(f"derivative {order}", y, ry)
    y.sum().backward()
    ry.sum().backward()
    compared.add("fifth, by backward", x.grad, rx.grad)
    compared.check()


@pytest.mark.filterwarnings("ignore:Using backward")
def test_backward_with_create_graph():
    compared = Comparison()
    x, rx = both(draw((3,)), requires_grad=True)
    for a in (x, rx):
        (a**3).sum().backward(create_graph=True)
        g = a.grad
        a.grad = None
        (g * g).sum().backward()
    compared.add("gradient of the squared gradient", x.grad, rx.grad)
    compared.check()


def test_unused_inputs():
    x, unused = fp.tensor(2.0, requires_grad=True), fp.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="allow_unused"):
        fp.autograd.grad(x * 2, [x, unused])
    assert fp.autograd.grad(x * 2, [x, unused], allow_unused=True)[1] is None
    assert fp.autograd.grad(x * 2, [x, unused], materialize_grads=True)[1].tolist() == [0, 0]
    (g,) = fp.autograd.grad(x, x)
    assert g.item() == 1


def test_in_place_on_results_is_differentiated():
    x = fp.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x * 2
    y.mul_(x)
    y[1] = 0.0
    y += x
    y.sum().backward()
    assert x.grad.tolist() == [5, 1, 13]


def test_half_precision_gradients_keep_their_dtype():
    x = fp.ones(3, dtype=fp.float16, requires_grad=True)
    (x.float() * 2 + x.double().sum().float()).sum().backward()
    assert x.grad.dtype is fp.float16
    assert x.grad.tolist() == [5, 5, 5]


class Cube(fp.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale=1.0):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return x * x * x * scale

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x * x * ctx.scale, None


class Both(fp.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b, a + b

    @staticmethod
    def backward(ctx, product, total):
        _, b = ctx.saved_tensors
        assert ctx.needs_input_grad == (True, False)
        return product * b + total, None


def test_custom_functions():
    x = fp.tensor([1.0, 2.0], requires_grad=True)
    y = Cube.apply(x, 2.0)
    y.sum().backward()
    assert y.tolist() == [2, 16]
    assert x.grad.tolist() == [6, 24]
    (g,) = fp.autograd.grad(Cube.apply(x).sum(), x, create_graph=True)
    (second,) = fp.autograd.grad(g.sum(), x)
    assert second.tolist() == [6, 12]
    product, total = Both.apply(x, fp.tensor([5.0, 7.0]))
    (product * 2 + total).sum().backward()
    assert x.grad.tolist() == [6 + 11, 24 + 15]
    with fp.no_grad():
        assert not Cube.apply(x).requires_grad
    step = fp.jit(lambda v: fp.autograd.grad(Cube.apply(v).sum(), v)[0])
    assert step(x).tolist() == [3, 12]


def test_custom_function_with_too_few_gradients():
    class Wrong(fp.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a * b

        @staticmethod
        def backward(ctx, g):
            return g

    x = fp.tensor(1.0, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"Wrong\.backward returned 1 gradients, expected 2"):
        Wrong.apply(x, x).backward()


def test_custom_backward_with_a_wrong_shape():
    class Wrong(fp.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            return a * 2

        @staticmethod
        def backward(ctx, g):
            return g.sum()

    x = fp.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"Wrong\.backward.*\[\].*\[3\]"):
        Wrong.apply(x).sum().backward()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: (x * 2).backward(), "implicitly created only for scalar outputs"),
        (lambda x: x.detach().sum().backward(), "does not require grad"),
        (lambda x: (x * 2).backward(fp.ones(3)), r"gradient has shape \[3\]"),
        (lambda x: fp.autograd.grad(x.sum(), fp.ones(2)), "does not require grad"),
        (lambda x: x.add_(1), "in-place"),
        (lambda x: x.numpy(), r"detach\(\)"),
        (lambda x: fp.arange(3).requires_grad_(), "floating point"),
        (lambda x: (x * 2).requires_grad_(False), "leaf"),
        (lambda x: setattr(x, "grad", fp.ones(3)), "grad"),
    ],
)
def test_errors(call, text):
    with pytest.raises(RuntimeError, match=text):
        call(fp.ones(2, requires_grad=True))


def test_a_long_chain():
    """More operations than one expression may hold, and a history longer than Python's stack."""
    x = fp.ones(3, dtype=fp.float64, requires_grad=True)
    y = x
    for i in range(1500):
        y = y * 1.001 if i % 2 else y / 1.001
        if i % 100 == 99:
            fp.eval(y)
    (g,) = fp.autograd.grad(y.sum(), x)
    assert g.shape == (3,)
    del y
    gc.collect()


def test_gradients_through_a_shared_value_twice():
    compared = Comparison()
    x, rx = both(draw((2, 3)), requires_grad=True)

    def f(m, v):
        a = m.exp(v)
        b = a * a.sum(0) + a.T.reshape(2, 3)
        return m.cat([b, a[:, :2] @ b[:2, :2].T], 1) * b.mean()

    compare_gradients(compared, "shared", f(fp, x), f(torch, rx), [(x, rx)])
    compared.check()


def test_gradients_require_no_grad_unless_asked_for():
    seen = []
    x = fp.tensor([0.5, 1.0], requires_grad=True)
    x.register_hook(lambda g: seen.append(g.requires_grad))
    y = x.exp()  # whose derivative is y itself
    y.sum().backward(retain_graph=True)
    (g,) = fp.autograd.grad(y.sum(), x, retain_graph=True)
    assert not x.grad.requires_grad
    assert not g.requires_grad
    assert x.grad.numpy().tolist() == g.numpy().tolist()
    (g,) = fp.autograd.grad(y.sum(), x, create_graph=True)
    assert g.requires_grad
    assert seen == [False, False, True]
