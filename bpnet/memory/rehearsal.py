"""A training step made on arrays without memory: the code that trains runs, and a ledger is kept of what it holds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Array, Kernel, load_variants, recording, set_namespace, version
from bpnet.errors import BpnetError, ConfigError
from bpnet.memory.ledger import Block, Ledger, OutlineError, ledger
from bpnet.memory.outline import Outline, outline
from bpnet.memory.rules import Namespace
from bpnet.plan import Plan
from bpnet.planner import Planner
from bpnet.step import Step
from bpnet.store import Store
from bpnet.trace import Trace, Value, flat, mapped

if TYPE_CHECKING:
    from bpnet.layers.base import Layer
    from bpnet.losses import Loss
    from bpnet.optimizers import Optimizer

LOSS = "(loss)"
CALL = 512  # bytes, or so, of the Python objects of a prepared call
ALIGNMENT = 256  # bytes that NumPy's backend adds to each array of its own
set_namespace(Outline, Namespace())


class Place:
    """The backend of arrays without memory, in the place of the one that has the name.

    bodies : what makes kernels there: "own", NumPy's bodies, of which all is known; "references" with what they hold on
             the way, where the library has no bodies of its own; or "results", where it has such that cannot be asked
    """

    array_type: Any = Outline
    xp: Any = Namespace()

    def __init__(self, name: str) -> None:
        self.name = name
        self.bodies = {"numpy": "own", "cupy": "results"}.get(name.partition(":")[0], "references")

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        """An outline of x, itself where it is one of this dtype."""
        return self.xp.asarray(x, dtype=dtype)

    def to_numpy(self, x: Any) -> Any:
        """Zeros of the shape of x, where that is small."""
        if x.nbytes > 1 << 12:
            raise OutlineError("the values of an array are asked for, on which nothing of a step may depend")
        return np.zeros(x.shape, x.dtype)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """An outline."""
        return outline(shape, dtype, ALIGNMENT if self.bodies == "own" else 0)

    def describe(self) -> dict[str, str]:
        """What it stands for."""
        return {"version": np.__version__, "device": f"none, in the place of {self.name}"}

    def synchronize(self) -> None:
        """Nothing."""


class OutlineStore(Store):
    """A store without memory."""

    def _host_values(self, redraw: bool) -> Any:
        return outline((self.size,), self.dtype)


class Maker:
    """The recorder of steps without memory: each call makes its result and its scratch, and computes nothing.

    seen : the number of calls of the present step
    """

    def __init__(self, bodies: str) -> None:
        self.bodies = bodies
        self.seen = 0

    def run(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
        """Make one call of a step."""
        self.seen += 1
        ledger().at = self.seen
        result = self.make(kernel, args)
        for each in flat(result):
            if each is not None and not isinstance(each, Outline):
                raise OutlineError(f"the kernel {kernel.name} made a {type(each).__name__} by no function of its arrays")
        return result

    def make(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
        """Make one call, of a step or of another kernel's body."""
        with recording(_Inner(self)):
            if self.bodies == "own":
                return _prepared(kernel, args)
            if self.bodies == "references":
                return kernel.reference.body(*args)
            with only_what_stays():
                return kernel.reference.body(*args)


class _Inner:
    """The recorder of what bodies call."""

    def __init__(self, maker: Maker) -> None:
        self.run = maker.make


def _prepared(kernel: Kernel, args: tuple[Any, ...]) -> Any:
    """What NumPy's body for these arguments returns, when it has prepared its calls and made none."""
    variant = kernel.choose(args)
    if variant.bind is None or variant.allocate is None:
        return kernel.reference.body(*args)
    with trusted():
        result = variant.allocate(*args)
        variant.bind(result, *args)
    return result


@contextmanager
def trusted() -> Iterator[None]:
    """A block in which bodies of bpnet's prepare their calls, and may read what are zeros."""
    book = ledger()
    before, book.trusted = book.trusted, True
    try:
        yield
    finally:
        book.trusted = before


@contextmanager
def only_what_stays() -> Iterator[None]:
    """A block of which the ledger counts what is left at its end."""
    book = ledger()
    peak, place = book.peak, book.place
    yield
    book.peak, book.place = peak, place
    book.add(0)


class OutlinePlan(Plan):
    """A plan whose buffers have no memory."""

    def _bind(self, trace: Trace, wanted: Any) -> None:
        with trusted():
            if self.backend.bodies == "own":  # type: ignore[attr-defined]
                super()._bind(trace, wanted)
                self._objects = Block(CALL * len(self._calls))
                return
            with only_what_stays():  # bodies other than NumPy's are not bound
                super()._bind(trace, wanted)
                self._calls = []

    def _views(self, step: Any, body: Any, args: tuple[Any, ...]) -> bool:
        source = step.args[0]
        if not isinstance(source, Value) or source.fixed is not None or 0 in step.out.shape:
            return False
        view = body(*args)
        if view.block is not args[0].block:
            return False
        self._buffers[step.out] = view
        return True

    def replay(self, *inputs: Array) -> Array:
        """Make the calls that cannot be told where to write, and so allocate."""
        maker = Maker(self.backend.bodies)  # type: ignore[attr-defined]
        for step in self.steps:
            args = tuple(mapped(lambda x: self._array(x) if isinstance(x, Value) else x, arg) for arg in step.args)
            bound = maker.bodies == "own" and step.kernel.choose(args).bind is not None
            if not bound and not step.kernel.view:
                maker.make(step.kernel, args)
        return outline(self._result.shape, self._result.dtype)


class OutlinePlanner(Planner):
    """Records and proves steps without memory.

    recorded : the most that was held until the proof began
    """

    plan_class = OutlinePlan
    recorded = 0

    def __init__(self, store: Store, maker: Maker, capture: str) -> None:
        super().__init__(store, dict, capture)

        class Noting(Trace):
            def make(self, kernel: Kernel, args: tuple[Any, ...]) -> Any:
                return maker.run(kernel, args)

        self.trace_class = Noting

    def _prove(self, *args: Any) -> None:
        self.recorded = ledger().peak
        ledger().reset()
        super()._prove(*args)

    def same_bits(self, a: Array, b: Array) -> bool:
        """True."""
        return True


class CapturingPlace(Place):
    """The same for a backend that makes graphs of plans."""

    def capture(self, calls: Any) -> Any:
        """A call that does nothing."""
        return _nothing


def _nothing() -> None:
    """Nothing."""


# --- the step ---


@dataclass(frozen=True)
class Task:
    """What is to be rehearsed: all that decides what a step holds.

    wrapped : paths of layers that are to be put into Recompute
    """

    model: Layer
    batch_size: int
    input_shape: tuple[int, ...]
    loss: Loss
    optimizer: Optimizer
    dtype: str
    backend: str
    wrapped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Peaks:
    """The most bytes that are held at a time, in the phases of a training.

    eager    : in a step of the explicit loop, or of a Trainer with plan=False
    recorded : in the second step of a Trainer, which is recorded beside a copy of the state before
    proved   : while the plan is made and its first replay is compared
    replayed : in all further steps
    unplanned: why the step cannot be planned, or ''
    """

    eager: int
    recorded: int
    proved: int
    replayed: int
    unplanned: str

    def peak(self, planned: bool) -> int:
        """The most of a whole fit, or (planned=False) of the explicit loop."""
        return max(self.eager, self.recorded, self.proved, self.replayed) if planned else self.eager


class Rehearsal:
    """One step of a copy of the model, in a ledger of its own. Use it in a `with` block."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.ledger = Ledger()

    def __enter__(self) -> Rehearsal:
        self.ledger.__enter__()
        load_variants(np.ndarray)
        task = self.task
        self.model = skeleton(task.model)
        for path in task.wrapped:
            wrap(self.model, path)
        self.place = (CapturingPlace if task.backend.startswith("cupy") else Place)(task.backend)
        self.maker = Maker(self.place.bodies)
        model = self.model
        self.store = OutlineStore(
            model.parameters(), model.streams(), backend=self.place, dtype=task.dtype, seed=0, redraw=True
        )
        model._store, model._seen = self.store, version()
        self.loss, self.optimizer = copy.copy(task.loss), copy.deepcopy(task.optimizer)
        vars(self.loss).pop("_kept", None)
        trainer: Any = SimpleNamespace(
            model=model, loss=self.loss, optimizer=self.optimizer, totals=None, check_gradients=False
        )
        self.step = Step(trainer, None, counted=False)
        self.inputs = self._batch()
        return self

    def __exit__(self, *_: object) -> None:
        self.ledger.__exit__()

    def _batch(self) -> tuple[Array, Array]:
        task = self.task
        ids = self.model.input_ids is not None
        x = outline((task.batch_size, *task.input_shape), "int64" if ids else task.dtype)
        with recording(self.maker):
            shape = self.model(x).shape
        labels = self.loss.targets == "labels"
        return x, outline(shape[:-1] if labels else shape, "int64" if labels else task.dtype)

    def walked(self) -> tuple[str, dict[str, set[Block]]]:
        """Make a step; return what it does where it holds the most, and what each part has saved before its backward.

        Raises ConfigError that names the layer which cannot be followed.
        """
        open_parts: list[str] = ["the step"]
        at: list[str] = []
        watched = {path: each for path, each in self.model.walk()} | {LOSS: self.loss}
        saved: dict[str, set[Block]] = {}

        def noting(name: str, owner: Any, method: Any) -> Any:
            def called(*args: Any, **keywords: Any) -> Any:
                open_parts.append(f"{method.__name__} of {name}")
                try:
                    return method(*args, **keywords)
                except OutlineError as error:
                    raise unfollowed(name, owner, error) from error
                except BpnetError:
                    raise
                except Exception as error:
                    raise unfollowed(name, owner, error) from error
                finally:
                    open_parts.pop()

            return called

        def look(*args: Any, **keywords: Any) -> Any:
            store = {array.block for array in self.store.arrays().values()} | {each.block for each in self.inputs}
            known: set[Any] = {None, *store}
            for path, each in watched.items():
                found = set(_blocks(vars(each))) - known
                known |= found
                saved[path] = found
            return backward(*args, **keywords)

        class Noting:
            def run(_, kernel: Kernel, args: tuple[Any, ...]) -> Any:
                at.append(open_parts[-1])
                return self.maker.run(kernel, args)

        for path, each in watched.items():
            name = "the loss" if path == LOSS else f"layer {path!r}" if path else "the model"
            for method in ("forward", "backward"):
                vars(each)[method] = noting(name, each, getattr(each, method))
        backward = vars(self.loss)["backward"]
        vars(self.loss)["backward"] = look
        vars(self.optimizer)["step"] = noting("the optimizer", self.optimizer, self.optimizer.step)
        self.maker.seen = 0
        self.optimizer.prepare(self.store)
        self.ledger.reset()
        try:
            with recording(Noting()):
                self.step(*self.inputs)
        finally:
            for each in (*watched.values(), self.optimizer):
                for method in ("forward", "backward", "step"):
                    vars(each).pop(method, None)
        self.eager()
        return at[max(0, self.ledger.place - 1)], saved

    def eager(self) -> int:
        """Make an eager step; return its peak."""
        self.maker.seen = 0
        self.optimizer.prepare(self.store)
        self.ledger.reset()
        with recording(self.maker):
            self.step(*self.inputs)
        return self.ledger.peak

    def peaks(self) -> Peaks:
        """Make two steps, the second of which holds what all others do, then what a Trainer makes of them."""
        self.eager()
        eager, book = self.eager(), self.ledger
        planner = OutlinePlanner(self.store, self.maker, "auto")
        for _ in range(2):
            book.reset()
            planner.run("step", self.step, self.inputs)
        kind = next(iter(planner._kinds.values()))
        if kind.plan is None:
            return Peaks(eager, book.peak, 0, 0, kind.refusal)
        recorded, proved = planner.recorded, book.peak
        book.reset()
        planner.run("step", self.step, self.inputs)
        return Peaks(eager, recorded, proved, book.peak, "")


def unfollowed(name: str, owner: Any, error: Exception) -> ConfigError:
    """The error that says who cannot be followed without values, and why."""
    reason = str(error) if isinstance(error, OutlineError) else f"{type(error).__name__}: {error}"
    return ConfigError(
        f"memory: {name}, {owner!r}, cannot be followed without the values of its arrays: {reason}. A layer touches "
        "arrays through kernels, or functions of their own namespace"
    )


def _blocks(x: Any) -> Iterator[Block]:
    """The blocks of all arrays that an object holds in lists, tuples and dicts."""
    if isinstance(x, Outline):
        if x.block is not None:
            yield x.block
    elif isinstance(x, (list, tuple)):
        for each in x:
            yield from _blocks(each)
    elif isinstance(x, dict):
        for each in x.values():
            yield from _blocks(each)


def skeleton(model: Layer) -> Layer:
    """A copy of the model without the values of its parameters."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters().values():
        memo[id(parameter)] = bare = type(parameter).__new__(type(parameter))
        bare.__setstate__({name: getattr(parameter, name) for name in _FIXED} | {"value": None})
    return copy.deepcopy(model, memo)


_FIXED = ("shape", "initializer", "decay", "trainable", "l1", "l2", "learned")


def wrap(model: Layer, path: str) -> None:
    """Put the layer at `path`, an item of a container, into Recompute."""
    from bpnet.layers.containers import Recompute

    before, _, name = path.rpartition(".")
    container: Any = dict(model.walk())[before]
    layers, index = list(container.layers), int(name)
    wrapper = Recompute.__new__(Recompute)  # not by its constructor, which would tell all plans to look again
    vars(wrapper).update(_config={"layers": [layers[index]]}, layers=(layers[index],), _parent=container)
    vars(layers[index])["_parent"] = wrapper
    layers[index] = wrapper
    vars(container)["layers"] = tuple(layers)
