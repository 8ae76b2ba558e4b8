"""Control flow over tensors: cond, scan, while_loop, map, with JAX's argument orders.

scan is a loop of the native program over a body that is compiled once (`func/loop.py`). Where values do not exist yet,
inside fp.jit, fp.vmap and fp.scan, so are while_loop and cond a loop and a branch of it (`func/branch.py`). Elsewhere a
condition is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from firepot import tree
from firepot.func.branch import branch, carried, one_bool, repeat_while
from firepot.func.loop import loop
from firepot.func.vectorise import vmap
from firepot.graph import dtypes
from firepot.graph.primitives import elementwise as ew
from firepot.ops.shape import select, stack
from firepot.tensor import Tensor, wrap
from firepot.tracing import state


def cond(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], *operands: Any) -> Any:
    """true_fn(*operands) where `pred` holds, else false_fn(*operands).

    Args:
        pred: a Python bool, or a tensor of one element.
        true_fn, false_fn: from the operands to trees of tensors of equal structure, shapes and dtypes.

    Inside fp.jit both functions run once to be recorded, and each call of the program computes one branch. So does the
    derivative, which computes the branch once more. In-place changes of a branch, of parameters and running statistics
    too, happen where it is taken; backward() inside a branch is a TraceError there.

    Where fp.vmap makes the condition differ from example to example, and for complex numbers, both branches are computed
    and the results selected. Then an infinite or undefined derivative of the branch that is not selected makes the whole derivative
    NaN, as with fp.where: keep its arguments in range.

    Raises: RuntimeError for a condition of more than one element; inside fp.jit and fp.vmap TypeError where the results
        of the branches do not agree.

    >>> x = fp.tensor([4.0, 9.0])
    >>> fp.cond(x.sum() > 0, fp.sqrt, lambda x: x * 0, x)
    tensor([2., 3.])
    """
    if not isinstance(pred, Tensor):
        return (true_fn if pred else false_fn)(*operands)
    if pred._value.size != 1:
        raise RuntimeError(f"cond: the condition must have one element, its shape is {list(pred.shape)}")
    if state.trace is None:
        return (true_fn if bool(pred.detach()) else false_fn)(*operands)
    return branch(one_bool(pred, "cond")._node, (true_fn, false_fn), operands)


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any = None, length: int | None = None, *,
    reverse: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """carry, y = f(carry, x) for every x: returns (the last carry, the ys stacked).

    Args:
        f: gets the carry and one slice of xs along the first dimension; returns the next carry, of equal structure,
            shapes and dtypes, and a tree of tensors (or None).
        init: the first carry, a tree of tensors.
        xs: a tree of tensors with one leading size, or None (then `length` says how many steps).
        reverse: from the last to the first; ys stay in the order of xs.

    `f` runs once, is compiled once and looped over natively, inside fp.jit and outside. The derivative, of any order,
    is a loop in the other direction: it keeps the carries of all steps and computes the rest of a step again. Random
    numbers differ from step to step; tensors from outside that `f` changes in place are carried along. In plain code a
    function that looks at values (.item(), if tensor:) runs step by step instead; inside fp.jit that is a TraceError.

    >>> total, partial = fp.scan(lambda c, x: (c + x, c + x), fp.tensor(0.0), fp.tensor([1.0, 2.0, 3.0]))
    >>> partial
    tensor([1., 3., 6.])
    """
    leaves, structure = tree.flatten(xs)
    given = [leaf for leaf in leaves if leaf is not None]
    for leaf in given:
        if not isinstance(leaf, Tensor) or not leaf.shape:
            raise TypeError("scan: xs must be tensors with a first dimension to go along")
    sizes = {leaf.shape[0] for leaf in given} | ({length} if length is not None else set())
    if len(sizes) != 1:
        raise ValueError(
            f"scan: xs must agree in their first size, got {sorted(sizes)}" if sizes else "scan: give xs or length"
        )
    count = next(iter(sizes))
    if not count:
        raise ValueError("scan: no steps, so what f would return is not known; xs must not be empty")

    def step(carry: Any, row: list[Any]) -> tuple[Any, Any]:
        rest = iter(row)
        x = tree.unflatten(structure, [None if leaf is None else next(rest) for leaf in leaves])
        result = f(carry, x)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"scan: the function must return (carry, y), got {type(result).__name__}")
        return carried(carry, result[0], "scan"), result[1]

    found = loop(step, init, given, count, reverse, "fp.scan")
    return found if found is not None else _stepwise(step, init, given, count, reverse)


def _stepwise(
    step: Callable[[Any, list[Any]], tuple[Any, Any]], init: Any, xs: list[Tensor], count: int, reverse: bool
) -> tuple[Any, Any]:
    """The steps of a scan one after the other, written out where they are recorded."""
    carry, made = init, []
    for t in reversed(range(count)) if reverse else range(count):
        carry, y = step(carry, [select(x, 0, t) for x in xs])
        made.append(y)
    if reverse:
        made.reverse()
    return carry, tree.map(lambda *ys: None if ys[0] is None else stack(ys), *made)


def while_loop(
    cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: Any, *, maximum: int | None = None
) -> Any:
    """body_fun applied to init_val as long as cond_fun of the value holds.

    Args:
        cond_fun: from the value to a tensor of one element.
        body_fun: from the value, a tree of tensors, to the next of equal structure, shapes and dtypes.
        maximum: a bound on the number of steps.

    Inside fp.jit both functions run once to be recorded, and the program runs as many steps as the values ask for.
    Such a loop has a derivative in forward mode (fp.jvp). In reverse mode (backward, fp.grad) it has one with
    `maximum`, which says for how many steps there must be memory; without, that is a RuntimeError. Outside fp.jit
    there is always one. Under fp.vmap the loop runs until the condition holds for no example; those that have ended
    keep their values.

    >>> fp.while_loop(lambda x: x < 100, lambda x: x * 2, fp.tensor(3))
    tensor(192)
    """
    value, steps = init_val, 0
    if state.trace is None:
        while maximum is None or steps < maximum:
            if not bool(one_bool(cond_fun(value), "while_loop").detach()):
                break
            value = carried(value, body_fun(value), "while_loop")
            steps += 1
        return value
    if maximum is None:
        return repeat_while(cond_fun, body_fun, init_val)
    if not maximum:
        return init_val

    def step(carry: Any, _: Any) -> tuple[Any, None]:
        running, value = carry
        going = wrap(ew.and_(running._node, one_bool(cond_fun(value), "while_loop")._node))
        return (going, cond(going, lambda v: carried(v, body_fun(v), "while_loop"), lambda v: v, value)), None

    (_, value), _ = scan(step, (wrap(ew.full((), True, dtypes.bool_)), init_val), length=maximum)
    return value


def map(f: Callable[..., Any], xs: Any, *, chunk_size: int | None = None) -> Any:
    """f of every slice of xs along the first dimension, stacked: fp.vmap with JAX's name and order.

    All slices are computed at once, or chunk_size at a time.
    """
    return vmap(f, randomness="different", chunk_size=chunk_size)(xs)
