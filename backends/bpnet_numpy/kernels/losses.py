"""Softmax with cross-entropy, against labels and against weighted rows of targets."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

import numpy as np

from bpnet.dispatch import Call
from bpnet.ops.cross_entropy import soft_cross_entropy, soft_cross_entropy_backward, soft_cross_entropy_gradient
from bpnet.ops.losses import (
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_gradient,
)
from bpnet_numpy.kernels.common import INDICES, TINY_TOTAL, Array, constant, first_like, floating, kept_for, ones
from bpnet_numpy.scratch import borrow, borrow_like

WIDE = 32  # classes up to which one product with a matrix of ones sums the rows and spreads the sums


STARTS: dict[Hashable, Array] = {}


def starts(n: int, c: int, like: Array) -> Array:
    """Where each of n rows of c elements begins, made once."""
    return kept_for(STARTS, like, (n, c), lambda: np.arange(n, like=like) * c)


class _Labels:
    """The labels of n rows of c classes: looked up by index where all name a class, by comparison where not."""

    def __init__(self, labels: Array, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        n, c = shape
        self.labels, self.n_classes = labels, c
        self.unsigned = labels.view(np.uint64 if labels.itemsize == 8 else np.uint32)  # -1 becomes the largest number
        self.starts, self.index, self.picked = (
            starts(n, c, labels),
            np.empty(n, np.int64, like=labels),
            np.empty(n, dtype, like=labels),
        )

    def locate(self) -> bool:
        """Whether every label names a class; if so, `index` is set to their places among all elements."""
        if self.unsigned[self.unsigned.argmax()] >= self.n_classes:
            return False
        np.add(self.starts, self.labels, self.index)
        return True

    def hits(self) -> Array:
        """(n, c) bool, true at each row's label."""
        return np.equal(self.labels[:, None], np.arange(self.n_classes, like=self.labels))

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

    def __init__(self, logits: Array, p: Array) -> None:
        n, c = logits.shape
        dtype = logits.dtype
        self.logits, self.p = logits, p
        self.flat, self.flat_p = logits.reshape(-1), p.reshape(-1)
        self.z = borrow((n, c), dtype, logits)
        self.flat_z = self.z.reshape(-1)
        self.spread = c <= WIDE
        width = c if self.spread else 1
        self.total = np.empty((n, width), dtype, like=logits)
        self.first_total, self.flat_total = self.total[:, 0], self.total.reshape(-1)
        self.summing = ones(c * width, logits).reshape(c, width)
        self.log_total, self.ones = np.empty(n, dtype, like=logits), ones(n, logits)

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

    def negative_log_likelihood(self, labels: _Labels) -> Any:
        """The sum over rows of -log p[label]."""
        if not labels.locate():
            return -np.add.reduce(self.z - self.log_total[:, None], axis=None, where=labels.hits())
        self.flat_z.take(labels.index, None, labels.picked, "clip")
        np.subtract(self.log_total, labels.picked, labels.picked)
        return np.dot(self.ones, labels.picked)


def loss_and_like(logits: Array, *_: Any) -> tuple[Array, Array]:
    """Where the loss goes, and the probabilities or the gradient."""
    return np.empty((), logits.dtype, like=logits), np.empty_like(logits)


def labels_accept(logits: Array, labels: Array, normalizer: float, *_: Any) -> bool:
    """Whether the labels can be indices, and the normalizer is a number but 0."""
    if not isinstance(normalizer, (int, float)) or not normalizer:
        return False
    return floating(logits) and logits.size > 0 and labels.flags.c_contiguous and labels.dtype in INDICES


@softmax_cross_entropy.register_bound(
    np.ndarray,
    accepts=labels_accept,
    allocate=loss_and_like,
)
def _(out: Any, logits: Array, labels: Array, normalizer: float) -> list[Call]:
    loss, p = out
    softmax, picked = _Softmax(logits, p), _Labels(labels, logits.shape, logits.dtype)
    factor = constant(1 / normalizer, logits.dtype)

    def call() -> None:
        softmax.exponentials()
        np.multiply(softmax.negative_log_likelihood(picked), factor, loss)

    return [call]


@softmax_cross_entropy_backward.register_bound(np.ndarray, accepts=labels_accept, allocate=first_like)
def _(out: Array, p: Array, labels: Array, normalizer: float, scale: float) -> list[Call]:
    factor = constant(scale / normalizer, p.dtype)
    subtract = _Labels(labels, p.shape, p.dtype).subtract
    return [partial(np.multiply, p, factor, out), partial(subtract, factor, out)]


@softmax_cross_entropy_gradient.register_bound(
    np.ndarray,
    accepts=labels_accept,
    allocate=loss_and_like,
)
def _(out: Any, logits: Array, labels: Array, normalizer: float, scale: float) -> list[Call]:
    loss, dlogits = out
    dtype = logits.dtype
    p = borrow_like(logits)
    picked = _Labels(labels, logits.shape, dtype)
    softmax = _Softmax(logits, p)
    inverse, factor = constant(1 / normalizer, dtype), constant(scale / normalizer, dtype)

    def call() -> None:
        softmax.exponentials()
        np.multiply(softmax.negative_log_likelihood(picked), inverse, loss)
        np.multiply(p, factor, dlogits)
        picked.subtract(factor, dlogits)

    return [call]


class _Rows:
    """Weighted rows of targets Q against a softmax: the loss, and what the logits' derivative is made of.

    A row's sum of Q is spread over its columns by one product with a matrix of ones where there are few classes.
    """

    def __init__(self, Q: Array) -> None:
        n, c = Q.shape
        self.Q, self.flat_Q = Q, Q.reshape(-1)
        width = c if c <= WIDE else 1
        self.total = np.empty((n, width), Q.dtype, like=Q)
        self.summing = ones(c * width, Q).reshape(c, width)

    def sum_rows(self) -> None:
        """Set total, the sums of Q's rows."""
        np.dot(self.Q, self.summing, self.total)

    def cross_entropy(self, softmax: _Softmax) -> Any:
        """-sum(Q log p). A class of weight 0 may have the logit -inf, and a row of weight 0 any."""
        z, log_total = softmax.flat_z, softmax.log_total
        if z[z.argmin()] > -np.inf:  # not NaN either
            return np.dot(log_total, self.total[:, 0]) - np.dot(z, self.flat_Q)
        each = np.subtract(log_total[:, None], softmax.z)
        each[self.Q == 0] = 0
        return np.dot(each.reshape(-1), self.flat_Q)

    def slopes(self, p: Array, factor: Array, out: Array) -> None:
        """Set out to (p total - Q) factor, and to 0 in rows that count for nothing."""
        np.multiply(p, self.total, out)
        np.subtract(out, self.Q, out)
        np.multiply(out, factor, out)
        flat = p.reshape(-1)
        if not flat[flat.argmin()] >= 0:
            out[self.total[:, 0] == 0] = 0


class _Factor:
    """scale / normalizer in a 0-d array, 0 where the normalizer is 0; `update` reads one that is an array."""

    def __init__(self, normalizer: Any, scale: float, dtype: np.dtype[Any]) -> None:
        self.normalizer, self.scale = normalizer, scale
        self.value = np.empty((), dtype)
        self.varies = isinstance(normalizer, np.ndarray)
        self._set()

    def _set(self) -> None:
        total = float(self.normalizer)
        self.value.fill(self.scale / total if total else 0.0)

    def update(self) -> Array:
        """The present value."""
        if self.varies:
            self._set()
        return self.value

    def multiply(self, total: Any, out: Array) -> None:
        """Set the 0-d `out` to total * scale / normalizer, and to 0 where the normalizer is 0, also if it is NaN."""
        if self.update():
            np.multiply(total, self.value, out)
        else:
            out.fill(0)


def rows_accept(logits: Array, Q: Array, normalizer: Any, scale: Any = 1.0) -> bool:
    """Whether logits and targets are of one dtype, and the normalizer is a number or a 0-d array."""
    known = isinstance(normalizer, (int, float)) or (isinstance(normalizer, np.ndarray) and normalizer.ndim == 0)
    return known and isinstance(scale, (int, float)) and floating(logits, Q) and logits.size > 0


@soft_cross_entropy.register_bound(
    np.ndarray,
    accepts=rows_accept,
    allocate=loss_and_like,
)
def _(out: Any, logits: Array, Q: Array, normalizer: Any) -> list[Call]:
    loss, p = out
    softmax, rows, inverse = _Softmax(logits, p), _Rows(Q), _Factor(normalizer, 1.0, logits.dtype)

    def call() -> None:
        softmax.exponentials()
        inverse.multiply(rows.cross_entropy(softmax), loss)

    return [rows.sum_rows, call]


@soft_cross_entropy_backward.register_bound(np.ndarray, accepts=rows_accept, allocate=first_like)
def _(out: Array, p: Array, Q: Array, normalizer: Any, scale: float) -> list[Call]:
    rows, factor = _Rows(Q), _Factor(normalizer, scale, p.dtype)
    return [rows.sum_rows, lambda: rows.slopes(p, factor.update(), out)]


@soft_cross_entropy_gradient.register_bound(
    np.ndarray,
    accepts=rows_accept,
    allocate=loss_and_like,
)
def _(out: Any, logits: Array, Q: Array, normalizer: Any, scale: float) -> list[Call]:
    loss, dlogits = out
    p = borrow_like(logits)
    softmax, rows = _Softmax(logits, p), _Rows(Q)
    inverse, factor = _Factor(normalizer, 1.0, logits.dtype), _Factor(normalizer, scale, logits.dtype)

    def call() -> None:
        softmax.exponentials()
        inverse.multiply(rows.cross_entropy(softmax), loss)
        rows.slopes(p, factor.update(), dlogits)

    return [rows.sum_rows, call]
