"""NumPy bodies of the hot ops: few ufunc calls, each told where to write, prepared once and made again.

Every function here is a `bind`: it gets the place of the result and the arguments, and returns the calls. What calls
need beside them (ones to sum with, a mask) is made when it is bound. The rules that keep these equal in meaning to
their references:
- a masked derivative is selected, not multiplied: 0 * inf would be NaN. A float is and-ed with 0 or -1 instead;
- a one-hot row is a comparison with the class numbers: a label out of range matches nothing;
- an elementwise body may be told to write over its first argument.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bpnet import ops
from bpnet.dispatch import Call, Kernel
from bpnet.ops.losses import softmax_cross_entropy, softmax_cross_entropy_backward
from bpnet.ops.random import drop_threshold, keep_mask, keep_scale, philox

Array = Any

_SIGNED = {np.dtype("float32"): np.dtype("int32"), np.dtype("float64"): np.dtype("int64")}
_ONES: dict[tuple[int, np.dtype[Any]], Array] = {}


def ones(n: int, dtype: np.dtype[Any]) -> Array:
    """A read-only vector of ones, made once: `ones @ x` is the fastest column sum NumPy has."""
    found = _ONES.get((n, dtype))
    if found is None:
        found = _ONES[n, dtype] = np.ones(n, dtype)
        found.flags.writeable = False
    return found


def constant(value: float, dtype: np.dtype[Any]) -> Array:
    """A 0-d array: ufuncs take it several times faster than a Python number."""
    return np.asarray(value, dtype)


def floating(*arrays: Array) -> bool:
    """Whether all arrays are C-contiguous and of one dtype, float32 or float64."""
    dtype = arrays[0].dtype
    return dtype in _SIGNED and all(a.dtype is dtype and a.flags.c_contiguous for a in arrays)


def first_like(x: Array, *_: Any) -> Array:
    """Allocate an array like the first argument."""
    return np.empty_like(x)


def nothing(*_: Any) -> None:
    """Allocate nothing: the op writes into its arguments."""


# --- the affine map ---


def _linear_accepts(x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *_: Any) -> bool:
    return floating(x, W) and (b is None or b.dtype is x.dtype) and x.ndim > 1 and x.size > 0 and W.size > 0


@ops.linear.register_bound(
    np.ndarray, accepts=_linear_accepts, allocate=lambda x, W, *_: np.empty((*x.shape[:-1], W.shape[1]), x.dtype)
)
def _(out: Array, x: Array, W: Array, b: Array | None, activation: Kernel | None = None, *settings: Any) -> list[Call]:
    y = out.reshape(-1, W.shape[1])
    calls: list[Call] = [partial(np.dot, x.reshape(-1, W.shape[0]), W, y)]
    if b is not None:
        calls.append(partial(np.add, y, b, y))
    if activation is not None:
        calls += bound(activation, out, out, *settings)
    return calls


def _linear_backward_allocate(dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True) -> Any:
    return (
        np.empty(x.shape, dy.dtype) if need_dx else None,
        np.empty(W.shape, dy.dtype),
        np.empty(W.shape[1:], dy.dtype) if need_db else None,
    )


@ops.linear_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, x, W, *_: floating(dy, x, W) and dy.ndim > 1 and dy.size > 0 and x.size > 0,
    allocate=_linear_backward_allocate,
)
def _(out: Any, dy: Array, x: Array, W: Array, need_dx: bool = True, need_db: bool = True) -> list[Call]:
    dx, dW, db = out
    dy, x = dy.reshape(-1, W.shape[1]), x.reshape(-1, W.shape[0])
    calls: list[Call] = [partial(np.dot, x.T, dy, dW)]
    if db is not None:
        calls.append(partial(np.dot, ones(dy.shape[0], dy.dtype), dy, db))
    if dx is not None:
        calls.append(partial(np.dot, dy, W.T, dx.reshape(x.shape)))
    return calls


# --- activations ---


def bound(kernel: Kernel, out: Array, *args: Any) -> list[Call]:
    """The calls that write `kernel(*args)` to `out`."""
    variant = kernel.choose(args)
    if variant.bind is not None:
        return variant.bind(out, *args)
    return [partial(_copy_result, variant.body, out, args)]


def _copy_result(body: Any, out: Array, args: Any) -> None:
    out[...] = body(*args)


@ops.relu.register_bound(np.ndarray, accepts=lambda x: floating(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    return [partial(np.maximum, x, constant(0, x.dtype), out=out)]


@ops.relu_backward.register_bound(np.ndarray, accepts=lambda dy, y: floating(dy, y), allocate=first_like)
def _(out: Array, dy: Array, y: Array) -> list[Call]:
    signed = _SIGNED[dy.dtype]
    keep = np.empty(dy.shape, np.bool_)
    bits = keep.view(np.int8)
    return [
        partial(np.greater, y, constant(0, y.dtype), keep),
        partial(np.negative, bits, bits),  # True becomes -1, all bits set
        partial(np.bitwise_and, dy.view(signed), bits, out.view(signed)),
    ]


@ops.sigmoid.register_bound(np.ndarray, accepts=lambda x: floating(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    one, zero = constant(1, x.dtype), constant(0, x.dtype)
    e, top = np.empty_like(x), np.empty_like(x)
    return [
        partial(np.abs, x, e),
        partial(np.negative, e, e),
        partial(np.exp, e, e),
        partial(np.minimum, x, zero, out=top),
        partial(np.exp, top, top),  # 1 where x >= 0, exp(x) elsewhere
        partial(np.add, e, one, e),
        partial(np.divide, top, e, out),
    ]


@ops.sigmoid_backward.register_bound(np.ndarray, accepts=lambda dy, y: floating(dy, y), allocate=first_like)
def _(out: Array, dy: Array, y: Array) -> list[Call]:
    slope = np.empty_like(y)
    return [
        partial(np.subtract, constant(1, y.dtype), y, slope),
        partial(np.multiply, slope, y, slope),
        partial(np.multiply, dy, slope, out),
    ]


@ops.tanh.register_bound(np.ndarray, accepts=lambda x: floating(x), allocate=first_like)
def _(out: Array, x: Array) -> list[Call]:
    return [partial(np.tanh, x, out)]


@ops.tanh_backward.register_bound(np.ndarray, accepts=lambda dy, y: floating(dy, y), allocate=first_like)
def _(out: Array, dy: Array, y: Array) -> list[Call]:
    slope = np.empty_like(y)
    return [
        partial(np.multiply, y, y, slope),
        partial(np.subtract, constant(1, y.dtype), slope, slope),
        partial(np.multiply, dy, slope, out),
    ]


@ops.add.register_bound(np.ndarray, accepts=lambda x, y: floating(x, y) and x.shape == y.shape, allocate=first_like)
def _(out: Array, x: Array, y: Array) -> list[Call]:
    return [partial(np.add, x, y, out)]


# --- softmax with cross-entropy ---

SAFE_SPREAD = 60.0  # exp(-60) = 9e-27 is a normal float32 with room below it


@softmax_cross_entropy.register_bound(
    np.ndarray,
    accepts=lambda logits, labels, _: floating(logits) and logits.size > 0 and labels.flags.c_contiguous,
    allocate=lambda logits, *_: (np.empty((), logits.dtype), np.empty_like(logits)),
)
def _(out: Any, logits: Array, labels: Array, normalizer: float) -> list[Call]:
    loss, p = out
    n, c = logits.shape
    dtype = logits.dtype
    top, total = np.empty((n, 1), dtype), np.empty((n, 1), dtype)
    log_p, hit = np.empty_like(logits), np.empty((n, c), np.bool_)
    column, classes = labels.reshape(n, 1), np.arange(c, dtype=labels.dtype)
    row_sum = ones(c, dtype).reshape(c, 1)
    flat = logits.reshape(-1)
    peak = np.empty((), dtype)
    factor = -1 / normalizer

    def call() -> None:
        # Any shift common to a row cancels. The maximum of the whole batch serves where no exponent gets too small,
        # and costs a fraction of a maximum per row.
        np.maximum.reduce(flat, out=peak)
        if peak - np.minimum.reduce(flat) < SAFE_SPREAD:
            np.subtract(logits, peak, log_p)
        else:
            np.maximum.reduce(logits, axis=1, keepdims=True, out=top)
            np.subtract(logits, top, log_p)
        np.exp(log_p, p)
        np.dot(p, row_sum, total)
        np.divide(p, total, p)
        np.log(total, total)
        np.subtract(log_p, total, log_p)
        np.equal(column, classes, hit)
        np.multiply(np.add.reduce(log_p, axis=None, where=hit), factor, loss)

    return [call]


@softmax_cross_entropy_backward.register_bound(
    np.ndarray,
    accepts=lambda p, labels, *_: floating(p) and labels.flags.c_contiguous,
    allocate=first_like,
)
def _(out: Array, p: Array, labels: Array, normalizer: float, scale: float) -> list[Call]:
    n, c = p.shape
    hit = np.empty((n, c), np.bool_)
    return [
        partial(np.equal, labels.reshape(n, 1), np.arange(c, dtype=labels.dtype), hit),
        partial(np.subtract, p, hit, out),
        partial(np.multiply, out, constant(scale / normalizer, p.dtype), out),
    ]


# --- random bits ---


@philox.register(np.ndarray)
def _(counters: Array, index: int, key: tuple[int, int], n_words: int) -> Array:
    counter = np.array([0, counters[index], counters[0], 0], dtype=np.uint64)
    words = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter).random_raw(n_words)
    return np.asarray(words, dtype=np.uint64)


def _mask(keep: Array, counters: Array, index: int, key: tuple[int, int], rate: float) -> None:
    words = philox(counters, index, key, -(-keep.size // 4))
    bits = words.astype("<u8", copy=False).view("<u2")[: keep.size]
    np.greater_equal(bits, np.uint16(drop_threshold(rate)), keep.reshape(-1))


@keep_mask.register_bound(
    np.ndarray,
    accepts=lambda counters, index, key, shape, rate: drop_threshold(rate) < 65536,
    allocate=lambda counters, index, key, shape, rate: np.empty(shape, np.bool_),
)
def _(out: Array, counters: Array, index: int, key: tuple[int, int], shape: Any, rate: float) -> list[Call]:
    return [partial(_mask, out, counters, index, key, rate)]


def _select(keep: Array, x: Array, scale: float, out: Array) -> list[Call]:
    """out = where(keep, x * scale, 0), by bits: a dropped infinity is 0, not NaN."""
    signed = _SIGNED[x.dtype]
    bits = np.empty(keep.shape, np.int8)
    return [
        partial(np.multiply, x, constant(scale, x.dtype), out),
        partial(np.negative, keep.view(np.int8), bits),
        partial(np.bitwise_and, out.view(signed), bits, out.view(signed)),
    ]


@ops.dropout.register_bound(
    np.ndarray,
    accepts=lambda x, counters, index, key, rate: floating(x) and drop_threshold(rate) < 65536,
    allocate=lambda x, *_: (np.empty_like(x), np.empty(x.shape, np.bool_)),
)
def _(out: Any, x: Array, counters: Array, index: int, key: tuple[int, int], rate: float) -> list[Call]:
    y, keep = out
    return [partial(_mask, keep, counters, index, key, rate), *_select(keep, x, keep_scale(rate), y)]


@ops.dropout_backward.register_bound(
    np.ndarray,
    accepts=lambda dy, keep, rate: floating(dy) and keep.flags.c_contiguous and drop_threshold(rate) < 65536,
    allocate=first_like,
)
def _(out: Array, dy: Array, keep: Array, rate: float) -> list[Call]:
    return _select(keep, dy, keep_scale(rate), out)


# --- gradients, counters, updates ---


@ops.copy_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, target: Array, source: Array) -> list[Call]:
    return [partial(np.copyto, target, source)]


@ops.add_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, target: Array, source: Array) -> list[Call]:
    return [partial(np.add, target, source, target)]


@ops.check_finite_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, ok: Array, value: Array) -> list[Call]:
    def call() -> None:
        number = float(value)
        if number - number != 0.0:  # NaN for NaN and for an infinity
            ok[...] = False

    return [call]


@ops.advance_.register_bound(np.ndarray, allocate=nothing)
def _(_: None, counters: Array, ok: Array) -> list[Call]:
    rest = counters[1:]

    def call() -> None:
        if ok:
            counters[0] += 1
        rest.fill(0)

    return [call]


CHUNK = 16384  # elements: value, gradient, two slots and two temporaries stay in the second-level cache


def _chunks(*arrays: Array) -> list[tuple[Array, ...]]:
    size = arrays[0].size
    return [tuple(a[i : i + CHUNK] for a in arrays) for i in range(0, size, CHUNK)]


def _guarded(ok: Array, prepare: Any, calls: list[Call]) -> list[Call]:
    """One call that makes `calls` where `ok` holds, after `prepare()` has set this step's numbers."""

    def call() -> None:
        if ok:
            prepare()
            for each in calls:
                each()

    return [call]


def _one_dimensional(value: Array, grad: Array, *slots: Any) -> bool:
    return value.ndim == 1 and floating(value, grad, *(s for s in slots if isinstance(s, np.ndarray) and s.ndim))


@ops.sgd_.register_bound(np.ndarray, accepts=lambda value, grad, *_: _one_dimensional(value, grad), allocate=nothing)
def _(_: None, value: Array, grad: Array, ok: Array, learning_rate: Array, weight_decay: float) -> list[Call]:
    rate, decay = constant(0, value.dtype), constant(weight_decay, value.dtype)
    scratch = np.empty(min(CHUNK, value.size), value.dtype)
    calls: list[Call] = []
    for w, g in _chunks(value, grad):
        s = scratch[: w.size]
        if weight_decay:
            calls += [partial(np.multiply, w, decay, s), partial(np.add, s, g, s), partial(np.multiply, s, rate, s)]
        else:
            calls.append(partial(np.multiply, g, rate, s))
        calls.append(partial(np.subtract, w, s, w))
    return _guarded(ok, partial(np.copyto, rate, learning_rate, "same_kind"), calls)


@ops.sgd_momentum_.register_bound(
    np.ndarray,
    accepts=lambda value, grad, velocity, *_: _one_dimensional(value, grad, velocity),
    allocate=nothing,
)
def _(
    _: None,
    value: Array,
    grad: Array,
    velocity: Array,
    ok: Array,
    learning_rate: Array,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
) -> list[Call]:
    dtype = value.dtype
    rate, decay, mu = constant(0, dtype), constant(weight_decay, dtype), constant(momentum, dtype)
    scratch, other = np.empty((2, min(CHUNK, value.size)), dtype)
    calls: list[Call] = []
    for w, gradient, v in _chunks(value, grad, velocity):
        s, g = scratch[: w.size], gradient
        if weight_decay:
            g = other[: w.size]
            calls += [partial(np.multiply, w, decay, g), partial(np.add, g, gradient, g)]
        calls += [partial(np.multiply, v, mu, v), partial(np.add, v, g, v)]
        if nesterov:
            calls += [partial(np.multiply, v, mu, s), partial(np.add, s, g, s), partial(np.multiply, s, rate, s)]
        else:
            calls.append(partial(np.multiply, v, rate, s))
        calls.append(partial(np.subtract, w, s, w))
    return _guarded(ok, partial(np.copyto, rate, learning_rate, "same_kind"), calls)


@ops.adam_.register_bound(
    np.ndarray,
    accepts=lambda value, grad, m, v, *_: _one_dimensional(value, grad, m, v),
    allocate=nothing,
)
def _(
    _: None,
    value: Array,
    grad: Array,
    m: Array,
    v: Array,
    ok: Array,
    learning_rate: Array,
    counters: Array,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> list[Call]:
    dtype = value.dtype
    factor, floor, keep = (constant(0, dtype) for _ in range(3))
    rest1, rest2 = constant(1 - beta1, dtype), constant(1 - beta2, dtype)
    scratch = np.empty(min(CHUNK, value.size), dtype)
    calls: list[Call] = []
    for w, g, m1, v1 in _chunks(value, grad, m, v):
        s = scratch[: w.size]
        calls += [
            partial(np.subtract, g, m1, s),
            partial(np.multiply, s, rest1, s),
            partial(np.add, m1, s, m1),
            partial(np.multiply, g, g, s),
            partial(np.subtract, s, v1, s),
            partial(np.multiply, s, rest2, s),
            partial(np.add, v1, s, v1),
            partial(np.sqrt, v1, s),
            partial(np.add, s, floor, s),
            partial(np.divide, m1, s, s),
            partial(np.multiply, s, factor, s),
        ]
        if weight_decay:
            calls.append(partial(np.multiply, w, keep, w))
        calls.append(partial(np.subtract, w, s, w))

    def prepare() -> None:
        t = int(counters[0]) + 1
        rate = float(learning_rate)
        c = (1 - beta2**t) ** 0.5
        factor[...] = rate * c / (1 - beta1**t)
        floor[...] = epsilon * c
        keep[...] = 1 - rate * weight_decay

    return _guarded(ok, prepare, calls)
