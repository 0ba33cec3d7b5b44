"""Tables of tokens: Embedding takes ids to vectors, Unembedding takes vectors to scores."""

from __future__ import annotations

from bpnet import ops
from bpnet.backend import type_name
from bpnet.dispatch import Array, dtype_name, namespace
from bpnet.errors import ConfigError, DTypeError, ShapeError
from bpnet.initializers import Initializer
from bpnet.layers.base import Layer
from bpnet.layers.tree import as_size, typed
from bpnet.parameter import Parameter


class _Table(Layer):
    """A table of n_tokens rows of n_features numbers."""

    def __init__(self, n_tokens: int, n_features: int, weight_initializer: Initializer | str) -> None:
        self.n_tokens, self.n_features = as_size(n_tokens), as_size(n_features)
        if not (self.n_tokens and self.n_features):
            name = type(self).__name__
            raise ConfigError(
                f"{name} needs at least 1 token and 1 feature, whole numbers: got {name}({n_tokens!r}, {n_features!r})"
            )
        self.weight = Parameter((self.n_tokens, self.n_features), weight_initializer)

    def __repr__(self) -> str:
        return typed(self)


class Embedding(_Table):
    """y = weight[id]: a row of the table for every id.

    n_tokens, n_features : the number of ids and the length of their vectors, each at least 1
    weight_initializer   : by default normal numbers that give rows of length about 1
    ids : (...) integers in 0 ... n_tokens - 1; y : (..., n_features); weight : (n_tokens, n_features)
    dweight[v] is the sum of dy over the places where the id is v. Ids have no derivative: dx is None. An id out of
    range is refused where data enter, by Trainer and predict; met here it names no row, and gives zeros.

    >>> import numpy as np
    >>> import bpnet as bp
    >>> embedding = bp.Embedding(3, 2).initialize(dtype="float64")
    >>> embedding.weight.value = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    >>> embedding.forward(np.array([[2, 0, 2]]))
    array([[[4., 5.],
            [0., 1.],
            [4., 5.]]])
    >>> embedding.backward(np.array([[[1.0, 1.0], [2.0, 2.0], [10.0, 10.0]]]))
    >>> embedding.weight.grad
    array([[ 2.,  2.],
           [ 0.,  0.],
           [11., 11.]])
    """

    positionwise = True

    def __init__(self, n_tokens: int, n_features: int, *, weight_initializer: Initializer | str = "unit_rows") -> None:
        super().__init__(n_tokens, n_features, weight_initializer)

    @property
    def input_ids(self) -> int:
        """The number of tokens."""
        return self.n_tokens

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The input's with an axis of the features behind it."""
        return (*input_shape, self.n_features)

    def __call__(self, x: Array) -> Array:
        """Return the rows that the ids `x` name."""
        W = self.weight.value
        if not isinstance(x, type(W)):
            raise DTypeError(f"{self!r} holds {type_name(W)} arrays, got {type_name(x)}; use model.asarray(x)")
        if not namespace(x).isdtype(x.dtype, "integral"):
            raise DTypeError(
                f"{self!r} takes ids, integers in 0 ... {self.n_tokens - 1}, got x of {dtype_name(x.dtype)}; if they "
                'are whole, use model.asarray(x, dtype="int64")'
            )
        if x.ndim < 1:
            raise ShapeError(f"{self!r} needs ids of shape (N, ...), got a 0-d array")
        if x.device != W.device:
            raise DTypeError(f"{self!r} is on device {W.device}, got x on {x.device}; use model.asarray(x)")
        return ops.embedding(x, W)

    def forward(self, x: Array) -> Array:
        """Return the rows that the ids `x` name; keep the ids."""
        y = self(x)
        self.keep(x, y.dtype)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Accumulate dweight; return None, since ids have no derivative."""
        ids, dtype = self.kept()
        self.check_gradient(dy, (*ids.shape, self.n_features), dtype, ids, dtype)
        if self.weight.trainable:
            self.weight.accumulate(ops.embedding_backward(dy, ids, self.n_tokens))


class Unembedding(_Table):
    """y = x weight^T: the scores of all tokens, each the product of x with the token's row.

    n_tokens, n_features : as of the Embedding whose counterpart it is
    weight_initializer   : by default as there
    x : (..., n_features); y : (..., n_tokens); weight : (n_tokens, n_features), in the layout of an Embedding, so that
    `unembedding.weight = embedding.weight` ties the two: one table, whose gradient is the sum of both. [Press & Wolf
    2017] dx = dy weight, dweight = dy^T x over all leading axes.
    """

    positionwise = True
    computes_in_bf16 = True

    def __init__(self, n_tokens: int, n_features: int, *, weight_initializer: Initializer | str = "unit_rows") -> None:
        super().__init__(n_tokens, n_features, weight_initializer)

    def __call__(self, x: Array) -> Array:
        """Return x weight^T."""
        return self._applied(x)[0]

    def forward(self, x: Array) -> Array:
        """Return x weight^T; keep x, in bfloat16 where the product is computed so."""
        y, kept = self._applied(x)
        self.keep(kept)
        return y

    def _applied(self, x: Array) -> tuple[Array, Array]:
        """The output, and the factor beside the table, which the derivative needs."""
        W = self.weight
        self.check_input(x, self.n_features, W.value)
        if W.compute is None:
            return ops.unembed(x, W.value), x
        bits = ops.to_bf16(x)
        return ops.unembed_bf16(bits, W.compute), bits

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx; accumulate dweight."""
        (x,) = self.kept()
        W = self.weight
        self.check_gradient(dy, (*x.shape[:-1], self.n_tokens), W.value.dtype, x)
        if not (need_dx or W.trainable):
            return None
        in_bf16 = x.dtype != W.value.dtype  # as its forward was, whatever has been set since
        backward = ops.unembed_bf16_backward if in_bf16 else ops.unembed_backward
        dx, dW = backward(dy, x, W.factor(in_bf16), need_dx, W.trainable)
        if W.trainable:
            W.accumulate(dW)
        return dx
