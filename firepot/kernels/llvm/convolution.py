"""Convolutions, channels-last: direct sums over kernel taps in the register tile.

Forward and input gradient are one algorithm. A *sweep* is a regular grid of result positions with a list of taps, each
an offset in the other activation and a slice of the weights; forward is one sweep, the input gradient one for each
residue of the stride, so that no product with an inserted zero is computed. Rows of the tile are neighbouring result
positions, columns are result channels. The weight gradient keeps a tile of (input channels × output channels) of one
tap in registers and runs over positions, a cache-sized block of them at a time.

Activations are read in place where their channels are contiguous and nothing lies outside; else they are copied once
into a zero-bordered buffer, which also converts half precision and other layouts.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from firepot.graph.dtypes import DType
from firepot.kernels.kernel import Kernel
from firepot.kernels.llvm.builder import Builder, Module, Value
from firepot.kernels.llvm.epilogue import Epilogue
from firepot.kernels.llvm.expression import load_element, memory_type, register_type
from firepot.kernels.llvm.matmul import workspace
from firepot.kernels.llvm.tile import Accumulators, TileShape, choose_tile, lane_mask

Triple = tuple[int, int, int]
Five = tuple[int, int, int, int, int]

_SERIAL = 1 << 15
_BLOCK_BYTES = 384 << 10  # of both activations that the weight gradient goes over with all its tiles


@dataclass(frozen=True)
class Convolution:
    """One mode of graph.primitives.contract.Convolve, with three spatial dimensions.

    Operands: 0 and 1 are the node's inputs with element strides by logical dimension (N, C, D, H, W or O, C/groups,
    kernel); then those of the epilogue, whose index is (N, C, D, H, W) with lanes along C, or (O, C/groups, kernel)
    with lanes along O; the workspace last.
    """

    mode: str
    batch: int
    groups: int
    in_channels: int
    out_channels: int
    input_size: Triple
    kernel: Triple
    output_size: Triple
    stride: Triple
    dilation: Triple
    padding: Triple
    first_strides: Five
    second_strides: Five
    result_strides: Five
    dtype: DType
    accumulate: DType


@dataclass(frozen=True)
class _Sweep:
    """Result positions start + step·q for q in count, reading position q·stride + offset for each (offset, tap)."""

    start: Triple
    step: Triple
    count: Triple
    stride: Triple
    taps: tuple[tuple[Triple, Triple], ...]


@dataclass(frozen=True)
class _Source:
    """An activation as the tile reads it: channels contiguous, `origin` its position (0, 0, 0) in elements."""

    channels: int
    size: Triple
    strides: tuple[int, int, int, int]  # N, D, H, W
    origin: int
    low: Triple  # border widths of the copy
    padded: Triple
    copied: bool
    bytes: int


def _sweeps(c: Convolution) -> list[_Sweep]:
    if c.mode != "input_grad":
        taps = tuple(
            ((z * c.dilation[0] - c.padding[0], y * c.dilation[1] - c.padding[1], x * c.dilation[2] - c.padding[2]),
             (z, y, x))
            for z, y, x in itertools.product(*map(range, c.kernel))
        )  # fmt: skip
        return [_Sweep((0, 0, 0), (1, 1, 1), c.output_size, c.stride, taps)]
    result = []
    for phase in itertools.product(*map(range, c.stride)):
        # s = phase + stride·q receives g at t = (s + padding − k·dilation) / stride where that divides.
        along: list[list[tuple[int, int]]] = []
        for d in range(3):
            options = []
            for k in range(c.kernel[d]):
                away = phase[d] + c.padding[d] - k * c.dilation[d]
                if away % c.stride[d] == 0:
                    options.append((away // c.stride[d], k))
            along.append(options)
        taps = tuple(
            ((z[0], y[0], x[0]), (z[1], y[1], x[1])) for z, y, x in itertools.product(*along)
        )
        count = tuple(max(0, -(-(c.input_size[d] - phase[d]) // c.stride[d])) for d in range(3))
        if 0 not in count:
            result.append(_Sweep(phase, c.stride, count, (1, 1, 1), taps))  # type: ignore[arg-type]
    return result


def _source(
    c: Convolution, sweeps: list[_Sweep], channels: int, size: Triple, strides: Five, rows: int, element: DType
) -> _Source:
    """How the sweeps read an activation of this size: in place, or from a bordered copy."""
    low, high = [0, 0, 0], [0, 0, 0]
    for d in range(3):
        for sweep in sweeps:
            for offset, _ in sweep.taps:
                low[d] = max(low[d], -offset[d])
                last = (sweep.count[d] - 1) * sweep.stride[d] + offset[d]
                high[d] = max(high[d], last - size[d] + 1)
    in_place = (
        not any(low) and not any(high) and (strides[1] == 1 or channels == 1) and c.dtype is c.accumulate
        and all(s.count[2] % rows == 0 for s in sweeps)
    )  # fmt: skip
    if in_place:
        return _Source(channels, size, (strides[0], *strides[2:]), 0, (0, 0, 0), size, False, 0)
    padded = tuple(size[d] + low[d] + high[d] for d in range(3))
    w = channels
    h = padded[2] * w
    z = padded[1] * h
    n = padded[0] * z
    origin = low[0] * z + low[1] * h + low[2] * w
    # The last tile of a row may read (never use) positions behind the row's end.
    slack = rows * max(s.stride[2] for s in sweeps) * channels
    total = (c.batch * n + slack) * element.size
    return _Source(
        channels, size, (n, z, h, w), origin, (low[0], low[1], low[2]), (padded[0], padded[1], padded[2]), True,
        -(-total // 64) * 64,
    )  # fmt: skip


def _flattened(c: Convolution) -> Convolution:
    """A 1×1 convolution without stride or border as one long row of positions, where memory allows it."""
    if c.mode == "weight_grad":
        activations = (c.first_strides, c.second_strides)
    elif c.mode == "forward":
        activations = (c.first_strides, c.result_strides)
    else:
        activations = (c.first_strides, c.result_strides)
    plain = c.kernel == (1, 1, 1) and c.stride == (1, 1, 1) and c.padding == (0, 0, 0)
    if not plain:
        return c
    d, h, w = c.input_size
    for n_, _, z_, y_, x_ in activations:
        if (y_ != x_ * w and h > 1) or (z_ != x_ * w * h and d > 1) or (n_ != x_ * w * h * d and c.batch > 1):
            return c
    from dataclasses import replace

    size = (1, 1, c.batch * d * h * w)

    def flat(s: Five) -> Five:
        return (0, s[1], 0, 0, s[4])

    kept = {"first_strides": flat(c.first_strides)}
    if c.mode == "weight_grad":
        kept["second_strides"] = flat(c.second_strides)
    return replace(c, batch=1, input_size=size, output_size=size, **kept)  # type: ignore[arg-type]


def lower(c: Convolution, epilogue: Epilogue, processor: Any) -> Kernel:
    """The kernel of a convolution."""
    lanes = processor.vector_bytes // c.accumulate.size
    work = c.batch * math.prod(c.output_size) * c.out_channels * (c.in_channels // c.groups) * math.prod(c.kernel)
    if c.mode == "weight_grad":
        flat = _flattened(c)
        plan: _Plan | _GradPlan = _GradPlan.of(flat, lanes, processor.vector_registers)
        phases = ("prepare", "accumulate")
    else:
        flat = c
        plan = _Plan.of(flat, lanes, processor.vector_registers)
        phases = ("prepare", "multiply")
    sizes = (
        c.batch * c.in_channels * math.prod(c.input_size) + c.batch * c.out_channels * math.prod(c.output_size)
        + c.out_channels * c.in_channels // c.groups * math.prod(c.kernel)
    )  # fmt: skip
    names = {"forward": "convolve", "input_grad": "convolve_input_grad", "weight_grad": "convolve_weight_grad"}
    return Kernel(
        key=f"convolution {processor.vector_bytes} {c} {epilogue.key}",
        generate=lambda: plan.generate(epilogue),
        phases=phases,
        label=f"{names[c.mode]} {c.in_channels}→{c.out_channels} {'×'.join(map(str, c.kernel[1:]))} @{c.output_size[2]}",
        workspace=plan.workspace_bytes,
        parallel=work >= _SERIAL,
        flops=2 * work,
        bytes=c.dtype.size * sizes,
    )


# -- forward and input gradient --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    c: Convolution
    tile: TileShape
    sweeps: list[_Sweep]
    source: _Source
    inner: int  # channels summed over, in one group
    outer: int  # result channels of one group

    @staticmethod
    def of(c: Convolution, lanes: int, registers: int) -> _Plan:
        sweeps = _sweeps(c)
        if c.mode == "forward":
            inner, outer, size = c.in_channels // c.groups, c.out_channels // c.groups, c.input_size
        else:
            inner, outer, size = c.out_channels // c.groups, c.in_channels // c.groups, c.output_size
        width = max((s.count[2] for s in sweeps), default=1)
        tile = choose_tile(width, outer, lanes, registers)
        source = _source(c, sweeps, inner * c.groups, size, c.first_strides, tile.rows, c.accumulate)
        return _Plan(c, tile, sweeps, source, inner, outer)

    @property
    def panels(self) -> int:
        return math.ceil(self.outer / self.tile.columns)

    @property
    def weight_panel(self) -> int:
        """Elements of packed weights of one panel: [tap][inner channel][columns], every sweep's taps in turn."""
        return sum(len(s.taps) for s in self.sweeps) * self.inner * self.tile.columns

    @property
    def weight_bytes(self) -> int:
        return -(-self.c.groups * self.panels * self.weight_panel * self.c.accumulate.size // 64) * 64

    @property
    def workspace_bytes(self) -> int:
        return self.weight_bytes + self.source.bytes + 64

    def generate(self, epilogue: Epilogue) -> str:
        module = Module("convolution", workspace_operand=2 + epilogue.operands)
        with module.kernel("prepare") as b:
            _pack_weights(b, self)
            if self.source.copied:
                _copy(b, self.c, b.operand(0), self.c.first_strides, self.source, b.offset(workspace(b), self.weight_bytes))
        with module.kernel("multiply") as b:
            before = 0
            for number, sweep in enumerate(self.sweeps):
                _sweep(b, self, sweep, number, before, epilogue)
                before += len(sweep.taps)
        return str(module)


def _pack_weights(b: Builder, plan: _Plan) -> None:
    """Weights into [group][panel][tap][inner channel][columns], zeros beyond the last result channel."""
    c, tile = plan.c, plan.tile
    type, element = register_type(c.accumulate), memory_type(c.dtype)
    o_stride, i_stride, *k_strides = c.second_strides
    # w is (O, C/groups, kernel): the result channel is O forward, C/groups backward.
    if c.mode == "forward":
        outer_stride, inner_stride, group_stride = o_stride, i_stride, o_stride * plan.outer
    else:
        outer_stride, inner_stride, group_stride = i_stride, o_stride, o_stride * plan.inner
    taps = [tap for sweep in plan.sweeps for _, tap in sweep.taps]
    if not taps:
        return
    offsets = [sum(k * s for k, s in zip(tap, k_strides, strict=True)) for tap in taps]
    table = b.module.constant_array("weight_taps", "i64", offsets)
    source, target = b.operand(1), workspace(b)
    start, stop = b.share(c.groups * plan.panels * plan.inner)
    with b.loop(start, stop) as task:
        channel, rest = b.urem(task, plan.inner), b.udiv(task, plan.inner)
        panel, group = b.urem(rest, plan.panels), b.udiv(rest, plan.panels)
        first = b.mul(panel, tile.columns)
        origin = b.add(b.mul(group, group_stride), b.mul(channel, inner_stride))
        place = b.add(b.mul(rest, plan.weight_panel), b.mul(channel, tile.columns))
        with b.loop(0, tile.columns) as i:
            o = b.add(first, i)
            exists = b.compare("slt", o, plan.outer)
            line = b.add(origin, b.mul(b.select(exists, o, b.index(0)), outer_stride))
            with b.loop(0, len(taps)) as t:
                offset = b.load(b.element(table, "i64", t), "i64")
                value = load_element(b, b.element(source, element, b.add(line, offset)), c.dtype, 1, None)
                value = b.select(exists, value, b.constant(0, type))
                where = b.add(b.add(place, b.mul(t, plan.inner * tile.columns)), i)
                b.store(value, b.element(target, type, where))


def _copy(b: Builder, c: Convolution, source: Value, strides: Five, s: _Source, target: Value) -> None:
    """An activation into its bordered, channels-last copy; threads take rows."""
    type, element = register_type(c.accumulate), memory_type(c.dtype)
    lanes = 16 if strides[1] == 1 else 1
    depth, height, width = s.padded
    start, stop = b.share(c.batch * depth * height)
    zero = b.constant(0, type)
    wide = b.splat(zero, 16)
    with b.loop(start, stop) as row:
        y, rest = b.urem(row, height), b.udiv(row, height)
        z, n = b.urem(rest, depth), b.udiv(rest, depth)
        line = b.element(target, type, b.mul(row, width * s.channels))
        sy, sz = b.sub(y, s.low[1]), b.sub(z, s.low[0])
        inside = b.and_(b.compare("ult", sy, s.size[1]), b.compare("ult", sz, s.size[0]))

        def clear(first: Value, count: Value, line: Value = line) -> None:
            whole = b.udiv(count, 16)
            with b.loop(0, whole) as i:
                b.store(wide, b.element(line, type, b.add(first, b.mul(i, 16))))
            with b.loop(b.mul(whole, 16), count) as i:
                b.store(zero, b.element(line, type, b.add(first, i)))

        with b.when(b.xor(inside, b.constant(True, "i1"))):
            clear(b.index(0), b.index(width * s.channels))
        with b.when(inside):
            if s.low[2]:
                clear(b.index(0), b.index(s.low[2] * s.channels))
            after = s.low[2] + s.size[2]
            if width > after:
                clear(b.index(after * s.channels), b.index((width - after) * s.channels))
            origin = b.add(b.add(b.mul(n, strides[0]), b.mul(sz, strides[2])), b.mul(sy, strides[3]))
            inner = b.element(line, type, s.low[2] * s.channels)
            if strides[1] == 1 and (strides[4] == s.channels or s.size[2] == 1):
                _copy_line(b, c, source, origin, inner, s.size[2] * s.channels)
            elif lanes > 1 and s.channels >= 16:
                with b.loop(0, s.size[2]) as x:
                    there = b.element(inner, type, b.mul(x, s.channels))
                    _copy_line(b, c, source, b.add(origin, b.mul(x, strides[4])), there, s.channels)
            else:
                with b.loop(0, s.size[2]) as x, b.loop(0, s.channels) as ch:
                    place = b.add(b.add(origin, b.mul(x, strides[4])), b.mul(ch, strides[1]))
                    value = load_element(b, b.element(source, element, place), c.dtype, 1, None)
                    b.store(value, b.element(inner, type, b.add(b.mul(x, s.channels), ch)))


def _copy_line(b: Builder, c: Convolution, source: Value, origin: Value, target: Value, count: int) -> None:
    type, element = register_type(c.accumulate), memory_type(c.dtype)
    whole = count // 16 * 16
    if whole:
        with b.loop(0, whole, 16) as i:
            value = load_element(b, b.element(source, element, b.add(origin, i)), c.dtype, 16, None)
            b.store(value, b.element(target, type, i))
    if count > whole:
        with b.loop(whole, count) as i:
            value = load_element(b, b.element(source, element, b.add(origin, i)), c.dtype, 1, None)
            b.store(value, b.element(target, type, i))


def _sweep(b: Builder, plan: _Plan, sweep: _Sweep, number: int, taps_before: int, epilogue: Epilogue) -> None:
    """This thread's tiles of one sweep: [group][panel][n][d][h][tile of the row], weights staying in the cache."""
    c, tile, s = plan.c, plan.tile, plan.source
    type = register_type(c.accumulate)
    base = workspace(b)
    activation = b.offset(base, plan.weight_bytes) if s.copied else b.operand(0)
    n_stride, d_stride, h_stride, w_stride = s.strides
    depth, height, width = sweep.count
    pieces = math.ceil(width / tile.rows)
    offsets = [
        s.origin + o[0] * d_stride + o[1] * h_stride + o[2] * w_stride for o, _ in sweep.taps
    ]
    table = b.module.constant_array(f"taps{number}", "i64", offsets or [0])
    accumulators = Accumulators(b, tile, c.accumulate)
    start, stop = b.share(c.groups * plan.panels * c.batch * depth * height * pieces)
    with b.loop(start, stop) as task:
        piece, rest = b.urem(task, pieces), b.udiv(task, pieces)
        y, rest = b.urem(rest, height), b.udiv(rest, height)
        z, rest = b.urem(rest, depth), b.udiv(rest, depth)
        n, rest = b.urem(rest, c.batch), b.udiv(rest, c.batch)
        panel, group = b.urem(rest, plan.panels), b.udiv(rest, plan.panels)
        first = b.mul(piece, tile.rows)
        origin = b.mul(n, n_stride)
        for q, stride, step in ((z, d_stride, 0), (y, h_stride, 1), (first, w_stride, 2)):
            origin = b.add(origin, b.mul(q, stride * sweep.stride[step]))
        origin = b.add(origin, b.mul(group, plan.inner))
        weights = b.element(base, type, b.add(b.mul(rest, plan.weight_panel), taps_before * plan.inner * tile.columns))
        accumulators.clear(b)
        with b.loop(0, len(sweep.taps)) as tap:
            offset = b.load(b.element(table, "i64", tap), "i64")
            pixels = b.element(activation, type, b.add(origin, offset))
            panel_of_tap = b.element(weights, type, b.mul(tap, plan.inner * tile.columns))
            with b.loop(0, plan.inner, unroll=4) as ch:
                line = b.element(panel_of_tap, type, b.mul(ch, tile.columns))
                vectors = [
                    b.load(b.element(line, type, v * tile.lanes), accumulators.type) for v in range(tile.vectors)
                ]
                numbers = b.element(pixels, type, ch)
                step = sweep.stride[2] * w_stride
                accumulators.step(
                    b, [lambda r=r, p=numbers: b.load(b.element(p, type, r * step), type) for r in range(tile.rows)],
                    vectors,
                )  # fmt: skip
        place = (
            n, group, b.add(b.mul(z, sweep.step[0]), sweep.start[0]), b.add(b.mul(y, sweep.step[1]), sweep.start[1]),
        )  # fmt: skip
        _finish(b, plan, sweep, epilogue, accumulators, place, panel, first)


def _finish(
    b: Builder, plan: _Plan, sweep: _Sweep, epilogue: Epilogue, accumulators: Accumulators,
    place: tuple[Value, Value, Value, Value], panel: Value, first: Value,
) -> None:  # fmt: skip
    tile = plan.tile
    n, group, z, y = place
    width = sweep.count[2]
    for r in range(tile.rows):
        q = b.add(first, r)

        def row(r: int = r, q: Value = q) -> None:
            x = b.add(b.mul(q, sweep.step[2]), sweep.start[2])
            for v in range(tile.vectors):
                within = b.add(b.mul(panel, tile.columns), v * tile.lanes)
                channel = b.add(b.mul(group, plan.outer), within)
                mask = lane_mask(b, within, plan.outer, tile.lanes)
                value = accumulators.get(b, r, v)
                if plan.outer % tile.columns == 0 or v == 0:
                    epilogue.emit(b, (n, channel, z, y, x), value, mask)
                else:
                    with b.when(b.compare("slt", within, plan.outer)):
                        epilogue.emit(b, (n, channel, z, y, x), value, mask)

        if width % tile.rows == 0:
            row()
        else:
            with b.when(b.compare("slt", q, width)):
                row()


# -- weight gradient -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _GradPlan:
    c: Convolution
    tile: TileShape
    sweep: _Sweep
    source: _Source  # x
    gradient: _Source  # g, read vector by vector
    inner: int  # input channels of a group
    outer: int  # output channels of a group
    rows_per_block: int  # rows of positions that all tiles go over before the next

    @staticmethod
    def of(c: Convolution, lanes: int, registers: int) -> _GradPlan:
        sweep = _sweeps(c)[0]
        inner, outer = c.in_channels // c.groups, c.out_channels // c.groups
        tile = choose_tile(inner, outer, lanes, registers)
        source = _source(c, [sweep], c.in_channels, c.input_size, c.first_strides, 1, c.accumulate)
        own = _Sweep((0, 0, 0), (1, 1, 1), c.output_size, (1, 1, 1), (((0, 0, 0), (0, 0, 0)),))
        gradient = _source(c, [own], c.out_channels, c.output_size, c.second_strides, 1, c.accumulate)
        per_row = c.accumulate.size * c.output_size[2] * (c.in_channels * c.stride[2] + c.out_channels)
        return _GradPlan(c, tile, sweep, source, gradient, inner, outer, max(1, _BLOCK_BYTES // max(per_row, 1)))

    @property
    def row_tiles(self) -> int:
        return math.ceil(self.inner / self.tile.rows)

    @property
    def column_tiles(self) -> int:
        return math.ceil(self.outer / self.tile.columns)

    @property
    def tiles(self) -> int:
        return self.c.groups * math.prod(self.c.kernel) * self.row_tiles * self.column_tiles

    @property
    def partial_bytes(self) -> int:
        return self.tiles * self.tile.rows * self.tile.columns * self.c.accumulate.size

    @property
    def workspace_bytes(self) -> int:
        return self.source.bytes + self.gradient.bytes + self.partial_bytes + 128

    def generate(self, epilogue: Epilogue) -> str:
        module = Module("weight_gradient", workspace_operand=2 + epilogue.operands)
        with module.kernel("prepare") as b:
            base = workspace(b)
            if self.source.copied:
                _copy(b, self.c, b.operand(0), self.c.first_strides, self.source, base)
            if self.gradient.copied:
                target = b.offset(base, self.source.bytes)
                _copy(b, self.c, b.operand(1), self.c.second_strides, self.gradient, target)
        with module.kernel("accumulate") as b:
            _accumulate(b, self, epilogue)
        return str(module)


def _accumulate(b: Builder, plan: _GradPlan, epilogue: Epilogue) -> None:
    """Each thread owns tiles [group][tap][row tile][column tile] and takes them over one block of positions after
    another, so that both activations' blocks are read from the cache."""
    c = plan.c
    depth, height, _ = c.output_size
    rows = c.batch * depth * height
    type = register_type(c.accumulate)
    base = workspace(b)
    x = base if plan.source.copied else b.operand(0)
    g = b.offset(base, plan.source.bytes) if plan.gradient.copied else b.operand(1)
    partial = b.offset(base, plan.source.bytes + plan.gradient.bytes)
    taps = [
        plan.source.origin + o[0] * plan.source.strides[1] + o[1] * plan.source.strides[2] + o[2] * plan.source.strides[3]
        for o, _ in plan.sweep.taps
    ]
    table = b.module.constant_array("taps", "i64", taps)
    accumulators = Accumulators(b, plan.tile, c.accumulate)
    start, stop = b.share(plan.tiles)
    size = plan.tile.rows * plan.tile.columns
    width = c.output_size[2]
    # Very long rows (flattened 1×1 convolutions) are cut into pieces of a block's size.
    per_position = c.accumulate.size * (c.in_channels * c.stride[2] + c.out_channels)
    piece = width if width * per_position <= 2 * _BLOCK_BYTES else max(16, _BLOCK_BYTES // per_position)
    pieces = math.ceil(width / piece)
    with b.loop(0, max(rows, 1), plan.rows_per_block) as low, b.loop(0, pieces) as part:
        high = b.intrinsic("llvm.umin", "i64", b.add(low, plan.rows_per_block), b.index(rows))
        from_ = b.mul(part, piece)
        to = b.intrinsic("llvm.umin", "i64", b.add(from_, piece), b.index(width))
        begins = b.and_(b.compare("eq", low, 0), b.compare("eq", part, 0))
        ends = b.and_(b.compare("eq", high, rows), b.compare("eq", to, width))
        with b.loop(start, stop) as task:
            column_tile, rest = b.urem(task, plan.column_tiles), b.udiv(task, plan.column_tiles)
            row_tile, rest = b.urem(rest, plan.row_tiles), b.udiv(rest, plan.row_tiles)
            tap, group = b.urem(rest, len(taps)), b.udiv(rest, len(taps))
            own = b.element(partial, type, b.mul(task, size))
            accumulators.clear(b)
            with b.when(b.xor(begins, b.constant(True, "i1"))):
                for r in range(plan.tile.rows):
                    for v in range(plan.tile.vectors):
                        place = b.element(own, type, r * plan.tile.columns + v * plan.tile.lanes)
                        accumulators.set(b, r, v, b.load(place, accumulators.type))
            _positions(b, plan, accumulators, x, g, table, (group, tap, row_tile, column_tile), low, high, from_, to)
            with b.when(b.xor(ends, b.constant(True, "i1"))):
                for r in range(plan.tile.rows):
                    for v in range(plan.tile.vectors):
                        place = b.element(own, type, r * plan.tile.columns + v * plan.tile.lanes)
                        b.store(accumulators.get(b, r, v), place)
            with b.when(ends):
                _finish_weights(b, plan, epilogue, accumulators, (group, tap, row_tile, column_tile))


def _positions(
    b: Builder, plan: _GradPlan, accumulators: Accumulators, x: Value, g: Value, table: Value,
    tile_place: tuple[Value, Value, Value, Value], low: Value, high: Value, from_: Value, to: Value,
) -> None:  # fmt: skip
    c, tile = plan.c, plan.tile
    type = register_type(c.accumulate)
    depth, height, _ = c.output_size
    group, tap, row_tile, column_tile = tile_place
    # Rows of the tile beyond the last channel repeat it; they are never stored.
    channel = b.mul(row_tile, tile.rows)
    column = b.mul(column_tile, tile.columns)
    x_first = b.add(b.load(b.element(table, "i64", tap), "i64"), b.add(b.mul(group, plan.inner), channel))
    g_first = b.add(b.mul(group, plan.outer), column)
    masks = [
        lane_mask(b, b.add(column, v * tile.lanes), plan.outer, tile.lanes) for v in range(tile.vectors)
    ]
    exact = plan.inner % tile.rows == 0
    limits = [
        b.index(r) if exact else b.intrinsic("llvm.smin", "i64", b.sub(plan.inner - 1, channel), b.index(r))
        for r in range(tile.rows)
    ]
    xn, xd, xh, xw = plan.source.strides
    gn, gd, gh, gw = plan.gradient.strides
    with b.loop(low, high) as row:
        y, rest = b.urem(row, height), b.udiv(row, height)
        z, n = b.urem(rest, depth), b.udiv(rest, depth)
        x_row, g_row = b.add(x_first, b.mul(n, xn)), b.add(g_first, b.mul(n, gn))
        for q, x_stride, g_stride, s in ((z, xd, gd, c.stride[0]), (y, xh, gh, c.stride[1])):
            x_row = b.add(x_row, b.mul(q, x_stride * s))
            g_row = b.add(g_row, b.mul(q, g_stride))
        x_line, g_line = b.element(x, type, x_row), b.element(g, type, g_row)
        with b.loop(from_, to, unroll=2) as w:
            there = b.element(g_line, type, b.mul(w, gw))
            vectors = [
                load_element(b, b.element(there, type, v * tile.lanes), c.accumulate, tile.lanes, masks[v])
                for v in range(tile.vectors)
            ]
            here = b.element(x_line, type, b.mul(w, xw * c.stride[2]))
            accumulators.step(
                b, [lambda r=r, p=here: b.load(b.element(p, type, limits[r]), type) for r in range(tile.rows)], vectors
            )


def _finish_weights(
    b: Builder, plan: _GradPlan, epilogue: Epilogue, accumulators: Accumulators,
    tile_place: tuple[Value, Value, Value, Value],
) -> None:  # fmt: skip
    tile = plan.tile
    group, tap, row_tile, column_tile = tile_place
    _, kh, kw = plan.c.kernel
    x, rest = b.urem(tap, kw), b.udiv(tap, kw)
    y, z = b.urem(rest, kh), b.udiv(rest, kh)
    for r in range(tile.rows):
        channel = b.add(b.mul(row_tile, tile.rows), r)

        def row(r: int = r, channel: Value = channel) -> None:
            for v in range(tile.vectors):
                within = b.add(b.mul(column_tile, tile.columns), v * tile.lanes)
                out = b.add(b.mul(group, plan.outer), within)
                mask = lane_mask(b, within, plan.outer, tile.lanes)
                with b.when(b.compare("slt", within, plan.outer)):
                    epilogue.emit(b, (out, channel, z, y, x), accumulators.get(b, r, v), mask)

        if plan.inner % tile.rows == 0:
            row()
        else:
            with b.when(b.compare("slt", channel, plan.inner)):
                row()
