"""The LSTM over a whole sequence, for some of its samples: what a step needs stays in the cache.

Before it stands x W of all positions, behind it the products of all positions' gradients. Sequences are (N, T, ...),
and so are their products with W: a step's rows are T apart. What is kept is (T, 4, N, H) and (T, N, H).
Short loops over few arrays each become SIMD instructions.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.elementwise import _sigmoid, _tanh
from bpnet_numpy.fused.code.intrinsics import FLAGS, real, vector, word, words
from bpnet_numpy.fused.code.recurrent import step_product


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
    """Words: y, gates, cells, z, U, b, tables, scratch, these samples, all samples, T, H, whether from the last position
    to the first, gemm, bits of its sizes, bytes of a number. z : x W, which becomes the gates; scratch : states and
    their products"""
    a = words(p)
    samples, n, steps, width, item = word(a, 8), word(a, 9), word(a, 10), word(a, 11), word(a, 15)
    backwards = word(a, 12) != 0
    b, states = vector(p, word(a, 5), 4 * width), word(a, 7)
    products = states + item * samples * width
    before = 0
    for step in range(steps):
        t = steps - 1 - step if backwards else step
        if step > 0:
            step_product(
                p, word(a, 13), word(a, 14), word(a, 6), samples, 4 * width, width, states, word(a, 4), products, item
            )
        for s in range(samples):
            z = vector(p, word(a, 3) + item * (s * steps + t) * 4 * width, 4 * width)
            if step > 0:
                more = vector(p, products + item * s * 4 * width, 4 * width)
                for j in range(4 * width):
                    z[j] += more[j]
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
            _copy(vector(p, states + item * s * width, width), h)
        before = t


def lstm_backward(p: Any) -> None:
    """Words: dz, states before or 0, dy, y, gates, cells, U^T, tables, scratch, these samples, all samples, T, H, whether
    the sequence is made from its last position, gemm, bits of its sizes, bytes of a number. scratch : dh, dc, dz of a
    step, and a row"""
    a = words(p)
    samples, n, steps, width, item = word(a, 9), word(a, 10), word(a, 11), word(a, 12), word(a, 16)
    backwards = word(a, 13) != 0
    one, zero = real(p, 1), real(p, 0)
    scratch = vector(p, word(a, 8), 2 * samples * width)
    for j in range(scratch.size):
        scratch[j] = zero
    dhs = word(a, 8)
    dcs = dhs + item * samples * width
    dzs = dcs + item * samples * width
    s_t = vector(p, dzs + item * 4 * samples * width, width)
    for step in range(steps):
        last = step == steps - 1
        t = step if backwards else steps - 1 - step
        before = t + 1 if backwards else t - 1
        for s in range(samples):
            dh, dc = vector(p, dhs + item * s * width, width), vector(p, dcs + item * s * width, width)
            place = item * (s * steps + t) * width
            dz, dy = vector(p, dzs + item * s * 4 * width, 4 * width), vector(p, word(a, 2) + place, width)
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
            _copy(vector(p, word(a, 0) + 4 * place, 4 * width), dz)
            if word(a, 1) != 0:
                state = vector(p, word(a, 1) + place, width)
                if last:
                    for j in range(width):
                        state[j] = zero
                else:
                    _copy(state, vector(p, word(a, 3) + item * (s * steps + before) * width, width))
        if not last:
            step_product(
                p, word(a, 14), word(a, 15), word(a, 7), samples, width, 4 * width, dzs, word(a, 6), dhs, item
            )
