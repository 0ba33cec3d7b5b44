"""Convolutions of some samples: what the windows of some rows of places see is gathered where it stays in the cache,
multiplied there, and what follows is done before the next rows.

A window is twelve words, as in `images`. What is gathered lies in rows, a place after the other, or in columns, an
element of the window after the other, where its rows would be copies of a few numbers.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.intrinsics import (
    AS_IT_IS,
    FLAGS,
    TRANSPOSED,
    matrix,
    matrix_product,
    real,
    vector,
    word,
    words,
)


@njit(**FLAGS)
def _gather_rows(p: Any, a: Any, at: Any, image: Any, to: Any, first: Any, last: Any, c: Any) -> None:
    """What the windows see at the places of rows first ... last - 1: (places, KH KW C). at : where a window begins"""
    height, width, columns = word(a, at), word(a, at + 1), word(a, at + 3)
    kh, kw, sh, sw, dh, dw = (
        word(a, at + 4), word(a, at + 5), word(a, at + 6), word(a, at + 7), word(a, at + 8), word(a, at + 9),
    )  # fmt: skip
    top, left = word(a, at + 10), word(a, at + 11)
    run = kw * c
    for r in range(first, last):
        for q in range(columns):
            place = ((r - first) * columns + q) * kh * run
            z = q * sw - left
            for i in range(kh):
                y = r * sh + i * dh - top
                start = place + i * run
                if dw == 1 and 0 <= y < height and z >= 0 and z + kw <= width:
                    source = (y * width + z) * c
                    for k in range(run):
                        to[start + k] = image[source + k]
                    continue
                for j in range(kw):
                    x = z + j * dw
                    inside = 0 <= y < height and 0 <= x < width
                    source = (y * width + x) * c if inside else 0
                    for k in range(c):
                        to[start + j * c + k] = image[source + k] if inside else real(p, 0)


@njit(**FLAGS)
def _gather_columns(p: Any, a: Any, at: Any, image: Any, to: Any, first: Any, last: Any, c: Any) -> None:
    """The same as (KH KW C, places)."""
    height, width, columns = word(a, at), word(a, at + 1), word(a, at + 3)
    kh, kw, sh, sw, dh, dw = (
        word(a, at + 4), word(a, at + 5), word(a, at + 6), word(a, at + 7), word(a, at + 8), word(a, at + 9),
    )  # fmt: skip
    top, left = word(a, at + 10), word(a, at + 11)
    places = (last - first) * columns
    for i in range(kh):
        for j in range(kw):
            shift = j * dw - left
            low = min(columns, max(0, (-shift + sw - 1) // sw))  # the first place whose column is in the image
            high = max(low, min(columns, (width - 1 - shift) // sw + 1))
            for k in range(c):
                for r in range(first, last):
                    y = r * sh + i * dh - top
                    start = ((i * kw + j) * c + k) * places + (r - first) * columns
                    inside = 0 <= y < height
                    source = (y * width + shift) * c + k
                    one, other = (low, high) if inside else (0, 0)
                    for q in range(one):
                        to[start + q] = real(p, 0)
                    if sw == 1 and c == 1:
                        for q in range(one, other):
                            to[start + q] = image[source + q]
                    else:
                        for q in range(one, other):
                            to[start + q] = image[source + q * sw * c]
                    for q in range(other, columns):
                        to[start + q] = real(p, 0)


def convolve(p: Any) -> None:
    """Words: out, x, W, bias or 0, scratch, samples, channels in, channels out, whether max(x, 0) follows, rows of
    places at a time, whether rows are gathered, gemm, bits of its sizes, bytes of a number, window."""
    a = words(p)
    samples, c, n_out, step, item = word(a, 5), word(a, 6), word(a, 7), word(a, 9), word(a, 13)
    height, width, rows, columns = word(a, 14), word(a, 15), word(a, 16), word(a, 17)
    depth = word(a, 18) * word(a, 19) * c
    scratch = vector(p, word(a, 4), step * columns * depth)
    in_rows, rectified, shifted = word(a, 10) != 0, word(a, 8) != 0, word(a, 3) != 0
    b = vector(p, word(a, 3) if shifted else word(a, 2), n_out)
    zero = real(p, 0)
    for s in range(samples):
        image = vector(p, word(a, 1) + item * s * height * width * c, height * width * c)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            places = (last - first) * columns
            if in_rows:
                _gather_rows(p, a, 14, image, scratch, first, last, c)
            else:
                _gather_columns(p, a, 14, image, scratch, first, last, c)
            to = word(a, 0) + item * (s * rows + first) * columns * n_out
            matrix_product(
                p, word(a, 11), word(a, 12), AS_IT_IS if in_rows else TRANSPOSED, AS_IT_IS, places, n_out, depth,
                real(p, 1), word(a, 4), depth if in_rows else places, word(a, 2), n_out, zero, to, n_out,
            )  # fmt: skip
            out = matrix(p, to, places, n_out)
            if shifted and rectified:
                for i in range(places):
                    for k in range(n_out):
                        value = out[i, k] + b[k]
                        out[i, k] = zero if value <= 0 else value
            elif shifted:
                for i in range(places):
                    for k in range(n_out):
                        out[i, k] += b[k]


def convolve_weights(p: Any) -> None:
    """dW, of these samples. Words: dW, dy, x, scratch, samples, channels in, channels out, rows of places at a time,
    whether rows are gathered, gemm, bits of its sizes, bytes of a number, window."""
    a = words(p)
    samples, c, n_out, step, item = word(a, 4), word(a, 5), word(a, 6), word(a, 7), word(a, 11)
    height, width, rows, columns = word(a, 12), word(a, 13), word(a, 14), word(a, 15)
    depth = word(a, 16) * word(a, 17) * c
    scratch = vector(p, word(a, 3), step * columns * depth)
    in_rows = word(a, 8) != 0
    beta = real(p, 0)
    for s in range(samples):
        image = vector(p, word(a, 2) + item * s * height * width * c, height * width * c)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            places = (last - first) * columns
            if in_rows:
                _gather_rows(p, a, 12, image, scratch, first, last, c)
            else:
                _gather_columns(p, a, 12, image, scratch, first, last, c)
            matrix_product(
                p, word(a, 9), word(a, 10), TRANSPOSED if in_rows else AS_IT_IS, AS_IT_IS, depth, n_out, places,
                real(p, 1), word(a, 3), depth if in_rows else places,
                word(a, 1) + item * (s * rows + first) * columns * n_out, n_out, beta, word(a, 0), n_out,
            )  # fmt: skip
            beta = real(p, 1)


def turned_weight(p: Any) -> None:
    """(KH, KW, C, O) turned around as (KH, KW, O, C). Words: out, W, KH KW, C, O."""
    a = words(p)
    elements, c, n_out = word(a, 2), word(a, 3), word(a, 4)
    out, W = matrix(p, word(a, 0), elements * n_out, c), matrix(p, word(a, 1), elements * c, n_out)
    for e in range(elements):
        for k in range(n_out):
            for j in range(c):
                out[e * n_out + k, j] = W[(elements - 1 - e) * c + j, k]
