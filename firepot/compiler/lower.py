"""Lowering of opaque nodes: from a node and its operands' places in memory to a kernel of the generators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from firepot.compiler.emit import Storage, rebased
from firepot.compiler.follow import Following
from firepot.compiler.memory import ALIGNMENT
from firepot.graph.index import Axis, Index, flatten
from firepot.graph.node import Node, View, viewed
from firepot.graph.primitives.reduce import accumulator
from firepot.kernels.kernel import Kernel
from firepot.kernels.loops import Nest

if TYPE_CHECKING:
    from firepot.compiler.subprogram import Plan
    from firepot.kernels.llvm.convolution import Convolution
    from firepot.kernels.llvm.matmul import Matmul


@dataclass(frozen=True)
class Access:
    """An operand read through strides: element (i, j, …) lies at offset + Σ index × stride, in elements."""

    storage: Storage
    offset: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A kernel and its operands, each a stored value with an offset in bytes; the nodes it makes, its loop nest if any;
    for a loop over other kernels or a branch, those; whether it makes its nodes a second time."""

    kernel: Kernel
    operands: tuple[tuple[Storage, int], ...]
    nodes: tuple[Node, ...]
    nest: Nest | None = None
    plan: Plan | None = None
    again: bool = False


def stored_under(node: Node, storage: dict[Node, Storage]) -> Node:
    """The stored node that a chain of views looks at."""
    while node not in storage and (below := viewed(node)) is not None:
        node = below
    return node


def access(node: Node, storage: dict[Node, Storage]) -> Access | None:
    """How to read `node` from a stored value by strides, or None if no strides say it."""
    axes = [Axis(f"d{d}", s) for d, s in enumerate(node.shape)]
    position = tuple(Index.of(a) for a in axes)
    while node not in storage:
        below = viewed(node)
        if below is None:
            return None
        assert isinstance(node.primitive, View)
        position, conditions = node.primitive.index(position, node)
        for index, size in conditions:
            low, high = index.range
            if low < 0 or high >= size:
                return None
        node = below
    stored = storage[node]
    flat = flatten(position, stored.strides)
    if not all(isinstance(atom, Axis) for atom, _ in flat.terms):
        return None
    offset = stored.offset + flat.constant
    if offset * stored.dtype.size % ALIGNMENT:
        return None
    return Access(stored, offset, tuple(flat.coefficient(a) for a in axes))


class Lowering:
    """What `Opaque.lower` calls: each method makes the kernels of one primitive and appends them to `steps`.

    opaque: all nodes that will be lowered, for kernels that make several.
    made:   those of them that a kernel of another one makes.
    lanes:  bytes of the vectors in whose lanes the loops of procedures may run; 0 for none.
    """

    def __init__(
        self, storage: dict[Node, Storage], opaque: Sequence[Node], processor: Any, lanes: bool = True
    ) -> None:
        self.storage = storage
        self.opaque = opaque
        self.processor = processor
        self.lanes: int = processor.vector_bytes if lanes else 0
        self.steps: list[Step] = []
        self.made: set[Node] = set()

    def lower(self, node: Node) -> None:
        node.primitive.lower(self, node)  # type: ignore[attr-defined]

    def access(self, node: Node) -> Access:
        found = access(node, self.storage)
        assert found is not None, f"{node} was to be stored"
        return found

    def _step(self, node: Node, kernel: Kernel, reads: Sequence[Access], out: Storage) -> None:
        operands = [(a.storage, a.offset * a.storage.dtype.size) for a in reads]
        self.steps.append(Step(kernel, (*operands, (out, out.offset * out.dtype.size)), (node,)))

    def contract(self, node: Node) -> None:
        from firepot.kernels.llvm import matmul
        from firepot.kernels.llvm.epilogue import StoreEpilogue

        out = self.storage[node]
        description, (x, y) = self._product(node)
        epilogue = StoreEpilogue(2, _three(out.strides), node.dtype)
        self._step(node, matmul.lower(description, epilogue, self.processor), (x, y), out)

    def contract_and_follow(self, node: Node, following: Following, roots: Sequence[Node]) -> None:
        """A product with the element-wise work on its result."""
        from firepot.kernels.llvm import matmul
        from firepot.kernels.llvm.epilogue import NestEpilogue

        description, (x, y) = self._product(node)
        nest, further = rebased(following.nest, following.operands)
        if following.lane == 1:  # the transposed product, so that lanes run along the rows
            d = description
            description = replace(
                d, m=d.n, n=d.m, x_strides=_swapped(d.y_strides), y_strides=_swapped(d.x_strides)
            )  # fmt: skip
            x, y = y, x
            nest = replace(nest, axes=(nest.axes[0], nest.axes[2], nest.axes[1]))
        kernel = matmul.lower(description, NestEpilogue(nest, following.finished), self.processor)
        operands = [(a.storage, a.offset * a.storage.dtype.size) for a in (x, y)]
        self.steps.append(Step(kernel, (*operands, *further), tuple(roots), nest))

    def _product(self, node: Node) -> tuple[Matmul, tuple[Access, Access]]:
        from firepot.kernels.llvm import matmul

        x, y = (self.access(i) for i in node.inputs)
        batch, m, n = node.shape
        description = matmul.Matmul(
            batch, m, n, node.inputs[0].shape[2], _three(x.strides), _three(y.strides), node.inputs[0].dtype,
            accumulator(node.dtype),
        )  # fmt: skip
        return description, (x, y)

    def convolve(self, node: Node) -> None:
        from firepot.kernels.llvm import convolution
        from firepot.kernels.llvm.epilogue import StoreEpilogue

        description, (a, b) = self._convolution(node)
        out = self.storage[node]
        lane = convolution.result_lane(description)
        epilogue = StoreEpilogue(2, _five(out.strides), node.dtype, lane=lane)
        self._step(node, convolution.lower(description, epilogue, self.processor), (a, b), out)

    def convolve_and_follow(self, node: Node, following: Following, roots: Sequence[Node]) -> None:
        """A forward convolution or input gradient with the element-wise work on its result."""
        from firepot.kernels.llvm import convolution
        from firepot.kernels.llvm.epilogue import NestEpilogue

        description, (a, b) = self._convolution(node)
        nest, further = rebased(following.nest, following.operands)
        epilogue = NestEpilogue(nest, following.finished, following.lane, following.finished.loops)
        operands = [(x.storage, x.offset * x.storage.dtype.size) for x in (a, b)]
        kernel = convolution.lower(description, epilogue, self.processor)
        self.steps.append(Step(kernel, (*operands, *further), tuple(roots)))

    def _convolution(self, node: Node) -> tuple[Convolution, tuple[Access, Access]]:
        from firepot.kernels.llvm import convolution

        mode, size, kernel, out_size, stride, padding, dilation, groups, _ = node.params
        a, b = (self.access(i) for i in node.inputs)
        if mode == "forward":
            batch, channels = node.inputs[0].shape[:2]
            out_channels = node.shape[1]
        elif mode == "input_grad":
            batch, out_channels = node.inputs[0].shape[:2]
            channels = node.shape[1]
        else:
            batch, channels = node.inputs[0].shape[:2]
            out_channels = node.shape[0]
        description = convolution.Convolution(
            mode=mode, batch=batch, groups=groups, in_channels=channels, out_channels=out_channels,
            input_size=_spatial(size, 1), kernel=_spatial(kernel, 1), output_size=_spatial(out_size, 1),
            stride=_spatial(stride, 1), dilation=_spatial(dilation, 1), padding=_spatial(padding, 0),
            first_strides=_five(a.strides), second_strides=_five(b.strides),
            result_strides=_five(self.storage[node].strides), dtype=node.inputs[0].dtype,
            accumulate=accumulator(node.dtype),
        )  # fmt: skip
        return description, (a, b)

    def attention(self, node: Node) -> None:
        self._attention(node, [node], node.inputs, None)

    def attention_gradient(self, node: Node) -> None:
        """The kernel of all gradients of one attention, where the first of them is made."""
        family = [
            next((n for n in self.opaque if n.primitive is node.primitive and n.inputs == node.inputs
                  and n.params == (*node.params[:2], which)), None)
            for which in range(3)
        ]  # fmt: skip
        if not any(n in self.made for n in family if n is not None):
            self.made.update(n for n in family if n is not None)
            self._attention(node, family, node.inputs[:-1], node.inputs[-1])

    def _attention(
        self, node: Node, results: Sequence[Node | None], inputs: Sequence[Node], gradient: Node | None
    ) -> None:
        from firepot.kernels.llvm import attention

        query, key, value, *masks = (self.access(i) for i in inputs)
        given = self.access(gradient) if gradient is not None else None
        batch, heads, queries, width = inputs[0].shape
        written = [None if r is None else self.storage[r] for r in results]
        description = attention.Attention(
            batch=batch, heads=heads, queries=queries, keys=inputs[1].shape[2], width=width,
            value_width=inputs[2].shape[3], scale=node.params[0], causal=node.params[1], dtype=node.dtype,
            query=_four(query.strides), key=_four(key.strides), value=_four(value.strides),
            mask=_four(masks[0].strides) if masks else None,
            results=tuple(None if s is None else _four(s.strides) for s in written),
            gradient=None if given is None else _four(given.strides),
        )  # fmt: skip
        reads = [query, key, value, *masks, *([] if given is None else [given])]
        operands = [(a.storage, a.offset * a.storage.dtype.size) for a in reads]
        operands += [(s, s.offset * s.dtype.size) for s in written if s is not None]
        nodes = tuple(r for r in results if r is not None)
        self.steps.append(Step(attention.lower(description, self.processor), tuple(operands), nodes))

    def scatter(self, node: Node) -> None:
        from firepot.kernels.llvm import scatter

        x, updates, *indices = (self.access(i) for i in node.inputs)
        axes, mode = node.params
        description = scatter.Scatter(
            shape=node.shape, axes=axes, mode=mode, index_shape=node.inputs[2].shape, dtype=node.dtype,
            x_strides=x.strides, update_strides=updates.strides, index_strides=tuple(i.strides for i in indices),
        )  # fmt: skip
        self._step(node, scatter.lower(description, self.processor), (x, updates, *indices), self.storage[node])

    def procedure(self, node: Node) -> None:
        """The kernel of all outputs of a procedure, where the first of them is made."""
        from firepot.graph.primitives.procedure import sites
        from firepot.kernels.llvm import procedure

        code = node.params[0]
        outputs = range(len(code.outputs))
        family = [
            next((n for n in self.opaque if n.primitive is node.primitive and n.inputs == node.inputs
                  and n.params == (code, number)), None)
            for number in outputs
        ]  # fmt: skip
        made = [n for n in family if n is not None]
        if node in self.made:
            return
        self.made.update(made)
        reads = [self.access(i) for i in node.inputs]
        description = procedure.Described(
            code, tuple(n is not None for n in family), tuple(a.strides for a in reads), sites(code), self.lanes
        )
        operands = [(a.storage, a.offset * a.storage.dtype.size) for a in reads]
        operands += [(s, s.offset * s.dtype.size) for s in (self.storage[n] for n in made)]
        self.steps.append(Step(procedure.lower(description), tuple(operands), tuple(made)))

    def loop(self, node: Node) -> None:
        from firepot.compiler import loop

        loop.lower(self, node)

    def branch(self, node: Node) -> None:
        from firepot.compiler import loop

        loop.lower_branch(self, node)

    def while_loop(self, node: Node) -> None:
        from firepot.compiler import loop

        loop.lower_while(self, node)

    def argsort(self, node: Node) -> None:
        from firepot.kernels.llvm import rows

        x = self.access(node.inputs[0])
        description = rows.ArgSort(node.shape, x.strides, node.inputs[0].dtype, node.params[0])
        self._step(node, rows.lower_sort(description, self.processor), (x,), self.storage[node])

    def scan(self, node: Node) -> None:
        from firepot.kernels.llvm import rows

        x = self.access(node.inputs[0])
        description = rows.Scan(node.shape, x.strides, node.inputs[0].dtype, node.params[0])
        self._step(node, rows.lower_scan(description, self.processor), (x,), self.storage[node])


def _three(strides: Sequence[int]) -> tuple[int, int, int]:
    a, b, c = strides
    return a, b, c


def _swapped(strides: tuple[int, int, int]) -> tuple[int, int, int]:
    return strides[0], strides[2], strides[1]


def _four(strides: Sequence[int]) -> tuple[int, int, int, int]:
    a, b, c, d = strides
    return a, b, c, d


def _spatial(values: Sequence[int], neutral: int) -> tuple[int, int, int]:
    """One to three spatial values as (D, H, W)."""
    padded = (neutral,) * (3 - len(values)) + tuple(values)
    return padded[0], padded[1], padded[2]


def _five(strides: Sequence[int]) -> tuple[int, int, int, int, int]:
    """Strides of (N, C, spatial…) as (N, C, D, H, W)."""
    n, c, *spatial = strides
    d, h, w = _spatial(spatial, 0)
    return n, c, d, h, w
