"""What people use functional transforms for, each against torch.func, JAX or another way of computing it."""

from typing import Any

import numpy as np
import pytest
import torch
from oracle import draw

import firepot as fp
from firepot import nn
from firepot.func import functional_call, stack_module_state
from firepot.nn import functional as F

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def twin(ours: nn.Module, reference: torch.nn.Module) -> None:
    """Give PyTorch's module the parameters of ours, both in float64."""
    ours.to(fp.float64)
    reference.double().load_state_dict({k: torch.from_numpy(v.detach().numpy()) for k, v in ours.state_dict().items()})


def equal(a: fp.Tensor, b: torch.Tensor) -> None:
    assert a.shape == tuple(b.shape)
    assert np.allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-8, atol=1e-10)


def test_model_agnostic_meta_learning():
    """The gradient of losses after an inner gradient step, over a batch of tasks (Finn et al., 2017)."""
    w1, w2, xs, ys, xq, yq = (draw(s, n) for n, s in enumerate([(1, 8), (8, 1), (4, 5, 1), (4, 5, 1), (4, 6, 1), (4, 6, 1)]))

    def meta_loss(m: Any, func: Any) -> Any:
        def loss(p: Any, x: Any, y: Any) -> Any:
            return ((m.tanh(x @ p["w1"]) @ p["w2"] - y) ** 2).mean()

        def task(p: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
            for _ in range(2):
                g = func.grad(loss)(p, xs, ys)
                p = {k: p[k] - 0.1 * g[k] for k in p}
            return loss(p, xq, yq)

        return lambda p, *data: func.vmap(task, (None, 0, 0, 0, 0))(p, *data).mean()

    data = (xs, ys, xq, yq)
    expected = torch.func.grad(meta_loss(torch, torch.func))(
        {"w1": torch.from_numpy(w1), "w2": torch.from_numpy(w2)}, *(torch.from_numpy(d) for d in data)
    )
    step = fp.jit(fp.value_and_grad(meta_loss(fp, fp.func)))
    for _ in range(2):
        _, found = step({"w1": fp.tensor(w1), "w2": fp.tensor(w2)}, *(fp.tensor(d) for d in data))
        equal(found["w1"], expected["w1"])
        equal(found["w2"], expected["w2"])


def test_gradient_penalty():
    """The Wasserstein critic's penalty (Gulrajani et al., 2017): a derivative of the norm of a derivative."""
    critic = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(36, 1))
    reference = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, stride=2), torch.nn.LeakyReLU(0.2), torch.nn.Flatten(), torch.nn.Linear(36, 1)
    )
    twin(critic, reference)
    real, fake, mix = draw((5, 1, 8, 8)), draw((5, 1, 8, 8), 1), draw((5, 1, 1, 1), 2, 0, 1)
    between = mix * real + (1 - mix) * fake
    t = torch.from_numpy(between).requires_grad_()
    (g,) = torch.autograd.grad(reference(t).sum(), t, create_graph=True)
    expected = ((g.flatten(1).norm(dim=1) - 1) ** 2).mean()
    expected.backward()

    x = fp.tensor(between)
    slopes = fp.vmap(fp.grad(lambda x: critic(x[None])[0, 0]))(x)
    penalty = ((slopes.flatten(1).norm(dim=1) - 1) ** 2).mean()
    penalty.backward()
    equal(penalty, expected)
    for a, b in zip(critic.parameters(), reference.parameters(), strict=True):
        equal(a.grad if a.grad is not None else fp.zeros_like(a), b.grad if b.grad is not None else torch.zeros_like(b))


def test_gradients_of_each_example():
    """As differentially private training needs them."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4))
    reference = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(27, 4)
    )
    twin(net, reference)
    images, labels = draw((6, 1, 8, 8)), np.random.default_rng(0).integers(0, 4, 6)

    def loss(p: Any, x: fp.Tensor, y: fp.Tensor) -> fp.Tensor:
        return F.cross_entropy(functional_call(net, p, (x[None],)), y[None])

    def torch_loss(p: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(torch.func.functional_call(reference, p, (x[None],)), y[None])

    parameters = {k: v.detach() for k, v in net.named_parameters()}
    found = fp.vmap(fp.grad(loss), (None, 0, 0))(parameters, fp.tensor(images), fp.tensor(labels))
    expected = torch.func.vmap(torch.func.grad(torch_loss), (None, 0, 0))(
        {k: v.detach() for k, v in reference.named_parameters()}, torch.from_numpy(images), torch.from_numpy(labels)
    )
    assert found.keys() == expected.keys()
    for name in found:
        equal(found[name], expected[name])


def test_hessian_vector_product():
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    reference = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    twin(net, reference)
    x, y = draw((4, 5)), np.array([0, 2, 1, 1])
    p = {k: v.detach() for k, v in net.named_parameters()}
    tp = {k: v.detach() for k, v in reference.named_parameters()}
    v = {k: fp.tensor(draw(t.shape, 9)) for k, t in p.items()}
    tv = {k: torch.from_numpy(draw(tuple(t.shape), 9)) for k, t in tp.items()}

    def gradient(q: Any) -> Any:
        return fp.grad(lambda q: F.cross_entropy(functional_call(net, q, fp.tensor(x)), fp.tensor(y)))(q)

    def torch_gradient(q: Any) -> Any:
        return torch.func.grad(
            lambda q: torch.nn.functional.cross_entropy(
                torch.func.functional_call(reference, q, torch.from_numpy(x)), torch.from_numpy(y)
            )
        )(q)

    _, found = fp.jvp(gradient, (p,), (v,))
    _, expected = torch.func.jvp(torch_gradient, (tp,), (tv,))
    for name in found:
        equal(found[name], expected[name])


def test_neural_differential_equation():
    """A fixed-step Runge-Kutta solution differentiated by its parameters, against JAX."""
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    w1, w2, start = draw((2, 6)), draw((6, 2), 1), draw((5, 2), 2)
    steps, h = 8, 0.1

    def solution(tanh: Any) -> Any:
        def field(p: Any, y: Any) -> Any:
            return tanh(y @ p[0]) @ p[1]

        def loss(p: Any, y: Any) -> Any:
            for _ in range(steps):
                a = field(p, y)
                b = field(p, y + h / 2 * a)
                c = field(p, y + h / 2 * b)
                d = field(p, y + h * c)
                y = y + h / 6 * (a + 2 * b + 2 * c + d)
            return (y * y).sum()

        return loss

    with jax.enable_x64(True):
        value, expected = jax.value_and_grad(solution(jnp.tanh), (0, 1))((jnp.asarray(w1), jnp.asarray(w2)), jnp.asarray(start))
        expected = [np.asarray(e) for e in jax.tree.leaves(expected)]
    found_value, found = fp.value_and_grad(solution(fp.tanh), (0, 1))((fp.tensor(w1), fp.tensor(w2)), fp.tensor(start))
    assert np.isclose(found_value.item(), float(value))
    for a, b in zip(fp.tree.leaves(found), expected, strict=True):
        assert np.allclose(a.numpy(), b, rtol=1e-9)


def test_ensemble_of_models():
    models = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval() for _ in range(3)]
    x = fp.randn(5, 3)
    parameters, buffers = stack_module_state(models)
    assert parameters["0.weight"].shape == (3, 4, 3) and parameters["0.weight"].requires_grad
    found = fp.vmap(lambda p, b, x: functional_call(models[0], (p, b), (x,)), (0, 0, None))(parameters, buffers, x)
    assert np.allclose(found.detach().numpy(), np.stack([m(x).detach().numpy() for m in models]), atol=1e-6)
    for m in models:
        m.train()
    own = [b.numpy() for b in models[0].buffers()]

    def trained(p: Any, b: Any, x: fp.Tensor) -> Any:
        b = dict(b)
        return functional_call(models[0], (p, b), (x,)), b

    _, after = fp.vmap(trained, (0, 0, None))(parameters, buffers, x)
    for m in models[1:]:
        m(x)
    for a, m in zip(after["1.running_mean"].numpy()[1:], models[1:], strict=True):
        assert np.allclose(a, m[1].running_mean.numpy(), atol=1e-6)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(own, models[0].buffers(), strict=True))


def test_functional_call():
    net = nn.Linear(2, 2)
    tied = nn.Sequential(net, net)
    x = fp.ones(1, 2)
    weight = fp.zeros(2, 2)
    assert np.allclose(functional_call(tied, {"0.weight": weight}, (x,)).detach().numpy(), net.bias.detach().numpy())
    assert not np.allclose(net.weight.detach().numpy(), 0)
    with pytest.raises(KeyError, match="Linear has no parameter or buffer named 'wait'"):
        functional_call(net, {"wait": weight}, (x,))
    with pytest.raises(RuntimeError, match=r"'weight' was given with shape \[3\], the module's has \[2, 2\]"):
        functional_call(net, {"weight": fp.zeros(3)}, (x,))
    with pytest.raises(RuntimeError, match="missing bias"):
        functional_call(net, {"weight": weight}, (x,), strict=True)
    assert isinstance(net.weight, nn.Parameter)
