from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import convolution
from benchmarks.convolution import Layer
from firepot.runtime import pool

LAYERS = (Layer(2, 16, 24, 9, 3, 2, 1, 1), Layer(2, 32, 16, 8, 1, 1, 0, 1), Layer(1, 16, 16, 7, 3, 1, 1, 16))


@pytest.mark.parametrize("mode", list(convolution.MODES))
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_the_kernel_is_called_on_the_layouts_it_is_told(layer: Layer, mode: str) -> None:
    before = pool.get_num_threads()
    buffer = convolution.firepot_call(layer, mode, 2)()
    pool.set_num_threads(before)
    random = np.random.default_rng(0)
    shapes = dict(zip("xwy", convolution._shapes(layer), strict=True))
    operands: dict[str, Any] = {}
    names = {"forward": "xwy", "input_grad": "ywx", "weight_grad": "xyw"}[mode]
    for name in names[:2]:  # filled in the order of memory: channels-last but for the weights
        raw = random.standard_normal(shapes[name], np.float32)
        n, c, h, w = shapes[name]
        operands[name] = torch.from_numpy(raw if name == "w" else raw.reshape(n, h, w, c).transpose(0, 3, 1, 2).copy())
    if mode == "forward":
        expected = torch.conv2d(operands["x"], operands["w"], None, layer.stride, layer.padding, 1, layer.groups)
    else:
        x, w = (operands.get(k, torch.empty(shapes[k])) for k in "xw")
        gradients = torch.ops.aten.convolution_backward(
            operands["y"], x, w, None, [layer.stride] * 2, [layer.padding] * 2, [1, 1], False, [0, 0], layer.groups,
            [mode == "input_grad", mode == "weight_grad", False],
        )  # fmt: skip
        expected = gradients[0 if mode == "input_grad" else 1]
    n, c, h, w_ = shapes[names[2]]
    if mode == "weight_grad":
        found = buffer.view(np.dtype(np.float32), (n, c, h, w_))
    else:
        found = buffer.view(np.dtype(np.float32), (n, h, w_, c)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-3)


def test_layers_of_resnet50() -> None:
    found = convolution.layers_of("resnet50")
    assert found[0] == (Layer(8, 3, 64, 224, 7, 2, 3, 1), 1)
    assert sum(count for _, count in found) == 53
    assert len(found) == len({layer for layer, _ in found})


def test_ratio_takes_the_better_layout() -> None:
    times = {"firepot": [[1.0]], "torch": [[3.0]], "torch-channels-last": [[2.0]]}
    assert convolution.ratio({"times": times}) == 2.0
    assert convolution.ratio({"times": {"torch": [[1.0]]}}) is None
