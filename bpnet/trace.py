"""A step as a straight line of kernel calls, noted while it runs eagerly."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bpnet.dispatch import Array, Kernel, dtype_name, recording


@dataclass(frozen=True, eq=False)
class Value:
    """An array of the step: a fixed one (of the store, of the Trainer), an input, or a result."""

    number: int
    shape: tuple[int, ...]
    dtype: str
    fixed: Any = None  # the array itself where it outlives the step

    def __repr__(self) -> str:
        return f"{'store' if self.fixed is not None else '%'}{self.number}:{self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Step:
    """One recorded call. `args` and `out` hold Values in the places of arrays."""

    kernel: Kernel
    args: tuple[Any, ...]
    out: Any

    def __repr__(self) -> str:
        results = [each for each in flat(self.out) if each is not None]
        target = f"{', '.join(map(repr, results))} = " if results else ""
        return f"{target}{self.kernel.name}({', '.join(map(repr, self.args))})"


def flat(x: Any) -> Iterable[Any]:
    """The leaves of nested tuples."""
    if isinstance(x, tuple):
        for each in x:
            yield from flat(each)
    else:
        yield x


def mapped(f: Callable[[Any], Any], x: Any) -> Any:
    """Nested tuples with `f` applied to every leaf."""
    return tuple(mapped(f, each) for each in x) if isinstance(x, tuple) else f(x)


def is_array(x: Any) -> bool:
    """Whether `x` is an array of any library (its class is not: numpy.float32 has a dtype too)."""
    return hasattr(x, "dtype") and isinstance(getattr(x, "shape", None), tuple) and not isinstance(x, type)


class Trace:
    """Notes the kernel calls of one step.

    inputs  : the arrays that change from step to step, in order
    fixed   : returns those that outlive it (the store's, the Trainer's); a step may make new ones
    refusal : why the step cannot be planned, or ''; the step itself goes on
    """

    def __init__(self, inputs: tuple[Array, ...], fixed: Callable[[], Iterable[Array]]) -> None:
        self.steps: list[Step] = []
        self.refusal = ""
        self._fixed = fixed
        self._known: dict[int, Value] = {}
        self._alive: dict[int, Any] = {}  # what sees to it that an id names one array
        self._count = self._n_fixed = 0
        self.input_values = tuple(self._define(array) for array in inputs)

    def record(self, step: Callable[[], Any]) -> Any:
        """Run `step()` eagerly, noting its calls; return what it returns."""
        with recording(self):
            return step()

    def run(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
        """Make one call and note it."""
        result = self.make(kernel, args)
        if not self.refusal:
            noted = tuple([self._look_up(kernel.name, arg) for arg in args])
            for each in flat(result):
                if each is not None and not is_array(each):
                    self.refusal = f"{kernel.name} returned a {type(each).__name__}, which is no array"
                    return result
            out = mapped(lambda each: None if each is None else self._define(each), result)
            self.steps.append(Step(kernel, noted, out))
        return result

    def make(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
        """Make one call; it shows itself to nobody."""
        return kernel(*args)

    def value_of(self, array: Array) -> Any:
        """The Value of an array that some call returned; what cannot be found is noted in `refusal`."""
        return self._look_up("the step", array)

    def _look_up(self, name: str, arg: Any) -> Any:
        known = self._known.get(id(arg))
        if known is not None:
            return known
        if isinstance(arg, tuple):
            return tuple([self._look_up(name, each) for each in arg])
        if not is_array(arg):
            if isinstance(arg, (list, dict, set)) and not self.refusal:
                self.refusal = f"{name} got a {type(arg).__name__}; a planned kernel takes arrays, tuples and constants"
            return arg
        for array in self._fixed():
            self._define(array, fixed=True)
        known = self._known.get(id(arg))
        if known is None and not self.refusal:
            self.refusal = (
                f"{name} got an array of shape {tuple(arg.shape)} and dtype {dtype_name(arg.dtype)} that no kernel "
                "made: a layer that wants to be planned touches arrays through kernels only"
            )
        return known

    def _define(self, array: Array, fixed: bool = False) -> Value:
        known = self._known.get(id(array))
        if known is None:
            known = Value(
                self._n_fixed if fixed else self._count,
                tuple(array.shape),
                dtype_name(array.dtype),
                array if fixed else None,
            )
            self._count += not fixed
            self._n_fixed += fixed
            self._known[id(array)] = known
            self._alive[id(array)] = self._watched(array)
        return known

    def _watched(self, array: Array) -> Any:
        """A reference to the array whose end makes its id nobody's, so that recording keeps no array alive.

        The array itself where its library cannot refer to it weakly.
        """
        key, known, alive = id(array), self._known, self._alive

        def forget(_: Any) -> None:
            known.pop(key, None)
            alive.pop(key, None)

        try:
            return weakref.ref(array, forget)
        except TypeError:
            return array

    def close(self) -> None:
        """Let go of the step's arrays; what was noted stays."""
        self._known, self._alive = {}, {}

    def difference(self, other: Trace) -> str:
        """Why the two traces are not of one plan, or '' when they are."""
        if len(self.steps) != len(other.steps):
            return f"one step made {len(self.steps)} kernel calls and the next {len(other.steps)}"
        for index, (a, b) in enumerate(zip(self.steps, other.steps, strict=True)):
            if a.kernel is not b.kernel:
                return f"call {index} was {a.kernel.name} in one step and {b.kernel.name} in the next"
            if not (same(a.args, b.args) and same(a.out, b.out)):
                return f"call {index}, {a.kernel.name}, had other arguments in the next step: {a!r} and {b!r}"
        return ""


def same(x: Any, y: Any) -> bool:
    """Whether two notes agree: numbers of values, their shapes and dtypes, and constants by type and value."""
    if type(x) is not type(y):
        return False
    if isinstance(x, Value):
        if x.fixed is not None or y.fixed is not None:
            return x.fixed is y.fixed
        return (x.number, x.shape, x.dtype) == (y.number, y.shape, y.dtype)
    if isinstance(x, tuple):
        return len(x) == len(y) and all(map(same, x, y))
    return x is y or bool(x == y)
