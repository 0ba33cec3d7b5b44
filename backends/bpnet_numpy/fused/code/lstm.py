"""The LSTM over a whole sequence, for some of its samples: what a step needs stays in the cache.

Before it stands x W of all positions, behind it the products of all positions' gradients. Sequences are (N, T, ...),
and so are their products with W: a step's rows are T apart. What is kept is (T, 4, N, H) and (T, N, H).
Short loops over few arrays each become SIMD instructions.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.elementwise import _sigmoid, _tanh
from bpnet_numpy.fused.code.intrinsics import FLAGS, matrix_product, real, vector, word, words

AS_IT_IS, TRANSPOSED = 111, 112
SMALL = 100**3


@njit(**FLAGS)
def _by_columns(
    p: Any, gemm: Any, wide: Any, tb: Any, m: Any, n: Any, k: Any, a: Any, lda: Any, b: Any, ldb: Any, beta: Any,
    c: Any, ldc: Any, item: Any,
) -> None:  # fmt: skip
    """c = a b + beta c, so many columns at a time that OpenBLAS multiplies without packing b, which would take as long
    as the product of few rows. [OpenBLAS, interface/gemm.c: small matrices are of up to 100^3 multiplications]"""
    step = SMALL // (m * k) // 16 * 16
    step = n if step < 16 else min(n, step)
    for j in range(0, n, step):
        right = b + item * (j if tb == AS_IT_IS else j * ldb)
        columns = min(step, n - j)
        matrix_product(
            p, gemm, wide, AS_IT_IS, tb, m, columns, k, real(p, 1), a, lda, right, ldb, beta, c + item * j, ldc
        )


@njit(**FLAGS)
def _copy(to: Any, source: Any) -> None:
    for j in range(to.size):
        to[j] = source[j]


@njit(**FLAGS)
def _activate(p: Any, z: Any, b: Any, width: Any) -> None:
    """The gates i, f, g, o of a row, in its place."""
    for j in range(2 * width):
        z[j] = _sigmoid(p, z[j] + b[j])
    for j in range(2 * width, 3 * width):
        z[j] = _tanh(p, z[j] + b[j])
    for j in range(3 * width, 4 * width):
        z[j] = _sigmoid(p, z[j] + b[j])


def lstm(p: Any) -> None:
    """Words: y, gates, cells, z, U, b, these samples, all samples, T, H, whether from the last position to the first,
    gemm, bits of its sizes, bytes of a number. z : x W, which becomes the gates"""
    a = words(p)
    samples, n, steps, width, item = word(a, 6), word(a, 7), word(a, 8), word(a, 9), word(a, 13)
    backwards = word(a, 10) != 0
    b, one = vector(p, word(a, 5), 4 * width), real(p, 1)
    before = 0
    for step in range(steps):
        t = steps - 1 - step if backwards else step
        z_t = word(a, 3) + item * t * 4 * width
        if step > 0:
            _by_columns(
                p, word(a, 11), word(a, 12), AS_IT_IS, samples, 4 * width, width, word(a, 0) + item * before * width,
                steps * width, word(a, 4), 4 * width, one, z_t, steps * 4 * width, item,
            )  # fmt: skip
        for s in range(samples):
            z = vector(p, z_t + item * s * steps * 4 * width, 4 * width)
            _activate(p, z, b, width)
            for g in range(4):
                kept = vector(p, word(a, 1) + item * ((4 * t + g) * n + s) * width, width)
                _copy(kept, z[(0, 1, 3, 2)[g] * width : ((0, 1, 3, 2)[g] + 1) * width])
            c = vector(p, word(a, 2) + item * (t * n + s) * width, width)
            for j in range(width):
                c[j] = z[j] * z[2 * width + j]
            if step > 0:
                earlier = vector(p, word(a, 2) + item * (before * n + s) * width, width)
                for j in range(width):
                    c[j] += z[width + j] * earlier[j]
            h = vector(p, word(a, 0) + item * (s * steps + t) * width, width)
            for j in range(width):
                h[j] = z[3 * width + j] * _tanh(p, c[j])
        before = t


def lstm_backward(p: Any) -> None:
    """Words: dz, states before or 0, dy, y, gates, cells, U, scratch, these samples, all samples, T, H, whether the
    sequence is made from its last position, gemm, bits of its sizes, bytes of a number. scratch : dh, dc, and a row"""
    a = words(p)
    samples, n, steps, width, item = word(a, 8), word(a, 9), word(a, 10), word(a, 11), word(a, 15)
    backwards = word(a, 12) != 0
    one, zero = real(p, 1), real(p, 0)
    scratch = vector(p, word(a, 7), (2 * samples + 1) * width)
    for j in range(scratch.size):
        scratch[j] = zero
    dhs = word(a, 7)
    dcs = dhs + item * samples * width
    s_t = vector(p, dcs + item * samples * width, width)
    for step in range(steps):
        last = step == steps - 1
        t = step if backwards else steps - 1 - step
        before = t + 1 if backwards else t - 1
        for s in range(samples):
            dh, dc = vector(p, dhs + item * s * width, width), vector(p, dcs + item * s * width, width)
            place = item * (s * steps + t) * width
            dz, dy = vector(p, word(a, 0) + 4 * place, 4 * width), vector(p, word(a, 2) + place, width)
            i = vector(p, word(a, 4) + item * ((4 * t) * n + s) * width, width)
            f = vector(p, word(a, 4) + item * ((4 * t + 1) * n + s) * width, width)
            o = vector(p, word(a, 4) + item * ((4 * t + 2) * n + s) * width, width)
            g = vector(p, word(a, 4) + item * ((4 * t + 3) * n + s) * width, width)
            c = vector(p, word(a, 5) + item * (t * n + s) * width, width)
            for j in range(width):
                s_t[j] = _tanh(p, c[j])
            for j in range(width):
                dh[j] += dy[j]
            for j in range(width):
                dc[j] += dh[j] * o[j] * (one - s_t[j] * s_t[j])
            for j in range(width):
                dz[j] = dc[j] * g[j] * (i[j] * (one - i[j]))
            if last:
                for j in range(width):
                    dz[width + j] = zero
            else:
                earlier = vector(p, word(a, 5) + item * (before * n + s) * width, width)
                for j in range(width):
                    dz[width + j] = dc[j] * earlier[j] * (f[j] * (one - f[j]))
            for j in range(width):
                dz[2 * width + j] = dc[j] * i[j] * (one - g[j] * g[j])
            for j in range(width):
                dz[3 * width + j] = dh[j] * s_t[j] * (o[j] * (one - o[j]))
            for j in range(width):
                dc[j] *= f[j]
            if word(a, 1) != 0:
                state = vector(p, word(a, 1) + place, width)
                if last:
                    for j in range(width):
                        state[j] = zero
                else:
                    _copy(state, vector(p, word(a, 3) + item * (s * steps + before) * width, width))
        if not last:
            _by_columns(
                p, word(a, 13), word(a, 14), TRANSPOSED, samples, width, 4 * width, word(a, 0) + item * t * 4 * width,
                steps * 4 * width, word(a, 6), 4 * width, zero, dhs, width, item,
            )  # fmt: skip
