"""checkpoint: a function whose intermediate values the backward pass computes again instead of keeping."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from firepot import tree
from firepot.graph.node import grad_mode, mark
from firepot.tensor import Tensor, wrap
from firepot.transforms import recompute


def checkpoint(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`func` with less memory: its intermediate values are not kept for the backward pass but computed again there.

    Random numbers are the same both times. Nested checkpoints recompute step by step. Without further arguments the
    new function is returned (as jax.checkpoint); with arguments it is called (as torch.utils.checkpoint.checkpoint).

    Chen et al., Training deep nets with sublinear memory cost (2016).

    >>> x = fp.randn(4, 8)
    >>> for block in (nn.Linear(8, 8), nn.Linear(8, 8)):
    ...     x = fp.checkpoint(block)(x)
    >>> x.sum().backward()
    """
    if args or kwargs:
        return checkpoint(func)(*args, **kwargs)

    @functools.wraps(func, updated=())
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not grad_mode.enabled:
            return func(*args, **kwargs)
        leaves, structure = tree.flatten((args, kwargs))
        marks = []
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                marks.append(mark(leaf._node, leaf.requires_grad))
                leaves[i] = wrap(marks[-1])
        args, kwargs = tree.unflatten(structure, leaves)
        result = func(*args, **kwargs)
        if marks:
            recompute.register(marks, [r._node for r in tree.leaves(result) if isinstance(r, Tensor)])
        return result

    return checkpointed
