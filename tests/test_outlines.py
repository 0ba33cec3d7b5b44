"""Arrays without memory: what comes out of a kernel has the shape, dtype and layout that it has with memory."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bpnet as bp
from bpnet.dispatch import Kernel, kernels, load_variants
from bpnet.memory.bodies import Maker, Place
from bpnet.memory.ledger import Ledger, OutlineError, ledger
from bpnet.memory.outline import Outline, outline
from bpnet.memory.rehearsal import Rehearsal, Task
from bpnet.memory.rules import Namespace
from bpnet.testing.cases import CASES
from bpnet.testing.cases.layers import LAYERS
from bpnet.trace import Trace, flat

load_variants(np.ndarray)
SHIPPED = [each for each in kernels() if each.__module__.startswith("bpnet.")]
xp: Any = Namespace()


@pytest.fixture
def book() -> Iterator[Ledger]:
    with Ledger() as found:
        yield found


def outlined(x: Any) -> Any:
    """The same without memory, laid out alike."""
    if isinstance(x, tuple):
        return tuple(outlined(each) for each in x)
    if not isinstance(x, np.ndarray):
        return x
    if x.flags.c_contiguous:
        return outline(x.shape, x.dtype)
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    if x.transpose(order).flags.c_contiguous:
        return outline([x.shape[axis] for axis in order], x.dtype).transpose(np.argsort(order).tolist())
    whole = outline([2 * n for n in x.shape], x.dtype)
    return whole[tuple(slice(0, n) for n in x.shape)]


def looks(x: Any) -> Any:
    """Shapes and dtypes of results."""
    if isinstance(x, tuple):
        return tuple(looks(each) for each in x)
    return None if x is None else (tuple(x.shape), str(x.dtype))


@pytest.mark.parametrize("bodies", ["own", "references", "results"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", SHIPPED, ids=lambda op: op.name)
def test_a_kernel_gives_outlines_of_what_it_gives(book: Ledger, op: Kernel, dtype: str, bodies: str) -> None:
    maker = Maker(bodies)
    for args in CASES[op.name](np.random.default_rng(0), dtype):
        book.trusted = True  # cases have empty and odd arrays, for which bodies are references
        with np.errstate(all="ignore"):
            body = op.choose(args).body if bodies == "own" else op.reference.body
            expected = body(*[each.copy() if isinstance(each, np.ndarray) else each for each in args])
        found = maker.make(op, tuple(outlined(each) for each in args))
        assert looks(found) == looks(expected)
        assert all(each is None or isinstance(each, Outline) for each in flat(found))


def test_the_bodies_chosen_for_outlines_are_those_chosen_for_arrays(book: Ledger) -> None:
    for op in SHIPPED:
        for args in CASES[op.name](np.random.default_rng(0), "float32"):
            assert op.choose(tuple(outlined(each) for each in args)) is op.choose(args), (op, looks(args))


def single(name: str, case: Any) -> bool:
    layer = case.make()
    learned = [each for each in layer.parameters().values() if each.trainable]
    return not case.inputs[0].others and bool(learned or not layer.parameters())


CALLED = [(f"{name} {kind}".strip(), case) for name, entry in LAYERS.items()
          for kind, case in entry.cases.items() if single(name, case)]  # fmt: skip


@pytest.mark.lenient
@pytest.mark.parametrize("case", [case for _, case in CALLED], ids=[name for name, _ in CALLED])
def test_the_step_without_memory_makes_the_calls_of_the_step(case: Any) -> None:
    """The same kernels, in the same order, with arguments and results of the same shapes and dtypes."""
    n, shape, below = 5, case.inputs[0].shape, case.inputs[0].below
    rng = np.random.default_rng(0)
    x = rng.integers(0, below, (n, *shape)) if below else rng.normal(size=(n, *shape)).astype("float32")
    model, loss, optimizer = case.make().initialize(), bp.MeanSquaredError(), bp.Adam()
    y = np.zeros_like(model(x))
    optimizer.prepare(model.store)
    trace = Trace((x, y), model.store.known_arrays)

    def step() -> None:
        loss.forward(model.forward(x), y, loss.total_weight(y.shape, y))
        model.backward(loss.backward(), need_dx=False)
        optimizer.step(model)

    trace.record(step)
    with Rehearsal(Task(case.make(), n, shape, bp.MeanSquaredError(), bp.Adam(), "float32", "numpy")) as rehearsal:
        other = Trace(rehearsal.inputs, rehearsal.store.known_arrays)
        maker = rehearsal.maker
        other.make = maker.run  # type: ignore[method-assign]
        rehearsal.optimizer.prepare(rehearsal.store)
        other.record(lambda: rehearsal.step(*rehearsal.inputs))
    left, right = ([(each.kernel.name, described(each.args), described(each.out)) for each in some.steps]
                   for some in (trace, other))  # fmt: skip
    ends = {"fill_", "check_finite_", "add", "penalty"}  # of the Trainer's step
    assert [each for each in right if each[0] not in ends] == [each for each in left if each[0] not in ends]


def described(x: Any) -> Any:
    """A trace's values as shape and dtype; numbers, which may name other arrays, aside."""
    if isinstance(x, tuple):
        return tuple(described(each) for each in x)
    return (x.shape, x.dtype, x.fixed is None) if hasattr(x, "fixed") else x


# --- the ledger ---


def test_a_block_lives_as_long_as_an_array_or_a_view_of_it(book: Ledger) -> None:
    x = outline((4, 6), "float32")
    assert book.present == 96
    view = x[1:, ::2].T.reshape(9)  # a copy, since the rows are not together
    assert book.present == 96 + 36
    rows = x[1:3]
    del x, view
    assert book.present == 96
    del rows
    assert (book.present, book.peak) == (0, 132)


def test_what_is_computed_is_held_and_let_go_of_as_with_memory(book: Ledger) -> None:
    x = outline((1000,), "float64")
    y = (x * 2 + 1) / 3  # one result and one on its way at a time, and the last is kept
    assert (book.present, book.peak) == (16000, 24000)
    y += x
    assert book.peak == 24000
    assert y.sum().shape == ()


def test_outlines_take_no_memory() -> None:
    resident = Path("/proc/self/statm")
    if not resident.exists():
        pytest.skip("this system does not say how much memory a process has")
    before = int(resident.read_text().split()[1])
    with Ledger() as book:
        x = outline((1 << 20, 1 << 15), "float32")  # 128 GiB
        y = xp.exp(x @ outline((1 << 15, 1 << 15), "float32"))
        y[...] = 1
        y.fill(2)
        assert book.present == 256 << 30
    assert int(resident.read_text().split()[1]) - before < 1000  # pages


@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple),
    data=st.data(),
)
def test_views_and_copies_are_those_of_numpy(shape: tuple[int, ...], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    steps = tuple(slice(None, None, data.draw(st.sampled_from([1, 2, -1]))) for _ in shape)
    real = np.zeros(shape, "float32").transpose(order)[steps]
    targets = [(-1,), real.shape[::-1], (1, *real.shape), (real.size, 1)]
    new = data.draw(st.sampled_from([each for each in targets if -1 not in each or real.size]))
    with Ledger() as book:
        x = outline(shape, "float32").transpose(order)[steps]
        assert (x.shape, x.flags.c_contiguous) == (real.shape, real.flags.c_contiguous)
        assert x.strides == real.strides or not real.size
        before = book.present
        found, expected = x.reshape(new), real.reshape(new)
        assert found.shape == expected.shape
        assert found.flags.c_contiguous == expected.flags.c_contiguous
        if real.size:
            assert (book.present == before) == np.shares_memory(real, expected)


@given(st.data())
def test_functions_give_what_numpys_give(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=3).map(tuple))
    dtype = data.draw(st.sampled_from(["float32", "float64", "int64", "int8", "bool"]))
    axis = data.draw(st.sampled_from([*range(-len(shape), len(shape)), None]))
    keep = data.draw(st.booleans())
    real = np.ones(shape, dtype)
    calls: list[Any] = [
        lambda np, x: np.sum(x, axis=axis, keepdims=keep),
        lambda np, x: np.max(x, axis=axis, keepdims=keep),
        lambda np, x: np.mean(x, axis=axis),
        lambda np, x: np.any(x > 0, axis=axis),
        lambda np, x: np.argmax(x, axis=axis),
        lambda np, x: np.where(x > 0, x, 1),
        lambda np, x: np.concat([x, x * 2], axis=0),
        lambda np, x: np.stack([x, x], axis=-1),
        lambda np, x: np.expand_dims(x, axis=0) + np.ones(shape[-1]),
        lambda np, x: np.broadcast_to(x, (5, *shape)),
        lambda np, x: np.flip(x, axis=0),
        lambda np, x: np.permute_dims(x, tuple(range(len(shape)))[::-1]) ** 2,
        lambda np, x: np.astype(x, np.float32) @ np.ones((shape[-1], 4), dtype=np.float32),
        lambda np, x: np.take(x, np.asarray([0, 0]), axis=0),
        lambda np, x: np.zeros_like(x, dtype=np.int32) << 1,
        lambda np, x: np.cumulative_sum(x, axis=0) if hasattr(np, "cumulative_sum") else x,
        lambda np, x: np.arange(3) * np.eye(3) + np.full((3,), 2.0) + np.linspace(0, 1, 3),
        lambda np, x: np.asarray(x, copy=True) & x if dtype != "bool" and "int" in dtype else np.asarray(x),
        lambda np, x: np.logaddexp(x * 1.0, x * 1.0) / np.sqrt(x * 1.0),
        lambda np, x: np.repeat(x, 2, axis=0),
        lambda np, x: np.tril(x),
        lambda np, x: np.clip(x, 0, 1),
    ]
    call = data.draw(st.sampled_from(calls))
    expected = np.asarray(call(np, real))
    with Ledger() as book:
        x = outline(shape, dtype)
        found = call(xp, x)
        assert isinstance(found, Outline)
        assert looks(found) == looks(expected)
        assert book.present >= x.nbytes


def test_values_cannot_be_asked_for(book: Ledger) -> None:
    x = outline((3,), "float32")
    for asks in (lambda: float(x[0]), lambda: bool(x[0] > 0), lambda: int(x[0]), x.tolist, x.sum().item):
        with pytest.raises(OutlineError, match="of an array (is|are) asked for, on which nothing of a step may depend"):
            asks()
    with pytest.raises(OutlineError, match="truth values"):
        x[x > 0]
    with pytest.raises(OutlineError, match="would have allocated"):
        np.ndarray.copy(outline((100, 100), "float64"))
    with pytest.raises(OutlineError, match="the values of an array are asked for"):
        Place("numpy").to_numpy(outline((10_000,), "float64"))


def test_an_outline_without_its_ledger_is_refused() -> None:
    with pytest.raises(OutlineError, match="outside of the estimate"):
        outline((2,), "float32")
    with Ledger():
        assert ledger().present == 0


# --- the bodies' side ---

BODIES = Path(bp.__file__).parent.parent / "backends" / "bpnet_numpy"
MAKERS = {"empty", "zeros", "ones", "full", "arange"}
SMALL = {"np.empty(2)", "np.empty(())", "np.empty((), dtype)", "np.zeros(1, np.int64)", "np.ones(n_classes)"}


@pytest.mark.parametrize(
    "path",
    sorted([*(BODIES / "kernels").glob("*.py"), *(BODIES / "fused" / "variants").glob("*.py")]),
    ids=lambda p: p.stem,
)
def test_a_body_makes_its_arrays_like_its_arguments(path: Path) -> None:
    """So that what stands for an array is asked for them: otherwise they would be real, and not be counted."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        if isinstance(owner, ast.Name) and owner.id == "np" and node.func.attr in MAKERS:
            text = ast.unparse(node)
            given = any(each.arg == "like" for each in node.keywords)
            assert given or text in SMALL, f"{path.name}: {text} needs like= one of the body's arrays"
