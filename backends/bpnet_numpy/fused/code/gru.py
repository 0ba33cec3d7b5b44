"""The GRU over a whole sequence, for some of its samples, as in `lstm`. What is kept is (T, N, 4 H): r, z, n, m."""

from __future__ import annotations

from typing import Any

from numba import njit

from bpnet_numpy.fused.code.functions import logistic, tangent
from bpnet_numpy.fused.code.intrinsics import FLAGS, word, words
from bpnet_numpy.fused.code.recurrent import begin, clear, length_of, step_product
from bpnet_numpy.fused.code.simd import load, numbers, spread, store


@njit(**FLAGS)
def _advance(
    p: Any, a: Any, product: Any, b: Any, b_n: Any, gates: Any, y: Any, h: Any, width: Any, item: Any, there: Any
) -> None:
    """One step of one sample. a : its row of x W, which is not read where it has ended, and h becomes 0"""
    row = item * width
    for j in range(0, width, numbers(p)):
        left, at = width - j, item * j
        r = load(p, product + at, left) + load(p, b + at, left)
        z = load(p, product + row + at, left) + load(p, b + row + at, left)
        m = load(p, product + 2 * row + at, left) + load(p, b_n + at, left)
        new = load(p, b + 2 * row + at, left)
        if there:
            r = r + load(p, a + at, left)
            z = z + load(p, a + row + at, left)
            new = new + load(p, a + 2 * row + at, left)
        r, z = logistic(r), logistic(z)
        new = tangent(new + r * m)
        state = spread(p, 0)
        if there:
            state = new + z * (load(p, h + at, left) - new)
        store(r, gates + at, left)
        store(z, gates + row + at, left)
        store(new, gates + 2 * row + at, left)
        store(m, gates + 3 * row + at, left)
        store(state, y + at, left)
        store(state, h + at, left)


def gru(p: Any) -> None:
    """Words: y, gates, x W, U, b, b_n, tables, scratch, h to go on from or 0, lengths or 0, bytes of a length, these
    samples, all samples, T, H, whether from the last position to the first, gemm, bits of its sizes, bytes of a number.
    scratch : states and their products"""
    a = words(p)
    samples, n, steps, width, item = word(a, 11), word(a, 12), word(a, 13), word(a, 14), word(a, 18)
    row = item * width
    states = word(a, 7)
    products = states + samples * row
    begin(p, states, word(a, 8), samples * width)
    clear(p, products, samples * 3 * width)
    for step in range(steps):
        t = steps - 1 - step if word(a, 15) != 0 else step
        if step > 0 or word(a, 8) != 0:
            step_product(
                p, word(a, 16), word(a, 17), word(a, 6), samples, 3 * width, width, states, word(a, 3), products, item
            )
        for s in range(samples):
            place = (s * steps + t) * row
            _advance(
                p, word(a, 2) + 3 * place, products + 3 * s * row, word(a, 4), word(a, 5),
                word(a, 1) + 4 * (t * n + s) * row, word(a, 0) + place, states + s * row, width, item,
                t < length_of(word(a, 9), word(a, 10), s, steps),
            )  # fmt: skip


@njit(**FLAGS)
def _go_back(
    p: Any, outer: Any, inner: Any, step: Any, dy: Any, dh: Any, product: Any, gates: Any, earlier: Any, width: Any,
    item: Any,
) -> None:  # fmt: skip
    """One step of one sample. step : where the row of `inner` lies that is multiplied; dh : of what came by z;
    earlier : the state before, or 0 where it was 0"""
    row = item * width
    for j in range(0, width, numbers(p)):
        left, at = width - j, item * j
        r, z = load(p, gates + at, left), load(p, gates + row + at, left)
        new, m = load(p, gates + 2 * row + at, left), load(p, gates + 3 * row + at, left)
        d = load(p, dh + at, left) + load(p, product + at, left) + load(p, dy + at, left)
        before = load(p, earlier + at, left) if earlier != 0 else spread(p, 0)
        dn = d * (1 - z) * (1 - new * new)
        dz = d * (before - new) * (z * (1 - z))
        dr = dn * m * (r * (1 - r))
        for place in (outer, inner, step):
            store(dr, place + at, left)
            store(dz, place + row + at, left)
        store(dn, outer + 2 * row + at, left)
        store(dn * r, inner + 2 * row + at, left)
        store(dn * r, step + 2 * row + at, left)
        store(d * z, dh + at, left)


def gru_backward(p: Any) -> None:
    """Words: gradients of x W, of h U, states before or 0, dy, y, gates, U^T, tables, scratch, lengths or 0, bytes of a
    length, these samples, all samples, T, H, whether the sequence is made from its last position, gemm, bits of its
    sizes, bytes of a number. scratch : dh, its product, and what is multiplied at a step"""
    a = words(p)
    samples, n, steps, width, item = word(a, 11), word(a, 12), word(a, 13), word(a, 14), word(a, 18)
    row = item * width
    dhs = word(a, 8)
    products = dhs + samples * row
    own = products + samples * row
    clear(p, dhs, 2 * samples * width)
    for step in range(steps):
        last = step == steps - 1
        t = step if word(a, 15) != 0 else steps - 1 - step
        before = t + 1 if word(a, 15) != 0 else t - 1
        for s in range(samples):
            place = (s * steps + t) * row
            there = t < length_of(word(a, 9), word(a, 10), s, steps)
            earlier = 0 if last else word(a, 4) + (s * steps + before) * row
            if there:
                _go_back(
                    p, word(a, 0) + 3 * place, word(a, 1) + 3 * place, own + 3 * s * row, word(a, 3) + place,
                    dhs + s * row, products + s * row, word(a, 5) + 4 * (t * n + s) * row, earlier, width, item,
                )  # fmt: skip
            else:
                clear(p, word(a, 0) + 3 * place, 3 * width)
                clear(p, word(a, 1) + 3 * place, 3 * width)
                clear(p, own + 3 * s * row, 3 * width)
                clear(p, dhs + s * row, width)
            if word(a, 2) != 0:
                begin(p, word(a, 2) + place, earlier if there else 0, width)
        if not last:
            step_product(
                p, word(a, 16), word(a, 17), word(a, 7), samples, width, 3 * width, own, word(a, 6), products, item
            )
