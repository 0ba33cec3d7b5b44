"""What stands for a backend, its bodies, a store and a plan where arrays have no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bpnet.backend import get_backend
from bpnet.dispatch import Array, Kernel, recording, set_namespace
from bpnet.memory.ledger import Block, OutlineError, ledger
from bpnet.memory.outline import Outline, outline
from bpnet.memory.rules import Namespace
from bpnet.plan import Plan
from bpnet.planner import Planner
from bpnet.store import Store
from bpnet.trace import Trace, Value, flat, mapped

CALL = 512  # bytes, or so, of the Python objects of a prepared call
ALIGNMENT = 256  # bytes that NumPy's backend adds to each array of its own
CARVED = {"numpy": 64, "cupy": 256, "torch": 256}
"""The alignment of plans' arrays in one memory, by the names of the backends that have it."""
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
        self.alignment = CARVED.get(name.partition(":")[0], 0)
        if self.alignment:
            self.carve = get_backend("numpy").carve  # type: ignore[attr-defined]  # of `Abilities`
        if self.bodies == "own":
            self.shared_scratch = get_backend(name).shared_scratch  # type: ignore[attr-defined]  # of `Abilities`

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
                raise OutlineError(
                    f"the kernel {kernel.name} made a {type(each).__name__} by no function of its arrays"
                )
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

    def _bind(self, trace: Trace, result: Value) -> None:
        with trusted():
            if self.backend.bodies == "own":  # type: ignore[attr-defined]
                super()._bind(trace, result)
                self._objects = Block(CALL * len(self._calls))
                return
            with only_what_stays():  # bodies other than NumPy's are not bound
                super()._bind(trace, result)
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
