"""Sizes that vary from call to call under fp.jit: one program for all of them up to the next padded size.

The arguments are copied to the padded size and the program masks what is surplus by itself (`transforms/enlarge/`),
so that the results, gradients and updates are those of the exact sizes. A size that is met for the first time is
captured, which takes milliseconds; only a new padded size is compiled.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np

from firepot.capture import Capture, Recorded, Trace, compile_exactly, fill, record, strip
from firepot.compiler import simplify
from firepot.compiler.statistics import log
from firepot.graph.dtypes import DType
from firepot.graph.node import Node, data, grad_mode
from firepot.padding import lengthened, rounded_up
from firepot.runtime.buffer import Buffer
from firepot.tensor import Tensor, wrap
from firepot.tracing import state
from firepot.transforms.enlarge import Digit, Dimension, Unsupported, Value, enlargement

if TYPE_CHECKING:
    from firepot.compiler.execute import Executor
    from firepot.compiler.plan import Plan
    from firepot.compiler.program import Program

_REFERENCES = 64  # recordings at padded sizes that are kept


@dataclass(frozen=True)
class Varying:
    """Dimensions of some arguments of a function under `fp.jit` that have one size, which varies between calls.

    Sizes are rounded up to one of a few, and sizes with the same one share a program. The function is written as for
    exact shapes, and what it returns is what it returns for exact shapes: what the surplus elements could reach
    (sums, means, normalisations, softmax, products, sorting, indices from the end, …) is masked by the compiler.
    Sums may be rounded differently; sizes 0 and 1 are not padded. A function with an operation for which that is not
    possible gets a program for each exact size, and a RuntimeWarning says which operation it was.

    Args:
        dims: argument name -> the dimension. All of them must have the same size at a call. In a list, tuple or dict
            of tensors it is that of each tensor.
        sizes: what to round up to; None: powers of two.

    >>> model = nn.Linear(3, 2)
    >>> @fp.jit(dynamic=[fp.Varying({"x": 0, "y": 0}, sizes=(32, 64))])
    ... def loss(x, y):
    ...     return F.cross_entropy(model(x), y)
    >>> for n in (64, 50, 63, 37):
    ...     x, y = fp.ones(n, 3), fp.zeros(n).long()
    ...     print(fp.allclose(loss(x, y), F.cross_entropy(model(x), y)), loss.programs)
    True 1
    True 2
    True 2
    True 2
    """

    dims: Mapping[str, int]
    sizes: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not self.dims:
            raise ValueError("Varying: dims must name an argument")
        if self.sizes is not None and (not self.sizes or any(s < 1 for s in self.sizes)):
            raise ValueError(f"Varying: sizes must be positive, got {list(self.sizes)}")


Dynamic = Mapping[str, int] | Varying | Sequence[Mapping[str, int] | Varying]


class VaryingSizes:
    """The varying sizes of one jitted function, and its programs for padded sizes.

    Raises: TypeError where the function lacks a parameter that is named.
    """

    def __init__(self, function: Callable[..., Any], dynamic: Dynamic) -> None:
        given = [dynamic] if isinstance(dynamic, (Mapping, Varying)) else list(dynamic)
        self.varying = [v if isinstance(v, Varying) else Varying(v) for v in given]
        self.function = function
        parameters = inspect.signature(function).parameters
        self._positional = [
            p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        self._rest = next((p.name for p in parameters.values() if p.kind is p.VAR_POSITIONAL), "")
        for v in self.varying:
            for name in v.dims:
                if name not in parameters:
                    raise TypeError(
                        f"fp.jit: dynamic names the parameter {name!r}, which "
                        f"{getattr(function, '__name__', 'the function')}{inspect.signature(function)} does not have"
                    )
        self._programs: WeakValueDictionary[Any, Executor] = WeakValueDictionary()
        self._references: list[tuple[Any, Trace, Recorded]] = []
        self._warned = False

    def compiler(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], new_capture: Callable[[], Capture]
    ) -> Callable[[Recorded], Any]:
        """What makes a program of a recording of the function with these arguments.

        Raises: ValueError where sizes that are to be equal are not, or are larger than the largest to round up to.
        """
        tensors: list[Tensor] = []
        template = strip((args, kwargs), tensors)
        sizes, padded = self._sizes(args, kwargs, tensors)

        def compile(recorded: Recorded) -> Any:
            if all(t.shape == p for t, p in zip(tensors, padded, strict=True)):
                return compile_exactly(recorded)
            try:
                reference = self._reference(template, tensors, padded, new_capture)
                return self._shared(recorded, reference, sizes)
            except Unsupported as reason:
                self._warn(str(reason))
                return compile_exactly(recorded)

        return compile

    def _sizes(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: Sequence[Tensor]
    ) -> tuple[list[tuple[int, int]], list[tuple[int, ...]]]:
        """(true and padded size of each of `varying`, the padded shape of each tensor)."""
        names: list[str] = []  # of the parameter that each tensor belongs to
        named = [(self._positional[i] if i < len(self._positional) else self._rest, a) for i, a in enumerate(args)]
        for name, value in (*named, *kwargs.items()):
            found: list[Tensor] = []
            strip(value, found)
            names += [name] * len(found)
        shapes = [list(t.shape) for t in tensors]
        sizes = []
        for v in self.varying:
            seen: dict[int, str] = {}
            for name, tensor in zip(names, tensors, strict=True):
                if name in v.dims:
                    if not -tensor.ndim <= v.dims[name] < tensor.ndim:
                        raise ValueError(
                            f"fp.jit: dynamic says dimension {v.dims[name]} of {name}, which has shape "
                            f"{list(tensor.shape)}"
                        )
                    seen.setdefault(tensor.shape[v.dims[name]], name)
            if len(seen) > 1:
                told = " and ".join(f"{n} has {s}" for s, n in seen.items())
                raise ValueError(f"fp.jit: dynamic sizes of one Varying must be equal, but {told}")
            for size in seen:
                # Size 1 stays: it broadcasts, and operations leave out what it makes superfluous.
                target = rounded_up(size, v.sizes) if size > 1 else size
                if target is None:
                    raise ValueError(
                        f"fp.jit: dynamic has sizes up to {max(v.sizes or ())}, but {seen[size]} has {size}"
                    )
                sizes.append((size, target))
                for name, shape in zip(names, shapes, strict=True):
                    if name in v.dims:
                        shape[v.dims[name]] = target
        return sizes, [tuple(s) for s in shapes]

    def _reference(
        self, template: Any, tensors: Sequence[Tensor], padded: Sequence[tuple[int, ...]],
        new_capture: Callable[[], Capture],
    ) -> Recorded:  # fmt: skip
        """The function recorded at the padded sizes."""
        values: list[Tensor] = []
        plain = strip_values(template)
        kinds = tuple((p, t.dtype, t.requires_grad, t.is_leaf) for t, p in zip(tensors, padded, strict=True))
        wanted = (plain, kinds, grad_mode.enabled, state.autocast)
        for key, trace, recorded in self._references:
            if key == wanted and trace.holds():
                return recorded
        for t, shape in zip(tensors, padded, strict=True):
            if t.shape == shape:
                values.append(t)
                continue
            stand_in = wrap(data(shape, t.dtype, Buffer.empty(t.dtype.size * math.prod(shape))))
            if t.requires_grad:
                if not t.is_leaf:
                    raise Unsupported("an argument that is a result and requires grad")
                stand_in.requires_grad_()
            values.append(stand_in)
        found: list[Recorded] = []
        args, kwargs = fill(template, values)
        capture = new_capture()
        try:
            trace, _ = record(self.function, args, kwargs, capture, "", found.append)
        except Exception as error:
            raise Unsupported(f"at the padded size the function raises {type(error).__name__}: {error}") from error
        capture.abandon()
        self._references.append((wanted, trace, found[0]))
        del self._references[:-_REFERENCES]
        return found[0]

    def _shared(self, recorded: Recorded, reference: Recorded, sizes: Sequence[tuple[int, int]]) -> SharedExecutor:
        """The program of the padded sizes, compiled or found, for this recording."""
        roles = dict(zip(recorded.leaves, recorded.roles, strict=True))
        others = dict(zip(reference.leaves, reference.roles, strict=True))
        inputs: dict[tuple[str, int], Value] = {}

        def leaf(a: Node, b: Node) -> Value:
            role = roles[a]
            if (role != others[b] and role[0] != "own") or role[0] != others[b][0] or a.dtype is not b.dtype:
                raise Unsupported("the function reads other tensors at another size")
            if len(a.shape) != len(b.shape) or (a.shape != b.shape and role[0] not in ("argument", "own")):
                raise Unsupported("the function reads state whose size varies")
            if role not in inputs:
                inputs[role] = Value(data(b.shape, b.dtype), rewriting.dimensions(a, b), clean=True)
            if inputs[role].node.shape != b.shape:
                raise Unsupported("the function reads other tensors at another size")
            return inputs[role]

        rewriting = enlargement(leaf)
        for true, padded in sizes:
            rewriting.dimension(true, padded)
        outputs = rewriting.rewrite(recorded.outputs, reference.outputs)
        nodes = [o.node for o in outputs]
        graph = simplify.recorded(nodes)
        leaves = graph.leaves
        number = {node: i for i, node in enumerate(rewriting.number_nodes)}
        role_of = {value.node: role for role, value in inputs.items()}
        where = {role: i for i, role in enumerate(recorded.roles)}
        sources = [where[role_of[n]] if n in role_of else -1 - number[n] for n in leaves]
        place = {source: i for i, source in enumerate(sources)}
        targets = {i: leaves[place[i]].shape for i in place if i >= 0}
        longer = {
            i: (leaf.shape, targets[i], leaf.dtype)
            for i, leaf in enumerate(recorded.leaves)
            if i in targets and leaf.shape != targets[i]
        }
        donations = {
            o: place[i] for o, i in recorded.donations.items() if i in place and i not in longer and not outputs[o].varies
        }
        constants = [place[i] for i in recorded.constants if i in place and i not in longer]
        told = tuple(role_of.get(n, ("number", number.get(n, -1))) for n in leaves)
        identity = (graph.key, told, tuple(sorted(donations.items())), tuple(constants))
        executor = self._programs.get(identity)
        reused = executor is not None
        if executor is None:
            from firepot.compiler.driver import compiled  # here, as it is much of `import firepot`'s time

            spans = ", ".join(f"{p} for {t}" for t, p in sizes if t != p)
            reason = f"{recorded.reason} (padded to {spans})"
            executor = compiled(graph, donations, recorded.name, reason, constants)
            self._programs[identity] = executor
        else:
            log.reused += 1
        numbers = [_buffer(value, dtype) for value, dtype in rewriting.numbers]
        cuts = {
            o: (value.digits, node.dtype)
            for o, (value, node) in enumerate(zip(outputs, recorded.outputs, strict=True))
            if value.varies
        }
        donated = sorted(sources[i] for i in executor.donated)
        return SharedExecutor(executor, reused, sources, numbers, longer, cuts, donated)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"fp.jit: {getattr(self.function, '__name__', 'the function')} gets a program for each exact size, as "
                f"padding would not do: {reason}",
                RuntimeWarning,
                stacklevel=_outside(),
            )


def strip_values(template: Any) -> str:
    """A template of arguments as a key: all that is no tensor, by value."""
    if isinstance(template, dict):
        return "{" + ",".join(f"{k!r}:{strip_values(v)}" for k, v in template.items()) + "}"
    if isinstance(template, (list, tuple)):
        return type(template).__name__ + "(" + ",".join(strip_values(v) for v in template) + ")"
    slot = getattr(template, "number", None)
    return f"#{slot}" if type(template).__name__ == "_Slot" else f"{type(template).__name__}:{template!r}"


def _buffer(value: bool | int | float, dtype: DType) -> Buffer:
    array = np.array(value, np.float32 if dtype.name == "bfloat16" else dtype.numpy)
    if dtype.name == "bfloat16":
        bits = array.view(np.uint32).astype(np.uint64)
        array = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return Buffer.from_numpy(array)


def _outside() -> int:
    """The stack level of the caller outside of the package, for a warning."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "firepot":
        frame = frame.f_back
        level += 1
    return level - 1


class SharedExecutor:
    """A program for padded sizes, called with values of one true size: `Executor`'s part towards a trace.

    Args:
        reused: the program was made for another size before.
        sources: for each input of the program the input of the trace, or −1 − the number of one of `numbers`.
        longer: trace input -> (its shape, that of the program's, dtype): copied, with zeros for the surplus.
        cuts: output -> (digits, dtype) of those with a surplus, which is left out of a copy.
    """

    def __init__(
        self, executor: Executor, reused: bool, sources: Sequence[int], numbers: Sequence[Buffer],
        longer: Mapping[int, tuple[tuple[int, ...], tuple[int, ...], DType]],
        cuts: Mapping[int, tuple[tuple[Dimension, ...], DType]], donated: list[int],
    ) -> None:  # fmt: skip
        self.executor = executor
        self.reused = reused
        self.sources = sources
        self.numbers = numbers
        self.longer = longer
        self.cuts = cuts
        self.donated = donated

    @property
    def program(self) -> Program | None:
        return self.executor.program

    @property
    def plan(self) -> Plan:
        return self.executor.plan

    def __call__(self, inputs: Sequence[Buffer], spent: Mapping[int, Buffer] | None = None) -> list[Buffer]:
        given = list(inputs)
        for i, (shape, target, dtype) in self.longer.items():
            given[i] = lengthened(given[i], dtype, shape, target)
        spent = {o: b for o, b in (spent or {}).items() if o not in self.cuts}
        results = self.executor([given[s] if s >= 0 else self.numbers[-1 - s] for s in self.sources], spent)
        for o, (digits, dtype) in self.cuts.items():
            results[o] = _cut(results[o], digits, dtype)
        return results


def _cut(buffer: Buffer, dimensions: Sequence[Sequence[Digit]], dtype: DType) -> Buffer:
    """A copy of what is valid."""
    digits = [d for dimension in dimensions for d in dimension]
    array = buffer.view(dtype.numpy, tuple(d.padded for d in digits))
    return Buffer.from_numpy(np.ascontiguousarray(array[tuple(slice(d.true) for d in digits)]))


__all__ = ["Dynamic", "Varying", "VaryingSizes"]
