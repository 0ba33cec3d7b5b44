"""Recurrent layers: RNN, LSTM and GRU, stacked, in both directions, over padded batches."""

from __future__ import annotations

from typing import Any

from bpnet import ops
from bpnet.checks import number
from bpnet.dispatch import Array
from bpnet.errors import ConfigError
from bpnet.initializers import Initializer, constant, zeros
from bpnet.layers.recurrence import Recurrent
from bpnet.parameter import Parameter


class RNN(Recurrent):
    """h_t = f(x_t W + h_{t-1} U + b), from zeros: the plain recurrent network. [Elman 1990]

    n_in, n_hidden : the features of x and of h, each at least 1
    n_layers       : of which each takes the outputs of the one below
    bidirectional  : whether each has a second one beside it, which goes from the last position to the first; their
                     outputs stand side by side
    last           : whether y is only what the step made last gave, of each direction, (N, n_outputs)
    activation     : "tanh" or "relu"
    weight_initializer, recurrent_initializer : functions or names, of W and of U
    x : (N, T, n_in); y : (N, T, n_outputs), n_outputs = n_hidden, or twice that; `weight`, `recurrent` and `bias` are
    lists of W (., H), U (H, H) and b (H,): of layer k and direction d at [k * n_directions + d].
    lengths : by keyword, (N,) integers, or a list: how many positions of each sequence are there. Outputs beyond are 0
    and have no gradient; the last output is that of the last position that is there. Of an array only shape and dtype
    are checked: more than T counts as T, less than 0 as 0.
    `step` goes on from states, and returns them.
    """

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        *,
        n_layers: int = 1,
        bidirectional: bool = False,
        last: bool = False,
        activation: str = "tanh",
        weight_initializer: Initializer | str = "glorot_uniform",
        recurrent_initializer: Initializer | str = "orthogonal",
    ) -> None:
        if activation not in ("tanh", "relu"):
            raise ConfigError(f"RNN: activation must be 'tanh' or 'relu', got {activation!r}")
        self.activation = activation
        super().__init__(
            n_in, n_hidden, n_layers, bidirectional, last, weight_initializer, recurrent_initializer, (zeros,)
        )

    def _run(self, x: Array, index: int, lengths: Array | None, reverse: bool, state: Any = None) -> tuple[Array, ...]:
        op = ops.rnn_bf16 if self._in_bf16(x) else ops.rnn
        states = () if state is None else state
        b = self.bias[index].value
        return (op(x, *self._weights(x, index), b, self.activation, lengths, reverse, *states),)

    def _back(
        self, dy: Array, kept: tuple[Array, ...], x: Array, index: int, settings: tuple[Any, ...]
    ) -> tuple[Array | None, ...]:
        op = ops.rnn_bf16_backward if self._in_bf16(x) else ops.rnn_backward
        found: tuple[Array | None, ...] = op(dy, kept[0], x, *self._weights(x, index), self.activation, *settings)
        return found


class LSTM(Recurrent):
    """Long short-term memory: a cell c beside h, with gates that write, keep and show it.

    [Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000]
    With i, f, g, o the quarters of x_t W + h_{t-1} U + b: c_t = s(f) c_{t-1} + s(i) tanh(g), h_t = s(o) tanh(c_t),
    from zeros, s the logistic function.
    forget_bias : where the part of b that f has starts; at 1 the cell keeps what it has until it learns otherwise
                  [Jozefowicz et al. 2015]
    All else is as of `RNN`: W (., 4 H), U (H, 4 H), b (4 H,), each gate's block drawn by itself. The order of the gates
    is PyTorch's, whose weights are W^T and U^T, and whose two biases add up to b.

    >>> import numpy as np
    >>> import bpnet as bp
    >>> lstm = bp.LSTM(3, 8, n_layers=2, last=True).initialize(dtype="float64")
    >>> x = np.ones((5, 7, 3))
    >>> lstm.forward(x, lengths=[7, 7, 3, 1, 2]).shape
    (5, 8)
    >>> lstm.backward(np.ones((5, 8)))[2, :, 0] != 0
    array([ True,  True,  True, False, False, False, False])
    """

    n_gates = 4

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        *,
        n_layers: int = 1,
        bidirectional: bool = False,
        last: bool = False,
        forget_bias: float = 1.0,
        weight_initializer: Initializer | str = "glorot_uniform",
        recurrent_initializer: Initializer | str = "orthogonal",
    ) -> None:
        self.forget_bias = number("LSTM: forget_bias", forget_bias)
        biases = (zeros, constant(self.forget_bias), zeros, zeros)
        super().__init__(
            n_in, n_hidden, n_layers, bidirectional, last, weight_initializer, recurrent_initializer, biases
        )

    def _run(self, x: Array, index: int, lengths: Array | None, reverse: bool, state: Any = None) -> tuple[Array, ...]:
        op = ops.lstm_bf16 if self._in_bf16(x) else ops.lstm
        states = () if state is None else state
        b = self.bias[index].value
        found: tuple[Array, ...] = op(x, *self._weights(x, index), b, lengths, reverse, *states)
        return found

    def _back(
        self, dy: Array, kept: tuple[Array, ...], x: Array, index: int, settings: tuple[Any, ...]
    ) -> tuple[Array | None, ...]:
        op = ops.lstm_bf16_backward if self._in_bf16(x) else ops.lstm_backward
        y, gates, cells = kept
        found: tuple[Array | None, ...] = op(dy, y, x, *self._weights(x, index), gates, cells, *settings)
        return found

    def _state(self, kept: tuple[Array, ...]) -> tuple[Array, ...]:
        y, _, cells = kept
        n_steps, n, width = map(int, cells.shape)
        return ops.last_step(y), ops.copy(ops.reshape(ops.rows(cells, n_steps - 1, n_steps), (n, width)))


class GRU(Recurrent):
    """The gated recurrent unit: gates that forget the past, and that mix it with what is new. [Cho et al. 2014]

    With the thirds r, z, n of x_t W + b and of h_{t-1} U: r = s(r_x + r_h), z = s(z_x + z_h),
    n = tanh(n_x + r (n_h + b_n)), h_t = (1 - z) n + z h_{t-1}, from zeros, s the logistic function.
    All else is as of `RNN`: W (., 3 H), U (H, 3 H), b (3 H,), each third of W and U drawn by itself, and in the list
    `bias_n` b_n (H,). Order and formula are PyTorch's, whose weights are W^T and U^T, whose biases of r and z add up to
    those of b, and whose bias of n_h is b_n.
    """

    n_gates = 3

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        *,
        n_layers: int = 1,
        bidirectional: bool = False,
        last: bool = False,
        weight_initializer: Initializer | str = "glorot_uniform",
        recurrent_initializer: Initializer | str = "orthogonal",
    ) -> None:
        super().__init__(
            n_in, n_hidden, n_layers, bidirectional, last, weight_initializer, recurrent_initializer, (zeros,)
        )
        self.bias_n = [Parameter((self.n_hidden,), zeros, decay=False) for _ in self.weight]

    def _learned(self, index: int) -> tuple[Parameter, ...]:
        return (*super()._learned(index), self.bias_n[index])

    def _run(self, x: Array, index: int, lengths: Array | None, reverse: bool, state: Any = None) -> tuple[Array, ...]:
        states = () if state is None else state
        op = ops.gru_bf16 if self._in_bf16(x) else ops.gru
        biases = self.bias[index].value, self.bias_n[index].value
        found: tuple[Array, ...] = op(x, *self._weights(x, index), *biases, lengths, reverse, *states)
        return found

    def _back(
        self, dy: Array, kept: tuple[Array, ...], x: Array, index: int, settings: tuple[Any, ...]
    ) -> tuple[Array | None, ...]:
        op = ops.gru_bf16_backward if self._in_bf16(x) else ops.gru_backward
        y, gates = kept
        found: tuple[Array | None, ...] = op(dy, y, x, *self._weights(x, index), gates, *settings)
        return found
