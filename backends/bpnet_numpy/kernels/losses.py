"""Softmax with cross-entropy."""

from __future__ import annotations

from functools import partial
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


_STARTS: dict[tuple[int, int], Array] = {}


def _starts(n: int, c: int) -> Array:
    """Where each of n rows of c elements begins, made once."""
    found = _STARTS.get((n, c))
    if found is None:
        if len(_STARTS) >= 256:
            _STARTS.clear()
        found = _STARTS[n, c] = np.arange(n) * c
        found.flags.writeable = False
    return found


class _Labels:
    """The labels of n rows of c classes: looked up by index where all name a class, by comparison where not."""

    def __init__(self, labels: Array, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        n, c = shape
        self.labels, self.n_classes = labels, c
        self.unsigned = labels.view(np.uint64 if labels.itemsize == 8 else np.uint32)  # -1 becomes the largest number
        self.starts, self.index, self.picked = _starts(n, c), np.empty(n, np.int64), np.empty(n, dtype)

    def locate(self) -> bool:
        """Whether every label names a class; if so, `index` is set to their places among all elements."""
        if self.unsigned[self.unsigned.argmax()] >= self.n_classes:
            return False
        np.add(self.starts, self.labels, self.index)
        return True

    def hits(self) -> Array:
        """(n, c) bool, true at each row's label."""
        return np.equal(self.labels[:, None], np.arange(self.n_classes))

    def subtract(self, factor: Array, out: Array) -> None:
        """out -= factor at each row's label."""
        if not self.locate():
            np.subtract(out, factor, out, where=self.hits())
            return
        flat = out.reshape(-1)
        flat.take(self.index, None, self.picked, "clip")
        np.subtract(self.picked, factor, self.picked)
        flat[self.index] = self.picked


class _Softmax:
    """The softmax of rows with the negative log-likelihood of labels, in buffers of its own.

    Any shift common to a row cancels. The maximum of the whole batch serves where no row's sum of exponentials gets too
    small, and costs a fraction of a maximum per row. An argmax with a look-up is three times faster than a maximum.
    """

    def __init__(self, logits: Array, labels: _Labels, p: Array) -> None:
        n, c = logits.shape
        dtype = logits.dtype
        self.logits, self.labels, self.p = logits, labels, p
        self.flat, self.flat_p = logits.reshape(-1), p.reshape(-1)
        self.z = np.empty((n, c), dtype)
        self.flat_z = self.z.reshape(-1)
        self.spread = c <= WIDE
        width = c if self.spread else 1
        self.total = np.empty((n, width), dtype)
        self.first_total, self.flat_total = self.total[:, 0], self.total.reshape(-1)
        self.summing = ones(c * width, dtype).reshape(c, width)
        self.log_total, self.ones = np.empty(n, dtype), ones(n, dtype)

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
        labels = self.labels
        if not labels.locate():
            return -np.add.reduce(self.z - self.log_total[:, None], axis=None, where=labels.hits())
        self.flat_z.take(labels.index, None, labels.picked, "clip")
        np.subtract(self.log_total, labels.picked, labels.picked)
        return np.dot(self.ones, labels.picked)


def _labels_accept(logits: Array, labels: Array, normalizer: float, *_: Any) -> bool:
    if not isinstance(normalizer, (int, float)) or not normalizer:
        return False
    return floating(logits) and logits.size > 0 and labels.flags.c_contiguous and labels.dtype in INDICES


@softmax_cross_entropy.register_bound(
    np.ndarray,
    accepts=_labels_accept,
    allocate=lambda logits, *_: (np.empty((), logits.dtype), np.empty_like(logits)),
)
def _(out: Any, logits: Array, labels: Array, normalizer: float) -> list[Call]:
    loss, p = out
    softmax = _Softmax(logits, _Labels(labels, logits.shape, logits.dtype), p)
    factor = constant(1 / normalizer, logits.dtype)

    def call() -> None:
        softmax.exponentials()
        np.multiply(softmax.negative_log_likelihood(), factor, loss)

    return [call]


@softmax_cross_entropy_backward.register_bound(np.ndarray, accepts=_labels_accept, allocate=first_like)
def _(out: Array, p: Array, labels: Array, normalizer: float, scale: float) -> list[Call]:
    factor = constant(scale / normalizer, p.dtype)
    subtract = _Labels(labels, p.shape, p.dtype).subtract
    return [partial(np.multiply, p, factor, out), partial(subtract, factor, out)]


@softmax_cross_entropy_gradient.register_bound(
    np.ndarray,
    accepts=_labels_accept,
    allocate=lambda logits, *_: (np.empty((), logits.dtype), np.empty_like(logits)),
)
def _(out: Any, logits: Array, labels: Array, normalizer: float, scale: float) -> list[Call]:
    loss, dlogits = out
    dtype = logits.dtype
    p = np.empty_like(logits)
    picked = _Labels(labels, logits.shape, dtype)
    softmax = _Softmax(logits, picked, p)
    inverse, factor = constant(1 / normalizer, dtype), constant(scale / normalizer, dtype)

    def call() -> None:
        softmax.exponentials()
        np.multiply(softmax.negative_log_likelihood(), inverse, loss)
        np.multiply(p, factor, dlogits)
        picked.subtract(factor, dlogits)

    return [call]
