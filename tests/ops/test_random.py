"""Random numbers: reproducible, independent, and of the right distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest

import firepot as fp

COUNT = 40_000


def philox(key: int, counter: int) -> list[int]:
    """Philox 4x32-10 of the paper, in Python integers."""
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    c = [counter & 0xFFFFFFFF, counter >> 32, 0, 0]
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def test_bits_are_philox():
    generator = fp.Generator().manual_seed(0x123456789ABCDEF)
    got = fp.rand(9, generator=generator).numpy()
    words = [w for block in range(3) for w in philox(0x123456789ABCDEF, block)][:9]
    assert got.tolist() == [(w >> 8) * 2.0**-24 for w in words]


def test_seeds_and_states():
    fp.manual_seed(5)
    a, b = fp.rand(4), fp.rand(4)
    assert not fp.equal(a, b)
    fp.manual_seed(5)
    assert fp.equal(fp.rand(4), a)
    state = fp.get_rng_state()
    assert fp.equal(fp.rand(4), b)
    fp.set_rng_state(state)
    assert fp.equal(fp.rand(4), b)
    assert fp.initial_seed() == 5
    fp.manual_seed(6)
    assert not fp.equal(fp.rand(4), a)
    own = fp.Generator().manual_seed(5)
    assert fp.equal(fp.rand(4, generator=own), a)


DISTRIBUTIONS = {  # sample, cumulative distribution
    "rand": (lambda g: fp.rand(COUNT, generator=g), lambda x: x),
    "rand float64": (lambda g: fp.rand(COUNT, generator=g, dtype=fp.float64), lambda x: x),
    "randn": (lambda g: fp.randn(COUNT, generator=g), lambda x: 0.5 * (1 + math.erf(x / 2**0.5))),
    "normal": (lambda g: fp.normal(1.0, 2.0, (COUNT,), generator=g), lambda x: 0.5 * (1 + math.erf((x - 1) / 8**0.5))),
    "uniform_": (lambda g: fp.zeros(COUNT).uniform_(-1, 3, generator=g), lambda x: (x + 1) / 4),
    "normal_": (lambda g: fp.zeros(COUNT).normal_(0, 0.5, generator=g), lambda x: 0.5 * (1 + math.erf(x * 2 / 2**0.5))),
    "exponential_": (lambda g: fp.zeros(COUNT).exponential_(2.0, generator=g), lambda x: 1 - math.exp(-2 * x)),
}  # fmt: skip


def test_continuous_distributions():
    """Kolmogorov and Smirnov's statistic stays below its 0.1 % point (seeds are fixed: this cannot fail by chance)."""
    samples = {name: draw(fp.Generator().manual_seed(11)) for name, (draw, _) in DISTRIBUTIONS.items()}
    fp.eval(samples)
    for name, (_, cumulative) in DISTRIBUTIONS.items():
        x = np.sort(samples[name].numpy().astype(np.float64))
        expected = np.array([cumulative(v) for v in x])
        gap = max(
            np.abs(expected - np.arange(COUNT) / COUNT).max(), np.abs(expected - np.arange(1, COUNT + 1) / COUNT).max()
        )
        assert gap < 1.95 / COUNT**0.5, name
        assert np.isfinite(x).all(), name


def test_discrete_distributions():
    g = fp.Generator().manual_seed(3)
    whole = fp.randint(-2, 5, (COUNT,), generator=g)
    coin = fp.bernoulli(fp.full((COUNT,), 0.3), generator=g)
    drawn = fp.multinomial(fp.tensor([1.0, 0.0, 3.0]), COUNT, replacement=True, generator=g)
    permuted = fp.randperm(1000, generator=g)
    few = fp.multinomial(fp.tensor([[1.0, 1.0, 0.0, 1.0]] * 50), 3, generator=g)
    fp.eval(whole, coin, drawn, permuted, few)
    counts = np.bincount(whole.numpy() + 2, minlength=7)
    assert whole.dtype is fp.int64
    assert len(counts) == 7
    assert np.abs(counts / COUNT - 1 / 7).max() < 0.01
    assert abs(coin.numpy().mean() - 0.3) < 0.01
    assert np.abs(np.bincount(drawn.numpy(), minlength=3) / COUNT - [0.25, 0, 0.75]).max() < 0.01
    assert sorted(permuted.tolist()) == list(range(1000))
    assert permuted.tolist() != list(range(1000))
    assert all(sorted(row) == [0, 1, 3] for row in few.tolist())


def test_streams_are_independent():
    g = fp.Generator().manual_seed(9)
    a, b = fp.randn(COUNT, generator=g), fp.randn(COUNT, generator=g)
    fp.eval(a, b)
    x, y = a.numpy(), b.numpy()
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.02
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 0.02


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: fp.randint(3, 3, (2,)), "randint"),
        (lambda: fp.multinomial(fp.ones(3), 4), "multinomial: cannot draw 4 of 3"),
        (lambda: fp.rand(-1), "negative"),
    ],
)
def test_errors(call, text):
    with pytest.raises(RuntimeError, match=text):
        call()
