"""From a graph to a Program: kernels in order, operands placed, ready to run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from firepot.compiler import debug
from firepot.compiler.assemble import Assembly, assemble
from firepot.compiler.batch_blocks import in_blocks
from firepot.compiler.emit import Storage, rebased
from firepot.compiler.follow import follow, following
from firepot.compiler.fuse import Group, build_nest, choose_roots, form_groups, layouts_of, merge_groups
from firepot.compiler.layout import Layout, row_major, strides_of
from firepot.compiler.lower import Lowering, Step, stored_under
from firepot.compiler.operands import lay_operands_out, layout_of_operand, readable, store_as_read
from firepot.compiler.place import place
from firepot.compiler.rematerialise import within
from firepot.compiler.schedule import schedule
from firepot.compiler.share import shared
from firepot.graph.node import Node, Opaque, topological
from firepot.graph.primitives.contract import convolve_primitive
from firepot.graph.primitives.elementwise import check_sites, is_leaf
from firepot.kernels.llvm import nest as nest_generator
from firepot.runtime.buffer import size_class
from firepot.runtime.processor import processor


@dataclass
class Program:
    """A compiled graph.

    steps:     kernels with their operands, in order
    arena:     bytes of memory for intermediate values and workspaces
    places:    by number of each stored value: ('input', i), ('output', i) or ('arena', byte offset)
    donated:   output number -> input number whose memory the output takes over
    prepared:  step number -> input number: the step keeps what it makes of that input alone (see `Passes.prepare`)
    shared:    step number -> the step before it whose preparation it uses (see `share`)
    checks:    number by which a kernel reports a bad index -> params of the check_index nodes that it stands for
    results:   the nodes that the program was made of
    budget:    bytes that a run was allowed to take, where a budget was given
    blocks:    how often the steps run, each time on a further block of the examples (see `batch_blocks`); `results`,
               `places` and `outputs` are those of one block
    moved:     input number -> bytes from one block's examples to the next's; outputs lie one block after another
    sources:   nodes of one block -> the nodes that they stand for
    """

    steps: list[Step]
    arena: int
    places: dict[int, tuple[str, int]]
    workspaces: list[int]
    outputs: list[tuple[int, Storage | None]]
    input_count: int
    guard_step: int
    donated: dict[int, int] = field(default_factory=dict)
    prepared: dict[int, int] = field(default_factory=dict)
    shared: dict[int, int] = field(default_factory=dict)
    checks: dict[int, tuple[int, str, bool]] = field(default_factory=dict)
    compile_seconds: float = 0.0
    results: tuple[Node, ...] = ()
    budget: int | None = None
    blocks: int = 1
    moved: dict[int, int] = field(default_factory=dict)
    sources: dict[Node, Node] = field(default_factory=dict)

    def outputs_stored(self) -> list[tuple[int, Storage]]:
        """(output number, storage) of the outputs that the program writes itself."""
        return [(n, s) for n, (_, s) in enumerate(self.outputs) if s is not None]

    def fresh(self) -> list[tuple[int, int]]:
        """(output number, bytes) of the outputs that get memory of their own at each run."""
        stored = [(n, s) for n, s in self.outputs_stored() if n not in self.donated]
        return [(n, max(s.size * s.dtype.size * self.blocks, 1)) for n, s in stored]

    def kept(self) -> dict[tuple[int, int, str, int], int]:
        """Bytes of the workspaces that prepared steps keep from run to run, by what is put there."""
        found = {}
        for t in self.prepared:
            key, size = self.preparation(t)
            found[key] = size
        return found

    def preparation(self, t: int) -> tuple[tuple[int, int, str, int], int]:
        """(what a prepared step keeps, its bytes): one for all that put the same there, as they run one after another."""
        step = self.steps[t]
        assert step.kernel.prepares is not None
        operand, what = step.kernel.prepares
        storage, offset = step.operands[operand]
        return (storage.number, offset, what, step.kernel.workspace), step.kernel.workspace

    @property
    def memory(self) -> int:
        """Bytes that a run takes beyond its inputs, as the allocator counts them: the arena, results, kept workspaces.

        An upper bound: results may also take over memory that is no longer needed.
        """
        blocks = [self.arena, *(size for _, size in self.fresh()), *self.kept().values()]
        return sum(size_class(b) for b in blocks if b)


@dataclass(frozen=True)
class Passes:
    """Which optimisations `build` makes. Every one can be left out; the program computes the same."""

    layout: bool = True  # convolutions, and what surrounds them, channels-last
    recompute: bool = True  # values inside the kernels that use them; else every value is stored
    assemble: bool = True  # the parts of concatenations made in place; else the kernels select by position
    merge: bool = True  # kernels that share an iteration space joined
    schedule: bool = True  # kernels in an order that keeps little; else as recorded
    follow: bool = True  # element-wise work on a product or convolution done by its own kernel
    statistics: bool = True  # folds over each channel of what a convolution makes by its own kernel, batch norm's too
    dots: bool = True  # bfloat16 and int8 products by the processor's dot-product instructions, where it has them
    tiles: bool = True  # bfloat16 products by the processor's tile instructions, where it has them
    lanes: bool = True  # loops of procedures (fp.kernel) whose turns are independent in the lanes of vectors
    share_memory: bool = True  # values that do not live at the same time in the same place
    # What a kernel makes of a constant input (packed or transformed weights) is kept in memory of its own from run to
    # run, and made again when the input has other contents. Takes as much memory as those weights, and up to four
    # times that where 3×3 filters are transformed.
    prepare: bool = True
    blocks: bool = True  # large batches in blocks that go through all kernels within the cache; else kernel by kernel
    share_preparations: bool = True  # what several kernels make of one value made once; else by each


ALL_PASSES = Passes()


def build(
    inputs: Sequence[Node],
    outputs: Sequence[Node],
    donations: dict[int, int] | None = None,
    passes: Passes = ALL_PASSES,
    constants: Sequence[int] = (),
    budget: int | None = None,
) -> Program:
    """Compile the graph of `outputs` over the placeholders `inputs`.

    Args:
        donations: output number -> input number. The input's value is not needed after the program, so the output
            may be written over it where every read comes first.
        passes: the optimisations to make.
        constants: numbers of inputs that as a rule are the same from run to run.
        budget: bytes that a run may take (`Program.memory`); values are made again rather than kept until it does.

    Raises: OverBudget where no program was found that takes so little.
    """
    start = time.perf_counter()
    if passes.blocks and budget is None and not donations:
        blocks = in_blocks(inputs, outputs, constants)
        if blocks is not None:
            program = build(blocks.inputs, blocks.outputs, None, replace(passes, blocks=False), constants)
            given = {i: blocks.inputs[i] for i in blocks.moved}
            program.blocks, program.sources = blocks.count, blocks.sources
            program.moved = {i: node.size * node.dtype.size for i, node in given.items()}
            program.compile_seconds = time.perf_counter() - start
            return program
    order = topological(outputs, is_leaf)
    roots = choose_roots(order, outputs) if passes.recompute else {n for n in order if not is_leaf(n)}
    layouts = {n: row_major(len(n.shape)) for n in order}
    if passes.layout:
        layouts = layouts_of(order, outputs)
        if passes.recompute:
            store_as_read(order, roots, set(outputs), layouts)
        lay_operands_out(order, roots, set(outputs), layouts)
    assembly = Assembly(list(order))
    if passes.assemble:
        assembly = assemble(order, roots, outputs, layouts)
    storage = _assign_storage(assembly, roots, inputs, outputs, layouts, passes.layout)
    groups = form_groups(assembly.order, roots, {n: [p.node for p in parts] for n, parts in assembly.parts.items()})
    if passes.merge:
        groups = merge_groups(groups, storage, set(outputs), far=budget is None)
    overwritten = {outputs[o]: inputs[i] for o, i in (donations or {}).items()}
    if passes.schedule:
        final = set(outputs)
        inner = {n: s.size * s.dtype.size for n, s in storage.items() if n not in final and not is_leaf(n)}
        groups = schedule(groups, inner, overwritten)
    if passes.follow:
        groups = follow(groups, storage, set(outputs), overwritten, passes.statistics)
    steps = _lower(groups, storage, set(outputs), layouts, set(assembly.parts), passes)

    def program_of(steps: list[Step], prepare: bool = False, share: bool = False) -> Program:
        prepared = _prepared(steps, storage, inputs, constants) if prepare else {}
        once = shared(steps, storage, prepared.keys()) if share else {}
        placed = place(steps, storage, inputs, outputs, donations or {}, passes.share_memory, prepared.keys(), once)
        return Program(
            steps, placed.arena, placed.places, placed.workspaces, placed.outputs, len(inputs), placed.guard_step,
            placed.donated, prepared, once,
        )  # fmt: skip

    program = program_of(steps, passes.prepare, passes.share_preparations)
    if budget is not None:
        program = within(budget, program, storage, inputs, outputs, program_of)
    program.checks = {check_sites.number(c): c for node in order for c in node.primitive.checks(node)}
    program.results = tuple(outputs)
    program.compile_seconds = time.perf_counter() - start
    debug.show(program)
    return program


def _assign_storage(
    assembly: Assembly, roots: set[Node], inputs: Sequence[Node], outputs: Sequence[Node],
    layouts: dict[Node, Layout], lay_out: bool,
) -> dict[Node, Storage]:  # fmt: skip
    """Give every stored value a number and strides; operands that no strides can say are added to the roots."""
    storage: dict[Node, Storage] = {}
    numbers = itertools.count()
    parts = {p.node for found in assembly.parts.values() for p in found}

    def add(node: Node) -> None:
        storage[node] = Storage(next(numbers), node.dtype, node.size, strides_of(node.shape, layouts[node]))
        if node in assembly.parts:
            assembly.place(storage, node)

    for node in inputs:
        layouts[node] = row_major(len(node.shape))
        add(node)
    for node in assembly.order:
        if node in roots and node not in storage and node not in parts:
            add(node)
    for node in assembly.order:
        if isinstance(node.primitive, Opaque):
            for operand in node.inputs:
                if operand not in storage and not readable(node, operand, storage):
                    roots.add(operand)
                    layouts[operand] = layout_of_operand(node, operand) if lay_out else row_major(len(operand.shape))
                    add(operand)
    return storage


def _lower(
    groups: list[Group], storage: dict[Node, Storage], outputs: set[Node], layouts: dict[Node, Layout],
    assembled: set[Node], passes: Passes,
) -> list[Step]:  # fmt: skip
    needed = set(outputs)
    for g in groups:
        if g.opaque and g.roots[0] not in assembled:
            needed.update(stored_under(i, storage) for i in g.roots[0].inputs)
            needed |= g.inputs
        else:
            needed |= g.inputs
    opaque = [g.roots[0] for g in groups if g.opaque and g.roots[0].size and g.roots[0] not in assembled]
    host = processor()
    target = host if passes.dots else replace(host, bf16_dot=False, int8_dot=False, bf16_tile=False)
    target = target if passes.tiles else replace(target, bf16_tile=False)
    lowering = Lowering(storage, opaque, target, passes.lanes, passes.share_preparations)
    for g in groups:
        if g.roots[0] in assembled or all(r.size == 0 for r in g.roots):
            continue
        if g.opaque and len(g.roots) == 1:
            lowering.lower(g.roots[0])
            continue
        if g.opaque:
            found = following(g, storage, needed.intersection(g.roots))
            assert found is not None, "follow() has tried it"
            convolution = g.roots[0].primitive is convolve_primitive
            lower = lowering.convolve_and_follow if convolution else lowering.contract_and_follow
            lower(g.roots[0], found, g.roots)
            continue
        stored = {r for r in g.roots if r in needed and r.size}
        nest, reads = rebased(*build_nest(g, storage, stored, layouts))
        kernel = nest_generator.lower(nest, host)
        lowering.steps.append(Step(kernel, reads, tuple(g.roots), nest))
    return lowering.steps


def _prepared(
    steps: list[Step], storage: dict[Node, Storage], inputs: Sequence[Node], constants: Sequence[int]
) -> dict[int, int]:
    """The steps whose first phase depends on a constant input alone, by number, and that input."""
    constant = {storage[inputs[i]].number: i for i in constants}
    found = {}
    for t, step in enumerate(steps):
        if step.kernel.prepares is not None:
            number = step.operands[step.kernel.prepares[0]][0].number
            if number in constant:
                found[t] = constant[number]
    return found
