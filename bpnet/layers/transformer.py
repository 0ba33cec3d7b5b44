"""The block that transformers are stacks of."""

from __future__ import annotations

from typing import Any

from bpnet import ops
from bpnet.dispatch import Array
from bpnet.errors import ConfigError, did_you_mean
from bpnet.initializers import Initializer
from bpnet.layers.activations import GELU, ReLU, SiLU
from bpnet.layers.attention import MultiHeadAttention
from bpnet.layers.base import Layer
from bpnet.layers.containers import Sequential
from bpnet.layers.dense import Dense
from bpnet.layers.dropout import Dropout
from bpnet.layers.layer_norm import LayerNorm, RMSNorm
from bpnet.layers.parametric import SwiGLU
from bpnet.layers.tree import as_size, typed

ACTIVATIONS: dict[str, Any] = {
    "gelu": GELU,
    "gelu_tanh": lambda: GELU("tanh"),
    "relu": ReLU,
    "silu": SiLU,
    "swiglu": SwiGLU,
}
NORMS = {"layer": LayerNorm, "rms": RMSNorm}


class TransformerBlock(Layer):
    """Attention of a sequence to itself, then two products with an activation between them, each added to what it gets.

    n_features, n_heads : of the attention; n_hidden : between the two products, 4 n_features where it is None, and
                          8 n_features // 3 with "swiglu", which has three products
    activation : "gelu", "gelu_tanh", "relu", "silu" or "swiglu"
    pre_norm   : True: h = x + A(N(x)), y = h + F(N'(h)), as GPT-2 and later; False: h = N(x + A(x)), y = N'(h + F(h)),
                 as the paper [Vaswani et al. 2017]
    norm       : "layer" for LayerNorm, "rms" for RMSNorm; epsilon : of both, theirs where it is None
    dropout    : of the weights of the attention, of its output, behind the activation, and of the second product
    causal, bias, rotary, weight_initializer : see MultiHeadAttention
    x, y : (N, T, n_features); mask : by keyword, (N, T), as there
    Backward is the sum rule, twice; with pre_norm: dh = dy + N'^T F^T dy, dx = dh + N^T A^T dh.
    Its layers are `attention`, `attention_norm`, `feed` and `feed_norm`.
    """

    def __init__(
        self,
        n_features: int,
        n_heads: int,
        *,
        n_hidden: int | None = None,
        activation: str = "gelu",
        pre_norm: bool = True,
        norm: str = "layer",
        epsilon: float | None = None,
        causal: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        rotary: float | None = None,
        weight_initializer: Initializer | str = "lecun_normal",
    ) -> None:
        for name, value, known in (("activation", activation, ACTIVATIONS), ("norm", norm, NORMS)):
            if value not in known:
                raise ConfigError(
                    f"TransformerBlock: {name} must be one of {', '.join(map(repr, known))}, got {value!r}"
                    f"{did_you_mean(str(value), known)}"
                )
        if not isinstance(pre_norm, bool):
            raise ConfigError(f"TransformerBlock: pre_norm must be True or False, got {pre_norm!r}")
        self.pre_norm = pre_norm
        made: dict[str, Any] = {"bias": bias, "weight_initializer": weight_initializer}
        self.attention = MultiHeadAttention(n_features, n_heads, causal=causal, dropout=dropout, rotary=rotary, **made)
        width, gated = self.attention.n_features, activation == "swiglu"
        n_hidden = (8 * width // 3 if gated else 4 * width) if n_hidden is None else n_hidden
        if not as_size(n_hidden):
            raise ConfigError(f"TransformerBlock: n_hidden must be a whole number of at least 1, got {n_hidden!r}")
        drop = [Dropout(dropout)] if dropout else []
        more = [Dropout(dropout)] if dropout else []
        self.feed = Sequential(
            Dense(width, 2 * n_hidden if gated else n_hidden, **made),
            ACTIVATIONS[activation](),
            *drop,
            Dense(n_hidden, width, **made),
            *more,
        )
        self.attention_dropout = Dropout(dropout) if dropout else None
        given = {} if epsilon is None else {"epsilon": epsilon}
        self.attention_norm, self.feed_norm = NORMS[norm](width, **given), NORMS[norm](width, **given)

    @property
    def can_step(self) -> bool:
        """Whether the attention is causal."""
        return self.attention.can_step

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The input's."""
        return self.attention.output_shape(input_shape)

    def __call__(self, x: Array, *, mask: Array | None = None) -> Array:
        """Return y, (N, T, n_features)."""
        return self._compose(x, lambda z: self.attention(z, mask=mask), "__call__")

    def step(self, x: Array, cache: Any = None) -> tuple[Array, Any]:
        """See `Layer.step`; the cache is the attention's."""
        after: list[Any] = []

        def attend(z: Array) -> Array:
            y, found = self.attention.step(z, cache)
            after.append(found)
            return y

        return self._compose(x, attend, "__call__"), after[0]

    def forward(self, x: Array, *, mask: Array | None = None) -> Array:
        """Return y; every layer keeps what it needs."""

        def attend(z: Array) -> Array:
            a = self.attention.forward(z, mask=mask)
            return a if self.attention_dropout is None else self.attention_dropout.forward(a)

        y = self._compose(x, attend, "forward")
        self.keep(tuple(y.shape), y.dtype)
        return y

    def _compose(self, x: Array, attend: Any, method: str) -> Array:
        first, second, feed = (getattr(each, method) for each in (self.attention_norm, self.feed_norm, self.feed))
        if self.pre_norm:
            h = ops.add(x, attend(first(x)))
            return ops.add(h, feed(second(h)))
        h = first(ops.add(x, attend(x)))
        return second(ops.add(h, feed(h)))

    def backward(self, dy: Array, need_dx: bool = True) -> Array:
        """Return dx; every layer accumulates its gradients."""
        shape, dtype = self.kept()
        self.check_gradient(dy, shape, dtype, shape, dtype)
        if self.pre_norm:
            dh = ops.add(dy, self.feed_norm.backward(self.feed.backward(dy)))
            dx = self.attention_norm.backward(self._attention_backward(dh), need_dx)
            return ops.add(dh, dx) if need_dx else None
        dy = self.feed_norm.backward(dy)
        dy = self.attention_norm.backward(ops.add(dy, self.feed.backward(dy)))
        dx = self._attention_backward(dy, need_dx)
        return ops.add(dy, dx) if need_dx else None

    def _attention_backward(self, dy: Array, need_dx: bool = True) -> Array:
        if self.attention_dropout is not None:
            dy = self.attention_dropout.backward(dy)
        return self.attention.backward(dy, need_dx)

    def __repr__(self) -> str:
        return typed(self)
