"""Autocast as a state: nesting, threads, capture, transforms, gradients, and training with it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import firepot as fp
from firepot import nn
from firepot.nn import functional as F


def _product(a, b):
    return a @ b


def test_regions_nest_and_end():
    a = fp.ones(2, 2)
    assert not fp.is_autocast_enabled() and (a @ a).dtype is fp.float32
    with fp.autocast("cpu"):
        assert fp.is_autocast_enabled("cpu") and not fp.is_autocast_enabled("cuda")
        assert (a @ a).dtype is fp.bfloat16
        with fp.autocast("cpu", dtype=fp.float16):
            assert fp.get_autocast_dtype("cpu") is fp.float16 and (a @ a).dtype is fp.float16
            with fp.autocast("cpu", enabled=False):
                assert not fp.is_autocast_enabled() and (a @ a).dtype is fp.float32
            assert (a @ a).dtype is fp.float16
        assert fp.get_autocast_dtype("cpu") is fp.bfloat16 and (a @ a).dtype is fp.bfloat16
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            a @ fp.ones(3, 3)
        assert (a @ a).dtype is fp.bfloat16  # an error inside an operation leaves the mode as it was
    assert not fp.is_autocast_enabled() and (a @ a).dtype is fp.float32


def test_as_a_decorator_it_nests_in_itself():
    @fp.autocast("cpu")
    def f(n):
        return f(n - 1) if n else fp.ones(2, 2) @ fp.ones(2, 2)

    assert f(2).dtype is fp.bfloat16 and f.__name__ == "f"
    assert not fp.is_autocast_enabled()


def test_settings_of_the_thread():
    seen = []
    with fp.autocast("cpu"):
        thread = threading.Thread(target=lambda: seen.append(fp.is_autocast_enabled()))
        thread.start()
        thread.join()
    assert seen == [False]
    fp.set_autocast_enabled("cpu", True)
    try:
        fp.set_autocast_dtype("cpu", fp.float16)
        assert (fp.ones(2, 2) @ fp.ones(2, 2)).dtype is fp.float16
    finally:
        fp.set_autocast_dtype("cpu", fp.bfloat16)
        fp.set_autocast_enabled("cpu", False)
    assert not fp.is_autocast_enabled() and fp.is_autocast_cache_enabled()


def test_errors_name_what_would_work():
    with pytest.raises(RuntimeError, match="'toaster' is not a device type"):
        fp.autocast("toaster")
    with pytest.raises(ValueError, match="as a string"):
        fp.autocast(fp.bfloat16)
    with pytest.raises(TypeError, match="only bfloat16 and float16"):
        fp.set_autocast_dtype("cpu", fp.float32)


def test_a_weight_is_converted_once():
    """The cache is the graph: the same cast of the same node is one node."""
    w = nn.Parameter(fp.ones(4, 4))
    with fp.autocast("cpu"):
        a, b = fp.ones(2, 4) @ w, fp.zeros(2, 4) @ w

    def casts(node):
        found = {node} if node.primitive.name == "cast" and w._node in node.inputs else set()
        return found.union(*map(casts, node.inputs))

    assert len(casts(a._node) | casts(b._node)) == 1
    assert casts(a._node) == casts(b._node)


def test_in_place_forms_keep_their_dtype():
    a, theirs = fp.full((2, 2), 1 / 3), torch.full((2, 2), 1 / 3)
    b, other = fp.full((2, 2), 1 / 3), torch.full((2, 2), 1 / 3)
    with fp.autocast("cpu"), torch.autocast("cpu"):
        a.addmm_(b, b)
        theirs.addmm_(other, other)
    np.testing.assert_allclose(a.numpy(), theirs.numpy(), rtol=1e-6)


@pytest.mark.parametrize("outside", [True, False])
def test_gradients_arrive_in_the_parameters_dtype(outside):
    """Inside or outside of the region, backward runs in the dtypes of the forward pass, like PyTorch's outside."""
    random = np.random.default_rng(0)
    x, w, v = (random.standard_normal(s).astype(np.float32) for s in ((5, 8), (6, 8), (3, 6)))

    def gradients(library, backward_outside):
        a, b, c = (library.tensor(t, requires_grad=True) for t in (x, w, v))
        functional = library.nn.functional
        with library.autocast("cpu", dtype=library.bfloat16):
            h = functional.linear(a, b)
            loss = functional.mse_loss(functional.linear(functional.relu(h), c), library.zeros(5, 3))
            if not backward_outside:
                loss.backward()
        if backward_outside:
            loss.backward()
        assert h.dtype == library.bfloat16 and {t.grad.dtype for t in (a, b, c)} == {library.float32}
        return [t.detach().numpy() for t in (loss, a.grad, b.grad, c.grad)]

    for ours, theirs in zip(gradients(fp, outside), gradients(torch, True), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0.03, atol=0.03 * np.abs(theirs).max())


def test_a_captured_function_has_a_trace_for_each_state():
    captured = fp.jit(_product)
    a = fp.ones(3, 3)
    assert captured(a, a).dtype is fp.float32
    with fp.autocast("cpu"):
        assert captured(a, a).dtype is fp.bfloat16
        with fp.autocast("cpu", dtype=fp.float16):
            assert captured(a, a).dtype is fp.float16
    assert captured(a, a).dtype is fp.float32
    assert captured.traces == 3
    assert [c.reason for c in captured.compilations[1:]] == [
        "autocast is on with bfloat16 and was off", "autocast is on with float16 and was on with bfloat16",
    ]  # fmt: skip
    fp.set_autocast_enabled("cpu", True)
    assert captured(a, a).dtype is fp.bfloat16 and captured.traces == 3
    fp.set_autocast_enabled("cpu", False)


def test_sizes_that_vary_share_a_program_in_each_state():
    captured = fp.jit(_product, dynamic={"a": 0})
    w = fp.eye(3)
    for enabled in (False, True, False, True):
        for size in (5, 6, 7):
            with fp.autocast("cpu", enabled=enabled):
                y = captured(fp.ones(size, 3), w)
            assert y.dtype is (fp.bfloat16 if enabled else fp.float32)
            assert y.tolist() == [[1.0] * 3] * size
    assert captured.programs == 2


def test_a_failed_capture_puts_the_mode_back():
    def broken(x):
        fp.set_autocast_enabled("cpu", True)
        return x.item()

    with pytest.raises(fp.TraceError):
        fp.jit(broken)(fp.ones(1))
    assert not fp.is_autocast_enabled()


def test_transforms_inside_and_outside():
    x, w = fp.randn(3, 4, 4), fp.randn(4, 4)

    def loss(w, x):
        with fp.autocast("cpu"):
            y = x @ w
            assert y.dtype is fp.bfloat16
            return (y.float() ** 2).sum()

    plain = fp.grad(loss)(w, x[0])
    assert plain.dtype is fp.float32
    with fp.autocast("cpu"):
        again = fp.grad(lambda w: (_product(x[0], w).float() ** 2).sum())(w)
        mapped = fp.vmap(_product, in_dims=(0, None))(x, w)
    each = fp.vmap(fp.grad(loss), in_dims=(None, 0))(w, x)
    with fp.autocast("cpu"):
        rows = [_product(row, w) for row in x]
    leaf = w.clone().requires_grad_()
    fp.checkpoint(loss, leaf, x[0]).backward()
    fp.eval(plain, again, mapped, each, rows, leaf.grad)
    assert mapped.dtype is fp.bfloat16 and each.dtype is fp.float32
    np.testing.assert_allclose(mapped.numpy(), np.stack([r.numpy() for r in rows]), rtol=1e-2)
    np.testing.assert_array_equal(plain.numpy(), again.numpy())
    np.testing.assert_array_equal(plain.numpy(), leaf.grad.numpy())
    np.testing.assert_allclose(plain.numpy(), each[0].numpy(), rtol=0.02, atol=0.05)


class _Scaled(fp.autograd.Function):
    @staticmethod
    @fp.amp.custom_fwd(device_type="cpu")
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    @fp.amp.custom_bwd(device_type="cpu")
    def backward(ctx, g):
        a, b = ctx.saved_tensors
        assert fp.is_autocast_enabled() is ctx._forward_used_autocast
        return g @ b.mT, a.mT @ g


class _Exact(fp.autograd.Function):
    @staticmethod
    @fp.amp.custom_fwd(device_type="cpu", cast_inputs=fp.float32)
    def forward(ctx, a):
        assert a.dtype is fp.float32 and not fp.is_autocast_enabled()
        return a @ a

    @staticmethod
    @fp.amp.custom_bwd(device_type="cpu")
    def backward(ctx, g):
        assert not fp.is_autocast_enabled()
        return g


def test_custom_functions():
    for enabled in (True, False):
        a, b = fp.randn(2, 3).requires_grad_(), fp.randn(3, 2).requires_grad_()
        with fp.autocast("cpu", enabled=enabled):
            y = _Scaled.apply(a, b)
        y.sum().backward()
        assert y.dtype is (fp.bfloat16 if enabled else fp.float32) and a.grad.dtype is b.grad.dtype is fp.float32
    half = fp.ones(2, 2, dtype=fp.bfloat16).requires_grad_()
    with fp.autocast("cpu"):
        y = _Exact.apply(half)
    y.sum().backward()
    assert y.dtype is fp.float32 and half.grad.dtype is fp.bfloat16


NORMS = {
    "batch_norm": lambda F, x, w, b, m, v: F.batch_norm(x, m, v, w, b, True),
    "batch_norm, eval": lambda F, x, w, b, m, v: F.batch_norm(x, m, v, w, b, False),
    "instance_norm": lambda F, x, w, b, m, v: F.instance_norm(x, None, None, w, b),
    "group_norm": lambda F, x, w, b, m, v: F.group_norm(x, 2, w, b),
    "layer_norm": lambda F, x, w, b, m, v: F.layer_norm(x.transpose(1, 2), (6,), w, b),
    "rms_norm": lambda F, x, w, b, m, v: F.rms_norm(x.transpose(1, 2), (6,), w),
}


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_norms_of_bfloat16_with_float32_parameters():
    """Statistics in float32, the result in bfloat16: far from zero, bfloat16 statistics would be useless."""
    random = np.random.default_rng(1)
    x = random.standard_normal((4, 6, 10)).astype(np.float32) + 5
    w, b, m = (random.standard_normal(6).astype(np.float32) for _ in range(3))
    v = random.random(6).astype(np.float32) + 0.5
    found = {}
    for name, norm in NORMS.items():
        ours, theirs = ([lib.tensor(t) for t in (x, w, b, m, v)] for lib in (fp, torch))
        y = norm(F, ours[0].to(fp.bfloat16), *ours[1:])
        reference = norm(torch.nn.functional, theirs[0].to(torch.bfloat16), *theirs[1:])
        assert y.dtype is fp.bfloat16 and reference.dtype is torch.bfloat16, name
        found[name] = (y.float(), reference.float(), ours[3:], theirs[3:])
    fp.eval([f[0] for f in found.values()], [f[2] for f in found.values()])
    for name, (y, reference, statistics, expected) in found.items():
        np.testing.assert_allclose(y.numpy(), reference.numpy(), atol=0.03, rtol=0.02, err_msg=name)
        for s, e in zip(statistics, expected, strict=True):
            np.testing.assert_allclose(s.numpy(), e.numpy(), rtol=1e-5, err_msg=name)


LAYERS = {
    "RNN": (lambda nn: nn.RNN(4, 5), (3, 2, 4)),
    "RNNCell": (lambda nn: nn.RNNCell(4, 5), (2, 4)),
    "LSTM": (lambda nn: nn.LSTM(4, 5, num_layers=2, bidirectional=True), (3, 2, 4)),
    "LSTM, projected": (lambda nn: nn.LSTM(4, 5, proj_size=2), (3, 2, 4)),
    "LSTMCell": (lambda nn: nn.LSTMCell(4, 5), (2, 4)),
    "GRU": (lambda nn: nn.GRU(4, 5), (3, 2, 4)),
    "GRUCell": (lambda nn: nn.GRUCell(4, 5), (2, 4)),
    "TransformerEncoderLayer": (lambda nn: nn.TransformerEncoderLayer(4, 2, 8, 0.0), (3, 2, 4)),
    "Conv2d": (lambda nn: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), (2, 2, 5, 5)),
    "PReLU": (lambda nn: nn.PReLU(), (2, 4)),
    "Embedding": (lambda nn: nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(-1)), (2, 4)),
}


def _tensors(result):
    return [t for r in result for t in _tensors(r)] if isinstance(result, (tuple, list)) else [result]


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_layers_give_what_pytorchs_give():
    random = np.random.default_rng(2)
    expected = {}
    for name, (make, shape) in LAYERS.items():
        theirs, ours = make(torch.nn), make(nn)
        ours.load_state_dict({k: fp.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
        x = random.standard_normal(shape).astype(np.float32)
        with torch.no_grad(), torch.autocast("cpu"):
            reference = _tensors(theirs(torch.tensor(x)))
        with fp.no_grad(), fp.autocast("cpu"):
            results = _tensors(ours(fp.tensor(x)))
        assert [r.dtype.name for r in results] == [str(r.dtype)[6:] for r in reference], name
        expected[name] = [(r.float(), e.float()) for r, e in zip(results, reference, strict=True)]
    fp.eval([[r for r, _ in pairs] for pairs in expected.values()])
    for name, pairs in expected.items():
        for r, e in pairs:
            np.testing.assert_allclose(r.numpy(), e.numpy(), atol=0.03, rtol=0.03, err_msg=name)


class _Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(16, 11)

    def forward(self, x):
        return self.head(self.block(self.embed(x))).transpose(1, 2)


def _networks():
    convolutional = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1),
        nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    images = fp.randn(16, 1, 8, 8) + fp.arange(16).reshape(16, 1, 1, 1) % 4
    words = fp.arange(16 * 6).reshape(16, 6) % 11
    return [(convolutional, images, fp.arange(16) % 4), (_Transformer(), words, (words + 1) % 11)]


@pytest.mark.parametrize("number", [0, 1], ids=["convolutional", "transformer"])
def test_training_follows_the_float32_run(number):
    def losses(enabled, jit, steps=15):
        fp.manual_seed(0)
        net, x, y = _networks()[number]
        optimizer = fp.optim.Adam(net.parameters(), lr=0.01)

        def step(x, y):
            optimizer.zero_grad()
            with fp.autocast("cpu", enabled=enabled):
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            return loss

        step = fp.jit(step) if jit else step
        found = [step(x, y).item() for _ in range(steps)]
        assert all(p.dtype is p.grad.dtype is fp.float32 for p in net.parameters())
        assert not jit or step.traces == 1
        return np.array(found)

    exact, captured, eager = losses(False, True), losses(True, True), losses(True, False, steps=4)
    assert captured[-1] < 0.75 * captured[0]
    assert np.any(captured != exact)
    np.testing.assert_allclose(captured, exact, rtol=0.05, atol=0.03)
    np.testing.assert_allclose(captured[:4], eager, rtol=0.05, atol=0.03)
