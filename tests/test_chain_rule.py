"""The chapter's worked numbers, row by row, through ops, layers, losses and the optimizer, on every backend.

Every test runs in float64, within the tolerance at which the numbers are known, and in float32. There a sum of k
products is within (k + 2) half-units in the last place of the largest partial sum, so a row names that sum as its
`scale`, and 8 half-units of it (k is at most 4, and an update or a softmax adds two roundings) are the bound.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conftest import read_only

import bpnet as bp
from bpnet import ops

HALF_UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}

NEURON_X = [1.0, -2.0, 3.0]
NEURON_W = [-3.0, -1.0, 2.0]
NEURON_B = 1.0

X = [[1.0, 2.0, 3.0, 2.5], [2.0, 5.0, -1.0, 2.0], [-1.5, 2.7, 3.3, -0.8]]
W = [[0.2, 0.5, -0.26], [0.8, -0.91, -0.27], [-0.5, 0.26, 0.17], [1.0, -0.5, 0.87]]
B = [2.0, 3.0, 0.5]
DVALUES = [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]]
LAYER_OUTPUT = [[4.8, 1.21, 2.385], [8.9, -1.81, 0.2], [1.41, 1.051, 0.026]]
RELU_OUTPUT = [[4.8, 1.21, 2.385], [8.9, 0.0, 0.2], [1.41, 1.051, 0.026]]
NEW_W = [
    [0.179515, 0.5003665, -0.262746],
    [0.742093, -0.9152577, -0.2758402],
    [-0.510153, 0.2529017, 0.1629592],
    [0.971328, -0.5021842, 0.8636583],
]
NEW_B = [1.98489, 2.997739, 0.497389]

Z = [[1, 2, -3, -4], [2, -7, -1, 3], [-1, 2, 5, -1]]
DZ_IN = [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
DZ_OUT = [[1, 2, 0, 0], [5, 0, 0, 8], [0, 10, 11, 0]]
MASK = [[1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 1, 0]]

P = [[0.7, 0.1, 0.2], [0.1, 0.5, 0.4], [0.02, 0.9, 0.08]]
LABELS = [0, 1, 1]
DLOGITS = [
    [-0.1, 0.03333333, 0.06666667],
    [0.03333333, -0.16666667, 0.13333333],
    [0.00666667, -0.03333333, 0.02666667],
]


class Numbers:
    """Makes arrays of one backend and dtype, and compares them with what must come out."""

    def __init__(self, backend: bp.Backend, dtype: str) -> None:
        self.backend = backend
        self.dtype = dtype

    def array(self, x: Any, dtype: str | None = None) -> Any:
        return self.backend.asarray(read_only(x), dtype=dtype or self.dtype)

    def equal(self, got: Any, expected: Any, dtype: str | None = None) -> None:
        got = bp.to_numpy(got)
        assert got.dtype == (dtype or self.dtype)
        assert got.tolist() == np.asarray(expected).tolist()

    def close(self, got: Any, expected: Any, atol: float, scale: float) -> None:
        """`atol` in float64; in float32 8 half-units of `scale`, and what is not known of the expected number."""
        got, expected = bp.to_numpy(got), np.asarray(expected)
        assert got.dtype == self.dtype
        assert got.shape == expected.shape
        bound = atol if self.dtype == "float64" else atol + 8 * HALF_UNIT["float32"] * scale
        np.testing.assert_allclose(got, expected, rtol=0, atol=bound)

    def initialized(self, *layers: bp.Layer) -> Any:
        return bp.Sequential(*layers).initialize(seed=0, backend=self.backend, dtype=self.dtype)

    def chapter_layer(self, *more: bp.Layer) -> Any:
        """Dense(4, 3) with the chapter's weights, then `more`."""
        model = self.initialized(bp.Dense(4, 3), *more)
        model[0].weight.value = W
        model[0].bias.value = B
        return model


@pytest.fixture(params=["float64", "float32"])
def numbers(request: pytest.FixtureRequest, backend: bp.Backend) -> Numbers:
    return Numbers(backend, request.param)


# --- one neuron: N1 to N4 ---


def test_n1_a_neuron_is_products_then_a_sum_then_relu(numbers: Numbers) -> None:
    xw = ops.mul(numbers.array(NEURON_X), numbers.array(NEURON_W))
    numbers.equal(xw, [-3.0, 2.0, 6.0])
    z = ops.sum_terms((xw[0], xw[1], xw[2], numbers.array(NEURON_B)))
    numbers.equal(z, 6.0)
    numbers.equal(ops.relu(z), 6.0)


def test_n1_a_dense_layer_of_one_neuron_gives_the_same(numbers: Numbers) -> None:
    model = numbers.initialized(bp.Dense(3, 1), bp.ReLU())
    model[0].weight.value = [[w] for w in NEURON_W]
    model[0].bias.value = [NEURON_B]
    numbers.equal(model.forward(numbers.array([NEURON_X])), [[6.0]])


def test_n2_the_chain_rule_multiplies_every_derivative_on_the_path(numbers: Numbers) -> None:
    x, w = numbers.array(NEURON_X), numbers.array(NEURON_W)
    z = numbers.array(6.0)
    dz = ops.relu_backward(numbers.array(1.0), z)
    numbers.equal(dz, 1.0)
    *dxw, db = ops.sum_backward(dz, 4)
    for each in dxw:
        numbers.equal(each, 1.0)
    numbers.equal(db, 1.0)
    one = numbers.array([1.0, 1.0, 1.0])
    by_x, by_w = ops.mul_backward(one, x, w)
    numbers.equal(by_x, NEURON_W)
    numbers.equal(by_w, NEURON_X)
    dx, dw = ops.mul_backward(numbers.backend.xp.stack(dxw), x, w)
    numbers.equal(dx, [-3.0, -1.0, 2.0])
    numbers.equal(dw, [1.0, -2.0, 3.0])


def test_n2_the_derivative_of_a_sum_by_each_term_is_one_whatever_the_terms(numbers: Numbers) -> None:
    for dxw in ops.sum_backward(numbers.array([1.0, 1.0, 1.0]), 2):
        numbers.equal(dxw, [1, 1, 1])


def test_n2_the_simplified_form_equals_the_atomic_one(numbers: Numbers) -> None:
    model = numbers.initialized(bp.Dense(3, 1), bp.ReLU())
    model[0].weight.value = [[w] for w in NEURON_W]
    model[0].bias.value = [NEURON_B]
    model.forward(numbers.array([NEURON_X]))
    numbers.equal(model.backward(numbers.array([[1.0]])), [[-3.0, -1.0, 2.0]])
    numbers.equal(model[0].weight.grad, [[1.0], [-2.0], [3.0]])
    numbers.equal(model[0].bias.grad, [1.0])


def test_n3_and_n4_a_step_against_the_gradient_lowers_the_output(numbers: Numbers) -> None:
    model = numbers.initialized(bp.Dense(3, 1), bp.ReLU())
    model[0].weight.value = [[w] for w in NEURON_W]
    model[0].bias.value = [NEURON_B]
    x = numbers.array([NEURON_X])
    model.forward(x)
    model.backward(numbers.array([[1.0]]))
    bp.SGD(learning_rate=0.001).step(model)
    numbers.close(model[0].weight.value, [[-3.001], [-0.998], [1.997]], atol=1e-15, scale=3.001)
    numbers.close(model[0].bias.value, [0.999], atol=1e-15, scale=1)
    numbers.close(model.forward(x), [[5.985]], atol=1e-12, scale=8.988)


# --- a layer and a batch: D1 to D4 ---


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        pytest.param(1, [[0.44, -0.38, -0.07, 1.37]], id="D1"),
        pytest.param(3, [[0.44, -0.38, -0.07, 1.37], [0.88, -0.76, -0.14, 2.74], [1.32, -1.14, -0.21, 4.11]], id="D2"),
    ],
)
def test_d1_and_d2_dinputs_are_dvalues_times_the_transposed_weights(
    numbers: Numbers, n: int, expected: list[list[float]]
) -> None:
    x, dvalues = numbers.array(X[:n]), numbers.array(DVALUES[:n])
    dx, _, _ = ops.linear_backward(dvalues, x, numbers.array(W))
    numbers.close(dx, expected, atol=1e-12, scale=5.61)
    model = numbers.chapter_layer()
    model.forward(x)
    numbers.close(model.backward(dvalues), expected, atol=1e-12, scale=5.61)


def test_d3_dweights_are_the_transposed_inputs_times_dvalues(numbers: Numbers) -> None:
    expected = [[0.5, 0.5, 0.5], [20.1, 20.1, 20.1], [10.9, 10.9, 10.9], [4.1, 4.1, 4.1]]
    x, dvalues = numbers.array(X), numbers.array(DVALUES)
    _, dW, _ = ops.linear_backward(dvalues, x, numbers.array(W))
    numbers.close(dW, expected, atol=1e-12, scale=20.1)
    model = numbers.chapter_layer()
    model.forward(x)
    model.backward(dvalues)
    numbers.close(model[0].weight.grad, expected, atol=1e-12, scale=20.1)


def test_d4_dbiases_are_the_sums_of_dvalues_over_the_batch(numbers: Numbers) -> None:
    x, dvalues = numbers.array(X), numbers.array(DVALUES)
    _, _, db = ops.linear_backward(dvalues, x, numbers.array(W))
    numbers.equal(db, [6.0, 6.0, 6.0])
    model = numbers.chapter_layer()
    model.forward(x)
    model.backward(dvalues)
    numbers.equal(model[0].bias.grad, [6.0, 6.0, 6.0])


def test_sums_written_by_hand_equal_the_dot_product(numbers: Numbers) -> None:
    dvalues = DVALUES[1]
    by_hand = [sum(w * dy for w, dy in zip(row, dvalues, strict=True)) for row in W]
    dx, _, _ = ops.linear_backward(numbers.array([dvalues]), numbers.array(X[:1]), numbers.array(W))
    numbers.close(dx, [by_hand], atol=1e-15 * 4, scale=3.74)


def test_a_layer_out_of_atoms_equals_linear(numbers: Numbers) -> None:
    x, w, b, dy = (numbers.array(each) for each in (X, W, B, DVALUES))
    linear, (dx, dW, db) = ops.linear(x, w, b), ops.linear_backward(dy, x, w)
    expected_dx, expected_dW, expected_db = np.zeros((3, 4)), np.zeros((4, 3)), np.zeros(3)
    for sample in range(3):
        for neuron in range(3):
            products = ops.mul(x[sample, :], w[:, neuron])
            z = ops.sum_terms((*(products[i] for i in range(4)), b[neuron]))
            numbers.close(z, bp.to_numpy(linear)[sample, neuron], atol=1e-14, scale=9.0)
            *dproducts, dbias = ops.sum_backward(dy[sample, neuron], 5)
            by_x, by_w = ops.mul_backward(numbers.backend.xp.stack(dproducts), x[sample, :], w[:, neuron])
            expected_dx[sample] += bp.to_numpy(by_x)
            expected_dW[:, neuron] += bp.to_numpy(by_w)
            expected_db[neuron] += float(dbias)
    numbers.close(dx, expected_dx, atol=1e-14, scale=5.61)
    numbers.close(dW, expected_dW, atol=1e-14, scale=20.1)
    numbers.equal(db, expected_db)


def test_the_derivatives_of_an_input_that_feeds_several_neurons_sum(numbers: Numbers) -> None:
    """x feeds neurons of weights 0.25, -0.5 and 2 with derivatives 1, 2 and 3 behind them: 0.25 - 1 + 6."""
    weights, dvalues = [0.25, -0.5, 2.0], [1.0, 2.0, 3.0]
    together = numbers.initialized(bp.Dense(1, 3))
    together[0].weight.value = [weights]
    apart = numbers.initialized(bp.Concatenate(bp.Dense(1, 1), bp.Dense(1, 1), bp.Dense(1, 1)))
    for neuron, weight in zip(apart[0], weights, strict=True):
        neuron.weight.value = [[weight]]
    x = numbers.array([[4.0]])
    for model in (together, apart):
        numbers.equal(model.forward(x), [[1.0, -2.0, 8.0]])
        numbers.equal(model.backward(numbers.array([dvalues])), [[5.25]])


# --- ReLU: R1 and R2, integers too ---


@pytest.fixture(params=["float64", "float32", "int64", "int32"])
def any_numbers(request: pytest.FixtureRequest, backend: bp.Backend) -> Numbers:
    return Numbers(backend, request.param)


def test_r1_the_derivative_of_relu_is_one_where_z_is_above_zero(any_numbers: Numbers) -> None:
    z = any_numbers.array(Z)
    any_numbers.equal(ops.relu_backward(any_numbers.array(np.ones((3, 4))), z), MASK)


def test_r2_relu_backward_passes_dvalues_where_z_is_above_zero(any_numbers: Numbers) -> None:
    z, dvalues = any_numbers.array(Z), any_numbers.array(DZ_IN)
    y = ops.relu(z)
    any_numbers.equal(y, np.maximum(Z, 0))
    any_numbers.equal(ops.relu_backward(dvalues, z), DZ_OUT)
    any_numbers.equal(ops.relu_backward(dvalues, y), DZ_OUT)
    layer = bp.ReLU()
    any_numbers.equal(layer.forward(z), np.maximum(Z, 0))
    any_numbers.equal(layer.backward(dvalues), DZ_OUT)


def test_r2_neither_dvalues_nor_z_is_written_to(any_numbers: Numbers) -> None:
    backend, dtype = any_numbers.backend, any_numbers.dtype
    z, dvalues = backend.asarray(np.array(Z), dtype=dtype), backend.asarray(np.array(DZ_IN), dtype=dtype)
    layer = bp.ReLU()
    layer.forward(z)
    layer.backward(dvalues)
    any_numbers.equal(z, Z)
    any_numbers.equal(dvalues, DZ_IN)


def test_r2_the_derivative_at_zero_is_zero(any_numbers: Numbers) -> None:
    zero = any_numbers.array([[0, 0, 1]])
    any_numbers.equal(ops.relu_backward(any_numbers.array([[5, -7, 9]]), zero), [[0, 0, 9]])


def test_mask_times_dvalues_equals_copying_and_zeroing(any_numbers: Numbers) -> None:
    z, dvalues = any_numbers.array(Z), any_numbers.array(DZ_IN)
    mask = ops.relu_backward(any_numbers.array(np.ones((3, 4))), z)
    copied = np.array(DZ_IN)
    copied[np.array(Z) <= 0] = 0
    any_numbers.equal(ops.mul(mask, dvalues), copied)
    any_numbers.equal(ops.relu_backward(dvalues, z), copied)


# --- the whole layer: F1 to F3 ---


def test_f1_the_layer_and_its_relu_forward(numbers: Numbers) -> None:
    model = numbers.chapter_layer(bp.ReLU())
    x = numbers.array(X)
    numbers.close(model[0](x), LAYER_OUTPUT, atol=1e-12, scale=9.0)
    numbers.close(model.forward(x), RELU_OUTPUT, atol=1e-12, scale=9.0)
    numbers.close(ops.linear(x, numbers.array(W), numbers.array(B), ops.relu), RELU_OUTPUT, atol=1e-12, scale=9.0)


def test_f2_the_relu_output_sent_back_as_its_own_gradient(numbers: Numbers) -> None:
    """The chapter minimizes the outputs' half squares in effect: what comes back is the ReLU's output, not DVALUES."""
    model = numbers.chapter_layer(bp.ReLU())
    y = model.forward(numbers.array(X))
    dx = model.backward(y)
    numbers.close(
        dx,
        [
            [0.9449, 2.09495, -1.67995, 6.26995],
            [1.728, 7.066, -4.416, 9.074],
            [0.80074, 0.16457, -0.42732, 0.90712],
        ],
        atol=1e-9,
        scale=9.1,
    )
    numbers.close(
        model[0].weight.grad,
        [
            [20.485, -0.3665, 2.746],
            [57.907, 5.2577, 5.8402],
            [10.153, 7.0983, 7.0408],
            [28.672, 2.1842, 6.3417],
        ],
        atol=1e-9,
        scale=57.907,
    )
    numbers.close(model[0].bias.grad, [15.11, 2.261, 2.611], atol=1e-9, scale=15.11)


def one_update(numbers: Numbers, dvalues: Any = None) -> Any:
    """The chapter's layer after one step of SGD; the gradient sent back is `dvalues`, or the output itself."""
    model = numbers.chapter_layer(bp.ReLU())
    y = model.forward(numbers.array(X))
    model.backward(y if dvalues is None else numbers.array(dvalues))
    bp.SGD(learning_rate=0.001).step(model)
    return model


def test_f3_the_updated_weights_and_biases_are_the_printed_ones(numbers: Numbers) -> None:
    model = one_update(numbers)
    numbers.close(model[0].weight.value, NEW_W, atol=1e-12, scale=1.0)
    numbers.close(model[0].bias.value, NEW_B, atol=1e-12, scale=3.0)


def test_f3x_sending_the_dvalues_back_instead_gives_other_weights(numbers: Numbers) -> None:
    wrong = [
        [0.1995, 0.5035, -0.2605],
        [0.7799, -0.9201, -0.2901],
        [-0.5109, 0.2471, 0.1591],
        [0.9959, -0.5001, 0.8659],
    ]
    got = one_update(numbers, DVALUES)[0].weight.value
    numbers.close(got, wrong, atol=1e-12, scale=1.0)
    assert np.abs(bp.to_numpy(got) - NEW_W).min() > 2e-4


# --- softmax and cross-entropy: S1 to S3 ---


def exact_dlogits() -> Any:
    return (np.array(P) - np.eye(3)[LABELS]) / 3


def test_s1_the_combined_derivative(numbers: Numbers) -> None:
    labels = numbers.array(LABELS, "int64")
    dlogits = ops.softmax_cross_entropy_backward(numbers.array(P), labels, 3.0, 1.0)
    numbers.close(dlogits, DLOGITS, atol=5e-9, scale=0.2)
    numbers.close(dlogits, exact_dlogits(), atol=1e-16, scale=0.2)


def test_s1_the_combined_loss_on_logits_whose_softmax_is_p(numbers: Numbers) -> None:
    loss, labels = bp.SoftmaxCrossEntropy(), numbers.array(LABELS, "int64")
    value = loss.forward(numbers.array(np.log(P)), labels)
    numbers.close(value, 0.38506088005216804, atol=1e-12, scale=1.0)
    numbers.close(loss.backward(), DLOGITS, atol=5e-9, scale=1.0)


def test_s2_the_loss_then_the_softmax(numbers: Numbers) -> None:
    p, labels = numbers.array(P), numbers.array(LABELS, "int64")
    dp = ops.categorical_cross_entropy_backward(p, labels, 3.0, 1.0)
    dlogits = ops.softmax_backward(dp, p)
    numbers.close(dlogits, DLOGITS, atol=5e-9, scale=0.3)
    combined = ops.softmax_cross_entropy_backward(p, labels, 3.0, 1.0)
    numbers.close(dlogits, bp.to_numpy(combined), atol=1e-16, scale=0.3)


def test_s2_as_layers(numbers: Numbers) -> None:
    softmax, loss = bp.Softmax(), bp.CategoricalCrossEntropy()
    p = softmax.forward(numbers.array(np.log(P)))
    numbers.close(p, P, atol=1e-15, scale=1.0)
    value = loss.forward(p, numbers.array(LABELS, "int64"))
    numbers.close(value, 0.38506088005216804, atol=1e-12, scale=1.0)
    numbers.close(softmax.backward(loss.backward()), DLOGITS, atol=5e-9, scale=1.0)


def test_s2_the_jacobian_of_each_sample_gives_the_same(numbers: Numbers) -> None:
    p, labels = numbers.array(P), numbers.array(LABELS, "int64")
    dp = ops.categorical_cross_entropy_backward(p, labels, 3.0, 1.0)
    jacobians = [np.diag(row) - np.outer(row, row) for row in np.array(P)]
    by_sample = np.stack([J @ row for J, row in zip(jacobians, bp.to_numpy(dp), strict=True)])
    numbers.close(ops.softmax_backward(dp, p), by_sample, atol=1e-16, scale=0.3)


def test_s3_the_loss_of_each_sample_their_mean_and_the_derivative_by_the_probabilities(numbers: Numbers) -> None:
    each = [0.35667494393873245, 0.6931471805599453, 0.10536051565782628]
    p, labels = numbers.array(P), numbers.array(LABELS, "int64")
    for i, expected in enumerate(each):
        one = ops.categorical_cross_entropy(p[i : i + 1, :], labels[i : i + 1], 1.0)
        numbers.close(one, expected, atol=1e-12, scale=1.0)
    loss = bp.CategoricalCrossEntropy()
    numbers.close(loss.forward(p, labels), 0.38506088005216804, atol=1e-12, scale=1.0)
    dp = [[-0.4761904761904762, 0, 0], [0, -0.6666666666666666, 0], [0, -0.3703703703703704, 0]]
    numbers.close(loss.backward(), dp, atol=1e-12, scale=0.7)
    assert math.isclose(sum(each) / 3, 0.38506088005216804, rel_tol=1e-15)
