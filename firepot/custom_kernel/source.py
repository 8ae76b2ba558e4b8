"""The source of a kernel: its syntax tree, the names it uses, and errors that point to its lines."""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

ALLOWED = (
    "a kernel may use assignments to variables and output elements, for over range and fp.kernel.parallel, while, if, "
    "break, continue, arithmetic, comparisons, and / or / not, x if c else y, x[i, j], x.shape[d], len, abs, min, max, "
    "int, float, bool, functions of math and their namesakes of fp, and dtypes as conversions"
)
_SYNTAX = (
    ast.Assign, ast.AugAssign, ast.For, ast.While, ast.If, ast.Break, ast.Continue, ast.Pass, ast.Expr, ast.Name,
    ast.Constant, ast.Tuple, ast.Subscript, ast.Attribute, ast.Call, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare,
    ast.IfExp, ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


class Source:
    """A function's source, checked for syntax that no kernel has.

    Raises SyntaxError with file and line of what is not allowed; TypeError where there is no source to read.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.name = function.__name__
        self.file = inspect.getsourcefile(function) or "<unknown>"
        try:
            lines, first = inspect.getsourcelines(function)
        except OSError:
            raise TypeError(
                f"fp.kernel: the source of {self.name} cannot be read; define it in a file or a notebook cell"
            ) from None
        self.lines = lines
        self.first = first
        (tree,) = ast.parse(textwrap.dedent("".join(lines))).body
        if not isinstance(tree, ast.FunctionDef):
            raise TypeError("fp.kernel: a kernel is a function made by def")
        a = tree.args
        if a.vararg or a.kwarg or a.kwonlyargs or a.defaults or a.posonlyargs:
            raise self.error(tree, "a kernel's parameters have no defaults, * or **")
        self.parameters = [p.arg for p in a.args]
        self.body = tree.body
        if isinstance(self.body[0], ast.Expr) and isinstance(self.body[0].value, ast.Constant):
            self.body = self.body[1:]  # the docstring
        for statement in self.body:
            for node in ast.walk(statement):
                if not isinstance(node, _SYNTAX):
                    raise self.error(node, f"{_said(node)} is not allowed; {ALLOWED}")
        used = {n.id for s in self.body for n in ast.walk(s) if isinstance(n, ast.Name)}
        self.free = sorted(used - set(self.parameters))

    def place(self, node: ast.AST) -> str:
        """'file:line'."""
        return f"{self.file}:{self.line(node)}"

    def line(self, node: ast.AST) -> int:
        return self.first + int(getattr(node, "lineno", 1)) - 1

    def text(self, node: ast.AST) -> str:
        return self.lines[int(getattr(node, "lineno", 1)) - 1]

    def error(self, node: ast.AST, message: str) -> SyntaxError:
        text = self.text(node)
        indent = len(self.lines[0]) - len(self.lines[0].lstrip())
        column = int(getattr(node, "col_offset", 0)) + indent + 1
        return SyntaxError(f"kernel {self.name}: {message}", (self.file, self.line(node), column, text))

    def outside(self, name: str) -> Any:
        """What a name means that is no variable of the kernel. Raises KeyError."""
        code, closure = self.function.__code__, self.function.__closure__
        if closure is not None and name in code.co_freevars:
            try:
                return closure[code.co_freevars.index(name)].cell_contents
            except ValueError:  # not assigned yet
                raise KeyError(name) from None
        if name in self.function.__globals__:
            return self.function.__globals__[name]
        return vars(builtins)[name]

    def numbers(self) -> tuple[tuple[str, type, Any], ...]:
        """The numbers outside that the kernel uses: they are constants of it."""
        found = []
        for name in self.free:
            try:
                value = self.outside(name)
            except KeyError:
                continue
            if isinstance(value, (bool, int, float)):
                found.append((name, type(value), repr(value)))
        return tuple(found)

    def resolve(self, node: ast.expr) -> Any:
        """The object that a name or a module's attribute stands for; None where there is none."""
        if isinstance(node, ast.Name):
            try:
                return self.outside(node.id)
            except KeyError:
                return None
        if isinstance(node, ast.Attribute):
            owner = self.resolve(node.value)
            if isinstance(owner, (types.ModuleType, type)):
                return getattr(owner, node.attr, None)
        return None


_NAMES = {
    "Return": "return (a kernel writes to its outputs)", "ListComp": "a comprehension", "With": "with",
    "FunctionDef": "a function inside a kernel", "Lambda": "lambda", "Try": "try", "Raise": "raise",
    "Assert": "assert", "Slice": "a slice", "List": "a list", "Dict": "a dict", "Starred": "*", "JoinedStr": "a string",
    "AnnAssign": "an annotation", "Import": "import", "NamedExpr": ":=", "Delete": "del",
}  # fmt: skip


def _said(node: ast.AST) -> str:
    name = type(node).__name__
    return _NAMES.get(name, name)
