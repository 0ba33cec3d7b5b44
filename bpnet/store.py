"""The store: one flat buffer for all values of a model, one for all gradients, one for each optimizer slot.

Parameters lie in segments ordered by (decay group, path), each padded to 256 bytes; tied parameters lie there once. So
an optimizer makes one pass a segment where it treats all alike, a norm is one reduction, and moving a model is a few
copies. Statistics come last; `pending` holds what they become when the present step updates. Beside these are the
counters (step, and one micro-batch counter for every random stream), the learning rate, and the flag `ok`, which turns
False when a step's loss is not finite and then keeps updates from happening.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.abilities import check_precision, scope_of
from bpnet.backend import FLOATING_DTYPES, Backend
from bpnet.compute import InPrecision
from bpnet.dispatch import Array, note_change
from bpnet.errors import CheckpointError, ConfigError, StateError
from bpnet.parameter import Parameter, Statistic, Stream
from bpnet.random import HostStream, stream_key

ALIGNMENT = 256  # bytes


@dataclass(frozen=True)
class Segment:
    """A contiguous range of the flat buffers: elements start ... stop - 1, all of one decay group."""

    start: int
    stop: int
    decay: bool


@dataclass(frozen=True)
class Run:
    """A contiguous range of the flat buffers that an optimizer treats alike.

    scale        : of the learning rate
    weight_decay : 0.0 where there is none
    """

    start: int
    stop: int
    scale: float
    weight_decay: float


SLOT = "slot/"  # what the names of slots begin with in `Store.arrays`
AVERAGE = "average"  # the slot of the values' moving averages


def _load(backend: Backend, host: Any) -> Array:
    with scope_of(backend):  # assignments are made on the current device
        array = backend.zeros(host.shape, str(host.dtype))
        array[...] = backend.asarray(host)
    return array


class Store(InPrecision):
    """The arrays of one model on one backend.

    values, grads     : (size,) of `dtype`
    compute           : bits of the parameters in bfloat16, where products are computed so (`bpnet.compute`), else None
    pending           : (size of the statistics' segment,) of `dtype`
    slots             : the optimizer's buffers by name, each (size,) of `dtype`
    counters          : (1 + number of streams,) int64; counters[0] is the number of steps taken
    ok, learning_rate : 0-d bool, 0-d float64
    """

    def __init__(
        self,
        parameters: dict[str, Parameter],
        streams: dict[str, Stream],
        *,
        backend: Backend,
        dtype: str,
        seed: int,
        redraw: bool,
    ) -> None:
        if dtype not in FLOATING_DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(FLOATING_DTYPES)}, got {dtype!r}")
        self.backend = backend
        self.scoped = hasattr(backend, "scope")  # whether work on it is to be done in a block: `bpnet.abilities`
        self.dtype = dtype
        self.seed = seed
        self.parameters = parameters
        self.streams = streams
        self.retired = ""
        self._optimizer: object = None
        self.filled = False  # whether some backward has contributed since the last update
        self.slots: dict[str, Array] = {}
        self.segments, self.offsets, self.size = self._lay_out(dtype)
        self.values = _load(backend, self._host_values(redraw))
        self.pending = backend.zeros((self.size - self._first_statistic,), dtype)
        self.grads = backend.zeros((self.size,), dtype)
        self.counters = backend.zeros((1 + len(streams),), "int64")
        self.learning_rate = backend.zeros((), "float64")
        self.ok = backend.zeros((), "bool")
        self.ok[...] = True
        self._ranges: dict[tuple[str, int, int], Array] = {}
        self._rates: dict[float, Array] = {}
        self.passes: Any = None  # what the optimizer keeps of the layout; forgotten when that changes
        self.holds_average = False  # whether values and averages have changed places
        self._attach()

    def _lay_out(self, dtype: str) -> tuple[tuple[Segment, ...], dict[str, int], int]:
        """The segments, every parameter's offset, and the size of a buffer, in elements of `dtype`."""
        pad = ALIGNMENT // np.dtype(dtype).itemsize
        segments: list[Segment] = []
        offsets: dict[str, int] = {}
        start = 0
        for kind, decay in ((Parameter, True), (Parameter, False), (Statistic, False)):
            stop = start
            for path, parameter in sorted(self.parameters.items()):
                if isinstance(parameter, Statistic) == (kind is Statistic) and parameter.decay == decay:
                    offsets[path] = stop
                    stop += -(-parameter.size // pad) * pad
            if stop > start:
                segments.append(Segment(start, stop, decay))
            start = stop
        return tuple(segments), offsets, start

    def _host_values(self, redraw: bool) -> Any:
        host = np.zeros(self.size, self.dtype)
        for path, parameter in self.parameters.items():
            value = None if redraw else parameter.host_value()
            if value is None:
                value = np.asarray(parameter.initializer(HostStream(self.seed, f"init/{path}"), parameter.shape))
                if value.shape != parameter.shape:
                    raise ConfigError(f"the initializer of {path!r} gave shape {value.shape}, not {parameter.shape}")
            start = self.offsets[path]
            host[start : start + parameter.size] = value.reshape(-1)
        return host

    @property
    def statistics(self) -> dict[str, Statistic]:
        """The statistics among the parameters, by path."""
        return {path: each for path, each in self.parameters.items() if isinstance(each, Statistic)}

    @property
    def _first_statistic(self) -> int:
        """Where the statistics begin in a flat buffer; its end where there are none."""
        return min((self.offsets[path] for path in self.statistics), default=self.size)

    def _attach(self) -> None:
        for path, parameter in self.parameters.items():
            parameter.attach(self, path, self.view(self.values, path), self.view(self.grads, path))
        for path, statistic in self.statistics.items():
            statistic.attach_pending(self.view(self.pending, path, self._first_statistic))
        for index, (path, stream) in enumerate(self.streams.items(), start=1):
            stream.attach(path, self.counters, index, stream_key(self.seed, f"stream/{path}"))

    def view(self, buffer: Array, path: str, first: int = 0) -> Array:
        """The part of a flat buffer that belongs to the parameter at `path`, in the parameter's shape.

        first : the offset at which the buffer begins
        """
        start, parameter = self.offsets[path] - first, self.parameters[path]
        return self.backend.xp.reshape(buffer[start : start + parameter.size], parameter.shape)

    def retire(self, reason: str) -> None:
        """Refuse updates from now on: some parameter has left this store."""
        self.retired = reason

    # --- what an optimizer needs ---

    def slot(self, name: str) -> Array:
        """The optimizer's buffer of that name, zeros when it is new; that of the averages begins at the values."""
        if name not in self.slots:
            self.slots[name] = self.backend.zeros((self.size,), self.dtype)
            if name == AVERAGE:
                self.slots[name][...] = self.values
        return self.slots[name]

    def rate(self, scale: float) -> Array:
        """The learning rate's 0-d array, or that of a group, into which each step writes scale * learning_rate."""
        if scale == 1.0:
            return self.learning_rate
        if scale not in self._rates:
            self._rates[scale] = self.backend.zeros((), "float64")
        return self._rates[scale]

    @property
    def steps_taken(self) -> int:
        """The number of steps taken: one read of the device."""
        return int(self.backend.to_numpy(self.counters)[0])

    def check(self) -> None:
        """Raise StateError when some parameter has left this store, or while parameters hold their averages."""
        if self.retired:
            raise StateError(f"this model can no longer be trained: {self.retired}; initialize() it to go on")
        if self.holds_average:
            raise StateError("the parameters hold their averages; leave the `with model.averaged()` block first")

    def swap_average(self) -> None:
        """Let values and averages change places."""
        average = self.slots[AVERAGE]
        kept = self.backend.xp.asarray(average, copy=True)
        average[...] = self.values
        self.values[...] = kept
        self.holds_average = not self.holds_average
        self.refresh()

    def abandon_gradients(self) -> None:
        """Forget what an interrupted step has contributed, and count its micro-batches as not drawn."""
        self.consume_gradients()
        self.counters[1:] = 0

    def serves(self, optimizer: object) -> bool:
        """Whether `optimizer` was the latest to claim the store, which is in use."""
        return self._optimizer is optimizer and not self.retired and not self.holds_average

    def continues(self, optimizer: object) -> bool:
        """Whether `optimizer` would go on from the steps that the counter says, and not begin anew."""
        return self._optimizer is optimizer or self._optimizer is None

    def claim(self, optimizer: object) -> None:
        """Serve `optimizer` from now on. Another one than before starts at step 0 with empty slots.

        Raises StateError when the store has been retired, or holds averages.
        """
        self.check()
        if not self.continues(optimizer):
            for name, slot in self.slots.items():
                slot[...] = self.values if name == AVERAGE else 0
            self.counters[...] = 0
        self._optimizer = optimizer

    def runs(self, rule: Callable[[str, Parameter], tuple[float, float] | None]) -> tuple[Run, ...]:
        """The runs of neighbours for which `rule(path, parameter)` gives the same (scale, weight decay); None: skipped.

        The padding behind a parameter belongs to it, and holds zeros.
        """
        found: list[Run] = []
        stops = [*self.offsets.values(), self.size][1:]  # offsets are in ascending order
        for (path, start), stop in zip(self.offsets.items(), stops, strict=True):
            settings = rule(path, self.parameters[path])
            if settings is None:
                continue
            last = found[-1] if found else None
            if last is not None and last.stop == start and (last.scale, last.weight_decay) == settings:
                found[-1] = Run(last.start, stop, *settings)
            else:
                found.append(Run(start, stop, *settings))
        return tuple(found)

    def part(self, name: str, segment: Segment | Run) -> Array:
        """The range `segment` of the buffer "values", "grads", "compute" or of a slot, always the same view object."""
        key = (name, segment.start, segment.stop)
        found = self._ranges.get(key)
        if found is None:
            buffer = getattr(self, name) if name in ("values", "grads", "compute") else self.slot(name)
            found = self._ranges[key] = buffer[segment.start : segment.stop]
        return found

    def complete_gradients(self) -> None:
        """Set the gradient of every parameter that got no contribution to zero; that of a frozen one is zero."""
        for parameter in self.parameters.values():
            if not parameter._filled and parameter.trainable:
                ops.fill_(parameter._grad, 0)

    def commit_statistics(self) -> None:
        """Let every statistic become what the micro-batches of this step have made of it, where `ok`."""
        statistics = self.statistics
        if not statistics:
            return
        for statistic in statistics.values():
            if not statistic._filled:
                ops.copy_(statistic.pending, statistic.value)
        segment = Segment(self._first_statistic, self.size, False)
        ops.commit_(self.part("values", segment), self.pending, self.ok)

    def consume_gradients(self) -> None:
        """Let the next backward write afresh."""
        for parameter in self.parameters.values():
            parameter._filled = False
        self.filled = False

    # --- moving and keeping ---

    def arrays(self) -> dict[str, Array]:
        """Every array of the store by name; together they are its whole state, and `compute` a part of it twice."""
        fixed = {
            "values": self.values,
            "grads": self.grads,
            "counters": self.counters,
            "learning_rate": self.learning_rate,
            "ok": self.ok,
        }
        if self.pending.shape[0]:
            fixed["pending"] = self.pending
        if self.compute is not None:
            fixed["compute"] = self.compute
        return fixed | {f"{SLOT}{name}": slot for name, slot in self.slots.items()}

    def check_restorable(self, kept: dict[str, Any]) -> None:
        """Raise CheckpointError unless `kept` has host arrays under the names of `arrays()`, as long as the store's.

        Slots may be others, and the gradients may be missing.
        """
        present = self.arrays()
        present.pop("compute", None)
        for name, array in present.items():
            if name not in kept and name != "grads" and not name.startswith(SLOT):
                raise CheckpointError(f"the checkpoint lacks {name!r}")
            if name in kept and kept[name].shape != tuple(array.shape):
                raise CheckpointError(
                    f"the checkpoint's {name!r} has shape {kept[name].shape}, the model's {tuple(array.shape)}"
                )
        dtypes = {"counters": "int64", "learning_rate": "float64", "ok": "bool"}
        for name, array in kept.items():
            unknown = name not in present and not name.startswith(SLOT)
            if (
                unknown
                or str(array.dtype) != dtypes.get(name, self.dtype)
                or (name not in present and array.shape != (self.size,))
            ):
                raise CheckpointError(f"the checkpoint has a {name!r} of {array.dtype} that the model has no place for")

    def restore(self, kept: dict[str, Any], filled: Iterable[str]) -> None:
        """Take the host arrays that `arrays()` had and `check_restorable` let pass. An optimizer has claimed the store.

        filled : the paths of the parameters to whose gradients the present step has contributed
        Slots that are not among them are dropped, so that recorded steps that name them no longer hold.
        """
        self.check()
        for name in [name for name in self.slots if SLOT + name not in kept]:
            del self.slots[name]
            self._ranges = {key: part for key, part in self._ranges.items() if key[0] != name}
            note_change()
        for name in kept:
            if name.startswith(SLOT):
                self.slot(name.removeprefix(SLOT))
        for name, array in self.arrays().items():
            array[...] = self.backend.asarray(kept[name]) if name in kept else 0
        self.refresh()
        self.consume_gradients()
        for path in filled:
            self.parameters[path]._filled = self.filled = True

    def known_arrays(self) -> Iterable[Array]:
        """Every array object that the store hands out: buffers, their parts, and the parameters' views."""
        yield from self.arrays().values()
        yield from self._ranges.values()
        yield from self._rates.values()
        for parameter in self.parameters.values():
            yield parameter._value
            yield parameter._grad
            if parameter.compute is not None:
                yield parameter.compute
        for statistic in self.statistics.values():
            yield statistic.pending

    def move(self, backend: Backend, dtype: str) -> None:
        """Bring every array to `backend` and floating ones to `dtype`; all views are made anew.

        Whatever raises on the way, the store is then as it was. Raises StateError when it has been retired, or holds
        averages.
        """
        self.check()
        if dtype not in FLOATING_DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(FLOATING_DTYPES)}, got {dtype!r}")
        check_precision(self.precision, backend, dtype)
        segments, offsets, size = self._lay_out(dtype)

        def moved(flat: Array, first: int = 0, new_first: int = 0) -> Array:
            host, new = self.backend.to_numpy(flat), np.zeros(size - new_first, dtype)
            for path, parameter in self.parameters.items():
                old, start = self.offsets[path] - first, offsets[path] - new_first
                if old >= 0:
                    new[start : start + parameter.size] = host[old : old + parameter.size]
            return _load(backend, new)

        values, grads = moved(self.values), moved(self.grads)
        first = min((offsets[path] for path in self.statistics), default=size)
        pending = moved(self.pending, self._first_statistic, first)
        slots = {name: moved(slot) for name, slot in self.slots.items()}
        counters, learning_rate, ok = (
            _load(backend, self.backend.to_numpy(each)) for each in (self.counters, self.learning_rate, self.ok)
        )
        filled = {path: parameter._filled for path, parameter in self.parameters.items()}
        self.backend, self.dtype, self.scoped = backend, dtype, hasattr(backend, "scope")
        self.segments, self.offsets, self.size = segments, offsets, size
        self.values, self.grads, self.pending, self.slots = values, grads, pending, slots
        self.counters, self.learning_rate, self.ok = counters, learning_rate, ok
        self._ranges, self._rates, self.passes = {}, {}, None
        self._attach()
        if self.compute is not None:
            self.make_copies()
        for path, parameter in self.parameters.items():
            parameter._filled = filled[path]
