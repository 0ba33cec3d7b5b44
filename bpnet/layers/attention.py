"""Attention of several heads: of a sequence to itself, or to another one."""

from __future__ import annotations

from typing import Any

from bpnet import ops
from bpnet.backend import type_name
from bpnet.checks import flag
from bpnet.dispatch import Array, Kernel, dtype_name
from bpnet.errors import ConfigError, DTypeError, ShapeError, StateError
from bpnet.initializers import Initializer
from bpnet.layers.base import Layer
from bpnet.layers.dense import Dense
from bpnet.layers.positions import check_sequence
from bpnet.layers.tree import as_size, is_number, typed
from bpnet.parameter import Stream


class MultiHeadAttention(Layer):
    """Every position of x takes a mean of values, weighted by how its query matches their keys. [Vaswani et al. 2017]

    n_features : the width D of x and y; n_heads : divides it, and each head has d = D / n_heads features
    causal     : whether a position sees only itself and those before
    n_context  : the width of a second input, to which x then attends; None: x attends to itself
    dropout    : the probability in [0, 1) that a weight of the mean is dropped in training
    bias       : whether the products have one
    rotary     : None, or the base of rotary positions, usually 10000: queries and keys are turned by their positions
    weight_initializer : of all products
    x, y : (N, T, D); context : (N, S, n_context)

    q, k, v are products of x (of the context: k, v), made as one, `qkv` (or `query`, and `key_value`). For each head
    P = softmax(q k^T / sqrt(d)) and a = P v; y is the product `output` of all heads' a side by side. With da from
    `output`: dv = P^T da, dP = da v^T, dS = P (dP - sum_j P_j dP_j), dq = dS k / sqrt(d), dk = dS^T q / sqrt(d).

    mask : by keyword, (N, T), or (N, S) of a context, bool: True where there is a token, False where there is padding,
           which nobody then sees. A position that sees nothing gets a = 0. The output at padding has no meaning: let
           the loss ignore it.
    `step` continues causal sequences from a cache of their keys and values.
    """

    computes_in_bf16 = True

    def __init__(
        self,
        n_features: int,
        n_heads: int,
        *,
        causal: bool = False,
        n_context: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        rotary: float | None = None,
        weight_initializer: Initializer | str = "lecun_normal",
    ) -> None:
        self.n_features, self.n_heads = as_size(n_features), as_size(n_heads)
        if not (self.n_features and self.n_heads) or self.n_features % self.n_heads:
            raise ConfigError(
                "MultiHeadAttention needs a number of heads that divides the features, whole numbers of at least 1: "
                f"got {n_heads!r} heads and {n_features!r} features"
            )
        self.n_context = None if n_context is None else as_size(n_context)
        if self.n_context == 0:
            raise ConfigError(f"MultiHeadAttention: n_context must be a whole number of at least 1, got {n_context!r}")
        self.causal = flag("MultiHeadAttention: causal", causal)
        if self.causal and self.n_context is not None:
            raise ConfigError(
                "MultiHeadAttention: causal is for a sequence that attends to itself; leave n_context out"
            )
        self.rotary = self._checked_rotary(rotary)
        flag("MultiHeadAttention: bias", bias)
        self.dropout = dropout
        made: dict[str, Any] = {"bias": bias, "weight_initializer": weight_initializer}
        width = self.n_features
        if self.n_context is None:
            self.qkv = Dense(width, 3 * width, **made)
        else:
            self.query = Dense(width, width, **made)
            self.key_value = Dense(self.n_context, 2 * width, **made)
        self.output = Dense(width, width, **made)
        self.stream = Stream() if self.dropout else None

    def _checked_rotary(self, rotary: Any) -> float | None:
        if rotary is None:
            return None
        if not is_number(rotary) or not 1 < rotary < float("inf"):
            raise ConfigError(f"MultiHeadAttention: rotary must be None or a base above 1, as 10000, got {rotary!r}")
        if self.n_context is not None:
            raise ConfigError(
                "MultiHeadAttention: rotary is for a sequence that attends to itself; leave n_context out"
            )
        if self.head_size % 2:
            raise ConfigError(
                f"MultiHeadAttention: rotary turns pairs of features, and a head has {self.head_size}; choose heads "
                "of an even size"
            )
        return float(rotary)

    @property
    def dropout(self) -> float:
        """The probability of a dropped weight; may be set at any time where it was above 0 from the start."""
        return self._dropout

    @dropout.setter
    def dropout(self, rate: float) -> None:
        if not is_number(rate) or not 0 <= rate < 1:
            raise ConfigError(f"MultiHeadAttention: dropout must be in [0, 1), got {rate!r}")
        if rate and vars(self).get("stream", self) is None:
            raise ConfigError("MultiHeadAttention: made without dropout, it has no random stream; make it with dropout")
        self._dropout = min(float(rate), 65535 / 65536)

    @property
    def head_size(self) -> int:
        """The number of features of a head."""
        return self.n_features // self.n_heads

    @property
    def can_step(self) -> bool:
        """Whether it is causal: else outputs depend on positions to come."""
        return self.causal

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The input's."""
        x = self.blank(input_shape)
        check_sequence(self, x, self.n_features)
        self.output.check_input(x, self.n_features, self.output.weight.value)
        return input_shape

    # --- checks ---

    def _check(self, x: Array, context: Array | None, mask: Array | None) -> None:
        check_sequence(self, x, self.n_features)
        if (context is None) != (self.n_context is None):
            takes = (
                "a second input, the context" if context is None else "one input; give it n_context to take a second"
            )
            raise ShapeError(f"{self!r} takes {takes}")
        if context is not None:
            shape = tuple(getattr(context, "shape", ()))
            if len(shape) != 3 or shape[0] != x.shape[0] or shape[2] != self.n_context or not shape[1]:
                raise ShapeError(
                    f"{self!r} needs a context of shape ({x.shape[0]}, S, {self.n_context}), S at least 1, got {shape}"
                )
        if mask is not None:
            self._check_mask(x, mask, x.shape[1] if context is None else context.shape[1])

    def _check_mask(self, x: Array, mask: Array, n_keys: int) -> None:
        if not isinstance(mask, type(x)):
            raise DTypeError(f"{self!r} needs a mask of {type_name(x)}, got {type_name(mask)}; use model.asarray(mask)")
        if dtype_name(mask.dtype) != "bool":
            raise DTypeError(
                f"{self!r} needs a mask of truth values, True where there is a token, got {dtype_name(mask.dtype)}"
            )
        if tuple(mask.shape) != (x.shape[0], n_keys):
            raise ShapeError(f"{self!r} needs a mask of shape {(x.shape[0], n_keys)}, got {tuple(mask.shape)}")

    # --- inference ---

    def __call__(self, x: Array, context: Array | None = None, *, mask: Array | None = None) -> Array:
        """Return y, (N, T, D)."""
        self._check(x, context, mask)
        if context is None:
            (qkv,) = self._factors(self._turned(self.qkv(x), 0))
            a, _ = self._self_attention(qkv, mask, None, self.n_heads, self.causal, 0.0)
        else:
            q, kv = self._factors(self.query(x), self.key_value(context))
            a, _ = self._attention(q, *self._halves(kv), mask, None, self.n_heads, False, 0.0)
        return self.output(a)

    def step(self, x: Array, cache: Any = None) -> tuple[Array, Any]:
        """See `Layer.step`; the cache is (k, v), each (N, positions before, D)."""
        if not self.causal:
            raise StateError(f"{self!r} has no step: it is not causal, so its outputs depend on positions to come")
        check_sequence(self, x, self.n_features)
        width = self.n_features
        start = 0 if cache is None else cache[0].shape[1]
        qkv = self._turned(self.qkv(x), start)
        q, k, v = (ops.columns(qkv, i * width, (i + 1) * width) for i in range(3))
        if cache is not None:
            if cache[0].shape[0] != x.shape[0]:
                raise ShapeError(
                    f"{self!r} got a cache of {cache[0].shape[0]} sequences and x of shape {tuple(x.shape)}"
                )
            k, v = ops.concatenate((cache[0], k), 1), ops.concatenate((cache[1], v), 1)
        a, _ = self._attention(*self._factors(q, k, v), None, None, self.n_heads, True, 0.0)
        return self.output(a), (k, v)

    @property
    def _in_bf16(self) -> bool:
        return self.output.weight.compute is not None

    @property
    def _attention(self) -> Kernel:
        return ops.attention_bf16 if self._in_bf16 else ops.attention

    @property
    def _self_attention(self) -> Kernel:
        return ops.self_attention_bf16 if self._in_bf16 else ops.self_attention

    def _factors(self, *arrays: Array) -> tuple[Array, ...]:
        """Queries, keys and values as the products take them: rounded to bfloat16 where they are computed so."""
        return tuple(ops.to_bf16(each) for each in arrays) if self._in_bf16 else arrays

    def _turned(self, qkv: Array, start: int, direction: float = 1.0) -> Array:
        """Queries and keys turned by their positions, values as they are."""
        if self.rotary is None:
            return qkv
        return ops.rotate(qkv, self.head_size, 2 * self.n_features, self.rotary, start, direction)

    def _halves(self, kv: Array) -> tuple[Array, Array]:
        width = self.n_features
        return ops.columns(kv, 0, width), ops.columns(kv, width, 2 * width)

    # --- training ---

    def forward(self, x: Array, context: Array | None = None, *, mask: Array | None = None) -> Array:
        """Return y; keep q, k, v, the heads' a, and P or what it is made of again."""
        self._check(x, context, mask)
        n_keys = x.shape[1] if context is None else context.shape[1]
        keep = None
        if self.stream is not None and self.dropout:
            shape = (x.shape[0], self.n_heads, x.shape[1], n_keys)
            keep = ops.keep_mask(*self.stream.source, shape, self.dropout)
        if context is None:
            given = self._factors(self._turned(self.qkv.forward(x), 0))
            a, kept = self._self_attention(*given, mask, keep, self.n_heads, self.causal, self.dropout)
        else:
            q, kv = self._factors(self.query.forward(x), self.key_value.forward(context))
            given = (q, *self._halves(kv))
            a, kept = self._attention(*given, mask, keep, self.n_heads, False, self.dropout)
        y = self.output.forward(a)
        self.keep(given, a, kept, mask, keep, self.dropout, tuple(y.shape), y.dtype)
        return y

    def backward(self, dy: Array, need_dx: bool = True) -> Any:
        """Return dx, or (dx, dcontext) where there is a context (None where they are not needed).

        Accumulates the gradients of the products.
        """
        values = self.kept()
        given, a, kept, mask, keep, rate, shape, dtype = values
        self.check_gradient(dy, shape, dtype, *values)
        if self.stream is not None:
            self.stream.commit()
        if not (need_dx or any(p.trainable for p in self._before_heads())):
            self.output.backward(dy, need_dx=False)
            return None
        da = self.output.backward(dy)
        in_bf16 = given[0].dtype != dtype  # as its forward was, whatever has been set since
        if self.n_context is None:
            kernel = ops.self_attention_bf16_backward if in_bf16 else ops.self_attention_backward
            dqkv = kernel(da, a, *given, kept, mask, keep, self.n_heads, self.causal, rate)
            return self.qkv.backward(self._turned(dqkv, 0, -1.0), need_dx)
        kernel = ops.attention_bf16_backward if in_bf16 else ops.attention_backward
        dq, dk, dv = kernel(da, a, *given, kept, mask, keep, self.n_heads, False, rate)
        dkv = ops.concatenate((dk, dv), -1)
        found = self.query.backward(dq, need_dx), self.key_value.backward(dkv, need_dx)
        return found if need_dx else None

    def _before_heads(self) -> list[Any]:
        layers = (self.qkv,) if self.n_context is None else (self.query, self.key_value)
        return [parameter for layer in layers for parameter in layer.parameters().values()]

    def __repr__(self) -> str:
        return typed(self)
