"""A training step made on arrays without memory: the code that trains runs, and a ledger is kept of what it holds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from bpnet.dispatch import Array, Kernel, load_variants, recording, version
from bpnet.errors import BpnetError, ConfigError
from bpnet.memory.bodies import CapturingPlace, Maker, OutlinePlanner, OutlineStore, Place
from bpnet.memory.ledger import Block, Ledger, OutlineError
from bpnet.memory.outline import Outline, outline
from bpnet.step import Step

if TYPE_CHECKING:
    from bpnet.layers.base import Layer
    from bpnet.losses import Loss
    from bpnet.optimizers import Optimizer

LOSS = "(loss)"


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
    precision: str = "float32"
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
        try:
            self._set_up()
        except BaseException:
            self.ledger.__exit__()
            raise
        return self

    def _set_up(self) -> None:
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
        if task.precision == "bf16":
            with recording(self.maker):
                self.store.make_copies()
        model._store, model._seen = self.store, version()
        self.loss, self.optimizer = copy.copy(task.loss), copy.deepcopy(task.optimizer)
        vars(self.loss).pop("_kept", None)
        trainer: Any = SimpleNamespace(
            model=model, loss=self.loss, optimizer=self.optimizer, totals=None, check_gradients=False
        )
        self.step = Step(trainer, None, counted=False)
        self.inputs = self._batch()

    def __exit__(self, *_: object) -> None:
        self.ledger.__exit__()

    def _batch(self) -> tuple[Array, Array]:
        task = self.task
        ids = self.model.input_ids is not None
        x = outline((task.batch_size, *task.input_shape), "int64" if ids else task.dtype)
        with self.followed(), recording(self.maker):
            shape = self.model(x).shape
        labels = self.loss.targets == "labels"
        return x, outline(shape[:-1] if labels else shape, "int64" if labels else task.dtype)

    def walked(self) -> tuple[str, dict[str, set[Block]]]:
        """Make a step; return what it does where it holds the most, and what each part saves for its backward."""
        open_parts: list[str] = ["the step"]
        at: list[str] = []
        watched = dict[str, Any](self.model.walk()) | {LOSS: self.loss}
        saved: dict[str, set[Block]] = {}

        def noting(name: str, method: Any) -> Any:
            def called(*args: Any, **keywords: Any) -> Any:
                open_parts.append(f"{method.__name__} of {name}")
                try:
                    return method(*args, **keywords)
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
                vars(each)[method] = noting(name, getattr(each, method))
        backward = vars(self.loss)["backward"]
        vars(self.loss)["backward"] = look
        vars(self.optimizer)["step"] = noting("the optimizer", self.optimizer.step)
        self.maker.seen = 0
        self.optimizer.prepare(self.store)
        self.ledger.reset()
        try:
            with self.followed(), recording(Noting()):
                self.step(*self.inputs)
        finally:
            parts: list[Any] = [*watched.values(), self.optimizer]
            for each in parts:
                for method in ("forward", "backward", "step"):
                    vars(each).pop(method, None)
        self.eager()
        return at[max(0, self.ledger.place - 1)], saved

    @contextmanager
    def followed(self) -> Iterator[None]:
        """A block in which a layer that needs values is named in a ConfigError; other refusals are as in training."""
        try:
            yield
        except OutlineError as error:
            raise _unfollowed(error, self.model, self.loss) from error
        except BpnetError:
            raise
        except Exception as error:
            raise _unfollowed(error, self.model, self.loss) from error

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


def _unfollowed(error: Exception, model: Layer, loss: Loss) -> ConfigError:
    """The error that says who cannot be followed without values, and why: the innermost layer that was at work."""
    owners: dict[int, str] = {id(layer): f"layer {path!r}, {layer!r}," for path, layer in model.walk() if path}
    owners[id(loss)] = f"the loss, {loss!r},"
    found, trace = f"the model, {model!r},", error.__traceback__
    while trace is not None:
        found = owners.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    reason = str(error) if isinstance(error, OutlineError) else f"{type(error).__name__}: {error}"
    return ConfigError(
        f"memory: {found} cannot be followed without the values of its arrays: {reason}. A layer touches arrays "
        "through kernels, or functions of their own namespace"
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
