"""Every layer against PyTorch: results, and gradients of inputs and parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import firepot as fp
from firepot import nn
from firepot.compiler.statistics import log
from firepot.nn import functional as F


def flat(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for part in value if part is not None for leaf in flat(part)]
    return [value]


def compare(make: Any, *shapes: tuple[int, ...]) -> None:
    """Build the layer in both libraries with the same weights; compare Σ result² and what it depends on."""
    random = np.random.default_rng(0)
    torch.set_num_threads(1)
    ours, theirs = make(nn), make(torch.nn)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    arrays = [random.standard_normal(s).astype(np.float32) for s in shapes]
    a = [fp.tensor(x, requires_grad=True) for x in arrays]
    b = [torch.tensor(x, requires_grad=True) for x in arrays]
    found, expected = flat(ours(*a)), flat(theirs(*b))
    assert len(found) == len(expected)
    sum((r * r).sum() for r in found).backward()  # type: ignore[union-attr]
    sum((r * r).sum() for r in expected).backward()  # type: ignore[union-attr]
    for r, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(r.detach().numpy(), e.detach().numpy(), rtol=1e-4, atol=1e-4)
    for r, e in zip([*a, *ours.parameters()], [*b, *theirs.parameters()], strict=True):
        assert (r.grad is None) == (e.grad is None)
        if e.grad is not None:
            np.testing.assert_allclose(r.grad.numpy(), e.grad.numpy(), rtol=1e-3, atol=1e-3)


CASES: list[Any] = [
    ("linear", lambda n: n.Linear(5, 3), (4, 5)),
    ("conv1d", lambda n: n.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    ("conv2dsame", lambda n: n.Conv2d(4, 6, 4, padding="same"), (2, 4, 9, 8)),
    ("conv2drefl", lambda n: n.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 9, 8)),
    ("conv2dcirc", lambda n: n.Conv2d(4, 6, 3, padding=1, padding_mode="circular", dilation=1), (2, 4, 9, 8)),
    ("conv3d", lambda n: n.Conv3d(2, 3, 3, padding=1), (2, 2, 5, 4, 6)),
    ("convT2d", lambda n: n.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (2, 4, 5, 6)),
    ("bn1", lambda n: n.BatchNorm1d(4), (8, 4)),
    ("bn2eval", lambda n: n.BatchNorm2d(4).eval(), (3, 4, 5, 5)),
    ("ln", lambda n: n.LayerNorm((4, 5)), (3, 4, 5)),
    ("gn", lambda n: n.GroupNorm(2, 4), (3, 4, 5, 5)),
    ("rms", lambda n: n.RMSNorm(5), (3, 5)),
    ("in", lambda n: n.InstanceNorm2d(4, affine=True), (3, 4, 5, 5)),
    ("lrn", lambda n: n.LocalResponseNorm(3), (3, 7, 5, 5)),
    ("max", lambda n: n.MaxPool2d(3, 2, 1), (2, 3, 9, 9)),
    ("maxc", lambda n: n.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 3, 8, 8)),
    ("avg", lambda n: n.AvgPool2d(3, 2, 1, count_include_pad=False), (2, 3, 9, 9)),
    ("avgc", lambda n: n.AvgPool2d(3, 2, 1, ceil_mode=True), (2, 3, 8, 8)),
    ("aap", lambda n: n.AdaptiveAvgPool2d((3, 5)), (2, 3, 7, 10)),
    ("amp", lambda n: n.AdaptiveMaxPool2d((3, 5)), (2, 3, 7, 10)),
    ("lp", lambda n: n.LPPool2d(2, 2), (2, 3, 8, 8)),
    ("up1", lambda n: n.Upsample(scale_factor=2), (2, 3, 4, 5)),
    ("up2", lambda n: n.Upsample(scale_factor=1.7, mode="bilinear"), (2, 3, 4, 5)),
    ("up3", lambda n: n.Upsample(size=(7, 9), mode="bicubic", align_corners=True), (2, 3, 4, 5)),
    ("up4", lambda n: n.Upsample(size=(7, 9), mode="nearest-exact"), (2, 3, 4, 5)),
    ("rnn", lambda n: n.RNN(4, 5, 2, nonlinearity="relu"), (3, 2, 4)),
    ("lstm", lambda n: n.LSTM(4, 5, 2, bidirectional=True, batch_first=True), (2, 6, 4)),
    ("gru", lambda n: n.GRU(4, 5), (3, 4)),
    ("lstmcell", lambda n: n.LSTMCell(4, 5), (3, 4)),
    ("grucell", lambda n: n.GRUCell(4, 5), (3, 4)),
    ("tel", lambda n: n.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), (2, 5, 8)),
    ("tel2", lambda n: n.TransformerEncoderLayer(8, 2, 16, dropout=0.0, norm_first=True, activation="gelu"), (5, 2, 8)),
    ("te", lambda n: n.TransformerEncoder(n.TransformerEncoderLayer(8, 2, 16, dropout=0.0), 2), (5, 2, 8)),
    ("pixsh", lambda n: n.PixelShuffle(2), (2, 8, 3, 3)),
    ("pixun", lambda n: n.PixelUnshuffle(2), (2, 2, 4, 6)),
    ("unfold", lambda n: n.Unfold(3, 1, 1, 2), (2, 3, 7, 7)),
    ("fold", lambda n: n.Fold((7, 7), 3, 1, 1, 2), (2, 27, 16)),
    ("prelu", lambda n: n.PReLU(3), (2, 3, 4)),
    ("refl", lambda n: n.ReflectionPad2d((1, 2, 0, 1)), (2, 3, 4, 5)),
    ("repl", lambda n: n.ReplicationPad2d((1, 2, 0, 1)), (2, 3, 4, 5)),
]
for a in [
    "ReLU",
    "ReLU6",
    "Hardtanh",
    "LeakyReLU",
    "ELU",
    "SELU",
    "CELU",
    "GELU",
    "SiLU",
    "Mish",
    "Sigmoid",
    "Tanh",
    "LogSigmoid",
    "Softplus",
    "Softsign",
    "Softshrink",
    "Hardshrink",
    "Tanhshrink",
    "Hardsigmoid",
    "Hardswish",
]:
    CASES.append((a, lambda n, a=a: getattr(n, a)(), (40,)))
CASES += [
    ("gelut", lambda n: n.GELU("tanh"), (40,)),
    ("thr", lambda n: n.Threshold(0.1, 2.0), (40,)),
    ("glu", lambda n: n.GLU(1), (3, 4)),
    ("sm", lambda n: n.Softmax(1), (3, 4)),
    ("lsm", lambda n: n.LogSoftmax(0), (3, 4)),
    ("smin", lambda n: n.Softmin(1), (3, 4)),
]
CASES += [
    ("attention", lambda n: n.MultiheadAttention(8, 2), (5, 2, 8), (7, 2, 8), (7, 2, 8)),
    (
        "attention, other widths",
        lambda n: n.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True),
        (2, 5, 8),
        (2, 7, 6),
        (2, 7, 4),
    ),
    ("long_gru", lambda n: n.GRU(3, 4, bidirectional=True), (66, 2, 3)),  # a loop
    ("long_lstm", lambda n: n.LSTM(3, 4, proj_size=2), (70, 2, 3)),
    ("bilinear", lambda n: n.Bilinear(3, 4, 5), (2, 3), (2, 4)),
    ("decoder", lambda n: n.TransformerDecoderLayer(8, 2, 16, dropout=0.0), (5, 2, 8), (4, 2, 8)),
]


@pytest.mark.filterwarnings("ignore")  # PyTorch's own advice on some of the layers
@pytest.mark.parametrize("case", CASES, ids=lambda c: c[0])
def test_layer(case: Any) -> None:
    _, make, *shapes = case
    compare(make, *shapes)


@pytest.mark.parametrize(
    "steps, inputs, targets, options",
    [
        (12, [12, 10, 9], [4, 3, 2], {}),
        (60, [60, 7, 1], [4, 4, 1], {"reduction": "sum"}),
        (1, [1, 1, 1], [1, 0, 1], {"reduction": "sum"}),
        (5, [5, 4, 3], [4, 3, 4], {"reduction": "sum", "zero_infinity": True, "blank": 5}),  # the last is impossible
    ],
    ids=str,
)
def test_ctc_loss(steps: int, inputs: list[int], targets: list[int], options: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((steps, 3, 6))
    y = random.integers(1, 5, (3, 4))
    a, b = fp.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    kernels = log.kernels
    found = nn.functional.ctc_loss(nn.functional.log_softmax(a, 2), fp.tensor(y), inputs, targets, **options)
    expected = torch.nn.functional.ctc_loss(
        torch.nn.functional.log_softmax(b, 2), torch.tensor(y), inputs, targets, **options
    )
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-9)
    assert log.kernels - kernels < 60  # however many steps there are


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.1},
        {"ignore_index": 2},
        {"reduction": "sum"},
        {"reduction": "none"},
        {"weight": [0.5, 1.0, 2.0, 0.1]},
        {"weight": [0.5, 1.0, 2.0, 0.1], "label_smoothing": 0.2, "ignore_index": 1},
    ],
    ids=str,
)
def test_cross_entropy(options: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((6, 4, 3)).astype(np.float32), random.integers(0, 4, (6, 3))
    weight = options.get("weight")
    a, b = fp.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    rest = {k: v for k, v in options.items() if k != "weight"}
    ours = {**rest, "weight": fp.tensor(weight)} if weight else rest
    theirs = {**rest, "weight": torch.tensor(weight)} if weight else rest
    found = nn.functional.cross_entropy(a, fp.tensor(y), **ours)
    expected = torch.nn.functional.cross_entropy(b, torch.tensor(y), **theirs)
    found.sum().backward()
    expected.sum().backward()
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-5)


def test_a_class_out_of_range_is_an_error_at_the_users_line() -> None:
    loss = nn.functional.cross_entropy(fp.zeros(2, 3), fp.tensor([0, 3]))
    with pytest.raises(IndexError, match=r"target 3 is out of bounds for 3 classes.*test_layers\.py"):
        loss.item()


def test_state_dict_that_does_not_fit() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        nn.Linear(3, 2).load_state_dict(nn.Linear(4, 2).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        nn.Linear(3, 2).load_state_dict({})


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(RuntimeError, match=r"linear: input \[2, 4\] and weight \[2, 3\]"):
        nn.Linear(3, 2)(fp.zeros(2, 4))


def test_there_is_one_device() -> None:
    assert nn.Linear(3, 2).to("cpu", fp.float64).weight.dtype is fp.float64
    for call in (lambda: nn.Linear(3, 2).to("cuda"), lambda: nn.Linear(3, 2).to(device="cuda:0")):
        with pytest.raises(RuntimeError, match="'cpu' only, not on 'cuda"):
            call()


@pytest.mark.parametrize("name", ["smooth_l1_loss", "huber_loss"])
def test_losses_of_an_infinite_distance_have_a_gradient(name):
    """Found by a random program: the branch that is not taken squared the distance."""
    values = [0.3, -0.4, 5.0, math.inf, 1.0]
    x, rx = fp.tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    getattr(F, name)(x, fp.zeros(5), reduction="sum").backward()
    getattr(torch.nn.functional, name)(rx, torch.zeros(5), reduction="sum").backward()
    assert x.grad.tolist() == rx.grad.tolist()
