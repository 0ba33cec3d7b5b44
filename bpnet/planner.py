"""Which steps are recorded, which are replayed, and why one is not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

from bpnet.abilities import can_capture
from bpnet.dispatch import Array, version
from bpnet.errors import StateError
from bpnet.plan import Plan
from bpnet.store import Store
from bpnet.trace import Trace, Value

PIECE = 1 << 16  # bytes that are compared at a time
NO_MEMORY = "there is no memory to prove a plan with"


class _Kind:
    """What is known about one kind of step: its latest trace, its plan, or why it has none."""

    def __init__(self) -> None:
        self.trace: Trace | None = None
        self.plan: Plan | None = None
        self.version = -1
        self.refusal = ""
        self.labels: tuple[str, ...] = ("x", "y", "weight")
        self.uncaptured = ""  # why its plan is no graph
        self.replays = 0
        self.used = 0


class Planner:
    """Runs steps of one store: eagerly at first, by a plan as soon as one has proved itself.

    The first step of a kind is recorded; so is the second, and when both made the same calls, the plan made of them
    repeats the second from the same state. If every array then agrees bit for bit, further steps are replayed. When a
    public attribute of a layer, loss or optimizer has been set, and now and then in any case, a step is recorded again
    and compared.
    extra   : returns the fixed arrays beside the store's, by name
    capture : whether plans become graphs where the backend can record calls: "auto", "on" (or raise), or "off". A graph
              proves itself as its plan does.
    """

    trace_class = Trace
    plan_class = Plan
    MAX_KINDS = 16  # plans hold buffers; of more kinds of steps the one that was used longest ago is forgotten
    LOOK_AGAIN = 512  # replays

    def __init__(self, store: Store, extra: Callable[[], dict[str, Array]], capture: str = "off") -> None:
        self.store = store
        self.capture = capture
        self.values = store.values  # another array here means that the model was moved
        self._extra = extra
        self._kinds: dict[Any, _Kind] = {}
        self._clock = 0
        self._said: set[str] = set()

    def serves(self, store: Store) -> bool:
        """Whether the plans are for the arrays that `store` now has."""
        return self.store is store and self.values is store.values

    def ready(self, name: str, *inputs: Array) -> Plan | None:
        """The plan that can be replayed on exactly these inputs now, or None."""
        kind = self._kinds.get((name, *[getattr(x, "shape", None) for x in inputs]))
        if kind is None or kind.plan is None or kind.version != version() or self.store.filled:
            return None
        if kind.replays >= self.LOOK_AGAIN or not kind.plan.takes(*inputs):
            return None
        kind.replays += 1
        kind.used = self._clock = self._clock + 1
        return kind.plan

    def run(self, name: str, step: Callable[..., Array], inputs: tuple[Array, ...]) -> Array:
        """Make the step `step(*inputs)`; `name` and the inputs' shapes tell kinds of steps apart.

        The inputs are of the library and the dtypes that the step computes in.
        """
        plan = self.ready(name, *inputs)
        if plan is not None:
            return plan.replay(*inputs)
        key = (name, *(tuple(x.shape) for x in inputs))
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= self.MAX_KINDS:
                del self._kinds[min(self._kinds, key=lambda each: self._kinds[each].used)]
            kind = self._kinds[key] = _Kind()
            if hasattr(step, "labels"):
                kind.labels = step.labels(len(inputs))
        kind.used = self._clock = self._clock + 1
        if self.capture == "on" and (kind.refusal or kind.uncaptured):
            raise StateError(
                f"Trainer(capture='on'): a {name} for x {tuple(inputs[0].shape)} cannot be one graph, because "
                f"{kind.refusal or kind.uncaptured}. With capture='auto' it is made call by call"
            )
        if kind.refusal or self.store.filled:
            return step(*inputs)
        if len({id(x) for x in inputs}) < len(inputs):  # inputs that a later step may tell apart
            inputs = (inputs[0], *(self.store.backend.xp.asarray(x, copy=True) for x in inputs[1:]))
        return self._learn(kind, step, inputs)

    def _learn(self, kind: _Kind, step: Callable[..., Array], inputs: tuple[Array, ...]) -> Array:
        changed = kind.version != version()  # an attribute was set, so that other calls are no sign of a hidden state
        if changed and kind.plan is None:
            kind.trace = None
        try:
            before = None if kind.trace is None or kind.plan is not None else self._snapshot()
        except MemoryError as error:  # a proof takes a copy of the state
            kind.refusal = f"{NO_MEMORY}: {error}"
            return step(*inputs)
        trace = self.trace_class(inputs, self._fixed)
        result = trace.record(lambda: step(*inputs))
        value = trace.value_of(result)
        trace.close()
        kind.version = version()
        if trace.refusal:
            kind.plan, kind.refusal = None, trace.refusal
        elif kind.trace is None:
            kind.trace = trace
        elif kind.plan is not None:
            difference = kind.trace.difference(trace)
            if difference and kind.replays >= self.LOOK_AGAIN and not changed:
                kind.plan, kind.refusal = None, difference
                warnings.warn(
                    f"up to {self.LOOK_AGAIN} steps were replayed from a plan that no longer holds: {difference}. "
                    "A layer or loss depends on values or on private state; train it with Trainer(..., plan=False)",
                    RuntimeWarning,
                    stacklevel=2,
                )
            elif difference:  # learn anew
                kind.trace, kind.plan = trace, None
            kind.replays = 0
        elif difference := kind.trace.difference(trace):
            kind.refusal = difference
        elif before is not None and before.keys() == self._arrays().keys():
            self._prove(kind, trace, inputs, result, value, before)
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
        capture = self.capture != "off" and can_capture(self.store.backend)
        try:
            if capture:  # which needs the state before a second time
                after = self._snapshot()
                self._restore(before)
            else:
                after = self._exchange(before)
        except MemoryError as error:
            kind.refusal = f"{NO_MEMORY}: {error}"
            return
        try:
            plan = self.plan_class(trace, value, self.store.backend)
            differing = self._replay_differs(plan, inputs, result, after)
        except Exception as error:  # a layer's own kernel that cannot be bound must not end the training
            self._restore(after)
            kind.refusal = f"its plan failed with {type(error).__name__}: {error}"
            return
        if differing:
            self._restore(after)
            kind.refusal = (
                f"replaying the recorded calls gave other values in {differing}: some layer changes an "
                "array outside of kernels, or draws random numbers of its own"
            )
            return
        kind.plan = plan
        kind.uncaptured = ""
        if capture:
            self._capture(kind, plan, inputs, result, before, after)

    def _replay_differs(self, plan: Plan, inputs: tuple[Array, ...], result: Array, after: dict[str, Array]) -> str:
        """Replay from the present state; the names of the arrays that are then not what they are `after`, or ''."""
        again = plan.replay(*inputs)
        return ", ".join(
            name
            for name, array in (self._arrays() | {"the result": again}).items()
            if not self.same_bits(array, after.get(name, result))
        )

    def same_bits(self, a: Array, b: Array) -> bool:
        """Whether two arrays have the same bytes; compared in pieces, since a copy of a large model is large."""
        first, second = (self.store.backend.to_numpy(each).reshape(-1).view("uint8") for each in (a, b))
        pieces = range(0, max(len(first), len(second)), PIECE)
        return all(first[i : i + PIECE].tobytes() == second[i : i + PIECE].tobytes() for i in pieces)

    def _capture(
        self,
        kind: _Kind,
        plan: Plan,
        inputs: tuple[Array, ...],
        result: Array,
        before: dict[str, Array],
        after: dict[str, Array],
    ) -> None:
        """Make the plan a graph if that gives the same bits; if not, note why, and say it once."""
        try:
            plan.capture()
            self._restore(before)
            differing = self._replay_differs(plan, inputs, result, after)
            if differing:
                kind.uncaptured = f"its graph gave other values in {differing} than its calls"
        except Exception as error:  # of the backend, its library, or a call that cannot be recorded
            kind.uncaptured = f"capturing it failed with {type(error).__name__}: {error}"
        if not kind.uncaptured:
            return
        plan.release()
        self._restore(after)
        if self.capture == "on":
            kind.plan = None  # so that the next step raises
        if self.capture == "auto" and kind.uncaptured not in self._said:
            self._said.add(kind.uncaptured)
            warnings.warn(
                f"steps are replayed call by call and not as one graph: {kind.uncaptured}", RuntimeWarning, stacklevel=2
            )

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

    def _exchange(self, snapshot: dict[str, Array]) -> dict[str, Array]:
        """Restore the snapshot, and let it become one of the state that was: one array after the other, since a copy of
        the whole state would be a third one. Raises MemoryError, with the state as it was.
        """
        xp = self.store.backend.xp
        done: list[str] = []
        arrays = self._arrays()
        try:
            for name, array in arrays.items():
                present = xp.asarray(array, copy=True)
                array[...] = snapshot[name]
                snapshot[name] = present
                done.append(name)
        except MemoryError:
            for name in done:
                arrays[name][...] = snapshot[name]
            raise
        return snapshot

    def report(self) -> str:
        """For every kind of step that was decided on, the calls of its plan, or why it has none."""
        lines = []
        for (name, *shapes), kind in self._kinds.items():
            what = f"{name} for {', '.join(f'{n} {s}' for n, s in zip(kind.labels, shapes, strict=False))}"
            if kind.plan is not None:
                how = ", captured as one graph" if kind.plan.captured else ""
                how = f", call by call, because {kind.uncaptured}" if kind.uncaptured else how
                lines.append(f"{what}: planned, {len(kind.plan)} prepared calls, {kind.plan.bytes} bytes{how}")
                lines += [f"    {line}" for line in repr(kind.plan).splitlines()]
            elif kind.refusal:
                lines.append(f"{what}: eager, because {kind.refusal}")
        return "\n".join(lines)

    def plans(self) -> dict[Any, Plan]:
        """The plans in use, by kind of step."""
        return {key: kind.plan for key, kind in self._kinds.items() if kind.plan is not None}
