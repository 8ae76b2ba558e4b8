"""Module and Parameter: layers that hold state."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import repeat
from typing import Any

from firepot.grad_mode import no_grad
from firepot.graph.dtypes import DType
from firepot.graph.node import detach
from firepot.tensor import Device, Tensor
from firepot.tracing import Same, depend_on, depend_on_attributes, effect, state, state_changed, written_here


class Parameter(Tensor):
    """A tensor that a Module trains: assigned to a module's attribute, it becomes one of its parameters.

    A leaf that requires grad, with the value of `data` (floating point).

    >>> nn.Parameter(fp.zeros(2)).requires_grad
    True
    """

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        super().__init__(detach(data._node))
        if requires_grad:
            self.requires_grad_()

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class Buffer(Tensor):
    """A tensor that is a module's state but is not trained."""

    def __init__(self, data: Tensor, persistent: bool = True) -> None:
        super().__init__(detach(data._node))
        self.persistent = persistent


class _Table(OrderedDict[Any, Any]):
    """A module's parameters, buffers, submodules or hooks by name: captured functions are told of each change."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        state_changed()

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        state_changed()

    def pop(self, *args: Any) -> Any:
        found = super().pop(*args)
        state_changed()
        return found

    def popitem(self, last: bool = True) -> Any:
        found = super().popitem(last)
        state_changed()
        return found

    def clear(self) -> None:
        super().clear()
        state_changed()


_TABLES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
_PLAIN = (bool, int, float, str, type(None))


class RemovableHandle:
    """Takes a hook off again with `remove()`."""

    def __init__(self, hooks: dict[int, Any], number: int) -> None:
        self._hooks, self._number = hooks, number

    def remove(self) -> None:
        self._hooks.pop(self._number, None)


class IncompatibleKeys:
    """What load_state_dict(strict=False) did not match."""

    def __init__(self, missing_keys: list[str], unexpected_keys: list[str]) -> None:
        self.missing_keys, self.unexpected_keys = missing_keys, unexpected_keys

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys(missing_keys={self.missing_keys}, unexpected_keys={self.unexpected_keys})"


class Module:
    """The base of all layers. Subclasses assign parameters and submodules in __init__ and define forward.

    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = nn.Linear(4, 2)
    ...     def forward(self, x):
    ...         return self.layer(x).relu()
    >>> net = Net()
    >>> net(fp.randn(3, 4)).shape, list(net.state_dict())
    ((3, 2), ['layer.weight', 'layer.bias'])
    """

    def __init__(self) -> None:
        set_ = object.__setattr__
        for table in _TABLES:
            set_(self, table, _Table())
        set_(self, "_persistent", set())
        set_(self, "_training", True)

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _persistent: set[str]
    _modules: dict[str, Module | None]
    _forward_hooks: dict[int, Any]
    _forward_pre_hooks: dict[int, Any]
    _training: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} needs a method forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if state.trace is not None:
            self._depend_on_attributes()
        for hook in list(self._forward_pre_hooks.values()):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        result = self.forward(*args, **kwargs)
        for hook in list(self._forward_hooks.values()):
            changed = hook(self, args, result)
            if changed is not None:
                result = changed
        return result

    # -- attributes --------------------------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Parameter, Module, Buffer)) and "_parameters" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning {name}")
        if isinstance(value, Parameter):
            self._remove(name)
            self._parameters[name] = value
        elif isinstance(value, Module):
            self._remove(name)
            self._modules[name] = value
        elif isinstance(value, Buffer):
            self._remove(name)
            self.register_buffer(name, value, value.persistent)
        elif name in self.__dict__.get("_parameters", ()):
            if value is not None:
                raise TypeError(
                    f"cannot assign a {type(value).__name__} as parameter '{name}'; a Parameter or None is expected"
                )
            self._parameters[name] = None
        elif name in self.__dict__.get("_buffers", ()):
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"cannot assign a {type(value).__name__} as buffer '{name}'; a Tensor or None is expected"
                )
            self._buffers[name] = value
        elif name in self.__dict__.get("_modules", ()) and value is None:
            self._modules[name] = None
        else:
            object.__setattr__(self, name, value)
            state_changed()

    def _depend_on_attributes(self) -> None:
        """Tell the running capture that it depends on what this module and those in it hold."""
        for m in self.modules():
            depend_on_attributes(m, m._held)

    def _held(self) -> dict[Any, Any]:
        """Every attribute's value, or its identity where it is no plain number, text or tuple of them."""
        found: dict[Any, Any] = {}
        for name, value in self.__dict__.items():
            if name in _TABLES:
                for key, held in value.items():
                    found[key if isinstance(key, str) else f"hook {key}"] = Same(held)
            elif isinstance(value, _PLAIN):
                if name != "_training":  # has a condition of its own, where it is read
                    found[name] = (value.__class__, value)
            elif isinstance(value, (tuple, list)) and all(isinstance(v, _PLAIN) for v in value):
                found[name] = tuple((v.__class__, v) for v in value)
            else:
                found[name] = Same(value)
        return found

    def _remove(self, name: str) -> None:
        self.__dict__.pop(name, None)
        self._parameters.pop(name, None)
        self._buffers.pop(name, None)
        self._modules.pop(name, None)

    def __getattr__(self, name: str) -> Any:
        for table in ("_parameters", "_buffers", "_modules"):
            found = self.__dict__.get(table)
            if found is not None and name in found:
                if state.trace is not None:
                    self._depend_on_attributes()
                return found[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __delattr__(self, name: str) -> None:
        for table in (self._parameters, self._buffers, self._modules):
            if name in table:
                del table[name]
                return
        object.__delattr__(self, name)
        state_changed()

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *self._parameters, *self._buffers, *self._modules]

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        self._remove(name)
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """State that is saved with the module (unless persistent is False) but not trained."""
        self._buffers[name] = tensor
        (self._persistent.add if persistent else self._persistent.discard)(name)

    def register_module(self, name: str, module: Module | None) -> None:
        self._modules[name] = module

    add_module = register_module

    def get_submodule(self, target: str) -> Module:
        found: Any = self
        for part in target.split(".") if target else ():
            found = getattr(found, part)
        assert isinstance(found, Module)
        return found

    # -- mode --------------------------------------------------------------------------------------------------------

    @property
    def training(self) -> bool:
        """Whether the module trains (dropout drops, batch norm uses the batch) or is evaluated."""
        if state.trace is not None and not written_here(self):
            depend_on(lambda: self._training, f"whether {type(self).__name__} is in training mode", announced=True)
        return self._training

    @training.setter
    def training(self, value: bool) -> None:
        self._set_mode([self], value)

    def train(self, mode: bool = True) -> Any:
        self._set_mode(list(self.modules()), mode)
        return self

    def _set_mode(self, modules: list[Module], mode: bool) -> None:
        before = [m._training for m in modules]

        def change(modes: Iterable[bool]) -> None:
            changed = False
            for m, new in zip(modules, modes, strict=False):
                changed = changed or m._training != new
                object.__setattr__(m, "_training", new)
            if changed:
                state_changed()

        change(repeat(mode))
        effect(modules, lambda: change(repeat(mode)), lambda: change(before))

    def eval(self) -> Any:
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        for p in self.parameters():
            p.requires_grad_(requires_grad)
        return self

    # -- going through -----------------------------------------------------------------------------------------------

    def named_modules(self, memo: set[Any] | None = None, prefix: str = "") -> Iterator[tuple[str, Module]]:
        memo = set() if memo is None else memo
        if self in memo:
            return
        memo.add(self)
        yield prefix, self
        for name, m in self._modules.items():
            if m is not None:
                yield from m.named_modules(memo, f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        for _, m in self.named_modules():
            yield m

    def named_children(self) -> Iterator[tuple[str, Module]]:
        for name, m in self._modules.items():
            if m is not None:
                yield name, m

    def children(self) -> Iterator[Module]:
        for _, m in self.named_children():
            yield m

    def _named(self, table: str, prefix: str, recurse: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, m in self.named_modules(prefix=prefix) if recurse else [(prefix, self)]:
            for name, value in getattr(m, table).items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        return self._named("_parameters", prefix, recurse)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        for _, p in self.named_parameters(recurse=recurse):
            yield p

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        return self._named("_buffers", prefix, recurse)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        for _, b in self.named_buffers(recurse=recurse):
            yield b

    def apply(self, fn: Callable[[Module], Any]) -> Any:
        for m in self.children():
            m.apply(fn)
        fn(self)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        for p in self.parameters():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                p.grad.zero_()

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Convert floating parameters and buffers to a dtype. RuntimeError for a device that is not the CPU."""
        for device in (*(a for a in args if isinstance(a, (str, Device))), kwargs.get("device")):
            if device is not None:
                Device(device)
        dtype = kwargs.get("dtype") or next((a for a in args if isinstance(a, DType)), None)
        if dtype is not None:
            for m in self.modules():
                m._dtype_asked(dtype)
            for t in [*self.parameters(), *self.buffers()]:
                if t.dtype.kind == "f" and t.dtype is not dtype:
                    _convert(t, dtype)
        return self

    def float(self) -> Any:
        from firepot.graph.dtypes import float32

        return self.to(float32)

    def double(self) -> Any:
        from firepot.graph.dtypes import float64

        return self.to(float64)

    def half(self) -> Any:
        from firepot.graph.dtypes import float16

        return self.to(float16)

    def bfloat16(self) -> Any:
        from firepot.graph.dtypes import bfloat16

        return self.to(bfloat16)

    def cpu(self) -> Any:
        return self

    # -- hooks -------------------------------------------------------------------------------------------------------

    def register_forward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """hook(module, args, result) after forward; what it returns replaces the result."""
        return _register(self._forward_hooks, hook)

    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """hook(module, args) before forward; what it returns replaces the arguments."""
        return _register(self._forward_pre_hooks, hook)

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self, *, prefix: str = "", keep_vars: bool = False) -> OrderedDict[str, Tensor]:
        """Parameters and persistent buffers by dotted names, as PyTorch's."""
        result: OrderedDict[str, Tensor] = OrderedDict()
        self._collect(result, prefix, keep_vars)
        return result

    def _collect(self, result: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        for name, p in self._parameters.items():
            if p is not None:
                result[prefix + name] = p if keep_vars else p.detach()
        for name, b in self._buffers.items():
            if b is not None and name in self._persistent:
                result[prefix + name] = b if keep_vars else b.detach()
        for name, m in self._modules.items():
            if m is not None:
                m._collect(result, f"{prefix}{name}.", keep_vars)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Take over parameters and buffers by name. Raises RuntimeError listing what does not fit."""
        for path, m in self.named_modules():
            m._before_loading(state_dict, f"{path}." if path else "")
        own = self.state_dict(keep_vars=True)
        missing = [k for k in own if k not in state_dict]
        unexpected = [k for k in state_dict if k not in own]
        problems = []
        if strict and missing:
            problems.append("Missing key(s) in state_dict: " + ", ".join(f'"{k}"' for k in missing))
        if strict and unexpected:
            problems.append("Unexpected key(s) in state_dict: " + ", ".join(f'"{k}"' for k in unexpected))
        for k, t in own.items():
            if k in state_dict and tuple(state_dict[k].shape) != t.shape:
                problems.append(
                    f"size mismatch for {k}: the state has shape {list(state_dict[k].shape)}, the module {list(t.shape)}"
                )
        if problems:
            raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(problems))
        with no_grad():
            for k, t in own.items():
                if k in state_dict:
                    t.copy_(state_dict[k])
        return IncompatibleKeys(missing, unexpected)

    def _before_loading(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """What a layer whose sizes are still open does with a state that has them."""

    def _dtype_asked(self, dtype: DType) -> None:
        """What a layer whose parameters are still to come does with the dtype they shall have."""

    def extra_repr(self) -> str:
        return ""

    def _get_name(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = [f"({name}): " + repr(m).replace("\n", "\n  ") for name, m in self._modules.items()]
        if not lines:
            return f"{self._get_name()}({extra})"
        return f"{self._get_name()}(\n  " + "\n  ".join(([extra] if extra else []) + lines) + "\n)"


def _convert(tensor: Tensor, dtype: DType) -> None:
    """Point a parameter or buffer to its value under another dtype."""
    trained = tensor.requires_grad
    value = tensor.detach().to(dtype)._value
    tensor._point(value)
    tensor._grad = None
    if trained:
        tensor.requires_grad_()


_numbers = iter(range(1 << 62))


def _register(hooks: dict[int, Any], hook: Callable[..., Any]) -> RemovableHandle:
    number = next(_numbers)
    hooks[number] = hook
    return RemovableHandle(hooks, number)
