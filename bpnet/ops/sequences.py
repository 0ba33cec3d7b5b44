"""What sequences are made of: rows of a table by number, positions, and products and transposes over leading axes."""

from __future__ import annotations

import math
from typing import Any

from bpnet.dispatch import Array, kernel, namespace
from bpnet.ops.costs import n_rows, size

ONE_HOT = 1 << 22  # elements of the one-hot rows that are made at a time


def _flat(ids: Array) -> Array:
    xp = namespace(ids)
    return xp.reshape(xp.astype(ids, xp.int64), (math.prod(ids.shape),))


@kernel(flops=0)
def embedding(ids: Array, W: Array) -> Array:
    """The rows of W that `ids` name: onehot(ids) W. An id outside 0 ... V - 1 names none, and gives zeros.

    ids : (...) integer; W : (V, D). Returns (..., D).
    """
    xp = namespace(W)
    flat = _flat(ids)
    named = (flat >= 0) & (flat < W.shape[0])
    found = xp.take(W, xp.where(named, flat, 0), axis=0)
    return xp.reshape(xp.where(named[:, None], found, 0), (*ids.shape, W.shape[1]))


@kernel(flops=lambda dy, ids, n_tokens: 2 * n_tokens * size(dy))
def embedding_backward(dy: Array, ids: Array, n_tokens: int) -> Array:
    """Return dW = onehot(ids)^T dy: row v is the sum of dy over the places where the id is v.

    dy : (..., D); ids : (...). As products with one-hot rows, some tokens at a time: the sums are taken in one order
    on every device, as scattered additions are not. Returns (V, D).
    """
    xp = namespace(dy)
    flat = _flat(ids)
    rows = xp.reshape(dy, (flat.shape[0], dy.shape[-1]))
    step = max(1, ONE_HOT // max(1, flat.shape[0]))
    parts = []
    for start in range(0, n_tokens, step):
        tokens = xp.arange(start, min(start + step, n_tokens), dtype=xp.int64, device=ids.device)
        parts.append(xp.astype(tokens[:, None] == flat[None, :], dy.dtype) @ rows)
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)


@kernel(flops=lambda x, W: 2 * size(x) * int(W.shape[0]))
def unembed(x: Array, W: Array) -> Array:
    """y = x W^T: every row's scores against the rows of a table. x : (..., D); W : (V, D). Returns (..., V)."""
    xp = namespace(x)
    y = xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1])) @ W.T
    return xp.reshape(y, (*x.shape[:-1], W.shape[0]))


def _unembed_backward_flops(dy: Array, x: Array, W: Array, need_dx: bool = True, need_dW: bool = True) -> int:
    return 2 * size(x) * int(W.shape[0]) * (bool(need_dx) + bool(need_dW))


def _unembed_backward_unread(
    dy: Array, x: Array, W: Array, need_dx: bool = True, need_dW: bool = True
) -> tuple[int, ...]:
    return (*(() if need_dW else (1,)), *(() if need_dx else (2,)))


@kernel(flops=_unembed_backward_flops, unread=_unembed_backward_unread)
def unembed_backward(
    dy: Array, x: Array, W: Array, need_dx: bool = True, need_dW: bool = True
) -> tuple[Array | None, Array | None]:
    """dx = dy W and dW = dy^T x over all leading axes; each is None where it is not needed."""
    xp = namespace(dy)
    rows = xp.reshape(dy, (math.prod(dy.shape[:-1]), dy.shape[-1]))
    dx = xp.reshape(rows @ W, x.shape) if need_dx else None
    return dx, rows.T @ xp.reshape(x, (rows.shape[0], x.shape[-1])) if need_dW else None


@kernel(flops=lambda x, y: 2 * size(x) * int(y.shape[-1]))
def matmul(x: Array, y: Array) -> Array:
    """Return x y, a matrix product for every index of the leading axes. x : (..., M, K); y : (..., K, P)."""
    return namespace(x).matmul(x, y)


@kernel(flops=lambda dz, x, y: 4 * size(x) * int(y.shape[-1]))
def matmul_backward(dz: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """dx = dz y^T and dy = x^T dz, for every index of the leading axes, which x and y share."""
    xp = namespace(dz)
    return xp.matmul(dz, xp.matrix_transpose(y)), xp.matmul(xp.matrix_transpose(x), dz)


@kernel(view=True, flops=0)
def columns(x: Array, start: int, stop: int) -> Array:
    """Columns start ... stop - 1 of the last axis of `x`, sharing memory where that is possible."""
    return x[..., start:stop]


@kernel(elementwise=True, flops=1)
def add_positions(x: Array, table: Array, start: int) -> Array:
    """Return x[..., t, :] + table[start + t, :]. x : (..., T, D); table : (L, D), L at least start + T."""
    return x + table[start : start + x.shape[-2], :]


@kernel(flops=1)
def add_positions_backward(dy: Array, n_positions: int) -> Array:
    """dtable = sum of dy over all but the last two axes, and 0 at positions that were not there; dx is dy itself.

    dy : (..., T, D). Returns (n_positions, D).
    """
    xp = namespace(dy)
    length, width = dy.shape[-2:]
    summed = xp.sum(xp.reshape(dy, (math.prod(dy.shape[:-2]), length, width)), axis=0)
    rest = xp.zeros((n_positions - length, width), dtype=dy.dtype, device=dy.device)
    return xp.concat((summed, rest), axis=0)


def angles(xp: Any, start: int, length: int, n: int, base: float, device: Any) -> Array:
    """(length, n) float64: position times base^(-i / n), the angle of each of n pairs."""
    positions = xp.arange(start, start + length, dtype=xp.float64, device=device)
    speeds = xp.exp(xp.arange(n, dtype=xp.float64, device=device) * (-math.log(base) / n))
    return positions[:, None] * speeds[None, :]


def _add_sinusoid_flops(x: Array, start: int) -> int:
    length, width = map(int, x.shape[-2:])
    return size(x) + 3 * length * (width // 2) + 2 * (width // 2)


@kernel(elementwise=True, flops=_add_sinusoid_flops)
def add_sinusoid(x: Array, start: int) -> Array:
    """Add sin(p / 10000^(2 i / D)) to feature 2 i, the cosine of that to 2 i + 1, p = start + t. dx is dy itself.

    x : (..., T, D), D even. [Vaswani et al. 2017, sec. 3.5]
    """
    xp = namespace(x)
    length, width = x.shape[-2:]
    found = angles(xp, start, length, width // 2, 1e4, x.device)
    table = xp.reshape(xp.stack((xp.sin(found), xp.cos(found)), axis=-1), (length, width))
    return x + xp.astype(table, x.dtype)


def _rotate_flops(x: Array, head_size: int, n_columns: int, base: float, start: int, direction: float) -> int:
    half = head_size // 2
    return 4 * int(x.shape[-2]) * half + 2 * half + 3 * n_rows(x) * n_columns


@kernel(flops=_rotate_flops)
def rotate(x: Array, head_size: int, n_columns: int, base: float, start: int, direction: float) -> Array:
    """Turn each pair of features (i, i + head_size / 2) of each head by direction * p / base^(2 i / head_size).

    x : (..., T, W), whose first `n_columns` are heads of `head_size` features each, head_size even; the others stay.
    p = start + t. A turn keeps lengths and its derivative is the turn back: dx = rotate(dy, ..., -direction).
    [Su et al. 2021; the pairing of GPT-NeoX and Llama]
    """
    xp = namespace(x)
    length, half = x.shape[-2], head_size // 2
    found = angles(xp, start, length, half, base, x.device)
    cos, sin = xp.astype(xp.cos(found), x.dtype)[:, None, :], direction * xp.astype(xp.sin(found), x.dtype)[:, None, :]
    heads = xp.reshape(x[..., :n_columns], (*x.shape[:-1], n_columns // head_size, head_size))
    a, b = heads[..., :half], heads[..., half:]
    turned = xp.reshape(xp.concat((a * cos - b * sin, a * sin + b * cos), axis=-1), (*x.shape[:-1], n_columns))
    return turned if n_columns == x.shape[-1] else xp.concat((turned, x[..., n_columns:]), axis=-1)
