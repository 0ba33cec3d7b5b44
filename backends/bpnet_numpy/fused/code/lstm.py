"""The LSTM over a whole sequence, for some of its samples: what a step needs stays in the cache.

Before it stands x W of all positions, behind it the products of all positions' gradients. Sequences are (N, T, ...),
and so are their products with W: a step's rows are T apart, often a multiple of what the cache tells apart. So states
and gradients that are multiplied lie beside each other in a scratch. What is kept is (T, 4, N, H) and (T, N, H).
"""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.functions import logistic, tangent
from bpnet_numpy.fused.code.intrinsics import FLAGS, word, words
from bpnet_numpy.fused.code.recurrent import begin, clear, length_of, step_product
from bpnet_numpy.fused.code.simd import load, numbers, spread, store


@njit(**FLAGS)
def _advance(
    p: Any, z: Any, product: Any, b: Any, gates: Any, gap: Any, c: Any, carried: Any, y: Any, h: Any, width: Any,
    item: Any, there: Any,
) -> None:  # fmt: skip
    """One step of one sample; z is not read, and what follows is 0, where the sample has ended."""
    row = item * width
    for j in range(0, width, numbers(p)):
        left, at = width - j, item * j
        i = load(p, product + at, left) + load(p, b + at, left)
        f = load(p, product + row + at, left) + load(p, b + row + at, left)
        g = load(p, product + 2 * row + at, left) + load(p, b + 2 * row + at, left)
        o = load(p, product + 3 * row + at, left) + load(p, b + 3 * row + at, left)
        if there:
            i = i + load(p, z + at, left)
            f = f + load(p, z + row + at, left)
            g = g + load(p, z + 2 * row + at, left)
            o = o + load(p, z + 3 * row + at, left)
        i, f, g, o = logistic(i), logistic(f), tangent(g), logistic(o)
        store(i, gates + at, left)
        store(f, gates + gap + at, left)
        store(o, gates + 2 * gap + at, left)
        store(g, gates + 3 * gap + at, left)
        cell = spread(p, 0)
        state = spread(p, 0)
        if there:
            cell = f * load(p, carried + at, left) + i * g
            state = o * tangent(cell)
        store(cell, c + at, left)
        store(cell, carried + at, left)
        store(state, y + at, left)
        store(state, h + at, left)


def lstm(p: Any) -> None:
    """Words: y, gates, cells, x W, U, b, tables, scratch, h and c to go on from or 0, lengths or 0, bytes of a length,
    these samples, all samples, T, H, whether from the last position to the first, gemm, bits of its sizes, bytes of a
    number. scratch : states, cells, and the states' products"""
    a = words(p)
    samples, n, steps, width, item = word(a, 12), word(a, 13), word(a, 14), word(a, 15), word(a, 19)
    row = item * width
    states = word(a, 7)
    cells = states + samples * row
    products = cells + samples * row
    begin(p, states, word(a, 8), samples * width)
    begin(p, cells, word(a, 9), samples * width)
    clear(p, products, samples * 4 * width)
    for step in range(steps):
        t = steps - 1 - step if word(a, 16) != 0 else step
        if step > 0 or word(a, 8) != 0:
            step_product(
                p, word(a, 17), word(a, 18), word(a, 6), samples, 4 * width, width, states, word(a, 4), products, item
            )
        for s in range(samples):
            place = (s * steps + t) * row
            _advance(
                p, word(a, 3) + 4 * place, products + 4 * s * row, word(a, 5), word(a, 1) + (4 * t * n + s) * row,
                n * row, word(a, 2) + (t * n + s) * row, cells + s * row, word(a, 0) + place, states + s * row, width,
                item, t < length_of(word(a, 10), word(a, 11), s, steps),
            )  # fmt: skip


@njit(**FLAGS)
def _go_back(
    p: Any, dz: Any, out: Any, dy: Any, dh: Any, dc: Any, gates: Any, gap: Any, c: Any, earlier: Any, width: Any,
    item: Any,
) -> None:  # fmt: skip
    """One step of one sample. earlier : the cells before, or 0 where they were 0"""
    row = item * width
    for j in range(0, width, numbers(p)):
        left, at = width - j, item * j
        i, f = load(p, gates + at, left), load(p, gates + gap + at, left)
        o, g = load(p, gates + 2 * gap + at, left), load(p, gates + 3 * gap + at, left)
        s = tangent(load(p, c + at, left))
        d = load(p, dh + at, left) + load(p, dy + at, left)
        e = load(p, dc + at, left) + d * o * (1 - s * s)
        before = load(p, earlier + at, left) if earlier != 0 else spread(p, 0)
        di = e * g * (i * (1 - i))
        df = e * before * (f * (1 - f))
        dg = e * i * (1 - g * g)
        do = d * s * (o * (1 - o))
        for place in (dz, out):
            store(di, place + at, left)
            store(df, place + row + at, left)
            store(dg, place + 2 * row + at, left)
            store(do, place + 3 * row + at, left)
        store(e * f, dc + at, left)


def lstm_backward(p: Any) -> None:
    """Words: dz, states before or 0, dy, y, gates, cells, U^T, tables, scratch, lengths or 0, bytes of a length, these
    samples, all samples, T, H, whether the sequence is made from its last position, gemm, bits of its sizes, bytes of a
    number. scratch : dh, dc, and dz of a step"""
    a = words(p)
    samples, n, steps, width, item = word(a, 11), word(a, 12), word(a, 13), word(a, 14), word(a, 18)
    row = item * width
    dhs = word(a, 8)
    dcs = dhs + samples * row
    dzs = dcs + samples * row
    clear(p, dhs, 2 * samples * width)
    for step in range(steps):
        last = step == steps - 1
        t = step if word(a, 15) != 0 else steps - 1 - step
        before = t + 1 if word(a, 15) != 0 else t - 1
        for s in range(samples):
            place = (s * steps + t) * row
            there = t < length_of(word(a, 9), word(a, 10), s, steps)
            if there:
                _go_back(
                    p, dzs + 4 * s * row, word(a, 0) + 4 * place, word(a, 2) + place, dhs + s * row, dcs + s * row,
                    word(a, 4) + (4 * t * n + s) * row, n * row, word(a, 5) + (t * n + s) * row,
                    0 if last else word(a, 5) + (before * n + s) * row, width, item,
                )  # fmt: skip
            else:
                clear(p, dzs + 4 * s * row, 4 * width)
                clear(p, word(a, 0) + 4 * place, 4 * width)
                clear(p, dcs + s * row, width)
            if word(a, 1) != 0:
                begin(p, word(a, 1) + place, 0 if last or not there else word(a, 3) + (s * steps + before) * row, width)
        if not last:
            step_product(p, word(a, 16), word(a, 17), word(a, 7), samples, width, 4 * width, dzs, word(a, 6), dhs, item)
