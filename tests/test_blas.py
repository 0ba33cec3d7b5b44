"""Routines of the BLAS that NumPy does not call, and what is made of them: parts of products, optimizers' passes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet import ops
from bpnet.testing.kernels import check_kernel
from bpnet_numpy import blas, threads
from bpnet_numpy.kernels.passes import DRIFT, Number, combine, follow

DTYPES = [np.dtype("float32"), np.dtype("float64")]
HAS_PRODUCTS = pytest.mark.skipif(
    blas._gemm_batch(DTYPES[0]) is None, reason="NumPy's BLAS does not make several products at once"
)
HAS_AXPBY = pytest.mark.skipif(blas._axpby(DTYPES[0]) is None, reason="NumPy's BLAS has no axpby")
OPTIMIZERS = (ops.sgd_, ops.sgd_momentum_, ops.adam_, ops.amsgrad_, ops.adagrad_, ops.rmsprop_, ops.lion_)


def drawn(shape: tuple[int, int], dtype: Any, *, transposed: bool = False, seed: int = 0, wider: int = 0) -> Any:
    """Numbers of this shape, as a transposed view or as columns of a wider matrix."""
    rows, columns = shape[::-1] if transposed else shape
    found = np.random.default_rng(seed).standard_normal((rows, columns + wider)).astype(dtype)[:, wider // 2 :]
    found = found[:, :columns]
    return found.T if transposed else found


def bounds(dtype: Any) -> dict[str, float]:
    return {"rtol": 1e-4, "atol": 1e-4} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A BLAS that shows none of these routines."""
    monkeypatch.setattr(blas, "_axpby", lambda dtype: None)
    monkeypatch.setattr(blas, "_gemm_batch", lambda dtype: None)


@pytest.fixture
def as_many() -> Iterator[Any]:
    """Sets the threads of OpenBLAS for a test."""
    library = threads.openblas()
    if library is None:
        pytest.skip("NumPy has another BLAS")
    before = library.get()
    yield library.set
    library.set(before)


# --- several products ---


@HAS_PRODUCTS
@settings(deadline=None, max_examples=40)
@given(
    st.integers(100, 140), st.integers(100, 140), st.integers(101, 140), st.booleans(), st.booleans(),
    st.sampled_from([0, 1, 8]), st.sampled_from(DTYPES),
)  # fmt: skip
def test_several_products_are_numpys_whatever_the_layout(
    m: int, k: int, n: int, first: bool, second: bool, wider: int, dtype: Any
) -> None:
    some = drawn((m, k), dtype, transposed=first, wider=wider), drawn((k, n), dtype, transposed=second, seed=1)
    other = drawn((n, m), dtype, seed=2), drawn((m, k), dtype, transposed=first, seed=3, wider=wider)
    room = np.full((m, n + 6), np.nan, dtype)
    out, out2 = room[:, 3:-3], np.full((n, k), np.nan, dtype)
    call = blas.products([(*some, out), (*other, out2)])
    assert call is not None
    call()
    np.testing.assert_allclose(out, some[0] @ some[1], **bounds(dtype))
    np.testing.assert_allclose(out2, other[0] @ other[1], **bounds(dtype))
    assert np.isnan(room[:, [0, 1, 2, -3, -2, -1]]).all()
    assert (call.operations, call.name) == (4 * m * n * k, f"{m}x{k}x{n} + {n}x{m}x{k}")


@HAS_PRODUCTS
def test_a_product_in_parts_has_the_same_bits_on_any_number_of_threads(as_many: Any) -> None:
    a, b = drawn((200, 300), np.float32), drawn((300, 150), np.float32)
    out = np.empty((200, 150), np.float32)
    call = blas.products(threads.cut(a, b, out, 2))
    assert call is not None
    found = []
    for n in (1, 2, 2, 3):
        as_many(n)
        out[...] = np.nan
        call()
        found.append(out.tobytes())
    assert len(set(found)) == 1


@HAS_PRODUCTS
def test_infinities_and_nan_come_out_as_numpy_has_them() -> None:
    a, b = drawn((128, 128), np.float32), drawn((128, 128), np.float32, seed=1)
    a[3, 5], a[7, 2], b[2, 9] = np.inf, np.nan, 0.0
    out = np.full((128, 128), np.nan, np.float32)
    call = blas.products([(a, b, out)])
    assert call is not None
    with np.errstate(invalid="ignore"):
        call()
        np.testing.assert_allclose(out, a @ b, rtol=1e-4, atol=1e-4)


@HAS_PRODUCTS
def test_a_bound_product_keeps_its_arrays() -> None:
    a, b, out = np.ones((128, 128), np.float32), np.ones((128, 128), np.float32), np.zeros((128, 128), np.float32)
    call = blas.products([(a, b, out)])
    assert call is not None
    del a, b
    gc.collect()
    others = [np.full((128, 128), 7, np.float32) for _ in range(20)]  # would take the memory
    call()
    assert (out == 128).all()
    del others


def refused() -> dict[str, tuple[Any, Any, Any]]:
    a, b, out = (np.ones((128, 128), np.float32) for _ in range(3))
    locked = out.copy()
    locked.flags.writeable = False
    return {
        "small": (a[:100, :100], b[:100, :100], out[:100, :100]),
        "mixed": (a, b.astype(np.float64), out),
        "half": (a.astype(np.float16), b.astype(np.float16), out.astype(np.float16)),
        "every second column": (np.ones((128, 256), np.float32)[:, ::2], b, out),
        "upside down": (a[::-1], b, out),
        "transposed result": (a, b, out.T),
        "locked result": (a, b, locked),
        "another shape": (a, b, np.ones((128, 129), np.float32)),
        "another sum": (a, np.ones((129, 128), np.float32), out),
        "stack": (np.ones((1, 128, 128), np.float32), b, out),
        "subclass": (a, b, out.view(np.matrix)),
        "one number repeated": (np.broadcast_to(np.float32(1), (128, 128)), b, out),
    }


@HAS_PRODUCTS
@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("kind", list(refused()) if blas._gemm_batch(DTYPES[0]) else [])
def test_what_the_routine_cannot_take_is_left_to_numpy(kind: str) -> None:
    assert blas.products([refused()[kind]]) is None


def test_without_matrices_there_is_nothing_to_call() -> None:
    assert blas.products([]) is None


# --- which parts ---


@given(st.integers(16, 3000), st.integers(2, 3000), st.integers(2, 3000), st.integers(1, 4))
def test_parts_cover_a_result_once(m: int, k: int, n: int, count: int) -> None:
    one = np.broadcast_to(np.float32(1), (1, 1))
    a, b = np.broadcast_to(one, (m, k)), np.broadcast_to(one, (k, n))
    out = np.zeros((m, n), np.int8)
    parts = threads.cut(a, b, out, count)
    assert len(parts) == (count if m * k * n > threads.WORTH_DIVIDING else 0)
    for some, other, place in parts:
        assert place.shape == (some.shape[0], other.shape[1])
        place += 1
    assert (out == (1 if parts else 0)).all()


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        ((128, 784, 512), 2, [(128, 256)] * 2),
        ((784, 128, 512), 2, [(384, 512), (400, 512)]),
        ((512, 784, 512), 2, [(256, 512)] * 2),
        ((512, 512, 512), 4, [(256, 256)] * 4),
        ((512, 512, 500), 3, [(160, 500), (176, 500), (176, 500)]),
        ((2000, 512, 64), 4, [(496, 64), (496, 64), (496, 64), (512, 64)]),
        ((512, 512, 512), 1, [(512, 512)]),
        ((15, 2000, 2000), 2, []),  # few rows
        ((2000, 2000, 1), 2, []),
        ((128, 128, 128), 2, []),
    ],
)
def test_parts_are_as_square_as_they_can_be(shape: Any, count: int, expected: Any) -> None:
    m, k, n = shape
    parts = threads.cut(np.empty((m, k)), np.empty((k, n)), np.empty((m, n)), count)
    assert [place.shape for _, _, place in parts] == expected


@HAS_PRODUCTS
@pytest.mark.parametrize(
    ("n", "in_parts", "together"), [(1, False, False), (2, True, True), (3, True, False), (4, True, True)]
)
def test_large_products_are_made_in_parts_and_two_at_once(n: int, in_parts: bool, together: bool, as_many: Any) -> None:
    as_many(n)
    x, W, dy = (
        drawn((128, 700), np.float32),
        drawn((700, 400), np.float32, seed=1),
        drawn((128, 400), np.float32, seed=2),
    )
    y, dW, dx = np.empty((128, 400), np.float32), np.empty_like(W), np.empty_like(x)
    forward = threads.product(x, W, y)
    backward = threads.two_products((x.T, dy, dW), (dy, W.T, dx))
    assert isinstance(forward, blas.Bound) == in_parts
    assert len(backward) == (1 if together else 2)
    for call in (forward, *backward):
        call()
    for found, expected in ((y, x @ W), (dW, x.T @ dy), (dx, dy @ W.T)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_more_threads_than_tried_leave_the_division_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    library = threads.OpenBlas(lambda: 16, lambda n: None, "haswell")
    monkeypatch.setattr(threads, "openblas", lambda: library)
    a, out = drawn((200, 200), np.float32), np.empty((200, 200), np.float32)
    calls = [threads.product(a, a, out), *threads.two_products((a, a, out), (a, a, out.copy()))]
    assert not any(isinstance(call, blas.Bound) for call in calls)


def test_a_small_product_beside_a_large_one_is_not_made_with_it(as_many: Any) -> None:
    as_many(2)
    a, b, small = drawn((200, 200), np.float32), drawn((200, 200), np.float32, seed=1), drawn((200, 4), np.float32)
    outs = np.empty((200, 200), np.float32), np.empty((200, 4), np.float32)
    calls = threads.two_products((a, b, outs[0]), (a, small, outs[1]))
    for call in calls:
        call()
    assert len(calls) == 2
    np.testing.assert_allclose(outs[0], a @ b, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outs[1], a @ small, rtol=1e-4, atol=1e-4)


# --- a x + b y ---


@HAS_AXPBY
@given(
    st.integers(1, 300),
    st.integers(0, 7),
    st.floats(-2, 2, width=32),
    st.floats(-2, 2, width=32),
    st.sampled_from(DTYPES),
)
def test_axpby_is_what_its_name_says(n: int, start: int, a: float, b: float, dtype: Any) -> None:
    rng = np.random.default_rng(n)
    x, room = rng.standard_normal(n).astype(dtype), rng.standard_normal(n + start).astype(dtype)
    y, before = room[start:], room.copy()
    call = blas.axpby(blas.real(a, dtype), x, blas.real(b, dtype), y)
    assert call is not None
    call()
    rtol = 1e-6 if dtype == np.float32 else 1e-14
    np.testing.assert_allclose(y, a * x + b * before[start:], rtol=rtol, atol=4 * rtol)
    assert room[:start].tobytes() == before[:start].tobytes()


@HAS_AXPBY
def test_what_axpby_cannot_take_is_left_to_numpy() -> None:
    x, one = np.ones(8, np.float32), blas.real(1, DTYPES[0])
    locked = x.copy()
    locked.flags.writeable = False
    for given_x, given_y in (
        (x[::2], np.ones(4, np.float32)), (x, np.ones(16, np.float32)[::2]), (x, np.ones(7, np.float32)), (x, locked),
        (x.astype(np.float64), x.copy()), (x.reshape(2, 4), np.ones((2, 4), np.float32)),
        (x.astype(np.float16), x.astype(np.float16)),
    ):  # fmt: skip
        assert blas.axpby(one, given_x, one, given_y) is None


def test_a_routine_that_computes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def wrong(*arguments: Any) -> None:
        called.append(len(arguments))

    monkeypatch.setattr(blas, "candidates", lambda routine, dtype: iter([(wrong, 64), (wrong, 32)]))
    assert blas._axpby.__wrapped__(DTYPES[0]) is None
    assert blas._gemm_batch.__wrapped__(DTYPES[1]) is None
    assert called == [7, 7, 16, 16]


def test_only_the_blas_dtypes_are_looked_for() -> None:
    for dtype in ("float16", "int32", "complex64"):
        assert not list(blas.candidates("gemm", np.dtype(dtype)))


# --- passes ---


def made(calls: Any) -> None:
    with np.errstate(all="ignore"):
        for call in calls:
            call()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("by", [None, 0.3, 0.0])
@pytest.mark.parametrize("keep", [None, 0.7, 0.0])
def test_a_combination_is_the_same_with_and_without_the_blas(
    by: float | None, keep: float | None, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1000)).astype(dtype)
    x[3], x[5], y[7], y[9] = np.inf, np.nan, -np.inf, np.nan
    found = []
    for has in (True, False):
        if not has:
            monkeypatch.setattr(blas, "_axpby", lambda dtype: None)
        numbers = [None if each is None else Number(5, dtype) for each in (by, keep)]
        target = y.copy()
        calls = combine(target, x, numbers[0], np.empty_like(x), keep=numbers[1])
        for number, value in zip(numbers, (by, keep), strict=True):
            if number is not None:
                number.set(value)  # after the calls were bound
        made(calls)
        found.append(target)
    np.testing.assert_allclose(*found, rtol=1e-6, atol=1e-6)
    assert np.isnan(found[0][[5, 9]]).all()  # also where they are multiplied by 0
    expected = (1 if keep is None else keep) * y[10:] + (1 if by is None else by) * x[10:]
    np.testing.assert_allclose(found[0][10:], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001, 1e-4, 1e-5, 1.0])
@pytest.mark.parametrize("scratch_is_x", [False, True])
def test_a_moving_average_does_not_drift_from_what_stays(rate: float, scratch_is_x: bool) -> None:
    y, scratch = np.zeros(16, np.float32), np.empty(16, np.float32)
    x = np.full(16, 3, np.float32)
    calls = follow(y, scratch if scratch_is_x else x, rate, scratch)
    for _ in range(min(40_000, int(20 / rate))):
        scratch[:] = 3
        made(calls)
    exact = 3 * (1 - (1 - rate) ** min(40_000, int(20 / rate)))
    rounding = 2**-24 / rate + 1e-6  # y stays where rate (x - y) is less than half its last bit, in the reference too
    np.testing.assert_allclose(y, exact, rtol=DRIFT + rounding)


@HAS_AXPBY
def test_one_pass_is_taken_only_where_the_rate_can_be_kept() -> None:
    y, x, scratch = np.zeros((3, 16), np.float32)
    assert [len(follow(y, x, rate, scratch)) for rate in (0.1, 0.001, 1 - 0.9999)] == [1, 1, 2]
    assert len(follow(y.astype(np.float64), x.astype(np.float64), 1 - 0.9999, scratch.astype(np.float64))) == 1


@pytest.mark.parametrize("op", [*OPTIMIZERS, ops.linear, ops.linear_backward], ids=lambda op: op.name)
@pytest.mark.usefixtures("without")
def test_without_these_routines_the_kernels_mean_the_same(op: Any) -> None:
    check_kernel(op, bp.get_backend("numpy"))


@pytest.mark.usefixtures("without")
def test_without_these_routines_products_are_numpys(as_many: Any) -> None:
    as_many(2)
    a, b, out = drawn((200, 300), np.float32), drawn((300, 250), np.float32), np.empty((200, 250), np.float32)
    call: Any = threads.product(a, b, out)
    assert call.func is np.matmul
    call()
    assert out.tobytes() == (a @ b).tobytes()
    assert threads.product(a, b[:, :100], out[:, :100].copy()).func is np.dot  # type: ignore[attr-defined]
