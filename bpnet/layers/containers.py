"""Containers are the calculus: Sequential is the chain rule, Residual the sum rule, Concatenate the split rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bpnet import ops
from bpnet.dispatch import Array
from bpnet.errors import ConfigError, ShapeError, StateError
from bpnet.layers.base import Layer
from bpnet.layers.planned import infer
from bpnet.parameter import Parameter


class Container(Layer):
    """A layer made of layers, held in `layers` and named by their index.

    Side inputs (masks, lengths) are passed by keyword; they carry no gradient and reach the children whose `forward`
    declares them.
    """

    def __init__(self, *layers: Layer) -> None:
        for index, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                hint = "; write its instance, with parentheses" if isinstance(layer, type) else ""
                if isinstance(layer, (list, tuple)):
                    hint = f"; write {type(self).__name__}(*layers)"
                raise ConfigError(f"{type(self).__name__}: item {index} is no layer but {layer!r}{hint}")
        self.layers = layers
        self._check_tree()

    def children(self) -> Iterator[tuple[str, Layer]]:
        """(index as text, layer), then those that other attributes of a subclass hold."""
        for index, layer in enumerate(self.layers):
            yield str(index), layer
        for name, layer in super().children():
            if not name.startswith("layers."):
                yield name, layer

    def input_shapes(self, input_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The shape of one sample's input of every child, for that of the container's."""
        return [input_shape for _ in self.layers]

    def blank(self, input_shape: tuple[int, ...]) -> Array:
        """One sample of zeros, as the first layer takes them."""
        return self.layers[0].blank(input_shape) if self.layers else super().blank(input_shape)

    def accepted(self) -> frozenset[str]:
        """The names of the side inputs that some child declares."""
        names: set[str] = set()
        for layer in self.layers:
            names |= layer.accepted() if isinstance(layer, Container) else layer.side_inputs
        return frozenset(names)

    @property
    def input_ids(self) -> int | None:
        """The fewest that a child which takes ids may be given; None where none does."""
        return min((layer.input_ids for layer in self.layers if layer.input_ids is not None), default=None)

    @property
    def max_positions(self) -> int | None:
        """The fewest that a child may be given."""
        return min((layer.max_positions for layer in self.layers if layer.max_positions is not None), default=None)

    def _check_side(self, side: dict[str, Any]) -> None:
        unknown = set(side) - self.accepted()
        if unknown:
            raise ConfigError(
                f"no layer in {type(self).__name__} takes {', '.join(sorted(unknown))}; "
                f"declared are: {', '.join(sorted(self.accepted())) or 'none'}"
            )

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)


def _for(layer: Layer, side: dict[str, Any]) -> dict[str, Any]:
    """The side inputs that `layer` declares."""
    names = layer.accepted() if isinstance(layer, Container) else layer.side_inputs
    return {name: value for name, value in side.items() if name in names}


class Sequential(Container):
    """Layers one after the other. Backward is the chain rule: each layer's dx is the dy of the one before it.

    >>> import bpnet as bp
    >>> model = bp.Sequential(bp.Dense(64, 32), bp.ReLU(), bp.Dense(32, 10)).initialize(seed=0)
    >>> model.n_parameters
    2410
    >>> model[2]
    Dense(32, 10)
    >>> model(model.asarray([[0.0] * 64])).shape
    (1, 10)
    """

    def __call__(self, x: Array, **side: Any) -> Array:
        """Return the last layer's output."""
        if side:
            self._check_side(side)
        return infer(self, x, side, self._in_order) if self._parent is None else self._in_order(x, **side)

    def _in_order(self, x: Array, **side: Any) -> Array:
        for layer in self.layers:
            x = layer(x, **_for(layer, side)) if side else layer(x)
        return x

    def forward(self, x: Array, **side: Any) -> Array:
        """Return the last layer's output; every layer keeps what it needs."""
        if side:
            self._check_side(side)
        for layer in self.layers:
            x = layer.forward(x, **_for(layer, side)) if side else layer.forward(x)
        return x

    @property
    def input_ids(self) -> int | None:
        """What the first layer says."""
        return self.layers[0].input_ids if self.layers else None

    @property
    def can_step(self) -> bool:
        """Whether every layer can."""
        return all(layer.can_step for layer in self.layers)

    def step(self, x: Array, cache: Any = None) -> tuple[Array, Any]:
        """See `Layer.step`; the cache is a tuple of the layers' own."""
        own = []
        for layer, before in zip(self.layers, cache or (None,) * len(self.layers), strict=True):
            x, after = layer.step(x, before)
            own.append(after)
        return x, tuple(own)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx of the first layer; with need_dx=False that layer skips it, and frozen ones in front do nothing."""
        first = 0 if need_dx else self._first_to_reach()
        for layer in self.layers[:first:-1]:
            dy = layer.backward(dy)
            if dy is None:
                raise StateError(f"{layer!r}.backward returned None where its dx is needed")
        if first == len(self.layers):
            return dy if need_dx else None
        return self.layers[first].backward(dy, need_dx)

    def _first_to_reach(self) -> int:
        """The index of the first layer that a backward must reach where nobody needs dx: all before it are frozen.

        A layer that draws random numbers or keeps statistics is reached: its backward counts the micro-batch.
        """
        some_frozen = False
        for index, layer in enumerate(self.layers):
            trained = any(parameter.trainable for _, parameter in layer._members(Parameter))
            if trained or layer.streams() or layer.statistics():
                return index if some_frozen else 0
            some_frozen = some_frozen or bool(layer.parameters())
        return len(self.layers) if some_frozen else 0

    def input_shapes(self, input_shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Each layer's input is the output of the one before."""
        shapes = [input_shape]
        for layer in self.layers[:-1]:
            shapes.append(layer.output_shape(shapes[-1]))
        return shapes[: len(self.layers)]


class Residual(Sequential):
    """y = x + f(x), f being the layers in sequence. Backward is the sum rule: dx = dy + df."""

    def __call__(self, x: Array, **side: Any) -> Array:
        """Return x + f(x)."""
        return self._sum(x, super().__call__(x, **side))

    def forward(self, x: Array, **side: Any) -> Array:
        """Return x + f(x)."""
        return self._sum(x, super().forward(x, **side))

    def step(self, x: Array, cache: Any = None) -> tuple[Array, Any]:
        """See `Layer.step`."""
        y, cache = super().step(x, cache)
        return self._sum(x, y), cache

    def _sum(self, x: Array, fx: Array) -> Array:
        if fx.shape != x.shape:
            raise ShapeError(
                f"Residual adds its layers' output to x, so their shapes must agree: got {tuple(fx.shape)} "
                f"for x of {tuple(x.shape)}"
            )
        return ops.add(x, fx)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dy + (the layers' dx)."""
        df = super().backward(dy, need_dx)
        return ops.add(dy, df) if need_dx else None


class Concatenate(Container):
    """Every branch gets x; the outputs are joined along `axis`. Backward splits dy and sums the branches' dx.

    axis : of the outputs; all others agree
    """

    def __init__(self, *layers: Layer, axis: int = -1) -> None:
        super().__init__(*layers)
        if not layers:
            raise ConfigError("Concatenate needs at least one branch")
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise ConfigError(f"Concatenate: axis must be an integer, got {axis!r}")
        self.axis = axis

    def __call__(self, x: Array, **side: Any) -> Array:
        """Return the joined outputs."""
        self._check_side(side)
        return self._join(tuple(layer(x, **_for(layer, side)) for layer in self.layers))

    def forward(self, x: Array, **side: Any) -> Array:
        """Return the joined outputs; keep their sizes."""
        self._check_side(side)
        outputs = tuple(layer.forward(x, **_for(layer, side)) for layer in self.layers)
        joined = self._join(outputs)
        self.keep(tuple(y.shape[self.axis] for y in outputs), joined.shape, joined.dtype)
        return joined

    def _join(self, outputs: tuple[Array, ...]) -> Array:
        def others(y: Array) -> list[int]:
            axis = self.axis % y.ndim if -y.ndim <= self.axis < y.ndim else -1
            return [n for i, n in enumerate(y.shape) if i != axis] if axis >= 0 else [-1]

        if any(others(y) != others(outputs[0]) for y in outputs) or others(outputs[0]) == [-1]:
            shapes = ", ".join(str(tuple(y.shape)) for y in outputs)
            raise ShapeError(f"Concatenate along axis {self.axis} needs outputs that agree elsewhere, got {shapes}")
        return ops.concatenate(outputs, self.axis)

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return the sum of the branches' dx."""
        sizes, shape, dtype = self.kept()
        self.check_gradient(dy, shape, dtype, sizes, shape, dtype)
        total = None
        for layer, part in zip(self.layers, ops.split(dy, sizes, self.axis), strict=True):
            dx = layer.backward(part, need_dx)
            if dx is not None:  # nor where the branch takes ids
                total = dx if total is None else ops.add(total, dx)
        return total


class Recompute(Sequential):
    """Layers in sequence whose forward is made again in backward: less memory for more time.

    `forward` keeps x alone; what the layers would keep is made anew when the backward needs it, and let go of layer by
    layer. The numbers are the same to the bit: masks are functions of counters that backward moves on, and statistics
    are counted in backward, so both come once. The chain rule is Sequential's. [Chen et al. 2016]
    """

    def forward(self, x: Array, **side: Any) -> Array:
        """Return the last layer's output; keep x and the side inputs."""
        y = super().forward(x, **side)
        self._let_go()
        self.keep(x, side, tuple(y.shape), y.dtype)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Make the forward again, then Sequential's backward."""
        x, side, shape, dtype = self.kept()
        self.check_gradient(dy, shape, dtype, x, side, shape, dtype)
        super().forward(x, **side)
        try:
            return super().backward(dy, need_dx)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for _, layer in self.walk():
            layer._kept = None
