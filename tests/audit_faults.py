"""Layers and losses with one mistake each, as they are found in backward passes written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

import bpnet as bp
from bpnet import ops


class ByHand(bp.Layer):
    """y = x W + b written without kernels; the base of those that are wrong."""

    def __init__(self, n_in: int = 6, n_out: int = 6) -> None:
        self.n_in, self.n_out = n_in, n_out
        self.weight = bp.Parameter((n_in, n_out), "he_normal")
        self.bias = bp.Parameter((n_out,), "zeros")

    def __call__(self, x: Any) -> Any:
        return x @ self.weight.value + self.bias.value

    def forward(self, x: Any) -> Any:
        self.keep(x)
        return self(x)

    def dx(self, dy: Any) -> Any:
        return dy @ self.weight.value.T

    def dW(self, x: Any, dy: Any) -> Any:
        return x.T @ dy

    def db(self, x: Any, dy: Any) -> Any:
        return bp.namespace(dy).sum(dy, axis=0)

    def give(self, dW: Any, db: Any) -> None:
        self.weight.accumulate(dW)
        self.bias.accumulate(db)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self.kept()
        self.give(self.dW(x, dy), self.db(x, dy))
        return self.dx(dy) if need_dx else None


class FactorN(ByHand):
    """The mean over samples is forgotten: it was taken in the loss of the paper, and here again."""

    def dW(self, x: Any, dy: Any) -> Any:
        return super().dW(x, dy) * x.shape[0]


class DividedByN(ByHand):
    def dW(self, x: Any, dy: Any) -> Any:
        return super().dW(x, dy) / x.shape[0]


class FactorTwo(ByHand):
    def dx(self, dy: Any) -> Any:
        return 2 * super().dx(dy)


class WrongSign(ByHand):
    def db(self, x: Any, dy: Any) -> Any:
        return -super().db(x, dy)


class Transposed(ByHand):
    def dW(self, x: Any, dy: Any) -> Any:
        return dy.T @ x


class TransposedWeight(ByHand):
    """dx by W in the place of its transpose."""

    def dx(self, dy: Any) -> Any:
        return dy @ self.weight.value


class MissingBias(ByHand):
    def give(self, dW: Any, db: Any) -> None:
        self.weight.accumulate(dW)


class FirstRow(ByHand):
    """The gradient of the bias is that of the first sample."""

    def db(self, x: Any, dy: Any) -> Any:
        return bp.namespace(dy).asarray(dy[0, ...], copy=True)


class NotAccumulated(ByHand):
    """Every contribution replaces the one before."""

    def give(self, dW: Any, db: Any) -> None:
        self.weight._filled = False
        super().give(dW, db)


class WrittenByHand(ByHand):
    """Writes into the gradient, past accumulate."""

    def give(self, dW: Any, db: Any) -> None:
        self.weight.grad[...] = dW
        self.bias.accumulate(db)


class DyOverwritten(bp.ReLU):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        kept = self._kept
        dx = super().backward(bp.namespace(dy).asarray(dy, copy=True), need_dx)
        assert kept is not None
        dy[...] = 0
        return dx


class XOverwritten(bp.ReLU):
    def forward(self, x: Any) -> Any:
        y = super().forward(x)
        x[...] = y
        return y


class Center(bp.Layer):
    """A norm: every sample minus the mean of its features, over their root mean square."""

    axis, axis_backward = -1, -1

    def __call__(self, x: Any) -> Any:
        return self.parts(x, self.axis)[0]

    def parts(self, x: Any, axis: int) -> tuple[Any, Any]:
        xp = bp.namespace(x)
        centered = x - xp.mean(x, axis=axis, keepdims=True)
        size = xp.sqrt(xp.mean(centered * centered, axis=axis, keepdims=True) + 1e-5)
        return centered / size, size

    def forward(self, x: Any) -> Any:
        y, size = self.parts(x, self.axis)
        self.keep(y, size)
        return y

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        y, size = self.kept()
        xp, axis = bp.namespace(dy), self.axis_backward
        mean = xp.mean(dy, axis=axis, keepdims=True)
        along = xp.mean(dy * y, axis=axis, keepdims=True)
        return (dy - mean - y * along) / size if need_dx else None


class WrongAxis(Center):
    """The means of the backward are over the samples."""

    axis_backward = 0


class OverTheBatch(Center):
    """All means, forward's and backward's, are over the samples: a norm over the wrong axis, differentiated rightly."""

    axis = axis_backward = 0


class NoMeans(Center):
    """The statistics are taken for constants."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        _, size = self.kept()
        return dy / size if need_dx else None


class Unscaled(bp.Dropout):
    """Dropout that zeroes, and does not scale what is left."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) * (1 - self.rate)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        dx = super().backward(dy, need_dx)
        return None if dx is None else dx * (1 - self.rate)


class UnscaledBackward(bp.Dropout):
    """Dropout that scales forward only."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        dx = super().backward(dy, need_dx)
        return None if dx is None else dx * (1 - self.rate)


class SoftmaxTwice(bp.Softmax):
    """The derivative of the softmax applied twice."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        kept = self._kept
        once = super().backward(dy)
        assert kept is not None
        self.keep(*kept)
        return super().backward(once, need_dx)


class SwappedBranches(bp.Layer):
    """LeakyReLU with the slopes of both sides exchanged in backward."""

    def __call__(self, x: Any) -> Any:
        return bp.namespace(x).where(x > 0, x, 0.1 * x)

    def forward(self, x: Any) -> Any:
        self.keep(x)
        return self(x)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self.kept()
        return bp.namespace(x).where(x > 0, 0.1 * dy, dy) if need_dx else None


class WrongBranch(SwappedBranches):
    """ELU, with the exponential's derivative on both sides."""

    def __call__(self, x: Any) -> Any:
        xp = bp.namespace(x)
        return xp.where(x > 0, x, xp.exp(x) - 1)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (x,) = self.kept()
        return dy * bp.namespace(x).exp(x) if need_dx else None


class AtTheOutput(bp.Layer):
    """tanh whose derivative is 1 - tanh(y)^2."""

    def __call__(self, x: Any) -> Any:
        return bp.namespace(x).tanh(x)

    def forward(self, x: Any) -> Any:
        y = self(x)
        self.keep(y)
        return y

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (y,) = self.kept()
        t = bp.namespace(y).tanh(y)
        return dy * (1 - t * t) if need_dx else None


class NoChain(AtTheOutput):
    """Returns its own derivative, and forgets dy."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (y,) = self.kept()
        return 1 - y * y if need_dx else None


class PassedOn(AtTheOutput):
    """Returns dy, and forgets its own derivative."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.kept()
        return ops.copy(dy) if need_dx else None


class KeptTwice(AtTheOutput):
    """Does not take what it kept."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        assert self._kept is not None
        (y,) = self._kept
        return dy * (1 - y * y) if need_dx else None


class Noisy(AtTheOutput):
    """Draws random numbers of its own."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (y,) = self.kept()
        noise = bp.namespace(dy).asarray(1 + 1e-13 * np.random.default_rng().normal(size=tuple(dy.shape)))
        return dy * (1 - y * y) * bp.namespace(dy).astype(noise, dy.dtype) if need_dx else None


class Raises(AtTheOutput):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        raise RuntimeError("not written yet")


class Pair(bp.Layer):
    """A composite of one's own with private layers, right: y = tanh(x W + b) + x."""

    def __init__(self, width: int = 6) -> None:
        self.width = width
        self._inner = bp.Dense(width, width)
        self._curve = bp.Tanh()

    def __call__(self, x: Any) -> Any:
        return ops.add(self._curve(self._inner(x)), x)

    def forward(self, x: Any) -> Any:
        return ops.add(self._curve.forward(self._inner.forward(x)), x)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        df = self._inner.backward(self._curve.backward(dy), need_dx)
        return ops.add(df, dy) if need_dx else None


class PairWithoutSum(Pair):
    """The same, without the second path in backward."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        return self._inner.backward(self._curve.backward(dy), need_dx)


class WrongSum(ByHand):
    """The gradient of the bias is summed over the features, and not over the samples."""

    def db(self, x: Any, dy: Any) -> Any:
        return bp.namespace(dy).sum(dy, axis=-1)


class Product(bp.Layer):
    """Of two arrays, with a gain: y = gain a b."""

    def __init__(self, width: int = 6) -> None:
        self.width = width
        self.gain = bp.Parameter((width,), "ones")

    def __call__(self, a: Any, b: Any) -> Any:
        return self.gain.value * a * b

    def forward(self, a: Any, b: Any) -> Any:
        self.keep(a, b)
        return self(a, b)

    def gradient(self, a: Any, b: Any, dy: Any) -> Any:
        return bp.namespace(dy).sum(dy * a * b, axis=0)

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        a, b = self.kept()
        self.gain.accumulate(self.gradient(a, b, dy))
        return (dy * self.gain.value * b, dy * self.gain.value * a) if need_dx else None


class Swapped(Product):
    """The gradients of its inputs are exchanged."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        found = super().backward(dy, need_dx)
        return None if found is None else found[::-1]


class WritesIntoTheOther(Product):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        assert self._kept is not None
        _, b = self._kept
        found = super().backward(dy, need_dx)
        b[...] = 0
        return found


class OneGradient(Product):
    """Returns the gradient of its first input alone."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        found = super().backward(dy, need_dx)
        return None if found is None else found[0]


class ProductKeptTwice(Product):
    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        kept = self._kept
        found = super().backward(dy, need_dx)
        self._kept = kept
        return found


class ProductOverTheBatch(Product):
    """Takes the mean of its second input over the samples."""

    def __call__(self, a: Any, b: Any) -> Any:
        return super().__call__(a, b - bp.namespace(b).mean(b, axis=0, keepdims=True))

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        a, b = self.kept()
        xp = bp.namespace(dy)
        b = b - xp.mean(b, axis=0, keepdims=True)
        self.gain.accumulate(self.gradient(a, b, dy))
        db = dy * self.gain.value * a
        return (dy * self.gain.value * b, db - xp.mean(db, axis=0, keepdims=True)) if need_dx else None


class GainByHand(Product):
    """Writes into its parameter's gradient, past accumulate, and so adds nothing up."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        a, b = self.kept()
        self.gain._filled = False
        self.gain.accumulate(self.gradient(a, b, dy))
        return (dy * self.gain.value * b, dy * self.gain.value * a) if need_dx else None


class Gated(bp.Layer):
    """x through two Dense layers into a layer of two inputs."""

    def __init__(self, join: bp.Layer, width: int = 6) -> None:
        self.left, self.right, self.join = bp.Dense(width, width), bp.Dense(width, width), join

    def __call__(self, x: Any) -> Any:
        return self.join(self.left(x), self.right(x))

    def forward(self, x: Any) -> Any:
        return self.join.forward(self.left.forward(x), self.right.forward(x))

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        found = self.join.backward(dy)
        a, b = found if isinstance(found, tuple) else (found, found)
        da, db = self.left.backward(a, need_dx), self.right.backward(b, need_dx)
        return ops.add(da, db) if need_dx else None


class Embedding(bp.Layer):
    """Rows of a table, by number; its input has no derivative."""

    def __init__(self, n: int = 5, width: int = 4) -> None:
        self.n, self.width = n, width
        self.table = bp.Parameter((n, width), "he_normal")

    def rows(self, index: Any) -> Any:
        xp = bp.namespace(index)
        places = xp.arange(self.n, dtype=index.dtype, device=index.device)
        return xp.astype(index[..., None] == places, self.table.value.dtype)

    def __call__(self, index: Any) -> Any:
        return self.rows(index) @ self.table.value

    def forward(self, index: Any) -> Any:
        rows = self.rows(index)
        self.keep(rows)
        return rows @ self.table.value

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        (rows,) = self.kept()
        self.table.accumulate(rows.T @ dy)
        return None


class EmbeddingThatWrites(Embedding):
    """Clips the numbers of the rows where they lie."""

    def forward(self, index: Any) -> Any:
        y = super().forward(index)
        index[...] = 0
        return y


class EmbeddingReplaces(Embedding):
    """Every contribution replaces the one before."""

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        self.table._filled = False
        return super().backward(dy, need_dx)


class Looks(bp.Layer):
    """Weights x by a row of a table that the number of the largest element names: an input of integers within."""

    def __init__(self, table: bp.Layer) -> None:
        self.table = table

    def index(self, x: Any) -> Any:
        return bp.namespace(x).argmax(x, axis=-1)

    def __call__(self, x: Any) -> Any:
        return x * self.table(self.index(x))

    def forward(self, x: Any) -> Any:
        rows = self.table.forward(self.index(x))
        self.keep(x, rows)
        return x * rows

    def backward(self, dy: Any, need_dx: bool = True) -> Any:
        x, rows = self.kept()
        self.table.backward(dy * x)
        return dy * rows if need_dx else None


class LossOfLogits(bp.CategoricalCrossEntropy):
    """Takes probabilities, and returns the derivative by the logits: the Softmax layer then applies its own again."""

    def backward(self, scale: Any = 1.0) -> Any:
        gradient = super().backward(scale)
        xp, p = bp.namespace(gradient), self.p
        return p * (gradient - xp.sum(p * gradient, axis=-1, keepdims=True))

    def forward(self, prediction: Any, target: Any, normalizer: Any = None, sample_weight: Any = None) -> Any:
        self.p = prediction
        return super().forward(prediction, target, normalizer, sample_weight)


class SummedLoss(bp.MeanSquaredError):
    """The mean forward, the sum backward."""

    def backward(self, scale: Any = 1.0) -> Any:
        gradient = super().backward(scale)
        return gradient * gradient.shape[0] * gradient.shape[1]


class HuberBranch(bp.Huber):
    """Quadratic everywhere, in backward."""

    def forward(self, prediction: Any, target: Any, normalizer: Any = None, sample_weight: Any = None) -> Any:
        self._residual = prediction - target
        return super().forward(prediction, target, normalizer, sample_weight)

    def backward(self, scale: Any = 1.0) -> Any:
        super().backward(scale)
        return self._residual * (1 / (self._residual.shape[0] * self._residual.shape[1]))
