"""Convolutions: which kernel computes one.

    depthwise    every channel on its own
    winograd     3×3 without stride, by minimal filtering: a quarter of the multiplications
    direct       forward and input gradient of everything else
    pointwise    weight gradient of 1×1
    weight       weight gradient of everything else

Activations are channels-last where speed matters; every other layout is converted on a copy, and so are float16 and
bfloat16 where sums are direct, unless the processor has dot-product instructions for them (dots.py).
"""

from __future__ import annotations

import math
from typing import Any

from firepot.kernels.kernel import Kernel
from firepot.kernels.llvm import (
    amx,
    convolution_depthwise,
    convolution_pointwise,
    convolution_weight,
    convolution_winograd,
    dots,
)
from firepot.kernels.llvm.convolution_depthwise import Depthwise
from firepot.kernels.llvm.convolution_direct import Direct
from firepot.kernels.llvm.convolution_form import Convolution
from firepot.kernels.llvm.convolution_pointwise import PointwiseWeight
from firepot.kernels.llvm.convolution_weight import WeightGradient
from firepot.kernels.llvm.convolution_winograd import Winograd
from firepot.kernels.llvm.convolution_winograd_weight import WinogradWeight
from firepot.kernels.llvm.epilogue import Epilogue, NestEpilogue

__all__ = ["Convolution", "lower", "result_lane"]

_SERIAL = 1 << 15  # products below which waking the other threads costs more than it saves
# Operations of direct sums in 1e-9 s on one core; gradients of weights are handed over one by one.
_RATE, _DOT_RATE, _DOT_WEIGHT_RATE, _TILE_RATE = 105, 200, 150, 500
_LABELS = {"forward": "convolve", "input_grad": "convolve_input_grad", "weight_grad": "convolve_weight_grad"}


def lower(c: Convolution, epilogue: Epilogue, processor: Any) -> Kernel:
    """The kernel of a convolution whose results the epilogue takes."""
    plan = _plan(c, processor)
    following = epilogue if isinstance(epilogue, NestEpilogue) else None
    x = c.batch * c.in_channels * math.prod(c.input_size)
    y = c.batch * c.out_channels * math.prod(c.output_size)
    w = c.out_channels * (c.in_channels // c.groups) * math.prod(c.kernel)
    result = {"forward": y, "input_grad": x, "weight_grad": w}[c.mode]
    moved = c.dtype.size * (x + y + w - result) + (following.bytes if following else c.dtype.size * result)
    kernel = "×".join(map(str, c.kernel[1:]))
    folds = plan.folds(epilogue) if isinstance(plan, (Depthwise, Direct, Winograd)) and c.mode != "weight_grad" else None
    return Kernel(
        key=f"convolution {processor.vector_bytes} {processor.vector_registers} {plan} {epilogue.key}",
        generate=lambda: plan.generate(epilogue),
        phases=(*plan.phases, "fold") if folds else plan.phases,
        label=f"{_LABELS[c.mode]} {c.in_channels}→{c.out_channels} {kernel} @{c.output_size[2]}"
        + (f" + {following.label}" if following else ""),
        workspace=plan.workspace_bytes + (folds.bytes if folds else 0),
        scratch=plan.scratch_bytes + (plan.tile_bytes if isinstance(plan, Direct) and (epilogue.large or plan.blocking) else 0),
        prepares=(1, f"filter of {plan}") if isinstance(plan, (Direct, Winograd)) and plan.weights_alone else None,
        parallel=c.products >= _SERIAL,
        explicit=True,
        flops=2 * c.products + (following.flops if following else 0),
        bytes=moved,
        rate=_rate(plan),
        aliases=following.aliases if following else frozenset(),
    )


def result_lane(c: Convolution) -> int:
    """The coordinate of the result that the lanes which the epilogue is given run along."""
    if c.mode != "weight_grad" or convolution_pointwise.applies(c):
        return 1
    return 0


_Plan = Depthwise | Direct | PointwiseWeight | WeightGradient | Winograd | WinogradWeight


def _rate(plan: _Plan) -> int:
    """Products in the time of one of float32."""
    if isinstance(plan, (Depthwise, Winograd, WinogradWeight)):
        return 1
    tiled = (isinstance(plan, Direct) and plan.blocking) or (isinstance(plan, PointwiseWeight) and plan.tiled)
    return amx.RATE if tiled else plan.numbers


def _plan(c: Convolution, processor: Any) -> _Plan:
    lanes = processor.vector_bytes // c.accumulate.size
    if convolution_depthwise.applies(c):
        return Depthwise.of(c, lanes)
    numbers = _numbers(c, processor)
    rate = _RATE if numbers == 1 else _DOT_WEIGHT_RATE if c.mode == "weight_grad" else _DOT_RATE
    if numbers == amx.NUMBERS and processor.bf16_tile and c.mode != "weight_grad":
        rate = _TILE_RATE
    if convolution_winograd.applies(c, rate):
        if c.mode == "weight_grad":
            return WinogradWeight.of(c, lanes, processor.vector_registers)
        return Winograd.of(c, lanes, processor.vector_registers, processor.l2)
    if convolution_pointwise.applies(c):
        # Longer lines waste less where a word of positions must not reach from one to the next.
        c = convolution_weight.flattened(c) if numbers > 1 else c
        return PointwiseWeight.of(c, lanes, processor.vector_registers, numbers, processor.bf16_tile)
    if c.mode == "weight_grad":
        return WeightGradient.of(convolution_weight.flattened(c), lanes, processor.vector_registers, numbers)
    return Direct.of(c, lanes, processor.vector_registers, numbers, processor.l2, processor.bf16_tile)


def _numbers(c: Convolution, processor: Any) -> int:
    """How many numbers dot-product instructions take at once.

    Words of channels must not reach from group to group, and those of positions are made of channels-last activations.
    """
    numbers = dots.numbers_of_a_word(c.dtype, c.accumulate, processor)
    if c.mode == "weight_grad":
        if processor.bf16_tile and numbers == amx.NUMBERS and not convolution_pointwise.applies(c):
            return 1  # processors with tiles take as long for a dot product of pairs as for two multiply-adds
        return numbers if c.first_strides[1] == c.second_strides[1] == 1 else 1
    if numbers == 4 and c.mode != "forward":
        return 1
    return numbers if c.groups == 1 or c.source_channels // c.groups % numbers == 0 else 1
