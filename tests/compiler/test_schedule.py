"""The order of kernels: gradients are used up as they come, so that less memory is held at a time."""

import firepot as fp
from firepot.compiler import simplify
from firepot.compiler.program import Passes, build


def arena(results: list[fp.Tensor], passes: Passes) -> int:
    nodes = [r._node for r in results]
    _, leaves, order = simplify.structure(nodes)
    placeholders, copies = simplify.simplify(order, leaves, nodes)
    return build(placeholders, copies, passes=passes).arena


def test_a_deep_network_holds_its_activations_but_not_its_gradients():
    depth, size = 12, 64 * 32 * 4
    weights = [fp.ones(32, 32, requires_grad=True) for _ in range(depth)]
    x = fp.ones(64, 32)
    fp.eval(weights, x)
    for w in weights:
        x = fp.tanh(x @ w)
    found = fp.autograd.grad(x.sum(), weights)
    assert arena(found, Passes(schedule=False)) > 1.7 * depth * size  # every activation and every gradient
    assert arena(found, Passes()) < (depth + 4) * size


def test_updates_in_place_still_are():
    w = fp.ones(32, 32)
    fp.eval(w)

    @fp.jit
    def step(x: fp.Tensor) -> fp.Tensor:
        y = (x @ w) @ w
        w.copy_(w - 0.1 * (x.T @ y))
        return y.sum()

    step(fp.ones(32, 32))
    (traces,) = step._traces.values()
    assert len(traces[0].executor.program.donated) == 1
