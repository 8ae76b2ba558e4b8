"""einops over tensors; `python -m conformance einops` runs einops' own tests."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import firepot as fp

einops = pytest.importorskip("einops")
from firepot.interoperability import einops as layers  # noqa: E402


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("call", "shape"),
    [
        (lambda x: einops.rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2), (2, 3, 4, 6)),
        (lambda x: einops.reduce(x, "b c (h 2) w -> b c w h", "max"), (2, 3, 4, 5)),
        (lambda x: einops.reduce(x, "b c -> c", "prod"), (3, 4)),
        (lambda x: einops.reduce(x > 5, "a b -> b", "any"), (3, 4)),
        (lambda x: einops.repeat(x, "a b -> b (a n)", n=3), (2, 3)),
        (lambda x: einops.einsum(x, x, "i k, j k -> i j"), (3, 4)),
        (lambda x: einops.pack([x, x[:, 0]], "a *")[0], (3, 4)),
        (lambda x: einops.unpack(x, [(2,), (), (3,)], "a *")[2], (2, 6)),
        (lambda x: einops.rearrange([x, x + 1], "n a b -> a (n b)"), (2, 2)),
    ],
)
def test_as_over_numpy(call, shape):
    ours, theirs = call(fp.tensor(numbers(*shape))), call(numbers(*shape))
    np.testing.assert_array_equal(ours.numpy(), theirs)
    captured = fp.jit(lambda x: call(x))(fp.tensor(numbers(*shape)))
    np.testing.assert_array_equal(captured.numpy(), theirs)


def test_derivatives_and_vmap():
    x = fp.tensor(numbers(2, 6), requires_grad=True)
    einops.reduce(x * x, "a (b c) -> a c", "mean", b=3).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), numbers(2, 6) * 2 / 3, rtol=1e-6)
    mapped = fp.vmap(lambda row: einops.rearrange(row, "(a b) -> b a", a=2))(x.detach())
    np.testing.assert_array_equal(mapped.numpy(), numbers(2, 2, 3).transpose(0, 2, 1))


def test_array_api_functions():
    from einops import array_api

    x = fp.tensor(numbers(2, 3, 4))
    np.testing.assert_array_equal(array_api.rearrange(x, "a b c -> c (a b)").numpy(), numbers(6, 4).T)
    np.testing.assert_array_equal(array_api.reduce(x, "a b c -> b", "sum").numpy(), numbers(2, 3, 4).sum((0, 2)))
    np.testing.assert_array_equal(array_api.repeat(x, "a b c -> a (b 2) c").numpy(), numbers(2, 3, 4).repeat(2, 1))


def test_layers():
    fp.manual_seed(0)
    mix = layers.EinMix("b t (h c) -> b t h d", "h c d", "h d", h=2, c=4, d=5)
    assert sorted(mix.state_dict()) == ["bias", "weight"]
    net = fp.nn.Sequential(layers.Rearrange("b (t c) -> b t c", c=8), mix, layers.Reduce("b t h d -> b (h d)", "mean"))
    x = numbers(2, 24) / 24
    weight, bias = mix.weight.detach().numpy(), mix.bias.detach().numpy()
    expected = np.einsum("bthc,hcd->bthd", x.reshape(2, 3, 2, 4), weight) + bias
    result = net(fp.tensor(x))
    np.testing.assert_allclose(result.detach().numpy(), expected.mean(1).reshape(2, 10), rtol=1e-5)
    result.sum().backward()
    np.testing.assert_allclose(mix.bias.grad.numpy().reshape(2, 5), np.full((2, 5), 2.0), rtol=1e-6)
    layer = pickle.loads(pickle.dumps(layers.Rearrange("a b -> b a")))
    assert layer(fp.zeros(2, 3)).shape == (3, 2)


def test_errors():
    with pytest.raises(einops.EinopsError, match="shape"):
        einops.rearrange(fp.zeros(3, 4), "(a 2) b -> a b")
    with pytest.raises(einops.EinopsError):
        layers.Rearrange("a b -> c")
    with pytest.raises(NotImplementedError, match="median"):
        layers.Backend().reduce(fp.zeros(2), "median", (0,))
