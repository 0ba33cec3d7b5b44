"""What recurrent layers share: layers over layers, directions, lengths, the last output, states to go on from."""

from __future__ import annotations

from typing import Any

from bpnet import ops
from bpnet.checks import flag, whole
from bpnet.dispatch import Array, dtype_name, namespace
from bpnet.errors import ConfigError, DTypeError, ShapeError, StateError
from bpnet.initializers import INITIALIZERS, Initializer, side_by_side
from bpnet.layers.base import Layer
from bpnet.layers.tree import as_size, typed
from bpnet.parameter import Parameter


def _function(initializer: Initializer | str) -> Initializer:
    """An initializer of this name; Parameter refuses other names, in its words."""
    if isinstance(initializer, str) and initializer in INITIALIZERS:
        return INITIALIZERS[initializer]
    return Parameter((1, 1), initializer).initializer


class Recurrent(Layer):
    """What the three have in common: layers over layers, directions side by side, lengths, the last output.

    Parameters stand in lists: first those of the lowest layer, forwards then backwards, then those of the next.
    """

    n_gates = 1
    computes_in_bf16 = True

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        n_layers: int,
        bidirectional: bool,
        last: bool,
        weight_initializer: Initializer | str,
        recurrent_initializer: Initializer | str,
        biases: tuple[Initializer, ...],
    ) -> None:
        name = type(self).__name__
        self.n_in, self.n_hidden = as_size(n_in), as_size(n_hidden)
        if not (self.n_in and self.n_hidden):
            raise ConfigError(
                f"{name} needs at least 1 input and 1 hidden unit, whole numbers: got {name}({n_in!r}, {n_hidden!r})"
            )
        self.n_layers = whole(f"{name}: n_layers", n_layers, 1)
        self.bidirectional = flag(f"{name}: bidirectional", bidirectional)
        self.last = flag(f"{name}: last", last)
        gates, width = self.n_gates, self.n_hidden
        weights = side_by_side(*(_function(weight_initializer),) * gates)
        recurrent = side_by_side(*(_function(recurrent_initializer),) * gates)
        widths = [self.n_in] + [self.n_outputs] * (self.n_layers - 1)
        each = [n for n in widths for _ in range(self.n_directions)]
        self.weight = [Parameter((n, gates * width), weights) for n in each]
        self.recurrent = [Parameter((width, gates * width), recurrent) for _ in each]
        self.bias = [Parameter((gates * width,), side_by_side(*biases), decay=False) for _ in each]

    @property
    def n_directions(self) -> int:
        """2 where it is bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def n_outputs(self) -> int:
        """The number of features of y: those of all directions."""
        return self.n_directions * self.n_hidden

    # --- one layer in one direction ---

    def _factor(self, x: Array) -> Array:
        """The input of a layer as its products take it: rounded to bfloat16 where they are computed so."""
        return x if self.weight[0].compute is None else ops.to_bf16(x)

    def _in_bf16(self, x: Array) -> bool:
        """Whether the products with this input, which `_factor` has made, are computed in bfloat16."""
        return bool(x.dtype != self.weight[0].value.dtype)

    def _weights(self, x: Array, index: int) -> tuple[Array, Array]:
        """W and U as products with x take them."""
        in_bf16 = self._in_bf16(x)
        return self.weight[index].factor(in_bf16), self.recurrent[index].factor(in_bf16)

    def _run(self, x: Array, index: int, lengths: Array | None, reverse: bool, state: Any = None) -> tuple[Array, ...]:
        """y, and what the derivative needs beside it. state : what the steps go on from, None: zeros"""
        raise NotImplementedError

    def _back(
        self, dy: Array, kept: tuple[Array, ...], x: Array, index: int, settings: tuple[Any, ...]
    ) -> tuple[Array | None, ...]:
        """dx, dW, dU and the gradients of the biases. kept : what `_run` returned; settings : lengths and flags"""
        raise NotImplementedError

    def _learned(self, index: int) -> tuple[Parameter, ...]:
        """The parameters of one layer in one direction, in the order of their gradients."""
        return self.weight[index], self.recurrent[index], self.bias[index]

    def _state(self, kept: tuple[Array, ...]) -> tuple[Array, ...]:
        """The state after the last position, (N, H) each: what `step` goes on from."""
        return (ops.last_step(kept[0]),)

    # --- checks ---

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3 or shape[-1] != self.n_in:
            hint = ""
            if len(shape) == 2:
                hint = "; for one sequence use x[None, ...]" if shape[-1] == self.n_in else ""
                hint += "; for sequences of single numbers use x[..., None]" if self.n_in == 1 else ""
            elif len(shape) == 3 and shape[1] == self.n_in:
                hint = "; positions come before features"
            raise ShapeError(f"{self!r} needs x of shape (N, T, {self.n_in}), got {shape}{hint}")
        if not shape[1]:
            raise ShapeError(f"{self!r} needs sequences of at least one position, got x of shape {shape}")

    def _check(self, x: Array, lengths: Any) -> Array | None:
        """The lengths as an array, or None, after checks of both."""
        shape = self.shape_of(x)
        self._check_shape(shape)
        self.check_input(x, self.n_in, self.weight[0].value)
        if lengths is None:
            return None
        if isinstance(lengths, (list, tuple)):
            wrong = [each for each in lengths if isinstance(each, bool) or not isinstance(each, int)]
            if wrong:
                raise DTypeError(f"{self!r} needs lengths that are whole numbers, got {wrong[0]!r}")
            outside = [each for each in lengths if not 0 <= each <= shape[1]]
            if outside:
                raise ShapeError(
                    f"{self!r} needs lengths in 0 ... {shape[1]}, the positions of x {shape}, got {outside[0]}; "
                    "cut longer sequences, or pad x to the longest one"
                )
            lengths = self.asarray(list(lengths), dtype="int64")
        if not isinstance(lengths, type(x)):
            raise DTypeError(f"{self!r} needs lengths of x's array library, or a list; use model.asarray(lengths)")
        if tuple(lengths.shape) != shape[:1]:
            raise ShapeError(
                f"{self!r} needs one length for every sequence, of shape ({shape[0]},), got {tuple(lengths.shape)}"
            )
        if not namespace(lengths).isdtype(lengths.dtype, "integral"):
            raise DTypeError(
                f"{self!r} needs lengths that are whole numbers, got an array of {dtype_name(lengths.dtype)}; "
                'use model.asarray(lengths, dtype="int64")'
            )
        if lengths.device != x.device:
            raise DTypeError(f"{self!r} got x on device {x.device} and lengths on {lengths.device}; use model.asarray")
        return lengths

    # --- the layer ---

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(T, outputs) for (T, n_in); (outputs,) with `last`."""
        self._check_shape((1, *input_shape))
        return (self.n_outputs,) if self.last else (input_shape[0], self.n_outputs)

    def _forward(self, x: Array, lengths: Any) -> tuple[Array, list[Any], Array | None]:
        """y, [(x, kept of each direction) of each layer], and the lengths as an array."""
        lengths = self._check(x, lengths)
        layers: list[Any] = []
        for layer in range(self.n_layers):
            first, x = layer * self.n_directions, self._factor(x)
            kept = [self._run(x, first + way, lengths, bool(way)) for way in range(self.n_directions)]
            layers.append((x, kept))
            outputs = tuple(each[0] for each in kept)
            if self.last and layer == self.n_layers - 1:
                outputs = tuple(ops.last_step(y, lengths, bool(way)) for way, y in enumerate(outputs))
            x = outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, -1)
        return x, layers, lengths

    def __call__(self, x: Array, *, lengths: Any = None) -> Array:
        """Return the outputs for the sequences `x`."""
        return self._forward(x, lengths)[0]

    def forward(self, x: Array, *, lengths: Any = None) -> Array:
        """Return the outputs for the sequences `x`; keep x, outputs and gates of every layer."""
        y, layers, lengths = self._forward(x, lengths)
        self.keep(y.shape, layers, lengths)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx; accumulate the gradients of all parameters."""
        shape, layers, lengths = self.kept()
        self.check_gradient(dy, shape, self.weight[0].value.dtype, shape, layers, lengths)
        ways = range(self.n_directions)
        for layer in range(self.n_layers - 1, -1, -1):
            x, kept = layers[layer]
            if self.bidirectional:
                parts: tuple[Array, ...] = ops.split(dy, (self.n_hidden,) * 2, -1)
            else:
                parts = (dy,)
            if self.last and layer == self.n_layers - 1:
                n_steps = x.shape[1]
                parts = tuple(ops.last_step_backward(parts[way], n_steps, lengths, bool(way)) for way in ways)
            need_this = need_dx or layer > 0
            found = [
                self._back_one(parts[way], kept[way], x, layer * self.n_directions + way, lengths, bool(way), need_this)
                for way in ways
            ]
            if not need_this:
                return None
            dy = found[0] if len(found) == 1 else ops.add(found[0], found[1])
        return dy

    def _back_one(
        self, dy: Array, kept: Any, x: Array, index: int, lengths: Array | None, reverse: bool, need_dx: bool
    ) -> Array | None:
        learned = self._learned(index)
        need_weights = any(each.trainable for each in learned)
        if not (need_dx or need_weights):
            return None
        dx, *gradients = self._back(dy, kept, x, index, (lengths, reverse, need_dx, need_weights))
        if need_weights:
            for parameter, gradient in zip(learned, gradients, strict=True):
                if parameter.trainable:
                    parameter.accumulate(gradient)
        return dx

    # --- going on ---

    @property
    def can_step(self) -> bool:
        """Whether `step` is defined: not where outputs depend on later positions."""
        return not self.bidirectional

    def step(self, x: Array, cache: Any = None) -> tuple[Array, Any]:
        """Inference of further positions of sequences: (y, states) for x (N, T, n_in) and the states before them.

        cache : None at the start, then what the step before returned; it is not changed
        The states are one tuple a layer: (h,), of an LSTM (h, c), each (N, n_hidden). What the steps give, joined along
        the axis of positions, is what `layer(x)` gives for all at once; with `last`, y is the last output.
        Raises StateError where it is bidirectional.
        """
        if not self.can_step:
            raise StateError(f"{self!r} has no step: its outputs depend on positions to come")
        self._check(x, None)
        states = []
        for layer in range(self.n_layers):
            state = None if cache is None else cache[layer]
            if state is not None and tuple(state[0].shape) != (x.shape[0], self.n_hidden):
                raise ShapeError(
                    f"{self!r}.step needs states of shape ({x.shape[0]}, {self.n_hidden}), got {tuple(state[0].shape)}"
                )
            kept = self._run(self._factor(x), layer, None, False, state)
            states.append(self._state(kept))
            x = kept[0]
        return (ops.last_step(x) if self.last else x), tuple(states)

    def __repr__(self) -> str:
        return typed(self)
