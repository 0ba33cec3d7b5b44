"""What a layer learns (`Parameter`), counts (`Statistic`) and draws (`Stream`). Their arrays live in the store."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from bpnet import ops
from bpnet.abilities import scope_of
from bpnet.backend import as_numbers, to_numpy
from bpnet.checks import at_least_0
from bpnet.dispatch import Array, note_change
from bpnet.errors import ConfigError, OutOfMemoryError, ShapeError, StateError
from bpnet.initializers import INITIALIZERS, Initializer

if TYPE_CHECKING:
    from bpnet.store import Store


_FIXED = ("shape", "initializer", "decay", "trainable", "l1", "l2")


class Owner(Protocol):
    """What a parameter asks for when it is touched before the model has arrays."""

    def materialize(self) -> None:
        """Give every parameter of the whole model its arrays."""


class Parameter:
    """An array that training changes, with its gradient.

    shape       : every axis at least 1
    initializer : `f(stream, shape)`, or the name of one in `bpnet.initializers.INITIALIZERS`
    decay       : whether weight decay applies to it; by default to arrays of two or more axes, so not to biases
    trainable   : whether training changes it; where not, it has no gradient, decay or penalty. What is made with False
                  is no weight, such as a mean of the data: `unfreeze` leaves it alone.
    l1, l2      : penalties: l1 sum |w| + l2 sum w^2 is added to what is minimized
    The last four may be set at any time.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        initializer: Initializer | str,
        *,
        decay: bool | None = None,
        trainable: bool = True,
        l1: float = 0.0,
        l2: float = 0.0,
    ) -> None:
        if not isinstance(shape, tuple) or any(not isinstance(n, int) or n < 1 for n in shape):
            raise ConfigError(f"a parameter needs a tuple of axes of at least 1, got shape {shape!r}")
        if isinstance(initializer, str):
            if initializer not in INITIALIZERS:
                raise ConfigError(f"unknown initializer {initializer!r}; known are {', '.join(sorted(INITIALIZERS))}")
            initializer = INITIALIZERS[initializer]
        if not callable(initializer):
            raise ConfigError(f"an initializer must be a function of (stream, shape) or a name, got {initializer!r}")
        self.shape = shape
        self.initializer = initializer
        self._decay = len(shape) > 1 if decay is None else bool(decay)
        self._trainable = self.learned = bool(trainable)
        self._l1, self._l2 = at_least_0("l1", l1), at_least_0("l2", l2)
        self.path = ""
        self._owner: Owner | None = None
        self._store: Store | None = None
        self._value: Array = None
        self._grad: Array = None
        self._pending: Any = None  # a host array that waits for a store: unpickled, copied or loaded
        self._filled = False  # whether the present step has contributed to the gradient
        self._compute: Array = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def value(self) -> Array:
        """The values, a view into the store. Assigning copies in, from any array library."""
        if self._value is None:
            self._touch()
        return self._value

    @value.setter
    def value(self, new: Any) -> None:
        if self._value is None:
            self._touch()
        assert self._store is not None
        new = as_numbers(new, f"the value of {self.label}")
        if tuple(new.shape) != self.shape:
            raise ShapeError(f"{self.label} has shape {self.shape}, got a value of shape {tuple(new.shape)}")
        with scope_of(self._store.backend):
            self._value[...] = self._store.backend.asarray(new, dtype=self._store.dtype)
            if self._compute is not None:
                ops.round_bf16_(self._compute, self._value)

    @property
    def compute(self) -> Array:
        """The bits of the values in bfloat16, a view into the store, where products are to take those; else None."""
        return self._compute

    def factor(self, in_bf16: bool) -> Array:
        """What a product takes: the values, or their bits in bfloat16, made now where the store holds no copies."""
        if not in_bf16:
            return self.value
        return self._compute if self._compute is not None else ops.to_bf16(self.value)

    def attach_compute(self, bits: Array) -> None:
        """Take the view that the store has made, or None."""
        self._compute = bits

    def preset(self, new: Any) -> None:
        """Set the values to a host array of this shape; where the model has no arrays yet, it gets these."""
        if self._value is not None:
            self.value = new
        elif tuple(new.shape) != self.shape:
            raise ShapeError(f"{self.label} has shape {self.shape}, got a value of shape {tuple(new.shape)}")
        else:
            self._pending = new

    @property
    def grad(self) -> Array:
        """The gradient of the latest step, a view into the store; zeros before the first."""
        if self._grad is None:
            self._touch()
        return self._grad

    @property
    def trainable(self) -> bool:
        """Whether training changes it. Where it is made False, the gradient becomes zero."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        if not value and self._grad is not None:
            self._grad[...] = 0
            self._filled = False
        note_change()

    @property
    def decay(self) -> bool:
        """Whether weight decay applies to it."""
        return self._decay

    @decay.setter
    def decay(self, value: bool) -> None:
        self._decay = bool(value)
        note_change()

    @property
    def l1(self) -> float:
        """The penalty on the sum of absolute values."""
        return self._l1

    @l1.setter
    def l1(self, value: float) -> None:
        self._l1 = at_least_0("l1", value)
        note_change()

    @property
    def l2(self) -> float:
        """The penalty on the sum of squares."""
        return self._l2

    @l2.setter
    def l2(self, value: float) -> None:
        self._l2 = at_least_0("l2", value)
        note_change()

    def accumulate(self, gradient: Array) -> None:
        """Add a contribution to the gradient; the first of a step replaces what is there."""
        if self._grad is None:
            self._touch()
        if tuple(gradient.shape) != self.shape:
            raise ShapeError(f"{self.label} has shape {self.shape}, got a gradient of shape {tuple(gradient.shape)}")
        if not self._trainable:
            return
        if self._filled:
            ops.add_(self._grad, gradient)
        else:
            ops.copy_(self._grad, gradient)
            self._filled = True
            assert self._store is not None
            self._store.filled = True

    @property
    def label(self) -> str:
        """The path where it is known, for messages."""
        return f"the parameter {self.path!r}" if self.path else "the parameter"

    def attach(self, store: Store, path: str, value: Array, grad: Array) -> None:
        """Take the views that the store has made."""
        if self._store is not None and self._store is not store:
            self._store.retire(f"its parameter {self.path!r} now belongs to another model")
        self._store, self.path, self._value, self._grad = store, path, value, grad
        self._pending, self._filled, self._compute = None, False, None

    def host_value(self) -> Any:
        """The values as a NumPy array where there are any, else None."""
        if self._value is not None:
            return to_numpy(self._value).copy()
        return self._pending

    def _touch(self) -> None:
        if self._owner is None:
            raise StateError("this Parameter belongs to no layer; assign it to an attribute in a layer's __init__")
        self._owner.materialize()
        if self._value is None:
            raise StateError(f"{self.label} was added to its layer after the model was initialized; initialize again")

    def __getstate__(self) -> dict[str, Any]:
        fixed = {name: getattr(self, name) for name in _FIXED}
        return fixed | {"learned": self.learned, "value": self.host_value()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        settings = {name: state[name] for name in _FIXED if name in state}
        self.__init__(**settings)  # type: ignore[misc]
        self.learned = state.get("learned", True)
        self._pending = state["value"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path or 'unattached'}, shape {self.shape})"


class Statistic(Parameter):
    """An array that training changes, but no gradient does: a running mean, a count.

    A layer's backward contributes to it by `blend`, once for every micro-batch, as to a gradient; `optimizer.step`
    makes that its value, where the step updates at all. So a forward may be repeated, a step whose loss is not finite
    changes nothing, and a step that is given up leaves no trace. It is saved, moved and resumed with the parameters.
    shape, initializer : as of Parameter
    """

    def __init__(self, shape: tuple[int, ...], initializer: Initializer | str, **_: Any) -> None:
        super().__init__(shape, initializer, decay=False, trainable=False)
        self._next: Array = None

    @property
    def pending(self) -> Array:
        """What the value becomes when the present step updates, where something has contributed; else of no meaning."""
        if self._next is None:
            self._touch()
        return self._next

    @property
    def trainable(self) -> bool:
        """False: no gradient changes it."""
        return False

    @trainable.setter
    def trainable(self, value: bool) -> None:
        if value:
            raise ConfigError(f"{self.label} is a statistic, which no gradient changes; it cannot be made trainable")

    def blend(self, new: Array, momentum: float, factor: float = 1.0) -> None:
        """Let the value after this step be (1 - momentum) of what it would have been, and momentum factor new.

        new : an array of the statistic's shape; momentum : in [0, 1]
        """
        if tuple(new.shape) != self.shape:
            raise ShapeError(f"{self.label} has shape {self.shape}, got a contribution of shape {tuple(new.shape)}")
        pending = self.pending
        ops.blend_(pending, pending if self._filled else self._value, new, momentum, factor)
        self._filled = True
        assert self._store is not None
        self._store.filled = True

    def attach_pending(self, pending: Array) -> None:
        """Take the view that the store has made, beside those of `attach`."""
        self._next = pending


def penalty_of(name: str, kind: str) -> property:
    """A layer's attribute that is the penalty `kind` ("l1" or "l2") of its parameter `name`; 0 where that is None."""

    def read(layer: Any) -> float:
        parameter = getattr(layer, name)
        return 0.0 if parameter is None else float(getattr(parameter, kind))

    def write(layer: Any, value: float) -> None:
        parameter = getattr(layer, name)
        if parameter is not None:
            setattr(parameter, kind, value)
        elif at_least_0(f"{name}_{kind}", value):
            raise ConfigError(
                f"{name}_{kind} is a penalty on a {name}, which this {type(layer).__name__} does not have"
            )

    return property(read, write, doc=f"The penalty {kind} on the {name}.")


class Stream:
    """A layer's own random bits: the key from (seed, path), the micro-batch counter in the store.

    `draw` arguments for kernels: `*stream.source` is (counters, index, key).
    """

    def __init__(self) -> None:
        self.path = ""
        self._owner: Owner | None = None
        self._source: tuple[Array, int, tuple[int, int]] | None = None

    @property
    def source(self) -> tuple[Array, int, tuple[int, int]]:
        """(counters, index of this stream's micro-batch counter, key)."""
        if self._source is None:
            if self._owner is None:
                raise StateError("this Stream belongs to no layer; assign it to an attribute in a layer's __init__")
            self._owner.materialize()
        assert self._source is not None
        return self._source

    def attach(self, path: str, counters: Array, index: int, key: tuple[int, int]) -> None:
        """Take the counter that the store has made."""
        self.path, self._source = path, (counters, index, key)

    def commit(self) -> None:
        """Count the micro-batch whose backward this is; forward may be repeated before."""
        counters, index, _ = self.source
        ops.increment_(counters, index)

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]


@contextmanager
def room_for(parameters: Mapping[str, Parameter], dtype: str) -> Iterator[None]:
    """A block that makes the arrays of a model. Raises OutOfMemoryError with what they need where they do not fit."""
    total = sum(each.size for each in parameters.values())
    size = total * (8 if dtype == "float64" else 4)
    try:
        if size > sys.maxsize:
            raise MemoryError("no array may be so large")
        yield
    except MemoryError as error:
        path, largest = max(parameters.items(), key=lambda item: item[1].size)
        raise OutOfMemoryError(
            f"out of memory for a model of {total:,} parameters: their values alone are {size / 2**30:,.1f} GiB of "
            f"{dtype}, and their gradients as many; the largest is {path!r} of shape {largest.shape} ({error})"
        ) from error
