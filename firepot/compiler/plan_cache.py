"""Plans on disk: a process that records a graph which an earlier one compiled plans nothing and compiles nothing.

A plan lies beside the object code that it refers to. Its name is a digest of everything that it depends on: the
recorded graph, the arguments of the compiler, its source and that of everything below it, the processor and LLVM. A
graph with something in it that cannot be written down without doubt (a person's own loops, say) has no name and is
planned anew.
"""

from __future__ import annotations

import functools
import hashlib
import marshal
import os
from collections.abc import Mapping
from typing import Any

from firepot.compiler import debug
from firepot.compiler.execute import Executor
from firepot.compiler.plan import from_bytes, to_bytes
from firepot.graph.dtypes import DType
from firepot.graph.node import Primitive
from firepot.graph.primitives.loop import Body
from firepot.runtime import engine
from firepot.runtime.processor import processor


def _wanted() -> bool:
    given = os.environ.get("FIREPOT_PLAN_CACHE", "").strip()
    if given not in ("", "0", "1"):
        raise ValueError(f"FIREPOT_PLAN_CACHE must be 0 or 1, not {given!r}")
    return given != "0"


ENABLED = _wanted()  # read once, when the compiler is first needed


def name_of(structure: Any, arguments: Mapping[str, Any]) -> str | None:
    """The name of the plan for a graph; None where there is none.

    Args:
        structure: of the recorded graph, as `simplify.structure` gives it.
        arguments: all others that the compiler gets, by name.
    """
    if not ENABLED or debug.LEVEL >= 2:  # there is nothing to print of a plan
        return None
    entries, outputs = structure
    try:
        graph = [
            (_primitive(e[0]), _plain(e[1]), e[2]) if len(e) == 3 else e  # an operation, or a value that is given
            for e in entries
        ]
        # Version 2 writes equal values as equal bytes: no references, no marks of interned strings.
        content = marshal.dumps((graph, outputs, sorted(arguments.items())), 2)
    except (_NotPlain, ValueError):
        return None
    return hashlib.sha256(_compiler_key() + content).hexdigest()


def load(name: str) -> Executor | None:
    """The executor of the plan stored under a name; None where it, or code that it refers to, is not there."""
    data = engine.code_cache().load(name)
    if data is None:
        return None
    plan = from_bytes(data)
    functions = engine.find(plan.codes())
    return None if functions is None else Executor(plan, functions)


def store(name: str, executor: Executor) -> None:
    """Keep the plan of an executor under a name."""
    engine.code_cache().store(name, to_bytes(executor.plan))


@functools.cache
def _compiler_key() -> bytes:
    sources = engine.source_digest(
        "compiler/*.py", "graph/**/*.py", "kernels/**/*.py", "runtime/*.py", "transforms/*.py"
    )
    return f"plan\n{engine.target_key()}{processor()}\n{sources}\n".encode()


class _NotPlain(Exception):
    """A value that has no sure form as bytes."""


def _plain(value: Any) -> Any:
    """A parameter out of what `marshal` writes without loss."""
    kind = type(value)
    if kind is tuple:
        return tuple([_plain(v) for v in value])
    if kind in (int, float, complex, bool, str, type(None)):
        return value
    if kind is DType:
        return ("dtype", value.name)
    if kind is Body:
        carries, slices, entries, results = value.key
        operations = [e if len(e) == 2 else (_primitive(e[0]), _plain(e[1]), *e[2:]) for e in entries]
        return ("body", carries, slices, operations, results)
    raise _NotPlain


_names: dict[Primitive, str] = {}
_primitives: dict[str, Primitive] = {}


def _primitive(primitive: Primitive) -> str:
    """What a primitive is called. Firepot's own are told apart by class and name."""
    found = _names.get(primitive)
    if found is None:
        kind = type(primitive)
        found = f"{kind.__module__}.{kind.__qualname__} {primitive.name}"
        if not found.startswith(("firepot.graph.", "firepot.transforms.")) or _primitives.setdefault(found, primitive) is not primitive:
            raise _NotPlain
        _names[primitive] = found
    return found
