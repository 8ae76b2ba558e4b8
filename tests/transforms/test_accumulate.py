"""Gradients of values used many times: pieces, overlapping pieces, products over steps; against PyTorch."""

import torch
from oracle import Comparison, both, draw

import firepot as fp
from firepot.compiler.simplify import structure


def test_pieces_of_one_value():
    comparison = Comparison()
    cases = {
        "unbind": lambda x: sum((i + 1) * (p * p) for i, p in enumerate(x.unbind(1))),
        "split with a rest": lambda x: sum((i + 1) * (p * p).sum() for i, p in enumerate(x.split(2, 0))),
        "gaps": lambda x: (x[1:2] * 3).sum() + (x[4:5] ** 3).sum(),
        "overlapping": lambda x: (x[0:3] ** 2).sum() + (x[2:5] ** 3).sum() + (x[1:4] * 5).sum() + (x[4:] * 7).sum(),
        "several axes": lambda x: (x[0:2] ** 2).sum() + (x[:, 1:3] ** 3).sum() + (x[2:, 2:] ** 2).sum(),
        "one piece": lambda x: (x[1:3] ** 2).sum(),
        "strides": lambda x: (x[::2] ** 2).sum() + (x[1::2] ** 3).sum(),
        "whole and pieces": lambda x: (x**2).sum() + sum((p**3).sum() for p in x.chunk(5)),
    }
    for name, case in cases.items():
        x, reference = both(draw((5, 4)), requires_grad=True)
        case(x).sum().backward()
        case(reference).sum().backward()
        comparison.add(name, x.grad, reference.grad)
    comparison.check()


def test_weights_used_at_every_step_take_one_product():
    weight, reference = both(draw((6, 6), 1), requires_grad=True)
    x, other = both(draw((4, 3, 6)))
    state, torch_state = fp.zeros(3, 6, dtype=fp.float64), torch.zeros(3, 6, dtype=torch.float64)
    for t in range(4):
        state, torch_state = fp.tanh(state @ weight + x[t]), torch.tanh(torch_state @ reference + other[t])
    state.sum().backward()
    torch_state.sum().backward()
    _, _, order = structure([weight.grad._node])
    products = [n for n in order if n.primitive.name == "contract" and n.shape == (1, 6, 6)]
    assert len(products) == 1
    comparison = Comparison()
    comparison.add("recurrent weight", weight.grad, reference.grad)
    comparison.check()


def test_second_derivatives_through_pieces():
    x, reference = both(draw((3, 4), 2), requires_grad=True)

    def penalty(x, grad):
        a, b, c = x.unbind(0)
        (g,) = grad((a * b * c + a**3).sum(), [x], create_graph=True)
        return (g**2).sum()

    penalty(x, fp.autograd.grad).backward()
    penalty(reference, torch.autograd.grad).backward()
    comparison = Comparison()
    comparison.add("gradient of a gradient", x.grad, reference.grad)
    comparison.check()
