"""The classes of the chapter this project grew from, under their own names, over bpnet's ops.

`dvalues` is dy, `dinputs` is dx; docs/from-nnfs.md translates the rest. An object works on the backend selected when it
is made; lists, and arrays from elsewhere, move there when they are passed or assigned. A `backward` consumes nothing,
so it may be repeated, and it needs no `forward` where what it reads was assigned.
"""

from __future__ import annotations

from typing import Any, cast

from bpnet import ops
from bpnet.backend import get_backend, to_numpy
from bpnet.checks import at_least_0
from bpnet.data.checks import check_labels, check_lengths
from bpnet.dispatch import Array, namespace
from bpnet.errors import ConfigError, DataError, ShapeError, StateError
from bpnet.random import HostStream


class _Holder:
    """Base of all that hold arrays: a public attribute is None, or a floating array of the object's backend."""

    inputs = output = dinputs = dweights = dbiases = cast(Array, None)

    def __init__(self) -> None:
        self._backend, self._name = get_backend(), type(self).__name__

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value if name[0] == "_" or value is None else self._array(value))

    def _array(self, x: Any) -> Array:
        x = self._backend.asarray(x if isinstance(x, self._backend.array_type) else to_numpy(x))
        return x if namespace(x).isdtype(x.dtype, "real floating") else self._backend.asarray(x, dtype="float64")

    def _take(self, name: str, x: Any, n_rows: int | None = None, n_columns: int | None = None) -> Array:
        """`x` as an array (n_rows, n_columns), where None stands for any number of at least 1; errors name it."""
        if x is None:
            raise StateError(f"this {self._name} has no {name} yet: call forward or backward first, or assign {name}")
        x = self._array(x)
        if x.ndim != 2 or 0 in x.shape or n_rows not in (None, x.shape[0]) or n_columns not in (None, x.shape[1]):
            raise ShapeError(f"{self._name} needs {name} ({n_rows or 'N'}, {n_columns or 'C'}), got {tuple(x.shape)}")
        return x

    def _batch(self, name: str, x: Any, y_true: Any) -> tuple[Array, Array, int]:
        """`x` as an array (N, C); labels (N,), from labels or one-hot rows (N, C), their values checked; and N."""
        x, y = self._take(name, x), to_numpy(y_true)
        check_lengths(x, y, name, "y_true")
        if y.shape == x.shape:
            if not (((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all()):
                raise DataError(f"{self._name} needs labels or one-hot rows; a row of y_true is no single 1 among 0s")
            y = y.argmax(axis=1)
        check_labels(y, x.shape[1], "y_true")
        return x, self._backend.asarray(y), x.shape[0]


class Layer_Dense(_Holder):
    """output = inputs weights + biases, with weights (n_inputs, n_neurons) and biases (1, n_neurons), float64.

    weight_regularizer_l1 and so on : penalties, at least 0, whose derivatives `backward` adds to dweights and dbiases;
    that of |w| at 0 is taken as 0
    """

    def __init__(
        self,
        n_inputs: int,
        n_neurons: int,
        weight_regularizer_l1: float = 0.0,
        weight_regularizer_l2: float = 0.0,
        bias_regularizer_l1: float = 0.0,
        bias_regularizer_l2: float = 0.0,
        *,
        seed: int = 0,
    ) -> None:
        """Draw weights, 0.01 * normal; layers of one shape and seed start equal, so give each its own seed."""
        super().__init__()
        self.weight_regularizer_l1, self.weight_regularizer_l2 = weight_regularizer_l1, weight_regularizer_l2
        self.bias_regularizer_l1, self.bias_regularizer_l2 = bias_regularizer_l1, bias_regularizer_l2
        if not all(isinstance(n, int) and n >= 1 for n in (n_inputs, n_neurons)):
            raise ConfigError(f"Layer_Dense needs at least 1 input and 1 neuron, got {n_inputs!r} and {n_neurons!r}")
        self.weights = 0.01 * HostStream(seed, f"nnfs/{n_inputs}x{n_neurons}").normal((n_inputs, n_neurons))
        self.biases: Array = [[0.0] * n_neurons]

    def __setattr__(self, name: str, value: Any) -> None:
        if "_regularizer_" in name:
            object.__setattr__(self, name, at_least_0(name, value))
        else:
            super().__setattr__(name, value)

    def forward(self, inputs: Any) -> None:
        """Set inputs (N, n_inputs) and output (N, n_neurons)."""
        self.inputs = self._take("inputs", inputs, None, self.weights.shape[0])
        self.output = ops.linear(self.inputs, self.weights, ops.reshape(self.biases, self.weights.shape[1:]))

    def backward(self, dvalues: Any) -> None:
        """Set dinputs, dweights and dbiases (1, n_neurons) from dvalues (N, n_neurons)."""
        x = self._take("inputs", self.inputs, None, self.weights.shape[0])
        dy = self._take("dvalues", dvalues, x.shape[0], self.weights.shape[1])
        self.dinputs, self.dweights, db = ops.linear_backward(dy, x, self.weights)
        self.dbiases = ops.reshape(db, self.biases.shape)
        ops.penalty_gradient_(self.dweights, self.weights, self.weight_regularizer_l1, self.weight_regularizer_l2)
        ops.penalty_gradient_(self.dbiases, self.biases, self.bias_regularizer_l1, self.bias_regularizer_l2)


class Activation_ReLU(_Holder):
    """output = max(inputs, 0); the derivative at 0 is taken as 0."""

    def forward(self, inputs: Any) -> None:
        """Set inputs (N, C) and output."""
        self.inputs = self._take("inputs", inputs)
        self.output = ops.relu(self.inputs)

    def backward(self, dvalues: Any) -> None:
        """Set dinputs: dvalues where inputs > 0, else 0."""
        x = self._take("inputs", self.inputs)
        self.dinputs = ops.relu_backward(self._take("dvalues", dvalues, *x.shape), x)


class Activation_Softmax(_Holder):
    """output = exp(inputs) / sum(exp(inputs)) over each row."""

    def forward(self, inputs: Any) -> None:
        """Set inputs (N, C) and output."""
        self.inputs = self._take("inputs", inputs)
        self.output = ops.softmax(self.inputs)

    def backward(self, dvalues: Any) -> None:
        """Set dinputs from dvalues and `output`."""
        p = self._take("output", self.output)
        self.dinputs = ops.softmax_backward(self._take("dvalues", dvalues, *p.shape), p)


class _Loss(_Holder):
    """Base of the losses."""

    def regularization_loss(self, layer: Layer_Dense) -> float:
        """Return the layer's penalties, l1 sum |w| + l2 sum w^2 over weights and biases."""
        l1 = (layer.weight_regularizer_l1, layer.bias_regularizer_l1)
        l2 = (layer.weight_regularizer_l2, layer.bias_regularizer_l2)
        return float(ops.penalty((layer.weights, layer.biases), l1, l2))


class Loss_CategoricalCrossentropy(_Loss):
    """Mean -log p[label], in nats, of probabilities (N, C) against labels (N,) or one-hot rows (N, C)."""

    def calculate(self, output: Any, y: Any) -> float:
        """Return the loss; a probability of 0 counts as the smallest normal number."""
        return float(ops.categorical_cross_entropy(*self._batch("output", output, y)))

    def backward(self, dvalues: Any, y_true: Any) -> None:
        """Set dinputs, the derivative by the probabilities, which are `dvalues`."""
        self.dinputs = ops.categorical_cross_entropy_backward(*self._batch("dvalues", dvalues, y_true), 1.0)


class Activation_Softmax_Loss_CategoricalCrossentropy(_Loss):
    """Softmax and that loss as one: the derivative by the softmax's inputs simplifies to (p - onehot) / N."""

    def forward(self, inputs: Any, y_true: Any) -> float:
        """Set inputs (N, C) and output, the probabilities; return the loss."""
        self.inputs, labels, n = self._batch("inputs", inputs, y_true)
        loss, self.output = ops.softmax_cross_entropy(self.inputs, labels, n)
        return float(loss)

    def backward(self, dvalues: Any, y_true: Any) -> None:
        """Set dinputs, the derivative by the inputs; `dvalues` are the probabilities."""
        self.dinputs = ops.softmax_cross_entropy_backward(*self._batch("dvalues", dvalues, y_true), 1.0)


class Optimizer_SGD:
    """weights -= learning_rate * dweights, biases -= learning_rate * dbiases; learning_rate above 0 and finite."""

    def __init__(self, learning_rate: float = 1.0) -> None:
        if not 0 < learning_rate < float("inf"):
            raise ConfigError(f"learning_rate must be above 0 and finite, got {learning_rate!r}")
        self.learning_rate = learning_rate

    def update_params(self, layer: Layer_Dense) -> None:
        """Update the layer's parameters in place."""
        layer.weights -= self.learning_rate * layer._take("dweights", layer.dweights)
        layer.biases -= self.learning_rate * layer._take("dbiases", layer.dbiases)


ActivationSoftmax = Activation_Softmax
CategoricalCrossEntropy = Loss_CategoricalCrossentropy
ActivationSoftmaxLossCategoricalCrossentropy = Activation_Softmax_Loss_CategoricalCrossentropy
