"""Convolutions, pools, group norm, and what goes with them: worked by hand, over shapes, and in whole models.

What holds of every layer is tested over the registry (`bpnet.testing.cases`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import read_only
from hypothesis import given, settings
from hypothesis import strategies as st

import bpnet as bp
from bpnet.ops import Window
from bpnet.testing.cases.entries import LayerCase, all_cases
from bpnet.testing.cases.image_layers import IMAGE_LAYERS
from bpnet.testing.cases.pool_layers import POOL_LAYERS
from bpnet.testing.layer_derivatives import assert_derivatives

RNG = np.random.default_rng(0)


CASES = all_cases(IMAGE_LAYERS | POOL_LAYERS)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_shape_that_is_said_is_the_shape_that_comes_out(case: LayerCase) -> None:
    make, shape = case.make, case.inputs[0].shape
    layer = make().initialize()
    x = np.zeros((3, *shape), np.float32)
    y = layer(x)
    assert layer.output_shape(shape) == y.shape[1:]
    assert layer.forward(read_only(x)).shape == y.shape
    assert layer.backward(read_only(np.ones_like(y))).shape == x.shape
    assert str(("N", *y.shape[1:])).replace("'", "") in str(bp.Sequential(make()).summary(shape))


def model() -> bp.Sequential:
    return bp.Sequential(
        bp.Reshape((6, 6, 1)),
        bp.Conv2d(1, 4, 3, padding="same"),
        bp.BatchNorm(4),
        bp.ReLU(),
        bp.MaxPool2d(2),
        bp.Recompute(bp.Conv2d(4, 4, 3, padding=1, groups=2), bp.GroupNorm(2, 4), bp.ReLU(), bp.Dropout2d(0.2)),
        bp.Residual(bp.Conv2d(4, 4, 3, padding=1), bp.ReLU()),
        bp.ConvTranspose2d(4, 3, 2, stride=2),
        bp.AvgPool2d(2, channels="last"),
        bp.GlobalAveragePool2d(),
        bp.Dense(3, 3),
    )


def test_a_whole_model_passes_the_audit_and_its_planned_steps_are_the_eager_ones() -> None:
    x, y = RNG.normal(size=(5, 36)), RNG.integers(0, 3, 5)
    assert_derivatives(model().initialize(dtype="float64"), x)
    assert bp.audit(model(), bp.SoftmaxCrossEntropy(), x, y).passed
    report = bp.audit(model(), bp.SoftmaxCrossEntropy(), x, y, against="eager")
    assert report.passed, str(report)


def test_a_model_of_signals_passes_the_audit_and_its_planned_steps_are_the_eager_ones() -> None:
    def signals() -> bp.Sequential:
        return bp.Sequential(
            bp.Concatenate(
                bp.Sequential(bp.Conv1d(2, 4, 3, padding="same"), bp.MaxPool1d(2), bp.GlobalAveragePool1d()),
                bp.Sequential(bp.AvgPool1d(3, stride=1), bp.Tanh(), bp.GlobalMaxPool1d()),
            ),
            bp.Dense(6, 3),
        )

    x, y = RNG.normal(size=(5, 9, 2)), RNG.integers(0, 3, 5)
    assert_derivatives(signals().initialize(dtype="float64"), x)
    assert bp.audit(signals(), bp.SoftmaxCrossEntropy(), x, y).passed
    report = bp.audit(signals(), bp.SoftmaxCrossEntropy(), x, y, against="eager")
    assert report.passed, str(report)
    trainer = bp.Trainer(signals(), bp.SoftmaxCrossEntropy(), bp.SGD(0.1))
    for _ in range(3):
        trainer.step(x, y)
    assert "planned, " in trainer.plan_report()


def test_pools_of_signals_by_hand(backend: bp.Backend) -> None:
    x = np.array([1.0, 5, 5, 2, -1, 0, 3]).reshape(1, 7, 1)
    for layer, y, dx in (
        (bp.MaxPool1d(2), [5, 5, 0], [0, 1, 10, 0, 0, 100, 0]),
        (bp.MaxPool1d(3, stride=2), [5, 5, 3], [0, 1, 10, 0, 0, 0, 100]),
        (bp.AvgPool1d(2), [3, 3.5, -0.5], [0.5, 0.5, 5, 5, 50, 50, 0]),
        (bp.AvgPool1d(2, padding=((1, 0),), count_padding=False), [1, 5, 0.5, 1.5], [1, 5, 5, 50, 50, 500, 500]),
        (bp.GlobalMaxPool1d(), [5], [0, 1, 0, 0, 0, 0, 0]),
    ):
        layer.initialize(backend=backend, dtype="float64")
        found = bp.to_numpy(layer.forward(backend.asarray(x)))
        assert found.reshape(-1).tolist() == y, layer
        dy = np.array([1.0, 10, 100, 1000][: len(y)]).reshape(found.shape)
        assert bp.to_numpy(layer.backward(backend.asarray(dy))).reshape(-1).tolist() == dx, layer
    mean = bp.GlobalAveragePool1d().initialize(backend=backend, dtype="float64")
    assert bp.to_numpy(mean.forward(backend.asarray(x))) == pytest.approx(15 / 7)
    assert bp.to_numpy(mean.backward(backend.asarray(np.array([[14.0]])))).reshape(-1).tolist() == [2.0] * 7


def test_an_empty_batch_of_signals_and_signals_of_one_position(backend: bp.Backend) -> None:
    for layer, shape in (
        (bp.MaxPool1d(2), (2, 3)),
        (bp.AvgPool1d(2), (2, 3)),
        (bp.GlobalMaxPool1d(), (3,)),
        (bp.GlobalAveragePool1d(), (3,)),
    ):
        layer.initialize(backend=backend, dtype="float64")
        assert layer.output_shape((5, 3)) == shape
        y = layer.forward(backend.asarray(np.zeros((0, 5, 3))))
        assert y.shape == (0, *shape)
        assert layer.backward(y).shape == (0, 5, 3)
    one = bp.MaxPool1d(1).initialize(backend=backend, dtype="float64")
    x = np.arange(6.0).reshape(2, 1, 3)
    assert bp.to_numpy(one(backend.asarray(x))).tolist() == x.tolist()


def test_a_plan_lets_the_convolution_apply_the_activation() -> None:
    trainer = bp.Trainer(bp.Sequential(bp.Conv2d(1, 2, 3), bp.ReLU(), bp.Flatten(), bp.Dense(8, 2)),
                         bp.SoftmaxCrossEntropy(), bp.SGD(0.1))  # fmt: skip
    x, y = RNG.normal(size=(3, 4, 4, 1)).astype(np.float32), np.array([0, 1, 1])
    for _ in range(3):
        trainer.step(x, y)
    assert "conv2d(" in trainer.plan_report()
    assert "<kernel relu>" in trainer.plan_report()
    assert " = relu(" not in trainer.plan_report()


def test_channels_first_is_the_same_map_in_the_other_layout(backend: bp.Backend) -> None:
    x = RNG.normal(size=(2, 4, 5, 2)).astype(np.float32)
    pairs: list[tuple[Callable[..., bp.Layer], tuple[Any, ...]]] = [
        (bp.Conv2d, (2, 3, 3)),
        (bp.MaxPool2d, (2,)),
        (bp.AvgPool2d, (2,)),
        (bp.GroupNorm, (1, 2)),
        (bp.BatchNorm, (2,)),
        (bp.GlobalMaxPool2d, ()),
    ]
    for cls, args in pairs:
        last, first = (cls(*args, channels=channels).initialize(backend=backend) for channels in ("last", "first"))
        expected = bp.to_numpy(last.forward(backend.asarray(x)))
        found = bp.to_numpy(first.forward(backend.asarray(x.transpose(0, 3, 1, 2).copy())))
        turned = (0, *range(2, found.ndim), 1)
        np.testing.assert_allclose(found.transpose(turned) if found.ndim > 2 else found, expected, rtol=1e-6, atol=1e-6)
        dy = RNG.normal(size=expected.shape).astype(np.float32)
        dx = bp.to_numpy(last.backward(backend.asarray(dy)))
        dy = dy.transpose(0, 3, 1, 2).copy() if dy.ndim > 2 else dy
        dx_first = bp.to_numpy(first.backward(backend.asarray(dy)))
        np.testing.assert_allclose(dx_first.transpose(0, 2, 3, 1), dx, rtol=1e-5, atol=1e-6)


# --- by hand ---


def test_a_convolution_by_hand(backend: bp.Backend) -> None:
    layer = bp.Conv2d(1, 1, 2).initialize(backend=backend, dtype="float64")
    layer.weight.value, layer.bias.value = np.array([[1.0, 2], [3, 4]]).reshape(2, 2, 1, 1), [0.5]  # type: ignore[union-attr]
    x = np.arange(1.0, 10).reshape(1, 3, 3, 1)
    y = bp.to_numpy(layer.forward(backend.asarray(x)))
    assert y[0, :, :, 0].tolist() == [[37.5, 47.5], [67.5, 77.5]]  # 1 + 2*2 + 3*4 + 4*5 + 0.5 = 37.5
    dx = bp.to_numpy(layer.backward(backend.asarray(np.array([1.0, 10, 100, 1000]).reshape(1, 2, 2, 1))))
    assert dx[0, :, :, 0].tolist() == [[1, 12, 20], [103, 1234, 2040], [300, 3400, 4000]]
    assert bp.to_numpy(layer.weight.grad)[:, :, 0, 0].tolist() == [[5421, 6532], [8754, 9865]]
    assert bp.to_numpy(layer.bias.grad).tolist() == [1111]  # type: ignore[union-attr]


def test_a_transposed_convolution_by_hand(backend: bp.Backend) -> None:
    layer = bp.ConvTranspose2d(1, 1, 2, stride=2).initialize(backend=backend, dtype="float64")
    layer.weight.value = np.array([[1.0, 2], [3, 4]]).reshape(2, 2, 1, 1)
    y = bp.to_numpy(layer(backend.asarray(np.array([1.0, 10]).reshape(1, 1, 2, 1))))
    assert y[0, :, :, 0].tolist() == [[1, 2, 10, 20], [3, 4, 30, 40]]


def test_of_equal_values_the_first_gets_the_gradient(backend: bp.Backend) -> None:
    x = np.array([[0.0, 0, 5, 1], [0, 0, 2, 5], [1, 2, 7, 7], [2, 0, 7, 7]]).reshape(1, 4, 4, 1)
    layer = bp.MaxPool2d(2).initialize(backend=backend, dtype="float64")
    y = bp.to_numpy(layer.forward(backend.asarray(x)))
    assert y[0, :, :, 0].tolist() == [[0, 5], [2, 7]]
    dx = bp.to_numpy(layer.backward(backend.asarray(np.array([1.0, 2, 3, 4]).reshape(1, 2, 2, 1))))
    assert dx[0, :, :, 0].tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [0, 3, 4, 0], [0, 0, 0, 0]]


def test_padding_is_counted_by_a_mean_or_not_and_is_never_the_largest(backend: bp.Backend) -> None:
    x = backend.asarray(np.full((1, 2, 2, 1), -4.0))
    for count, corner in ((True, -1.0), (False, -4.0)):
        layer = bp.AvgPool2d(2, padding=1, count_padding=count).initialize(backend=backend, dtype="float64")
        assert bp.to_numpy(layer(x))[0, :, :, 0].tolist() == [[corner] * 2] * 2
    layer = bp.MaxPool2d(2, padding=1).initialize(backend=backend, dtype="float64")
    assert bp.to_numpy(layer(x))[0, :, :, 0].tolist() == [[-4.0] * 2] * 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pools_hand_on_what_is_not_finite(value: float, backend: bp.Backend) -> None:
    x = np.ones((1, 2, 4, 1))
    x[0, 1, 1, 0] = value
    for layer in (bp.MaxPool2d(2), bp.GlobalMaxPool2d(), bp.AvgPool2d(2), bp.GlobalAveragePool2d()):
        model = bp.Sequential(layer, bp.Flatten()).initialize(backend=backend, dtype="float64")
        y = bp.to_numpy(model(backend.asarray(x)))[0]
        largest = isinstance(layer, (bp.MaxPool2d, bp.GlobalMaxPool2d))
        assert np.array_equal(y[0], 1.0 if largest and value == -np.inf else value, equal_nan=True)
        assert y[-1] == 1.0 or y.shape == (1,)


def test_dropout2d_drops_whole_channels_and_keeps_the_expectation() -> None:
    model = bp.Sequential(bp.Dropout2d(0.3)).initialize()
    x = np.ones((60, 4, 5, 70), np.float32)
    y = model.forward(x)
    assert model(x) is x
    assert np.array_equal(y, np.broadcast_to(y[:, :1, :1, :], y.shape))
    assert abs(float(np.mean(y == 0)) - 0.3) < 0.02
    assert set(np.unique(y)) == {0.0, np.float32(65536 / (65536 - 19661))}
    assert np.array_equal(model.backward(x), y)
    assert not np.array_equal(model.forward(x), y)


def test_group_norm_of_one_group_and_of_as_many_as_channels() -> None:
    x = RNG.normal(2.0, 3.0, size=(4, 5, 6, 8))
    whole = bp.GroupNorm(1, 8, epsilon=1e-12).initialize(dtype="float64")(x)
    each = bp.GroupNorm(8, 8, epsilon=1e-12).initialize(dtype="float64")(x)
    np.testing.assert_allclose(whole.mean(axis=(1, 2, 3)), 0, atol=1e-12)
    np.testing.assert_allclose(whole.std(axis=(1, 2, 3)), 1, rtol=1e-9)
    np.testing.assert_allclose(each.mean(axis=(1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(each.std(axis=(1, 2)), 1, rtol=1e-9)


def test_a_transposed_convolution_starts_with_as_much_spread_as_a_convolution() -> None:
    for groups in (1, 4):
        down, up = bp.Conv2d(64, 32, 3, groups=groups), bp.ConvTranspose2d(64, 32, 3, groups=groups)
        spread = [float(np.std(bp.to_numpy(layer.initialize().weight.value))) for layer in (down, up)]
        assert spread[0] == pytest.approx(spread[1], rel=0.05)
        assert up.weight.shape == (3, 3, 32 // groups, 64)


# --- over shapes ---


@st.composite
def geometries(draw: Any) -> tuple[int, int, Window, int, int, int]:
    """(H, W, window, groups, channels in, channels out), of which the window has at least one place."""
    numbers = [draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(3)]
    padding = tuple(draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in range(2))
    window = Window(numbers[0], numbers[1], numbers[2], padding)  # type: ignore[arg-type]
    size = []
    for axis in (0, 1):
        least = max(1, window.reach[axis] - sum(window.padding[axis]))
        size.append(draw(st.integers(least, least + 4)))
    groups = draw(st.integers(1, 3))
    return size[0], size[1], window, groups, groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))


def directly(x: Any, W: Any, window: Window, groups: int) -> Any:
    """The convolution by loops over places, as the sum is written."""
    (top, bottom), (left, right) = window.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    n_in, n_out = x.shape[3] // groups, W.shape[3] // groups
    places = window.places(x.shape[1], x.shape[2])
    y = np.zeros((x.shape[0], *places, W.shape[3]))
    for p in range(places[0]):
        for q in range(places[1]):
            for i in range(window.size[0]):
                for j in range(window.size[1]):
                    row, column = (
                        p * window.stride[0] + i * window.dilation[0],
                        q * window.stride[1] + j * window.dilation[1],
                    )
                    for g in range(groups):
                        inputs, outputs = slice(g * n_in, (g + 1) * n_in), slice(g * n_out, (g + 1) * n_out)
                        y[:, p, q, outputs] += padded[:, row, column, inputs] @ W[i, j][:, outputs]
    return y


@settings(max_examples=60, deadline=None)
@given(geometries(), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_convolutions_of_any_shape_are_the_sum_that_is_written_and_its_transpose(
    geometry: tuple[int, int, Window, int, int, int], n: int, seed: int
) -> None:
    height, width, window, groups, c, o = geometry
    rng = np.random.default_rng(seed)
    x, W = rng.normal(size=(n, height, width, c)), rng.normal(size=(*window.size, c // groups, o))
    y = bp.ops.conv2d(x, W, None, window, groups)
    np.testing.assert_allclose(y, directly(x, W, window, groups), rtol=1e-10, atol=1e-12)
    dy, v = rng.normal(size=y.shape), rng.normal(size=W.shape)
    dx, dW, db = bp.ops.conv2d_backward(dy, x, W, window, groups)
    # The map is linear in x and in W, so <dy, A(x)> = <A^T(dy), x>, in each.
    np.testing.assert_allclose(np.sum(dx * x), np.sum(dy * y), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(np.sum(dW * v), np.sum(dy * directly(x, v, window, groups)), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(db, dy.sum(axis=(0, 1, 2)), rtol=1e-10, atol=1e-12)
    back = bp.ops.conv_transpose2d(dy, W, None, window, groups, (height, width))
    np.testing.assert_allclose(back, dx, rtol=1e-10, atol=1e-12)
    for reference, found in (
        (bp.ops.conv2d.reference.body(x, W, None, window, groups), y),
        (bp.ops.conv2d_backward.reference.body(dy, x, W, window, groups)[0], dx),
        (bp.ops.conv2d_backward.reference.body(dy, x, W, window, groups)[1], dW),
    ):
        np.testing.assert_allclose(reference, found, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(geometries(), st.integers(1, 3), st.booleans(), st.integers(0, 2**32 - 1))
def test_pools_of_any_shape_are_those_of_every_window(
    geometry: tuple[int, int, Window, int, int, int], n: int, ties: bool, seed: int
) -> None:
    height, width, window, _, c, _ = geometry
    padding = tuple(
        tuple(min(pad, size - 1) for pad in pair) for pair, size in zip(window.padding, window.size, strict=True)
    )
    window = Window(window.size, window.stride, window.dilation, padding)  # type: ignore[arg-type]
    if 0 in window.places(height, width):
        return
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, height, width, c))
    x = np.round(x) if ties else x
    y = bp.ops.max_pool2d(x, window)
    dy = rng.normal(size=y.shape)
    dx = bp.ops.max_pool2d_backward(dy, x, window)
    (top, bottom), (left, right) = window.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=-np.inf)
    expected, back = np.empty_like(y), np.zeros_like(padded)
    for p in range(y.shape[1]):
        for q in range(y.shape[2]):
            rows, columns = window.slices(0, 0, (1, 1))
            rows = slice(p * window.stride[0], p * window.stride[0] + window.reach[0], window.dilation[0])
            columns = slice(q * window.stride[1], q * window.stride[1] + window.reach[1], window.dilation[1])
            seen = padded[:, rows, columns].reshape(n, -1, c)
            expected[:, p, q] = seen.max(axis=1)
            first = np.arange(seen.shape[1])[:, None] == seen.argmax(axis=1)[:, None, :]
            part = (first * dy[:, p, q][:, None, :]).reshape(n, *window.size, c)
            back[:, rows, columns] += part
    assert np.array_equal(y, expected)
    np.testing.assert_allclose(dx, back[:, top : top + height, left : left + width], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(bp.ops.max_pool2d_backward.reference.body(dy, x, window), dx, rtol=1e-12, atol=1e-13)


# --- the door ---


def test_a_gradient_of_another_shape_is_refused_and_what_was_kept_stays() -> None:
    for case in CASES.values():
        layer, shape = case.make().initialize(), case.inputs[0].shape
        y = layer.forward(np.ones((2, *shape), np.float32))
        with pytest.raises(bp.ShapeError, match="needs dy of the output's shape"):
            layer.backward(np.ones((*y.shape[:-1], y.shape[-1] + 1), np.float32))
        assert layer.backward(np.ones_like(y)) is not None


def test_arrays_of_another_dtype_or_library_are_refused() -> None:
    layer = bp.Conv2d(1, 2, 2).initialize()
    with pytest.raises(bp.DTypeError, match="computes in float32, got x of float64"):
        layer(np.zeros((1, 3, 3, 1)))
    with pytest.raises(bp.DTypeError, match="needs an array, got list"):
        layer([[1.0]])
