"""The step that all peers must agree with: NumPy in float64, written out, nothing skipped and nothing fused."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any

LEARNING_RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8
"""Of Adam, for every peer. [Kingma & Ba 2015, alg. 1]"""


def softmax(logits: Array) -> Array:
    """The probabilities, row by row."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class Reference:
    """A multilayer perceptron trained by Adam on the mean softmax cross-entropy.

    weights     : one (n_in, n_out) a layer; biases start at zero
    dtype       : of everything; float32 shows what its rounding alone makes of a training
    inputs      : what each layer got in the last forward, (N, n_in)
    derivatives : of the loss with respect to each layer's output in the last step, (N, n_out)
    gradients   : of the loss with respect to each weight in the last step
    """

    def __init__(self, weights: list[Array], dtype: str = "float64") -> None:
        self.dtype = np.dtype(dtype)
        self.parameters = [weight.astype(self.dtype) for weight in weights]
        self.parameters += [np.zeros(weight.shape[1], self.dtype) for weight in weights]
        self.n_layers = len(weights)
        self.m = [np.zeros_like(p) for p in self.parameters]
        self.v = [np.zeros_like(p) for p in self.parameters]
        self.t = 0
        self.inputs: list[Array] = []
        self.derivatives: list[Array] = []
        self.gradients: list[Array] = []

    def predict(self, x: Array) -> Array:
        """The logits."""
        self.inputs = []
        y = x.astype(self.dtype)
        for index in range(self.n_layers):
            self.inputs.append(y)
            y = y @ self.parameters[index] + self.parameters[self.n_layers + index]
            if index < self.n_layers - 1:
                y = np.maximum(y, 0)
        return y

    def step(self, x: Array, labels: Array) -> float:
        """One step of training; return the loss before it, in nats."""
        logits = self.predict(x)
        z = logits - logits.max(axis=1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        onehot = labels[:, None] == np.arange(logits.shape[1])
        dy = (np.exp(log_p) - onehot.astype(self.dtype)) / len(labels)
        self.derivatives = [dy]
        for index in range(self.n_layers - 1, 0, -1):
            dy = np.where(self.inputs[index] > 0, dy @ self.parameters[index].T, 0)
            self.derivatives.insert(0, dy)
        self.gradients = [x.T @ dy for x, dy in zip(self.inputs, self.derivatives, strict=True)]
        self._update(self.gradients + [dy.sum(axis=0) for dy in self.derivatives])
        return float(-log_p[onehot].sum() / len(labels))

    def _update(self, gradients: list[Array]) -> None:
        self.t += 1
        for p, g, m, v in zip(self.parameters, gradients, self.m, self.v, strict=True):
            m += (1 - BETA1) * (g - m)
            v += (1 - BETA2) * (g * g - v)
            m_hat, v_hat = m / (1 - BETA1**self.t), v / (1 - BETA2**self.t)
            p -= LEARNING_RATE * m_hat / (np.sqrt(v_hat) + EPSILON)
