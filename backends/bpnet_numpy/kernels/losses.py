"""Softmax with cross-entropy."""

from __future__ import annotations

from typing import Any

import numpy as np

from bpnet.dispatch import Call
from bpnet.ops.losses import (
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_gradient,
)
from bpnet_numpy.kernels.common import Array, constant, first_like, floating, ones

INDICES = (np.dtype("int32"), np.dtype("int64"))
TINY_TOTAL = 1e-26  # of exponentials: above it the largest one of the row is a normal float32 with room below
WIDE = 32  # classes up to which one product with a matrix of ones sums the rows and spreads the sums


class _Softmax:
    """The softmax of rows with the negative log-likelihood of labels, in buffers of its own.

    Any shift common to a row cancels. The maximum of the whole batch serves where no row's sum of exponentials gets too
    small, and costs a fraction of a maximum per row. An argmax with a look-up is three times faster than a maximum.
    """

    def __init__(self, logits: Array, labels: Array, p: Array) -> None:
        n, c = logits.shape
        dtype = logits.dtype
        self.logits, self.labels, self.p = logits, labels, p
        self.flat, self.flat_p = logits.reshape(-1), p.reshape(-1)
        self.z = np.empty((n, c), dtype)
        self.flat_z = self.z.reshape(-1)
        self.spread = c <= WIDE
        self.total = np.empty((n, c if self.spread else 1), dtype)
        self.first_total, self.flat_total = self.total[:, 0], self.total.reshape(-1)
        self.summing = np.ones((c, c if self.spread else 1), dtype)
        self.column, self.classes = labels.reshape(n, 1), np.arange(c, dtype=labels.dtype)
        self.unsigned = labels.view(f"u{labels.dtype.itemsize}")  # -1 becomes the largest number
        self.starts, self.index = np.arange(n) * c, np.empty(n, np.int64)
        self.log_total, self.picked, self.ones = np.empty(n, dtype), np.empty(n, dtype), ones(n, dtype)

    def labels_fit(self) -> bool:
        """Whether every label names a class."""
        return bool(self.unsigned[self.unsigned.argmax()] < self.z.shape[1])

    def exponentials(self) -> None:
        """Set z (shifted logits), p (softmax) and log_total (of every row's exponentials)."""
        np.subtract(self.flat, self.flat[self.flat.argmax()], self.flat_z)
        np.exp(self.flat_z, self.flat_p)
        np.dot(self.p, self.summing, self.total)
        if not self.flat_total[self.flat_total.argmin()] > TINY_TOTAL:  # so that NaN comes here too
            np.subtract(self.logits, self.logits.max(axis=1, keepdims=True), self.z)
            np.exp(self.flat_z, self.flat_p)
            np.dot(self.p, self.summing, self.total)
        if self.spread:
            np.divide(self.flat_p, self.flat_total, self.flat_p)
        else:
            np.divide(self.p, self.total, self.p)
        np.log(self.first_total, self.log_total)

    def negative_log_likelihood(self) -> Any:
        """The sum over rows of -log p[label]."""
        if self.labels_fit():
            np.add(self.starts, self.labels, self.index)
            self.flat_z.take(self.index, None, self.picked, "clip")
            np.subtract(self.log_total, self.picked, self.picked)
            return np.dot(self.ones, self.picked)
        log_p = self.z - self.log_total[:, None]
        return -np.add.reduce(log_p, axis=None, where=np.equal(self.column, self.classes))

    def gradient(self, factor: Array, out: Array) -> None:
        """out = (p - onehot) * factor."""
        np.multiply(self.p, factor, out)
        if self.labels_fit():
            flat = out.reshape(-1)
            flat.take(self.index, None, self.picked, "clip")
            np.subtract(self.picked, factor, self.picked)
            flat[self.index] = self.picked
        else:
            np.subtract(out, factor, out, where=np.equal(self.column, self.classes))


def _labels_accept(logits: Array, labels: Array, *_: Any) -> bool:
    return floating(logits) and logits.size > 0 and labels.flags.c_contiguous and labels.dtype in INDICES


@softmax_cross_entropy.register_bound(
    np.ndarray,
    accepts=_labels_accept,
    allocate=lambda logits, *_: (np.empty((), logits.dtype), np.empty_like(logits)),
)
def _(out: Any, logits: Array, labels: Array, normalizer: float) -> list[Call]:
    loss, p = out
    softmax = _Softmax(logits, labels, p)
    factor = constant(1 / normalizer, logits.dtype)

    def call() -> None:
        softmax.exponentials()
        np.multiply(softmax.negative_log_likelihood(), factor, loss)

    return [call]


@softmax_cross_entropy_backward.register_bound(np.ndarray, accepts=_labels_accept, allocate=first_like)
def _(out: Array, p: Array, labels: Array, normalizer: float, scale: float) -> list[Call]:
    softmax = _Softmax(p, labels, p)
    factor = constant(scale / normalizer, p.dtype)

    def call() -> None:
        np.add(softmax.starts, labels, softmax.index)
        softmax.gradient(factor, out)

    return [call]


@softmax_cross_entropy_gradient.register_bound(
    np.ndarray,
    accepts=_labels_accept,
    allocate=lambda logits, *_: (np.empty((), logits.dtype), np.empty_like(logits)),
)
def _(out: Any, logits: Array, labels: Array, normalizer: float, scale: float) -> list[Call]:
    loss, dlogits = out
    softmax = _Softmax(logits, labels, np.empty_like(logits))
    inverse, factor = constant(1 / normalizer, logits.dtype), constant(scale / normalizer, logits.dtype)

    def call() -> None:
        softmax.exponentials()
        np.multiply(softmax.negative_log_likelihood(), inverse, loss)
        softmax.gradient(factor, dlogits)

    return [call]
