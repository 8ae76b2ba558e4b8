"""Whether operations record history: `no_grad`, `enable_grad`, `set_grad_enabled`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from firepot.graph.node import grad_mode


class _GradSwitch:
    """A context manager and decorator that sets grad mode."""

    def __init__(self, mode: bool) -> None:
        self._mode = mode
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before.append(grad_mode.enabled)
        grad_mode.enabled = self._mode

    def __exit__(self, *exception: object) -> None:
        grad_mode.enabled = self._before.pop()

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        import functools

        mode = self._mode

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with _GradSwitch(mode):
                return function(*args, **kwargs)

        return wrapped


def no_grad(function: Callable[..., Any] | None = None) -> Any:
    """Record no history inside: `with fp.no_grad(): …` or as a decorator.

    >>> w = fp.ones(2, requires_grad=True)
    >>> with fp.no_grad():
    ...     w.mul_(3.0)
    ...     print((w * 2).requires_grad)
    tensor([3., 3.], requires_grad=True)
    False
    """
    return _GradSwitch(False) if function is None else _GradSwitch(False)(function)


inference_mode = no_grad


def enable_grad(function: Callable[..., Any] | None = None) -> Any:
    """Record history inside a no_grad region."""
    return _GradSwitch(True) if function is None else _GradSwitch(True)(function)


class set_grad_enabled(_GradSwitch):
    """Set grad mode, at once or for a `with` block."""

    def __init__(self, mode: bool) -> None:
        super().__init__(mode)
        self._before.append(grad_mode.enabled)
        grad_mode.enabled = mode

    def __enter__(self) -> None:
        pass


def is_grad_enabled() -> bool:
    """Whether operations record history: False under no_grad."""
    return grad_mode.enabled
