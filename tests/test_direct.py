"""Products from where their factors lie, a row times a matrix, and what becomes part of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tiles import factors, three_threads

import bpnet as bp
from bpnet import ops
from bpnet_numpy.fused import helpers
from bpnet_numpy.fused.instruction import Program, instruction, machine
from bpnet_numpy.fused.variants import linear

__all__ = ["three_threads"]

Array = Any
vectors = pytest.mark.skipif(not machine().VECTOR, reason="no products are made by hand for this processor")
SIZES = st.one_of(st.integers(1, 20), st.integers(21, 130))
DTYPES = pytest.mark.parametrize(("dtype", "bound"), [("float32", 3e-7), ("float64", 1e-15)])


def exact(a: Array, b: Array) -> Array:
    return a.astype(np.longdouble) @ b.astype(np.longdouble)


def close(found: Array, expected: Array, a: Array, b: Array, bound: float) -> None:
    """Within `bound`, the unit in the last place, of what the sums' terms amount to."""
    terms = np.abs(a).astype(float) @ np.abs(b).astype(float) + np.abs(expected).astype(float) + 1
    assert (np.abs(found - expected) <= bound * math.sqrt(a.shape[1] + 1) * terms).all()


@vectors
@given(m=SIZES, n=SIZES, k=st.one_of(SIZES, st.just(256)), flags=st.tuples(*[st.booleans()] * 5))
@settings(max_examples=80, deadline=None)
@DTYPES
def test_a_direct_product_is_the_product(
    m: int, n: int, k: int, flags: tuple[bool, ...], dtype: str, bound: float
) -> None:
    a, b, bias = factors(m, n, k, dtype)
    turned_a, turned_b, biased, relu, gated = flags
    y = np.random.default_rng(1).standard_normal((m, n)).astype(dtype)
    whole = np.full((m + 2, n), 7, dtype)
    out = whole[1:-1]
    left, right = np.ascontiguousarray(a.T) if turned_a else a, np.ascontiguousarray(b.T) if turned_b else b
    program = linear.direct_product(out, left, right, turned_a, turned_b, bias if biased else None, relu)
    if gated:
        program = Program.join([program, instruction("relu_backward", out.dtype, out, out, y, out.size)])
        assert machine().named(program.words) == (f"direct_product {m}x{k}x{n}", (m, n, k))  # and nothing behind it
    program()
    expected = exact(a, b) + (bias if biased else 0)
    expected = np.where(relu & (expected < 0), 0, expected)
    expected = np.where((y > 0) | (not gated), expected, 0)
    close(out, expected, a, b, bound)
    assert (whole[[0, -1]] == 7).all()


@vectors
@pytest.mark.parametrize(
    ("shape", "turned_a", "turned_b", "expected"),
    [
        ((64, 128, 64), False, False, True),
        ((64, 10, 128), False, False, True),  # more than half a vector, or half of two
        ((64, 10, 128), True, False, False),
        ((300, 3, 64), False, False, False),
        ((64, 128, 256), False, True, True),
        ((16, 16, 257), False, True, False),  # more than is kept turned
        ((128, 128, 128), False, False, True),
        ((128, 128, 129), False, False, False),  # by tiles
        ((1, 64, 64), False, False, False),
        ((2, 64, 0), False, False, False),
        ((8, 512, 512), False, False, False),  # few rows of a long matrix: threads help to read
    ],
)
def test_which_products_are_direct_depends_on_shapes_alone(
    shape: tuple[int, int, int], turned_a: bool, turned_b: bool, expected: bool
) -> None:
    if machine().VECTOR == 64:
        assert linear.direct(*shape, turned_a, turned_b, 4) is expected


@vectors
def test_what_is_not_finite_stays_in_its_row_and_column() -> None:
    a, b, bias = factors(20, 50, 30, "float32")
    a[3, 7], b[11, 49] = np.nan, np.inf
    out = np.empty((20, 50), np.float32)
    linear.direct_product(out, a, b, False, False, bias, True)()
    assert np.isnan(out[3]).all()
    others = np.delete(out, 3, axis=0)
    assert np.isfinite(others[:, :49]).all()
    assert set(others[:, 49].tolist()) == {0.0, math.inf}


@given(n=st.one_of(SIZES, st.integers(500, 900)), m=st.one_of(SIZES, st.integers(500, 900)), relu=st.booleans())
@settings(max_examples=60, deadline=None)
@DTYPES
def test_a_row_times_a_matrix_is_the_product(n: int, m: int, relu: bool, dtype: str, bound: float) -> None:
    x, W, bias = factors(1, m, n, dtype)
    whole = np.full((3, m), 7, dtype)
    linear.row_product(whole[1:2], x, W, bias, relu)()
    expected = exact(x, W) + bias
    close(whole[1:2], np.where(relu & (expected < 0), 0, expected), x, W, bound)
    assert (whole[[0, 2]] == 7).all()


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize(("n", "m"), [(784, 512), (1001, 130), (3, 40_000), (70_000, 1), (3000, 1500)])
def test_the_number_of_threads_changes_no_bit_of_a_row(n: int, m: int) -> None:
    x, W, bias = factors(1, m, n, "float32")
    out = np.empty((1, m), np.float32)

    def product() -> bytes:
        linear.row_product(out, x, W, bias, True)()
        return out.tobytes()

    together = {product() for _ in range(10)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers, "wanted", lambda: 1)
        assert together == {product()}
    np.testing.assert_allclose(out, np.maximum(exact(x, W) + bias, 0).astype(float), rtol=0, atol=1e-3)


def test_a_step_writes_derivatives_over_what_they_are_of() -> None:
    model = bp.Sequential(bp.Dense(20, 30), bp.ReLU(), bp.Dense(30, 40), bp.Tanh(), bp.Dense(40, 20)).initialize(seed=0)
    trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1))
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 20)).astype(np.float32), rng.integers(0, 20, 24)
    for _ in range(4):
        trainer.step(x, y)
    (plan,) = trainer._planner.plans().values()  # type: ignore[union-attr]
    derivatives = [each for each in plan.steps if each.kernel in (ops.relu_backward, ops.tanh_backward)]
    assert len(derivatives) == 2
    for each in derivatives:
        assert plan._buffers[each.out] is plan._buffers[each.args[0]]
        assert plan._buffers[each.out] is not plan._buffers[each.args[1]]


def test_what_is_read_again_is_not_written_over() -> None:
    """dy of the sum is that of both branches, one of which begins with ReLU's derivative."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((24, 20)).astype(np.float32), rng.integers(0, 20, 24)
    found = []
    for planned in (True, False):
        branch = bp.Residual(bp.Dense(20, 20), bp.ReLU())
        model = bp.Sequential(bp.Dense(20, 20), branch, bp.Dense(20, 20)).initialize(seed=0)
        trainer = bp.Trainer(model, bp.SoftmaxCrossEntropy(), bp.SGD(0.1), plan=planned)
        losses = [float(trainer.step(x, y)) for _ in range(6)]
        if planned:
            assert len(trainer._planner.plans()) == 1  # type: ignore[union-attr]
        found.append((losses, model.store.values.tobytes()))
    assert found[0] == found[1]


@pytest.mark.parametrize("columns", [1, 2, 3, 10, 15, 16])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_softmax_of_few_columns_is_that_of_many(rows: int, columns: int, dtype: str) -> None:
    """Columns of -inf change nothing, and make a matrix wide enough for the other body."""
    rng = np.random.default_rng(0)
    x, labels = (3 * rng.standard_normal((rows, columns))).astype(dtype), rng.integers(-1, columns, rows)
    wide = np.concatenate([x, np.full((rows, 20), -np.inf, dtype)], axis=1)
    loss, slopes = ops.softmax_cross_entropy_gradient(x, labels, float(rows), 1.0)
    other_loss, other_slopes = ops.softmax_cross_entropy_gradient(wide, labels, float(rows), 1.0)
    bound = 10 * np.finfo(dtype).eps
    np.testing.assert_allclose(loss, other_loss, rtol=bound, atol=bound)
    np.testing.assert_allclose(slopes, other_slopes[:, :columns], rtol=bound, atol=bound / rows)
    pair_loss, p = ops.softmax_cross_entropy(x, labels, float(rows))
    again = ops.softmax_cross_entropy_backward(p, labels, float(rows), 1.0)
    assert (loss.tobytes(), slopes.tobytes()) == (pair_loss.tobytes(), again.tobytes())


@pytest.mark.parametrize("n", [1, 15, 16, 17, 1000])
def test_an_update_by_adam_does_not_depend_on_what_lies_beside_an_element(n: int) -> None:
    """Quotients are estimated and corrected; where the range of numbers, NaN or infinities forbid that, divided."""
    rng = np.random.default_rng(n)
    w, g, m = rng.standard_normal((3, n)).astype(np.float32)
    v = (0.1 * rng.standard_normal(n) ** 2).astype(np.float32)
    strange = rng.permutation(n)[: n // 3]
    g[strange] = np.resize(np.float32([np.nan, np.inf, -np.inf, 1e30, 1e-30, 0]), len(strange))
    m[strange] = np.resize(np.float32([0, np.inf, 1e38, -1e-30, 0]), len(strange))
    v[strange] = np.resize(np.float32([0, np.inf, 1e38, 1e-30]), len(strange))
    rest = np.ones((), bool), np.array(0.01), np.array([3]), 0.9, 0.999
    for epsilon in (1e-8, 0.0, 1e25):
        expected, whole, parts = ([each.copy() for each in (w, g, m, v)] for _ in range(3))
        with np.errstate(all="ignore"):
            ops.adam_.reference.body(*expected, *rest, epsilon, 0.01)
        ops.adam_(*whole, *rest, epsilon, 0.01)
        for part in (slice(0, n // 3), slice(n // 3, n)):
            if n // 3:
                ops.adam_(*[each[part] for each in parts], *rest, epsilon, 0.01)
        for got, same, want in zip(whole, parts, expected, strict=True):
            assert got.tobytes() == same.tobytes() or not n // 3
            np.testing.assert_allclose(got, want, rtol=3e-6, atol=1e-7)  # where w and its step cancel
