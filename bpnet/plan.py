"""A training step as a plan: recorded once, fused, bound to buffers, and replayed without Python between the calls.

A step is a straight line of kernel calls, because layers touch arrays only through kernels. A `Trace` notes them while
the step runs eagerly. A `Plan` is made of two equal traces: it fuses neighbours, gives every intermediate a buffer
(shared by those that are never alive together), lets results be written where they are wanted, and prepares each call.
It is trusted only after it has repeated one eager step bit for bit. Layers know nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bpnet import ops
from bpnet.backend import Backend
from bpnet.dispatch import Array, Call, Kernel, recording, version
from bpnet.store import Store


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
        results = [each for each in _flat(self.out) if each is not None]
        target = f"{', '.join(map(repr, results))} = " if results else ""
        return f"{target}{self.kernel.name}({', '.join(map(repr, self.args))})"


def _flat(x: Any) -> Iterable[Any]:
    if isinstance(x, tuple):
        for each in x:
            yield from _flat(each)
    else:
        yield x


def _mapped(f: Callable[[Any], Any], x: Any) -> Any:
    return tuple(_mapped(f, each) for each in x) if isinstance(x, tuple) else f(x)


def _plain_dtype(x: Any) -> str:
    return str(x.dtype).rpartition(".")[2]


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
        self._alive: list[Any] = []  # so that an id keeps naming one array
        self._count = 0
        self.input_values = tuple(self._define(array) for array in inputs)

    def record(self, step: Callable[[], Any]) -> Any:
        """Run `step()` eagerly, noting its calls; return what it returns."""
        with recording(self):
            return step()

    def run(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
        """Make one call and note it."""
        result = kernel.choose(args).body(*args)
        if not self.refusal:
            noted = tuple(_mapped(lambda arg: self._look_up(kernel.name, arg), arg) for arg in args)
            out = _mapped(lambda each: None if each is None else self._define(each), result)
            self.steps.append(Step(kernel, noted, out))
        return result

    def value_of(self, array: Array) -> Any:
        """The Value of an array that some call returned; what cannot be found is noted in `refusal`."""
        return self._look_up("the step", array)

    def _look_up(self, name: str, arg: Any) -> Any:
        if not (hasattr(arg, "dtype") and hasattr(arg, "shape")):
            return arg
        if id(arg) not in self._known:
            for array in self._fixed():
                self._define(array, fixed=True)
        known = self._known.get(id(arg))
        if known is None and not self.refusal:
            self.refusal = (
                f"{name} got an array of shape {tuple(arg.shape)} and dtype {_plain_dtype(arg)} that no kernel made: "
                "a layer that wants to be planned touches arrays through kernels only"
            )
        return known

    def _define(self, array: Array, fixed: bool = False) -> Value:
        known = self._known.get(id(array))
        if known is None:
            known = Value(
                len(self._alive) if fixed else self._count,
                tuple(array.shape),
                _plain_dtype(array),
                array if fixed else None,
            )
            self._count += not fixed
            self._known[id(array)] = known
            self._alive.append(array)
        return known

    def close(self) -> None:
        """Let go of the step's arrays; what was noted stays."""
        self._known, self._alive = {}, []

    def difference(self, other: Trace) -> str:
        """Why the two traces are not of one plan, or '' when they are."""
        if len(self.steps) != len(other.steps):
            return f"one step made {len(self.steps)} kernel calls and the next {len(other.steps)}"
        for index, (a, b) in enumerate(zip(self.steps, other.steps, strict=True)):
            if a.kernel is not b.kernel:
                return f"call {index} was {a.kernel.name} in one step and {b.kernel.name} in the next"
            if _token((a.args, a.out)) != _token((b.args, b.out)):
                return f"call {index}, {a.kernel.name}, had other arguments in the next step: {a!r} and {b!r}"
        return ""


def _token(x: Any) -> Any:
    """What must be equal from step to step: numbers of values, their shapes and dtypes, and constants by value."""
    if isinstance(x, tuple):
        return tuple(_token(each) for each in x)
    if isinstance(x, Value):
        return id(x.fixed) if x.fixed is not None else (x.number, x.shape, x.dtype)
    return (type(x), x)


def fuse_activations(steps: list[Step], wanted: set[Value]) -> list[Step]:
    """Let `linear` apply the elementwise activation that is the only reader of its result."""
    readers = _readers(steps)
    fused, gone = list(steps), set()
    for i, step in enumerate(steps):
        if step.kernel is not ops.linear or len(step.args) > 3 or step.out in wanted:
            continue
        if len(readers.get(step.out, [])) != 1:
            continue
        j = readers[step.out][0]
        reader = steps[j]
        single = reader.kernel.elementwise and reader.args[0] is step.out
        if single and not any(isinstance(arg, Value) for arg in _flat(reader.args[1:])):
            fused[i] = Step(ops.linear, (*step.args, reader.kernel, *reader.args[1:]), reader.out)
            gone.add(j)
    return [step for i, step in enumerate(fused) if i not in gone]


def fuse_loss(steps: list[Step], wanted: set[Value]) -> list[Step]:
    """Let softmax and cross-entropy give the loss and the gradient in one pass where nobody else reads p."""
    readers = _readers(steps)
    fused, gone = list(steps), set()
    for i, step in enumerate(steps):
        if step.kernel is not ops.softmax_cross_entropy:
            continue
        loss, p = step.out
        after = readers.get(p, [])
        if p in wanted or len(after) != 1 or steps[after[0]].kernel is not ops.softmax_cross_entropy_backward:
            continue
        backward = steps[after[0]]
        logits, labels, normalizer = step.args
        if backward.args[0] is p and backward.args[1] is labels and backward.args[2] == normalizer:
            args = (logits, labels, normalizer, backward.args[3])
            fused[i] = Step(ops.softmax_cross_entropy_gradient, args, (loss, backward.out))
            gone.add(after[0])
    return [step for i, step in enumerate(fused) if i not in gone]


def write_in_place(steps: list[Step], wanted: set[Value]) -> list[Step]:
    """Let a call write where a following `copy_` into a fixed array would bring its result."""
    readers = _readers(steps)
    result = list(steps)
    gone = set()
    for i, step in enumerate(steps):
        if step.kernel.view:
            continue
        j = i + 1
        while j < len(steps) and steps[j].kernel is ops.copy_ and steps[j].args[1] in set(_flat(step.out)):
            target, source = steps[j].args
            same = (target.shape, target.dtype) == (source.shape, source.dtype)
            if same and target.fixed is not None and len(readers[source]) == 1 and source not in wanted:
                out = _mapped(partial(_swap, source, target), result[i].out)
                result[i] = replace(result[i], out=out)
                gone.add(j)
            j += 1
    return [step for i, step in enumerate(result) if i not in gone]


def _swap(old: Any, new: Any, each: Any) -> Any:
    return new if each is old else each


def _readers(steps: list[Step]) -> dict[Any, list[int]]:
    """For every value, the indices of the calls that take it, once per occurrence."""
    found: dict[Any, list[int]] = {}
    for index, step in enumerate(steps):
        for arg in _flat(step.args):
            if isinstance(arg, Value):
                found.setdefault(arg, []).append(index)
    return found


class Plan:
    """A bound step: `replay(*inputs)` copies the inputs into its buffers and makes the prepared calls.

    trace  : of an eager step; result : what the step returned, and replay returns a copy of
    """

    def __init__(self, trace: Trace, result: Value, backend: Backend) -> None:
        self.backend = backend
        wanted = {result}
        self.steps = write_in_place(fuse_loss(fuse_activations(trace.steps, wanted), wanted), wanted)
        self._buffers: dict[Value, Array] = {}
        self._calls: list[Call] = []
        self.bytes = 0
        self._bind(trace, wanted)
        self._inputs = tuple(self._buffers[value] for value in trace.input_values)
        self._result = self._array(result)
        self._copy = backend.xp.asarray

    def replay(self, *inputs: Array) -> Array:
        """Make the step with `inputs`, of the recorded shapes and dtypes; return a copy of its result."""
        for buffer, array in zip(self._inputs, inputs, strict=True):
            buffer[...] = array
        for call in self._calls:
            call()
        return self._copy(self._result, copy=True)

    def takes(self, *inputs: Array) -> bool:
        """Whether the inputs are of the library and the dtypes that were recorded."""
        for buffer, array in zip(self._inputs, inputs, strict=True):
            if type(array) is not type(buffer) or (array.dtype is not buffer.dtype and array.dtype != buffer.dtype):
                return False
        return True

    def _array(self, value: Value) -> Array:
        return value.fixed if value.fixed is not None else self._buffers[value]

    def _bind(self, trace: Trace, wanted: set[Value]) -> None:
        for value in trace.input_values:
            self._buffers[value] = self._new(value)
        last, root = self._lifetimes(wanted | set(trace.input_values))
        pool: dict[tuple[tuple[int, ...], str], list[Array]] = {}
        for index, step in enumerate(self.steps):
            args = _mapped(lambda arg: self._array(arg) if isinstance(arg, Value) else arg, step.args)
            variant = step.kernel.choose(args)
            if step.kernel.view:
                self._buffers[step.out] = variant.body(*args)
                continue
            for value in _flat(step.out):
                if isinstance(value, Value) and value.fixed is None and value not in self._buffers:
                    free = pool.get((value.shape, value.dtype))
                    self._buffers[value] = free.pop() if free else self._new(value)
            out = _mapped(lambda each: None if each is None else self._array(each), step.out)
            if variant.bind is not None:
                self._calls += variant.bind(out, *args)
            elif variant.into is not None:
                self._calls.append(partial(variant.into, out, *args))
            else:
                self._calls.append(partial(_write_result, variant.body, out, args))
            for value in [v for v, when in last.items() if when == index]:
                if root.get(value, value) is value and value in self._buffers:
                    pool.setdefault((value.shape, value.dtype), []).append(self._buffers[value])

    def _lifetimes(self, kept: set[Value]) -> tuple[dict[Value, int], dict[Value, Value]]:
        """For every intermediate the index of the last call that touches it or a view of it; and views' roots."""
        root: dict[Value, Value] = {}
        last: dict[Value, int] = {}
        for index, step in enumerate(self.steps):
            if step.kernel.view and isinstance(step.out, Value):
                source = step.args[0]
                if step.out is not source:
                    root[step.out] = root.get(source, source)
            for value in _flat((step.args, step.out)):
                if isinstance(value, Value) and value.fixed is None:
                    last[root.get(value, value)] = index
        kept_roots = {root.get(value, value) for value in kept}
        return {value: index for value, index in last.items() if value not in kept_roots}, root

    def _new(self, value: Value) -> Array:
        bits = value.dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
        self.bytes += math.prod(value.shape) * (int(bits) // 8 if bits else 1)
        return self.backend.zeros(value.shape, value.dtype)

    def __len__(self) -> int:
        return len(self._calls)

    def __repr__(self) -> str:
        return "\n".join(repr(step) for step in self.steps)


def _write_result(body: Callable[..., Any], out: Any, args: tuple[Any, ...]) -> None:
    """Run a body that cannot be told where to write, and copy its result there."""
    result = body(*args)
    for target, each in zip(_flat(out), _flat(result), strict=True):
        if target is not None:
            target[...] = each


class _Kind:
    """What is known about one kind of step: its latest trace, its plan, or why it has none."""

    def __init__(self) -> None:
        self.trace: Trace | None = None
        self.plan: Plan | None = None
        self.version = -1
        self.refusal = ""


class Planner:
    """Runs steps of one store: eagerly at first, by a plan as soon as one has proved itself.

    The first step of a kind is recorded; so is the second, and when both made the same calls, the plan made of them
    repeats the second from the same state. If every array then agrees bit for bit, further steps are replayed. When a
    public attribute of a layer, loss or optimizer has been set, the next step is recorded again and compared.
    extra : returns the fixed arrays beside the store's, by name
    """

    def __init__(self, store: Store, extra: Callable[[], dict[str, Array]]) -> None:
        self.store = store
        self.values = store.values  # another array here means that the model was moved
        self._extra = extra
        self._kinds: dict[Any, _Kind] = {}

    def ready(self, name: str, x: Array, y: Array) -> Plan | None:
        """The plan that can be replayed on exactly these inputs now, or None."""
        kind = self._kinds.get((name, x.shape, y.shape))
        if kind is None or kind.plan is None or kind.version != version() or self.store.filled:
            return None
        return kind.plan if kind.plan.takes(x, y) else None

    def run(self, name: str, step: Callable[..., Array], inputs: tuple[Array, ...]) -> Array:
        """Make the step `step(*inputs)`; `name` and the inputs' shapes tell kinds of steps apart.

        The inputs are of the library and the dtypes that the step computes in.
        """
        key = (name, *(x.shape for x in inputs))
        kind = self._kinds.get(key)
        if kind is not None and kind.plan is not None and kind.version == version() and not self.store.filled:
            return kind.plan.replay(*inputs)
        if kind is None:
            kind = self._kinds[key] = _Kind()
        if kind.refusal or self.store.filled:
            return step(*inputs)
        return self._learn(kind, step, inputs)

    def _learn(self, kind: _Kind, step: Callable[..., Array], inputs: tuple[Array, ...]) -> Array:
        before = None if kind.trace is None or kind.plan is not None else self._snapshot()
        trace = Trace(inputs, self._fixed)
        result = trace.record(lambda: step(*inputs))
        value = trace.value_of(result)
        kind.version = version()
        if trace.refusal:
            kind.plan, kind.refusal = None, trace.refusal
        elif kind.trace is None:
            kind.trace = trace
        elif kind.plan is not None:
            if kind.trace.difference(trace):  # an attribute was changed: learn anew
                kind.trace, kind.plan = trace, None
        elif difference := kind.trace.difference(trace):
            kind.refusal = difference
        elif before is not None and before.keys() == self._arrays().keys():
            self._prove(kind, trace, inputs, result, value, before)
        trace.close()
        return result

    def _prove(
        self,
        kind: _Kind,
        trace: Trace,
        inputs: tuple[Array, ...],
        result: Array,
        value: Value,
        before: dict[str, Array],
    ) -> None:
        """Replay the step that was just made from the state before it, and trust the plan if all bits agree."""
        after = self._snapshot()
        try:
            plan = Plan(trace, value, self.store.backend)
            self._restore(before)
            again = plan.replay(*inputs)
        except Exception as error:  # a layer's own kernel that cannot be bound must not end the training
            self._restore(after)
            kind.refusal = f"its plan failed with {type(error).__name__}: {error}"
            return
        bits = self.store.backend.to_numpy
        differing = [
            name
            for name, array in (self._arrays() | {"the result": again}).items()
            if bits(array).tobytes() != bits(after.get(name, result)).tobytes()
        ]
        if differing:
            self._restore(after)
            kind.refusal = (
                f"replaying the recorded calls gave other values in {', '.join(differing)}: some layer changes an "
                "array outside of kernels, or draws random numbers of its own"
            )
        else:
            kind.plan = plan

    def _arrays(self) -> dict[str, Array]:
        return self.store.arrays() | self._extra()

    def _fixed(self) -> Iterable[Array]:
        yield from self.store.known_arrays()
        yield from self._extra().values()

    def _snapshot(self) -> dict[str, Array]:
        xp = self.store.backend.xp
        return {name: xp.asarray(array, copy=True) for name, array in self._arrays().items()}

    def _restore(self, snapshot: dict[str, Array]) -> None:
        for name, array in self._arrays().items():
            array[...] = snapshot[name]

    def plans(self) -> dict[Any, Plan]:
        """The plans in use, by kind of step."""
        return {key: kind.plan for key, kind in self._kinds.items() if kind.plan is not None}

    def refusals(self) -> dict[Any, str]:
        """Why kinds of steps run eagerly, where that has been decided."""
        return {key: kind.refusal for key, kind in self._kinds.items() if kind.refusal}
