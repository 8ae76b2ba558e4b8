"""Recurrent layers: RNN, LSTM, GRU, and their cells."""

from __future__ import annotations

import math
from typing import Any

from firepot import ops
from firepot.autocast_mode import lowered
from firepot.func.control import scan
from firepot.graph.dtypes import DType
from firepot.nn import functional as F
from firepot.nn import init
from firepot.nn.module import Module, Parameter
from firepot.tensor import Tensor, wrap

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]

State = tuple[Tensor, ...]

# Longer sequences are a loop, whose step is compiled once: written out, a step of an LSTM takes 25 ms to compile. It
# runs as fast either way (both 35 ms for 64 steps of 256 by 32, forward and backward, on the 2 cores of the README).
_UNROLLED = 64


def _rnn_step(gates: Tensor, hidden: Tensor, state: State, activation: Any) -> State:
    return (activation(gates + hidden),)


def _lstm_step(gates: Tensor, hidden: Tensor, state: State, activation: Any) -> State:
    """Hochreiter and Schmidhuber, Long short-term memory (1997), with forget gates."""
    i, f, g, o = ops.chunk(gates + hidden, 4, -1)
    cell = ops.sigmoid(f) * state[1] + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(cell), cell


def _gru_step(gates: Tensor, hidden: Tensor, state: State, activation: Any) -> State:
    """Cho et al. (2014), with the reset gate after the product, as PyTorch's."""
    input_r, input_z, input_n = ops.chunk(gates, 3, -1)
    hidden_r, hidden_z, hidden_n = ops.chunk(hidden, 3, -1)
    reset, update = ops.sigmoid(input_r + hidden_r), ops.sigmoid(input_z + hidden_z)
    new = ops.tanh(input_n + reset * hidden_n)
    return ((state[0] - new) * update + new,)


class _Recurrent(Module):
    """Layers of one kind of cell. State: weight_ih_l0 (gates·hidden, in), weight_hh_l0, bias_ih_l0, bias_hh_l0, …,
    with the suffix _reverse for the second direction."""

    gates = 1
    step = staticmethod(_rnn_step)
    activation: Any = None

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None,
        dtype: DType | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        if hidden_size <= 0 or num_layers <= 0:
            raise ValueError(f"{name}: hidden_size and num_layers must be positive, got {hidden_size} and {num_layers}")
        if proj_size and self.step is not _lstm_step:
            raise ValueError(f"{name}: proj_size argument is only supported for LSTM, not RNN or GRU")
        if not 0 <= proj_size < hidden_size:
            raise ValueError(f"{name}: proj_size must be 0 … hidden_size − 1, got {proj_size}")
        self.proj_size = proj_size
        if not 0 <= dropout <= 1:
            raise ValueError(f"{name}: dropout should be a probability, got {dropout}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        self._directions = ("", "_reverse") if bidirectional else ("",)
        width = self.gates * hidden_size
        seen = proj_size or hidden_size  # the size of a step's output
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else seen * len(self._directions)
            for suffix in self._directions:
                sizes: dict[str, tuple[int, ...]] = {"weight_ih": (width, inputs), "weight_hh": (width, seen)}
                if bias:
                    sizes |= {"bias_ih": (width,), "bias_hh": (width,)}
                if proj_size:
                    sizes["weight_hr"] = (proj_size, hidden_size)
                for kind, shape in sizes.items():
                    setattr(self, f"{kind}_l{layer}{suffix}", Parameter(ops.zeros(*shape, dtype=dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def _states(self) -> int:
        return 2 if self.step is _lstm_step else 1

    def _run(self, input: Tensor, initial: State | None) -> tuple[Tensor, State]:
        """(L, N, in) -> (L, N, directions · hidden), and the last states (layers · directions, N, hidden)."""
        _length, batch, width = input.shape
        if width != self.input_size:
            raise RuntimeError(
                f"{type(self).__name__}: input.size(-1) must be equal to input_size. Expected {self.input_size}, got {width}"
            )
        count = self.num_layers * len(self._directions)
        sizes = [self.proj_size or self.hidden_size, self.hidden_size][: self._states()]
        if initial is None:
            initial = tuple(ops.zeros(count, batch, size, dtype=input.dtype) for size in sizes)
        for s, size in zip(initial, sizes, strict=True):
            if s.shape != (count, batch, size):
                raise RuntimeError(
                    f"{type(self).__name__}: expected hidden size {(count, batch, size)}, got {list(s.shape)}"
                )
        ends: list[State] = []
        for layer in range(self.num_layers):
            outputs = []
            for d, suffix in enumerate(self._directions):
                number = layer * len(self._directions) + d
                state = tuple(s[number] for s in initial)
                seen, state = self._direction(input, state, f"_l{layer}{suffix}", reverse=bool(suffix))
                outputs.append(seen)
                ends.append(state)
            input = outputs[0] if len(outputs) == 1 else ops.cat(outputs, -1)
            if self.dropout and layer + 1 < self.num_layers:
                input = F.dropout(input, self.dropout, self.training)
        return input, tuple(ops.stack([e[i] for e in ends]) for i in range(self._states()))

    def _direction(self, input: Tensor, state: State, suffix: str, reverse: bool) -> tuple[Tensor, State]:
        weight_ih, weight_hh = getattr(self, f"weight_ih{suffix}"), getattr(self, f"weight_hh{suffix}")
        bias_ih = getattr(self, f"bias_ih{suffix}") if self.bias else None
        bias_hh = getattr(self, f"bias_hh{suffix}") if self.bias else None
        # One product for all steps; what remains in the chain is the product with the state.
        gates = F.linear(input, weight_ih, bias_ih)

        def step(state: State, x: Tensor) -> tuple[State, Tensor]:
            state = type(self).step(x, F.linear(state[0], weight_hh, bias_hh), state, self.activation)
            if self.proj_size:
                state = (F.linear(state[0], getattr(self, f"weight_hr{suffix}")), *state[1:])
            return state, state[0]

        if len(input) > _UNROLLED and all(s.dtype is gates.dtype for s in state):
            state, outputs = scan(step, state, gates, reverse=reverse)
            return outputs, state
        seen: list[Tensor] = []
        rows = ops.unbind(gates)
        for x in reversed(rows) if reverse else rows:
            state, output = step(state, x)
            seen.append(output)
        return ops.stack(seen[::-1] if reverse else seen), state

    def _whole(self, input: Tensor, initial: State | None) -> tuple[Tensor, State]:
        if input.ndim not in (2, 3):
            raise ValueError(f"{type(self).__name__}: expected input of 2 or 3 dimensions, got {list(input.shape)}")
        batched = input.ndim == 3
        if not batched:
            input = input.unsqueeze(1)
            initial = None if initial is None else tuple(s.unsqueeze(1) for s in initial)
        elif self.batch_first:
            input = input.transpose(0, 1)
        output, last = self._run(input, initial)
        if not batched:
            return output.squeeze(1), tuple(s.squeeze(1) for s in last)
        return (output.transpose(0, 1) if self.batch_first else output), last

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        for name in ("batch_first", "bidirectional"):
            if getattr(self, name):
                text += f", {name}=True"
        return text if not self.dropout else f"{text}, dropout={self.dropout}"


def _activation(nonlinearity: str) -> Any:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    return ops.tanh if nonlinearity == "tanh" else ops.relu


class RNN(_Recurrent):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), layer over layer (nonlinearity='relu' in place of tanh).

    input (L, N, input_size), or (N, L, input_size) with batch_first, or (L, input_size); h_0 (layers · directions, N,
    hidden_size), zeros by default. Returns (output (L, N, directions · hidden_size), h_n). State: weight_ih_l0,
    weight_hh_l0, bias_ih_l0, bias_hh_l0, …, with _reverse for the second direction. Elman (1990).

    >>> output, h = nn.RNN(10, 20)(fp.randn(5, 3, 10))
    >>> output.shape, h.shape
    ((5, 3, 20), (1, 3, 20))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        object.__setattr__(self, "activation", _activation(nonlinearity))
        super().__init__(input_size, hidden_size, num_layers, *args, **kwargs)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output, (hidden,) = self._whole(input, None if hx is None else (hx,))
        return output, hidden


class LSTM(_Recurrent):
    """Long short-term memory. Arguments and shapes as those of RNN, but with the states (h, c).

    Returns (output, (h_n, c_n)). The rows of weight_ih and weight_hh are the gates input, forget, cell, output; all
    steps of a layer share one product for the inputs. RuntimeError where the input's last size is not input_size.
    Hochreiter and Schmidhuber (1997), with forget gates.

    >>> output, (h, c) = nn.LSTM(10, 20, num_layers=2)(fp.randn(5, 3, 10))
    >>> output.shape, h.shape, c.shape
    ((5, 3, 20), (2, 3, 20), (2, 3, 20))
    """

    gates = 4
    step = staticmethod(_lstm_step)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, (hidden, cell) = self._whole(input, hx)
        if not self.proj_size:  # on autocast's list as a whole; the cell between the steps keeps float32's digits
            output, hidden, cell = (wrap(lowered(x._node)) for x in (output, hidden, cell))
        return output, (hidden, cell)


class GRU(_Recurrent):
    """Gated recurrent units. Arguments and shapes as those of RNN. Returns (output, h_n).

    The reset gate applies after the product, as in PyTorch. Cho et al. (2014).

    >>> output, h = nn.GRU(10, 20, bidirectional=True)(fp.randn(5, 3, 10))
    >>> output.shape, h.shape
    ((5, 3, 40), (2, 3, 20))
    """

    gates = 3
    step = staticmethod(_gru_step)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output, (hidden,) = self._whole(input, None if hx is None else (hx,))
        return output, hidden


class _Cell(Module):
    gates = 1
    step = staticmethod(_rnn_step)
    activation: Any = None

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: DType | None = None
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        width = self.gates * hidden_size
        self.weight_ih = Parameter(ops.zeros(width, input_size, dtype=dtype))
        self.weight_hh = Parameter(ops.zeros(width, hidden_size, dtype=dtype))
        self.bias_ih = Parameter(ops.zeros(width, dtype=dtype)) if bias else None
        self.bias_hh = Parameter(ops.zeros(width, dtype=dtype)) if bias else None
        bound = 1.0 / math.sqrt(hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def _advance(self, input: Tensor, state: State | None, count: int) -> State:
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"{type(self).__name__}: expected input (N, {self.input_size}) or ({self.input_size},), got {list(input.shape)}"
            )
        if state is None:
            state = tuple(ops.zeros(*input.shape[:-1], self.hidden_size, dtype=input.dtype) for _ in range(count))
        gates = F.linear(input, self.weight_ih, self.bias_ih)
        hidden = F.linear(state[0], self.weight_hh, self.bias_hh)
        return type(self).step(gates, hidden, state, self.activation)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class RNNCell(_Cell):
    """One step of an RNN: (N, in), (N, hidden) -> (N, hidden)."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity
        self.activation = _activation(nonlinearity)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._advance(input, None if hx is None else (hx,), 1)[0]


class LSTMCell(_Cell):
    """One step of an LSTM: (N, in), ((N, hidden), (N, hidden)) -> (h, c)."""

    gates = 4
    step = staticmethod(_lstm_step)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        hidden, cell = self._advance(input, hx, 2)
        return hidden, cell


class GRUCell(_Cell):
    """One step of a GRU: (N, in), (N, hidden) -> (N, hidden)."""

    gates = 3
    step = staticmethod(_gru_step)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._advance(input, None if hx is None else (hx,), 1)[0]
