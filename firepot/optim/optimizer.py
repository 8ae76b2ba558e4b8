"""The base of optimisers: parameter groups, state, and how a step meets the compiler.

A group's numbers (learning rate, weight decay, …) reach the graph as 0-d tensors, so a schedule changes them without
a new program, also in a captured step. Numbers that switch structure (weight decay zero or not) are declared to the
capture instead. State is made outside of a capture, so that it exists before the captured step starts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any

from firepot import ops
from firepot.grad_mode import no_grad
from firepot.graph import dtypes
from firepot.graph.node import Node
from firepot.tensor import Tensor, commit, wrap
from firepot.tracing import Same, depend_on, on_abandon, outside_trace, state, state_changed


class Group(dict[str, Any]):
    """A parameter group: PyTorch's dict, whose numbers can be had as tensors."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._tensors: dict[str, tuple[float, Tensor]] = {}

    def tensor(self, name: str) -> Tensor:
        """The number under `name` as a 0-d tensor, always the same handle; "betas.0" is the first of a tuple.

        float64, so that 1 − beta keeps its digits; as a 0-d tensor it does not widen what it is multiplied with.
        """
        key, _, place = name.partition(".")
        number = float(self[key][int(place)] if place else self[key])
        found = self._tensors.get(name)
        if found is not None and found[0] == number:
            return found[1]
        with outside_trace():
            fresh = ops.tensor(number, dtype=dtypes.float64)
            if found is not None:
                found[1]._point(fresh._value)
                fresh = found[1]
        self._tensors[name] = (number, fresh)
        return fresh

    def structure(self) -> Any:
        """What of the settings a program was made for: all of them, but of the tensors only whether they are zero."""
        changing = {name.partition(".")[0] for name in self._tensors}
        return tuple(
            (k, bool(v) if k in changing else v) for k, v in self.items() if k != "params" and k not in _SCHEDULE
        )

    def __setitem__(self, name: str, value: Any) -> None:
        before = self.get(name)
        tensors = [t for t in self.__dict__.get("_tensors", ()) if t.partition(".")[0] == name]
        if state.trace is not None and name not in _SCHEDULE and not _equal(before, value):
            state.trace.refuse(f"the optimiser's setting {name!r} was changed (by a scheduler?)")
        super().__setitem__(name, value)
        if name not in _SCHEDULE and not (tensors and bool(before) == bool(value)):
            state_changed()  # else it is the value of a tensor that programs read
        for known in tensors:
            self.tensor(known)

    # The dict's other ways to change go through __setitem__, so that captured functions are told.

    def update(self, *args: Any, **kwargs: Any) -> None:
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def __ior__(self, other: Any) -> Group:  # type: ignore[override,misc]
        self.update(other)
        return self

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        state_changed()

    def pop(self, *args: Any) -> Any:
        found = super().pop(*args)
        state_changed()
        return found

    def __reduce__(self) -> Any:
        return Group, (dict(self),)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):  # of parameters: == would compare their elements
        return [*map(id, a)] == [*map(id, b)]
    return bool(a == b)


class StateTable(dict[Any, Any]):
    """The optimiser's state, or that of one parameter: captured functions are told of each change."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, StateTable(value) if type(value) is dict else value)
        state_changed()

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        state_changed()

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, *args: Any) -> Any:
        found = super().pop(*args)
        state_changed()
        return found

    def popitem(self) -> Any:
        found = super().popitem()
        state_changed()
        return found

    def clear(self) -> None:
        super().clear()
        state_changed()


# Settings that schedules keep in the groups and no update reads.
_SCHEDULE = frozenset(("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum"))


class Optimizer:
    """Holds parameter groups and each parameter's state. Subclasses define `update`, and `initial` if they have state.

    Args:
        params: parameters, (name, parameter) pairs, or dicts with "params" and settings of their own.
        defaults: the settings of groups that do not give them.

    >>> class SignDescent(fp.optim.Optimizer):
    ...     def update(self, parameter, gradient, state, group):
    ...         parameter.sub_(gradient.sign() * group.tensor("lr"))
    >>> weight = nn.Parameter(fp.tensor([1.0, -1.0]))
    >>> opt = SignDescent([weight], {"lr": 0.25})
    >>> weight.square().sum().backward()
    >>> opt.step()
    >>> weight.tolist()
    [0.75, -0.75]
    """

    found_inf: Tensor | None = None  # bool and 0-d: where it is true, a step changes nothing (amp.GradScaler sets it)

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got Tensor"
            )
        self.defaults = defaults
        self._state = StateTable()
        self.param_groups: list[Group] = []
        given = list(params)
        if not given:
            raise ValueError("optimizer got an empty parameter list")
        for group in given if isinstance(given[0], dict) else [{"params": given}]:
            self.add_param_group(group)

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """Each parameter's state: tensors and numbers by name."""
        return self._state

    @state.setter
    def state(self, value: Mapping[Tensor, dict[str, Any]]) -> None:
        self._state = StateTable()
        self._state.update(value)
        state_changed()

    def _held(self) -> Hashable:
        """What a captured step depends on: which tensors are the state."""
        return tuple(
            tuple((name, Same(v)) for name, v in self._state.get(p, {}).items())
            for group in self.param_groups for p in group["params"]
        )  # fmt: skip

    def _parameters(self) -> Hashable:
        return tuple([tuple(map(id, group["params"])) for group in self.param_groups])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own."""
        group = {k: v for k, v in param_group.items() if k != "params"}
        params = param_group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        named = [isinstance(p, tuple) for p in params]
        if any(named) and not all(named):
            raise ValueError("all optimizer params should be with/without names. Some param names are missing")
        if self.param_groups and any(named) != ("param_names" in self.param_groups[0]):
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group with names to the "
                "optimizer, or without them to one that has them"
            )
        if any(named):
            group["param_names"] = [p[0] for p in params]
        params = [p[1] if isinstance(p, tuple) else p for p in params]
        known = {id(p) for g in self.param_groups for p in g["params"]}
        for p in params:
            if not isinstance(p, Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}")
            if not p.is_leaf:
                raise ValueError("can't optimize a non-leaf Tensor")
            if id(p) in known:
                raise ValueError("some parameters appear in more than one parameter group")
            known.add(id(p))
        self.param_groups.append(Group({"params": params, **self.defaults, **group}))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients (or set them to zero)."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif p.grad is not None:
                    p.grad = ops.zeros_like(p)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; with a closure, call it first and return its loss."""
        loss = closure() if closure is not None else None
        before: list[tuple[Tensor, Node]] = []
        with no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    gradient = p.grad
                    if gradient is None:
                        continue
                    known = self._state.get(p)
                    if known is None:
                        with outside_trace():
                            self._state[p] = self.initial(p, group)
                        known = self._state[p]
                        on_abandon(partial(self._state.pop, p, None))
                    changed = [(t, t._node) for t in (p, *known.values()) if isinstance(t, Tensor)]
                    before += changed
                    self.update(p, gradient, known, group)
                    if self.found_inf is not None:
                        for t, old in changed:
                            t.copy_(ops.where(self.found_inf, wrap(old), t))
                depend_on(group.structure, f"a setting of {type(self).__name__}", announced=True)
        depend_on(self._held, f"the state of {type(self).__name__}", announced=True)
        depend_on(self._parameters, f"the parameters of {type(self).__name__}")
        try:
            commit(t for t, _ in before)
        except IndexError:  # the gradients do not exist: no part of the step is to have happened
            for t, node in before:
                t._point(node)
            raise
        return loss

    def initial(self, parameter: Tensor, group: Group) -> dict[str, Any]:
        """The state of a parameter before its first update."""
        return {}

    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: Group) -> None:
        """Change the parameter and its state in place."""
        raise NotImplementedError(f"{type(self).__name__} needs a method update")

    def state_dict(self) -> dict[str, Any]:
        """State by parameter number, and the groups' settings."""
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                numbers.setdefault(id(p), len(numbers))
            groups.append(
                {k: v for k, v in group.items() if k != "params"}
                | {"params": [numbers[id(p)] for p in group["params"]]}
            )
        state = {
            numbers[id(p)]: {k: v.detach() if isinstance(v, Tensor) else v for k, v in s.items()}
            for p, s in self.state.items()
        }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what state_dict() gave. Raises ValueError if the groups do not match."""
        groups = state_dict["param_groups"]
        sizes, own = [len(g["params"]) for g in groups], [len(g["params"]) for g in self.param_groups]
        if sizes != own:
            raise ValueError(f"loaded state dict has parameter groups of sizes {sizes}, the optimizer's are {own}")
        parameters: dict[int, Tensor] = {}
        for group, loaded in zip(self.param_groups, groups, strict=True):
            parameters.update(zip(loaded["params"], group["params"], strict=True))
            for k, v in loaded.items():
                if k != "params":
                    group[k] = tuple(v) if isinstance(v, list) and isinstance(group.get(k), tuple) else v
        for number, values in state_dict["state"].items():
            parameter = parameters[int(number)]
            fresh: dict[str, Any] = {}
            for k, v in values.items():
                if isinstance(v, Tensor):
                    fresh[k] = v.detach().clone()
                    if v.shape == parameter.shape and parameter.ndim:
                        fresh[k] = fresh[k].to(parameter.dtype)
                else:
                    fresh[k] = v
            self.state[parameter] = fresh

    def __repr__(self) -> str:
        lines = []
        for i, group in enumerate(self.param_groups):
            settings = "\n".join(f"    {k}: {group[k]}" for k in sorted(group) if k != "params")
            lines.append(f"Parameter Group {i}\n{settings}")
        return f"{type(self).__name__} (\n" + "\n".join(lines) + "\n)"


def zeros_for(parameter: Tensor, names: Iterable[str]) -> dict[str, Any]:
    """State tensors of zeros shaped as the parameter."""
    return {n: ops.zeros_like(parameter.detach()) for n in names}


def counter() -> Tensor:
    """A count of steps: a 0-d float32 tensor, as PyTorch's."""
    return ops.tensor(0.0, dtype=dtypes.float32)


def check(what: str, **values: tuple[float, float, float]) -> None:
    """Raise ValueError for a setting outside its limits: name=(value, least, most)."""
    for name, (value, least, most) in values.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"{what}: Tensor {name} must be 1-element, got shape {list(value.shape)}")
        if not least <= value <= most:
            raise ValueError(f"{what}: invalid {name}: {value}; it must lie between {least} and {most}")
