"""The fully connected layer."""

from __future__ import annotations

from bpnet import ops
from bpnet.checks import flag
from bpnet.dispatch import Array
from bpnet.errors import ConfigError
from bpnet.initializers import Initializer, zeros
from bpnet.layers.base import Layer
from bpnet.layers.tree import as_size
from bpnet.parameter import Parameter, penalty_of


class Dense(Layer):
    """y = x W + b over the last axis.

    n_in, n_out : the numbers of inputs and of neurons, each at least 1
    bias        : whether there is a b
    weight_initializer : a function, or the name of one in bpnet.initializers.INITIALIZERS
    weight_l1, weight_l2, bias_l1, bias_l2 : at least 0; l1 sum |w| + l2 sum w^2 is added to what is minimized
    x : (..., n_in); y : (..., n_out); weight : (n_in, n_out); bias : (n_out,)

    >>> import numpy as np
    >>> import bpnet as bp
    >>> dense = bp.Dense(3, 1).initialize(dtype="float64")
    >>> dense.weight.value, dense.bias.value = [[-3.0], [-1.0], [2.0]], [1.0]
    >>> dense.forward(np.array([[1.0, -2.0, 3.0]]))
    array([[6.]])
    >>> dense.backward(np.array([[1.0]]))
    array([[-3., -1.,  2.]])
    >>> dense.weight.grad.T, dense.bias.grad
    (array([[ 1., -2.,  3.]]), array([1.]))
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bias: bool = True,
        weight_initializer: Initializer | str = "he_normal",
        weight_l1: float = 0.0,
        weight_l2: float = 0.0,
        bias_l1: float = 0.0,
        bias_l2: float = 0.0,
    ) -> None:
        self.n_in, self.n_out = as_size(n_in), as_size(n_out)
        if not (self.n_in and self.n_out):
            raise ConfigError(
                f"Dense needs at least 1 input and 1 neuron, whole numbers: got Dense({n_in!r}, {n_out!r})"
            )
        self.weight = Parameter((self.n_in, self.n_out), weight_initializer)
        self.bias = Parameter((self.n_out,), zeros, decay=False) if flag("Dense: bias", bias) else None
        self.weight_l1, self.weight_l2 = weight_l1, weight_l2
        self.bias_l1, self.bias_l2 = bias_l1, bias_l2

    positionwise = True
    computes_in_bf16 = True
    weight_l1, weight_l2 = penalty_of("weight", "l1"), penalty_of("weight", "l2")
    bias_l1, bias_l2 = penalty_of("bias", "l1"), penalty_of("bias", "l2")

    def __call__(self, x: Array) -> Array:
        """Return x W + b."""
        return self._applied(x)[0]

    def forward(self, x: Array) -> Array:
        """Return x W + b; keep x, in bfloat16 where the product is computed so."""
        y, kept = self._applied(x)
        self.keep(kept)
        return y

    def _applied(self, x: Array) -> tuple[Array, Array]:
        """The output, and the factor beside W, which the derivative needs."""
        W = self.weight.value
        self.check_input(x, self.n_in, W)
        b, copy = self.bias.value if self.bias is not None else None, self.weight.compute
        if copy is None:
            return ops.linear(x, W, b), x
        bits = ops.to_bf16(x)
        return ops.linear_bf16(bits, copy, b), bits

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx = dy W^T; accumulate dW = x^T dy and db = sum of dy."""
        (x,) = self.kept()
        W, b = self.weight, self.bias
        self.check_gradient(dy, (*x.shape[:-1], self.n_out), W.value.dtype, x)
        in_bf16 = x.dtype != W.value.dtype  # as its forward was, whatever has been set since
        backward, factor = ops.linear_bf16_backward if in_bf16 else ops.linear_backward, W.factor(in_bf16)
        need_db = b is not None and b.trainable
        if not W.trainable:  # dW is a whole matrix product
            if not (need_dx or need_db):
                return None
            dx, _, db = backward(dy, x, factor, need_dx, need_db, False)
        else:
            dx, dW, db = backward(dy, x, factor, need_dx, need_db)
            W.accumulate(dW)
        if b is not None and need_db:
            b.accumulate(db)
        return dx
